"""The peer KerasHub on TensorFlow: Keras's own training step of its BERT as StableHLO, for `tpu_compile`.

Command:
    cd benchmarks && python -m peers.keras_hub_tpu --layers 2 --out keras_hub.mlir
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import keras_hub
import tensorflow as tf
from harness import BATCH, CLASSES, LEARNING_RATE, LENGTH, WEIGHT_DECAY, report
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.ops import stateless_random_ops

from aillm_tf.tpu.lower import THREEFRY, new_values, updated_in_place


def device_uniform(shape, seed, minval=0, maxval=None, dtype=tf.float32, name=None, alg="auto_select"):
    """What `stateless_random_uniform` is on a TPU: 32 bits of the device's generator, as a float in [0, 1)."""
    state = tf.cast(tf.bitcast(seed, tf.uint32) if seed.dtype == tf.int32 else seed, tf.uint64)
    _, bits = gen_xla_ops.xla_rng_bit_generator(THREEFRY, state, tf.convert_to_tensor(shape), dtype=tf.uint32)
    fraction = tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32))
    between_1_and_2 = tf.bitcast(tf.bitwise.bitwise_or(fraction, tf.constant(0x3F800000, tf.uint32)), tf.float32)
    return tf.cast(between_1_and_2 - 1.0, dtype)


def make_model(layers: int) -> keras.Model:
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=30522,
        num_layers=layers,
        num_heads=12,
        hidden_dim=768,
        intermediate_dim=3072,
        dropout=0.1,
        max_sequence_length=512,
    )
    model = keras_hub.models.BertTextClassifier(backbone, num_classes=CLASSES, dropout=0.1)
    model.compile(
        optimizer=keras.optimizers.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    model.optimizer.build(model.trainable_variables)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    model = make_model(options.layers)
    # lowered for a CPU, TensorFlow's own generator would be thousands of operations
    stateless_random_ops.stateless_random_uniform = device_uniform
    ids, labels = tf.zeros((BATCH, LENGTH), tf.int32), tf.zeros((BATCH,), tf.int32)
    names = ("token_ids", "segment_ids", "padding_mask")
    model._symbolic_build(data_batch=(dict.fromkeys(names, ids), labels))  # the loss's metric, as `fit` does it

    @tf.function(jit_compile=True, autograph=False)
    def step(*tensors):
        return model.train_step((dict(zip(names, tensors[:3], strict=True)), tensors[3]))

    inputs = (ids, ids, ids, labels)
    text = step.experimental_get_compiler_ir(*inputs)(stage="stablehlo")
    text = re.sub(r"(rng_bit_generator .*algorithm = +)THREE_FRY", r"\1DEFAULT", text)
    outputs = len(step.get_concrete_function(*inputs).outputs)
    Path(options.out).write_text(updated_in_place(text, new_values(text, outputs)), encoding="utf-8")
    report(parameters=sum(v.shape.num_elements() for v in model.trainable_variables))
