"""Batch-size warm-up: the first steps take an eighth of a batch each, then a quarter, then a half.

Small batches cost less where the gradient is still the same for all of them (McCandlish et al. 2018, arXiv:1812.06162;
Brown et al. 2020, appendix B, grow theirs too). A part is a slice of the batch that there would have been, so rows,
lengths and noise stay what they are, and every row still comes once an epoch.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from aillm_tf.data.pipeline import Dataset

PARTS = (8, 4, 2)  # a batch is cut into, one stage after the other


class GrowingBatches(Dataset):
    """A data set whose first batches are parts of those of another.

    Args:
        data: what it is made of; of one task, no `Mixture`.
        warmup: steps within which the batch grows to its size, in three stages of about equal length.

    Attributes:
        stage_ends: steps before which batches have another size than after.

    Raises:
        ValueError: a warm-up too short for its stages.

    Example:
        >>> from aillm_tf.data.pipeline import Ragged
        >>> rows = Ragged(np.arange(64, dtype="int32"), np.arange(65))
        >>> grown = GrowingBatches(Dataset({"token_ids": rows}, max_length=8, batch_size=16), warmup=14)
        >>> grown.stage_ends, [len(grown.batch_rows(step)[0]) for step in (0, 8, 12, 14)]
        ((8, 12, 14), [2, 4, 8, 16])
    """

    def __init__(self, data: Dataset, warmup: int):
        if warmup < sum(PARTS):
            raise ValueError(f"a batch warm-up of {warmup} steps: give at least {sum(PARTS)}, a batch at every size")
        whole, left = [], warmup  # batches of `data` that each stage uses up
        for stage, parts in enumerate(PARTS):
            whole.append(max(1, left // (len(PARTS) - stage) // parts))
            left -= whole[-1] * parts
        self.data, self.seed, self.steps_per_epoch = data, data.seed, data.steps_per_epoch
        self.stage_ends = tuple(int(end) for end in np.cumsum(np.multiply(whole, PARTS)))
        # (first step, batches of `data` used up before it, parts that a batch is cut into)
        starts, used = (0, *self.stage_ends), (0, *(int(n) for n in np.cumsum(whole)))
        self.stages = tuple(zip(starts, used, (*PARTS, 1), strict=True))

    def __len__(self) -> int:
        return len(self.data)

    @property
    def padding_fraction(self) -> float:
        """That of the data set it is made of."""
        return self.data.padding_fraction

    @property
    def fingerprint(self) -> str:
        """A checksum of the data and its order: equal exactly when every batch is."""
        return f"{zlib.crc32(repr((self.data.fingerprint, self.stages)).encode()):08x}"

    def steps_of(self, steps: int) -> int:
        """The steps that use up so many batches of the data set it is made of."""
        start, used, parts = next(stage for stage in reversed(self.stages) if stage[1] <= steps)
        return start + (steps - used) * parts

    def _place(self, step: int) -> tuple[int, int, int]:
        """The batch, which part of it, and of how many."""
        start, used, parts = next(stage for stage in reversed(self.stages) if stage[0] <= step)
        batch, part = divmod(step - start, parts)
        return used + batch, part, parts

    def _planned(self, step: int) -> tuple[np.ndarray, tuple[int, ...], int]:
        """What `Dataset.batch_rows` and the count of operations read, for the part that a step has of a batch."""
        batch, part, parts = self._place(step)
        rows, lengths, full = self.data._planned(batch)
        share = full // parts
        return rows[part * share : (part + 1) * share], lengths, share

    def tokens(self, first_step: int, last_step: int) -> int:
        """Tokens without padding in the steps [first_step, last_step); within a batch each part counts the same."""
        total = 0
        for step in range(first_step, last_step):
            batch, part, parts = self._place(step)
            whole = self.data.tokens(batch, batch + 1)
            total += whole * (part + 1) // parts - whole * part // parts
        return total

    def batches(
        self,
        first_step: int = 0,
        last_step: int | None = None,
        *,
        replicas: Sequence[int] = range(1),
        total: int = 1,
        micro: int = 1,
    ) -> tf.data.Dataset:
        """Batches of the steps [first_step, last_step), see `Dataset.batches`.

        Raises:
            ValueError: a batch cannot be cut into equal parts for all replicas and micro-batches.
        """
        if last_step is None:
            last_step = self.steps_of(self.steps_per_epoch)
        made = None
        while first_step < last_step:
            batch, part, parts = self._place(first_step)
            ends = [end for end in self.stage_ends if end > first_step]
            end = min([last_step, *ends])
            # a part of a batch is the slices of `total` replicas out of `parts` times as many
            of_part = [number * total + replica for number in range(parts) for replica in replicas]
            last_batch = self._place(end - 1)[0] + 1
            for number in range(batch, last_batch) if parts > 1 else ():
                if (full := self.data.batch_rows(number)[2]) % (parts * total * micro):
                    raise ValueError(
                        f"the batch warm-up cuts batches into {parts} parts for {total} replicas and {micro} "
                        f"micro-batches: {full} rows of a batch are no multiple of {parts * total * micro}"
                    )
            stage = self.data.batches(batch, last_batch, replicas=of_part, total=total * parts, micro=micro)
            stage = stage.skip(part * len(replicas)).take((end - first_step) * len(replicas))
            made = stage if made is None else made.concatenate(stage)
            first_step = end
        return made
