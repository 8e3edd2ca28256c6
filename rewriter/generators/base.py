"""What can be rewritten: a generator as a chain of layers, each one an associative memory.

    start(z) ──► Features (keys entering the first layer)
    recall(features) ──► values          what the layer answers to its keys
    step(features, values) ──► Features of the next layer … ──► picture

Everything else (keys of any layer, the picture from any layer on, the whole) is a walk along this chain, so the two
halves compose to the whole exactly and re-rendering from cached keys never touches the layers before.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from threading import Lock
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeGuard

import torch
from torch import Tensor, nn

from rewriter.checks import Check
from rewriter.errors import AbsentPhotoError, InputError
from rewriter.generators.change import LowRank
from rewriter.generators.inverted import Inverted
from rewriter.generators.latents import PHOTO, Seed, latents
from rewriter.generators.layer import Features, LayerInfo, Memory, join
from rewriter.generators.origin import Origin
from rewriter.generators.shapes import Shapes

Changes = Sequence[LowRank] | Sequence[Sequence[LowRank]]
CACHED = 1 << 21  # numbers of a map; with more at a time, a CPU takes up to two and a half times as long for a picture
MANY = 1 << 30


class Generator(nn.Module, ABC):
    """A pretrained image generator. Its weights never change: rules are applied while drawing, or to a copy.

    Pictures are (n, 3, H, W), in [-1, 1] but for overshoot; layers carry the names of the original implementation.
    """

    architecture: ClassVar[str]  # the class's name in files and in the catalogue
    kind: str = "generator"  # its architecture, as people call it
    unseen: ClassVar[str] = "all but its layers"  # what tensors do not show and is taken for granted
    limits: ClassVar[str] = ""  # what cannot be done with it
    pattern: ClassVar[str]  # matches a name in this architecture's state dict, and in no other's
    SETTINGS: ClassVar[Mapping[str, Check]] = MappingProxyType({})  # what a state dict cannot hold → what it may be
    name = "generator"
    leak: ClassVar[float] = 1.0  # what is left of a layer's negative values where they are rectified: 1 all, 0 nothing
    zdim: int
    resolution: int
    layers: Mapping[str, LayerInfo]
    rules: tuple[LowRank, ...] = ()
    photos: Mapping[str, Inverted] = MappingProxyType({})  # by name; given in place of seeds, see `with_photos`
    advice: Mapping[str, str] = MappingProxyType({})  # good first layers for "structure", "objects" and "texture"
    origin: Origin = Origin()
    described: bool = False  # whether its file says how its layers are drawn, as NVIDIA's pickles do

    @classmethod
    @abstractmethod
    def from_shapes(cls, shapes: Shapes, **settings: Any) -> Generator:
        """An untrained generator of the sizes that a state dict has; InputError if they belong to no generator."""

    @staticmethod
    def sizes(names: Iterable[str]) -> tuple[int, ...]:
        """What a state dict's names say about its depth: the arguments of the tables in `checkpoints.layouts`."""
        return ()

    def settings(self) -> dict[str, Any]:
        """Those of SETTINGS that are set."""
        return {}

    def derive(self, name: str, state: Mapping[str, Tensor]) -> Tensor:
        """A tensor that a file lacks and that follows from the others, or is fixed noise."""
        raise NotImplementedError

    def embed(self, z: Tensor, truncation: float) -> Tensor:
        """Latents (n, zdim) → what `enter` takes, where truncation acts: those times ψ, or the w of a StyleGAN2."""
        return z * truncation

    def spread(self, latents: Tensor) -> Tensor:
        """What `embed` makes, (n, d), as (n, layers, d), where `enter` takes one for each layer; else as it is."""
        return latents

    @abstractmethod
    def enter(self, latents: Tensor) -> Features:
        """What `embed` made of latents → the features entering the first layer. Photos are found here."""

    def start(self, z: Tensor, truncation: float) -> Features:
        """Latents (n, zdim) → the features entering the first layer."""
        return self.enter(self.embed(z, truncation))

    @abstractmethod
    def step(self, features: Features, values: Tensor) -> Features | Tensor:
        """A layer's values → the features entering the next layer, or the picture after the last."""

    @abstractmethod
    def memory(self, layer: str) -> Memory:
        """The convolution of that name."""

    def activation(self, layer: str) -> tuple[Tensor, Tensor]:
        """How what follows reads a layer's values v: units show gain · v + shift, (out,) each, then rectified."""
        out = self.layer(layer).out_channels
        return torch.ones(out, device=self.device), torch.zeros(out, device=self.device)

    def level(self, layer: str, units: Sequence[int], shown: float) -> Tensor:
        """The values (k,) of these units of a layer that what follows reads as `shown`; inverts `activation`.

        Where nothing below zero is shown, a negative number counts as zero. A unit that is never read has level zero.
        """
        self.layer(layer).check_units(units)
        gain, shift = (part[list(units)] for part in self.activation(layer))
        x = shown if shown > 0 else shown / self.leak if self.leak else 0.0
        return torch.where(gain == 0, 0.0, (x - shift) / torch.where(gain == 0, torch.ones_like(gain), gain))

    def hold(self, layer: str, units: Tensor, levels: Tensor, base: Generator) -> None:
        """Write levels (k,) of a layer's values into its weights, so that these units always have them.

        `base` is this generator before any such change: the same units may be held twice.
        """
        raise NotImplementedError

    def layer(self, name: str) -> LayerInfo:
        """Look a layer up by name, or raise an InputError that lists them."""
        if name not in self.layers:
            raise InputError(f"{self.name} has no layer {name!r}; it has {', '.join(self.layers)}")
        return self.layers[name]

    def check(self, change: LowRank) -> None:
        """Raise InputError unless a change was made on this very generator and fits the layer that it names."""
        if change.fingerprint and change.fingerprint != self.fingerprint:
            raise InputError(
                f"the rule belongs to a generator with fingerprint {change.fingerprint[:12]}, {self.name} has "
                f"{self.fingerprint[:12]}: load the generator that the rule was made on"
            )
        info, delta, directions = self.layer(change.layer), change.delta, change.directions
        fits = delta.ndim == 4 and delta.shape[0] == info.out_channels and delta.shape[2:] == (info.kernel, info.kernel)
        fits = fits and delta.shape[1] <= info.in_channels  # more directions than that say nothing new
        if not fits or directions.shape != (delta.shape[1], info.in_channels):
            raise InputError(
                f"the change is {tuple(delta.shape)} with directions {tuple(directions.shape)}, but {change.layer} "
                f"maps {info.in_channels} to {info.out_channels} channels: it was made for another model"
            )
        beside = change.beside
        if beside is not None and not beside.fits(info):
            raise InputError(f"the memory beside {change.layer} does not fit this layer: it was made for another model")

    def receptive_field(self, layer: str) -> int:
        """How far a key of this layer reaches in the picture, in pixels on each side."""
        later = list(self.layers.values())[list(self.layers).index(self.layer(layer).name) :]
        return math.ceil(sum(info.reach * self.resolution / info.key_frame.across for info in later))

    def rewritten(self, rules: Sequence[LowRank]) -> Generator:
        """A generator with the rules folded into plain weights; it shares every weight that they leave alone.

        Of a rule with a memory beside W, the change of W is taken that comes nearest to it. Units that are switched
        on every picture, everywhere, keep their levels; other switches are left out.
        """
        for rule in rules:
            self.check(rule)
        shared: dict[int, Any] = {id(t): t for t in [*self.parameters(), *self.buffers()]}
        shared[id(self.photos)] = self.photos
        twin = copy.deepcopy(self, shared)
        twin.__dict__.pop("fingerprint", None)  # it is computed anew
        twin.rules = ()
        for rule in (rule for rule in rules if rule.active):
            memory = twin.memory(rule.layer)
            memory.weight = nn.Parameter(memory.weight + rule.weight().to(memory.weight), requires_grad=False)
        for rule in (rule for rule in rules if rule.active):
            if rule.beside is not None:
                rule.beside.fold(self, twin, rule.layer, rule.strength)
        return twin

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def operations(self) -> int:
        """Floating-point operations of the convolutions for one picture."""
        return sum(map(self.operations_of, self.layers.values()))

    def operations_before(self, layer: str) -> int:
        """Those that the keys of a layer take."""
        at = list(self.layers).index(self.layer(layer).name)
        return sum(map(self.operations_of, list(self.layers.values())[:at]))

    def operations_of(self, info: LayerInfo) -> int:
        """Those of one layer: 2 · out · in · taps at every key."""
        return int(2 * info.out_channels * info.in_channels * info.kernel**2 * info.key_resolution**2)

    def fingerprint_extra(self) -> str:
        """Settings outside the state dict that change the output; part of the fingerprint. "" where there are none."""
        return ""

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the canonical names, shapes and float32 bytes: the identity of the model, whatever its file."""
        digest = hashlib.sha256(self.fingerprint_extra().encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def rules_at(self, rules: Sequence[LowRank], layer: str, *, before: bool = False) -> list[LowRank]:
        """Those of the rules that change this layer, or the layers before it; one that is off is no change."""
        order = list(self.layers)
        position = order.index(self.layer(layer).name)
        wanted = order[:position] if before else [layer]
        return [rule for rule in rules if rule.layer in wanted and rule.active]

    def with_photos(self, photos: Iterable[Inverted]) -> Self:
        """The same generator, sharing every weight, that also draws these photos: their names serve as seeds.

        Truncation does not act on photos. InputError if one was found in another generator.
        """
        twin = copy.copy(self)
        twin.photos = MappingProxyType({**self.photos, **{photo.name: photo for photo in photos}})
        for photo in twin.photos.values():
            for change in photo.own:
                self.check(change)
            size = (3, self.resolution, self.resolution)
            if tuple(photo.drawn.shape) != size or tuple(photo.photo.shape) != size:
                raise InputError(
                    f"{photo.name} is {tuple(photo.photo.shape)}, but {self.name} draws {size}: open it anew"
                )
        return twin

    def latents(self, seeds: Sequence[Seed]) -> Tensor:
        """Rows of the original's latent table, (n, zdim): seed n is the same picture forever."""
        return latents(seeds, self.zdim).to(self.device)

    def photo(self, seed: Seed) -> Inverted | None:
        """The photo that is meant, None for a number; AbsentPhotoError if it is not here."""
        if not isinstance(seed, str) or not re.fullmatch(PHOTO, seed):
            return None
        if seed not in self.photos:
            raise AbsentPhotoError(f"{seed} is not here: open this photo first (Rewriter.open, or --photo FILE)")
        return self.photos[seed]

    def begin(self, seeds: Sequence[Seed], truncation: float = 1.0) -> Features:
        """The features entering the first layer, of seeds and photos."""
        photos = [self.photo(seed) for seed in seeds]
        if not any(photos):
            return self.start(self.latents(seeds), truncation)
        rows = [
            photo.latent[None].to(self.device) if photo else self.embed(self.latents([seed]), truncation)
            for seed, photo in zip(seeds, photos, strict=True)
        ]
        own = tuple(photo.own if photo else () for photo in photos)
        return replace(self.enter(join(rows)), own=own if any(own) else ())

    def sample(
        self, seeds: Sequence[Seed], *, truncation: float = 1.0, rules: Changes | None = None, batch: int = 16
    ) -> Tensor:
        """Pictures of the given seeds and photos, (n, 3, H, W), drawn in batches.

        A photo keeps its fine residue where the rules change nothing; see `Inverted.finish`.
        """
        seeds = list(seeds)
        per_picture = self._spread(rules, len(seeds))
        parts = [torch.zeros(0, 3, self.resolution, self.resolution, device=self.device)]
        for i in range(0, len(seeds), batch):
            part = seeds[i : i + batch]
            with exact(self.device):
                pictures = self.picture(self.begin(part, truncation), rules=per_picture[i : i + batch])
            photos = [self.photo(seed) for seed in part]
            if any(photos):
                pairs = zip(photos, pictures, strict=True)
                pictures = torch.stack([photo.finish(picture) if photo else picture for photo, picture in pairs])
            parts.append(pictures)
        return torch.cat(parts)

    def forward(self, z: Tensor, *, truncation: float = 1.0, rules: Changes | None = None) -> Tensor:
        """Latents (n, zdim) → pictures. `rules`: one list for all, one list per picture, None (the generator's own)."""
        with exact(self.device):
            return self.picture(self.start(z, truncation), rules=rules)

    def keys(
        self, seeds: Sequence[Seed], layer: str, *, truncation: float = 1.0, rules: Changes | None = None
    ) -> Features:
        """The features that enter a layer, for pictures given by seed or photo; rules count at the layers before it."""
        self.layer(layer)
        return next(f for f in self.walk(seeds, truncation=truncation, rules=rules) if f.layer == layer)

    def walk(
        self, seeds: Sequence[Seed], *, truncation: float = 1.0, rules: Changes | None = None
    ) -> Iterator[Features]:
        """The features that enter one layer after the other, each computed when it is asked for."""
        per_picture = self._spread(rules, len(seeds))
        with exact(self.device), torch.no_grad():
            following: Features | Tensor = self.begin(seeds, truncation)
        while isinstance(following, Features):
            yield following  # outside of the settings: they are not the caller's
            with exact(self.device), torch.no_grad():
                following = self.follow(following, self.values(following, rules=per_picture))

    def values(self, features: Features, *, rules: Changes | None = None) -> Tensor:
        """What a layer answers to its keys, (n, out, H, W), under the rules that name it."""
        memory, given = self.memory(features.layer), self._spread(rules, len(features))
        if features.own:
            given = [[*own, *rules] for own, rules in zip(features.own, given, strict=True)]
        lists = [tuple(r for r in each if r.layer == features.layer and r.active) for each in given]
        with exact(self.device):
            if all(own == lists[0] for own in lists[1:]):
                return memory.recall(features.keys, features.style, lists[0] if lists else ())
            return memory.recall_each(features.keys, features.style, lists)

    def picture(self, features: Features, values: Tensor | None = None, *, rules: Changes | None = None) -> Tensor:
        """From a layer's features on to the pictures; `values` replaces what that layer would answer."""
        per_picture, pictures = self._spread(rules, len(features)), range(len(features))
        few = self._few
        if len(pictures) <= few:
            return self._picture(features, values, per_picture)
        drawn = []
        for i in pictures[::few]:
            own = None if values is None else values[i : i + few]
            drawn.append(self._picture(features[list(pictures[i : i + few])], own, per_picture[i : i + few]))
        return torch.cat(drawn)

    @property
    def _few(self) -> int:
        """How many pictures are drawn together: on a CPU, so few that the largest maps stay in its cache."""
        largest = max(info.out_channels * info.resolution**2 for info in self.layers.values())
        return max(1, CACHED // largest) if self.device.type == "cpu" else MANY

    def _picture(self, features: Features, values: Tensor | None, rules: Changes) -> Tensor:
        with exact(self.device):
            while True:
                own = self.values(features, rules=rules) if values is None else values
                following = self.follow(features, own)
                if isinstance(following, Tensor):
                    return following
                features, values = following, None

    def follow(self, features: Features, values: Tensor) -> Features | Tensor:
        """Like `step`; changes that belong to the pictures go on with them."""
        following = self.step(features, values)
        return replace(following, own=features.own) if features.own and isinstance(following, Features) else following

    def _spread(self, rules: Changes | None, n: int) -> list[Sequence[LowRank]]:
        """One list of changes per picture."""
        rules = self.rules if rules is None else rules
        for rule in (r for own in rules for r in own) if _nested(rules) else rules:
            self.check(rule)  # type: ignore[arg-type]
        if _nested(rules):
            if len(rules) != n:
                raise InputError(f"{len(rules)} lists of rules for {n} pictures: give one list each, or one for all")
            return list(rules)
        return [rules] * n  # type: ignore[list-item]  # not nested, hence one list for all


def _nested(rules: Changes) -> TypeGuard[Sequence[Sequence[LowRank]]]:
    return bool(rules) and not isinstance(rules[0], LowRank)


class _Exact:
    """Counts who is in `exact`, because the settings are the process's and several threads may be in it at once."""

    lock, inside, settings = Lock(), 0, (False, False, False)


@contextlib.contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Full float32 and repeatable convolutions on this device; the caller's settings come back afterwards.

    Without `deterministic`, cuDNN may take another algorithm for the same picture, which rounds differently.
    """
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    with _Exact.lock:
        if not _Exact.inside:
            _Exact.settings = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic
            matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = False, False, True
        _Exact.inside += 1
    try:
        yield
    finally:
        with _Exact.lock:
            _Exact.inside -= 1
            if not _Exact.inside:
                matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = _Exact.settings
