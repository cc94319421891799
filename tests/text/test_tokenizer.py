"""Host tokenizer: loading, encoding, saving."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models

from aillm_tf.text import encoding
from aillm_tf.text.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["play", "##ed", "##ing", "the", "game", "[", "]", "sep", "mask", ".", "中", "国"]
VOCABULARIES = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"


@pytest.fixture
def tokenizer():
    return Tokenizer.from_vocabulary(SPECIAL + WORDS)


def tokens(tokenizer, text, **options):
    return [tokenizer.vocabulary[index] for index in tokenizer.encode([text], **options).ids]


def rows(encoded, field="ids"):
    return [part.tolist() for part in np.split(getattr(encoded, field), encoded.offsets[1:-1])]


def test_ids_of_the_special_tokens_are_found_by_their_usual_names(tokenizer):
    found = tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id
    assert found == (0, 1, 2, 3, 4)


def test_special_ids_hold_every_special_token(tokenizer):
    assert tokenizer.special_ids == [0, 1, 2, 3, 4]


def test_rows_lie_end_to_end(tokenizer):
    assert rows(tokenizer.encode(["Played.", "", "the game"])) == [[2, 5, 6, 14, 3], [2, 3], [2, 8, 9, 3]]


def test_rows_beyond_one_batch_of_the_library_keep_their_order(tokenizer, monkeypatch):
    monkeypatch.setattr(encoding, "ROWS_AT_ONCE", 2)
    texts = ["play", "the", "game", "", "."]
    assert rows(tokenizer.encode(texts)) == [rows(tokenizer.encode([text]))[0] for text in texts]


def test_no_rows_give_no_tokens(tokenizer):
    encoded = tokenizer.encode([])
    assert (encoded.ids.size, encoded.segment_ids.size, encoded.offsets.tolist()) == (0, 0, [0])


def test_dtypes_are_as_promised(tokenizer):
    assert [part.dtype for part in tokenizer.encode(["play"])] == [np.int32, np.int32, np.int64]


def test_second_text_of_a_pair_is_segment_1_with_its_separator(tokenizer):
    encoded = tokenizer.encode(["the game"], ["play"])
    assert encoded.ids.tolist() == [2, 8, 9, 3, 5, 3]
    assert encoded.segment_ids.tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(("first", "second", "kept"), [(9, 2, (5, 2)), (2, 9, (2, 5)), (9, 9, (3, 4)), (9, 8, (4, 3))])
def test_longer_text_of_a_pair_is_cut_first(tokenizer, first, second, kept):
    encoded = tokenizer.encode(["the " * first], ["game " * second], max_length=10)
    assert ((encoded.ids == 8).sum(), (encoded.ids == 9).sum()) == kept


def test_encoding_without_max_length_is_whole_after_a_truncated_one(tokenizer):
    tokenizer.encode(["the game"], max_length=3)
    assert tokenizer.encode(["the game"]).ids.tolist() == [2, 8, 9, 3]


def test_literal_special_tokens_are_text(tokenizer):
    assert tokens(tokenizer, "the [SEP] game") == ["[CLS]", "the", "[", "sep", "]", "game", "[SEP]"]


def test_literal_mask_token_is_the_mask(tokenizer):
    assert tokens(tokenizer, "the [MASK].") == ["[CLS]", "the", "[MASK]", ".", "[SEP]"]


def test_chinese_characters_are_words(tokenizer):
    assert tokens(tokenizer, "中国") == ["[CLS]", "中", "国", "[SEP]"]


def test_continuation_marks_pieces_inside_words_only(tokenizer):
    assert [tokenizer.vocabulary[index] for index in np.flatnonzero(tokenizer.continuation)] == ["##ed", "##ing"]


def test_decode_leaves_special_tokens_out(tokenizer):
    assert tokenizer.decode(np.array([2, 8, 5, 7, 4, 3, 0, 0])) == "the playing [MASK]"


def test_max_length_without_room_for_special_tokens_is_refused(tokenizer):
    with pytest.raises(ValueError, match="max_length=2 has no room for the 3 special tokens"):
        tokenizer.encode(["play"], ["play"], max_length=2)


def test_single_string_is_refused(tokenizer):
    with pytest.raises(TypeError, match="into a list"):
        tokenizer.encode("play")


def test_pairs_of_another_number_are_refused(tokenizer):
    with pytest.raises(ValueError, match="2 texts but 1 pairs"):
        tokenizer.encode(["play", "game"], ["the"])


def test_row_that_is_no_string_is_named(tokenizer):
    with pytest.raises(TypeError, match="row 1 is float"):
        tokenizer.encode(["play", float("nan")])


def test_row_with_a_lone_surrogate_is_named(tokenizer):
    with pytest.raises(ValueError, match=r"row 1 holds a lone surrogate .* at character 2"):
        tokenizer.encode(["play", "ab\ud83d"])


def test_saved_folder_gives_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = Tokenizer.from_folder(tmp_path)
    assert (loaded.fingerprint, loaded.special_tokens) == (tokenizer.fingerprint, tokenizer.special_tokens)


def test_saved_vocabulary_file_alone_gives_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert Tokenizer.from_folder(tmp_path / "vocab.txt").fingerprint == tokenizer.fingerprint


def test_settings_beside_a_vocabulary_file_are_used(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, "play"]), "utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}), "utf-8")
    assert tokens(Tokenizer.from_folder(tmp_path), "Play play") == ["[CLS]", "[UNK]", "play", "[SEP]"]


def test_vocabulary_file_with_capitals_is_taken_as_cased(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, "play", "Play"]), "utf-8")
    assert tokens(Tokenizer.from_folder(tmp_path), "Play play") == ["[CLS]", "Play", "play", "[SEP]"]


def test_special_tokens_of_other_names_come_from_the_settings(tmp_path):
    (tmp_path / "vocab.txt").write_text("<p>\n<u>\n<c>\n<e>\nplay\n", "utf-8")
    names = {"pad_token": "<p>", "unk_token": "<u>", "cls_token": {"content": "<c>"}, "sep_token": "<e>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names), "utf-8")
    assert tokens(Tokenizer.from_folder(tmp_path), "play x") == ["<c>", "play", "<u>", "<e>"]


def test_padding_and_truncation_of_a_file_are_dropped(tokenizer, tmp_path):
    backend = tokenizers.Tokenizer.from_str(tokenizer.json)
    backend.enable_truncation(3)
    backend.enable_padding(length=8)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.from_folder(tmp_path).encode(["the game"]).ids.tolist() == [2, 8, 9, 3]


def test_folder_without_a_tokenizer_lists_what_is_there(tmp_path):
    (tmp_path / "model.bin").touch()
    with pytest.raises(FileNotFoundError, match=r"neither tokenizer.json nor vocab.txt.*model.bin"):
        Tokenizer.from_folder(tmp_path)


def test_broken_tokenizer_file_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(ValueError, match=r"tokenizer.json: not a tokenizer.json"):
        Tokenizer.from_folder(tmp_path)


def test_vocabulary_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(ValueError, match=r"vocab.txt: byte 6 is not UTF-8"):
        Tokenizer.from_folder(tmp_path)


def test_vocabulary_without_bert_tokens_is_refused():
    with pytest.raises(ValueError, match=r"lacks \[CLS\], \[SEP\]"):
        Tokenizer.from_vocabulary(["[UNK]", "play"])


def test_unknown_model_is_refused():
    with pytest.raises(ValueError, match="'WordLevel' is not supported"):
        Tokenizer(tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))


def test_copies_encode_alike(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert tokens(copy, "[SEP] [MASK]") == tokens(tokenizer, "[SEP] [MASK]")


def test_fingerprints_differ_where_the_rules_do():
    lower, cased = (Tokenizer.from_vocabulary(SPECIAL + WORDS, lowercase=lowercase) for lowercase in (True, False))
    assert lower.fingerprint != cased.fingerprint


@pytest.mark.parametrize("name", ["uncased", "cased", "chinese"])
def test_published_vocabularies_keep_their_ids(name):
    folder = VOCABULARIES / f"bert-base-{name}"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    lines = (folder / "vocab.txt").read_bytes().decode().split("\n")[:-1]
    assert Tokenizer.from_folder(folder).vocabulary == lines
