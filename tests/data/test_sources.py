"""Sources: what is read, and that what cannot be read is named by file, line and column."""

import gzip
import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from aillm_tf.data.sources import labelled, read_table

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the public test data in ../shared/data is not here")


@pytest.fixture
def file(tmp_path):
    def write(name, content):
        path = tmp_path / name
        data = content if isinstance(content, bytes) else content.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.csv", 'text,label\r\n"one, ""two""",1\r\nthree,0\r\n'),
        ("a.tsv", 'text\tlabel\none, "two"\t1\nthree\t0\n'),
        ("a.jsonl", '{"label": "1", "text": "one, \\"two\\""}\n\n{"text": "three", "label": "0", "more": 1}\n'),
        ("a.csv.gz", 'label,text\n1,"one, ""two"""\n0,three'),
        ("a.TSV.gz", '\ufefftext\tlabel\r\none, "two"\t1\r\nthree\t0\r\n'),
    ],
)
def test_columns_are_chosen_by_name(file, name, content):
    table = read_table(file(name, content), columns=["text", "label"])
    assert table.columns == {"text": ['one, "two"', "three"], "label": ["1", "0"]}


def test_columns_are_chosen_by_position(file):
    assert read_table(file("a.tsv", "a\tb\nc\td\n"), columns=[1]).columns == {"1": ["b", "d"]}


def test_all_columns_by_position_when_none_is_asked_for(file):
    assert read_table(file("a.csv", "a,b\nc,d\n")).columns == {"0": ["a", "c"], "1": ["b", "d"]}


def test_txt_is_one_text_a_line_and_keeps_blank_lines(file):
    table = read_table(file("a.txt", "one\n\ntwo\u2028lines\n"), columns=["text"])
    assert table.columns["text"] == ["one", "", "two\u2028lines"]


def test_a_lone_quote_in_tsv_is_a_character(file):
    assert read_table(file("a.tsv", '"one\t1\ntwo\t0\n')).columns["0"] == ['"one', "two"]


def test_lines_are_counted_as_an_editor_does(file):
    table = read_table(file("a.csv", 'text,label\n"one\ntwo\rthree",1\nfour,0\n'), columns=["text"])
    assert table.columns["text"][0] == "one\ntwo\rthree"
    assert [table.where(row).rpartition("a.csv:")[2] for row in range(2)] == ["2", "4"]


def test_a_long_document_fits_a_csv_field(file):
    assert len(read_table(file("a.csv", "x" * 200_000)).columns["0"][0]) == 200_000


def test_another_encoding_is_read(file):
    table = read_table(file("a.tsv", "café\t1\n".encode("latin-1")), encoding="latin-1")
    assert table.columns["0"] == ["café"]


def test_undecodable_bytes_are_replaced_when_asked(file):
    assert read_table(file("a.txt", b"caf\xe9\n"), errors="replace").columns["text"] == ["caf\ufffd"]


# --- bad rows ------------------------------------------------------------------------------------------------------

