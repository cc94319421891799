"""evaluate_run reads other data the way the run read its own."""

import aillm_tf
from aillm_tf.training.evaluate import evaluate_run, reading_options


class StandIn:
    def dataset(self, rows, *, batch_size=32, text="text", label="label"):
        return {"rows": rows, "batch_size": batch_size, "text": text, "label": label}

    def evaluate(self, data, verbose=0):
        return data


def run_directory(tmp_path, config):
    (tmp_path / "model").mkdir()
    (tmp_path / "config.yaml").write_text(config)
    return tmp_path / "model"


def test_columns_are_those_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(aillm_tf, "load", lambda folder, **_: StandIn(), raising=False)
    folder = run_directory(tmp_path, "data:\n  train: a.tsv\n  text: review\n  label: null\n  pair: other\nseed: 0\n")
    scores = evaluate_run(folder, "test.tsv", batch_size=8, progress=False)
    assert scores == {"rows": "test.tsv", "batch_size": 8, "text": "review", "label": "label"}


def test_saved_model_outside_a_run_uses_the_defaults(tmp_path):
    assert reading_options(StandIn(), tmp_path / "config.yaml") == {}


def test_config_without_a_data_section_uses_the_defaults(tmp_path):
    run_directory(tmp_path, "seed: 0\n")
    assert reading_options(StandIn(), tmp_path / "config.yaml") == {}
