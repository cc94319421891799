"""Tokenizers of every family: ids, text and files as transformers has them (tests/golden/make_tokenizers.py)."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aillm_tf.text.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers"
FAMILIES = sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir())
TEXTS, PAIRS, _ = json.loads((GOLDEN / "texts.json").read_text("utf-8")).values()


# Read by the sentencepiece library in transformers: docs/tokenizers.md names the two differences.
BY_SENTENCEPIECE = {"marian": ["a\u0300\u0301\u0302\u0303b", "e\u0323\u0301 o\u0308\u0304", "▁under ▁▁ line▁"]}


def rows(encoded, field="ids"):
    return [part.tolist() for part in np.split(getattr(encoded, field), encoded.offsets[1:-1])]


def differing(found, expected):
    return [(text, ours, theirs) for text, ours, theirs in zip(TEXTS, found, expected, strict=True) if ours != theirs]


@pytest.fixture(params=FAMILIES)
def family(request):
    golden = json.loads((GOLDEN / request.param / "golden.json").read_text("utf-8"))
    return request.param, Tokenizer.from_folder(GOLDEN / request.param), golden


def test_ids_are_those_of_transformers(family):
    name, tokenizer, golden = family
    different = differing(rows(tokenizer.encode(TEXTS)), golden["ids"])
    assert [row for row in different if row[0] not in BY_SENTENCEPIECE.get(name, [])] == []


@pytest.mark.parametrize("name", ["marian", "mbart", "mbart50"])
def test_ids_of_the_target_side_are_those_of_transformers(name):
    golden = json.loads((GOLDEN / name / "golden.json").read_text("utf-8"))
    different = differing(rows(Tokenizer.from_folder(GOLDEN / name, side="target").encode(TEXTS)), golden["targets"])
    assert [row for row in different if row[0] not in BY_SENTENCEPIECE.get(name, [])] == []


def test_ids_of_pairs_are_those_of_transformers(family):
    _, tokenizer, golden = family
    if not golden["pairs"]:
        pytest.skip("a family for single texts")
    encoded = tokenizer.encode(*zip(*PAIRS, strict=True))
    assert (rows(encoded), rows(encoded, "segment_ids")) == (golden["pairs"], golden["pair_segments"])


def test_decoded_text_is_that_of_transformers(family):
    _, tokenizer, golden = family
    assert differing([tokenizer.decode(ids) for ids in golden["ids"]], golden["decoded"]) == []


def test_saved_folder_gives_the_same_tokenizer(family, tmp_path):
    _, tokenizer, _ = family
    tokenizer.save(tmp_path)
    loaded = Tokenizer.from_folder(tmp_path)
    assert (loaded.fingerprint, loaded.special_tokens) == (tokenizer.fingerprint, tokenizer.special_tokens)
    assert loaded.encode(TEXTS).ids.tolist() == tokenizer.encode(TEXTS).ids.tolist()


def test_vocabulary_files_are_written_back(family, tmp_path):
    name, tokenizer, _ = family
    tokenizer.save(tmp_path)
    files = [file.name for file in (GOLDEN / name).iterdir() if file.suffix in (".model", ".spm", ".txt")]
    files += ["vocab.json"] if name == "marian" else []
    for file in files:
        assert (tmp_path / file).read_bytes() == (GOLDEN / name / file).read_bytes(), file


def test_transformers_reads_the_saved_folder_alike(family, tmp_path):
    transformers = pytest.importorskip("transformers")
    name, tokenizer, _ = family
    if name == "marian":
        pytest.importorskip("sentencepiece")
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_bytes((GOLDEN / name / "config.json").read_bytes())
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    different = differing(rows(tokenizer.encode(TEXTS)), theirs(TEXTS)["input_ids"])
    assert [row for row in different if row[0] not in BY_SENTENCEPIECE.get(name, [])] == []


ROLES = {
    "albert": {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "bos": 2, "eos": 3},
    "bert_cased": {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "bos": None, "eos": None},
    "gemma": {"pad": 0, "unk": 3, "cls": None, "sep": None, "mask": 4, "bos": 2, "eos": 1},
    "gpt2": {"pad": None, "unk": 500, "cls": None, "sep": None, "mask": None, "bos": 500, "eos": 500},
    "llama2": {"pad": None, "unk": 0, "cls": None, "sep": None, "mask": None, "bos": 1, "eos": 2},
    "llama3": {"pad": None, "unk": None, "cls": None, "sep": None, "mask": None, "bos": 500, "eos": 504},
    "marian": {"pad": 714, "unk": 1, "cls": None, "sep": None, "mask": None, "bos": None, "eos": 0},
    "mbart": {"pad": 1, "unk": 3, "cls": 0, "sep": 2, "mask": 626, "bos": 0, "eos": 2},
    "qwen2": {"pad": 500, "unk": 500, "cls": None, "sep": None, "mask": None, "bos": None, "eos": 502},
    "roberta": {"pad": 1, "unk": 3, "cls": 0, "sep": 2, "mask": 500, "bos": 0, "eos": 2},
    "t5": {"pad": 0, "unk": 2, "cls": None, "sep": None, "mask": None, "bos": None, "eos": 1},
    "xlm_roberta": {"pad": 1, "unk": 3, "cls": 0, "sep": 2, "mask": 601, "bos": 0, "eos": 2},
}


@pytest.mark.parametrize("name", ROLES)
def test_special_tokens_have_their_roles(name):
    tokenizer = Tokenizer.from_folder(GOLDEN / name)
    assert {role: getattr(tokenizer, f"{role}_id") for role in ROLES[name]} == ROLES[name]


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"bert_cased", "bert_uncased"}))
def test_literal_special_tokens_are_text(name):
    tokenizer = Tokenizer.from_folder(GOLDEN / name)
    for index in tokenizer.structural_ids:
        token = tokenizer.vocabulary[index]
        expected = tokenizer.encode([""]).ids.tolist().count(index)
        for text in (token, f"a{token}b", token.replace("<", "＜").replace(">", "＞")):
            found = tokenizer.encode([text]).ids.tolist().count(index)
            assert found == expected or (index == tokenizer.unk_id and tokenizer.kind != "bpe"), (token, text)


@pytest.mark.parametrize("name", ["albert", "roberta", "xlm_roberta", "mbart", "gemma", "bert_cased"])
def test_literal_mask_token_is_the_mask(name):
    tokenizer = Tokenizer.from_folder(GOLDEN / name)
    ids = tokenizer.encode([f"the {tokenizer.special_tokens['mask']} plays"]).ids.tolist()
    assert ids.count(tokenizer.mask_id) == 1


def test_mask_takes_the_space_before_it():
    tokenizer = Tokenizer.from_folder(GOLDEN / "roberta")
    pieces = [tokenizer.vocabulary[index] for index in tokenizer.encode(["in <mask> snow"]).ids]
    assert pieces[pieces.index("<mask>") - 1] != "Ġ"


@pytest.mark.parametrize(
    ("name", "starts"), [("gpt2", "Ġ"), ("roberta", "Ġ"), ("t5", "▁"), ("llama2", "▁"), ("qwen2", "Ġ")]
)
def test_continuation_marks_what_does_not_start_a_word(name, starts):
    tokenizer = Tokenizer.from_folder(GOLDEN / name)
    ids = tokenizer.encode(["a Two little dogs play\nsnow 今天天气"]).ids
    ids = ids[~np.isin(ids, tokenizer.special_ids)]
    pieces = [tokenizer.vocabulary[index] for index in ids]
    begun = [piece for piece, inside in zip(pieces, tokenizer.continuation[ids], strict=True) if not inside]
    assert sum(piece.startswith(starts) for piece in begun) >= 4
    assert not any(piece.startswith(starts) for piece in set(pieces) - set(begun))


def test_language_code_follows_the_side():
    sides = [Tokenizer.from_folder(GOLDEN / "mbart", side=side) for side in ("source", "target")]
    assert [side.vocabulary[side.encode(["a"]).ids[-1]] for side in sides] == ["en_XX", "de_DE"]


def test_language_code_can_be_chosen():
    tokenizer = Tokenizer.from_folder(GOLDEN / "mbart50").for_language("fr_XX")
    assert tokenizer.vocabulary[tokenizer.encode(["a"]).ids[0]] == "fr_XX"


def test_unknown_language_lists_the_known_ones():
    with pytest.raises(ValueError, match="language 'fr': the vocabulary has ar_AR, .*fr_XX"):
        Tokenizer.from_folder(GOLDEN / "mbart").for_language("fr")


def test_language_for_a_tokenizer_without_codes_is_refused():
    with pytest.raises(ValueError, match="puts no language code around texts"):
        Tokenizer.from_folder(GOLDEN / "t5").for_language("de_DE")


def test_marian_names_its_target_language_in_the_text():
    tokenizer = Tokenizer.from_folder(GOLDEN / "marian")
    ids = tokenizer.encode([">>deu<< Two dogs", "Two dogs"])
    first, second = rows(ids)
    assert (tokenizer.vocabulary[first[0]], first[1:]) == (">>deu<<", second)


def test_special_token_can_be_given_to_a_model_without_one():
    tokenizer = Tokenizer.from_folder(GOLDEN / "gpt2")
    shared, added = tokenizer.with_special_tokens(pad="<|endoftext|>"), tokenizer.with_special_tokens(pad="<pad>")
    assert (shared.pad_id, shared.vocab_size) == (tokenizer.eos_id, tokenizer.vocab_size)
    assert (added.pad_id, added.vocab_size) == (tokenizer.vocab_size, tokenizer.vocab_size + 1)


@pytest.mark.parametrize("name", ["bert_uncased", "gpt2", "roberta", "t5", "llama2", "gemma", "mbart"])
def test_no_text_becomes_structure(name):
    tokenizer = Tokenizer.from_folder(GOLDEN / name)
    # The unknown token is what unknown characters become; BPE has bytes for them.
    structure = sorted(set(tokenizer.structural_ids) - ({tokenizer.unk_id} if tokenizer.kind != "bpe" else set()))
    around = np.bincount(tokenizer.encode([""]).ids, minlength=tokenizer.vocab_size)[structure].tolist()
    pieces = st.one_of(st.text(max_size=5), st.sampled_from([tokenizer.vocabulary[index] for index in structure]))

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(st.lists(pieces, max_size=5).map("".join))
    def check(text):
        found = np.bincount(tokenizer.encode([text]).ids, minlength=tokenizer.vocab_size)
        assert found[structure].tolist() == around

    check()
