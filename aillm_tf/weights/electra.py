"""ELECTRA, generator and discriminator, as Hugging Face writes it: BERT with a token table that may be narrower.

Reference: Clark et al., 2020, ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators,
https://arxiv.org/abs/2003.10555
"""

from __future__ import annotations

from aillm_tf.weights import bert
from aillm_tf.weights.family import Family, Table


def _named(table: Table) -> Table:
    """BERT's backbone under ELECTRA's name."""
    return {ours: tuple("electra." + name.removeprefix("bert.") for name in theirs) for ours, theirs in table.items()}


FAMILY = Family(
    model_type="electra",
    title="ELECTRA",
    sizes={**bert.FAMILY.sizes, "embedding_size": "embedding_size"},
    usual={**bert.FAMILY.usual, "embedding_size": 128},
    only=bert.FAMILY.only,
    task_options={"pooler_activation": "gelu", "transform_activation": "gelu"},
    prefix="electra.",
    roots=("electra.", "generator_", "discriminator_predictions.", "classifier.", "qa_outputs."),
    tensors={
        **_named(bert.FAMILY.tensors),
        "backbone/embeddings/projection/kernel": ("electra.embeddings_project.weight",),
        "backbone/embeddings/projection/bias": ("electra.embeddings_project.bias",),
    },
    layer=_named(bert.FAMILY.layer),
    heads={
        "classifier": {
            "pooler/kernel": ("classifier.dense.weight",),
            "pooler/bias": ("classifier.dense.bias",),
            "classifier/kernel": ("classifier.out_proj.weight",),
            "classifier/bias": ("classifier.out_proj.bias",),
        },
        "tagger": bert.FAMILY.heads["tagger"],
        "spans": bert.FAMILY.heads["spans"],
        "mlm": {
            "mlm/transform/kernel": ("generator_predictions.dense.weight",),
            "mlm/transform/bias": ("generator_predictions.dense.bias",),
            "mlm/norm/scale": ("generator_predictions.LayerNorm.weight",),
            "mlm/norm/bias": ("generator_predictions.LayerNorm.bias",),
            "mlm/bias": ("generator_lm_head.bias",),
        },
        "discriminator": {
            "discriminator/transform/kernel": ("discriminator_predictions.dense.weight",),
            "discriminator/transform/bias": ("discriminator_predictions.dense.bias",),
            "discriminator/out/kernel": ("discriminator_predictions.dense_prediction.weight",),
            "discriminator/out/bias": ("discriminator_predictions.dense_prediction.bias",),
        },
    },
    architectures={
        None: ("classifier", "mlm", "discriminator"),
        "ElectraModel": (),
        "ElectraForSequenceClassification": ("classifier",),
        "ElectraForMaskedLM": ("mlm",),
        "ElectraForPreTraining": ("discriminator",),
        "ElectraForTokenClassification": ("tagger",),
        "ElectraForQuestionAnswering": ("spans",),
    },
    saved_as={
        None: "ElectraModel",
        "classification": "ElectraForSequenceClassification",
        "masked_lm": "ElectraForMaskedLM",
        "replaced_token": "ElectraForPreTraining",
        "tagging": "ElectraForTokenClassification",
        "question_answering": "ElectraForQuestionAnswering",
    },
    tied={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    buffers=("electra.embeddings.position_ids", "electra.embeddings.token_type_ids"),
)
