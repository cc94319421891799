"""Pairs of texts: every kind of file gives the same rows, bad ones are named, unbalanced ones counted."""

import gzip
import json

import numpy as np
import pytest

from aillm_tf.data.parallel import Parallel, clean_parallel, read_parallel
from aillm_tf.data.tables import Places

PAIRS = [("A dog runs.", "Ein Hund rennt."), ("Two men,\tsitting", "Zwei Männer sitzen"), ("“Quoted” text", "„Zitat“")]
EXPECTED = [[target] for _, target in PAIRS]


def write(path, text):
    (gzip.open if path.suffix == ".gz" else open)(path, "wb").write(text.encode())
    return path


def two_files(folder, end, pairs=PAIRS):
    sides = zip(("source", "target"), ("en", "de"), zip(*pairs, strict=True), strict=True)
    return {
        side: write(folder / f"t.{language}{end}", "".join(f"{t}\n" for t in texts)) for side, language, texts in sides
    }


@pytest.mark.parametrize("end", ["", ".gz", ".txt", ".txt.gz"])
def test_two_files_are_read_line_by_line_whatever_their_names_end_in(tmp_path, end):
    rows = read_parallel(two_files(tmp_path, end))
    assert rows.sources == [source for source, _ in PAIRS]
    assert rows.references == EXPECTED
    assert rows.where(1) == f"{tmp_path}/t.en{end}:2"


@pytest.mark.parametrize("nested", [False, True])
def test_json_lines(tmp_path, nested):
    values = [{"en": source, "de": target} for source, target in PAIRS]
    lines = [json.dumps({"translation": value} if nested else value) for value in values]
    path = write(tmp_path / "t.jsonl.gz", "\n".join(lines))
    prefix = "translation." if nested else ""
    rows = read_parallel(path, source=f"{prefix}en", target=f"{prefix}de")
    assert (rows.sources, rows.references) == ([source for source, _ in PAIRS], EXPECTED)


def test_tsv_columns_by_name_and_by_number(tmp_path):
    path = write(tmp_path / "t.tsv", "id\ten.txt\tde\n1\tA dog.\tEin Hund.\n")
    assert read_parallel(path, source="en.txt", target="de").sources == ["A dog."]
    path = write(tmp_path / "u.tsv", "A dog.\tEin Hund.\n")
    assert read_parallel(path, source=0, target=1).references == [["Ein Hund."]]


def test_lists_are_sentences_of_a_source_and_references_of_a_target(tmp_path):
    path = write(tmp_path / "t.jsonl", json.dumps({"source": ["One.", "Two."], "target": ["1 2", "12"]}))
    rows = read_parallel(path)
    assert rows.sources == ["One. Two."]
    assert rows.references == [["1 2", "12"]]
    assert rows.pairs() == (["One. Two."] * 2, ["1 2", "12"])


def test_files_of_different_length_are_refused(tmp_path):
    uri = two_files(tmp_path, "")
    write(uri["target"], "Ein Hund rennt.\n")
    with pytest.raises(ValueError, match=r"as many in each: .*t\.en 3 and .*t\.de 1 lines"):
        read_parallel(uri)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.de"):
        read_parallel({**two_files(tmp_path, ""), "target": tmp_path / "none.de"})


def test_other_names_than_source_and_target_are_refused(tmp_path):
    with pytest.raises(ValueError, match='"source": ..., "target": ...'):
        read_parallel({"en": "a", "de": "b"})


@pytest.mark.parametrize("value", [None, 3, [], ["a", 1], {"a": "b"}])
def test_what_is_no_text_is_named_by_its_line_and_column(tmp_path, value):
    lines = [json.dumps({"source": "a", "target": "b"}), json.dumps({"source": "a", "target": value})]
    path = write(tmp_path / "t.jsonl", "\n".join(lines))
    with pytest.raises(ValueError, match=r"t\.jsonl:2 \(column target\): .* is no text"):
        read_parallel(path)
    rows = read_parallel(path, on_bad="skip")
    assert len(rows) == len(rows.skipped) == 1


def test_a_line_that_does_not_decode_takes_its_counterpart_with_it(tmp_path):
    uri = two_files(tmp_path, "")
    uri["target"].write_bytes(b"eins\nzw\xe4i\ndrei\n")
    with pytest.raises(ValueError, match=r"t\.en:2 \(column .*t\.de\): broken text, byte 0xe4"):
        read_parallel(uri)
    rows = read_parallel(uri, on_bad="skip")
    assert rows.references == [["eins"], ["drei"]]
    assert rows.sources == [PAIRS[0][0], PAIRS[2][0]]
    assert read_parallel(uri, errors="replace").references[1] == ["zw\ufffdi"]


def rows_of(*pairs):
    places = Places(["t:"], np.zeros(len(pairs), np.int32), np.arange(len(pairs)))
    return Parallel([source for source, _ in pairs], [list(texts) for _, texts in pairs], places, [])


def test_empty_texts_are_dropped_and_counted():
    rows, counts = clean_parallel(rows_of(("a", ["b"]), (" ", ["b"]), ("a", ["", "c"])))
    assert counts == {"empty": 2}
    assert rows.references == [["b"], ["c"]]
    assert rows.where(1) == "t:2"


def test_ratios_are_beside_that_of_the_corpus():
    usual = [("x" * 100, ["y" * 40])] * 5
    rows, counts = clean_parallel(
        rows_of(*usual, ("x" * 100, ["y" * 200]), ("x" * 400, ["y" * 40]), ("x", ["y" * 9])), max_ratio=3
    )
    assert counts == {"empty": 0, "length ratio beyond 3": 2}
    assert len(rows) == 6


def test_the_same_pair_twice_is_a_duplicate_and_another_target_is_none():
    rows, counts = clean_parallel(rows_of(("a", ["b"]), ("a", ["b"]), ("a", ["c"])), deduplicate=True)
    assert counts == {"empty": 0, "duplicates": 1}
    assert rows.references == [["b"], ["c"]]


def test_nothing_left_is_an_error():
    with pytest.raises(ValueError, match="no pair is left"):
        clean_parallel(rows_of(("", ["b"])))
