"""Train a generator of a built-in world: `python -m rewriter.worlds.train OUT.safetensors --world townscape`.

Regression on (latent, picture) pairs of our own procedural worlds, from coarse to fine, not adversarial, without other
data. What matters, in order: the mapping network first learns what a latent means, and is asked for it to the end;
pictures grow from 16 px to full size; pixels of things that are hard to learn weigh more; edges are to be as strong as
in the scenes; rare marks are more frequent than in the world.

The checkpoint is there as soon as the mapping network is trained: train it where there is no GPU, interrupt, and go on
with `--resume` where there is one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rewriter import worlds
from rewriter.checkpoints.convert import convert
from rewriter.errors import CancelledError, InputError, RewriterError
from rewriter.files import replacing, write_torch
from rewriter.generators.latents import latents
from rewriter.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from rewriter.worlds.mapping import train_mapping
from rewriter.worlds.stage import Stage, StageTrainer

STAGES = (Stage(16, 128, 0.09), Stage(32, 64, 0.21), Stage(64, 32, 0.7), Stage(128, 16, 2.1), Stage(256, 8, 6.3))
SIZES = tuple(stage.size for stage in STAGES)
WORLDS = {name: worlds.named(name) for name in worlds.names()}
DEVICES = ("auto", "cpu", "cuda", "mps")

OnReport = Callable[[Mapping[str, float]], bool | None]


@dataclass(frozen=True)
class Options:
    """What to train, where and for how long; `--help` explains each field."""

    out: Path
    world: str = "townscape"
    minutes: float = 60.0
    size: int = 64
    channels: tuple[int, ...] | None = None
    seed: int = 0
    device: str = "auto"
    resume: bool = False
    weights: Path | None = None
    every: int = 200
    mapping: float = 1.5
    batch: int | None = None

    def __post_init__(self) -> None:
        if not self.out.absolute().parent.is_dir():
            raise InputError(f"there is no folder {self.out.parent} to write {self.out.name} into: make it first")
        if self.world not in WORLDS:
            raise InputError(f"there is no world {self.world!r}: choose from {', '.join(WORLDS)}")
        if self.size not in SIZES or self.device not in DEVICES:
            raise InputError(f"cannot train at {self.size} px on {self.device!r}: choose from {SIZES} and {DEVICES}")
        if min(self.minutes, self.mapping) <= 0 or min(self.every, 1 if self.batch is None else self.batch) < 1:
            raise InputError(
                f"{self.minutes} and {self.mapping} minutes, {self.batch} pictures, reports every {self.every} steps: "
                "all must be positive"
            )

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of the training, beside the weights."""
        return self.out.with_suffix(".checkpoint")


def train(options: Options, *, on_report: OnReport | None = None) -> StyleGAN2:
    """Train, or resume a training, and write the weights to `options.out`.

    `on_report` is called in each process every `options.every` steps, after the checkpoint is written, with the size,
    the step, the share done of this size, the mean absolute error in 1/255 and the pictures a second; returning False
    (in all processes) raises CancelledError; the training can then be resumed. ComputationError if it diverged. Returns
    the running average of the weights over the last steps.
    """
    accelerator = _accelerator(options)
    state = _read_checkpoint(options) if options.resume else _start(options, accelerator.device)
    if accelerator.is_main_process and not options.resume:  # where to go on after an interruption
        write_torch(state, options.checkpoint)
    set_seed(options.seed + state["step"], device_specific=True)  # a resumed training sees new examples
    world, config, fine_tune = WORLDS[options.world], StyleGAN2Config(**state["config"]), state["fine_tune"]
    stages = plan(config.resolution, fine_tune=fine_tune, batch=options.batch)
    total, weights = sum(stage.share for stage in stages), state["generator"]
    for stage in stages[[stage.size for stage in stages].index(state["size"]) :]:
        trainer = StageTrainer(accelerator, world, grow(config, stage.size, weights), stage)
        if "optimizer" in state and stage.size == state["size"]:
            trainer.restore(state)
        for report in trainer.train(options.minutes * 60 * stage.share / total, every=options.every):
            if accelerator.is_main_process:
                about = {"config": asdict(config), "fine_tune": fine_tune}
                write_torch({**about, **trainer.state()}, options.checkpoint)
            if on_report is not None and on_report(report) is False:
                raise CancelledError(f"stopped at {stage.size} px, step {trainer.step}: resume with --resume")
        weights = trainer.generator.state_dict()
    if accelerator.is_main_process:
        _export(trainer.average, options.out)
    return trainer.average


def plan(size: int, *, fine_tune: bool = False, batch: int | None = None) -> tuple[Stage, ...]:
    """The stages up to `size` pixels, 16 … 256; fine-tuning is only the last one, with a lower learning rate.

    `batch`: pictures a step; None: the fewer the larger they are, which suits a CPU.
    """
    stages = [replace(stage, batch=batch or stage.batch) for stage in STAGES if stage.size <= size]
    last = replace(stages[-1], rate_from=1.5e-3 if fine_tune else 2.5e-3, rate_to=1e-5)
    return (last,) if fine_tune else (*stages[:-1], last)


