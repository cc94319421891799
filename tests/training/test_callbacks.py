"""The callbacks on a small Keras model and on the numbers a Task gives; TensorBoard and W&B get the same rows."""

import json
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.training.callbacks import MetricsLog, TensorBoardEvents, WandbTracker
from aillm_tf.training.metrics_log import read_rows

ROOT = Path(__file__).parents[2]


class TaskStandIn:
    """What a Task shows to callbacks: a step, the losses of one execution, a schedule."""

    step = 0
    step_losses = np.zeros(0, "float32")

    def learning_rate(self, step):
        return (step + 1) / 100

    def train(self, log, executions, first_step=0):
        log.set_model(self)
        self.step = first_step
        log.on_train_begin()
        for count in executions:
            log.on_train_batch_begin(0)
            self.step_losses = np.array([1 / n for n in range(self.step + 1, self.step + count + 1)], "float32")
            self.step += count
            log.on_train_batch_end(0, {"loss": float(self.step_losses[-1]), "learning_rate": 0.0})


class FixedBatches:
    """The two methods of a Dataset that say what a batch holds."""

    def batch_rows(self, step):
        return np.arange(4), 8, 4

    def tokens(self, first, last):
        return 20 * (last - first)


def without_times(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "examples_per_second")} for row in rows]


def scalars(folder):
    """(tag, step) -> value, from the event files."""
    found = {}
    for file in sorted(folder.glob("events*")):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                assert (value.tag, event.step) not in found, "written twice"
                found[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    return found


def test_a_row_for_each_step_of_an_execution(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", data=FixedBatches())
    TaskStandIn().train(log, [2, 3])
    log.on_train_end()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["loss"] for row in rows] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
    assert {(row["examples"], row["tokens"], row["positions"]) for row in rows} == {(4, 20, 32)}


def test_speed_is_not_taken_from_the_first_execution(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", data=FixedBatches())
    TaskStandIn().train(log, [2, 2])
    log.close()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert ["seconds" in row for row in rows] == [False, False, True, True]
    assert log.seconds_to_first_step > 0


@pytest.mark.parametrize("resumed_at", [0, 3, 4, 6])
def test_killed_and_resumed_log_equals_the_uninterrupted_one(tmp_path, resumed_at):
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    log = MetricsLog(whole)
    TaskStandIn().train(log, [1] * 9)
    log.on_epoch_end(0, {"loss": 0.5, "val_accuracy": 0.8})
    log.close()
    TaskStandIn().train(MetricsLog(killed), [1] * 6)  # never closed
    with open(killed, "a") as file:
        file.write('{"step": 7, "lo')
    log = MetricsLog(killed)
    TaskStandIn().train(log, [1] * (9 - resumed_at), first_step=resumed_at)
    log.on_epoch_end(0, {"loss": 0.5, "val_accuracy": 0.8})
    log.close()
    assert without_times(read_rows(killed)) == without_times(read_rows(whole))


def test_tensorboard_has_every_scalar_once_after_resume(tmp_path):
    def log():
        return MetricsLog(tmp_path / "metrics.jsonl", [TensorBoardEvents(tmp_path / "tensorboard")])

    TaskStandIn().train(first := log(), [1] * 5)
    first.close()
    TaskStandIn().train(second := log(), [1] * 4, first_step=3)
    second.on_epoch_end(0, {"loss": 0.5, "val_accuracy": 0.8})
    second.on_train_end()
    found = scalars(tmp_path / "tensorboard")
    assert [step for tag, step in found if tag == "train/loss"] == [1, 2, 3, 4, 5, 6, 7]
    assert found["train/loss", 4] == pytest.approx(0.25)
    assert found["validation/accuracy", 7] == pytest.approx(0.8)
    assert found["epoch/train_loss", 7] == pytest.approx(0.5)


def test_tensorboard_events_need_no_tensorboard_package(tmp_path):
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorboard":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
from aillm_tf.training.callbacks import TensorBoardEvents
events = TensorBoardEvents(sys.argv[1])
events.start([])
events.write({"step": 1, "loss": 0.5})
events.close()
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT, capture_output=True)
    assert scalars(tmp_path) == {("train/loss", 1): 0.5}


def test_plain_keras_fit(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((8, 2), "float32"), np.zeros((8, 1), "float32")
    log = MetricsLog(tmp_path / "metrics.jsonl")
    model.fit(x, y, batch_size=4, epochs=2, validation_data=(x, y), callbacks=[log], verbose=0)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [(row.get("epoch"), row["step"]) for row in rows] == [
        (None, 1),
        (None, 2),
        (1, 2),
        (None, 3),
        (None, 4),
        (2, 4),
    ]
    assert rows[2]["val_loss"] == pytest.approx(model.history.history["val_loss"][0])


def test_wandb_offline_gets_config_rows_and_scores(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = WandbTracker(tmp_path, {"seed": 0, "training": {"learning_rate": 1e-3}})
    log = MetricsLog(tmp_path / "metrics.jsonl", [tracker])
    TaskStandIn().train(log, [1] * 3)
    log.on_epoch_end(0, {"loss": 0.5, "val_accuracy": 0.8})
    log.on_train_end()
    tracker.summary({"accuracy": 0.77})
    tracker.finish()
    first_id = (tmp_path / "wandb" / "run_id.txt").read_text().strip()
    wanted, deadline = {b"train/loss", b"validation/accuracy", b"learning_rate"}, time.monotonic() + 30
    while True:  # a process of wandb's own writes it
        files = (tmp_path / "wandb").glob(f"offline-run-*/run-{first_id}.wandb")
        content = b"".join(file.read_bytes() for file in files)
        missing = {text for text in wanted if text not in content}
        if not missing or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert not missing
    assert wandb.run is None


def test_wandb_missing_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'aillm_tf\[tracking\]'"):
        WandbTracker(tmp_path, {})


def test_rows_are_plain_json(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    TaskStandIn().train(log, [1])
    log.on_epoch_end(0, {"loss": np.float32(0.5), "val_f1": np.float64("nan"), "confusion": np.eye(2)})
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1]) == {
        "epoch": 1,
        "step": 1,
        "train_loss": 0.5,
        "val_f1": None,
    }
