"""BERT as Hugging Face writes it.

Reference: Devlin et al., 2019, BERT: Pre-training of Deep Bidirectional Transformers, https://arxiv.org/abs/1810.04805
"""

from __future__ import annotations

from aillm_tf.weights.family import Family

_LAYER = "bert.encoder.layer.{i}."
_SELF = _LAYER + "attention.self."


FAMILY = Family(
    model_type="bert",
    title="BERT",
    sizes={
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
    },
    usual={
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "max_position_embeddings": 512,
        "hidden_act": "gelu",
    },
    only={
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    task_options={"pooler_activation": "tanh", "transform_activation": None},
    # Models that transformers saves without a head have no "bert." in front of their names.
    prefix="bert.",
    roots=("bert.", "cls.", "classifier.", "qa_outputs."),
    tensors={
        "backbone/embeddings/token": ("bert.embeddings.word_embeddings.weight",),
        "backbone/embeddings/position": ("bert.embeddings.position_embeddings.weight",),
        "backbone/embeddings/segment": ("bert.embeddings.token_type_embeddings.weight",),
        "backbone/embeddings/norm/scale": ("bert.embeddings.LayerNorm.weight",),
        "backbone/embeddings/norm/bias": ("bert.embeddings.LayerNorm.bias",),
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
    },
    heads={
        "pooler": {"pooler/kernel": ("bert.pooler.dense.weight",), "pooler/bias": ("bert.pooler.dense.bias",)},
        "classifier": {"classifier/kernel": ("classifier.weight",), "classifier/bias": ("classifier.bias",)},
        "tagger": {"tagger/kernel": ("classifier.weight",), "tagger/bias": ("classifier.bias",)},
        "spans": {"spans/kernel": ("qa_outputs.weight",), "spans/bias": ("qa_outputs.bias",)},
        "mlm": {
            "mlm/transform/kernel": ("cls.predictions.transform.dense.weight",),
            "mlm/transform/bias": ("cls.predictions.transform.dense.bias",),
            "mlm/norm/scale": ("cls.predictions.transform.LayerNorm.weight",),
            "mlm/norm/bias": ("cls.predictions.transform.LayerNorm.bias",),
            "mlm/bias": ("cls.predictions.bias",),
        },
    },
    architectures={
        None: ("pooler", "classifier", "mlm"),
        "BertModel": ("pooler",),
        "BertForSequenceClassification": ("pooler", "classifier"),
        "BertForMaskedLM": ("mlm",),
        "BertForPreTraining": ("pooler", "mlm"),
        "BertForTokenClassification": ("tagger",),
        "BertForQuestionAnswering": ("spans",),
    },
    saved_as={
        None: "BertModel",
        "classification": "BertForSequenceClassification",
        "masked_lm": "BertForMaskedLM",
        "tagging": "BertForTokenClassification",
        "question_answering": "BertForQuestionAnswering",
    },
    # Written by some versions of transformers beside the tensor that they always equal.
    tied={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    # A constant 0, 1, 2, ... that older versions wrote.
    buffers=("bert.embeddings.position_ids",),
)
