"""Killed at any moment and started again, a run goes on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.training.checkpoint import Checkpoints
from aillm_tf.training.metrics_log import read_rows
from aillm_tf.training.optimizer import adamw
from aillm_tf.training.strategy import strategy

STEPS = 10  # an epoch has 7
SLOW = pytest.mark.slow


class At(tf.keras.callbacks.Callback):
    """Notes losses by step, and epochs; does something once, after a given step."""

    def __init__(self, step=None, action=None):
        super().__init__()
        self.at, self.action, self.losses, self.epochs = step, action, {}, {}

    def on_train_batch_end(self, batch, logs=None):
        first = self.model.step - len(self.model.step_losses) + 1
        self.losses.update(enumerate(self.model.step_losses.tolist(), start=first))
        if self.model.step == self.at:
            self.action()

    def on_epoch_end(self, epoch, logs=None):
        self.epochs[epoch] = dict(logs)


class Killed(Exception):
    pass


def killed():
    raise Killed


def terminated():
    os.kill(os.getpid(), signal.SIGTERM)


def train(make, rows, folder, callback, scope=None, *, dropout=0.2, every=2, steps=STEPS, seed=1, **options):
    """One run in this process, from the newest checkpoint in the folder."""
    with (scope or strategy("one")).scope():
        model = make(dropout=dropout, attention_dropout=dropout)
    model.compile(adamw(5e-3, steps=STEPS, warmup=2, ema=0.9), **options)
    model.fuse_on_cpu = False
    return model, model.fit(
        model.dataset(rows, batch_size=6, shuffle=True, seed=seed, fixed_length=True),
        validation_data=model.dataset(rows, batch_size=20, fixed_length=True),
        steps=steps,
        callbacks=[callback],
        checkpoints=Checkpoints(folder, every_steps=every, best="accuracy"),
        verbose=0,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run: its callback, model and history, computed once for each rate of dropout."""
    made = {}

    def get(make, rows, dropout=0.2):
        if dropout not in made:
            callback = At()
            made[dropout] = callback, *train(make, rows, tmp_path_factory.mktemp("whole"), callback, dropout=dropout)
        return made[dropout]

    return get


def interrupted(make, rows, folder, step, action, error):
    callback = At(step, action)
    with pytest.raises(error) as raised:
        train(make, rows, folder, callback)
    return callback, raised.value


