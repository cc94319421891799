"""Toy conversations (a number in English is answered in German), and tiny models for them."""

from __future__ import annotations

import functools

from aillm_tf.models.config import TransformerConfig
from aillm_tf.text.train import train_tokenizer

WORDS = dict(zip("one two three four five six".split(), "eins zwei drei vier fünf sechs".split(), strict=True))
SHAPE = {"hidden_size": 32, "layers": 1, "heads": 2, "ffn_size": 64, "dropout": 0.0, "attention_dropout": 0.0}
SHAPE |= {"norm_placement": "pre", "embedding_norm": False, "initializer_range": 0.1, "max_length": 64}


def chat(*texts: str) -> list[dict[str, str]]:
    """Messages of a user and an assistant by turns."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def count(*words: str) -> list[dict[str, str]]:
    """A conversation in which each word is answered."""
    return chat(*(text for word in words for text in (word, WORDS[word])))


CHATS = [count(*pair) for pair in zip(WORDS, [*list(WORDS)[2:], *list(WORDS)[:2]], strict=True)] + [count("six")]
LONG = count(*WORDS, *WORDS)


@functools.cache
def tokenizer(use: str = "decoder"):
    texts = [*WORDS, *WORDS.values(), "user: assistant: system: be brief"] * 3
    return train_tokenizer([f"{text} {text}" for text in texts], "bpe", 400, use=use)


def dialogue(task=None, **options):
    """A float32 decoder with chats of 48 tokens."""
    from aillm_tf.tasks.dialogue import Dialogue

    lengths = {"max_length": 48, "max_target_length": 8, "dtype": "float32"}
    return (task or Dialogue)(_config(options, position="rotary"), tokenizer(), **{**lengths, **options})


def responses(**options):
    """A float32 encoder-decoder that reads 24 tokens."""
    from aillm_tf.tasks.dialogue_responses import DialogueResponses

    lengths = {"max_length": 24, "max_target_length": 8, "dtype": "float32"}
    config = _config(options, position="sinusoidal", decoder_layers=1)
    return DialogueResponses(config, tokenizer("seq2seq"), **{**lengths, **options})


def _config(options: dict, **shape) -> TransformerConfig:
    """Of the shape, with what of it is among the options, which it is taken from."""
    changes = {name: options.pop(name) for name in ("initializer_range", "dropout") if name in options}
    return TransformerConfig(400, **{**SHAPE, **shape, **changes})
