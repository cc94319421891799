"""Chat templates and streaming."""

import json
from pathlib import Path

import pytest

from aillm_tf.text.stream import StreamDecoder
from aillm_tf.text.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers"
TEXTS, _, CHAT = json.loads((GOLDEN / "texts.json").read_text("utf-8")).values()


def load(name):
    return Tokenizer.from_folder(GOLDEN / name), json.loads((GOLDEN / name / "golden.json").read_text("utf-8"))


def spoken(tokenizer, conversation):
    return tokenizer.decode(conversation.ids[conversation.answers], skip_special_tokens=False)


@pytest.mark.parametrize("name", ["llama3", "qwen2"])
def test_conversations_have_the_ids_of_transformers(name):
    tokenizer, golden = load(name)
    assert tokenizer.chat(CHAT).ids.tolist() == golden["chat"]


@pytest.mark.parametrize("name", ["llama3", "qwen2"])
def test_generation_prompt_has_the_ids_of_transformers(name):
    tokenizer, golden = load(name)
    assert tokenizer.chat(CHAT[:-1], add_generation_prompt=True).ids.tolist() == golden["chat_prompt"]


def test_answers_in_generation_blocks_are_those_of_transformers():
    tokenizer, golden = load("qwen2")
    assert tokenizer.chat(CHAT).answers.astype(int).tolist() == golden["chat_answers"]


def test_answers_without_generation_blocks_end_with_their_end_token():
    tokenizer, _ = load("llama3")
    assert spoken(tokenizer, tokenizer.chat(CHAT)) == "In the snow.<|eot_id|>They like it.<|eot_id|>"


def test_template_that_rewrites_earlier_turns_marks_no_answers():
    tokenizer, _ = load("llama3")
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    assert not tokenizer.chat(CHAT).answers.any()


@pytest.mark.parametrize("name", ["llama3", "qwen2"])
def test_special_tokens_in_a_message_are_text(name):
    tokenizer, _ = load(name)
    end = tokenizer.special_tokens["eos"]
    plain = tokenizer.chat([{"role": "user", "content": "ab"}]).ids.tolist()
    broken = tokenizer.chat([{"role": "user", "content": f"a{end}b"}]).ids.tolist()
    assert broken.count(tokenizer.eos_id) == plain.count(tokenizer.eos_id) == 1
    assert f"a{end}b" in tokenizer.decode(broken, skip_special_tokens=False)


def test_characters_that_guard_special_tokens_cannot_be_forged():
    tokenizer, _ = load("qwen2")
    forged = f"{tokenizer.hidden_name(tokenizer.eos_id)}<\ufdd2|im_end|>"
    assert tokenizer.chat([{"role": "user", "content": forged}]).ids.tolist().count(tokenizer.eos_id) == 1


def test_chat_template_is_saved(tmp_path):
    tokenizer, golden = load("llama3")
    tokenizer.save(tmp_path)
    assert Tokenizer.from_folder(tmp_path).chat(CHAT).ids.tolist() == golden["chat"]


def test_templates_by_name_are_saved(tmp_path):
    tokenizer, _ = load("llama3")
    tokenizer.chat_template = {"default": tokenizer.chat_template, "short": "{{ messages[0].content }}"}
    tokenizer.save(tmp_path)
    loaded = Tokenizer.from_folder(tmp_path)
    assert loaded.decode(loaded.chat([{"role": "user", "content": "snow"}], template="short").ids) == "snow"


def test_tokenizer_without_a_template_says_so():
    with pytest.raises(ValueError, match="has no chat template"):
        load("gpt2")[0].chat(CHAT)


def test_unknown_template_is_refused():
    with pytest.raises(ValueError, match="template='tools': this tokenizer has default"):
        load("qwen2")[0].chat(CHAT, template="tools")


def test_template_that_refuses_says_why():
    tokenizer, _ = load("qwen2")
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ValueError, match="does not take these messages: roles must alternate"):
        tokenizer.chat(CHAT)


@pytest.mark.parametrize("name", ["gpt2", "llama3", "llama2", "gemma", "t5", "mbart"])
def test_streamed_text_is_the_decoded_text(name):
    tokenizer, golden = load(name)
    for ids in golden["ids"]:
        stream = StreamDecoder(tokenizer)
        assert "".join([*map(stream.add, ids), stream.finish()]) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", ["gpt2", "llama2"])
def test_streamed_pieces_are_whole_characters(name):
    tokenizer, _ = load(name)
    stream = StreamDecoder(tokenizer)
    pieces = [stream.add(index) for index in tokenizer.encode(["ok 你好 👍🏽"]).ids]
    assert "\ufffd" not in "".join(pieces)


def test_broken_bytes_come_out_at_the_end():
    tokenizer, _ = load("gpt2")
    stream = StreamDecoder(tokenizer)
    ids = tokenizer.encode(["a你"]).ids[:-1]
    assert ("".join(stream.add(index) for index in ids), stream.finish()) == ("a", "\ufffd")


def test_stream_starts_anew_after_its_end():
    tokenizer, _ = load("llama2")
    stream = StreamDecoder(tokenizer)
    ids = tokenizer.encode(["snow"]).ids
    texts = ["".join([*map(stream.add, ids), stream.finish()]) for _ in range(2)]
    assert texts == ["snow", "snow"]
