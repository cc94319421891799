"""Says so when a step waits long for its batch, and in which stage of the input pipeline that one is.

What Python can see is said exactly: a thread of tf.data that is in Python code is asked for its stack. Of what runs
inside of TensorFlow is said only that it does. Time is `time.monotonic`: no clock that is set disturbs it.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from aillm_tf.data.pipeline import Dataset
from aillm_tf.data.shards import ShardDataset

logger = logging.getLogger("aillm_tf")

SECONDS = 300.0  # of silence after which something is said
STAGES = {
    ShardDataset.read.__code__: "reading rows from the shards on disk",
    Dataset.part.__code__: "choosing the rows of a batch",
}


class Watch:
    """A thread that watches one loop over the batches of a data set; once for each call it says that one is slow.

    Args:
        data: a `Dataset`, whose batches the loop gets by `data.distribute`.

    Example:
        >>> with Watch(data) as watch:  # doctest: +SKIP
        ...     watch.call(function, iterator, first_step=0, last_step=1)
    """

    def __init__(self, data: Dataset):
        self._data = data
        self._call: tuple[int, int, float] | None = None  # first step, step after the last one, when it began
        self._told: tuple | None = None
        self._over = threading.Event()

    def __enter__(self) -> Watch:
        threading.Thread(target=self._watch, args=(SECONDS,), name="watch over batches", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()

    def call(self, function: Callable, *arguments, first_step: int, last_step: int) -> Any:
        """`function(*arguments)`, which takes the batches of the steps [first_step, last_step), watched over."""
        call = self._call = (first_step, last_step, time.monotonic())
        try:
            return function(*arguments)
        finally:
            self._call = None
            if self._told is call:
                waited = time.monotonic() - call[2]
                logger.warning("step %d goes on: it took %.0f s", first_step + 1, waited)

    def _watch(self, seconds: float) -> None:
        while not self._over.wait(seconds / 10):
            call = self._call
            if call is None or call is self._told:
                continue
            arrived, when = self._data.arrived
            quiet = time.monotonic() - max(call[2], when)
            if quiet >= seconds:
                self._told = call
                logger.warning("%s", _told(call, arrived, quiet))


def _told(call: tuple[int, int, float], arrived: int, quiet: float) -> str:
    first, last, _ = call
    step = min(max(arrived, first), last - 1) + 1
    since = f"for {quiet:.0f} s, since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(time.time() - quiet))}"
    if arrived >= last:
        return (
            f"step {step} has not ended {since}, but its batch has left the input pipeline: the transfer to the "
            "device, the compilation or the step itself takes that long, or another worker is waited for"
        )
    busy = [_described(frame) for frame in sys._current_frames().values() if _in_pipeline(frame)]
    if not busy:
        also = " (or a step before it, of the same execution, computes)" if last - first > 1 else ""
        busy = [f"making the batch inside of TensorFlow: gathering its rows, or their noise{also}"]
    return f"step {step} waits for data {since}; training goes on when they come. Stage: " + "\n".join(busy)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _in_pipeline(frame: FrameType) -> bool:
    """Whether TensorFlow has called this Python code."""
    codes = (outer.f_code for outer in _frames(frame))
    return any(code.co_name == "__call__" and code.co_filename.endswith("script_ops.py") for code in codes)


def _described(frame: FrameType) -> str:
    stages = (STAGES[outer.f_code] for outer in _frames(frame) if outer.f_code in STAGES)
    stage = next(stages, "Python code of the noise or of the data set")
    return f"{stage}\n{''.join(traceback.format_stack(frame)).rstrip()}"
