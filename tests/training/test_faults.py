"""Real faults in mid-run: the same command then ends in the weights of a run that nothing happened to."""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from small_disks import mounted

from aillm_tf.cli import main
from aillm_tf.data.prepare import prepare
from aillm_tf.data.prepare_options import PrepareOptions
from aillm_tf.training.checkpoint import Checkpoints
from aillm_tf.training.loop import stopped_before
from aillm_tf.training.metrics_log import read_rows
from aillm_tf.training.process import start

SLOW = pytest.mark.slow
MEASURED = ("seconds", "examples_per_second", "tokens_per_second", "mfu")
SHARD = "train-00001-of-00008.tfrecord"
CLOCK = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


def options(corpus, out):
    return [
        *("--data.train", str(corpus), "--out", str(out), "--training.dtype", "float32"),
        *("--model.objective", "causal_lm", "--model.preset", "tiny", "--model.max_length", "16"),
        *("--model.dropout", "0.1", "--training.batch_size", "8", "--training.steps", "24"),
        *("--training.checkpoint_every", "4", "--training.validation_every", "8", "--training.ema", "0.9"),
    ]


def begin(corpus, out):
    with open(f"{out}.log", "ab") as log:
        return start("pretrain", options(corpus, out), log)


def said(out):
    return Path(f"{out}.log").read_text(errors="replace")


def finish(corpus, out):
    assert begin(corpus, out).wait(timeout=280) == 0, said(out)[-3000:]


def rows(out):
    """What metrics.jsonl holds, without times."""
    found = read_rows(out / "metrics.jsonl") if (out / "metrics.jsonl").is_file() else []
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in found]


def wait_for(step, process, out):
    """Returns as soon as metrics.jsonl has the step; the process is then in mid-run."""
    while max((row["step"] for row in rows(out)), default=0) < step:
        assert process.poll() is None, said(out)[-3000:]
        time.sleep(0.002)


def weights(out):
    return (out / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def corpus(reviews, tmp_path_factory):
    """The reviews in eight shards of 16 rows of 16 tokens, and some to validate on."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "texts.txt").write_text("\n".join(text for text, _ in reviews[:36]), encoding="utf-8")
    found = PrepareOptions(
        sources=(str(folder / "texts.txt"),),
        documents="line",
        quality="none",
        min_words=1,
        similarity=0,
        validation=4,
        vocab_size=128,
        length=16,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aillm_tf.data.prepare_rows.SHARD", 1)
        patch.setattr("aillm_tf.data.prepare_rows._BLOCK", 16)
        prepare(folder / "shards", found, processes=1, progress=False)
    return folder / "shards"


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """The run that nothing happens to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(corpus, out)
    return out


@pytest.fixture(scope="module")
def killed(corpus, tmp_path_factory):
    """A run that was killed in its middle, with two checkpoints."""
    out = tmp_path_factory.mktemp("killed") / "run"
    process = begin(corpus, out)
    while len(list(out.glob("checkpoints/step_*"))) < 2:
        assert process.poll() is None, said(out)[-3000:]
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    return out


@pytest.fixture
def resumable(killed, tmp_path):
    """The killed run, for one test to go on with."""
    shutil.copytree(killed, tmp_path / "run")
    return tmp_path / "run"


def assert_nothing_lost(out, whole):
    assert weights(out) == weights(whole)
    assert rows(out) == rows(whole)


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 64 MB."""
    with mounted(tmp_path, 64) as disk:
        if disk is None:
            pytest.skip("this user may not mount a small tmpfs")
        yield disk


@SLOW
def test_a_disk_that_fills_up_ends_the_run_and_once_there_is_room_nothing_is_lost(corpus, whole, small_disk):
    out = small_disk / "run"
    process = begin(corpus, out)
    wait_for(6, process, out)
    with contextlib.suppress(OSError), open(small_disk / "of others", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    assert process.wait(timeout=280) == 2
    assert "No space left on device" in said(out)
    (small_disk / "of others").unlink()
    finish(corpus, out)
    assert_nothing_lost(out, whole)


def flip_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


@SLOW
@pytest.mark.parametrize(
    "spoil", [lambda file: os.truncate(file, file.stat().st_size // 2), flip_bit], ids=["truncated", "flipped bit"]
)
def test_a_spoilt_checkpoint_is_named_and_the_run_goes_on_from_the_one_before(corpus, whole, resumable, spoil):
    newest = Checkpoints(resumable / "checkpoints").latest().path
    spoil(newest / "model.safetensors")
    finish(corpus, resumable)
    assert f"damaged checkpoint passed over: {newest / 'model.safetensors'}" in said(resumable)
    assert_nothing_lost(resumable, whole)


@SLOW
@pytest.mark.skipif(CLOCK is None, reason="needs libfaketime: apt-get install libfaketime")
def test_a_clock_that_jumps_an_hour_ahead_and_two_back_changes_nothing(corpus, whole, tmp_path, monkeypatch):
    out, clock = tmp_path / "run", tmp_path / "clock"
    clock.write_text("+0")
    monkeypatch.setenv("LD_PRELOAD", str(CLOCK))
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(clock))
    monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")  # as in a machine whose clock is set
    process = begin(corpus, out)
    wait_for(5, process, out)
    clock.write_text("+3600")
    wait_for(10, process, out)
    clock.write_text("-3600")
    wait_for(15, process, out)
    process.kill()
    process.wait()
    finish(corpus, out)  # an hour before it was begun
    assert_nothing_lost(out, whole)


@SLOW
def test_a_second_run_on_the_directory_is_refused_and_leaves_the_first_alone(corpus, whole, tmp_path):
    out = tmp_path / "run"
    first = begin(corpus, out)
    wait_for(6, first, out)
    first.send_signal(signal.SIGSTOP)  # else it would be done before the second has started
    assert begin(corpus, out).wait(timeout=280) == 2
    assert f"is in use by process {first.pid} on " in said(out)
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=280) == 0
    assert_nothing_lost(out, whole)


@SLOW
def test_a_shard_that_is_corrupt_after_a_kill_is_named_and_once_it_is_back_nothing_is_lost(corpus, whole, resumable):
    shard = corpus / SHARD
    sound = shard.read_bytes()
    try:
        flip_bit(shard)
        assert begin(corpus, resumable).wait(timeout=280) == 2
        assert f"{shard}: the shard is corrupt" in said(resumable)
    finally:
        shard.write_bytes(sound)
    finish(corpus, resumable)
    assert_nothing_lost(resumable, whole)


class Stopped(Exception):
    pass


def test_a_run_that_may_skip_a_missing_shard_says_how_many_rows_it_skipped(corpus, tmp_path, capsys):
    shutil.copytree(corpus, tmp_path / "corpus")
    (tmp_path / "corpus" / SHARD).unlink()
    with pytest.raises(Stopped) as stopped, stopped_before(Stopped):
        main(["train", "pretrain", *options(tmp_path / "corpus", tmp_path / "run"), "--data.on_bad", "skip"])
    assert stopped.value.args[1].split["skipped"] == {SHARD: 16}
    assert "rows skipped: 16" in capsys.readouterr().out
