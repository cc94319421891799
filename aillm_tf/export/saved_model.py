"""Export a task as a TensorFlow SavedModel: strings in, answers out, ready for TensorFlow Serving.

Keras' own export stores every weight twice and cannot hold lookup tables, so the export is a plain ``tf.Module`` that
owns the variables the two signatures read (each once), the tokenizer's tables and the label file.

An export is checked before it appears under its name: a fresh process that imports only TensorFlow and
tensorflow-text loads it, refuses ops that a stock TF Serving does not register, and answers real texts; the answers
must be those of `task.answer`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf

from aillm_tf.export import reload, serving
from aillm_tf.layers.lora import merged

TOLERANCE = 1e-4

# What people send to a text model, and what breaks tokenizers: nothing at all, spaces, case, accents, Chinese,
# emoji made of several code points, special tokens written out, an overlong word, texts past the 512 tokens of most
# encoders, but no longer: a decoder with many positions reads them whole, in one batch.
CHECK_TEXTS = (
    "A stirring, funny and finally transporting re-imagining of the fairy tale.",
    "The battery died after two weeks and nobody answers my e-mails :-(",
    "",
    "   \t ",
    "酒店位置很好,服务员也热情,下次还会再来。",
    "手机屏幕有划痕,客服不处理,非常失望!",
    "Can't wait 😀👩‍👩‍👧 #weekend @nobody https://example.com/a?b=1&c=2",
    "Zoë paid €3.50 for a naïve café crème in Kraków, ÇA VA?",
    "[SEP] what is [MASK]? [CLS] <s></s> &amp; <br/> ##ing",
    "混合 mixed 文本 with English, 123,456.78 and ①②③ ﬁn",
    "pneumonoultramicroscopicsilicovolcanoconiosis" * 5,
    "It was the best of times, it was the worst of times. " * 45,
    "他们说这部电影很长。" * 60,
)


class ExportError(RuntimeError):
    """An export that must not be served: it holds an op no server knows, or does not answer as the task does."""


def export(
    task,
    folder: str | Path,
    check_texts: Sequence[str] | Sequence[tuple[str, ...]] | None = None,
    warmup_texts: Sequence[str] | Sequence[tuple[str, ...]] | None = None,
) -> dict:
    """Writes a checked SavedModel with the files TensorFlow Serving wants beside it.

    The folder appears whole or not at all. Its signatures are those of `task.signatures`, most of them
    ``serving_default`` (the strings in `task.serving_inputs`, each ``(rows,)``, to the task's answers) and ``tokens``
    (``token_ids`` and ``segment_ids``, each ``(rows, tokens)`` int32, to the task's numbers).

    Args:
        task: A task with weights, such as a `TextClassifier`.
        folder: New or empty local folder; TF Serving wants its name to be a version number, as in ``export/1``.
        check_texts: Texts (tuples of texts where the task reads pairs) to compare answers on; None: a dozen English,
            Chinese and odd ones.
        warmup_texts: Texts for the requests that a server runs before it says it is ready; None: as `check_texts`.

    Returns:
        Facts: ``path``, ``bytes`` (the whole folder), ``weight_bytes``, ``ops`` (names), ``checked`` (texts compared),
        ``max_difference`` (of any number in any answer), ``seconds``.

    Raises:
        FileExistsError: `folder` exists and is not empty.
        ValueError: `folder` is not local, or there are no texts to check with.
        ExportError: The export cannot be served or answers otherwise than `task.answer`; nothing is left behind.

    Example:
        ``facts = model.export("export/1")``

    Reference:
        https://www.tensorflow.org/guide/saved_model
    """
    started = time.perf_counter()
    if "://" in str(folder):
        raise ValueError(f"export to a local folder, then copy it to {folder} (gcloud storage cp -r ...)")
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already: export to a new folder, such as the next version number")
    inputs = tuple(task.serving_inputs)
    check = _columns(_default_texts(inputs) if check_texts is None else check_texts, inputs)
    warmup = check if warmup_texts is None else _columns(warmup_texts, inputs)
    one_row = {name: texts[:1] for name, texts in warmup.items()}
    model = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(task).__name__).lower()
    labels = list(getattr(task, "labels", None) or ())

    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, so that the rename stays within one file system; TF Serving skips names that are no number.
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process that had the same number
    try:
        with merged(task):
            weight_bytes, outputs = _save(task, labels, partial)
        serving.write_warmup(partial, model, [one_row, warmup])
        facts = {name: getattr(task, name) for name in task.serving_facts}
        serving.write_serving(partial, model, inputs, outputs, labels, CHECK_TEXTS[0], **facts)
        ops, difference = _check(task, partial, check)
        size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return {
        "path": str(folder),
        "bytes": size,
        "weight_bytes": weight_bytes,
        "ops": ops,
        "checked": len(check[inputs[0]]),
        "max_difference": difference,
        "seconds": time.perf_counter() - started,
    }


def _default_texts(inputs: tuple[str, ...]) -> list:
    if len(inputs) == 1:
        return list(CHECK_TEXTS)
    # Each input sees every text, beside another one each time.
    shifted = [CHECK_TEXTS[shift:] + CHECK_TEXTS[:shift] for shift in range(len(inputs))]
    return list(zip(*shifted, strict=True))


def _columns(texts: Sequence, inputs: tuple[str, ...]) -> dict[str, list[str]]:
    rows = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
    if not rows:
        raise ValueError("no texts to check or warm up with: give at least one, or None for the default ones")
    for number, row in enumerate(rows):
        if len(row) != len(inputs):
            raise ValueError(f"text {number} has {len(row)} parts; this task takes {len(inputs)}: {', '.join(inputs)}")
    return {name: list(column) for name, column in zip(inputs, zip(*rows, strict=True), strict=True)}


def _save(task, labels: Sequence[str], folder: Path) -> tuple[int, list[str]]:
    """Traces and saves the signatures; returns the weights' bytes and the names of the outputs."""
    tokenizer = task.graph_tokenizer()
    with task.inference_precision():
        signatures = {
            name: tf.function(function, autograph=False).get_concrete_function(**inputs)
            for name, (function, inputs) in task.signatures(tokenizer).items()
        }
    module = tf.Module()
    module.tokenizer = tokenizer
    # Only what the answers read: pretraining heads, metrics and the optimizer's slots stay at home.
    read = {id(v): v for signature in signatures.values() for v in signature.graph.variables}
    module.weights = list(read.values())
    with tempfile.TemporaryDirectory() as scratch:
        if labels:
            path = Path(scratch, "labels.txt")
            path.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
            module.labels = tf.saved_model.Asset(str(path))
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)  # nothing trains on a server
        tf.saved_model.save(module, str(folder), signatures=signatures, options=options)
    outputs = sorted(signatures["serving_default"].structured_outputs)
    return sum(v.dtype.size * v.shape.num_elements() for v in module.weights), outputs


def _check(task, folder: Path, columns: dict[str, list[str]]) -> tuple[list[str], float]:
    """Compares the answers of a fresh process with the task's own; returns the ops and the largest difference."""
    report = fresh_process(folder, task.signature_requests(columns))
    if "refused" in report:
        listed = "\n".join(f"  {op} at {place}" for op, place in sorted(report["refused"].items()))
        raise ExportError(
            f"stock TensorFlow Serving (TensorFlow and tensorflow-text ops) cannot run these ops:\n{listed}\n"
            "Write that part of the task with TensorFlow ops; py_function and numpy_function never leave Python."
        )
    served = {name: {key: _array(rows) for key, rows in got.items()} for name, got in report["answers"].items()}
    got = {name: _read_answers(task, task.signature_answers(name, outputs)) for name, outputs in served.items()}
    texts = list(zip(*columns.values(), strict=True))
    texts = [text[0] for text in texts] if len(columns) == 1 else texts
    with _exact_float32():
        asked = {name: task.signature_texts(name, texts) for name in got}
        plain = task.answer(texts) if texts in asked.values() else None
        expected = {name: plain if rows == texts else task.answer(rows) for name, rows in asked.items()}
    largest = 0.0
    for row, text in enumerate(texts):
        leaves = {name: list(_compare(expected[name][row], answers[row])) for name, answers in got.items()}
        wrong = {name: [leaf for leaf in found if not leaf[-1] <= TOLERANCE] for name, found in leaves.items()}
        for signature, found in wrong.items():
            if found:
                where, ours, theirs, _ = found[0]
                raise ExportError(
                    f"signature {signature} answers otherwise than task.answer on text {row}, {_short(text)}: "
                    f"{where} is {theirs!r}, task.answer gives {ours!r}"
                    + ("" if wrong.get("tokens", found) else "; from the host's ids it is right: see text/graph.py")
                )
        largest = max([largest, *(leaf[-1] for found in leaves.values() for leaf in found)])
    return report["ops"], largest


def _read_answers(task, outputs: dict[str, np.ndarray]) -> list[dict]:
    answers = task.read_answers(outputs)
    # Callers read the outputs, not read_answers: an output called as a part of an answer has to say the same.
    for name in (name for name, column in outputs.items() if column.ndim == 1):
        for answer, value in zip(answers, outputs[name], strict=True):
            if name in answer:
                answer[name] = value.decode("utf-8") if isinstance(value, bytes) else value
    return answers


def fresh_process(folder: str | Path, requests: dict[str, dict]) -> dict:
    """What an export answers in a process that imports only TensorFlow and tensorflow-text.

    Args:
        folder: the export.
        requests: signature name to its input columns, e.g. `{"serving_default": {"text": ["fine"]}}`.

    Returns:
        What `aillm_tf.export.reload.report` gives.

    Raises:
        ExportError: the export does not load or does not answer there.
    """
    # On the CPU: this process may hold the accelerator, and a server mostly has none.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, reload.__file__, "--json", "--export", str(folder)]
    done = subprocess.run(command, input=json.dumps(requests), env=environment, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise ExportError(f"the export does not load in a fresh process ({' '.join(command)}):\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _array(values: list) -> np.ndarray:
    """Gives a column from JSON the dtype TensorFlow gave it: strings as bytes objects, fractions as float32."""
    leaf = values
    while isinstance(leaf, list):
        leaf = leaf[0]
    if isinstance(leaf, str):
        return np.vectorize(str.encode, otypes=[object])(np.array(values, dtype=object))
    return np.asarray(values, np.float32 if isinstance(leaf, float) else None)


def _compare(expected, got, where: str = "the answer") -> Iterator[tuple[str, object, object, float]]:
    """Walks two answers in step; yields each leaf as (where, expected, got, difference), inf where they differ."""
    if isinstance(expected, Mapping) and isinstance(got, Mapping) and expected.keys() == got.keys():
        for key in expected:
            yield from _compare(expected[key], got[key], repr(key))
    elif isinstance(expected, list | tuple) and isinstance(got, list | tuple) and len(expected) == len(got):
        for index, pair in enumerate(zip(expected, got, strict=True)):
            yield from _compare(*pair, f"{where}[{index}]")
    elif isinstance(expected, int | float | np.number) and isinstance(got, int | float | np.number):
        yield where, expected, got, abs(float(expected) - float(got))
    else:
        yield where, expected, got, 0.0 if expected == got else float("inf")


def _short(text) -> str:
    return repr(text) if len(repr(text)) <= 120 else f"{repr(text)[:100]}... ({len(repr(text))} characters)"


@contextmanager
def _exact_float32() -> Iterator[None]:
    # TensorFloat-32 keeps 10 bits of each factor, which alone moves a score by more than TOLERANCE.
    was = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(was)