BAD_ROWS = {
    "broken UTF-8": (
        "a.tsv",
        b"text\tlabel\ngood\t1\nb\xd1d\t1\n",
        r"a\.tsv:3 \(column text\): broken text, byte 0xd1",
    ),
    "too many columns": (
        "a.tsv",
        "text\tlabel\ngood\t1\nb\tad\t1\n",
        r"a\.tsv:3: 3 columns where the first line has 2",
    ),
    "too few columns": ("a.csv", "text,label\ngood,1\nbad\n", r"a\.csv:3: 1 columns where the first line has 2"),
    "open quote": ("a.csv", 'text,label\ngood,1\n"bad,1\nx,0\n', r"a\.csv:3: a quote is opened here and never closed"),
    "text after a quote": ("a.csv", 'text,label\ngood,1\n"b"ad,1\n', r"a\.csv:3: not a csv record"),
    "no JSON": ("a.jsonl", '{"text": "good", "label": 1}\n{"text"\n', r"a\.jsonl:2: not JSON"),
    "no object": ("a.jsonl", '{"text": "good", "label": 1}\n["bad", 1]\n', r"a\.jsonl:2: a JSON 'list', not an object"),
    "no key": (
        "a.jsonl",
        '{"text": "good", "label": 1}\n{"txt": "b", "label": 1}\n',
        r"a\.jsonl:2 \(column text\): .*did you mean 'txt'",
    ),
    "lone surrogate": (
        "a.jsonl",
        '{"text": "good", "label": 1}\n{"text": "\\ud800", "label": 1}\n',
        r"a\.jsonl:2 \(column text\): broken text, lone surrogate U\+D800",
    ),
    "empty text": ("a.tsv", "text\tlabel\ngood\t1\n \t1\n", r"a\.tsv:3 \(column text\): the text is empty"),
    "missing label": ("a.tsv", "text\tlabel\ngood\t1\nbad\t\n", r"a\.tsv:3 \(column label\): the label is missing"),
    "text is a number": (
        "a.jsonl",
        '{"text": "good", "label": 1}\n{"text": 5, "label": 1}\n',
        r"a\.jsonl:2 \(column text\): the text is 5, not a string",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named(file, case):
    name, content, message = BAD_ROWS[case]
    with pytest.raises(ValueError, match=rf'{message}.*on_bad="skip"'):
        labelled(file(name, content))


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_skipped_and_counted_when_asked(file, case):
    name, content, message = BAD_ROWS[case]
    data = labelled(file(name, content), on_bad="skip")
    assert data.texts[0] == "good" and len(data.skipped) == 1
    assert re.search(message, data.skipped[0])


def test_an_unknown_label_is_named(file):
    path = file("a.tsv", "good\tpositive\nbad\tnegativ\n")
    with pytest.raises(ValueError, match=r"a\.tsv:2 \(column 1\): unknown label 'negativ'.*did you mean 'negative'"):
        labelled(path, text=0, label=1, labels=["negative", "positive"])


@pytest.mark.parametrize("keep", [0.5, 0.99])
@pytest.mark.parametrize("on_bad", ["raise", "skip"])
def test_a_torn_gzip_file_is_never_taken_for_a_whole_one(file, keep, on_bad):
    path = file("a.tsv.gz", "".join(f"text number {n * n}\t{n % 2}\n" for n in range(5000)))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ValueError, match=r"a\.tsv\.gz:\d+: the gzip file is torn"):
        labelled(path, on_bad=on_bad)


def test_a_missing_column_lists_those_that_are_there(file):
    with pytest.raises(ValueError, match=r"no column 'label'; the first line holds 'text', 'labels'; did you mean"):
        labelled(file("a.csv", "text,labels\none,1\n"))


def test_a_position_beyond_the_columns_is_refused(file):
    with pytest.raises(ValueError, match=r"no column '2'; there are 2"):
        read_table(file("a.csv", "a,b\n"), columns=[2])


def test_a_missing_file_suggests_its_neighbour(file):
    path = file("train.tsv", "a\t1\n")
    with pytest.raises(FileNotFoundError, match=r"did you mean 'train\.tsv'"):
        read_table(path.with_name("tran.tsv"))


def test_an_unknown_file_type_lists_the_known_ones(file):
    with pytest.raises(ValueError, match=r"unknown file type '\.xml'.*\.csv, \.tsv, \.jsonl, \.txt"):
        read_table(file("a.xml", "<a/>"))


def test_an_empty_file_is_refused(file):
    with pytest.raises(ValueError, match="the file is empty"):
        labelled(file("a.tsv", ""))


def test_a_file_of_bad_rows_only_is_refused(file):
    with pytest.raises(ValueError, match=r"no usable row; the first of 2 skipped: .*a\.tsv:1"):
        labelled(file("a.tsv", " \t1\n \t0\n"), text=0, label=1, on_bad="skip")


# --- labels --------------------------------------------------------------------------------------------------------


def test_numeric_labels_are_sorted_by_value(file):
    data = labelled(file("a.tsv", "".join(f"text {n}\t{n}\n" for n in (10, 9, 2))), text=0, label=1)
    assert data.labels == ["2", "9", "10"]
    assert data.label_ids.tolist() == [2, 1, 0] and data.label_ids.dtype == np.int32


def test_names_are_sorted_as_text(file):
    assert labelled(file("a.tsv", "x y\tb\nx z\ta\nx w\t1\n"), text=0, label=1).labels == ["1", "a", "b"]


def test_given_labels_keep_their_order(file):
    data = labelled(file("a.tsv", "x\tneg\ny\tpos\n"), text=0, label=1, labels=["pos", "neg", "neutral"])
    assert data.label_ids.tolist() == [1, 0] and data.labels == ["pos", "neg", "neutral"]


@pytest.mark.parametrize("rows, label", [("good film\t1\nbad film\t0\n", "1"), ("1\tgood film\n0\tbad film\n", "0")])
def test_the_label_of_a_headerless_file_is_found(file, rows, label):
    data = labelled(file("a.tsv", rows))
    assert data.columns["label"] == label and data.texts == ["good film", "bad film"]


def test_columns_that_cannot_be_told_apart_are_an_error(file):
    with pytest.raises(ValueError, match=r"cannot be told apart.*label=0 or label=1"):
        labelled(file("a.tsv", "a\tb\nc\td\n"))


def test_ids_are_not_taken_for_labels(file):
    with pytest.raises(ValueError, match="cannot be told apart"):
        labelled(file("a.tsv", "".join(f"{n}\tthe text is {n % 60}\n" for n in range(100))))


def test_a_header_of_other_names_is_not_read_as_a_row(file):
    with pytest.raises(ValueError, match=r"a\.tsv:1: the first line looks like a header.*text='sentence'"):
        labelled(file("a.tsv", "sentence\tsentiment\n" + "good film\t1\nbad film\t0\n" * 3))


def test_texts_are_not_taken_for_labels(file):
    rows = "".join(f"{n % 2}\tthe text is {n}\n" for n in range(100))
    with pytest.raises(ValueError, match=r"100 distinct values in 100 rows.*hardly the label"):
        labelled(file("a.tsv", rows), text=0, label=1)


def test_several_labels_a_row(file):
    path = file("a.jsonl", '{"text": "x", "label": ["b", "a"]}\n{"text": "y", "label": []}\n')
    data = labelled(path, multi_label=True)
    assert data.label_ids.tolist() == [[1, 1], [0, 0]] and data.label_ids.dtype == np.float32


def test_several_labels_in_a_text_file_are_separated_by_commas(file):
    data = labelled(file("a.tsv", "text\tlabel\nx\t10,2\ny\t\nz\t2\n"), multi_label=True)
    assert data.labels == ["2", "10"] and data.label_ids.tolist() == [[1, 1], [0, 0], [1, 0]]


def test_pairs_are_read(file):
    path = file("a.csv", "premise,hypothesis,label\nA cat.,An animal.,1\n")
    data = labelled(path, text="premise", pair="hypothesis")
    assert data.texts == ["A cat."] and data.pairs == ["An animal."]


def test_one_file_a_class(file):
    data = labelled({"pos": file("p.txt", "good\nfine\n"), "neg": file("n.txt", "bad\n")})
    assert data.labels == ["neg", "pos"] and data.label_ids.tolist() == [1, 1, 0]
    assert data.where(1).endswith("p.txt:2") and data.where(2).endswith("n.txt:1")


def test_taking_rows_keeps_their_places(file):
    data = labelled(file("a.tsv", "x\t1\ny\t0\nz\t1\n"), text=0, label=1).take([2, 0])
    assert data.texts == ["z", "x"] and data.label_ids.tolist() == [1, 1]
    assert data.where(0).endswith("a.tsv:3")


# --- other sources -------------------------------------------------------------------------------------------------


def test_a_file_inside_a_package_is_read_through_the_resolver(file, monkeypatch):
    path = file("data.tsv", "x\t1\ny\t0\n")
    asked = []
    resolver = types.ModuleType("aillm_tf.weights.resolve")
    resolver.resolve = lambda source: asked.append(source) or path
    monkeypatch.setitem(sys.modules, "aillm_tf.weights.resolve", resolver)
    uri = "pypi:some==1.0/some/data.tsv#sha256=00"
    table = read_table(uri)
    assert asked == [uri] and table.where(1) == "pypi:some==1.0/some/data.tsv:2"


def test_hf_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        read_table("hf:owner/name")


def test_hf_labels_are_read_by_name(monkeypatch):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "a"])})
    rows = datasets.Dataset.from_dict({"text": ["x", "y", "w"], "label": [0, 1, -1]}, features)
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *name, split: asked.append((*name, split)) or rows)
    data = labelled("hf:owner/name/config:test", on_bad="skip")
    assert asked == [("owner/name", "config", "test")]
    assert data.labels == ["z", "a"] and data.label_ids.tolist() == [0, 1]  # the source's own order
    assert data.where(1) == "hf:owner/name/config:test#1" and "#2 (column label)" in data.skipped[0]


