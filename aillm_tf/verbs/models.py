"""What the verbs work on: the model inside a run, a saved model, or an export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path


def is_ours(path: str) -> bool:
    """Whether a folder is a run, of which training may not have come to its end, or a saved model."""
    root = Path(path)
    run = (root / "config.yaml").is_file() and not (root / "config.json").is_file()
    return run or any((folder / "task.json").is_file() for folder in _saved(root))


def find_model(path: str, exports: bool = True) -> Path:
    """The folder to load inside a run, a saved model or an export (whose newest version is taken).

    Args:
        path: what the user named.
        exports: whether an export will do.

    Returns:
        A folder with task.json, or with saved_model.pb.

    Raises:
        FileNotFoundError: what was looked for and what to do.
    """
    root = Path(path)
    for folder in _saved(root):
        if (folder / "task.json").is_file():
            return folder
    versions = sorted((p for p in root.glob("*/saved_model.pb") if p.parent.name.isdigit()), key=_version)
    for file in (root / "saved_model.pb", *reversed(versions)):
        if exports and file.is_file():
            return file.parent
    if not root.exists():
        raise FileNotFoundError(f"{path}: no such folder")
    if (root / "config.yaml").is_file():
        raise FileNotFoundError(f"{path} is a run without a model: train it to the end with the same command as before")
    wanted = "a run (model/task.json)" + (" or an export (saved_model.pb)" if exports else "")
    raise FileNotFoundError(f"{path} is not {wanted}")


def answerer(folder: Path) -> Callable[[list[str]], list[dict]]:
    """A function from texts to answers; the parts of a pair are separated by a tab.

    Args:
        folder: what find_model gave. An export needs only TensorFlow and tensorflow-text.

    Returns:
        texts -> one dict a text, e.g. ``{"label": "positive", "score": 0.98, "probabilities": {...}}``.
    """
    from aillm_tf.export.client import columns_of, read_rows

    if (folder / "task.json").is_file():
        import aillm_tf

        task = aillm_tf.load(folder)
        inputs = list(task.serving_inputs)

        def from_task(texts: list[str]) -> list[dict]:
            columns = columns_of(texts, inputs)
            return task.answer(list(zip(*columns.values(), strict=True)) if len(inputs) > 1 else texts)

        return from_task

    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the ops of the tokenizer in the graph

    loaded = tf.saved_model.load(str(folder))
    function = loaded.signatures["serving_default"]
    about_file = folder / "serving" / "model.json"
    about = json.loads(about_file.read_text(encoding="utf-8")) if about_file.is_file() else {}
    inputs = about.get("inputs") or sorted(function.structured_input_signature[1], key=lambda name: name != "text")

    def from_export(texts: list[str]) -> list[dict]:
        outputs = function(**{name: tf.constant(column) for name, column in columns_of(texts, inputs).items()})
        names = sorted(about.get("outputs") or outputs, key=lambda name: name == "probabilities")  # the longest last
        columns = {name: _plain(outputs[name].numpy()) for name in names}
        return read_rows(columns, about.get("labels", []))

    from_export.loaded = loaded  # the signature does not keep its variables alive
    return from_export


def _saved(root: Path) -> tuple[Path, ...]:
    """Where a saved model may be in a folder."""
    return root / "model", root / "pretrained" / "model", root


def _version(file: Path) -> int:
    return int(file.parent.name)


def _plain(array) -> list:
    """A numpy array as JSON-ready lists; strings are bytes in TensorFlow."""
    if array.dtype == object:
        return [item.decode("utf-8") if isinstance(item, bytes) else _plain(item) for item in array]
    return array.tolist()
