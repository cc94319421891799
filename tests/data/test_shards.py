"""Prepared corpora as data sets: rows by number, any step first, broken shards named."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from aillm_tf.data.prepare import prepare
from aillm_tf.data.prepare_options import PrepareOptions
from aillm_tf.data.shards import is_prepared, open_shards
from aillm_tf.text.tokenizer import Tokenizer

FIRST, SECOND = "train-00000-of-00005.tfrecord", "train-00001-of-00005.tfrecord"
OPTIONS = PrepareOptions(sources=("a.jsonl",), vocab_size=256, length=64, validation=0.2, similarity=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    words = np.array([f"{a}{b}{c}" for a in "bdfgkl" for b in "aeiou" for c in ("rn", "st", "lly", "mo")])
    path = tmp_path_factory.mktemp("shards")
    texts = [" ".join(rng.choice(words, rng.integers(50, 120))) for _ in range(150)]
    (path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    prepare(path / "corpus", dataclasses.replace(OPTIONS, sources=(str(path / "a.jsonl"),)), progress=False)
    return path / "corpus"


@pytest.fixture
def shards(folder, tmp_path, monkeypatch):
    """The same corpus in shards of 50 rows, which may be harmed, and its data set."""
    monkeypatch.setattr("aillm_tf.data.prepare_rows.SHARD", 1)
    monkeypatch.setattr("aillm_tf.data.prepare_rows._BLOCK", 50)
    options = dataclasses.replace(OPTIONS, sources=(str(folder.parent / "a.jsonl"),))
    prepare(tmp_path / "corpus", options, progress=False)
    return tmp_path / "corpus", open_shards(tmp_path / "corpus", batch_size=7, shuffle=True)


@pytest.fixture
def copy(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "corpus")
    return tmp_path / "corpus"


def test_an_epoch_has_every_row_once_and_all_tokens(folder):
    data = open_shards(folder, batch_size=7, shuffle=True)
    batches = list(data.batches())
    rows = np.concatenate([batch["row"] for batch in batches])
    assert sorted(rows[rows >= 0]) == list(range(len(data)))
    assert sum(int(batch["valid"].numpy().sum()) for batch in batches) == data.split["tokens"]
    assert data.tokens(0, data.steps_per_epoch) == data.split["tokens"]


def test_tokens_per_batch_counts_where_both_sizes_are_given(folder):
    batch = next(iter(open_shards(folder, batch_size=32, tokens_per_batch=256).batches()))
    assert batch["token_ids"].shape == (4, 64)


def test_any_step_can_be_the_first(folder):
    data = open_shards(folder, batch_size=4, shuffle=True, seed=3)
    third = list(data.batches())[3]
    again = next(iter(open_shards(folder, batch_size=4, shuffle=True, seed=3).batches(first_step=3)))
    assert all(np.array_equal(third[name], again[name]) for name in third)


def test_replicas_share_a_batch_of_rows(folder):
    data = open_shards(folder, batch_size=6)
    whole = next(iter(data.batches()))
    parts = [next(iter(data.batches(replicas=range(r, r + 1), total=2))) for r in range(2)]
    assert np.array_equal(whole["token_ids"], np.concatenate([part["token_ids"] for part in parts]))


def test_positions_restart_and_numbers_rise_with_each_document(folder):
    batch = next(iter(open_shards(folder, batch_size=16).batches()))
    packed, positions, valid = (batch[name].numpy() for name in ("packed_ids", "positions", "valid"))
    same = (packed[:, 1:] == packed[:, :-1]) & (valid[:, 1:] > 0)
    assert np.array_equal(np.diff(positions)[same], np.ones(same.sum()))
    assert np.all(positions[:, 1:][~same] == 0)
    assert np.array_equal(packed > 0, valid > 0)


def test_rows_that_fill_a_batch_hold_padding(folder):
    data = open_shards(f"{folder}:validation", batch_size=1000)
    batch = next(iter(data.batches()))
    filling = batch["row"].numpy() < 0
    assert filling.any() and not batch["weight"].numpy()[filling].any() and not batch["valid"].numpy()[filling].any()
    assert set(batch["token_ids"].numpy()[filling].ravel()) == {data.manifest["pad_id"]}


def test_noise_sees_the_columns_and_is_fresh_in_each_epoch(folder):
    import tensorflow as tf

    def noise(example, seed, length):
        drawn = tf.random.stateless_uniform([2], seed, 0, 1 << 30, tf.int32)
        return {"first": example["packed_ids"][:1], "length": length, "drawn": drawn}

    data = open_shards(folder, batch_size=4, noise=noise, noise_name="drawn")
    first, second = (next(iter(data.batches(first_step=epoch * data.steps_per_epoch))) for epoch in (0, 1))
    assert first["first"].numpy().tolist() == [[1]] * 4 and first["length"][0] == 64
    assert not np.array_equal(first["drawn"], second["drawn"])
    assert data.fingerprint != open_shards(folder, batch_size=4).fingerprint


def test_columns_that_are_not_kept_are_left_out(folder):
    data = open_shards(folder, batch_size=4, keep=("token_ids", "valid"))
    assert set(next(iter(data.batches()))) == {"token_ids", "valid", "weight", "row"}


def test_bytes_per_token_are_those_of_the_texts(folder):
    texts = [json.loads(line)["text"] for line in (folder.parent / "a.jsonl").open()]
    data = open_shards(folder, "validation")
    splits = data.manifest["splits"].values()
    assert sum(split["documents"] for split in splits) == len(texts)
    assert sum(split["bytes"] for split in splits) == sum(len(text.encode()) for text in texts)
    assert data.bytes_per_token == data.split["bytes"] / data.split["tokens"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda file: os.truncate(file, 100), "train-00000-of-00001.tfrecord: the shard is torn, it has 100 bytes"),
        (
            lambda file: file.write_bytes(b"\0" * file.stat().st_size),
            "train-00000-of-00001.tfrecord: the shard is corrupt",
        ),
        (lambda file: file.unlink(), "train-00000-of-00001.tfrecord: the shard is missing"),
    ],
)
def test_a_broken_shard_is_named_when_it_is_opened(copy, harm, message):
    harm(copy / "train-00000-of-00001.tfrecord")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_shards(copy)


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def flip_bits_of_rows_3_and_8(file):
    raw = np.memmap(file, np.uint8, "r+").reshape(50, -1)
    raw[3, 40] ^= 1
    raw[8, 2] ^= 128


def rows_by_number(data):
    """Number of a row on the disk -> its tokens."""
    return dict(zip(data._rows, data.read(np.arange(len(data)))[0].tolist(), strict=True))


@pytest.mark.parametrize(
    ("harm", "skipped"),
    [
        (lambda file: file.unlink(), range(50, 100)),
        (cut, range(50, 100)),
        (flip_bits_of_rows_3_and_8, [53, 58]),
        (lambda file: shutil.copy(file.with_name(FIRST), file), range(50, 100)),
    ],
    ids=["missing", "torn", "flipped bits", "another shard in its place"],
)
def test_what_is_harmed_is_skipped_where_that_is_asked_for(shards, harm, skipped, caplog):
    folder, whole = shards
    before = rows_by_number(whole)
    harm(folder / SECOND)
    data = open_shards(folder, batch_size=7, shuffle=True, on_bad="skip")
    assert rows_by_number(data) == {row: ids for row, ids in before.items() if row not in skipped}
    assert data.split["skipped"] == {SECOND: len(skipped)}
    assert f"{folder / SECOND}: the shard is " in caplog.text
    assert f"Skipped: {len(skipped)} of its 50 rows" in caplog.text


def test_an_epoch_without_a_skipped_shard_has_the_tokens_that_are_left(shards):
    folder, whole = shards
    (folder / SECOND).unlink()
    data = open_shards(folder, batch_size=7, shuffle=True, on_bad="skip")
    seen = sum(int(batch["valid"].numpy().sum()) for batch in data.batches())
    assert seen == data.split["tokens"] == data.manifest["splits"]["train"]["tokens"] < whole.split["tokens"]


def test_rows_that_were_skipped_make_it_other_data(shards):
    folder, whole = shards
    flip_bits_of_rows_3_and_8(folder / SECOND)
    assert open_shards(folder, batch_size=7, shuffle=True, on_bad="skip").fingerprint != whole.fingerprint


def test_a_sound_corpus_is_the_same_where_skipping_is_asked_for(shards):
    folder, whole = shards
    data = open_shards(folder, batch_size=7, shuffle=True, on_bad="skip")
    assert data.fingerprint == whole.fingerprint and "skipped" not in data.split


def test_nothing_left_is_an_error(copy):
    cut(copy / "train-00000-of-00001.tfrecord")
    with pytest.raises(ValueError, match="no row of 'train' is left"):
        open_shards(copy, on_bad="skip")


def test_a_shard_that_is_cut_while_it_is_in_use_is_named(copy):
    data = open_shards(copy, batch_size=4)
    os.truncate(copy / "train-00000-of-00001.tfrecord", 100)
    with pytest.raises(OSError, match="train-00000-of-00001.tfrecord: the shard was cut short while it was in use"):
        data.read(np.arange(4))


def test_another_tokenizer_is_refused(folder, tokenizer):
    with pytest.raises(ValueError, match="another vocabulary"):
        open_shards(folder, tokenizer=tokenizer)
    open_shards(folder, tokenizer=Tokenizer.from_folder(folder / "tokenizer"))


def test_rows_longer_than_the_model_takes_are_refused(folder):
    with pytest.raises(ValueError, match="rows of 64 tokens, the model takes 32"):
        open_shards(folder, max_length=32)


def test_a_folder_that_is_not_prepared_is_told_from_an_unfinished_one(copy, tmp_path):
    assert is_prepared(copy) and is_prepared(f"{copy}:validation") and not is_prepared(tmp_path)
    (copy / "manifest.json").unlink()
    (copy / "work").mkdir()
    with pytest.raises(FileNotFoundError, match="run the same command again"):
        open_shards(copy)
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json"):
        open_shards(tmp_path)