def test_a_folder_that_is_no_dataset_is_refused(file):
    with pytest.raises(ValueError, match=r"without dataset_info\.json.*'a\.tsv'"):
        read_table(file("a.tsv", "").parent)


@needs_shared
def test_a_torn_tfds_shard_is_named(tmp_path):
    for path in (SHARED / "c4_en_tfds").iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[: len(content) // 2] if "train" in path.name else content)
    with pytest.raises(ValueError, match=r":train#\d+: a shard is torn"):
        read_table(tmp_path, columns=["text"])


@needs_shared
def test_a_tfds_folder_is_read_by_split():
    folder = SHARED / "c4_en_tfds"
    table = read_table(f"{folder}:validation", columns=["text"])
    assert len(table) == 200 and len(read_table(folder, columns=["text"])) == 1000
    assert table.where(7) == f"{folder}:validation#7"
    with pytest.raises(ValueError, match="no split 'test'; it has: 'train', 'validation'"):
        read_table(f"{folder}:test")
    with pytest.raises(ValueError, match="no column 'txt'; it has: 'text'; did you mean 'text'"):
        read_table(folder, columns=["txt"])


def test_tfds_labels_are_read_by_name(monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    features = tfds.features.FeaturesDict(
        {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["z", "a"])}
    )
    tf = pytest.importorskip("tensorflow")
    rows = {"text": ["x", "y", "z"], "label": np.array([1, 0, -1])}
    builder = types.SimpleNamespace(
        info=types.SimpleNamespace(features=features, splits={"train": None}),
        download_and_prepare=lambda: None,
        as_dataset=lambda split, shuffle_files: tf.data.Dataset.from_tensor_slices(rows),
    )
    monkeypatch.setattr(tfds, "builder", lambda name: asked.append(name) or builder)
    asked = []
    data = labelled("tfds:tiny/config:1.0.0:train[:50%]", on_bad="skip")
    assert asked == ["tiny/config:1.0.0"]
    assert data.labels == ["z", "a"] and data.label_ids.tolist() == [1, 0]  # the source's own order
    assert data.skipped == ["tfds:tiny/config:1.0.0:train[:50%]#2 (column label): the label is missing"]


# --- real files ----------------------------------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize("name, rows", [("train", 6920), ("dev", 872), ("test", 1821)])
def test_sst2_is_read_whole(name, rows):
    data = labelled(SHARED / "sst2" / f"{name}.tsv")
    assert len(data) == rows and data.labels == ["0", "1"] and data.columns == {"text": "0", "label": "1"}


@needs_shared
def test_sms_spam_is_read_whole_in_spite_of_lone_quotes():
    data = labelled(SHARED / "sms_spam" / "sms.tsv")
    assert len(data) == 5574 and data.labels == ["ham", "spam"] and data.columns == {"label": "0", "text": "1"}
    assert sum(map(len, data.texts)) > 400_000 and not any("\t" in text for text in data.texts)


def test_jsonl_values_keep_their_types(file):
    rows = [{"a": 1, "b": ["x"]}, {"a": None, "b": []}]
    path = file("a.jsonl", "\n".join(map(json.dumps, rows)))
    assert read_table(path).columns == {"a": [1, None], "b": [["x"], []]}
