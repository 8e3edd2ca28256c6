"""Two learned judges of photographs: how different two pictures look, pixel by pixel, and what is where in a picture.

LPIPS (Zhang et al. 2018) on VGG16 is the distance of the paper's own evaluation: Σ(d·w)/Σw over its map, with w = 0
where the change was asked for, says how much else changed.

CLIPSeg (Lüddecke and Ecker 2022) finds what words name, such as "dome" and "spire". Networks trained on ADE20K's 150
classes know neither; the paper's own segmenter has domes, but an architecture and weights kept apart from the Hub.
CLIPSeg sees 352 px, in cells of 16: it tells objects, not outlines.

Both come from the Hub once, at pinned revisions, as data only; LPIPS needs nothing but torch, CLIPSeg the extra `eval`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from rewriter.checkpoints.catalogue import PinnedFile
from rewriter.checkpoints.device import place
from rewriter.checkpoints.download import fetch
from rewriter.errors import InputError, OnStep

if TYPE_CHECKING:
    from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

NONE = -1  # the label of a pixel that none of the words fits
BATCH = 4  # pictures at a time
SIDE = 352  # what CLIPSeg was trained to see
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours in 0 … 1, as CLIPSeg wants them
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # the same in -1 … 1, as LPIPS rounds them
WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # of VGG16's convolutions
LEAST = 1 << (len(WIDTHS) - 1)  # pixels a side that VGG16's halvings leave something of

CLIPSEG = ("CIDAS/clipseg-rd64-refined", "999e0328d9e10b484360c477313983f9afdd7050")  # Apache-2.0
VGG16 = ("timm/vgg16.tv_in1k", "b8d8aa2dd860af9233c8c67385a8097fd6c35d3f")  # torchvision's, of ImageNet; BSD-3-Clause
LINEAR = ("vivym/lpips", "270571f1fb2a2c4c5f920cec96cd87838c345982")  # to the bit lpips 0.1.4's vgg.pth; BSD-2-Clause


def _at(where: tuple[str, str], file: str, sha256: str) -> PinnedFile:
    repository, revision = where
    name = f"{repository.split('/')[1]}/{file}"
    return PinnedFile(id=name, repository=repository, file=file, revision=revision, size=None, sha256=sha256)


FILES: Mapping[str, PinnedFile] = {
    "trunk": _at(VGG16, "model.safetensors", "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8"),
    "heads": _at(
        LINEAR, "vgg_lpips_linear.safetensors", "0c6387bf2e51e434dedbc0ca4c5894f605c415b8d128bfe720e13456eb4333ac"
    ),
    "config": _at(CLIPSEG, "config.json", "c023375966d31b3b1392764f7bd91df47098ce19f62f11b0263d8eedcf708bcd"),
    "vocabulary": _at(CLIPSEG, "vocab.json", "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349"),
    "merges": _at(CLIPSEG, "merges.txt", "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a"),
    "model": _at(CLIPSEG, "model.safetensors", "d00ca85d6b859f9d07b7cfb8ef26fe9771cb275b34c9368f2ecf603139307f55"),
}


class Perceptual(Protocol):
    """How different two pictures look."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Pictures (n, 3, H, W) in [-1, 1], twice → distance (n, H, W): 0 where they look alike."""
        ...


class Segmenter(Protocol):
    """What is where in a picture."""

    def __call__(self, pictures: Tensor, words: Sequence[str]) -> Tensor:
        """Pictures (n, 3, H, W) in [-1, 1] → labels (n, H, W): an index into `words`; NONE where none fits."""
        ...


def lpips(device: torch.device | str | None = None, on_step: OnStep | None = None) -> Perceptual:
    """The learned distance, from 550 MB that are downloaded once.

    Args:
        device: where to judge; None: what accelerate finds.
        on_step: told of each file how many bytes are there, and of how many; what it raises stops the download.

    Raises:
        InputError: a download that failed, a file that is not the one that was meant, or no such device.
    """
    distance = LPIPS()
    for name, part, prefix in (("trunk", distance.features, "features."), ("heads", distance.heads, "")):
        with safe_open(_fetch(name, on_step), framework="pt") as file:  # of the trunk's, a classifier's, a tenth
            part.load_state_dict({key: file.get_tensor(prefix + key) for key in part.state_dict()})
    return place(distance.requires_grad_(False).eval(), device)


