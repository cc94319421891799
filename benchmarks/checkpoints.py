"""How much checkpoints cost training: seconds a step without any, written in the background, and written in between.

A BERT of 6 layers x 384 (22.7 M parameters, 272 MB a checkpoint with the optimizer), batch 16 x 128, a checkpoint every
20 steps. The three ways alternate within one process, on the same compiled step. The last line counts processor time,
which other programs on the machine disturb less than the clock's: what a checkpoint takes of that of its steps.

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

    def seconds(save) -> tuple[float, float]:
        """A step's mean over a stretch of steps that begins with a checkpoint: on the clock, and of all processors."""
        begin, used = time.perf_counter(), time.process_time()
        if save is not None:
            save()
        for _ in range(options.every):
            step(iterator, tf.constant(1))["loss"].numpy()
        return (time.perf_counter() - begin) / options.every, (time.process_time() - used) / options.every

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        checkpoints = ai.Checkpoints(folder, keep=1)
        number = iter(range(1, 10**6))

        def counted(name, function, *given):
            begin = time.thread_time()
            result = function(*given)
            used[name].append(time.thread_time() - begin)
            return result

        write, used = checkpoints.save, {"copied": [], "written": []}
        checkpoints.save = lambda *given: counted("written", write, *given)

        def background():
            checkpoints.save_in_background(next(number), counted("copied", model.state), {})

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
    clock = {name: [wall for wall, _ in values] for name, values in found.items()}
    for name, values in clock.items():
        more = statistics.median(a / b for a, b in zip(values, clock["none"], strict=True)) - 1
        print(f"{name:20} {statistics.median(values):.4f} s/step  {more:+.1%}")
    copied, written = (statistics.median(used[name]) for name in ("copied", "written"))
    steps = options.every * statistics.median(processors for _, processors in found["none"])
    print(
        f"processor time: {copied:.2f} s copied in between steps, {written:.2f} s written in the background, "
        f"{(copied + written) / steps:.1%} of the {steps:.1f} s of {options.every} steps"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=20, help="steps from one checkpoint to the next")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to write; default: the system's temporary folder")
    main(parser.parse_args())
