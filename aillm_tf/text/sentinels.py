"""Sentinels: the tokens <extra_id_0>, <extra_id_1>, ... that stand for gaps in T5's span corruption."""

from __future__ import annotations

import re

import tokenizers

from aillm_tf.text.tokenizer import Tokenizer

SENTINEL = re.compile(r"<extra_id_(\d+)>")


def sentinel_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids of <extra_id_0>, <extra_id_1>, ..., as far as the vocabulary has them.

    Example:
        >>> sentinel_ids(Tokenizer.from_folder("t5-small"))[:2]  # doctest: +SKIP
        [32099, 32098]
    """
    found = {int(m[1]): i for i, token in enumerate(tokenizer.vocabulary) if (m := SENTINEL.fullmatch(token))}
    return [found[number] for number in range(len(found)) if number in found]


def with_sentinels(tokenizer: Tokenizer, count: int = 100) -> Tokenizer:
    """The tokenizer with so many sentinels, added at the end of its vocabulary where it lacks them.

    Args:
        tokenizer: of any kind.
        count: T5 has 100.

    Returns:
        A new tokenizer; the model's token table has to have room for its `vocab_size`.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.json)
    wanted = [f"<extra_id_{number}>" for number in range(count)]
    backend.add_special_tokens([token for token in wanted if token not in tokenizer.vocabulary])
    _, (_, rest) = tokenizer.__reduce__()
    return Tokenizer(backend, **rest)