def segmenter(
    device: torch.device | str | None = None, on_step: OnStep | None = None, *, threshold: float = 0.5
) -> Segmenter:
    """The network that finds what words name, from 600 MB that are downloaded once.

    Args:
        device: where to judge; None: what accelerate finds.
        on_step: told of each file how many bytes are there, and of how many; what it raises stops the download.
        threshold: the probability below which a word is not taken to fit; it is not calibrated.

    Raises:
        InputError: the extra is missing, a download that failed, a file that is not the one that was meant, or no such
            device.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold is {threshold:g}, expected a probability from 0 to 1, such as 0.5")
    try:
        from transformers import CLIPSegForImageSegmentation, CLIPTokenizer
    except ImportError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"the segmenter needs transformers, which cannot be imported ({reason}): pip install 'rewriter[eval]'"
        ) from error
    (folder,) = {_fetch(name, on_step).parent for name in ("config", "vocabulary", "merges", "model")}  # one revision
    with _quietly():
        model, found = CLIPSegForImageSegmentation.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    if lacking := sorted(found["missing_keys"]):
        raise InputError(
            f"this version of transformers looks for {lacking[0]} in CLIPSeg: pip install 'rewriter[eval]'"
        )
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return CLIPSeg(place(model.requires_grad_(False).eval(), device), tokenizer, threshold)


class LPIPS(nn.Module):
    """The distance itself; its features are numbered as torchvision's are, its heads by stage."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for stage in WIDTHS:
            for width in stage:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])
        self.heads = nn.ModuleList(nn.Conv2d(stage[-1], 1, 1, bias=False) for stage in WIDTHS)
        for name, values in (("shift", SHIFT), ("scale", SCALE)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Pictures (n, 3, H, W) in [-1, 1], twice → distance (n, H, W), where `a` is; what overshoots is cut off.

        Raises:
            InputError: they are no pictures, too small, or not of one shape.
        """
        if a.shape != b.shape:
            raise InputError(f"pictures of one shape are compared, not {tuple(a.shape)} and {tuple(b.shape)}")
        batches = zip(_pictures(a, LEAST), _pictures(b, LEAST), strict=True)
        return torch.cat([self._compare(one, other) for one, other in batches]).to(a.device)

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        stages = zip(self._stages(a), self._stages(b), self.heads, strict=True)
        maps = [head((one - other).square()) for one, other, head in stages]  # (n, 1, h, w) each
        resized = [F.interpolate(each, a.shape[-2:], mode="bilinear", align_corners=False) for each in maps]
        return torch.cat(resized, 1).sum(1)

    def _stages(self, pictures: Tensor) -> Iterator[Tensor]:
        """Each stage's last features (n, c, h, w), of length 1 at each pixel."""
        features = (pictures.to(self.shift) - self.shift) / self.scale
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                yield _unit(features)
            features = layer(features)
        yield _unit(features)


class CLIPSeg:
    """A segmenter by words: each pixel's word is the one that fits best, where that fits at all."""

    def __init__(self, model: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer, threshold: float) -> None:
        self.model, self.tokenizer, self.threshold = model, tokenizer, threshold

    @torch.no_grad()
    def __call__(self, pictures: Tensor, words: Sequence[str]) -> Tensor:
        """Pictures (n, 3, H, W) in [-1, 1] → labels (n, H, W), where the pictures are: an index into `words`, or NONE.

        Raises:
            InputError: they are no pictures, or there are no words.
        """
        if isinstance(words, str) or not words or not all(isinstance(word, str) and word.strip() for word in words):
            raise InputError(f"words are {words!r}, expected a list such as ['dome', 'spire', 'tree']")
        model = self.model
        longest = model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(words), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        meanings = model.get_conditional_embeddings(len(words), **tokens.to(model.device))  # (words, c)
        labels = []
        for batch in _pictures(pictures, 1):
            fits = F.interpolate(self._logits(batch, meanings), batch.shape[-2:], mode="bilinear")
            best, label = fits.max(1)
            labels.append(label.masked_fill(best.sigmoid() < self.threshold, NONE))
        return torch.cat(labels).to(pictures.device)

    def _logits(self, pictures: Tensor, meanings: Tensor) -> Tensor:
        """How well each word fits (n, words, SIDE, SIDE); the pictures are looked at once for all words."""
        mean, deviation = (pictures.new_tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
        seen = F.interpolate((pictures + 1) / 2, (SIDE, SIDE), mode="bilinear", antialias=True)
        pixels = ((seen - mean) / deviation).to(meanings)
        states = self.model.clip.vision_model(pixels, output_hidden_states=True).hidden_states
        kept = tuple(states[layer + 1] for layer in self.model.extract_layers)  # the first is the input
        each = [self.model.decoder(kept, meaning.expand(len(pixels), -1)).logits for meaning in meanings]
        return torch.stack(each, 1)


def _fetch(name: str, on_step: OnStep | None) -> Path:
    return fetch(FILES[name], on_step=on_step or (lambda done, of: None))


def _unit(features: Tensor) -> Tensor:
    return features / (features.norm(dim=1, keepdim=True) + 1e-10)


def _pictures(pictures: Tensor, least: int) -> tuple[Tensor, ...]:
    """What are pictures, in batches."""
    shape = tuple(pictures.shape)
    if len(shape) != 4 or shape[0] < 1 or shape[1] != 3 or min(shape[2:]) < least or not pictures.is_floating_point():
        raise InputError(
            f"pictures are {shape} of {pictures.dtype}, expected (n, 3, H, W) in [-1, 1] of {least} px or more"
        )
    return pictures.float().clamp(-1, 1).split(BATCH)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
