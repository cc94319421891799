"""Conversations from every kind of source; what is wrong is named with its place."""

import json
from pathlib import Path

import pytest

from aillm_tf.data.conversations import main, problem_of, read_conversations
from aillm_tf.data.preferences import read_preferences

SGD = Path(__file__).parents[3] / "shared" / "data" / "sgd"
USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": " Hello\n"}
SYSTEM = {"role": "system", "content": "Be brief."}
YAML = """categories:
- greetings
conversations:
- - Hello
  - Hi
  - No
- - 'How are
    you?'
  - |
    Fine.
      Thanks.
- a lone statement
"""


def lines(path, rows) -> str:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def test_jsonl(tmp_path):
    rows = [{"messages": [SYSTEM, USER, ANSWER]}, {"id": 7, "messages": [{**USER, "name": "x"}, ANSWER, USER]}]
    found = read_conversations(lines(tmp_path / "a.jsonl", rows))
    answer = {"role": "assistant", "content": "Hello"}
    assert found.messages == [[SYSTEM, USER, answer], [USER, answer, USER]]
    assert found.where(1) == f"{tmp_path}/a.jsonl:2"
    assert found.exchanges() == ([[SYSTEM, USER], [USER]], [["Hello"], ["Hello"]])


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        (
            [{**USER, "role": "usr"}, ANSWER],
            "message 1 has the role 'usr', not one of system, user, assistant; did you",
        ),
        ([USER, {**ANSWER, "content": " "}], r"message 2 \(assistant\) has no text but ' '"),
        ([USER, {**ANSWER, "content": None}], r"message 2 \(assistant\) has no text but None"),
        ([USER, {**ANSWER, "content": "a\ud800"}], r"message 2 \(assistant\): broken text, lone surrogate U\+D800"),
        ([USER, USER], "message 2 is the user's, where the assistant's turn is"),
        ([ANSWER], "message 1 is the assistant's, where the user's turn is"),
        ([USER, SYSTEM, ANSWER], "message 2 is the system's: there is one at most"),
        ([SYSTEM, USER], "there is no answer"),
        ([USER, {"role": "assistant"}], "message 2 is .*, not .*content"),
        ("Hi", "the messages are 'Hi', not a list"),
        ([], r"the messages are \[\], not a list"),
    ],
)
def test_a_bad_conversation_is_named_by_file_and_line(messages, problem, tmp_path):
    file = lines(tmp_path / "a.jsonl", [{"messages": [USER, ANSWER]}, {"messages": messages}])
    with pytest.raises(ValueError, match=rf"a\.jsonl:2: {problem}"):
        read_conversations(file)
    assert problem_of([USER, ANSWER]) is None


def test_bad_conversations_are_skipped_and_counted_when_asked(tmp_path):
    rows = ["{", {"chat": [USER, ANSWER]}, {"messages": [USER, ANSWER]}, {"messages": [USER]}]
    found = read_conversations(lines(tmp_path / "a.jsonl", rows), on_bad="skip")
    assert len(found) == 1
    assert [reason.split("a.jsonl:")[1].split(":")[0] for reason in found.skipped] == ["1", "2", "4"]
    with pytest.raises(ValueError, match=r"no usable conversation; the first of 1 skipped: .*a.jsonl:1"):
        read_conversations(lines(tmp_path / "a.jsonl", ["{"]), on_bad="skip")


def test_yaml_of_chatterbot_keeps_texts_as_they_stand(tmp_path):
    (tmp_path / "greetings.yml").write_text(YAML, encoding="utf-8")
    found = read_conversations(tmp_path, on_bad="skip")
    assert [[m["content"] for m in messages] for messages in found.messages] == [
        ["Hello", "Hi", "No"],
        ["How are you?", "Fine.\n  Thanks."],
    ]
    assert found.messages[0][2]["role"] == "user"
    assert found.where(1) == f"{tmp_path}/greetings.yml:7"
    assert found.skipped[0].startswith(f"{tmp_path}/greetings.yml:12: not a list of statements")


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.yml", "conversations: [", "a.yml: not YAML"),
        ("a.yml", "- - a\n  - b\n", 'a.yml: no list under "conversations:"'),
        ("dialogues_001.json", "[{", "dialogues_001.json:1: not JSON"),
        ("dialogues_001.json", '{"a": 1}', 'no list of dialogues with "turns"'),
        (
            "dialogues_001.json",
            '[{"turns": [{"speaker": "BOT", "utterance": "Hi"}]}]',
            "json#0: a turn without a known",
        ),
    ],
)
def test_a_broken_file_is_named(name, text, problem, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=problem):
        read_conversations(tmp_path)


@pytest.mark.skipif(not SGD.exists(), reason="the Schema-Guided Dialogue data does not lie beside the repository")
def test_schema_guided_dialogue_is_converted(tmp_path, monkeypatch):
    found = read_conversations(SGD / "train")
    assert len(found) == 384
    assert found.where(383).endswith("dialogues_003.json#127")
    assert found.messages[0][0] == {
        "role": "user",
        "content": "I am feeling hungry so I would like to find a place to eat.",
    }
    raw = json.loads((SGD / "train" / "dialogues_001.json").read_text(encoding="utf-8"))
    assert [m["content"] for m in found.messages[1]] == [turn["utterance"].strip() for turn in raw[1]["turns"]]
    # written as jsonl it is the same
    monkeypatch.setattr("sys.argv", ["conversations", str(SGD / "dev"), str(tmp_path / "dev.jsonl")])
    assert main() == 0
    assert read_conversations(tmp_path / "dev.jsonl").messages == read_conversations(SGD / "dev").messages


def test_preferences(tmp_path):
    rows = [
        {"prompt": "Hi", "chosen": "Hello", "rejected": "What?"},
        {"messages": [SYSTEM, USER, ANSWER, USER], "chosen": "a", "rejected": "b "},
    ]
    found = read_preferences(lines(tmp_path / "a.jsonl", rows))
    assert found.messages == [[USER], [SYSTEM, USER, {**ANSWER, "content": "Hello"}, USER]]
    assert found.chosen == ["Hello", "a"] and found.rejected == ["What?", "b"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "Hi", "chosen": "a"}, '2: a pair has "prompt" or "messages"'),
        ({"prompt": "Hi", "chosen": "a", "rejected": ""}, "2: with the rejected answer, message 2"),
        ({"prompt": "Hi", "chosen": "a", "rejected": "a "}, "2: both answers are the same"),
        ({"messages": [USER, ANSWER], "chosen": "a", "rejected": "b"}, "2: with the chosen answer, message 3 is the"),
    ],
)
def test_a_bad_pair_is_named_by_file_and_line_or_skipped(row, problem, tmp_path):
    file = lines(tmp_path / "a.jsonl", [{"prompt": "Hi", "chosen": "a", "rejected": "b"}, row])
    with pytest.raises(ValueError, match=f"a.jsonl:{problem}"):
        read_preferences(file)
    assert len(read_preferences(file, on_bad="skip").skipped) == 1
    with pytest.raises(ValueError, match=r"b.jsonl: no usable pair of answers; the first of 1 skipped: .*b.jsonl:1: "):
        read_preferences(lines(tmp_path / "b.jsonl", [row]), on_bad="skip")
