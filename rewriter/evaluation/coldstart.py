"""From nothing to the first picture: `cold_start` runs this module as a process of its own and reads what it prints."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rewriter import load_generator
from rewriter.worlds import townscape

STATUS = Path("/proc/self/status")


def cold_start(file: Path, device: str = "cpu") -> dict[str, Any]:
    """Seconds of a new process to the first picture of a checkpoint, and where they go.

    Returns:
        import_seconds (the interpreter's start included), load_seconds, picture_seconds, their sum as seconds, and
        memory: the most that loading took, as a multiple of the weights; None where it cannot be known. What PyTorch
        takes for the first picture of any generator is not counted: another one is drawn before.

    Raises:
        subprocess.CalledProcessError: the process failed.
    """
    command = [sys.executable, "-m", "rewriter.evaluation.coldstart", str(file), device, str(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def main(file: str, device: str, started: str) -> None:
    """Load and draw; print how long each took, counted from the time at which the process was asked for."""
    imported = time.time()
    townscape.load().sample([0])  # what any generator needs is not counted as this one's
    warm, base = time.time(), _peak(forget=True)
    generator = load_generator(file, device=device)
    loaded, peak = time.time(), _peak()
    generator.sample([0]).cpu()
    load, picture = loaded - warm, time.time() - loaded
    report: dict[str, Any] = {"seconds": imported - float(started) + load + picture}
    report |= {"import_seconds": imported - float(started), "load_seconds": load, "picture_seconds": picture}
    weights = sum(value.nbytes for value in generator.state_dict().values())
    report["memory"] = None if base is None or peak is None else (peak - base) / weights
    sys.stdout.write(json.dumps(report))


def _peak(*, forget: bool = False) -> int | None:
    """The most memory that this process has held, in bytes, since it was last told to forget; None if unknown."""
    try:
        if forget:
            Path("/proc/self/clear_refs").write_text("5")
        kib = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None
    return int(kib.split()[1]) << 10


if __name__ == "__main__":
    main(*sys.argv[1:])
