"""Prepared corpora as data sets: rows by number, any step first, broken shards named."""

import json
import shutil

import numpy as np
import pytest

from aillm_tf.data.prepare import prepare
from aillm_tf.data.prepare_options import PrepareOptions
from aillm_tf.data.shards import is_prepared, open_shards
from aillm_tf.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    words = np.array([f"{a}{b}{c}" for a in "bdfgkl" for b in "aeiou" for c in ("rn", "st", "lly", "mo")])
    path = tmp_path_factory.mktemp("shards")
    texts = [" ".join(rng.choice(words, rng.integers(50, 120))) for _ in range(150)]
    (path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    options = PrepareOptions(sources=(str(path / "a.jsonl"),), vocab_size=256, length=64, validation=0.2, similarity=0)
    prepare(path / "corpus", options, progress=False)
    return path / "corpus"


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
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "train-00000-of-00001.tfrecord: the shard is torn"),
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
