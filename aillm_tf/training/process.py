"""A recipe in a process of its own: several runs of one command do not share memory, devices or failures."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

SAVING = 120.0  # seconds that a run may take to save and leave once it is told to
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def start(recipe: str, argv: Sequence[str], output: IO | None = None) -> subprocess.Popen:
    """Starts ``aillm train RECIPE ...``.

    On Linux the process is told to save and leave when this one dies, however it dies.

    Args:
        recipe: name of a recipe, or the path of its file.
        argv: its options.
        output: where stdout and stderr go; None: to those of this process.
    """
    command = [sys.executable, "-m", "aillm_tf.cli", "train", recipe, *argv]
    # wherever the package lies that this process runs
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": path},
        preexec_fn=_leave_with_parent if sys.platform == "linux" else None,
    )


def stop(process: subprocess.Popen) -> None:
    """Lets a process save and leave; one that does not is killed."""
    process.terminate()
    try:
        process.wait(SAVING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until_free(directory: Path) -> None:
    """Waits until no process uses a run directory: one whose parent was killed may still be saving there."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    with contextlib.suppress(FileNotFoundError), open(directory / "lock", "r+", encoding="utf-8") as file:
        end = time.monotonic() + SAVING
        while time.monotonic() < end:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.2)


def _leave_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
