"""metrics.jsonl across kill and resume; no TensorFlow here."""

import json
import subprocess
import sys

import pytest

from aillm_tf.training.metrics_log import MetricsFile, plain_numbers, read_rows, training_facts


def step(n, **more):
    return {"step": n, "loss": 1 / n, **more}


def epoch(n, at):
    return {"epoch": n, "step": at, "val_accuracy": n / 10}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def write(path, *rows):
    file = MetricsFile(path)
    for row in rows:
        file.write(row)
    file.close()


def test_rows_come_back_in_order(path):
    rows = [step(1), step(2), epoch(1, 2), step(3)]
    write(path, *rows)
    assert read_rows(path) == rows


def test_resume_drops_steps_that_are_done_again(path):
    write(path, step(1), step(2), epoch(1, 2), step(3), step(4), epoch(2, 4), step(5))
    write(path, step(4), epoch(2, 4))
    assert read_rows(path) == [step(1), step(2), epoch(1, 2), step(3), step(4), epoch(2, 4)]


def test_resume_right_after_an_epoch_keeps_its_row(path):
    write(path, step(1), step(2), epoch(1, 2), step(3))
    write(path, step(3))
    assert read_rows(path) == [step(1), step(2), epoch(1, 2), step(3)]


def test_validation_done_again_replaces_its_row_and_keeps_the_steps(path):
    write(path, step(1), step(2), epoch(1, 2))
    write(path, epoch(1, 2))
    assert read_rows(path) == [step(1), step(2), epoch(1, 2)]


def test_torn_last_line_is_left_out_and_then_cut_off(path):
    write(path, step(1), step(2))
    with open(path, "ab") as file:
        file.write('{"step": 3, "label": "正'.encode()[:-1])
    assert read_rows(path) == [step(1), step(2)]
    write(path, step(3))
    assert read_rows(path) == [step(1), step(2), step(3)]


def test_broken_line_in_the_middle_is_named(path):
    path.write_text('{"step": 1}\nnoise\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: not a row"):
        read_rows(path)


def test_not_a_number_becomes_null(path):
    write(path, {"step": 1, "loss": float("nan")})
    assert json.loads(path.read_text())["loss"] is None
    assert plain_numbers({"a": [float("inf"), 1]}) == {"a": [None, 1]}


def test_kill_9_loses_no_row_that_was_written(path):
    code = (
        "import os, sys; from aillm_tf.training.metrics_log import MetricsFile; file = MetricsFile(sys.argv[1])\n"
        "for n in range(1, 51): file.write({'step': n, 'loss': 0.5})\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)])
    assert done.returncode == -9
    assert [row["step"] for row in read_rows(path)] == list(range(1, 51))


def test_facts_count_time_over_all_resumes_without_the_first_steps():
    rows = [
        step(1, examples=8, tokens=80, positions=100),
        step(2, examples=8, tokens=80, positions=100, seconds=0.5),
        epoch(1, 2),
        step(3, examples=8, tokens=40, positions=100),  # resumed here
        step(4, examples=4, tokens=40, positions=100, seconds=0.25),
    ]
    facts = training_facts(rows)
    assert facts["steps"] == 4
    assert facts["training_seconds"] == 0.75
    assert facts["examples_per_second"] == 16.0
    assert facts["tokens_per_second"] == 160.0
    assert facts["padding_fraction"] == pytest.approx(0.4)


def test_facts_of_no_rows():
    assert training_facts([]) == {"steps": 0}
