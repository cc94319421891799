"""Family: all that is known of a checkpoint family, as one table; what is done with it stands in other files.

:mod:`aillm_tf.weights.configs` reads and writes config.json by it, :mod:`aillm_tf.weights.loading` and
:mod:`aillm_tf.weights.saving` the tensors. To add a family: one file with its table, one line in
:mod:`aillm_tf.weights.families`, one golden test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

Table = Mapping[str, tuple[str, ...]]  # our name -> the checkpoint's name or names, joined side by side

# name of an activation in config.json: TransformerConfig.activation; of several names for one, the last is written
ACTIVATIONS = {
    "gelu_python": "gelu",
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "swish": "silu",
    "silu": "silu",
}


@dataclasses.dataclass(frozen=True)
class Family:
    """How one `model_type` of Hugging Face writes its configuration and its tensors.

    Tensor names hold "{i}" for the number of the layer. A "kernel" is the transposed torch weight (or several, side by
    side: query, key, value; gate, up), everything else is taken as it is (or end to end).

    A table may name what only some models of the family have: a name is left out where the configuration says that the
    layer stack has no such variable (biases, qk_norm, an LM head that is tied; see :mod:`aillm_tf.weights.names`).
    """

    model_type: str
    sizes: Mapping[str, str]  # field of TransformerConfig -> key of config.json, copied as it is
    tensors: Table  # of the backbone without its layers
    layer: Table  # of one encoder layer, or of one layer of a decoder-only model
    decoder_layer: Table = dataclasses.field(default_factory=dict)
    heads: Mapping[str, Table] = dataclasses.field(default_factory=dict)  # "pooler", "classifier", "mlm", "lm" ...
    # architecture -> the heads it has; None: where config.json does not say, or says one not listed
    architectures: Mapping[str | None, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    # what a task calls its head ("classification", "tagging", "question_answering", "masked_lm", "causal_lm",
    # "seq2seq_lm"; None: the backbone alone) -> architecture
    saved_as: Mapping[str | None, str] = dataclasses.field(default_factory=dict)
    # fields that make this family's formula; "causal": True for a decoder-only one
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    usual: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # key -> value where config.json has none
    only: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # key -> the one value we can compute
    nullable: tuple[str, ...] = ()  # keys whose null says "none", while one that is missing has the usual value
    # for what is not a copy: config.json (with the usual values filled in) -> fields, and TransformerConfig -> keys;
    # both may raise ValueError
    read_more: Callable[[dict], dict] | None = None
    write_more: Callable[[Any], dict] | None = None
    prefix: str = ""  # of the backbone's tensors, where a model with a head has one and a bare one has not
    roots: tuple[str, ...] = ()  # what a full name may begin with
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)  # copy -> original, equal by construction
    buffers: tuple[str, ...] = ()  # constants some versions wrote; may hold "{i}"
    transposed: bool = True  # False: kernels are stored (inputs, outputs) (GPT-2)
    title: str = ""  # for messages: "BERT"; model_type where it is empty
    activation: str | None = "hidden_act"  # key of config.json; None: `fixed` or `read_more` gives the activation
    activations: Mapping[str, str] = dataclasses.field(default_factory=lambda: ACTIVATIONS)  # their name -> ours
    turned: tuple[str, ...] = ()  # our names of kernels stored the other way round than `transposed` says
    rows: tuple[str, ...] = ()  # checkpoint's names of vectors that it stores as (1, size): final_logits_bias
    # (whether it applies to a TransformerConfig, names that then stand in for those of the tables above)
    instead: tuple[tuple[Callable[[Any], bool], Table], ...] = ()
    # whether the LM head is tied is not in config.json: it is where it is missing or equal to what `tied` says
    tied_by_tensors: bool = False
    zeros: tuple[str, ...] = ()  # our names of vectors over the vocabulary that are 0 where the checkpoint has none
    # options of tasks that say how its heads compute; an activation of None is that of the layers
    task_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.title or self.model_type
