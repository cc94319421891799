"""BERT as Hugging Face writes it: its configuration and the names of its tensors.

A family is this one file: tables, and two functions for the configuration. What is done with them stands in
:mod:`aillm_tf.weights.loading`: a ``kernel`` is the transposed torch weight (or several of them, side by side), and
everything else is taken as it is (or end to end).

Reference: Devlin et al., 2019, BERT: Pre-training of Deep Bidirectional Transformers, https://arxiv.org/abs/1810.04805
"""

from __future__ import annotations

from aillm_tf.models.config import TransformerConfig

# Models that transformers saves without a head have no "bert." in front of their names.
PREFIX = "bert."
ROOTS = ("bert.", "cls.", "classifier.", "qa_outputs.")

_LAYER = "bert.encoder.layer.{i}."
_SELF = _LAYER + "attention.self."

# our name: the checkpoint's name or names
BACKBONE = {
    "backbone/embeddings/token": ("bert.embeddings.word_embeddings.weight",),
    "backbone/embeddings/position": ("bert.embeddings.position_embeddings.weight",),
    "backbone/embeddings/segment": ("bert.embeddings.token_type_embeddings.weight",),
    "backbone/embeddings/norm/scale": ("bert.embeddings.LayerNorm.weight",),
    "backbone/embeddings/norm/bias": ("bert.embeddings.LayerNorm.bias",),
}
LAYER = {
    "backbone/encoder/layer_{i}/attention/qkv/kernel": (
        _SELF + "query.weight",
        _SELF + "key.weight",
        _SELF + "value.weight",
    ),
    "backbone/encoder/layer_{i}/attention/qkv/bias": (_SELF + "query.bias", _SELF + "key.bias", _SELF + "value.bias"),
    "backbone/encoder/layer_{i}/attention/out/kernel": (_LAYER + "attention.output.dense.weight",),
    "backbone/encoder/layer_{i}/attention/out/bias": (_LAYER + "attention.output.dense.bias",),
    "backbone/encoder/layer_{i}/attention_norm/scale": (_LAYER + "attention.output.LayerNorm.weight",),
    "backbone/encoder/layer_{i}/attention_norm/bias": (_LAYER + "attention.output.LayerNorm.bias",),
    "backbone/encoder/layer_{i}/ffn/up/kernel": (_LAYER + "intermediate.dense.weight",),
    "backbone/encoder/layer_{i}/ffn/up/bias": (_LAYER + "intermediate.dense.bias",),
    "backbone/encoder/layer_{i}/ffn/down/kernel": (_LAYER + "output.dense.weight",),
    "backbone/encoder/layer_{i}/ffn/down/bias": (_LAYER + "output.dense.bias",),
    "backbone/encoder/layer_{i}/ffn_norm/scale": (_LAYER + "output.LayerNorm.weight",),
    "backbone/encoder/layer_{i}/ffn_norm/bias": (_LAYER + "output.LayerNorm.bias",),
}
POOLER = {
    "pooler/kernel": ("bert.pooler.dense.weight",),
    "pooler/bias": ("bert.pooler.dense.bias",),
}
CLASSIFIER = {
    "classifier/kernel": ("classifier.weight",),
    "classifier/bias": ("classifier.bias",),
}
MASKED_LM = {
    "mlm/transform/kernel": ("cls.predictions.transform.dense.weight",),
    "mlm/transform/bias": ("cls.predictions.transform.dense.bias",),
    "mlm/norm/scale": ("cls.predictions.transform.LayerNorm.weight",),
    "mlm/norm/bias": ("cls.predictions.transform.LayerNorm.bias",),
    "mlm/bias": ("cls.predictions.bias",),
}

# architecture that transformers builds: the tables beside the backbone that mean there what they mean here
ARCHITECTURES = {
    None: (POOLER, CLASSIFIER, MASKED_LM),  # config.json does not say
    "BertModel": (POOLER,),
    "BertForSequenceClassification": (POOLER, CLASSIFIER),
    "BertForMaskedLM": (MASKED_LM,),
    "BertForPreTraining": (POOLER, MASKED_LM),
    "BertForTokenClassification": (),
    "BertForQuestionAnswering": (),
}
SAVED_AS = {None: "BertModel", "classification": "BertForSequenceClassification", "masked_lm": "BertForMaskedLM"}

# Written by some versions of transformers beside the tensor that they always equal.
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
# A constant 0, 1, 2, ... that older versions wrote.
BUFFERS = ("bert.embeddings.position_ids",)

# hidden_act: TransformerConfig.activation; the last name for one of ours is the one that is written
ACTIVATIONS = {
    "gelu_python": "gelu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "swish": "silu",
    "silu": "silu",
}
# TransformerConfig's name: config.json's name
SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ffn_size": "intermediate_size",
    "max_length": "max_position_embeddings",
    "segments": "type_vocab_size",
    "norm_epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "initializer_range": "initializer_range",
}
# What config.json leaves out where it is BERT's usual value, and what we cannot do where it is another.
USUAL = {"type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1}
USUAL |= {"attention_probs_dropout_prob": 0.1, "initializer_range": 0.02, "max_position_embeddings": 512}
ONLY = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def read_config(values: dict) -> TransformerConfig:
    """Reads the contents of a BERT's ``config.json``.

    Raises:
        ValueError: it lacks a size, or asks for something that the layer stack does not do.

    Example:
        >>> sizes = dict(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
        >>> read_config(sizes).segments
        2
    """
    for key, only in ONLY.items():
        if values.get(key, only) not in (only, None):
            raise ValueError(f"{key} is {values[key]!r}, only {only!r} is supported for BERT")
    activation = values.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise ValueError(f"hidden_act is {activation!r}, supported are {', '.join(ACTIVATIONS)}")
    values = USUAL | values
    missing = [theirs for theirs in SIZES.values() if theirs not in values]
    if missing:
        raise ValueError(f"has no {', '.join(missing)}")
    return TransformerConfig(
        **{ours: values[theirs] for ours, theirs in SIZES.items()}, activation=ACTIVATIONS[activation]
    )


def write_config(config: TransformerConfig) -> dict:
    """Returns the contents of ``config.json`` (without what the tokenizer and the head add).

    Raises:
        ValueError: the config is not BERT's formula, so no BERT would give the same numbers.
    """
    values = config.to_dict()
    bert = TransformerConfig(**{ours: values[ours] for ours in SIZES}, activation=config.activation)
    asked = bert.replace(
        kv_heads=config.heads if config.kv_heads == config.heads else None,
        head_size=config.head_size if config.head_width == bert.head_width else None,
        embedding_size=config.embedding_size if config.embedding_size == config.hidden_size else None,
        qkv_bias=True if config.qkv_bias else None,
        # Neither of these changes what the weights compute here.
        relative_buckets=config.relative_buckets,
        relative_max_distance=config.relative_max_distance,
        rope_theta=config.rope_theta,
        remat=config.remat,
    ).to_dict()
    differs = [f"{key}={values[key]!r}" for key in values if values[key] != asked[key]]
    if not config.segments:
        differs.append("segments=0 (BERT has at least one)")
    if differs:
        raise ValueError(f"this model is not a BERT and cannot be saved as one: {', '.join(differs)}")
    activation = {ours: theirs for theirs, ours in ACTIVATIONS.items()}[config.activation]
    sizes = {theirs: values[ours] for ours, theirs in SIZES.items()}
    return {"model_type": "bert", **sizes, "hidden_act": activation, "tie_word_embeddings": True}