def grow(config: StyleGAN2Config, size: int, weights: Mapping[str, Tensor]) -> StyleGAN2:
    """A trainable generator of `size` pixels without noise that first draws what a smaller one with `weights` does."""
    channels = {side: count for side, count in config.channels.items() if side <= size}
    generator = StyleGAN2(replace(config, channels=channels), name="trained")
    silent = ("noise", "torgb.weight") if weights else ("noise",)
    zeros = {n: torch.zeros_like(v) for n, v in generator.state_dict().items() if any(part in n for part in silent)}
    generator.load_state_dict({**generator.state_dict(), **zeros, **weights})
    for name, parameter in generator.named_parameters():
        parameter.requires_grad_("noise" not in name)
    return generator


def _start(options: Options, device: torch.device) -> dict[str, Any]:
    """The first state: the last stage with given weights, or the first stage with a trained mapping network."""
    world = WORLDS[options.world]
    if options.weights is not None:
        given = _read(options.weights)
        if given.resolution > options.size or given.zdim != world.zdim:
            raise InputError(
                f"{options.weights} draws {given.resolution} px from {given.zdim} numbers, expected at most "
                f"{options.size} px from {world.zdim}: choose other weights or --size {given.resolution}"
            )
        channels = {**_channels(options), **given.config.channels}
        config, weights, size = replace(given.config, channels=channels), given.state_dict(), options.size
    else:
        config = StyleGAN2Config(_channels(options), world.zdim, world.w_dim, world.mapping_layers)
        size = SIZES[0]
        set_seed(options.seed)
        generator = grow(config, size, {}).to(device)
        train_mapping(world, generator, options.mapping * 60)
        weights = generator.state_dict()
    state = {"config": asdict(config), "fine_tune": options.weights is not None, "size": size, "step": 0}
    return state | {"generator": weights}


def _channels(options: Options) -> dict[int, int]:
    sides = [side for side in (4, 8, *SIZES) if side <= options.size]
    channels = options.channels or WORLDS[options.world].channels[: len(sides)]
    if len(channels) != len(sides) or min(channels) < 1:
        raise InputError(f"channels {channels} for the resolutions {sides}: give one positive number for each")
    return dict(zip(sides, channels, strict=True))


def _read_checkpoint(options: Options) -> dict[str, Any]:
    if not options.checkpoint.is_file():
        raise InputError(f"there is no checkpoint {options.checkpoint} to resume from: start without --resume")
    state: dict[str, Any] = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    size = max(state["config"]["channels"])
    if size != options.size:
        raise InputError(f"{options.checkpoint} is of {size} px, not {options.size}: give --size {size}")
    return state


def _read(path: Path) -> StyleGAN2:
    try:
        generator = convert(load_file(path), name="trained")
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read the weights {path}: {error}") from error
    if not isinstance(generator, StyleGAN2):
        raise InputError(f"{path} is not a StyleGAN2: only such a generator can be trained here")
    return generator


def _accelerator(options: Options) -> Accelerator:
    """The device asked for, in bfloat16 where that is fast: a CPU without the instructions is slower with it."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(options.device, True):
        raise InputError(f"this machine has no {options.device} device: use --device auto")
    if options.device in ("auto", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        instructions: Callable[[], bool] = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)  # not public
        fast = instructions() and options.device != "mps"
    return Accelerator(cpu=options.device == "cpu", mixed_precision="bf16" if fast else "no")


@torch.no_grad()
def _export(generator: StyleGAN2, out: Path) -> None:
    """Set the mean w, which truncation moves towards, and write the weights."""
    z = latents(range(10_000), generator.zdim).to(generator.device)
    generator.mapping.get_buffer("w_avg").copy_(generator.mapping(z).mean(0))
    with replacing(out) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in generator.state_dict().items()}, temporary)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rewriter.worlds.train",
        description="Train a StyleGAN2 on a built-in world. Reports on stderr are lines of JSON; error_255 is the "
        "mean absolute error of the last batch in 1/255. Judge the result with `rewriter inspect`.",
        epilog="Several GPUs: accelerate launch -m rewriter.worlds.train OUT.safetensors. "
        "An interrupted training resumes with --resume from the checkpoint beside OUT.",
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT.safetensors", help="where to write the weights, in NVIDIA's names")
    add("--world", default="townscape", choices=WORLDS, help="what to draw (default townscape)")
    add("--minutes", type=float, default=60.0, help="time to train, besides the mapping network's (default 60)")
    add("--mapping", type=float, default=1.5, help="minutes to train the mapping network alone, first (default 1.5)")
    add("--size", type=int, default=64, choices=SIZES, help="side of the pictures (default 64)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--channels", type=_numbers, help="features at 4, 8 … SIZE px (towns of 64 px: 128,128,128,64,48)"
    )
    start.add_argument("--from", type=Path, dest="weights", help="fine-tune these weights")
    start.add_argument("--resume", action="store_true", help="resume an interrupted training")
    add("--seed", type=int, default=0, help="of the first weights and the examples (default 0)")
    add("--device", default="auto", choices=DEVICES, help="where to train (default: the best there is)")
    add("--batch", type=int, help="pictures a step (default: 2048 / SIZE; a GPU is faster with 128)")
    add("--every", type=int, default=200, help="steps between two checkpoints and reports (default 200)")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, train, report on stderr; returns the exit status."""

    def tell(report: Mapping[str, float]) -> None:
        if PartialState().is_main_process:
            sys.stderr.write(json.dumps(report) + "\n")

    try:
        train(Options(**vars(_parser().parse_args(arguments))), on_report=tell)
    except RewriterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped: resume with --resume\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
