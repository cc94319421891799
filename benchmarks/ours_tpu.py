"""Our side of `tpu_compile`: one training step as StableHLO.

Command:
    cd benchmarks && python -m ours_tpu --layers 2 --out ours.mlir
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tensorflow as tf
from harness import BATCH, LEARNING_RATE, LENGTH, WEIGHT_DECAY, report

import aillm_tf as ai
from aillm_tf.tpu.lower import train_program

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    # the tokens do not matter, the table has its full size
    tokenizer = ai.train_tokenizer(["to be or not to be"], kind="wordpiece", vocab_size=40, use="encoder")
    config = ai.preset("bert-base", 30522, layers=options.layers)
    task = ai.TextClassifier(config, tokenizer, labels=["0", "1"], dtype="mixed_bfloat16", max_length=LENGTH)
    task.compile(ai.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY), clip_norm=None)
    batch = {name: tf.TensorSpec((BATCH, LENGTH), tf.int32) for name in ("token_ids", "segment_ids", "valid")}
    batch |= {"label": tf.TensorSpec((BATCH,), tf.int32), "weight": tf.TensorSpec((BATCH,), tf.float32)}
    Path(options.out).write_text(train_program(task, batch, replicas=1).text, encoding="utf-8")
    report(parameters=sum(v.shape.num_elements() for v in task.trainable_variables))
