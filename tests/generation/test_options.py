"""GenerationOptions: what it refuses, and what it reads from and writes for a checkpoint."""

from __future__ import annotations

import logging

import pytest

from aillm_tf.generation import GenerationOptions
from aillm_tf.generation.options import _warn


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_p": 0.0}, "top_p is a share"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"min_new_tokens": 200}, "more than max_new_tokens"),
        ({"num_beams": 3, "num_beam_groups": 2}, "not a multiple"),
        ({"num_beams": 2, "temperature": 1.0}, "beam search draws nothing"),
        ({"penalty_alpha": 0.5}, "chooses among top_k"),
        ({"num_return_sequences": 2}, "greedy decoding gives one text"),
        ({"num_beams": 2, "num_return_sequences": 3}, "more than num_beams"),
        ({"stop_strings": [""]}, "empty string"),
        ({"bad_words_ids": [[]]}, "empty row"),
        ({"early_stopping": "always"}, "early_stopping is"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GenerationOptions(**changes)


def test_an_unknown_option_is_named():
    with pytest.raises(TypeError, match="unknown generation options.*temprature"):
        GenerationOptions().replace(temprature=1.0)


def test_settings_of_a_checkpoint_are_read():
    settings = {"max_length": 142, "min_length": 56, "num_beams": 4, "eos_token_id": 2, "length_penalty": 2.0}
    found = GenerationOptions.from_settings({**settings, "no_repeat_ngram_size": 3, "forced_bos_token_id": 0})
    assert found.changed() == {
        "max_new_tokens": 141,
        "min_new_tokens": 55,
        "no_repeat_ngram_size": 3,
        "num_beams": 4,
        "length_penalty": 2.0,
        "stop_ids": [2],
        "forced_bos_token_id": 0,
    }


def test_sampling_is_what_a_checkpoint_says_and_no_more():
    assert GenerationOptions.from_settings({"temperature": 0.6, "top_p": 0.9}).temperature == 0.0
    sampled = GenerationOptions.from_settings({"do_sample": True, "top_p": 0.9})
    assert (sampled.temperature, sampled.top_k, sampled.top_p) == (1.0, 50, 0.9)


def test_settings_that_are_not_supported_are_named(caplog):
    with caplog.at_level(logging.WARNING):
        GenerationOptions.from_settings({"guidance_scale": 2.0, "use_cache": True})
    assert "guidance_scale" in caplog.text and "use_cache" not in caplog.text


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"top_p": 0.9}, "top_p 0.9 has no effect: give a temperature"),
        ({"seed": 3, "num_beams": 2}, "seed 3 has no effect: give a temperature"),
        ({"top_k": 5}, "top_k 5 has no effect: give a temperature"),
        ({"diversity_penalty": 0.5, "num_beams": 2}, "diversity_penalty 0.5 has no effect: give num_beam_groups"),
        ({"num_beams": 4, "num_beam_groups": 2}, "num_beam_groups 2 has no effect: give a diversity_penalty"),
        ({"early_stopping": True}, "early_stopping True has no effect: give num_beams"),
        ({"top_k": 5, "penalty_alpha": 0.5}, None),
        ({"top_p": 0.9, "seed": 3, "temperature": 1.0}, None),
        ({"top_p": 1.0, "seed": 0}, None),
    ],
)
def test_an_option_without_effect_is_named_once(options, named, caplog):
    _warn.cache_clear()
    for _ in range(2):
        GenerationOptions().replace(**options)
    assert [record.getMessage()[: len(named)] for record in caplog.records] == [named] if named else not caplog.records


def test_options_that_nobody_asked_for_are_not_named(caplog):
    _warn.cache_clear()
    GenerationOptions.from_settings({"temperature": 0.6, "top_p": 0.8}).replace(max_new_tokens=5)
    assert not caplog.records


def test_settings_survive_writing_and_reading():
    options = GenerationOptions(temperature=0.5, top_p=0.9, stop_ids=(2, 5), bad_words_ids=((1, 2),), max_new_tokens=9)
    assert GenerationOptions.from_settings(options.to_settings()) == options


def test_options_survive_json():
    options = GenerationOptions(num_beams=4, stop_strings=("x",), bad_words_ids=((1, 2), (3,)), early_stopping=True)
    assert GenerationOptions(**options.changed()) == options
