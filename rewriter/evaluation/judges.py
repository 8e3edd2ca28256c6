"""Two learned judges of photographs: LPIPS says how different two pictures look, CLIPSeg what is where in a picture.

LPIPS (Zhang et al. 2018) on VGG16 is the distance of the paper's own evaluation. CLIPSeg (Lüddecke and Ecker 2022)
finds what words name, such as "dome" and "spire", which networks trained on ADE20K's 150 classes do not know. It sees
352 px in cells of 16, so it finds objects but not their outlines. Both are downloaded from the Hub once, at pinned
revisions and hashes, as data only. CLIPSeg needs the extra `eval`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from rewriter.checkpoints.catalogue import PinnedFile
from rewriter.checkpoints.device import place
from rewriter.checkpoints.download import fetch
from rewriter.errors import InputError, OnStep

NONE = -1  # the label of a pixel that no word fits
THRESHOLD = 0.5  # probability from which a word fits; CLIPSeg's probabilities are not calibrated
BATCH = 4
SIDE = 352  # px that CLIPSeg was trained on
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours in [0, 1], for CLIPSeg
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # the same in [-1, 1], as LPIPS rounds them
WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # VGG16's convolutions by stage

CLIPSEG = ("CIDAS/clipseg-rd64-refined", "999e0328d9e10b484360c477313983f9afdd7050")  # Apache-2.0
VGG16 = ("timm/vgg16.tv_in1k", "b8d8aa2dd860af9233c8c67385a8097fd6c35d3f")  # torchvision's, for ImageNet; BSD-3-Clause
LINEAR = ("vivym/lpips", "270571f1fb2a2c4c5f920cec96cd87838c345982")  # equals vgg.pth of lpips 0.1.4; BSD-2-Clause


def _at(repository: str, revision: str, file: str, sha256: str) -> PinnedFile:
    name = f"{repository.split('/')[1]}/{file}"
    return PinnedFile(id=name, repository=repository, file=file, revision=revision, sha256=sha256)


FILES: Mapping[str, PinnedFile] = {
    "trunk": _at(*VGG16, "model.safetensors", "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8"),
    "heads": _at(
        *LINEAR, "vgg_lpips_linear.safetensors", "0c6387bf2e51e434dedbc0ca4c5894f605c415b8d128bfe720e13456eb4333ac"
    ),
    "config": _at(*CLIPSEG, "config.json", "c023375966d31b3b1392764f7bd91df47098ce19f62f11b0263d8eedcf708bcd"),
    "vocabulary": _at(*CLIPSEG, "vocab.json", "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349"),
    "merges": _at(*CLIPSEG, "merges.txt", "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a"),
    "model": _at(*CLIPSEG, "model.safetensors", "d00ca85d6b859f9d07b7cfb8ef26fe9771cb275b34c9368f2ecf603139307f55"),
}


class LPIPS(nn.Module):
    """How different pictures look. Features are numbered as in torchvision, heads by stage."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers, inputs = list[nn.Module](), 3
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
        """The distance of pictures (n, 3, H, W) in [-1, 1] at each pixel, (n, H, W); sides are at least 16 px."""
        batches = zip(a.clamp(-1, 1).split(BATCH), b.clamp(-1, 1).split(BATCH), strict=True)
        return torch.cat([self._distance(*pair) for pair in batches]).to(a.device)

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        stages = zip(self._stages(a), self._stages(b), self.heads, strict=True)
        maps = [head((one - other).square()) for one, other, head in stages]  # (n, 1, h, w) each
        return torch.cat([F.interpolate(each, a.shape[-2:], mode="bilinear") for each in maps], 1).sum(1)

    def _stages(self, pictures: Tensor) -> Iterator[Tensor]:
        """The last features of each stage, (n, c, h, w), with unit length at each pixel."""
        features = (pictures.to(self.shift) - self.shift) / self.scale
        layers = list(self.features)
        for layer, following in zip(layers, [*layers[1:], nn.MaxPool2d(2)], strict=True):
            features = layer(features)
            if isinstance(following, nn.MaxPool2d):
                yield features / (features.norm(dim=1, keepdim=True) + 1e-10)


def lpips(device: torch.device | str | None = None, on_step: OnStep = lambda done, of: None) -> LPIPS:
    """LPIPS with its weights: 550 MB, downloaded once; `on_step` is called with (bytes done, of) of each file."""
    distance = LPIPS()
    for name, part, prefix in (("trunk", distance.features, "features."), ("heads", distance.heads, "")):
        with safe_open(fetch(FILES[name], on_step=on_step), framework="pt") as file:
            part.load_state_dict({key: file.get_tensor(prefix + key) for key in part.state_dict()})  # no classifier
    return place(distance.requires_grad_(False).eval(), device)


class CLIPSeg:
    """What is where: each pixel's label is the word that fits best, if its probability reaches `threshold`."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer, self.threshold = model, tokenizer, THRESHOLD

    @torch.no_grad()
    def __call__(self, pictures: Tensor, words: Sequence[str]) -> Tensor:
        """Pictures (n, 3, H, W) in [-1, 1] → labels (n, H, W): an index into `words`, or NONE."""
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(words), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        meanings = self.model.get_conditional_embeddings(len(words), **tokens.to(self.model.device))  # (words, c)
        labels = []
        for batch in pictures.clamp(-1, 1).split(BATCH):
            fits = F.interpolate(self._logits(batch, meanings), batch.shape[-2:], mode="bilinear")
            best, label = fits.max(1)
            labels.append(label.masked_fill(best.sigmoid() < self.threshold, NONE))
        return torch.cat(labels).to(pictures.device)

    def _logits(self, pictures: Tensor, meanings: Tensor) -> Tensor:
        """How well each word fits, (n, words, SIDE, SIDE). The vision network runs once for all words."""
        mean, deviation = (pictures.new_tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
        resized = F.interpolate((pictures + 1) / 2, (SIDE, SIDE), mode="bilinear", antialias=True)
        pixels = ((resized - mean) / deviation).to(meanings)
        states = self.model.clip.vision_model(pixels, output_hidden_states=True).hidden_states
        kept = tuple(states[layer + 1] for layer in self.model.extract_layers)  # the first is the input
        each = [self.model.decoder(kept, meaning.expand(len(pixels), -1)).logits for meaning in meanings]
        return torch.stack(each, 1)


def clipseg(device: torch.device | str | None = None, on_step: OnStep = lambda done, of: None) -> CLIPSeg:
    """CLIPSeg with its weights: 600 MB, downloaded once; InputError if the extra `eval` is missing."""
    try:
        from transformers import CLIPSegForImageSegmentation, CLIPTokenizer
        from transformers.utils import logging
    except ImportError as error:
        reason = f"CLIPSeg needs transformers, which cannot be imported ({str(error).strip().splitlines()[0]})"
        raise InputError(f"{reason}: pip install 'rewriter[eval]'") from error
    names = ("config", "vocabulary", "merges", "model")
    (folder,) = {fetch(FILES[name], on_step=on_step).parent for name in names}  # one revision
    with ExitStack() as stack:
        if logging.is_progress_bar_enabled():
            logging.disable_progress_bar()
            stack.callback(logging.enable_progress_bar)
        model, found = CLIPSegForImageSegmentation.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    if missing := sorted(found["missing_keys"]):
        raise InputError(f"this transformers looks for {missing[0]} in CLIPSeg: pip install 'rewriter[eval]'")
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return CLIPSeg(place(model.requires_grad_(False).eval(), device), tokenizer)
