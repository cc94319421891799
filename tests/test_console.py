"""What reaches the terminal: one clean line for our errors, tracebacks for bugs, no chatter of TensorFlow."""

import subprocess
import sys
from pathlib import Path

import pytest

from aillm_tf.console import _without_chatter, clean_errors

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("train.tsv:7: unknown\n  label 'x'"), "aillm: train.tsv:7: unknown label 'x'"),
        (FileNotFoundError(2, "No such file or directory", "a.tsv"), "aillm: No such file or directory: a.tsv"),
        (BlockingIOError("runs/a is in use"), "aillm: runs/a is in use"),
    ],
)
def test_error_of_ours_is_one_line(error, line, capsys):
    with pytest.raises(SystemExit) as stop, clean_errors():
        raise error
    assert stop.value.code == 2
    assert capsys.readouterr().err == line + "\n"


def test_runtime_error_of_the_package_is_one_line_and_of_others_a_traceback(capsys):
    from aillm_tf.weights.resolve import resolve

    with pytest.raises(SystemExit), clean_errors():
        resolve("/no/such/folder")
    assert capsys.readouterr().err.startswith("aillm: ")
    with pytest.raises(RuntimeError, match="a bug"), clean_errors():
        raise RuntimeError("a bug")


def test_bug_is_not_hidden():
    with pytest.raises(KeyError), clean_errors():
        raise KeyError("x")


def test_chatter_is_dropped_and_errors_stay(capfd):
    code = b"I0000 00:00 port.cc:153] oneDNN is on\nE0000 00:00 no driver\nplain words\n"
    with _without_chatter():
        subprocess.run([sys.executable, "-c", f"import os; os.write(2, {code!r})"], check=True)
    assert capfd.readouterr().err == "E0000 00:00 no driver\nplain words\n"


def test_importing_tensorflow_is_silent():
    code = (
        "from aillm_tf.console import prepare_process; prepare_process(); import tensorflow as tf; tf.constant(1) + 1"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_reader_that_left_ends_the_command_quietly():
    code = (
        "from aillm_tf.console import clean_errors\n"
        "with clean_errors():\n"
        "    for n in range(100000): print('x' * 100)\n"
    )
    command = f'"{sys.executable}" -c "{code}" | head -1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (141, "")
