"""The aillm command: speed of --help, recipes by name and path, clean errors, predict on runs and exports."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aillm_tf import cli
from aillm_tf.cli import main
from aillm_tf.verbs import predict
from aillm_tf.verbs.evaluate import scores_table
from aillm_tf.verbs.models import find_model
from aillm_tf.verbs.predict import read_lines

ROOT = Path(__file__).parents[1]

RECIPE = '''"""A recipe for tests.

More about it.
"""
from __future__ import annotations

import dataclasses

from aillm_tf.config import run


@dataclasses.dataclass
class Data:
    train: str  # where the rows are


@dataclasses.dataclass
class Config:
    data: Data
    steps: int = 3


def main(config: Config) -> dict:
    if config.steps < 0:
        raise ValueError(f"--steps is {config.steps}: it must not be below 0")
    import json, pathlib
    pathlib.Path(config.data.train).write_text(json.dumps({"steps": config.steps}))
    return {}


if __name__ == "__main__":
    run(main)
'''


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "my_recipe.py"
    path.write_text(RECIPE)
    return path


def aillm(*argv, input=None, timeout=60):
    command = [sys.executable, "-m", "aillm_tf.cli", *map(str, argv)]
    options = {"capture_output": True, "text": True, "input": input, "timeout": timeout, "cwd": ROOT}
    # tests that run in the background are given a Ctrl-C that does nothing
    return subprocess.run(command, **options, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def fails(capsys, *argv):
    """Exit status and stderr of a command that must fail."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in argv])
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["predict", "--help"]])
def test_help_does_not_import_tensorflow(argv):
    code = (
        f"import sys; from aillm_tf.cli import main\ntry: main({argv!r})\nexcept SystemExit as stop: code = stop.code\n"
        "print(code, [m for m in ('tensorflow', 'keras', 'sklearn', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_help_is_quick():
    def seconds():
        start = time.perf_counter()
        assert aillm("--help").returncode == 0
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 1.0  # the quickest: other processes may be at work


def test_recipe_help_by_path_shows_its_options(recipe):
    done = aillm("train", recipe, "--help")
    assert done.returncode == 0
    assert "A recipe for tests." in done.stdout
    assert "where the rows are (required, type: str)" in done.stdout


def test_recipe_by_path_runs_with_overrides(recipe, tmp_path):
    assert main(["train", str(recipe), "--data.train", str(tmp_path / "out"), "--steps", "7"]) == 0
    assert json.loads((tmp_path / "out").read_text()) == {"steps": 7}


def test_recipe_runs_on_its_own(recipe, tmp_path):
    command = [sys.executable, str(recipe), "--data.train", str(tmp_path / "out")]
    subprocess.run(command, check=True, env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert json.loads((tmp_path / "out").read_text()) == {"steps": 3}


def test_recipe_by_name_and_suggestion(monkeypatch, recipe, capsys, tmp_path):
    monkeypatch.setattr(cli, "recipe_files", lambda: {"classification": recipe, "pretrain": recipe})
    monkeypatch.setattr(cli, "_installed_recipes", list)
    assert main(["train", "classification", "--data.train", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").exists()
    code, error = fails(capsys, "train", "clasification")
    assert code == 2
    assert error.startswith("aillm: unknown recipe 'clasification': did you mean classification?")


def test_train_help_lists_recipes(monkeypatch, recipe, capsys):
    monkeypatch.setattr(cli, "recipe_files", lambda: {"classification": recipe})
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "classification   A recipe for tests." in capsys.readouterr().out


def test_unknown_option_of_a_recipe(recipe, capsys):
    assert fails(capsys, "train", recipe, "--data.trian", "x") == (
        2,
        "aillm: unknown option --data.trian: did you mean --data.train?\n",
    )


def test_error_of_a_recipe_is_one_line_and_with_debug_a_traceback(recipe, capsys):
    argv = ["train", recipe, "--data.train", "x", "--steps=-1"]
    assert fails(capsys, *argv) == (2, "aillm: --steps is -1: it must not be below 0\n")
    code, error = fails(capsys, "--debug", *argv)
    assert code == 2
    assert error.startswith("Traceback") and error.endswith("aillm: --steps is -1: it must not be below 0\n")


def test_file_that_is_no_recipe(tmp_path, capsys):
    (tmp_path / "other.py").write_text("x = 1\n")
    code, error = fails(capsys, "train", tmp_path / "other.py")
    assert code == 2
    assert "is not a recipe" in error
    assert "no recipe file" in fails(capsys, "train", tmp_path / "missing.py")[1]


def test_unknown_verb_is_suggested(capsys):
    code, error = fails(capsys, "predcit", "x")
    assert code == 2
    assert "did you mean predict?" in error


def test_ctrl_c_exits_130(tmp_path):
    path = tmp_path / "slow.py"
    interrupt = "    import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"
    path.write_text(RECIPE.replace("    if config.steps", interrupt + "    if config.steps"))
    done = aillm("train", path, "--data.train", "x")
    assert done.returncode == 130
    assert done.stderr.strip() == "aillm: interrupted"


def test_read_lines_keeps_empty_lines_and_drops_line_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff第一\r\n\nthree".encode())
    assert read_lines(str(path)) == ["第一", "", "three"]


def test_read_lines_names_a_line_that_is_not_utf_8(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\nab\xff\n")
    with pytest.raises(ValueError, match=r"a\.txt:2: not UTF-8 text \(byte 3 of the line\)"):
        read_lines(str(path))


def test_find_model(tmp_path):
    def touch(name):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")

    for name in ("run/model/task.json", "saved/task.json", "export/2/saved_model.pb", "export/10/saved_model.pb"):
        touch(name)
    touch("unfinished/config.yaml")
    assert find_model(str(tmp_path / "run")) == tmp_path / "run" / "model"
    assert find_model(str(tmp_path / "saved")) == tmp_path / "saved"
    assert find_model(str(tmp_path / "export")) == tmp_path / "export" / "10"
    with pytest.raises(FileNotFoundError, match="train it to the end"):
        find_model(str(tmp_path / "unfinished"))
    with pytest.raises(FileNotFoundError, match="is not a run"):
        find_model(str(tmp_path / "export"), exports=False)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_model(str(tmp_path / "nowhere"))


def test_scores_table_shows_the_interval_beside_the_score():
    scores = {"loss": 0.5, "accuracy": 0.77, "accuracy_low": 0.7546, "accuracy_high": 0.7847, "examples": 3000}
    assert scores_table(scores).splitlines() == [
        "loss      0.5000",
        "accuracy  0.7700  (95 %: 0.7546 to 0.7847)",
        "examples    3000",
    ]


def test_predict_needs_texts_or_a_file(capsys):
    assert "give either texts" in fails(capsys, "predict", "x")[1]
    assert "give either texts" in fails(capsys, "predict", "x", "text", "--input", "a.txt")[1]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """A SavedModel of strings in, answers out: the longer the text, the likelier "long"."""
    import tensorflow as tf

    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            self.scale = tf.Variable(10.0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def serve(self, text):
            length = tf.cast(tf.strings.length(text, "UTF8_CHAR"), tf.float32)
            long = tf.minimum(length / self.scale, 1.0)
            probabilities = tf.stack([1.0 - long, long], axis=-1)
            label = tf.gather(tf.constant(["short", "long"]), tf.argmax(probabilities, -1))
            return {"label": label, "score": tf.reduce_max(probabilities, -1), "probabilities": probabilities}

    model = Model()
    folder = tmp_path_factory.mktemp("export") / "1"
    tf.saved_model.save(model, str(folder), signatures={"serving_default": model.serve})
    (folder / "serving").mkdir()
    about = {
        "name": "m",
        "inputs": ["text"],
        "outputs": ["label", "score", "probabilities"],
        "labels": ["short", "long"],
    }
    (folder / "serving" / "model.json").write_text(json.dumps(about))
    return folder


def test_predict_texts_with_an_export(export, capsys):
    assert main(["predict", str(export), "好", "ten letters"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["text"], first["label"], second["label"]) == ("好", "short", "long")
    assert first["probabilities"] == pytest.approx({"short": 0.9, "long": 0.1})


def test_predict_from_file_to_file_keeps_order_over_chunks(export, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "CHUNK", 4)
    texts = ["x" * (n % 12) for n in range(11)]
    (tmp_path / "in.txt").write_text("\n".join(texts) + "\n")
    assert (
        main(["predict", str(export.parent), "--input", f"{tmp_path}/in.txt", "--output", f"{tmp_path}/out.jsonl"]) == 0
    )
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [answer["text"] for answer in answers] == texts
    assert [answer["label"] for answer in answers] == ["short" if len(t) <= 5 else "long" for t in texts]


def test_predict_from_standard_input_with_an_export_needs_no_keras(export):
    code = (
        "import sys; from aillm_tf.cli import main; main(['predict', sys.argv[1], '--input', '-'])\n"
        "print([m for m in ('aillm_tf.tasks.base', 'transformers', 'tokenizers') if m in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, str(export)]
    done = subprocess.run(command, capture_output=True, text=True, input="a\nlonger text\n", cwd=ROOT)
    assert [json.loads(line)["label"] for line in done.stdout.splitlines()] == ["short", "long"]
    assert done.stderr.splitlines()[-1] == "[]"
