"""Dataset: examples -> fixed-shape batches, a pure function of (seed, step).

Notable: any step can be the first one, at once; a batch is cut into slices for replicas and micro-batches by row
number, so the global batch of a step does not depend on how many devices share it; short batches are filled with
rows of weight 0 rather than dropped, so every row counts once an epoch, also in evaluation.
"""

from __future__ import annotations

import functools
import os
import time
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from aillm_tf.data.balance import balanced_rows
from aillm_tf.data.bucketing import bucket_lengths, bucket_pairs, plan_epoch

PARALLEL = min(8, os.cpu_count() or 1)  # batches made at the same time, and made ahead of the step that needs them


class Ragged(NamedTuple):
    """Rows of different length in one flat array: row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: np.ndarray  # (tokens,)
    offsets: np.ndarray  # (rows + 1,) int64


class Dataset:
    """Batches of tokenized rows.

    A batch is a dict of tensors: every ragged column as (batch, length), padded; "valid" (batch, length) int32, 1
    where there is a token; every dense column as (batch, ...); "weight" (batch,) float32, 0 for rows that only
    fill the batch; "row" (batch,) int64, the row's number in the data, -1 for filling.

    With `max_target_length`, ragged columns named "target..." are a second side, with lengths and buckets of their
    own, and "targets" comes with "target_weights" (batch, target length) float32, 1 where there is a token.

    Args:
        columns: name -> Ragged or array with one entry a row. "token_ids" must be Ragged.
        batch_size: rows of a global batch (over all replicas); or
        tokens_per_batch: rows x length of a global batch; of two sides, the sum of both lengths.
        max_length: longest row, in tokens.
        max_target_length: longest row of the target; None: there is one side only.
        shuffle: a new order every epoch.
        seed: of the order and of `noise`.
        fixed_length: pad every batch to `max_length` (and `max_target_length`), as a TPU wants it.
        pad: value that fills each ragged column; 0 by default.
        noise: `noise(example, seed, length) -> example`, TensorFlow ops on one row; seed is (2,) int32, fresh
            every epoch; length is that of the batch, of its source where there are two sides.
        noise_name: says which noise it is, with its settings, for `fingerprint`.
        balance: name of a dense column of whole numbers, of each of which an epoch has as many rows, drawn anew every
            time; None: an epoch has every row once.

    Raises:
        ValueError: no rows, a row that is too long, a column whose rows are longer than those of its side, or balance
            without shuffle or with tokens_per_batch.

    Example:
        >>> rows = Ragged(np.arange(10, dtype="int32"), np.array([0, 4, 10]))
        >>> batch = next(iter(Dataset({"token_ids": rows}, batch_size=2, max_length=6).batches()))
        >>> batch["token_ids"].shape
        TensorShape([2, 6])
    """

    arrived: tuple[int, float] = (0, 0.0)  # see `distribute`

    def __init__(
        self,
        columns: dict[str, Ragged | np.ndarray],
        *,
        max_length: int,
        max_target_length: int | None = None,
        batch_size: int | None = None,
        tokens_per_batch: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        fixed_length: bool = False,
        pad: dict[str, int] | None = None,
        noise: Callable | None = None,
        noise_name: str = "",
        balance: str | None = None,
    ):
        if balance is not None and (not shuffle or tokens_per_batch is not None):
            raise ValueError(
                "balance draws rows: give shuffle=True, and batch_size, with which epochs are equally long"
            )
        self.balance = balance
        self.columns, self.pad, self.noise, self.noise_name = columns, pad or {}, noise, noise_name
        self.shuffle, self.seed, self.max_length, self.max_target_length = shuffle, seed, max_length, max_target_length
        lengths = [self._side_lengths(side) for side in range(1 if max_target_length is None else 2)]
        self.lengths = np.stack(lengths, 1)  # (rows, sides)
        if not len(self.lengths):
            raise ValueError("the data set has no rows")
        if max_target_length is None:
            self.edges = [(length,) for length in bucket_lengths(max_length, fixed_length)]
        else:
            self.edges = bucket_pairs(self.lengths, (max_length, max_target_length), fixed_length)
        sizes = {"batch_size": batch_size, "tokens_per_batch": tokens_per_batch}
        self.texts = None  # the rows as texts, where a task wants them in evaluation
        self._plan = functools.lru_cache(maxsize=2)(lambda epoch: self._make_plan(epoch, sizes))
        self.steps_per_epoch = len(self._plan(0))

    def _side(self, name: str) -> int:
        """0 for a column of the source, 1 for one of the target."""
        return int(self.max_target_length is not None and name.startswith("target"))

    def _side_lengths(self, side: int) -> np.ndarray:
        """(rows,) tokens of every row; "token_ids" says them for the source."""
        ragged = {name: c for name, c in self.columns.items() if isinstance(c, Ragged) and self._side(name) == side}
        if not ragged:
            raise ValueError(
                f"max_target_length is given, but no ragged column is named target...: {list(self.columns)}"
            )
        first = "token_ids" if side == 0 else min(ragged)
        lengths = {name: np.diff(column.offsets) for name, column in ragged.items()}
        for name in lengths:
            longer = np.flatnonzero(lengths[name] > lengths[first])
            if len(longer):
                raise ValueError(f"row {longer[0]} of {name!r} is longer than of {first!r}, its end would be cut off")
        return lengths[first]

    def _make_plan(self, epoch: int, sizes: dict) -> list[tuple[np.ndarray, tuple[int, ...], int]]:
        rng = np.random.default_rng([self.seed, epoch]) if self.shuffle else None
        if self.balance is None:
            return plan_epoch(self.lengths, self.edges, rng=rng, **sizes)
        drawn = balanced_rows(self.columns[self.balance], rng)
        plan = plan_epoch(self.lengths[drawn], self.edges, rng=rng, **sizes)
        return [(drawn[rows], lengths, full) for rows, lengths, full in plan]

    def __len__(self) -> int:
        """Rows."""
        return len(self.lengths)

    @property
    def padding_fraction(self) -> float:
        """Share of the positions of an epoch's batches that hold no token."""
        plan = self._plan(0)
        tokens = sum(int(self.lengths[rows].sum()) for rows, _, _ in plan)
        return 1.0 - tokens / sum(full * sum(lengths) for _, lengths, full in plan)

    @property
    def fingerprint(self) -> str:
        """A checksum of the data and its order: equal exactly when every batch is."""
        # in the order of the first epoch
        plan = [(lengths if len(lengths) > 1 else lengths[0], full) for _, lengths, full in self._plan(0)]
        order = self.shuffle if self.balance is None else self.balance
        crc = zlib.crc32(repr((self.seed, order, plan, sorted(self.pad.items()), self.noise_name)).encode())
        for name in sorted(self.columns):
            column = self.columns[name]
            for array in column if isinstance(column, Ragged) else (column,):
                crc = zlib.crc32(np.ascontiguousarray(array).view("uint8").data, crc)
        return f"{crc:08x}"

    def tokens(self, first_step: int, last_step: int) -> int:
        """Tokens without padding, of both sides, in the steps [first_step, last_step)."""
        return sum(int(self.lengths[self.batch_rows(step)[0]].sum()) for step in range(first_step, last_step))

    def batch_rows(self, step: int) -> tuple[np.ndarray, int, int]:
        """(row numbers, positions of a row, rows of a full batch) of the global batch of a step, counted from 0."""
        rows, lengths, full = self._planned(step)
        return rows, sum(lengths), full

    def _planned(self, step: int) -> tuple[np.ndarray, tuple[int, ...], int]:
        epoch, index = divmod(step, self.steps_per_epoch)
        return self._plan(epoch)[index]

    def part(self, step: int, replica: int, total: int, micro: int) -> tuple[np.ndarray, tuple[int, ...], int]:
        """(rows, length of each side, epoch) of the slice of a step for one replica out of `total`.

        The count of rows is a multiple of `micro`; -1 stands where there is no row.
        """
        rows, lengths, full = self._planned(step)
        share = -(-full // (total * micro)) * micro
        filled = np.full(share, -1, "int64")
        own = rows[replica * share : (replica + 1) * share]
        filled[: len(own)] = own
        return filled, lengths, step // self.steps_per_epoch

    def batches(
        self,
        first_step: int = 0,
        last_step: int | None = None,
        *,
        replicas: range = range(1),
        total: int = 1,
        micro: int = 1,
    ) -> tf.data.Dataset:
        """Batches from `first_step` to before `last_step` (one epoch by default), in order.

        Args:
            first_step, last_step: optimizer steps, counted from 0 over all epochs.
            replicas: which of the `total` replicas' slices to make; a step gives one element for each.
            total: number of replicas that share the global batch.
            micro: micro-batches (gradient accumulation) that will share a replica's slice.
        """
        if last_step is None:
            last_step = (first_step // self.steps_per_epoch + 1) * self.steps_per_epoch
        # static where every batch has the same
        fulls = {full for _, _, full in self._plan(0)}
        share = -(-fulls.pop() // (total * micro)) * micro if len(fulls) == 1 else None
        static_lengths = self.edges[0] if len(self.edges) == 1 else None

        def numbers(index):
            step, replica = divmod(int(index), len(replicas))
            rows, lengths, epoch = self.part(step, replicas[replica], total, micro)
            return rows, np.asarray(lengths, "int32"), np.int32(epoch)

        @tf.autograph.experimental.do_not_convert
        def choose(index):
            rows, lengths, epoch = tf.numpy_function(numbers, [index], (tf.int64, tf.int32, tf.int32), stateful=False)
            shapes = (share,), (self.lengths.shape[1],), ()
            return tuple(tf.ensure_shape(x, shape) for x, shape in zip((rows, lengths, epoch), shapes, strict=True))

        # not from_generator: in Python 3.11 it makes malloc hand all that is large back to the system (ApplyPython311-
        # MemoryPatch), and every operation from then on waits for new pages
        rows = tf.data.Dataset.range(first_step * len(replicas), last_step * len(replicas)).map(choose)
        # flat columns live on the host once, outside the graph
        with tf.device("CPU:0"):
            columns = {
                name: Ragged(*(tf.constant(part) for part in column))
                if isinstance(column, Ragged)
                else tf.constant(column)
                for name, column in self.columns.items()
            }

        @tf.autograph.experimental.do_not_convert
        def gather(row, lengths, epoch):
            return self._gather(columns, row, static_lengths or tf.unstack(lengths), epoch)

        made = rows.map(gather, num_parallel_calls=PARALLEL, deterministic=True).prefetch(PARALLEL)
        options = tf.data.Options()
        # tf.data's tuner now and then sleeps through the end of its iterator, which then waits for it, up to a minute
        options.autotune.enabled = False
        return made.with_options(options)

    def _gather(self, columns: dict, row, lengths, epoch) -> dict:
        real = row >= 0
        row_or_first = tf.maximum(row, 0)
        batch = {}
        for name, column in columns.items():
            if isinstance(column, Ragged):
                start = tf.gather(column.offsets, row_or_first)
                count = tf.where(real, tf.gather(column.offsets, row_or_first + 1) - start, 0)
                at = tf.range(tf.cast(lengths[self._side(name)], tf.int64))[None]  # (1, length)
                inside = at < count[:, None]
                value = tf.gather(column.values, tf.where(inside, start[:, None] + at, 0))
                batch[name] = tf.where(inside, value, tf.cast(self.pad.get(name, 0), value.dtype))
                if name == "token_ids":
                    batch["valid"] = tf.cast(inside, tf.int32)
                elif name == "targets" and self._side(name):
                    batch["target_weights"] = tf.cast(inside, tf.float32)
            else:
                batch[name] = tf.gather(column, row_or_first)
        return self._finish(batch, row, lengths, epoch)

    def _finish(self, batch: dict, row, lengths, epoch) -> dict:
        """Rows with their noise, weights and numbers."""
        if self.noise is not None:
            key = tf.stack([tf.constant(self.seed & 0x7FFFFFFF, tf.int32), tf.cast(epoch, tf.int32)])

            def noised(example):
                row_seed = tf.random.experimental.stateless_fold_in(key, example["row_number"])
                return self.noise({name: example[name] for name in batch}, row_seed, lengths[0])

            examples = {**batch, "row_number": tf.cast(row, tf.int32)}
            first = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape[1:], x.dtype), examples)
            spec = tf.function(noised).get_concrete_function(first).structured_outputs
            spec = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), spec)
            batch = tf.map_fn(noised, examples, fn_output_signature=spec)
        batch["weight"] = tf.cast(row >= 0, tf.float32)
        batch["row"] = row
        return batch

    def distribute(
        self, strategy: tf.distribute.Strategy, first_step: int, last_step: int, micro: int = 1
    ) -> tf.distribute.DistributedDataset:
        """`batches`, each worker making the slices of its own replicas only.

        Keeps count in `arrived`: the steps, from step 0 on, whose batches have left the pipeline, and when the last
        one did, by `time.monotonic`.
        """
        self.arrived = first_step, time.monotonic()

        def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
            total = context.num_replicas_in_sync
            local = total // context.num_input_pipelines
            first = context.input_pipeline_id * local
            made = self.batches(first_step, last_step, replicas=range(first, first + local), total=total, micro=micro)
            slices = first_step * local

            def count():
                nonlocal slices
                slices += 1
                self.arrived = slices // local, time.monotonic()

            @tf.autograph.experimental.do_not_convert
            def counted(batch: dict) -> dict:
                tf.numpy_function(count, [], [])
                return batch

            return made.map(counted)

        return strategy.distribute_datasets_from_function(of_worker)
