"""GenerativeTask: text in, text out, from Python, as a stream and from an export."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.generation import GenerationOptions
from aillm_tf.models.config import TransformerConfig
from aillm_tf.models.decoder import Decoder
from aillm_tf.models.encoder_decoder import EncoderDecoder
from aillm_tf.tasks.generative import GenerativeTask

TEXTS = ["a stirring film", "dull", "", "the plot is thin and the jokes are old"]
OPTIONS = GenerationOptions(max_new_tokens=8)


class Continued(GenerativeTask):
    backbone_class = Decoder

    def build_heads(self) -> None:
        pass


class Answered(Continued):
    backbone_class = EncoderDecoder
    start_id = 2
    prefix = "say: "


@pytest.fixture(scope="module")
def make(tokenizer):
    def make(kind: type, *, generation=OPTIONS, **options):
        shape = {"hidden_size": 16, "layers": 1, "heads": 2, "ffn_size": 32, "max_length": 64, "dropout": 0.0}
        shape |= {"decoder_layers": 1} if kind is Answered else {}
        config = TransformerConfig(tokenizer.vocab_size, **shape, attention_dropout=0.0, initializer_range=0.5)
        return kind(config, tokenizer, max_length=32, generation=generation, dtype="float32", **options)

    return make


@pytest.fixture(scope="module")
def task(make):
    return make(Continued)


def texts(answers: list[dict]) -> list[str]:
    return [answer["text"] for answer in answers]


def test_answers_do_not_depend_on_the_batch(task):
    whole, single = (task.answer(TEXTS, batch_size=size, temperature=1.0, seed=3) for size in (4, 1))
    assert texts(whole) == texts(single)
    np.testing.assert_allclose([a["score"] for a in whole], [a["score"] for a in single], atol=1e-5)


def test_a_score_is_the_mean_log_probability_of_the_tokens(task):
    found = task.generate(TEXTS)
    scores = [answer["score"] for answer in task.answer(TEXTS)]
    np.testing.assert_allclose(scores, [row.mean() for row in found.log_probs], atol=1e-6)


def test_what_the_tokenizer_puts_after_a_text_does_not_end_the_prompt(task, tokenizer):
    ids, lengths, source = task.prompts(task.features(TEXTS), OPTIONS)
    assert source is None
    for row, length, text in zip(ids.numpy(), lengths.numpy(), TEXTS, strict=True):
        assert row[:length].tolist() == tokenizer.encode([text]).ids.tolist()[:-1]


def test_a_prompt_is_read_beyond_the_length_of_training_rows_and_of_a_longer_one_the_end(task, tokenizer, caplog):
    every = ["dull " * 15, "dull " * 10 + "plot thin " * 40]  # 64 positions, rows of 32 tokens, 8 new tokens
    whole, longer = (tokenizer.encode([text]).ids[:-1].tolist() for text in every)
    prompts, _ = task.host_prompts(every, OPTIONS)
    assert [prompt.tolist() for prompt in prompts] == [whole, longer[:1] + longer[-55:]]
    assert "1 of 2 prompts are longer than the model's 64 tokens" in caplog.text


def test_room_for_new_tokens_takes_no_more_than_half_of_a_prompt(task):
    (prompt,), _ = task.host_prompts(["dull " * 80], OPTIONS.replace(max_new_tokens=60))
    assert len(prompt) == 32


def test_the_graph_goes_on_from_what_the_host_does(task):
    every = [*TEXTS, "dull " * 15, "dull " * 10 + "plot thin " * 40]
    found = task.answer_tensors(task.graph_tokenizer()(tf.constant(every)))
    expected = task.generate(every, task.generation_options())
    assert [row[:n].tolist() for row, n in zip(found["token_ids"].numpy(), found["lengths"], strict=True)] == [
        row.tolist() for row in expected.tokens
    ]


def test_a_temperature_that_is_given_asks_for_a_draw(make):
    task = make(Continued, generation=OPTIONS.replace(num_beams=4, num_beam_groups=2, diversity_penalty=0.5))
    assert task.generation_options().strategy == "beam"
    assert task.generation_options(temperature=0.7).strategy == "sample"


def test_a_stream_is_the_answer(task):
    assert "".join(task.stream(TEXTS[0], max_new_tokens=8)).strip() == task.answer(TEXTS[:1])[0]["text"]


def test_a_draft_changes_no_greedy_text_and_no_stream(make, task):
    drafted = make(Continued)
    drafted.use_draft(make(Continued, seed=1), guesses=2)
    assert texts(drafted.answer(TEXTS)) == texts(task.answer(TEXTS))
    assert "".join(drafted.stream(TEXTS[0])) == "".join(task.stream(TEXTS[0]))


def test_a_prompt_that_was_cut_leaves_room_for_guesses(make):
    drafted = make(Continued)
    drafted.use_draft(drafted, guesses=2)
    (prompt,), _ = drafted.host_prompts(["dull " * 30], OPTIONS)
    assert len(prompt) == 64 - 8 - 2


def test_a_draft_that_cannot_guess_for_a_task_is_refused(make, task):
    other = make(Continued)
    other.tokenizer = other.tokenizer.with_special_tokens(bos="[BOS]")
    for draft, message in ((make(Answered), "has an encoder"), (other, "another tokenizer")):
        with pytest.raises(ValueError, match=message):
            make(Continued).use_draft(draft)


def test_a_text_ends_before_a_stop_string(task):
    whole = task.answer(TEXTS[:1])[0]["text"]
    stop = whole[5:8]
    cut = task.answer(TEXTS[:1], stop_strings=[stop])[0]["text"]
    assert cut == whole[: whole.index(stop)]
    assert "".join(task.stream(TEXTS[0], stop_strings=[stop])).strip() == cut.strip()


def test_other_texts_of_a_prompt_are_alternatives(task):
    answer = task.answer(TEXTS[:1], num_beams=3, num_return_sequences=3)[0]
    scores = [answer["score"], *(other["score"] for other in answer["alternatives"])]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)


def test_an_encoder_decoder_reads_the_prefix_and_the_text(make):
    task = make(Answered)
    ids, lengths, source = task.prompts(task.features(["dull"]), task.generation_options())
    assert np.asarray(ids).tolist() == [[2]] and np.asarray(lengths).tolist() == [1]
    assert np.asarray(source["token_ids"]).tolist() == [task.tokenizer.encode(["say: dull"]).ids.tolist()]


def test_a_string_is_refused(task):
    with pytest.raises(TypeError, match="takes a list of strings, not one string"):
        task.answer("dull")


def test_an_export_of_several_texts_is_refused(make, tmp_path):
    task = make(Continued, generation=OPTIONS.replace(num_beams=2, num_return_sequences=2))
    with pytest.raises(ValueError, match="an export gives one text"):
        task.export(tmp_path / "1")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (Continued, {}),
        pytest.param(Continued, {"num_beams": 3, "no_repeat_ngram_size": 2}, marks=pytest.mark.slow),
        pytest.param(Continued, {"temperature": 1.0, "top_k": 20, "top_p": 0.9}, marks=pytest.mark.slow),
        pytest.param(Continued, {"penalty_alpha": 0.6, "top_k": 3}, marks=pytest.mark.slow),
        pytest.param(
            Continued, {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, marks=pytest.mark.slow
        ),
        pytest.param(Answered, {"num_beams": 3}, marks=pytest.mark.slow),
    ],
    ids=["greedy", "beams", "sampled", "contrastive", "diverse", "read"],
)
def test_an_export_gives_strings_for_strings_and_takes_options(kind, changes, make, tmp_path):
    from aillm_tf.export.saved_model import fresh_process

    task = make(kind, generation=OPTIONS.replace(max_new_tokens=5, **changes))
    every = [*TEXTS, "dull " * 80]  # longer than the positions
    facts = task.export(tmp_path / "1", check_texts=every)  # compares all signatures with `answer`
    assert facts["checked"] == len(every) and facts["max_difference"] < 1e-4
    if "options" not in task.signatures(task.graph_tokenizer()):
        assert task.generation.penalty_alpha or task.generation.diversity_penalty
        return
    asked = {"max_new_tokens": 4, "temperature": 0.0, "top_p": 1.0, "seed": 1, "num_beams": 2}
    answers = fresh_process(tmp_path / "1", {"options": {"text": TEXTS, **asked}})["answers"]["options"]
    assert answers["text"] == texts(task.answer(TEXTS, **asked, top_k=0))


def test_an_export_refuses_to_write_no_tokens(task):
    function, _ = task.signatures(task.graph_tokenizer())["options"]
    asked = {"max_new_tokens": 0, "temperature": 0.0, "top_p": 1.0, "seed": 1, "num_beams": 1}
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_new_tokens: give at least 1"):
        function(text=tf.constant(TEXTS), **{name: tf.constant(value) for name, value in asked.items()})