def goes_on(first, make, rows, folder, whole):
    """The run is finished, and equals the uninterrupted one bit for bit; returns the step it went on from."""
    callback = At()
    model, history = train(make, rows, folder, callback)
    expected, other, expected_history = whole(make, rows)
    assert {**first.losses, **callback.losses} == expected.losses
    assert {**first.epochs, **callback.epochs} == expected.epochs
    assert history.history == expected_history.history
    for a, b in zip(model.variables, other.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
    return min(callback.losses, default=None)


@pytest.mark.parametrize("step", [3, pytest.param(8, marks=SLOW)])
def test_a_run_that_failed_goes_on_from_the_last_checkpoint(step, make_classifier, rows, tmp_path, whole):
    first, _ = interrupted(make_classifier, rows, tmp_path, step, killed, Killed)
    # checkpoints lie at 2, 4, 6, the end of the epoch, 8 and 10
    assert goes_on(first, make_classifier, rows, tmp_path, whole) == (step // 2 * 2 + 1 if step < 7 else 8)


@pytest.mark.parametrize("step", [pytest.param(3, marks=SLOW), 7, pytest.param(10, marks=SLOW)])
def test_sigterm_saves_exits_143_and_loses_nothing(step, make_classifier, rows, tmp_path, whole):
    """3 is in mid-epoch; 7 and 10 are ends of epochs, whose validation is still to come."""
    first, error = interrupted(make_classifier, rows, tmp_path, step, terminated, SystemExit)
    assert error.code == 143
    assert Checkpoints(tmp_path).latest().step == step
    assert goes_on(first, make_classifier, rows, tmp_path, whole) == (step + 1 if step < STEPS else None)


def test_sigterm_is_handled_as_before_once_fit_is_over(whole, make_classifier, rows):
    whole(make_classifier, rows)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_damaged_checkpoint_falls_back_to_the_one_before(make_classifier, rows, tmp_path, whole):
    first, _ = interrupted(make_classifier, rows, tmp_path, 9, killed, Killed)
    newest = max(path for path in tmp_path.iterdir() if path.name.startswith("step_"))
    assert newest.name == "step_00000008"
    weights = newest / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.warns(UserWarning, match="step_00000008"):
        assert goes_on(first, make_classifier, rows, tmp_path, whole) == 8


def test_a_clock_that_is_set_back_an_hour_changes_nothing(make_classifier, rows, tmp_path, whole, monkeypatch):
    clock = time.time

    def set_back_and_killed():
        monkeypatch.setattr(time, "time", lambda: clock() - 3600)
        raise Killed

    first, _ = interrupted(make_classifier, rows, tmp_path, 5, set_back_and_killed, Killed)
    assert goes_on(first, make_classifier, rows, tmp_path, whole) == 5


@SLOW
def test_a_finished_run_trains_no_further(make_classifier, rows, tmp_path, whole):
    train(make_classifier, rows, tmp_path, first := At())
    assert goes_on(first, make_classifier, rows, tmp_path, whole) is None


@pytest.mark.parametrize(
    "from_two",
    [True, pytest.param(False, marks=SLOW)],
    ids=["from 2 replicas to 1", "from 1 replica to 2"],
)
def test_another_number_of_replicas_continues_the_curve(from_two, make_classifier, rows, tmp_path, whole, two_replicas):
    expected = whole(make_classifier, rows, dropout=0.0)[0]
    scopes = (two_replicas, None) if from_two else (None, two_replicas)
    first, then = At(5, killed), At()
    with pytest.raises(Killed):
        train(make_classifier, rows, tmp_path, first, scopes[0], dropout=0.0)
    train(make_classifier, rows, tmp_path, then, scopes[1], dropout=0.0, accumulate=2, steps_per_execution=3)
    assert min(then.losses) == 5
    losses = {**first.losses, **then.losses}
    np.testing.assert_allclose([losses[s] for s in expected.losses], list(expected.losses.values()), atol=1e-5)


def test_other_data_are_refused(make_classifier, rows, tmp_path):
    with pytest.raises(Killed):
        train(make_classifier, rows, tmp_path, At(2, killed), every=1)
    with pytest.raises(ValueError, match=r"step_00000001 was written while training on other data, order or seed"):
        train(make_classifier, rows, tmp_path, At(), seed=2)


@SLOW
def test_another_model_is_refused(make_classifier, rows, tmp_path):
    with pytest.raises(Killed):
        train(make_classifier, rows, tmp_path, At(2, killed), every=1)
    with pytest.raises(ValueError, match="the checkpoint is of another model"):
        train(lambda **options: make_classifier(layers=2, **options), rows, tmp_path, At())


@SLOW
def test_steps_of_one_execution_end_where_a_checkpoint_is_due(make_classifier, rows, tmp_path, whole):
    expected = whole(make_classifier, rows)[0]
    first, then = At(6, killed), At()
    with pytest.raises(Killed):
        train(make_classifier, rows, tmp_path, first, every=3, steps_per_execution=4)
    train(make_classifier, rows, tmp_path, then, every=3, steps_per_execution=4)
    assert min(then.losses) == 4
    assert {**first.losses, **then.losses} == expected.losses


@SLOW
def test_pretraining_moved_from_2_replicas_to_1_continues_the_curve(make_masked_lm, reviews, tmp_path, two_replicas):
    def pretrain(folder, callback, scope=None):
        with (scope or strategy("one")).scope():
            model = make_masked_lm()
        model.compile(adamw(5e-3, steps=STEPS, warmup=2, ema=0.9), spike_guard=5.0)
        model.fuse_on_cpu = False
        data = model.dataset([text for text, _ in reviews], batch_size=6, shuffle=True, seed=1, fixed_length=True)
        options = {"callbacks": [callback], "checkpoints": Checkpoints(folder, every_steps=2), "verbose": 0}
        model.fit(data, validation_data=data, validation_every=4, steps=STEPS, **options)

    whole, first, then = At(), At(5, killed), At()
    pretrain(tmp_path / "whole", whole)
    with pytest.raises(Killed):
        pretrain(tmp_path / "moved", first, two_replicas)
    pretrain(tmp_path / "moved", then)
    assert min(then.losses) == 5
    losses = {**first.losses, **then.losses}
    np.testing.assert_allclose([losses[step] for step in whole.losses], list(whole.losses.values()), atol=1e-5)


# The command, killed by the system


def command(out, data, *options):
    return [
        *(sys.executable, "-m", "aillm_tf.cli", "train", "classification", "--out", str(out)),
        *("--data.train", str(data), "--data.validation", str(data), "--data.text", "0", "--data.label", "1"),
        *("--model.preset", "tiny", "--model.vocab_size", "120", "--model.max_length", "16", "--model.dropout", "0.1"),
        *("--training.batch_size", "6", "--training.epochs", "2", "--training.checkpoint_every", "3"),
        *("--training.dtype", "float32", "--training.fixed_length", "true", *options),
    ]


def pretraining(out, data):
    return [
        *(sys.executable, "-m", "aillm_tf.cli", "train", "pretrain", "--out", str(out)),
        *("--data.train", str(data), "--data.validation", str(data), "--data.text", "0", "--data.deduplicate", "false"),
        *("--model.preset", "tiny", "--model.vocab_size", "120", "--model.max_length", "16", "--model.dropout", "0.1"),
        *("--training.batch_size", "16", "--training.steps", "40", "--training.batch_warmup", "14"),
        *("--training.spike_guard", "5", "--training.ema", "0.9", "--training.patience", "9"),
        *("--training.checkpoint_every", "3", "--training.validation_every", "10", "--training.dtype", "float32"),
        *("--training.fixed_length", "true", "--training.weight_decay", "0.1"),
    ]


def losses(out):
    return {row["step"]: row["loss"] for row in read_rows(out / "metrics.jsonl") if "epoch" not in row}


def epochs(out):
    return [row for row in read_rows(out / "metrics.jsonl") if "epoch" in row]


def start(arguments):
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    output, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors[-3000:] + output[-1000:]


def kill_after(process, out, step, number=signal.SIGKILL):
    """Sends the signal as soon as metrics.jsonl has the step."""
    while process.poll() is None:
        if (out / "metrics.jsonl").exists() and max(losses(out), default=0) >= step:
            process.send_signal(number)
            break
        time.sleep(0.002)
    process.communicate()
    return process.returncode


@pytest.fixture
def lines(reviews, tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("".join(f"{text}\t{label}\n" for text, label in reviews), encoding="utf-8")
    return path


def test_the_same_command_after_kill_9_in_mid_epoch_gives_the_same_losses(lines, tmp_path):
    whole = start(command(tmp_path / "whole", lines))
    broken = start(command(tmp_path / "broken", lines))
    assert kill_after(broken, tmp_path / "broken", 9) == -signal.SIGKILL
    assert max(losses(tmp_path / "broken")) < 14
    finish(start(command(tmp_path / "broken", lines)))
    finish(whole)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert sorted(losses(tmp_path / "whole")) == list(range(1, 15))
    assert epochs(tmp_path / "broken") == epochs(tmp_path / "whole")
    scores = [json.loads((tmp_path / name / "report.json").read_text())["scores"] for name in ("whole", "broken")]
    assert scores[0] == scores[1]


@SLOW
@pytest.mark.parametrize("attempt", range(3))
def test_kill_9_again_and_again_at_random_steps(attempt, lines, tmp_path):
    rng = np.random.default_rng()
    finish(start(command(tmp_path / "whole", lines)))
    step = 0
    while step < 14:
        step = int(rng.integers(step + 1, step + 7))
        print("killed at step", step)
        process = start(command(tmp_path / "broken", lines))
        if kill_after(process, tmp_path / "broken", step) == 0:
            break
    else:
        finish(start(command(tmp_path / "broken", lines)))
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert epochs(tmp_path / "broken") == epochs(tmp_path / "whole")


@SLOW
def test_pretraining_killed_three_times_at_random_ends_in_the_same_weights(lines, tmp_path):
    rng, whole, broken = np.random.default_rng(), tmp_path / "whole", tmp_path / "broken"
    finish(start(pretraining(whole, lines)))
    for step in sorted(rng.choice(np.arange(1, 40), 3, replace=False)):
        print("killed at step", step)
        process = start(pretraining(broken, lines))
        assert kill_after(process, broken, int(step)) == -signal.SIGKILL
    finish(start(pretraining(broken, lines)))
    assert losses(broken) == losses(whole) and len(losses(whole)) == 40
    assert epochs(broken) == epochs(whole)
    weights = [(out / "model" / "model.safetensors").read_bytes() for out in (whole, broken)]
    assert weights[0] == weights[1]


@SLOW
def test_kill_9_before_the_first_step_and_while_saving(lines, tmp_path):
    finish(start(command(tmp_path / "whole", lines)))
    process = start(command(tmp_path / "broken", lines))
    time.sleep(4)
    process.kill()
    process.communicate()
    process = start(command(tmp_path / "broken", lines))
    while process.poll() is None and not list((tmp_path / "broken").glob("checkpoints/.step_*.writing-*")):
        pass
    process.kill()
    process.communicate()
    finish(start(command(tmp_path / "broken", lines)))
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


@SLOW
def test_the_command_saves_on_sigterm(lines, tmp_path):
    finish(start(command(tmp_path / "whole", lines)))
    process = start(command(tmp_path / "broken", lines))
    assert kill_after(process, tmp_path / "broken", 5, signal.SIGTERM) == 143
    assert Checkpoints(tmp_path / "broken" / "checkpoints").latest().step == max(losses(tmp_path / "broken"))
    finish(start(command(tmp_path / "broken", lines)))
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


@SLOW
def test_another_config_in_the_same_directory_is_refused(lines, tmp_path):
    finish(start(command(tmp_path / "run", lines)))
    process = start(command(tmp_path / "run", lines, "--training.learning_rate", "1e-3"))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "training.learning_rate" in errors
