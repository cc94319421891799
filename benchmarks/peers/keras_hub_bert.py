"""The peer KerasHub on TensorFlow: one JSON line for a training step and an inference batch.

Command:
    cd benchmarks && python -m peers.keras_hub_bert step --precision bf16 --steps 10

XLA is off: on a CPU it makes this model slower.
"""

from __future__ import annotations

import argparse
import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import keras_hub
import tensorflow as tf
from harness import (
    CLASSES,
    LEARNING_RATE,
    LENGTH,
    SEED,
    SHAPE,
    WEIGHT_DECAY,
    random_batch,
    report,
    step_timer,
    times,
)


def make_model(precision: str) -> keras.Model:
    policy = {"fp32": "float32", "bf16": "mixed_bfloat16"}[precision]
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=SHAPE["vocab_size"],
        num_layers=SHAPE["layers"],
        num_heads=SHAPE["heads"],
        hidden_dim=SHAPE["hidden_size"],
        intermediate_dim=SHAPE["ffn_size"],
        dropout=SHAPE["dropout"],
        max_sequence_length=512,
        dtype=policy,
    )
    model = keras_hub.models.BertTextClassifier(backbone, num_classes=CLASSES, dropout=SHAPE["dropout"])
    model.compile(
        optimizer=keras.optimizers.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model


def measure_step(precision: str, steps: int) -> None:
    keras.utils.set_random_seed(SEED)
    token_ids, segment_ids, labels = random_batch()
    assert token_ids.shape[1] == LENGTH
    inputs = {"token_ids": token_ids, "segment_ids": segment_ids, "padding_mask": token_ids > 0}
    model = make_model(precision)
    timer = step_timer(warmup=2)
    batches = tf.data.Dataset.from_tensors((inputs, labels)).cache().repeat(steps + 2).prefetch(2)
    model.fit(batches, callbacks=[timer], shuffle=False, verbose=0)
    inputs = {name: tf.constant(value) for name, value in inputs.items()}
    report(
        train_seconds=timer.seconds,
        inference_seconds=times(lambda: model.predict_on_batch(inputs), steps),
        versions={"tensorflow": tf.__version__, "keras": keras.__version__, "keras_hub": keras_hub.__version__},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["step"])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    measure_step(options.precision, options.steps)
