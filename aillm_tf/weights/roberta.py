"""RoBERTa, XLM-RoBERTa and CamemBERT as Hugging Face writes them: BERT with other names for the heads.

The position table begins with rows that no token uses: as many as the pad token's id, and one more.

Reference: Liu et al., 2019, RoBERTa: A Robustly Optimized BERT Pretraining Approach, https://arxiv.org/abs/1907.11692;
Conneau et al., 2020, Unsupervised Cross-lingual Representation Learning at Scale, https://arxiv.org/abs/1911.02116;
Martin et al., 2020, CamemBERT: a Tasty French Language Model, https://arxiv.org/abs/1911.03894
"""

from __future__ import annotations

from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights import bert
from aillm_tf.weights.family import Family, Table


def _read_more(values: dict) -> dict:
    offset = values["pad_token_id"] + 1
    if values["max_position_embeddings"] <= offset:
        raise ValueError(
            f"max_position_embeddings is {values['max_position_embeddings']}: with pad_token_id "
            f"{values['pad_token_id']} the first {offset} are not used, so that none is left"
        )
    return {"position_offset": offset, "max_length": values["max_position_embeddings"] - offset}


def _write_more(config: TransformerConfig) -> dict:
    if not config.position_offset:
        raise ValueError("position_offset=0 (RoBERTa's positions begin after the pad token's row)")
    return {
        "max_position_embeddings": config.position_offset + config.max_length,
        "pad_token_id": config.position_offset - 1,
    }


def _named(table: Table) -> Table:
    """BERT's backbone under RoBERTa's name."""
    return {ours: tuple("roberta." + name.removeprefix("bert.") for name in theirs) for ours, theirs in table.items()}


def _family(model_type: str, title: str, classes: str) -> Family:
    """The table of one of the kin, whose classes in transformers begin with `classes`."""
    return Family(
        model_type=model_type,
        title=title,
        sizes={ours: key for ours, key in bert.FAMILY.sizes.items() if ours != "max_length"},
        usual={**bert.FAMILY.usual, "pad_token_id": 1},
        only=bert.FAMILY.only,
        read_more=_read_more,
        write_more=_write_more,
        task_options={"pooler_activation": "tanh", "transform_activation": "gelu"},
        prefix="roberta.",
        roots=("roberta.", "lm_head.", "classifier.", "qa_outputs."),
        tensors=_named(bert.FAMILY.tensors),
        layer=_named(bert.FAMILY.layer),
        heads={
            "pooler": _named(bert.FAMILY.heads["pooler"]),
            "classifier": {
                "pooler/kernel": ("classifier.dense.weight",),
                "pooler/bias": ("classifier.dense.bias",),
                "classifier/kernel": ("classifier.out_proj.weight",),
                "classifier/bias": ("classifier.out_proj.bias",),
            },
            "tagger": bert.FAMILY.heads["tagger"],
            "spans": bert.FAMILY.heads["spans"],
            "mlm": {
                "mlm/transform/kernel": ("lm_head.dense.weight",),
                "mlm/transform/bias": ("lm_head.dense.bias",),
                "mlm/norm/scale": ("lm_head.layer_norm.weight",),
                "mlm/norm/bias": ("lm_head.layer_norm.bias",),
                "mlm/bias": ("lm_head.bias",),
            },
        },
        architectures={
            None: ("classifier", "mlm"),
            classes + "Model": ("pooler",),
            classes + "ForSequenceClassification": ("classifier",),
            classes + "ForMaskedLM": ("mlm",),
            classes + "ForTokenClassification": ("tagger",),
            classes + "ForQuestionAnswering": ("spans",),
        },
        saved_as={
            None: classes + "Model",
            "classification": classes + "ForSequenceClassification",
            "masked_lm": classes + "ForMaskedLM",
            "tagging": classes + "ForTokenClassification",
            "question_answering": classes + "ForQuestionAnswering",
        },
        tied={
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
        buffers=("roberta.embeddings.position_ids", "roberta.embeddings.token_type_ids"),
    )


FAMILIES = (
    _family("roberta", "RoBERTa", "Roberta"),
    _family("xlm-roberta", "XLM-RoBERTa", "XLMRoberta"),
    _family("camembert", "CamemBERT", "Camembert"),
)
