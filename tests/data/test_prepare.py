"""A prepared corpus holds what it should, however often and wherever its making was stopped."""

import dataclasses
import errno
import gzip
import hashlib
import html
import json
import os
import random
import resource
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from aillm_tf.data import files
from aillm_tf.data.prepare import DECIDED, prepare
from aillm_tf.data.prepare_options import PrepareOptions
from aillm_tf.data.prepare_sources import read_documents, source_files
from aillm_tf.data.tables import Bad
from aillm_tf.text.tokenizer import Tokenizer

DATA = Path(__file__).parents[3] / "shared" / "data"
GPT2 = Path(__file__).parents[1] / "golden" / "tokenizers" / "gpt2"
VOCABULARY = [
    f"{a}{b}{c}{d}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst" for d in ("a", "en", "or", "y")
]


def made_up(count, seed=0, length=(60, 200)):
    """Documents of random words, as arrays of words."""
    rng = np.random.default_rng(seed)
    return [rng.choice(VOCABULARY, rng.integers(*length)) for _ in range(count)]


def near_copy(words, rng, similarity=0.8):
    """The document with one passage replaced, so that this share of the five-word runs of both is common."""
    passage = max(1, round((len(words) - 4) * (1 - similarity) / (1 + similarity)) - 4)
    at = int(rng.integers(0, len(words) - passage))
    return np.r_[words[:at], rng.choice(VOCABULARY, passage), words[at + passage :]]


def write_jsonl(path, documents):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def planted():
    """(documents, which of them are near-duplicates, which exact copies), in random order after the originals."""
    rng = np.random.default_rng(1)
    originals = made_up(300)
    near = [near_copy(words, rng) for words in originals[:100]]
    exact = [[word.upper() for word in words] for words in originals[100:150]]
    texts = [" ".join(words) for words in [*originals, *near, *exact]]
    return texts, range(300, 400), range(400, 450)


@pytest.fixture(scope="module")
def options(tmp_path_factory, planted):
    source = write_jsonl(tmp_path_factory.mktemp("source") / "planted.jsonl", planted[0])
    return PrepareOptions(sources=(source,), vocab_size=512, length=2048, validation=0.1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, options):
    folder = tmp_path_factory.mktemp("corpus")
    return folder, prepare(folder, options, progress=False)


