"""aillm_tf: train and ship NLP models with TensorFlow and Keras 3, from a laptop to a Cloud TPU pod.

Names are imported when first used, so that `import aillm_tf` does not load TensorFlow.
"""

from __future__ import annotations

import importlib

from aillm_tf.version import __version__

_HOMES = {
    "Autoencoder": "aillm_tf.tasks.autoencoder",
    "CausalLM": "aillm_tf.tasks.causal_lm",
    "Checkpoints": "aillm_tf.training.checkpoint",
    "Dataset": "aillm_tf.data.pipeline",
    "Denoising": "aillm_tf.tasks.denoising",
    "Dialogue": "aillm_tf.tasks.dialogue",
    "DialogueResponses": "aillm_tf.tasks.dialogue_responses",
    "MaskedLM": "aillm_tf.tasks.masked_lm",
    "MultiTask": "aillm_tf.tasks.multitask",
    "NextSentence": "aillm_tf.tasks.sentence_order",
    "PreferenceTuning": "aillm_tf.tasks.dpo",
    "QuestionAnswering": "aillm_tf.tasks.question_answering",
    "ReplacedToken": "aillm_tf.tasks.replaced_token",
    "Run": "aillm_tf.training.run",
    "SentenceOrder": "aillm_tf.tasks.sentence_order",
    "Summarization": "aillm_tf.tasks.summarization",
    "TextClassifier": "aillm_tf.tasks.classification",
    "TokenClassifier": "aillm_tf.tasks.tagging",
    "Tokenizer": "aillm_tf.text.tokenizer",
    "TransformerConfig": "aillm_tf.models.config",
    "Translation": "aillm_tf.tasks.translation",
    "adamw": "aillm_tf.training.optimizer",
    "load": "aillm_tf.tasks.files",
    "load_adapter": "aillm_tf.tasks.adapters",
    "load_backbone": "aillm_tf.weights.backbones",
    "preset": "aillm_tf.models.presets",
    "resolve": "aillm_tf.weights.resolve",
    "strategy": "aillm_tf.training.strategy",
    "train_tokenizer": "aillm_tf.text.train",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'aillm_tf' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
