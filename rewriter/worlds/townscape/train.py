"""Train the built-in generator: `python -m rewriter.worlds.townscape.train OUT.safetensors`.

Regression on (latent, picture) pairs of our own procedural world, coarse to fine, not adversarial; no other data.
What matters, in order: the mapping network learns first what a latent means; pictures grow from 16 px to full size;
each pixel weighs as much as its thing is hard to learn; rare marks are shown more often than they occur.
"""

from __future__ import annotations

import argparse
import json
import os
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

from rewriter.checkpoints.convert import convert
from rewriter.errors import CancelledError, InputError, RewriterError
from rewriter.generators.latents import latents
from rewriter.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from rewriter.worlds.townscape import scenes
from rewriter.worlds.townscape.lesson import Lesson, Stage, learn_mapping

STAGES = (Stage(16, 128, 0.09), Stage(32, 64, 0.21), Stage(64, 32, 0.7), Stage(128, 16, 2.1), Stage(256, 8, 6.3))
SIZES = tuple(stage.size for stage in STAGES)
CHANNELS = (128, 128, 128, 64, 48, 32, 24)  # at 4, 8 … 256 px
W_DIM, MAPPING_LAYERS = 128, 4
DEVICES = ("auto", "cpu", "cuda", "mps")

OnStep = Callable[[Mapping[str, float]], bool | None]


@dataclass(frozen=True)
class Course:
    """What to train, where and for how long; `--help` explains each field."""

    out: Path
    minutes: float = 60.0
    size: int = 64
    channels: tuple[int, ...] | None = None
    seed: int = 0
    device: str = "auto"
    resume: bool = False
    weights: Path | None = None
    compile: bool = False
    every: int = 200

    def __post_init__(self) -> None:
        if not self.out.absolute().parent.is_dir():
            raise InputError(f"there is no folder {self.out.parent} to write {self.out.name} into: make it first")
        if self.size not in SIZES or self.device not in DEVICES:
            raise InputError(f"cannot train at {self.size} px on {self.device!r}: choose from {SIZES} and {DEVICES}")
        if self.minutes <= 0 or self.every < 1:
            raise InputError(f"{self.minutes} minutes, a report every {self.every} steps: both must be positive")

    @property
    def checkpoint(self) -> Path:
        """Where the state of the training is kept, beside the weights to come."""
        return self.out.with_suffix(".checkpoint")


def train(course: Course, *, on_step: OnStep | None = None) -> StyleGAN2:
    """Run a course, or what is left of it, and write the weights to `course.out`.

    Args:
        course: what to do.
        on_step: called in each process every `course.every` steps, after the checkpoint is written, with the size, the
            step, the share done of this size, the mean absolute error in 1/255 and the pictures a second; returning
            False (in all processes) stops.

    Returns:
        The trained generator, a running average over the last steps, on the training's device.

    Raises:
        InputError: the course cannot be run as asked.
        CancelledError: `on_step` returned False; `resume` goes on.
        ComputationError: the training diverged.
    """
    accelerator = _accelerator(course)
    state = _resumed(course) if course.resume else _fresh(course, accelerator.device)
    set_seed(course.seed + state["step"], device_specific=True)  # a resumed course sees new examples
    config, fine_tune = StyleGAN2Config(**state["config"]), state["fine_tune"]
    stages = plan(config.resolution, fine_tune=fine_tune)
    total, weights = sum(stage.share for stage in stages), state["generator"]
    for stage in stages[[stage.size for stage in stages].index(state["size"]) :]:
        lesson = Lesson(accelerator, grow(config, stage.size, weights), stage)
        if "optimizer" in state and stage.size == state["size"]:
            lesson.restore(state)
        for report in lesson.teach(course.minutes * 60 * stage.share / total, every=course.every):
            if accelerator.is_main_process:
                common = {"config": asdict(config), "fine_tune": fine_tune}
                _replace(course.checkpoint, lambda path, content: torch.save(content, path), common | lesson.state())
            if on_step is not None and on_step(report) is False:
                raise CancelledError(f"stopped at {stage.size} px, step {lesson.step}: go on with --resume")
        weights = lesson.generator.state_dict()
    if accelerator.is_main_process:
        _export(lesson.average, course.out)
    return lesson.average


def plan(size: int, *, fine_tune: bool = False) -> tuple[Stage, ...]:
    """The stages up to `size` pixels, 16 … 256; fine-tuning is the last one alone, at a gentler rate."""
    stages = [stage for stage in STAGES if stage.size <= size]
    last = replace(stages[-1], rate_from=1.5e-3 if fine_tune else 2.5e-3, rate_to=1e-5)
    return (last,) if fine_tune else (*stages[:-1], last)


def grow(config: StyleGAN2Config, size: int, weights: Mapping[str, Tensor]) -> StyleGAN2:
    """A trainable generator of `size` pixels that takes over the weights of a smaller one, and has no noise."""
    channels = {side: count for side, count in config.channels.items() if side <= size}
    generator = StyleGAN2(replace(config, channels=channels), name="townscape")
    fresh = {
        name: torch.zeros_like(value) if "noise" in name else value for name, value in generator.state_dict().items()
    }
    generator.load_state_dict(fresh | dict(weights))
    for name, parameter in generator.named_parameters():
        parameter.requires_grad_("noise" not in name)
    return generator