def digests(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


def documents_of(folder, manifest, split):
    """The texts of a split, read back from its rows."""
    from aillm_tf.data.shard_files import Layout, columns

    tokenizer = Tokenizer.from_folder(folder / "tokenizer")
    layout = Layout(manifest["length"], manifest["dtype"])
    for shard in manifest["splits"][split]["shards"]:
        raw = np.fromfile(folder / shard["name"], np.uint8).reshape(-1, layout.record)
        for ids, packed in zip(*columns(layout, raw)[:2], strict=True):
            for number in range(1, packed.max() + 1):
                yield tokenizer.decode(ids[packed == number])


def test_planted_near_duplicates_are_found_and_distinct_documents_kept(corpus, planted):
    folder, manifest = corpus
    texts, near, exact = planted
    kept = {*documents_of(folder, manifest, "train"), *documents_of(folder, manifest, "validation")}
    fell = [row for row, text in enumerate(texts[:400]) if text not in kept]
    assert manifest["stages"]["duplicates"]["exact copies"] == len(exact)
    assert len(set(fell) & set(near)) / len(near) >= 0.95
    assert len(set(fell) & set(near)) / len(fell) >= 0.95


def test_every_document_that_stays_is_in_one_split_once_and_whole(corpus, planted):
    folder, manifest = corpus
    found = [*documents_of(folder, manifest, "train"), *documents_of(folder, manifest, "validation")]
    assert len(found) == len(set(found)) and set(found) <= set(planted[0])


def test_no_row_is_spent_beyond_one_more_than_the_tokens_fill(corpus):
    train = corpus[1]["splits"]["train"]
    assert train["rows"] <= -(-train["tokens"] // corpus[1]["length"]) + 1


@pytest.mark.skipif(not DATA.exists(), reason="no shared/data beside the repository")
def test_rows_of_real_text_are_99_percent_full(tmp_path):
    source = (str(DATA / "wikitext2" / "valid.txt"),)
    options = PrepareOptions(sources=source, vocab_size=1024, length=1024, min_words=20, validation=0)
    assert prepare(tmp_path / "a", options, progress=False)["splits"]["train"]["filled"] >= 0.99


def test_counts_of_the_stages_add_up(corpus):
    stages, splits = corpus[1]["stages"], corpus[1]["splits"]
    copies = stages["duplicates"]["exact copies"] + stages["duplicates"]["near-duplicates"]
    fell = sum(stages.get("quality", {}).values())
    assert stages["read"]["documents"] == fell + copies + sum(split["documents"] for split in splits.values())


def test_a_stage_that_makes_texts_longer_is_counted(tmp_path, planted):
    source = write_jsonl(tmp_path / "a.jsonl", [planted[0][0].replace("f", "\ufb01"), *planted[0][1:20]])
    options = PrepareOptions(sources=(source,), unicode_form="NFKC", vocab_size=128, length=128)
    stages = prepare(tmp_path / "out", options, progress=False)["stages"]
    assert stages["normalise"] == {"changed": 1, "characters": -planted[0][0].count("f")}
    assert stages["markup"] == {"changed": 0, "characters": 0}


def test_how_many_words_a_document_may_have_is_an_option(tmp_path, planted):
    words = [len(text.split()) for text in planted[0][:40]]
    source = write_jsonl(tmp_path / "a.jsonl", planted[0][:40])
    bounds = {"min_words": 80, "max_words": 150, "quality": "none"}
    options = PrepareOptions(sources=(source,), vocab_size=128, length=128, **bounds)
    fell = prepare(tmp_path / "out", options, progress=False)["stages"]["quality"]
    few, many = sum(count < 80 for count in words), sum(count > 150 for count in words)
    assert min(few, many) > 0 and fell == {"too few words": few, "too many words": many}


def test_the_report_shows_what_fell_away(corpus):
    page = (corpus[0] / "report.html").read_text(encoding="utf-8")
    for wanted in ("near-duplicates", "Documents by length", "Rows by how full", "planted.jsonl:", "is like"):
        assert wanted in page


def test_any_number_of_processes_gives_the_same_bytes(tmp_path, corpus, options, monkeypatch):
    monkeypatch.setattr("aillm_tf.data.prepare_parts.BATCH", 1 << 16)
    monkeypatch.setattr("aillm_tf.data.prepare_parts.PART", 1 << 17)
    monkeypatch.setattr("aillm_tf.data.prepare_parts._SMALL", 0)
    prepare(tmp_path / "a", options, processes=2, progress=False)
    found, wanted = digests(tmp_path / "a"), digests(corpus[0])
    assert {name: found[name] for name in found if ".tfrecord" in name} == {
        name: wanted[name] for name in wanted if ".tfrecord" in name
    }


def test_a_prepared_folder_is_left_alone(corpus, options):
    before = digests(corpus[0])
    assert prepare(corpus[0], options, progress=False) == corpus[1]
    assert digests(corpus[0]) == before


def test_a_folder_of_another_corpus_is_refused(corpus, options):
    with pytest.raises(ValueError, match="begun with length=2048, not 128"):
        prepare(corpus[0], dataclasses.replace(options, length=128), progress=False)


def test_what_is_not_decided_yet_may_change_in_a_folder_that_was_begun(tmp_path, options, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("aillm_tf.data.prepare.make_tokenizer", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(tmp_path / "a", options, processes=1, progress=False)
    with pytest.raises(ValueError, match="begun with min_words=50, not 60"):
        prepare(tmp_path / "a", dataclasses.replace(options, min_words=60), progress=False)
    other = dataclasses.replace(options, kind="bpe", length=1024)
    manifest = prepare(tmp_path / "a", other, progress=False)
    assert manifest == prepare(tmp_path / "b", other, progress=False)


def test_every_option_is_of_a_stage():
    decided = [name for names in DECIDED.values() for name in names]
    assert sorted(decided) == sorted(field.name for field in dataclasses.fields(PrepareOptions))


def test_a_tokenizer_that_is_not_there_is_named_before_anything_is_read(tmp_path, options, monkeypatch):
    monkeypatch.setattr("aillm_tf.data.prepare.read_parts", lambda *_: 1 / 0)
    with pytest.raises(FileNotFoundError, match="no/tokenizer"):
        prepare(tmp_path / "a", dataclasses.replace(options, tokenizer="no/tokenizer"), progress=False)
    with pytest.raises(ZeroDivisionError):  # another one may be given
        prepare(tmp_path / "a", dataclasses.replace(options, tokenizer=str(GPT2)), progress=False)


@pytest.mark.parametrize(
    "stop", ["part-00001.npz", "duplicates.npz", "tokens-part-00001.ids", "tokenizer", "train-00000"]
)
def test_a_full_disk_at_any_stage_is_named_and_the_same_call_goes_on(tmp_path, options, monkeypatch, stop):
    monkeypatch.setattr("aillm_tf.data.prepare_parts.PART", 1 << 17)
    monkeypatch.setattr("aillm_tf.data.prepare_parts.BATCH", 1 << 16)
    whole = prepare(tmp_path / "whole", options, processes=1, progress=False)
    replace, rename = os.replace, Path.rename

    def full(source, target, *rest):
        if Path(target).name.startswith(stop):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return replace(source, target, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        patch.setattr(Path, "rename", lambda self, target: full(self, target))
        with pytest.raises(OSError, match="Make room and run the same command again"):
            prepare(tmp_path / "stopped", options, processes=1, progress=False)
    assert Path.rename is rename
    assert not (tmp_path / "stopped" / "manifest.json").exists()
    assert prepare(tmp_path / "stopped", options, processes=1, progress=False) == whole
    assert digests(tmp_path / "stopped") == digests(tmp_path / "whole")


def test_a_file_size_limit_of_the_system_is_named(tmp_path, options):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(OSError, match="File too large. Make room"):
            prepare(tmp_path / "a", options, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert prepare(tmp_path / "a", options, progress=False)["splits"]["train"]["rows"]


def test_an_unreadable_file_is_named_and_nothing_finished_is_lost(tmp_path, planted, monkeypatch):
    monkeypatch.setattr("aillm_tf.data.prepare_parts.PART", 1 << 14)
    monkeypatch.setattr("aillm_tf.data.prepare_parts.BATCH", 1 << 13)
    sources = [write_jsonl(tmp_path / name, planted[0][at : at + 60]) for name, at in (("a.jsonl", 0), ("b.jsonl", 60))]
    options = PrepareOptions(sources=sources, vocab_size=256, length=128)

    def broken(path, *rest):
        if path.name == "b.jsonl":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return lines(path, *rest)

    lines = files.text_lines
    with monkeypatch.context() as patch:
        patch.setattr(files, "text_lines", broken)
        with pytest.raises(OSError, match="Input/output error.*goes on from the last finished part") as raised:
            prepare(tmp_path / "out", options, progress=False)
    assert raised.value.filename == sources[1]
    assert list((tmp_path / "out" / "work").glob("part-*.npz"))
    assert prepare(tmp_path / "out", options, progress=False)["stages"]["read"]["documents"] == 120


def test_a_torn_file_is_named_and_mending_it_is_enough(tmp_path, planted):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in planted[0][:100])
    packed = gzip.compress(lines.encode())
    source = tmp_path / "a.jsonl.gz"
    source.write_bytes(packed[: len(packed) // 2])
    options = PrepareOptions(sources=(str(source),), vocab_size=256, length=128)
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz:\d+: the gzip file is torn"):
        prepare(tmp_path / "out", options, progress=False)
    source.write_bytes(packed)
    assert prepare(tmp_path / "out", options, progress=False)["stages"]["read"]["documents"] == 100


def test_a_source_that_changed_after_a_stop_is_read_again(tmp_path, planted, monkeypatch):
    monkeypatch.setattr("aillm_tf.data.prepare_parts.PART", 1 << 14)
    monkeypatch.setattr("aillm_tf.data.prepare_parts.BATCH", 1 << 13)
    first = write_jsonl(tmp_path / "a.jsonl", planted[0][:50])
    second = write_jsonl(tmp_path / "b.jsonl", planted[0][50:100])
    options = PrepareOptions(sources=(first, second), vocab_size=256, length=1024)
    (tmp_path / "b.jsonl").write_text('{"text": 1}\n')
    with pytest.raises(ValueError, match=r"b\.jsonl:1"):
        prepare(tmp_path / "out", options, progress=False)
    write_jsonl(tmp_path / "a.jsonl", planted[0][100:150])
    write_jsonl(tmp_path / "b.jsonl", planted[0][150:200])
    manifest = prepare(tmp_path / "out", options, progress=False)
    assert manifest["stages"]["read"]["documents"] == 100
    found = {
        *documents_of(tmp_path / "out", manifest, "train"),
        *documents_of(tmp_path / "out", manifest, "validation"),
    }
    assert found == set(planted[0][100:200])


def test_a_file_that_came_after_a_stop_is_read(tmp_path, planted, monkeypatch):
    write_jsonl(tmp_path / "a.jsonl", planted[0][:60])
    options = PrepareOptions(sources=(str(tmp_path / "*.jsonl"),), vocab_size=256, length=128)
    with monkeypatch.context() as patch:
        patch.setattr("aillm_tf.data.prepare.find_duplicates", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(tmp_path / "out", options, progress=False)
    write_jsonl(tmp_path / "b.jsonl", planted[0][60:100])
    assert prepare(tmp_path / "out", options, progress=False)["stages"]["read"]["documents"] == 100


def test_a_part_of_which_no_document_stays_is_no_fault(tmp_path, planted, monkeypatch):
    monkeypatch.setattr("aillm_tf.data.prepare_parts.PART", 1)
    monkeypatch.setattr("aillm_tf.data.prepare_parts.BATCH", 1)  # every document is a part
    source = write_jsonl(tmp_path / "a.jsonl", [*planted[0][:20], "too short"])
    options = PrepareOptions(sources=(source,), vocab_size=128, length=128)
    assert prepare(tmp_path / "out", options, progress=False)["stages"]["quality"] == {"too few words": 1}


def test_bad_rows_stop_or_are_counted_by_line(tmp_path, planted):
    source = tmp_path / "a.jsonl"
    rows = [json.dumps({"text": text}) for text in planted[0][:60]]
    rows[7:7] = ["not json", '{"body": "x"}']
    source.write_text("\n".join(rows))
    options = PrepareOptions(sources=(str(source),), vocab_size=256, length=128)
    with pytest.raises(ValueError, match=r"a\.jsonl:8: not JSON"):
        prepare(tmp_path / "a", options, progress=False)
    skipping = dataclasses.replace(options, on_bad="skip")
    manifest = prepare(tmp_path / "a", skipping, progress=False)
    assert manifest["stages"]["read"]["bad rows"] == 2
    assert "a.jsonl:9: the row has no column" in (tmp_path / "a" / "report.html").read_text().replace("&#x27;", "'")


def test_weights_say_how_often_documents_are_taken(tmp_path, planted):
    sources = [write_jsonl(tmp_path / f"{n}.jsonl", planted[0][n * 100 : n * 100 + 100]) for n in range(2)]
    options = PrepareOptions(sources=sources, weights=(2, 0.5), vocab_size=256, length=1024, validation=0)
    manifest = prepare(tmp_path / "a", options, progress=False)
    found = list(documents_of(tmp_path / "a", manifest, "train"))
    assert all(found.count(text) == 2 for text in planted[0][:100])
    assert 30 < sum(found.count(text) for text in planted[0][100:200]) < 70
    assert not manifest["splits"]["validation"]["rows"]
    told = [(source["taken"], source["bytes"]) for source in manifest["sources"]]
    halves = [[text for text in found if (text in planted[0][:100]) == first] for first in (True, False)]
    assert told == [(len(half), sum(map(len, half))) for half in halves]


def test_evaluation_texts_take_their_documents_out(tmp_path, planted):
    texts = list(planted[0][:80])
    words = texts[5].split()
    (tmp_path / "eval.txt").write_text(" ".join(words[20:40]).capitalize() + " !\ntoo short to tell\n")
    source = write_jsonl(tmp_path / "a.jsonl", texts)
    options = PrepareOptions(sources=(source,), evaluation=(str(tmp_path / "eval.txt"),), vocab_size=256, length=1024)
    manifest = prepare(tmp_path / "out", options, progress=False)
    assert manifest["stages"]["contamination"] == {str(tmp_path / "eval.txt"): 1}
    assert list(manifest["stages"]["evaluation"].values()) == [1, 1]
    assert texts[5] not in set(documents_of(tmp_path / "out", manifest, "train"))


@pytest.mark.parametrize(
    "copy",
    [lambda text: unicodedata.normalize("NFD", text), lambda text: html.escape(text).replace("é", "&eacute;")],
    ids=["nfd", "entities"],
)
def test_evaluation_texts_are_cleaned_as_the_corpus_is(tmp_path, planted, copy):
    texts = [text.replace("e", "é") for text in planted[0][:40]]
    (tmp_path / "eval.txt").write_text(copy(" ".join(texts[5].split()[20:40])), encoding="utf-8")
    source = write_jsonl(tmp_path / "a.jsonl", texts)
    options = PrepareOptions(sources=(source,), evaluation=(str(tmp_path / "eval.txt"),), vocab_size=256, length=1024)
    manifest = prepare(tmp_path / "out", options, progress=False)
    assert manifest["stages"]["contamination"] == {str(tmp_path / "eval.txt"): 1}


def test_an_evaluation_set_that_changed_after_a_stop_is_looked_for(tmp_path, planted, monkeypatch):
    source, looked_for = write_jsonl(tmp_path / "a.jsonl", planted[0][:40]), tmp_path / "eval.txt"
    looked_for.write_text("nothing that is in the corpus, but long enough to be looked for")
    options = PrepareOptions(sources=(source,), evaluation=(str(looked_for),), vocab_size=256, length=128)
    with monkeypatch.context() as patch:
        patch.setattr("aillm_tf.data.prepare.find_duplicates", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(tmp_path / "out", options, progress=False)
    looked_for.write_text(planted[0][5])
    assert prepare(tmp_path / "out", options, progress=False)["stages"]["contamination"] == {str(looked_for): 1}


@pytest.mark.parametrize(
    ("kind", "use", "first", "last"),
    [
        ("bpe", "decoder", "<s>", "</s>"),
        ("unigram", "seq2seq", None, "</s>"),
        ("wordpiece", "encoder", "[CLS]", "[SEP]"),
    ],
)
def test_documents_begin_and_end_as_the_tokenizer_says(tmp_path, planted, kind, use, first, last):
    source = write_jsonl(tmp_path / "a.jsonl", planted[0][:60])
    options = PrepareOptions(sources=(source,), kind=kind, use=use, vocab_size=512, length=4096, validation=0)
    manifest = prepare(tmp_path / "out", options, progress=False)
    tokenizer = Tokenizer.from_folder(tmp_path / "out" / "tokenizer")
    from aillm_tf.data.shards import open_shards

    segments = open_shards(tmp_path / "out").segments()
    begins, ends = segments.values[segments.offsets[:-1]], segments.values[segments.offsets[1:] - 1]
    assert len(begins) == manifest["splits"]["train"]["documents"] == 60
    assert {tokenizer.vocabulary[index] for index in ends} == {last}
    assert first is None or {tokenizer.vocabulary[index] for index in begins} == {first}
    assert tokenizer.vocab_size % 128 == 0


def test_sources_are_globs_folders_and_packed_files(tmp_path):
    import zstandard

    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.txt.zst").write_bytes(zstandard.compress(b"three\nlines\n\nfour\n"))
    (tmp_path / "a.csv").write_text("id,text\n1,one\n2,two\n")
    (tmp_path / "notes.pdf").write_text("no")

    def texts(*sources, **options):
        options = PrepareOptions(sources=sources, **options)
        return [document.text for document in read_documents(source_files(options.sources), options)]

    assert texts(str(tmp_path)) == ["one", "two", "three\nlines", "four"]
    assert texts(str(tmp_path / "*" / "*.zst"), documents="line") == ["three", "lines", "four"]
    assert texts(str(tmp_path / "deep"), documents="file") == ["three\nlines\n\nfour"]
    with pytest.raises(FileNotFoundError, match=r"x\*: no such file"):
        source_files([str(tmp_path / "x*")])


def test_a_torn_zst_file_is_named(tmp_path):
    import zstandard

    packed = zstandard.compress(os.urandom(5000).hex().encode())
    (tmp_path / "a.txt.zst").write_bytes(packed[:-9])
    options = PrepareOptions(sources=(str(tmp_path / "a.txt.zst"),))
    with pytest.raises(ValueError, match=r"a\.txt\.zst:\d+: the zstd file is torn"):
        list(read_documents(source_files(options.sources), options))


def test_an_undecodable_line_makes_its_document_bad(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\n\nbad \xff\nline\n\nfine\n")
    options = PrepareOptions(sources=(str(tmp_path / "a.txt"),))
    found = [document.text for document in read_documents(source_files(options.sources), options)]
    assert [isinstance(text, Bad) for text in found] == [False, True, False]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vocab_size": 1000}, "no multiple of 128.*take 1024"),
        ({"weights": (1, 2)}, "1 sources need as many weights"),
        ({"use": "decoder"}, "use='decoder' does not go with kind='wordpiece'"),
        ({"kind": "bpe", "vocab_size": 256}, "vocab_size=256 is too small: bpe needs 261"),
        ({"tokenizer": "t5-small", "sentinels": 9}, "t5-small is taken as it is"),
        ({"languages": ("xx",)}, "no language 'xx'"),
        ({"drop": "("}, "not a regular expression"),
        ({"similarity": 2}, "share from 0 to 1"),
    ],
)
def test_options_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        PrepareOptions(sources=("a.txt",), **wrong)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="no shared/data beside the repository")
def test_kill_9_at_random_moments_and_going_on_gives_the_same_bytes(tmp_path):
    code = (
        "import sys\n"
        "from aillm_tf.data import prepare_parts, prepare_rows\n"
        "prepare_parts.PART, prepare_parts.BATCH, prepare_parts._SMALL = 1 << 18, 1 << 16, 0\n"
        "prepare_rows.SHARD = 1 << 16\n"
        "from aillm_tf.data.prepare import prepare\n"
        "from aillm_tf.data.prepare_options import PrepareOptions\n"
        f"options = PrepareOptions(sources={[str(DATA / 'wikitext2')]!r}, min_words=20, vocab_size=2048, length=128)\n"
        "if __name__ == '__main__':\n"
        "    prepare(sys.argv[1], options, processes=2, progress=False)\n"
    )
    (tmp_path / "run.py").write_text(code)

    def start(folder):
        return subprocess.Popen([sys.executable, str(tmp_path / "run.py"), str(folder)], cwd=Path(__file__).parents[2])

    assert start(tmp_path / "whole").wait() == 0
    chance = random.Random(0)
    stages = (
        "work/part-00001.npz",
        "work/part-00004.npz",
        "work/duplicates.npz",
        "work/tokenizer",
        "work/tokens-*2.npz",
    )
    for stage in (*stages, "train-00000-*", "train-00002-*"):
        process = start(tmp_path / "killed")
        while not list((tmp_path / "killed").glob(stage)):
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        process.wait()
    assert start(tmp_path / "killed").wait() == 0
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
