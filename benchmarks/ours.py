"""Our side of the benchmarks: one JSON line for a training step and an inference batch, or for epochs of SST-2.

Command:
    cd benchmarks && python -m ours step --steps 10
    cd benchmarks && python -m ours epoch --data ../../shared/data/sst2 --epochs 3
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from harness import (
    BATCH,
    CLIP_NORM,
    LEARNING_RATE,
    MAX_LENGTH,
    SEED,
    SHAPE,
    WARMUP_STEPS,
    WEIGHT_DECAY,
    random_batch,
    report,
    step_timer,
    times,
)

import aillm_tf as ai
from aillm_tf.data.pipeline import Dataset, Ragged
from aillm_tf.data.sources import labelled
from aillm_tf.layers import fast
from aillm_tf.training.step import by_halves
from aillm_tf.weights.known import MINILM

LABELS = ["0", "1"]
POLICIES = {"fp32": "float32", "bf16": "mixed_bfloat16"}


class EpochTimer(keras.callbacks.Callback):
    """Seconds of the training part of each epoch: validation is not counted."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.now = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(self.now - self.start)


def make_model(precision: str, init: str) -> ai.TextClassifier:
    model = ai.TextClassifier.from_pretrained(
        init, labels=LABELS, dtype=POLICIES[precision], max_length=MAX_LENGTH, seed=SEED
    )
    shape = {name: getattr(model.config, name) for name in SHAPE}
    if shape != SHAPE:
        raise SystemExit(f"{init} is a BERT of {shape}; the benchmark is of {SHAPE}")
    return model


def measure_step(precision: str, init: str, steps: int) -> None:
    warmup = 2
    token_ids, segment_ids, labels = random_batch()
    model = make_model(precision, init)
    model.compile(ai.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY), clip_norm=None)
    rows = BATCH * (steps + warmup)
    columns = {
        "token_ids": Ragged(np.tile(token_ids.ravel(), steps + warmup), np.arange(rows + 1) * token_ids.shape[1]),
        "label": np.tile(labels, steps + warmup),
    }
    timer = step_timer(warmup)
    data = Dataset(columns, batch_size=BATCH, max_length=MAX_LENGTH, fixed_length=True)
    model.fit(data, callbacks=[timer], verbose=0)
    features = {"token_ids": tf.constant(token_ids), "segment_ids": tf.constant(segment_ids)}

    @tf.function
    def classify(features):  # the graph that `evaluate` runs; `answer` and exports compute in float32
        with fast.fused(model.fuse_on_cpu):
            return by_halves(lambda part: ({}, model.answer_tensors(part)), features)[1]

    report(
        train_seconds=timer.seconds,
        inference_seconds=times(lambda: classify(features)["probabilities"].numpy(), steps),
        versions={"aillm_tf": ai.__version__, "tensorflow": tf.__version__, "keras": keras.__version__},
    )


def measure_epochs(precision: str, init: str, data: str, epochs: int, limit: int | None) -> None:
    model = make_model(precision, init)

    def rows(name: str):
        table = labelled(str(Path(data) / f"{name}.tsv"), labels=LABELS)
        return dataclasses.replace(table, texts=table.texts[:limit], label_ids=table.label_ids[:limit])

    train = model.dataset(rows("train"), batch_size=BATCH, shuffle=True, seed=SEED)
    steps = epochs * train.steps_per_epoch
    optimizer = ai.adamw(LEARNING_RATE, steps=steps, warmup=min(WARMUP_STEPS, steps), weight_decay=WEIGHT_DECAY)
    model.compile(optimizer, clip_norm=CLIP_NORM)
    timer = EpochTimer()
    history = model.fit(
        train,
        validation_data=model.dataset(rows("dev"), batch_size=BATCH),
        epochs=epochs,
        callbacks=[timer],
        verbose=0,
    ).history
    report(epoch_seconds=timer.seconds, accuracy=[float(value) for value in history["val_accuracy"]], steps=steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["step", "epoch"])
    parser.add_argument("--precision", choices=list(POLICIES), default="bf16")
    parser.add_argument("--init", default=MINILM, help="folder or source of the MiniLM weights")
    parser.add_argument("--steps", type=int, default=10, help="step: how many are timed")
    parser.add_argument("--data", help="epoch: folder with train.tsv and dev.tsv")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--limit", type=int, help="epoch: rows of each file, to try it out")
    options = parser.parse_args()
    if options.what == "step":
        measure_step(options.precision, options.init, options.steps)
    else:
        measure_epochs(options.precision, options.init, options.data, options.epochs, options.limit)
