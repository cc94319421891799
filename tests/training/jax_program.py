"""What the tests of the JAX path run in processes of their own: `python jax_program.py FOLDER COMMAND ...`, JSON out.

KERAS_BACKEND decides which backend it is; FOLDER holds the saved tasks, whose weights both backends read.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import aillm_tf as ai
from aillm_tf.data.parallel import Parallel
from aillm_tf.data.sources import Labelled
from aillm_tf.training import cluster

TEXTS = [
    ("a stirring and funny film about the end of a long war", 1),
    ("dull", 0),
    ("the plot is thin , the jokes are old and the end is far too long in coming", 0),
    ("warm and wise", 1),
    ("an old story told with wit , heart and a fine cast", 1),
    ("a long , cold and dull film", 0),
    ("not a single joke works", 0),
    ("the cast is fine and the story holds you to the very end", 1),
    ("what a mess of a film this is , from the first scene to the last", 0),
    ("funny , fast and full of heart", 1),
    ("it has the wit of a tax form and the warmth of a cold war", 0),
    ("one of the best films about a war i have seen in a long time", 1),
    ("a wise little film with a warm heart", 1),
    ("told too fast to follow and too slow to care for", 0),
]
SHAPE = {"hidden_size": 16, "layers": 1, "heads": 4, "ffn_size": 32, "max_length": 32, "initializer_range": 0.2}
SHAPE |= {"dropout": 0.0, "attention_dropout": 0.0}
KINDS = {  # task -> (its options, changes of the shape)
    "TextClassifier": ({"labels": ["bad", "good"], "class_weights": [0.5, 2.0]}, {"segments": 2}),
    "MaskedLM": ({}, {}),
    "CausalLM": ({}, {"position": "rotary", "norm": "rms", "norm_placement": "pre", "kv_heads": 2, "gated": True}),
    "Translation": ({"max_target_length": 16}, {"decoder_layers": 1, "tie_embeddings": False}),
    "TokenClassifier": ({"labels": ["O", "B-LONG", "I-LONG"], "crf": True}, {}),
    "QuestionAnswering": ({"stride": 6, "max_question_length": 8}, {}),
    "ReplacedToken": ({"discriminator_weight": 1.0}, {}),
    "MultiTask": ({"objectives": {"masks": {"task": "MaskedLM"}, "order": {"task": "SentenceOrder"}}}, {"segments": 2}),
}
QUESTIONS = [("what is it about ?", TEXTS[0][0]), ("how is it ?", TEXTS[5][0]), ("who wrote it ?", TEXTS[11][0])]


def rows_of(name: str, task):
    """What a task learns from."""
    texts = [text for text, _ in TEXTS]
    if name == "TextClassifier":
        ids = np.array([label for _, label in TEXTS], "int32")
        return Labelled(texts, None, ids, ["bad", "good"], None, [], {})
    if name == "Translation":
        return Parallel(texts, [[" ".join(reversed(text.split()))] for text in texts], None, [])
    if name == "TokenClassifier":
        file = Path(tempfile.mkdtemp(), "rows.conll")
        lines = ("\n".join(f"{word} {'B-LONG' if len(word) > 4 else 'O'}" for word in text.split()) for text in texts)
        file.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
        return str(file)
    return [" . ".join(texts[i : i + 3]) for i in range(len(texts))] if name == "MultiTask" else texts


def make(folder: Path, kinds: list[str]) -> None:
    """Saves new tasks in a folder."""
    tokenizer = ai.train_tokenizer([f"{text} ." for text, _ in TEXTS], vocab_size=120)
    sequences = ai.train_tokenizer([text for text, _ in TEXTS], vocab_size=300, kind="bpe", use="seq2seq")
    for kind in kinds:
        options, changes = KINDS[kind]
        used = sequences if "decoder_layers" in changes or kind == "CausalLM" else tokenizer
        size = -(-used.vocab_size // 8) * 8
        config = ai.TransformerConfig(vocab_size=size, **{**SHAPE, **changes})
        getattr(ai, kind)(config, used, max_length=24, dtype="float32", **options).save(folder / kind)


class Losses(keras.callbacks.Callback):
    """The loss of every step."""

    def __init__(self):
        super().__init__()
        self.values = []

    def on_train_batch_end(self, batch, logs=None):
        self.values += self.model.step_losses.tolist()


def open_task(folder: Path, kind: str, strategy: dict, **compiled):
    """A saved task under a strategy, compiled."""
    with ai.strategy(**strategy).scope():
        task = ai.load(folder / kind, dtype="float32")
        if "dropout" in compiled:
            shape = task.config.replace(dropout=compiled.pop("dropout"))
            task = type(task)(shape, task.tokenizer, **task.options(), dtype="float32")
        optimizer = {"steps": 20, "warmup": 2, "ema": compiled.pop("ema", None)}
        task.compile(ai.adamw(5e-3, **optimizer), **compiled)
    return task


def train(task, *, steps: int = 5, batch_size: int = 6, **options) -> list[float]:
    """Losses of some steps; batches of 6 of 14 rows, so that the last of an epoch holds 2."""
    losses = Losses()
    data = task.dataset(rows_of(type(task).__name__, task), batch_size=batch_size, shuffle=True, fixed_length=True)
    task.fit(data, steps=steps, callbacks=[losses], verbose=0, **options)
    return losses.values


def curve(folder: Path, kind: str, strategy: dict, **compiled) -> dict:
    """Losses of a task from its saved weights on; and, under JAX, what a device holds then.

    That is name -> shape of a variable, and of the share of it, and of its momentum.
    """
    task = open_task(folder, kind, strategy, **compiled)
    found = {"losses": train(task), "shares": {}}
    for variable, momentum in zip(task.trainable_variables, task.optimizer.momentums, strict=True):
        if keras.backend.backend() == "jax":
            share = [v.value.addressable_shards[0].data.shape for v in (variable, momentum)]
            found["shares"][variable.path.partition("/")[2]] = [variable.shape, *share]
    return found


def scores(folder: Path, kind: str, strategy: dict, batch_size: int) -> dict:
    """What `evaluate` says of all rows, and what it says of each."""
    task = open_task(folder, kind, strategy)
    found, rows = task.evaluate(task.dataset(rows_of(kind, task), batch_size=batch_size), verbose=0, return_rows=True)
    return {"scores": found, "rows": {name: np.asarray(values).tolist() for name, values in rows.items()}}


def answers(folder: Path, kind: str, strategy: dict) -> list:
    """Answers to texts of different length."""
    texts = QUESTIONS if kind == "QuestionAnswering" else [text.replace("film", "[MASK]") for text, _ in TEXTS[:5]]
    return open_task(folder, kind, strategy).answer(texts, batch_size=3)


def resumed(folder: Path, kind: str, first: dict, then: dict, checkpoints: str) -> dict:
    """Losses of 6 steps at once, and in two parts of which the second begins with the checkpoint of the first."""
    whole = open_task(folder, kind, then)
    losses = train(whole, steps=6)
    begun = train(open_task(folder, kind, first), steps=3, checkpoints=ai.Checkpoints(checkpoints))
    task = open_task(folder, kind, then)
    begun += train(task, steps=6, checkpoints=ai.Checkpoints(checkpoints))
    same = all((a.numpy() == b.numpy()).all() for a, b in zip(task.variables, whole.variables, strict=True))
    return {"whole": losses, "parts": begun, "same_weights": same}


def broken(folder: Path, kind: str, strategy: dict) -> str:
    """The error of a run whose classifier makes numbers that are not finite."""
    task = open_task(folder, kind, strategy)
    for layer, name in ((task.pooler, "bias"), (task.classifier, "kernel")):
        getattr(layer, name).assign(np.full(getattr(layer, name).shape, 1e38, "float32"))
    try:
        train(task)
    except FloatingPointError as error:
        return str(error)


def refusals(folder: Path) -> list[str]:
    """What cannot be done under JAX says why."""
    classifier, translator = (open_task(folder, kind, {"name": "one"}) for kind in ("TextClassifier", "Translation"))
    tried = [
        lambda: classifier.export(folder / "export"),
        lambda: translator.answer(["a film"]),
        lambda: ai.strategy("mirrored"),
        lambda: ai.strategy(mesh="data=64"),
    ]
    messages = []
    for call in tried:
        try:
            call()
        except (RuntimeError, ValueError) as error:
            messages.append(str(error))
    return messages


def whole(folder: Path, kind: str, strategy: dict, out: str, **compiled) -> dict:
    """Losses of a task that is trained and saved, and then what it scores and answers."""
    task = open_task(folder, kind, strategy, **compiled)
    losses = train(task)
    task.save(out)
    found, rows = task.evaluate(task.dataset(rows_of(kind, task), batch_size=6), verbose=0, return_rows=True)
    rows = {name: np.asarray(values).tolist() for name, values in rows.items()}
    return {"losses": losses, "scores": found, "rows": rows, "answers": task.answer([text for text, _ in TEXTS])}


class Leave(keras.callbacks.Callback):
    """SIGTERM to this process after some step."""

    def __init__(self, step: int):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if self.model.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def left(folder: Path, kind: str, strategy: dict, told: bool, mine: str, shared: str) -> dict:
    """A run of 6 steps with checkpoints in `mine`, which SIGTERM after the third ends, and the one that goes on."""
    first, then, status = Losses(), Losses(), None
    for losses, place, step in ((first, mine, 3 if told else -1), (then, shared, -1)):
        task = open_task(folder, kind, strategy)
        data = task.dataset(rows_of(kind, task), batch_size=6, shuffle=True, fixed_length=True)
        options = {"checkpoints": ai.Checkpoints(place), "callbacks": [losses, Leave(step)], "verbose": 0}
        try:
            task.fit(data, steps=6, **options)
            break
        except SystemExit as error:
            status = error.code
    return {"status": status, "parts": [first.values, then.values]}


def refused(folder: Path, strategy: dict) -> list[str]:
    """What several processes cannot do says why, and so do two that are not of one mind."""
    messages = []
    try:
        cluster.agree(ai.strategy(**strategy), "a number", strategy["worker"])
    except RuntimeError as error:
        messages.append(str(error))
    for how in ({"mesh": "data=2,model=2"}, {"layout": "fully_sharded"}, {"mesh": "data=3"}):
        try:
            ai.strategy(**strategy, **how)
        except ValueError as error:
            messages.append(str(error))
    return messages


def trained(folder: Path, kind: str, strategy: dict, out: str) -> list:
    """Trains a task, saves it and answers."""
    task = open_task(folder, kind, strategy)
    train(task)
    task.save(out)
    return task.answer([text for text, _ in TEXTS])


def exported(folder: Path, out: str, export: str) -> dict:
    """Exports a saved task."""
    task = ai.load(out)
    return {"checked": task.export(export)["checked"], "answers": task.answer([text for text, _ in TEXTS])}


if __name__ == "__main__":
    called = json.loads(sys.argv[2])
    found = {}
    for label, (function, arguments, options) in called.items():
        start = time.perf_counter()
        found[label] = globals()[function](Path(sys.argv[1]), *arguments, **options)
        print(f"{label}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    print(json.dumps(found))
