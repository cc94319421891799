"""The cases of make_generation.py, which the tests decode again: a model, and options by transformers' names.

Decoders go on from PROMPTS (RAGGED where the name says so), encoder-decoders read SOURCES.
"""

from __future__ import annotations

import numpy as np

_RANDOM = np.random.default_rng(5)
PROMPTS = _RANDOM.integers(3, 60, (3, 6), dtype=np.int32)
RAGGED = [_RANDOM.integers(3, 60, n, dtype=np.int32) for n in (9, 1, 5)]
SOURCES = _RANDOM.integers(4, 60, (3, 11), dtype=np.int32)
SOURCE_LENGTHS = (11, 4, 8)

# tokens that these random models are likely to say
_STOP = {"llama": 21, "bart": 45, "mbart": 2, "t5_v1_1": 52}
_BEAMS = {"num_beams": 4}
_OPTIONS = {
    "greedy": {},
    "min": {"min_new_tokens": 9},
    "repetition": {"repetition_penalty": 1.7},
    "ngram": {"no_repeat_ngram_size": 2},
    "bad_words": {"bad_words_ids": [[7], [11, 12], [40, 41, 42]], "suppress_tokens": [8, 9]},
    "beam_0.6": {**_BEAMS, "length_penalty": 0.6},
    "beam_1.0": {**_BEAMS, "length_penalty": 1.0},
    "beam_2.0": {**_BEAMS, "length_penalty": 2.0},
    "beam_early": {**_BEAMS, "early_stopping": True},
    "beam_never": {**_BEAMS, "early_stopping": "never", "length_penalty": 2.0},
    "beam_penalties": {**_BEAMS, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "min_new_tokens": 4},
    "beam_returns": {**_BEAMS, "num_return_sequences": 3},
    "beam_stops": {**_BEAMS, "eos_token_id": [21, 45, 3]},
    "beam_forced": {**_BEAMS, "forced_bos_token_id": 5, "forced_eos_token_id": 9},
}
_EVERYWHERE = ("greedy", "beam_0.6", "beam_1.0", "beam_2.0", "ngram", "repetition")
_OF = {
    "llama": [*_OPTIONS][:-1],
    "bart": [*_OPTIONS],
    "mbart": ["greedy", "beam_1.0", "beam_forced"],
    "t5_v1_1": _EVERYWHERE,
}
CASES = {
    f"{model}/{name}": (
        model,
        {"max_new_tokens": 14, "eos_token_id": _STOP[model], "pad_token_id": 0, **_OPTIONS[name]},
    )
    for model, names in _OF.items()
    for name in names
}
CASES |= {f"llama/ragged_{name}": CASES[f"llama/{name}"] for name in ("greedy", "beam_1.0", "repetition")}
START = {"bart": 2, "mbart": 2, "t5_v1_1": 0}
