"""LoRA: y = x W + b + (alpha / rank) x A B, where W and b stay as they are and only the small A and B are trained.

The query, key and value of a block are columns of one kernel, and so are the gate and up projection of a gated
feed-forward network: each of them has an A and a B of its own, side by side.

Reference: Hu et al. 2021 (arXiv:2106.09685).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import keras
from keras import ops

from aillm_tf.layers.base import Layer, initial_seed
from aillm_tf.layers.dense import Dense

PROJECTIONS = ("query", "key", "value", "out", "gate", "up", "down")


class LoRA(Layer):
    """What is added to the output of a `Dense`.

    Args:
        units: of the layer.
        columns: name of a projection -> its first unit and the one after its last.
        rank: columns of A, rows of B.
        alpha: what is added counts alpha / rank.

    Example:
        >>> lora = LoRA(6, {"query": (0, 2), "value": (4, 6)}, rank=1, alpha=1.0)
        >>> lora.build((None, 3))
        >>> lora(ops.ones((5, 3))).shape, [w.name for w in lora.weights]
        (TensorShape([5, 6]), ['query_a', 'query_b', 'value_a', 'value_b'])
    """

    def __init__(self, units: int, columns: dict[str, tuple[int, int]], rank: int, alpha: float, *, dtype=None):
        super().__init__(name="lora", dtype=dtype)
        self.units, self.columns, self.rank, self.alpha = units, dict(columns), rank, alpha

    def build(self, input_shape):
        inputs = input_shape[-1]
        for name, (first, last) in self.columns.items():
            setattr(self, f"{name}_a", self.weight(f"{name}_a", (inputs, self.rank), inputs**-0.5))
            setattr(self, f"{name}_b", self.weight(f"{name}_b", (self.rank, last - first), "zeros"))

    def factors(self) -> tuple:
        """A of all projections (inputs, rank * projections), and (alpha / rank) B, zero elsewhere, (..., units)."""
        a = ops.concatenate([ops.convert_to_tensor(getattr(self, f"{name}_a")) for name in self.columns], axis=1)
        rows = [
            ops.pad(ops.convert_to_tensor(getattr(self, f"{name}_b")), ((0, 0), (first, self.units - last)))
            for name, (first, last) in self.columns.items()
        ]
        return a, ops.concatenate(rows, axis=0) * (self.alpha / self.rank)

    def call(self, x, columns: slice = slice(None)):
        """(tokens, inputs) -> (tokens, units); `columns` computes only those units."""
        a, b = self.factors()
        return ops.matmul(ops.matmul(x, self.cast(a)), self.cast(b[:, columns]))


def adaptable(config) -> dict[str, dict[str, tuple[int, int]]]:
    """The columns of every projection, by the end of the path of the `Dense` that has them.

    Args:
        config: a TransformerConfig.

    Example:
        >>> from aillm_tf.models.config import TransformerConfig
        >>> adaptable(TransformerConfig(vocab_size=9, hidden_size=4, layers=1, heads=2, ffn_size=8))["attention/qkv"]
        {'query': (0, 4), 'key': (4, 8), 'value': (8, 12)}
    """
    if config.cell == "lstm":
        return {}
    query, shared = config.heads * config.head_width, config.key_value_heads * config.head_width
    size, gate = config.ffn_size, {"gate": (0, config.ffn_size)} if config.gated else {}
    return {
        "attention/qkv": {
            "query": (0, query),
            "key": (query, query + shared),
            "value": (query + shared, query + 2 * shared),
        },
        "attention/out": {"out": (0, config.hidden_size)},
        "ffn/up": {**gate, "up": (len(gate) * size, (len(gate) + 1) * size)},
        "ffn/down": {"down": (0, config.hidden_size)},
    }


def add_lora(backbone: keras.layers.Layer, rank: int, alpha: float, projections: Sequence[str], seed: int) -> None:
    """Gives the blocks of a built backbone adapters, with which it computes what it did until they are trained.

    Args:
        backbone: with a `config`.
        rank, alpha: see `LoRA`.
        projections: of `PROJECTIONS`.
        seed: of A; B starts at zero.

    Raises:
        ValueError: a rank below 1, a projection that the backbone has not, or it has adapters already.
    """
    known = adaptable(backbone.config)
    names = [name for columns in known.values() for name in columns]
    if unknown := [name for name in projections if name not in names]:
        raise ValueError(f"LoRA: this backbone has no projection {unknown[0]!r}: {', '.join(names) or 'it has none'}")
    if not projections or rank < 1:
        raise ValueError(f"LoRA of rank {rank} on {list(projections)}: give at least rank 1 and one projection")
    if adapted(backbone):
        raise ValueError("the backbone has LoRA adapters already")
    for layer in backbone._flatten_layers():
        # "cross_attention/qkv" is one too
        columns = next((c for end, c in known.items() if isinstance(layer, Dense) and layer.path.endswith(end)), {})
        columns = {name: place for name, place in columns.items() if name in projections}
        if columns:
            lora = LoRA(layer.units, columns, rank, alpha, dtype=layer.dtype_policy)
            parent, _, name = layer.path.rpartition("/")
            with keras.name_scope(name, override_parent=parent), initial_seed(seed):
                lora.build((None, layer.kernel.shape[0]))
            layer._tracker.unlock()  # Keras lets no layer change once it is built, but for its own adapters
            layer.lora = lora
            layer._tracker.lock()


def adapted(layer: keras.layers.Layer) -> list[Dense]:
    """The layers with adapters."""
    return [part for part in layer._flatten_layers() if getattr(part, "lora", None) is not None]


@contextlib.contextmanager
def merged(layer: keras.layers.Layer) -> Iterator[None]:
    """Within this context the kernels are W + (alpha / rank) A B, and new graphs know of no adapters."""
    before = [(dense, dense.lora, ops.convert_to_numpy(dense.kernel)) for dense in adapted(layer)]
    try:
        for dense, lora, kernel in before:
            a, b = map(ops.convert_to_numpy, lora.factors())  # accelerators would round the factors of a product
            dense.kernel.assign(kernel + a @ b)
            dense.lora = None
        yield
    finally:
        for dense, lora, kernel in before:
            dense.kernel.assign(kernel)
            dense.lora = lora
