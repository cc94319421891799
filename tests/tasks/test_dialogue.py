"""Dialogue: only answers are learned, conversations of a row do not see each other, strings are answered by strings."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from chats import CHATS, LONG, chat, dialogue, responses, tokenizer

import aillm_tf
from aillm_tf.export.saved_model import fresh_process
from aillm_tf.metrics.responses import response_scores, unigram_perplexity
from aillm_tf.tasks.dialogue import Dialogue
from aillm_tf.text.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers"
DIALOGPT = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"
SYSTEM = [{"role": "system", "content": "be brief"}, *chat("one", "eins", "two", "zwei")]


@pytest.fixture(scope="module")
def model():
    return dialogue()


def rows_of(data):
    """(token_ids, targets, target_weights) of every row, without padding."""
    names = ("token_ids", "targets", "target_weights")
    starts = data.columns["token_ids"].offsets[1:-1]
    return list(zip(*(np.split(data.columns[name].values, starts) for name in names), strict=True))


def test_the_loss_is_on_the_tokens_of_answers_and_their_end_alone(model):
    ((ids, targets, weights),) = rows_of(model.dataset([SYSTEM]))
    said = [model.tokenizer.vocabulary[i] for i in targets]
    text = "".join(said).replace("Ġ", " ")
    assert text == "system: be brief</s>user: one</s>assistant: eins</s>user: two</s>assistant: zwei</s>"
    learned = "".join(token if weight else "_" * len(token) for token, weight in zip(said, weights, strict=True))
    expected = text
    for other in ("system: be brief</s>user: one</s>assistant:", "user: two</s>assistant:"):
        expected = expected.replace(other, "_" * len(other))
    assert learned.replace("Ġ", " ") == expected
    assert set(weights) == {0.0, 1.0}
    assert targets[:-1].tolist() == ids[1:].tolist()


@pytest.mark.parametrize("name", ["llama3", "qwen2"])
def test_a_tokenizers_own_template_is_used(name):
    own = Tokenizer.from_folder(GOLDEN / name)
    config = aillm_tf.TransformerConfig(own.vocab_size, hidden_size=8, layers=1, heads=1, ffn_size=8, max_length=128)
    model = Dialogue(config, own, max_length=128, max_target_length=16, dtype="float32")
    ((_, targets, weights),) = rows_of(model.dataset([SYSTEM]))
    conversation = own.chat(SYSTEM)
    np.testing.assert_array_equal(targets, conversation.ids[1:])
    np.testing.assert_array_equal(weights, conversation.answers[1:])
    assert model.turn_end == conversation.ids[conversation.answers][-1]
    assert model.turn_end in model.generation_options().stop_ids


def test_the_loss_is_that_of_the_answers(model):
    batch = next(iter(model.dataset(CHATS, batch_size=len(CHATS), fixed_length=True).batches()))
    logits, targets = np.asarray(model.logits(batch), np.float64), batch["targets"].numpy()
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    of_target = np.take_along_axis(log_p, targets[..., None].astype(int), -1)[..., 0]
    weights = batch["target_weights"].numpy()
    loss, weight = model.loss_terms(batch)
    assert float(loss) == pytest.approx(-(of_target * weights).sum(), rel=1e-5)
    assert float(weight) == sum(model.tokenizer.chat(messages).answers.sum() for messages in CHATS)


def test_packed_conversations_have_the_loss_that_each_has_alone(model):
    packed = model.dataset(CHATS, pack=True, batch_size=2)
    assert len(packed) < len(CHATS)
    alone = model.evaluate(model.dataset(CHATS, batch_size=4), verbose=0)
    assert model.evaluate(packed, verbose=0) == pytest.approx(alone, rel=1e-5)


def test_no_conversation_of_a_row_sees_another(model):
    packed = model.dataset(CHATS, pack=True, batch_size=1)
    batch = next(iter(packed.batches()))
    other = tf.where(batch["packed_ids"] == 1, (batch["token_ids"] + 7) % 300, batch["token_ids"])
    logits, changed = (np.asarray(model.logits({**batch, "token_ids": ids})) for ids in (batch["token_ids"], other))
    second = batch["packed_ids"].numpy() == 2
    assert second.any()
    np.testing.assert_array_equal(logits[second], changed[second])


def test_every_answer_of_a_long_conversation_is_learned_once(model):
    rows = rows_of(model.dataset([LONG]))
    assert len(rows) > 1
    assert max(len(ids) for ids, *_ in rows) <= model.max_length
    conversation = model.tokenizer.chat(LONG)
    learned = np.concatenate([targets[weights > 0] for _, targets, weights in rows])
    np.testing.assert_array_equal(learned, conversation.ids[conversation.answers])


def test_a_bad_conversation_is_named_by_file_and_line_or_skipped(model, tmp_path):
    file = tmp_path / "chats.jsonl"
    rows = [{"messages": chat("one", "eins")}, {"messages": chat("two")}]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    with pytest.raises(ValueError, match=r"chats.jsonl:2: there is no answer"):
        model.dataset(str(file))
    assert len(model.dataset(str(file), on_bad="skip")) == 1


def test_the_oldest_turns_are_left_out_where_there_is_no_room(model):
    asked = [*SYSTEM[:1], *LONG, {"role": "user", "content": "six"}]
    text = model.tokenizer.decode(model.prompt_ids(asked), skip_special_tokens=False)
    assert text.startswith("<s>system: be brief</s>user:") and text.endswith("</s>user: six</s>assistant:")
    assert model.room - 12 < len(model.prompt_ids(asked)) <= model.room


def test_a_message_that_is_too_long_loses_its_end(model):
    ids = model.prompt_ids([{"role": "user", "content": "one two " * 50}])
    text = model.tokenizer.decode(ids, skip_special_tokens=False)
    assert len(ids) == model.room
    assert text.startswith("<s>user: one two one") and text.endswith("</s>assistant:")


def test_a_system_message_without_room_for_a_user_is_refused(model):
    with pytest.raises(ValueError, match="the message of the system leaves no room"):
        model.prompt_ids([{"role": "system", "content": "be brief " * 50}, {"role": "user", "content": "one"}])


@pytest.mark.parametrize("make", [dialogue, responses])
def test_a_conversation_that_ends_with_an_answer_is_refused(make):
    with pytest.raises(ValueError, match="ends with a user's message"):
        make().answer([SYSTEM])


def test_a_tokenizer_without_an_end_is_refused(model):
    without = copy.copy(model.tokenizer)
    without.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    with pytest.raises(ValueError, match="no special token ends an answer"):
        Dialogue(model.config, without)


def tiny(name: str, template: str | None = None) -> Dialogue:
    """A model with a golden tokenizer."""
    own = Tokenizer.from_folder(GOLDEN / name)
    own.chat_template = template or own.chat_template
    config = aillm_tf.TransformerConfig(own.vocab_size, hidden_size=8, layers=1, heads=1, ffn_size=8)
    return Dialogue(config, own, max_length=64, max_target_length=24, dtype="float32")


@pytest.mark.parametrize(
    ("name", "template"),
    [
        pytest.param("plain", None, marks=pytest.mark.slow),
        ("llama3", None),
        pytest.param("qwen2", None, marks=pytest.mark.slow),
        pytest.param("llama2", None, id="llama2, which puts no space behind a special token"),
        pytest.param("gpt2", DIALOGPT, id="DialoGPT, whose padding is the end of prompts"),
    ],
)
def test_the_graph_asks_as_the_template_does(name, template, model):
    task = model if name == "plain" else tiny(name, template)
    texts = ["one two", " six\u3000\n", "", "</s> <|eot_id|> 你好", "👩\u200d👩\u200d👧", "one two " * 50]
    asked = task.graph_tokenizer()(tf.constant(texts))
    prompts, lengths = (part.numpy() for part in task.prompts(asked, task.generation_options())[:2])
    for row, length, text in zip(prompts, lengths, texts, strict=True):
        expected = task.prompt_ids([{"role": "user", "content": text.strip()}])
        assert row[:length].tolist() == expected.tolist(), text
        assert (row[length:] == task.tokenizer.pad_id).all()


def test_a_prompt_that_ends_with_the_end_token_keeps_it():
    task = tiny("gpt2", DIALOGPT)
    messages = [*chat("one", "two"), {"role": "user", "content": "three"}]
    prompts, _ = task.host_prompts([messages, "four"], task.generation_options())
    for prompt, asked in zip(prompts, (messages, chat("four")), strict=True):
        assert prompt.tolist() == task.tokenizer.chat(asked).ids.tolist()
        assert prompt[-1] == task.tokenizer.eos_id == task.tokenizer.pad_id


def test_an_encoder_reads_the_newest_turns():
    model = responses()
    data = model.dataset([SYSTEM], batch_size=2)
    texts = [
        model.tokenizer.decode(row)
        for row in np.split(data.columns["token_ids"].values, data.columns["token_ids"].offsets[1:-1])
    ]
    assert texts == ["system: be brief\nuser: one", "system: be brief\nuser: one\nassistant: eins\nuser: two"]
    asked = [*LONG, {"role": "user", "content": "six"}]
    text = model.source_text(asked)
    assert text.endswith("user: six") and text.startswith("user: ")
    assert len(model.tokenizer.encode([text]).ids) <= model.max_length


def test_a_prefix_that_no_answer_would_read_is_refused():
    with pytest.raises(ValueError, match="a conversation is read without a prefix"):
        responses(prefix="chat: ")


@pytest.mark.parametrize("make", [dialogue, responses])
def test_it_is_saved_and_loaded(make, tmp_path):
    made = make()
    made.save(tmp_path)
    loaded = aillm_tf.load(tmp_path)
    assert loaded.options() == made.options()
    assert loaded.tokenizer.chat_template == made.tokenizer.chat_template
    asked = ["one", SYSTEM[:2]]
    np.testing.assert_array_equal(loaded.features(asked)["token_ids"], made.features(asked)["token_ids"])


@pytest.mark.slow
@pytest.mark.parametrize("make", [dialogue, responses])
def test_a_loaded_model_answers_as_before_strings_and_conversations(make, tmp_path):
    made = make(initializer_range=0.6)
    made.save(tmp_path)
    asked = ["one", SYSTEM[:2], "three four"]
    answers = made.answer(asked)
    assert aillm_tf.load(tmp_path).answer(asked) == answers
    assert [answer["text"] for answer in answers] == [answer["text"].strip() for answer in answers]
    assert "".join(made.stream("three four")).strip() == answers[2]["text"]


@pytest.mark.slow
def test_answers_are_scored_beside_the_tokens(model):
    data = model.dataset(CHATS, decode=5)
    scores = model.evaluate(data, verbose=0)
    assert set(scores) == {"loss", "perplexity", "accuracy", "bleu", "distinct1", "distinct2"}
    written = model.write(data.texts.sources, verbose=0)
    assert len(written) == 5
    assert scores == pytest.approx({**scores, **response_scores(written, data.texts.references)})


def test_the_unigram_baseline_is_of_the_tokens_that_have_a_loss(model):
    data, said = model.dataset(CHATS, pack=True), [model.tokenizer.chat(messages) for messages in CHATS]
    answers = np.concatenate([conversation.ids[conversation.answers] for conversation in said])
    expected = unigram_perplexity(answers, answers, tokenizer().vocab_size)
    assert model.unigram_perplexity(data, data) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("make", [dialogue, responses])
def test_an_export_answers_strings_greedily_and_by_beam_search_as_python_does(make, tmp_path):
    made = make(generation={"max_new_tokens": 6})
    texts = ["one two", "six", "", " three \n", "one two " * 50]
    facts = made.export(tmp_path / "1", check_texts=texts)
    assert facts["checked"] == len(texts)
    asked = {"max_new_tokens": 5, "temperature": 0.0, "top_p": 1.0, "seed": 0, "num_beams": 3}
    requests = {"serving_default": {"text": texts}, "options": {"text": texts, **asked}}
    found = fresh_process(tmp_path / "1", requests)["answers"]
    for name, expected in (("serving_default", made.answer(texts)), ("options", made.answer(texts, **asked))):
        assert found[name]["text"] == [answer["text"] for answer in expected]
        np.testing.assert_allclose(found[name]["score"], [answer["score"] for answer in expected], atol=1e-4)