def _fresh(course: Course, device: torch.device) -> dict[str, Any]:
    """Where a course starts: from given weights at the last stage, or at the first with the mapping learned."""
    if course.weights is not None:
        teacher = _read(course.weights)
        if teacher.resolution > course.size or teacher.zdim != scenes.LATENT_DIM:
            raise InputError(
                f"{course.weights} draws {teacher.resolution} px from {teacher.zdim} numbers: it won't fit"
            )
        channels = {**_channels(course), **teacher.config.channels}
        config, weights, size = replace(teacher.config, channels=channels), teacher.state_dict(), course.size
    else:
        config = StyleGAN2Config(_channels(course), scenes.LATENT_DIM, W_DIM, MAPPING_LAYERS)
        size = SIZES[0]
        set_seed(course.seed)
        generator = grow(config, size, {}).to(device)
        learn_mapping(generator, min(90.0, course.minutes * 2))
        weights = generator.state_dict()
    point = {"config": asdict(config), "fine_tune": course.weights is not None, "size": size, "step": 0}
    return point | {"generator": weights}


def _channels(course: Course) -> dict[int, int]:
    sides = [side for side in (4, 8, *SIZES) if side <= course.size]
    channels = course.channels or CHANNELS[: len(sides)]
    if len(channels) != len(sides) or min(channels) < 1:
        raise InputError(f"channels {channels} for the resolutions {sides}: give one positive number for each")
    return dict(zip(sides, channels, strict=True))


def _resumed(course: Course) -> dict[str, Any]:
    if not course.checkpoint.is_file():
        raise InputError(f"there is no checkpoint {course.checkpoint} to go on from: start without --resume")
    state: dict[str, Any] = torch.load(course.checkpoint, map_location="cpu", weights_only=True)
    size = max(state["config"]["channels"])
    if size != course.size:
        raise InputError(f"{course.checkpoint} belongs to a course of {size} px, not {course.size}: give --size {size}")
    return state


def _read(path: Path) -> StyleGAN2:
    try:
        generator = convert(load_file(path), name="townscape")
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read the weights {path}: {error}") from error
    if not isinstance(generator, StyleGAN2):
        raise InputError(f"{path} is not a StyleGAN2: only such a generator can be trained here")
    return generator


def _accelerator(course: Course) -> Accelerator:
    """The device asked for, in bfloat16 where that is fast: a CPU without the instructions is slower with it."""
    present: Mapping[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if course.device in present and not present[course.device]():
        raise InputError(f"this machine has no {course.device} device: use --device auto")
    if course.device in ("auto", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        instructions: Callable[[], bool] = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)  # not public
        fast = instructions() and course.device != "mps"
    backend = "inductor" if course.compile else "no"
    return Accelerator(cpu=course.device == "cpu", mixed_precision="bf16" if fast else "no", dynamo_backend=backend)


def _replace(path: Path, write: Callable[[Path, Any], None], content: Any) -> None:
    """Write beside the file, then rename: a crash leaves the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + ".tmp")
    write(temporary, content)
    os.replace(temporary, path)


@torch.no_grad()
def _export(generator: StyleGAN2, out: Path) -> None:
    """Set the mean w, towards which truncation pulls, and write the weights."""
    z = latents(range(10_000), generator.zdim).to(generator.device)
    generator.mapping.get_buffer("w_avg").copy_(generator.mapping(z).mean(0))
    state = {name: value.cpu().contiguous() for name, value in generator.state_dict().items()}
    _replace(out, lambda path, content: save_file(content, path), state)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rewriter.worlds.townscape.train",
        description="Train a StyleGAN2 on the built-in world. One line of JSON on stderr tells how it goes: error_255 "
        "is the mean absolute error of the last batch in 1/255; judge the result with `rewriter inspect`.",
        epilog="Several GPUs: accelerate launch -m rewriter.worlds.townscape.train OUT.safetensors. "
        "A stopped course goes on with --resume, from the checkpoint beside OUT.",
    )
    add = parser.add_argument
    add("out", type=Path, metavar="OUT.safetensors", help="where to write the weights, in NVIDIA's names")
    add("--minutes", type=float, default=60.0, help="time to train, besides 90 s for the mapping network (default 60)")
    add("--size", type=int, default=64, choices=SIZES, help="side of the pictures (default 64)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--channels", type=_numbers, help="features at 4, 8 … SIZE px (64 px: 128,128,128,64,48)")
    start.add_argument("--from", type=Path, dest="weights", help="fine-tune these weights instead of starting anew")
    start.add_argument("--resume", action="store_true", help="go on with a stopped course")
    add("--seed", type=int, default=0, help="of the first weights and the examples (default 0)")
    add("--device", default="auto", choices=DEVICES, help="where to train (default: the best there is)")
    add(
        "--compile",
        action="store_true",
        help="torch.compile: a slow start, and a faster pace after it; needs a C++ compiler",
    )
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
        train(Course(**vars(_parser().parse_args(arguments))), on_step=tell)
    except RewriterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped: go on with --resume\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
