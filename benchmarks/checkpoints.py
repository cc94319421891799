"""How much checkpoints cost training: seconds a step without any, written in the background, and written in between.

A BERT of 6 layers x 384 (22.7 M parameters, 272 MB a checkpoint with the optimizer), batch 16 x 128, a checkpoint every
20 steps. The three ways alternate within one process, on the same compiled step.

Command (about 3 minutes on 2 cores):
    python benchmarks/checkpoints.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main(options: argparse.Namespace) -> None:
    import numpy as np
    import tensorflow as tf

    import aillm_tf as ai
    from aillm_tf.training.step import make_train_function

    words = [f"w{i}" for i in range(200)]
    tokenizer = ai.train_tokenizer([" ".join(words)] * 2, vocab_size=300)
    config = ai.preset("minilm", 30522, dropout=0.0, attention_dropout=0.0)
    model = ai.MaskedLM(config, tokenizer, max_length=128)
    model.compile(ai.adamw(1e-4))
    texts = [" ".join(np.random.default_rng(i).choice(words, 120)) for i in range(64)]
    data = model.dataset(texts, batch_size=16, fixed_length=True)
    step = make_train_function(model)
    iterator = iter(data.distribute(model.strategy, 0, 10**6))

    def seconds(save) -> float:
        """A step's mean over a stretch of steps that begins with a checkpoint."""
        begin = time.perf_counter()
        if save is not None:
            save()
        for _ in range(options.every):
            step(iterator, tf.constant(1))["loss"].numpy()
        return (time.perf_counter() - begin) / options.every

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        checkpoints = ai.Checkpoints(folder, keep=1)
        number = iter(range(1, 10**6))

        def background():
            checkpoints.save_in_background(next(number), model.state(), {})

        def between():
            checkpoints.wait()
            checkpoints.save(next(number), model.state(), {})

        seconds(None)
        ways = {"none": None, "in the background": background, "in between": between}
        found = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, save in ways.items():
                found[name].append(seconds(save))
                checkpoints.wait()
    for name, values in found.items():
        more = statistics.median(a / b for a, b in zip(values, found["none"], strict=True)) - 1
        print(f"{name:20} {statistics.median(values):.4f} s/step  {more:+.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=20, help="steps from one checkpoint to the next")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to write; default: the system's temporary folder")
    main(parser.parse_args())
