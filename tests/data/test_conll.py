"""Sentences with entities, out of every kind of file."""

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest

from aillm_tf.data.conll import tagged
from aillm_tf.text.words import join_tokens

CONLL2003 = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
British JJ I-NP B-MISC
call NN I-NP O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER
"""


def write(folder, text, name="a.conll"):
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_columns_are_read_and_iob1_is_converted(tmp_path):
    rows = tagged(write(tmp_path, CONLL2003))
    assert [rows.tokens(i) for i in range(2)] == ["EU rejects German British call".split(), ["Peter", "Blackburn"]]
    assert rows.tags == ["B-ORG O B-MISC B-MISC O".split(), ["B-PER", "I-PER"]]
    assert (rows.types, rows.counts["scheme"], rows.counts["broken tags repaired"]) == (
        ["MISC", "ORG", "PER"],
        "IOB1",
        0,
    )
    assert rows.where(1).endswith("a.conll:9")


def test_tabs_allow_spaces_in_tokens_and_in_blank_lines(tmp_path):
    rows = tagged(write(tmp_path, "New York\tx\tB-LOC\n\t\nyes\tx\tO\r\n\r\nno\tx\tO"))
    assert (rows.texts, rows.tags) == (["New York", "yes", "no"], [["B-LOC"], ["O"], ["O"]])


def test_comments_and_hashes(tmp_path):
    rows = tagged(write(tmp_path, "# id 3 domain=en\n# O\n1 O\n"))
    assert rows.tokens(0) == ["#", "1"]


def test_gzip_and_any_name(tmp_path):
    path = tmp_path / "emerging.test.annotated.gz"
    path.write_bytes(gzip.compress(b"Rom\tS-LOC\n"))
    assert tagged(path).tags == [["B-LOC"]]


@pytest.mark.parametrize(
    "line, reason",
    [("alone", "one column"), ("a PER", "'PER' is no tag"), ("\tO", "the token is empty")],
)
def test_a_bad_line_is_named(line, reason, tmp_path):
    with pytest.raises(ValueError, match=rf"a.conll:2.*{reason}"):
        tagged(write(tmp_path, f"good O\n{line}\n"))


def test_a_sentence_with_a_bad_line_is_skipped_and_counted(tmp_path):
    rows = tagged(write(tmp_path, "good O\nbad X\n\nfine O\n"), on_bad="skip")
    assert (rows.texts, rows.counts["sentences skipped"], len(rows.skipped)) == (["fine"], 1, 1)


def test_bytes_that_are_not_text_are_named(tmp_path):
    (tmp_path / "a.conll").write_bytes(b"caf\xe9 O\n")
    with pytest.raises(ValueError, match="a.conll:1.*byte 0xe9"):
        tagged(tmp_path / "a.conll")
    assert tagged(tmp_path / "a.conll", errors="replace").texts == ["caf\ufffd"]


def test_a_file_without_sentences_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no sentence"):
        tagged(write(tmp_path, "-DOCSTART- O\n\n"))


def test_repairs_are_counted_and_logged(tmp_path, caplog):
    rows = tagged(write(tmp_path, "a B-X\nb I-Y\n\nc O\nd B-X\n"))
    assert (rows.tags[0], rows.counts["broken tags repaired"]) == (["B-X", "B-Y"], 1)
    assert "broken tags repaired: 1" in caplog.text


def jsonl(folder, *objects):
    return write(folder, "".join(json.dumps(value) + "\n" for value in objects), "a.jsonl")


def test_jsonl_of_tokens(tmp_path):
    rows = tagged(jsonl(tmp_path, {"words": ["in", "Rom"], "ner": ["O", "B-L"]}), tokens="words", tags="ner")
    assert (rows.texts, rows.tags) == (["in Rom"], [["O", "B-L"]])


def test_zstandard_is_read_as_what_is_inside(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(json.dumps({"tokens": ["Rom"], "tags": ["B-L"]}).encode()))
    assert tagged(path).tags == [["B-L"]]


@pytest.mark.parametrize("broken", ['{"tokens": ["Ro', "[]", ""])
def test_a_broken_first_line_does_not_say_what_the_file_is(broken, tmp_path):
    path = write(tmp_path, broken + "\n" + json.dumps({"tokens": ["Rom"], "tags": ["B-L"]}) + "\n", "a.jsonl")
    rows = tagged(path, on_bad="skip")
    assert (rows.tags, len(rows.skipped)) == ([["B-L"]], int(bool(broken)))


SPANS = [{"start": 4, "end": 10, "label": "LOC"}, {"start": 3, "end": 10, "type": "LOC"}, [4, 10, "LOC"]]


@pytest.mark.parametrize("span", SPANS)
def test_jsonl_of_text_and_spans(span, tmp_path):
    rows = tagged(jsonl(tmp_path, {"text": "in  Zürich, ja", "spans": [span]}))
    assert (rows.tokens(0), rows.tags) == (["in", "Zürich", ",", "ja"], [["O", "B-LOC", "O", "O"]])
    assert rows.counts["entities that begin or end inside a word"] == 0


def test_spans_inside_words_and_overlapping_ones_are_counted(tmp_path):
    spans = [[0, 6, "LOC"], [0, 14, "ORG"]]
    rows = tagged(jsonl(tmp_path, {"text": "Londoner Times", "spans": spans}, {"text": "Londoner", "spans": spans[:1]}))
    assert rows.tags == [["B-ORG", "I-ORG"], ["B-LOC"]]
    assert rows.counts["overlapping entities left out"] == rows.counts["entities that begin or end inside a word"] == 1


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"tokens": ["a"], "tags": []}, "1 tokens but 0 tags"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "the token is empty"),
        ({"tokens": ["a"], "tags": [3]}, "the tag of 'a' is 3"),
        ({"text": "abc", "spans": [[1, 9, "X"]]}, "not within the text of 3 characters"),
        ({"text": "abc", "spans": [[1, "X"]]}, "neither"),
    ],
)
def test_a_bad_object_is_named(row, reason, tmp_path):
    with pytest.raises(ValueError, match=rf"a.jsonl:1.*{reason}"):
        tagged(jsonl(tmp_path, row))


def test_class_numbers_of_the_hub_become_names(monkeypatch):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner": datasets.List(datasets.ClassLabel(names=["O", "B-L"])),
        }
    )
    rows = datasets.Dataset.from_dict({"tokens": [["in", "Rom"]], "ner": [[0, 1]]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    assert tagged("hf:owner/name", tags="ner").tags == [["O", "B-L"]]


def test_class_numbers_of_tfds_become_names():
    from aillm_tf.data import tfds_source

    label = SimpleNamespace(names=["O", "B-L"])
    named = SimpleNamespace(feature=label)
    assert tfds_source._names_of(named) == tfds_source._names_of(label) == ["O", "B-L"]
    assert tfds_source._class_name([0, 1, -1], ["O", "B-L"]) == ["O", "B-L", None]


@pytest.mark.parametrize(
    "tokens, text",
    [
        (["It", "'s", "here"], "It 's here"),
        (list("我爱北京TV"), "我爱北京TV"),
        (["我", "爱", "北京", "TV", "台", "。"], "我爱北京 TV 台。"),
        (["a", "b"], "a b"),
        (["東京", "Tower"], "東京 Tower"),
        (["สวัสดี", "ครับ"], "สวัสดีครับ"),
        ([], ""),
    ],
)
def test_tokens_become_the_text_they_were_cut_from(tokens, text):
    joined, spans = join_tokens(tokens)
    assert joined == text
    assert [joined[start:end] for start, end in spans] == tokens
    assert spans.dtype == np.int64
