"""Text from a decoder or an encoder-decoder: how to choose tokens, and the loop that does it with a cache."""

from aillm_tf.generation.options import GenerationOptions

__all__ = ["GenerationOptions", "generate"]


def __getattr__(name: str):
    # verbs and recipes read options without loading TensorFlow
    if name == "generate":
        from aillm_tf.generation.generator import generate

        return generate
    raise AttributeError(f"module 'aillm_tf.generation' has no attribute {name!r}")
