"""DistilBERT as Hugging Face writes it: BERT's layers, without segments and without a pooler of its own.

Its position table may have been made of sines (`sinusoidal_pos_embds`); it is stored and read like a learned one.

Reference: Sanh et al., 2019, DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter,
https://arxiv.org/abs/1910.01108
"""

from __future__ import annotations

from aillm_tf.weights.family import Family

_LAYER = "distilbert.transformer.layer.{i}."

FAMILY = Family(
    model_type="distilbert",
    title="DistilBERT",
    sizes={
        "vocab_size": "vocab_size",
        "hidden_size": "dim",
        "layers": "n_layers",
        "heads": "n_heads",
        "ffn_size": "hidden_dim",
        "max_length": "max_position_embeddings",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "initializer_range": "initializer_range",
    },
    activation="activation",
    fixed={"norm_epsilon": 1e-12, "segments": 0},
    usual={
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "initializer_range": 0.02,
        "max_position_embeddings": 512,
        "activation": "gelu",
    },
    only={"tie_word_embeddings": True},
    task_options={"pooler_activation": "relu", "transform_activation": None},
    prefix="distilbert.",
    roots=("distilbert.", "vocab_", "pre_classifier.", "classifier.", "qa_outputs."),
    tensors={
        "backbone/embeddings/token": ("distilbert.embeddings.word_embeddings.weight",),
        "backbone/embeddings/position": ("distilbert.embeddings.position_embeddings.weight",),
        "backbone/embeddings/norm/scale": ("distilbert.embeddings.LayerNorm.weight",),
        "backbone/embeddings/norm/bias": ("distilbert.embeddings.LayerNorm.bias",),
    },
    layer={
        "backbone/encoder/layer_{i}/attention/qkv/kernel": (
            _LAYER + "attention.q_lin.weight",
            _LAYER + "attention.k_lin.weight",
            _LAYER + "attention.v_lin.weight",
        ),
        "backbone/encoder/layer_{i}/attention/qkv/bias": (
            _LAYER + "attention.q_lin.bias",
            _LAYER + "attention.k_lin.bias",
            _LAYER + "attention.v_lin.bias",
        ),
        "backbone/encoder/layer_{i}/attention/out/kernel": (_LAYER + "attention.out_lin.weight",),
        "backbone/encoder/layer_{i}/attention/out/bias": (_LAYER + "attention.out_lin.bias",),
        "backbone/encoder/layer_{i}/attention_norm/scale": (_LAYER + "sa_layer_norm.weight",),
        "backbone/encoder/layer_{i}/attention_norm/bias": (_LAYER + "sa_layer_norm.bias",),
        "backbone/encoder/layer_{i}/ffn/up/kernel": (_LAYER + "ffn.lin1.weight",),
        "backbone/encoder/layer_{i}/ffn/up/bias": (_LAYER + "ffn.lin1.bias",),
        "backbone/encoder/layer_{i}/ffn/down/kernel": (_LAYER + "ffn.lin2.weight",),
        "backbone/encoder/layer_{i}/ffn/down/bias": (_LAYER + "ffn.lin2.bias",),
        "backbone/encoder/layer_{i}/ffn_norm/scale": (_LAYER + "output_layer_norm.weight",),
        "backbone/encoder/layer_{i}/ffn_norm/bias": (_LAYER + "output_layer_norm.bias",),
    },
    heads={
        "classifier": {
            "pooler/kernel": ("pre_classifier.weight",),
            "pooler/bias": ("pre_classifier.bias",),
            "classifier/kernel": ("classifier.weight",),
            "classifier/bias": ("classifier.bias",),
        },
        "tagger": {"tagger/kernel": ("classifier.weight",), "tagger/bias": ("classifier.bias",)},
        "spans": {"spans/kernel": ("qa_outputs.weight",), "spans/bias": ("qa_outputs.bias",)},
        "mlm": {
            "mlm/transform/kernel": ("vocab_transform.weight",),
            "mlm/transform/bias": ("vocab_transform.bias",),
            "mlm/norm/scale": ("vocab_layer_norm.weight",),
            "mlm/norm/bias": ("vocab_layer_norm.bias",),
            "mlm/bias": ("vocab_projector.bias",),
        },
    },
    architectures={
        None: ("classifier", "mlm"),
        "DistilBertModel": (),
        "DistilBertForSequenceClassification": ("classifier",),
        "DistilBertForMaskedLM": ("mlm",),
        "DistilBertForTokenClassification": ("tagger",),
        "DistilBertForQuestionAnswering": ("spans",),
    },
    saved_as={
        None: "DistilBertModel",
        "classification": "DistilBertForSequenceClassification",
        "masked_lm": "DistilBertForMaskedLM",
        "tagging": "DistilBertForTokenClassification",
        "question_answering": "DistilBertForQuestionAnswering",
    },
    tied={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    buffers=("distilbert.embeddings.position_ids",),
)
