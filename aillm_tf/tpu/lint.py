"""What a TPU will refuse, or do slowly, said before anything is compiled: with the layer or option, and what to do.

`of_batch` reads shapes and types, `of_graph` the operations of a traced step, `of_model` sizes, `of_run` options and
data of a recipe.

References: https://cloud.google.com/tpu/docs/intro-to-tpu (tiles of 8 x 128), and the list of operations that
TensorFlow can compile for TPUs, https://www.tensorflow.org/xla/known_issues.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

import tensorflow as tf

from aillm_tf.data.shards import ShardDataset
from aillm_tf.training import layouts
from aillm_tf.training.strategy import on_jax

# operations that only a host can run, and why
_HOST = {
    "PyFunc": "it calls Python",
    "PyFuncStateless": "it calls Python",
    "EagerPyFunc": "it calls Python",
    "Unique": "the size of its result depends on the values",
    "UniqueV2": "the size of its result depends on the values",
    "UniqueWithCounts": "the size of its result depends on the values",
    "UniqueWithCountsV2": "the size of its result depends on the values",
    "Where": "the size of its result depends on the values",
    "Print": "it writes on the host",
    "PrintV2": "it writes on the host",
}
_MENDS = {
    "it calls Python": "write it with TensorFlow or keras.ops, or move it into the input pipeline",
    "it writes on the host": "take it out, or print from a callback",
    "it computes in float64": "cast to float32 or bfloat16",
    "it computes in int64": "cast to int32: a TPU emulates int64 by pairs of 32-bit numbers",
    "it computes with strings": "tokenize in the input pipeline; a TPU computes numbers only",
    "the size of its result depends on the values": "use a mask of a fixed size instead of taking elements out",
}
MANY_ROWS = 1_000_000  # of text, which a host tokenizes for minutes
_NO_LAYERS = {"", "gradient_tape", "while", "body", "cond", "checkpoint", "rematted_computation", "closed_call"}
_LANES, _SUBLANES = 128, 8
_MANY = 1024  # numbers of an int64 tensor that cost time; a step count costs none


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
    """Errors in the operations of a traced step, and advice, each with the layer that it stands in.

    Args:
        graph: of a concrete function; functions that it calls are looked into.
    """
    found: dict[tuple[str, str], Finding] = {}
    called = (function.graph for function in getattr(graph, "_functions", {}).values() if hasattr(function, "graph"))
    for operation in (operation for part in (graph, *called) for operation in part.get_operations()):
        why = _HOST.get(operation.type) or _by_types(operation)
        if why is not None:
            layer, level = layer_of(operation.name), "advice" if why == "it computes in int64" else "error"
            finding = Finding(level, layer, f"{operation.type}: {why}", _MENDS[why])
            found.setdefault((layer, operation.type), finding)
    return list(found.values())


def _by_types(operation: tf.Operation) -> str | None:
    if operation.type in ("Const", "Placeholder", "Assert", "NoOp", "Identity"):
        return None
    types = {tensor.dtype for tensor in (*operation.inputs, *operation.outputs)}
    if tf.string in types:
        return "it computes with strings"
    if tf.float64 in types:
        return "it computes in float64"
    wide = [tensor for tensor in operation.outputs if tensor.dtype in (tf.int64, tf.uint64)]
    return "it computes in int64" if any((tensor.shape.num_elements() or 0) >= _MANY for tensor in wide) else None


def of_lowering(message: str) -> list[Finding]:
    """Errors in the message with which TensorFlow refuses to lower a step: operations that XLA does not have.

    Example:
        >>> message = "unsupported operations: Eig (No registered 'Eig' OpKernel for ... with node {{node head_1/Eig}})"
        >>> print(of_lowering(message)[0])
        error: head: Eig: XLA has no such operation; write it with other operations of keras.ops
    """
    mend = "write it with other operations of keras.ops"
    missing = re.findall(r"(\w+) \(No registered .*?\{\{node ([^}]*)\}\}", message)
    if missing:
        return [
            Finding("error", layer_of(name), f"{kind}: XLA has no such operation", mend)
            for kind, name in dict.fromkeys(missing)
        ]
    node = re.search(r"\{\{node ([^}]*)\}\}", message)
    where = layer_of(node[1]) if node else "the step itself"
    return [Finding("error", where, f"XLA cannot compile it: {' '.join(message.split())[:300]}", mend)]


def of_memory(error, rows: int, remat: bool) -> Finding:
    """The error of a step that does not fit.

    Args:
        error: an `aillm_tf.tpu.compiler.OutOfMemory`.
        rows: of a batch on one chip.
        remat: whether its blocks are computed again already.
    """
    giga = 1 << 30
    what = f"it needs {error.used / giga:.2f} GiB of the {error.capacity / giga:.2f} GiB of a chip"
    largest = [f"{layer_of(name)} {shape} {size / giga:.2f} GiB" for size, name, shape in error.largest if name]
    if largest:
        what += f"; largest: {', '.join(dict.fromkeys(largest[:3]))}"
    options = ["fewer rows" if rows > 1 else "shorter rows", "training.accumulate", *([] if remat else ["remat"])]
    return Finding("error", f"{rows} rows on a chip", what, f"give {', '.join(options)}, or ask --fit what fits")


def layer_of(operation: str) -> str:
    """The layer in the name of an operation.

    Example:
        >>> layer_of("backbone_1/encoder_1/layer_0_1/attention_1/Softmax")
        'backbone/encoder/layer_0/attention'
        >>> layer_of("jit(step)/transpose(jvp(backbone))/encoder/layer_0/ffn/up/reshape")
        'backbone/encoder/layer_0/ffn/up'
        >>> layer_of("Softmax")
        'the step itself'
    """
    # JAX puts the names of its functions between the scopes, and derivatives around the first of a path
    operation = re.sub(r"^.*\bjvp\(|\bjit\([^()]*\)/|\)", "", operation)
    # Keras numbers the scopes of a layer that is called again; a block has a number of its own
    scopes = [re.sub(r"^(layer_\d+|(?!layer_\d+$).*?)_\d+$", r"\1", scope) for scope in operation.split("/")[:-1]]
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


def of_run(training, sources: Iterable[str], data, topology) -> list[Finding]:
    """Advice about how a run is fed and driven.

    Args:
        training: the `Training` options as they were given.
        sources: paths and uris that the recipe reads.
        data: the training `Dataset`, every row of the full length.
        topology: the slice.
    """
    found = []

    def advise(where: str, what: str, mend: str) -> None:
        found.append(Finding("advice", where, what, mend))

    if training.steps_per_execution < 10:
        what = f"after every {training.steps_per_execution} steps the TPU waits for the host"
        advise("training.steps_per_execution", what, "give 20 or more")
    if training.fixed_length is False:
        what = "batches of several lengths: the step is compiled anew for each"
        advise("training.fixed_length", what, "leave it out: on a TPU all rows get the full length")
    if training.batch_warmup is not None:
        what = "growing batches: the step is compiled for each of four sizes"
        advise("training.batch_warmup", what, "nothing, where minutes of compiling do not matter")
    if training.strategy not in ("auto", "tpu"):
        advise("training.strategy", f"{training.strategy} does not use a TPU", "give tpu")
    full = data.batch_rows(0)[2]
    share = -(-full // (topology.replicas * training.accumulate)) * training.accumulate
    if more := share * topology.replicas - full:
        # batches are filled up rather than their remainder dropped: nothing is lost, but time
        what = f"{full} rows on {topology.replicas} replicas: {more} of {full + more} computed rows only fill up"
        advise("training.batch_size", what, f"a multiple of {topology.replicas * training.accumulate}")
    local = [source for source in sources if "://" not in source]
    if topology.hosts > 1 and on_jax() and layouts.splits_weights(training.mesh, training.layout):
        what = f"{topology.name} has {topology.hosts} hosts, over which weights cannot be split yet"
        advise("--mesh", what, f"data={topology.devices}, or a slice of one host")
    if topology.hosts > 1 and local:
        what = f"{local[0]} has to be on the disk of all {topology.hosts} hosts"
        advise("data", what, "put it into a bucket near the TPU and give gs://...")
    if not isinstance(data, ShardDataset) and len(data) > MANY_ROWS:
        advise(
            "data", f"each host tokenizes {len(data):,} rows before it starts", "`aillm prepare` once, train on that"
        )
    if data.padding_fraction > 0.5:
        what = f"{data.padding_fraction:.0%} of what is computed is padding"
        advise("model.max_length", what, "a shorter one, or packed rows where the task has them")
    return found
