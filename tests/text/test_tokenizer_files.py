"""Tokenizer files that are damaged, missing or of other models."""

import json
import shutil
from pathlib import Path

import pytest

from aillm_tf.text.sentencepiece_model import read_sentencepiece
from aillm_tf.text.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers"
PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"


@pytest.fixture
def copy(tmp_path):
    def of(name, **changes):
        shutil.copytree(GOLDEN / name, tmp_path, dirs_exist_ok=True)
        for file, content in changes.items():
            file = tmp_path / file.replace("__", ".")
            if content is None:
                file.unlink()
            else:
                file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return of


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("t5", "spiece.model"),
        ("llama2", "tokenizer.model"),
        ("mbart", "sentencepiece.bpe.model"),
        ("marian", "target.spm"),
    ],
)
@pytest.mark.parametrize("kept", [0, 1, 500, -3])
def test_cut_off_sentencepiece_file_is_named(name, file, kept, copy):
    data = (GOLDEN / name / file).read_bytes()
    folder = copy(name, **{file.replace(".", "__"): data[:kept]})
    with pytest.raises(ValueError, match=f"{file}: "):
        Tokenizer.from_folder(folder, side="target")


def test_text_in_place_of_a_sentencepiece_file_is_refused(copy):
    with pytest.raises(ValueError, match="spiece.model: .*SentencePiece model"):
        Tokenizer.from_folder(copy("t5", spiece__model="version https://git-lfs.github.com/spec/v1\noid sha256:0\n"))


def test_sentencepiece_without_its_tokens_is_refused(copy):
    folder = copy("llama2", config__json='{"model_type": "albert"}', tokenizer_config__json="{}")
    with pytest.raises(ValueError, match=r"tokenizer.model: has no piece \[CLS\], \[SEP\], which albert puts"):
        Tokenizer.from_folder(folder)


def test_sentencepiece_of_an_unknown_family_lists_the_known_ones(copy):
    with pytest.raises(ValueError, match="family 'pegasus' is not known; known are t5, albert"):
        Tokenizer.from_folder(copy("t5", config__json='{"model_type": "pegasus"}'))


def test_sentencepiece_of_another_kind_is_refused():
    model = b"\x0a\x05\x0a\x03abc" + b"\x12\x02\x18\x03"
    with pytest.raises(ValueError, match="x.model: a SentencePiece model of kind 'word'; known are unigram and bpe"):
        read_sentencepiece(model, "x.model")


def test_missing_merges_are_named(copy):
    with pytest.raises(FileNotFoundError, match=r"merges.txt: not there"):
        Tokenizer.from_folder(copy("gpt2", merges__txt=None))


@pytest.mark.parametrize("line", ["t", "t h e", "t  h"])
def test_broken_merge_is_named_with_its_line(line, copy):
    with pytest.raises(ValueError, match=r"merges.txt:2: expected two tokens"):
        Tokenizer.from_folder(copy("gpt2", merges__txt=f"#version: 0.2\n{line}\n"))


def test_merge_of_another_vocabulary_is_named_with_its_line(copy):
    with pytest.raises(ValueError, match=r"merges.txt:3: 'Zh' is not in vocab.json"):
        Tokenizer.from_folder(copy("gpt2", merges__txt="#version: 0.2\nt h\nZ h\n"))


@pytest.mark.parametrize("content", ['["a"]', '{"a": "b"}', '{"a": true}'])
def test_vocabulary_that_is_no_table_of_ids_is_named(content, copy):
    with pytest.raises(ValueError, match=r"vocab.json: "):
        Tokenizer.from_folder(copy("gpt2", vocab__json=content))


def test_settings_that_are_not_json_are_named_with_their_line(copy):
    with pytest.raises(ValueError, match=r"tokenizer_config.json:2: not JSON"):
        Tokenizer.from_folder(copy("mbart", tokenizer_config__json='{\n"a": }'))


@pytest.mark.parametrize("file", ["source.spm", "target.spm", "vocab.json"])
def test_marian_needs_all_its_files(file, copy):
    with pytest.raises(FileNotFoundError, match=f"not {file}; Marian needs them all"):
        Tokenizer.from_folder(copy("marian", **{file.replace(".", "__"): None}))


def test_marian_vocabulary_with_a_gap_is_named(copy):
    vocabulary = json.loads((GOLDEN / "marian" / "vocab.json").read_text("utf-8"))
    vocabulary["<pad>"] = 5000
    with pytest.raises(ValueError, match=r"vocab.json: 715 tokens, but none has id 714"):
        Tokenizer.from_folder(copy("marian", vocab__json=json.dumps(vocabulary)))


def test_unknown_side_is_refused():
    with pytest.raises(ValueError, match="side='left'"):
        Tokenizer.from_folder(GOLDEN / "marian", side="left")


def test_added_tokens_keep_their_ids(copy):
    added = json.dumps({"<pad>": 501, "<user>": 502})
    tokenizer = Tokenizer.from_folder(copy("gpt2", added_tokens__json=added))
    assert (tokenizer.vocab_size, tokenizer.pad_id) == (503, 501)


def test_added_token_with_an_id_of_another_model_is_refused(copy):
    with pytest.raises(ValueError, match=r"'<extra>' should have id 900, but the vocabulary leads to 505"):
        config = {"added_tokens_decoder": {"900": {"content": "<extra>", "special": True}}}
        Tokenizer.from_folder(copy("llama3", tokenizer_config__json=json.dumps(config)))


@pytest.mark.parametrize(("begin", "end", "around"), [(False, False, []), (True, True, [1, 2]), (False, True, [2])])
def test_settings_say_what_stands_around_texts_of_decoders(begin, end, around, copy):
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": begin, "add_eos_token": end}
    tokenizer = Tokenizer.from_folder(copy("llama2", tokenizer_config__json=json.dumps(config)))
    assert tokenizer.encode([""]).ids.tolist() == around


def test_file_itself_may_be_named():
    for file in ("t5/spiece.model", "gpt2/vocab.json", "bert_cased/vocab.txt", "llama3/tokenizer.json"):
        expected = Tokenizer.from_folder((GOLDEN / file).parent).encode(["Two dogs"]).ids.tolist()
        assert Tokenizer.from_folder(GOLDEN / file).encode(["Two dogs"]).ids.tolist() == expected


@pytest.mark.parametrize("name", ["gpt2", "roberta", "t5", "albert", "llama2", "gemma", "xlm_roberta"])
def test_bare_vocabulary_files_tell_their_family(name, copy):
    folder = copy(name, config__json=None)
    (folder / "tokenizer_config.json").unlink(missing_ok=True)
    bare, full = Tokenizer.from_folder(folder), Tokenizer.from_folder(GOLDEN / name)
    assert (bare.fingerprint, bare.special_tokens) == (full.fingerprint, full.special_tokens)


def test_settings_for_others_are_kept(copy, tmp_path):
    config = {"padding_side": "left", "model_max_length": 77}
    tokenizer = Tokenizer.from_folder(copy("gpt2", tokenizer_config__json=json.dumps(config)))
    tokenizer.save(tmp_path / "saved")
    loaded = Tokenizer.from_folder(tmp_path / "saved")
    assert (loaded.padding_side, loaded.settings["model_max_length"]) == ("left", 77)


@pytest.mark.parametrize(("name", "size"), [("gpt2", 50257), ("t5", 32100)])
def test_published_vocabularies_have_their_size(name, size):
    if not (PUBLISHED / name).is_dir():
        pytest.skip(f"needs {PUBLISHED / name}")
    assert Tokenizer.from_folder(PUBLISHED / name).vocab_size == size
