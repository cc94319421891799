"""ALBERT as Hugging Face writes it: one layer used again and again, and a token table narrower than the stack.

Reference: Lan et al., 2020, ALBERT: A Lite BERT for Self-supervised Learning of Language Representations,
https://arxiv.org/abs/1909.11942
"""

from __future__ import annotations

from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights import bert
from aillm_tf.weights.family import Family

_LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.{i}."
_SELF = _LAYER + "attention."


def _read_more(values: dict) -> dict:
    if values["embedding_size"] == values["hidden_size"]:
        raise ValueError(
            f"embedding_size and hidden_size are both {values['hidden_size']}: the projection that ALBERT has also "
            "then is not supported"
        )
    return {}


def _write_more(config: TransformerConfig) -> dict:
    return {"num_hidden_groups": 1, "inner_group_num": 1}


FAMILY = Family(
    model_type="albert",
    title="ALBERT",
    sizes={**bert.FAMILY.sizes, "embedding_size": "embedding_size"},
    fixed={"shared_layers": True},
    usual={
        **bert.FAMILY.usual,
        "embedding_size": 128,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    only={
        "num_hidden_groups": 1,
        "inner_group_num": 1,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
    },
    read_more=_read_more,
    write_more=_write_more,
    task_options={"pooler_activation": "tanh", "transform_activation": None},
    prefix="albert.",
    roots=("albert.", "predictions.", "sop_classifier.", "classifier.", "qa_outputs."),
    tensors={
        "backbone/embeddings/token": ("albert.embeddings.word_embeddings.weight",),
        "backbone/embeddings/position": ("albert.embeddings.position_embeddings.weight",),
        "backbone/embeddings/segment": ("albert.embeddings.token_type_embeddings.weight",),
        "backbone/embeddings/norm/scale": ("albert.embeddings.LayerNorm.weight",),
        "backbone/embeddings/norm/bias": ("albert.embeddings.LayerNorm.bias",),
        "backbone/embeddings/projection/kernel": ("albert.encoder.embedding_hidden_mapping_in.weight",),
        "backbone/embeddings/projection/bias": ("albert.encoder.embedding_hidden_mapping_in.bias",),
    },
    layer={
        "backbone/encoder/layer_{i}/attention/qkv/kernel": (
            _SELF + "query.weight",
            _SELF + "key.weight",
            _SELF + "value.weight",
        ),
        "backbone/encoder/layer_{i}/attention/qkv/bias": (
            _SELF + "query.bias",
            _SELF + "key.bias",
            _SELF + "value.bias",
        ),
        "backbone/encoder/layer_{i}/attention/out/kernel": (_SELF + "dense.weight",),
        "backbone/encoder/layer_{i}/attention/out/bias": (_SELF + "dense.bias",),
        "backbone/encoder/layer_{i}/attention_norm/scale": (_SELF + "LayerNorm.weight",),
        "backbone/encoder/layer_{i}/attention_norm/bias": (_SELF + "LayerNorm.bias",),
        "backbone/encoder/layer_{i}/ffn/up/kernel": (_LAYER + "ffn.weight",),
        "backbone/encoder/layer_{i}/ffn/up/bias": (_LAYER + "ffn.bias",),
        "backbone/encoder/layer_{i}/ffn/down/kernel": (_LAYER + "ffn_output.weight",),
        "backbone/encoder/layer_{i}/ffn/down/bias": (_LAYER + "ffn_output.bias",),
        "backbone/encoder/layer_{i}/ffn_norm/scale": (_LAYER + "full_layer_layer_norm.weight",),
        "backbone/encoder/layer_{i}/ffn_norm/bias": (_LAYER + "full_layer_layer_norm.bias",),
    },
    heads={
        "pooler": {"pooler/kernel": ("albert.pooler.weight",), "pooler/bias": ("albert.pooler.bias",)},
        "classifier": bert.FAMILY.heads["classifier"],
        "tagger": bert.FAMILY.heads["tagger"],
        "spans": bert.FAMILY.heads["spans"],
        "mlm": {
            "mlm/transform/kernel": ("predictions.dense.weight",),
            "mlm/transform/bias": ("predictions.dense.bias",),
            "mlm/norm/scale": ("predictions.LayerNorm.weight",),
            "mlm/norm/bias": ("predictions.LayerNorm.bias",),
            "mlm/bias": ("predictions.bias",),
        },
    },
    architectures={
        None: ("pooler", "classifier", "mlm"),
        "AlbertModel": ("pooler",),
        "AlbertForSequenceClassification": ("pooler", "classifier"),
        "AlbertForMaskedLM": ("mlm",),
        "AlbertForPreTraining": ("pooler", "mlm"),
        "AlbertForTokenClassification": ("tagger",),
        "AlbertForQuestionAnswering": ("spans",),
    },
    saved_as={
        None: "AlbertModel",
        "classification": "AlbertForSequenceClassification",
        "masked_lm": "AlbertForMaskedLM",
        "tagging": "AlbertForTokenClassification",
        "question_answering": "AlbertForQuestionAnswering",
    },
    tied={
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
    buffers=("albert.embeddings.position_ids", "albert.embeddings.token_type_ids"),
)
