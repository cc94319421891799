"""What a TPU will refuse, or do slowly, said before anything is compiled: with the layer, and what to do.

References: https://cloud.google.com/tpu/docs/intro-to-tpu (tiles of 8 x 128), and the list of operations that
TensorFlow can compile for TPUs, https://www.tensorflow.org/xla/known_issues.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

import tensorflow as tf

# operations that only a host can run, and why
_HOST = {
    "PyFunc": "it calls Python",
    "PyFuncStateless": "it calls Python",
    "EagerPyFunc": "it calls Python",
    "Unique": "the size of its result depends on the values",
    "UniqueV2": "the size of its result depends on the values",
    "Where": "the size of its result depends on the values",
    "PrintV2": "it writes on the host",
}
_MENDS = {
    "it calls Python": "write it with TensorFlow or keras.ops, or move it into the input pipeline",
    "it writes on the host": "take it out, or print from a callback",
    "it computes in float64": "cast to float32 or bfloat16",
    "it computes with strings": "tokenize in the input pipeline; a TPU computes numbers only",
    "the size of its result depends on the values": "use a mask of a fixed size instead of taking elements out",
}
_NO_LAYERS = {"gradient_tape", "while", "body", "cond"}
_LANES, _SUBLANES = 128, 8


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing to change.

    Attributes:
        level: "error": a TPU refuses it; "advice": it works, slower than need be.
        where: the layer, feature or option.
        what: what is wrong.
        mend: what to do.
    """

    level: str
    where: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.what}; {self.mend}"


class Refused(ValueError):
    """What a TPU would refuse; `findings` has every error."""

    def __init__(self, findings: Iterable[Finding]):
        self.findings = list(findings)
        super().__init__("\n".join(map(str, self.findings)))


def of_batch(batch: Mapping[str, tf.TensorSpec]) -> list[Finding]:
    """Errors in the shapes and types of a batch."""
    found = []
    for name, spec in batch.items():
        where = f"feature {name!r}"
        if spec.dtype == tf.string:
            found.append(Finding("error", where, "it holds strings", _MENDS["it computes with strings"]))
        elif spec.dtype in (tf.int64, tf.uint64, tf.float64):
            narrow = {"int64": "int32", "uint64": "uint32", "float64": "float32"}[spec.dtype.name]
            mend = f"cast it to {narrow} in the input pipeline"
            found.append(Finding("error", where, f"it is {spec.dtype.name}, which a TPU emulates", mend))
        if spec.shape.rank is None or None in spec.shape.as_list():
            mend = "give training.fixed_length true (and batch_size, not tokens_per_batch)"
            found.append(Finding("error", where, f"its shape {spec.shape} is not static", mend))
    return found


def of_graph(graph: tf.Graph) -> list[Finding]:
    """Errors in the operations of a traced step, each with the layer that it stands in.

    Args:
        graph: of a concrete function; functions that it calls are looked into.
    """
    found: dict[tuple[str, str], Finding] = {}
    called = (function.graph for function in getattr(graph, "_functions", {}).values() if hasattr(function, "graph"))
    for operation in (operation for part in (graph, *called) for operation in part.get_operations()):
        why = _HOST.get(operation.type) or _by_types(operation)
        if why is not None:
            layer = layer_of(operation.name)
            finding = Finding("error", layer, f"{operation.type}: {why}", _MENDS[why])
            found.setdefault((layer, operation.type), finding)
    return list(found.values())


def _by_types(operation: tf.Operation) -> str | None:
    if operation.type in ("Const", "Placeholder", "Assert", "NoOp", "Identity"):
        return None
    types = {tensor.dtype for tensor in (*operation.inputs, *operation.outputs)}
    if tf.string in types:
        return "it computes with strings"
    return "it computes in float64" if tf.float64 in types else None


def layer_of(operation: str) -> str:
    """The layer in the name of an operation.

    Example:
        >>> layer_of("backbone_1/encoder_1/layer_0_1/attention_1/Softmax")
        'backbone/encoder/layer_0/attention'
        >>> layer_of("Softmax")
        'the step itself'
    """
    # Keras numbers the scopes of a layer that is called again; a block has a number of its own
    scopes = [re.sub(r"^(layer_\d+|.*?)_\d+$", r"\1", scope) for scope in operation.split("/")[:-1]]
    return "/".join(scope for scope in scopes if scope not in _NO_LAYERS) or "the step itself"


def of_model(task, rows: int) -> list[Finding]:
    """Advice about sizes: a TPU computes tiles of 8 x 128, what does not fill one is computed all the same.

    Args:
        task: a Task.
        rows: of a batch on one chip.
    """
    config, found = task.config, []
    sizes = {
        "hidden_size": config.hidden_size,
        "ffn_size": config.ffn_size,
        "vocab_size": config.vocab_size,
        "max_length": task.max_length,
    }
    for name, size in sizes.items():
        if size % _LANES:
            more = -size % _LANES
            what = f"{size} is not a multiple of {_LANES}: {more / (size + more):.0%} of the tiles is padding"
            found.append(Finding("advice", name, what, f"{size + more} costs the same"))
    if config.head_width % _LANES and config.heads > 1:
        what = f"{config.head_width} of {_LANES} lanes are used in attention"
        found.append(Finding("advice", "head width", what, "fewer and wider heads, where there is a choice"))
    if rows % _SUBLANES:
        found.append(
            Finding("advice", "batch_size", f"{rows} rows on a chip", f"a multiple of {_SUBLANES} fills the tiles")
        )
    return found
