"""ChatSession: answers are those of the whole conversation asked anew, and only what is new is read."""

import pytest
from chats import chat, count, dialogue, responses

from aillm_tf.generation.session import ChatSession

ASKED = ("one two", "three", "four five six", "one")


@pytest.fixture(scope="module")
def model():
    return dialogue(max_length=64, initializer_range=0.6)


@pytest.fixture
def known(model, monkeypatch):
    """(tokens that the cache had, tokens of the prompt) of every turn that went on from an earlier one."""
    found, known = [], model.generator._known

    def spy(past, prompt, *rest):
        result = known(past, prompt, *rest)
        found.append((int(result[1][0]) if result else 0, len(prompt)))
        return result

    monkeypatch.setattr(model.generator, "_known", spy)
    return found


def test_answers_are_those_of_the_whole_conversation_asked_anew(model, known):
    session, messages = ChatSession(model), []
    for text in ASKED[:2]:
        messages = [*messages, {"role": "user", "content": text}]
        expected = model.answer([messages])[0]["text"]
        assert session.answer(text) == expected
        messages.append({"role": "assistant", "content": expected})
        assert session.messages == messages
    # what was asked first is not read again, and of the answer what is said again as the model said it
    asked = len(model.prompt_ids(messages[:1]))
    ((cached, whole),) = known
    assert asked <= cached < whole == len(model.prompt_ids(messages[:3]))


@pytest.mark.slow
def test_draws_do_not_depend_on_the_cache(model):
    session = ChatSession(model)
    session.answer("one")
    fresh = ChatSession(model, messages=session.messages)
    options = {"temperature": 1.0, "seed": 3}
    assert session.answer("two", **options) == fresh.answer("two", **options)


@pytest.mark.slow
def test_it_goes_on_when_the_oldest_turns_no_longer_fit(model):
    session = ChatSession(model, system="be brief")
    for text in ASKED * 2:
        fresh = ChatSession(model, system="be brief", messages=session.messages)
        assert session.answer(text) == fresh.answer(text)


@pytest.mark.slow
def test_a_stopped_answer_is_what_was_said(model):
    session = ChatSession(model)
    pieces = session.stream("one two")
    said = next(pieces) + next(pieces)
    pieces.close()
    assert session.messages == chat("one two", said.strip())
    assert session.answer("three") == ChatSession(model, messages=chat("one two", said.strip())).answer("three")


def test_reset_forgets_the_turns_and_keeps_the_system(model):
    session = ChatSession(model, system="be brief")
    first = session.answer("one")
    session.reset()
    assert session.messages == []
    assert session.answer("one") == first


@pytest.mark.slow
def test_beams_are_answered_at_once(model):
    pieces = list(ChatSession(model).stream("one", num_beams=3))
    assert pieces == [model.answer(["one"], num_beams=3)[0]["text"]]


@pytest.mark.slow
def test_a_draft_changes_no_answer(model):
    drafted = dialogue(max_length=64, initializer_range=0.6)
    drafted.use_draft(dialogue(max_length=64, initializer_range=0.6, seed=1))
    session, plain = ChatSession(drafted), ChatSession(model)
    for text in ASKED[:2]:
        assert session.answer(text) == plain.answer(text)


@pytest.mark.slow
def test_an_encoder_decoder_reads_the_history_too():
    model = responses(initializer_range=0.6)
    session = ChatSession(model, messages=count("six"))
    expected = model.answer([[*count("six"), {"role": "user", "content": "one"}]])[0]["text"]
    assert session.answer("one") == expected


def test_a_history_that_nothing_can_follow_is_refused(model):
    with pytest.raises(ValueError, match="the assistant's turn is"):
        ChatSession(model, messages=chat("one"))
