"""Config parsing: precedence, suggestions, errors that name the key, YAML round trip."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Literal

import pytest

from aillm_tf.config import ConfigError, diff, from_yaml, parse, run, to_yaml


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the rows come from."""

    train: str  # training rows: a path or a uri
    # rows of a batch; at most
    # what fits in memory
    batch_size: int = 32
    columns: list[str] = dataclasses.field(default_factory=list)
    weights: dict[str, float] | None = None


@dataclasses.dataclass
class Training:
    learning_rate: float = 5e-5
    schedule: Literal["linear", "cosine"] = "linear"
    early: bool = True

    def __post_init__(self):
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, not {self.learning_rate}")


@dataclasses.dataclass
class Config:
    data: Data
    training: Training = dataclasses.field(default_factory=Training)
    seed: int = 0  # 100% of the randomness
    out: str | None = None


def main(config: Config) -> dict:
    return {"train": config.data.train, "seed": config.seed}


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_defaults_fill_what_is_not_given():
    config = parse(Config, ["--data.train", "a.tsv"])
    assert config == Config(data=Data(train="a.tsv"))


def test_command_line_overrides_yaml_overrides_defaults(yaml_file):
    path = yaml_file("data:\n  train: from_yaml\n  batch_size: 8\nseed: 5\n")
    config = parse(Config, ["--seed", "7", "--config", path])
    assert (config.data.train, config.data.batch_size, config.seed, config.training.schedule) == (
        "from_yaml",
        8,
        7,
        "linear",
    )


def test_later_yaml_overrides_earlier(tmp_path):
    (tmp_path / "a.yaml").write_text("data: {train: a}\nseed: 1\n")
    (tmp_path / "b.yaml").write_text("seed: 2\n")
    config = parse(Config, ["--config", str(tmp_path / "a.yaml"), f"--config={tmp_path / 'b.yaml'}"])
    assert (config.data.train, config.seed) == ("a", 2)


def test_values_are_typed():
    argv = ["--data.train=a", "--training.learning_rate=1e-3", "--training.early=false", "--out", "null"]
    config = parse(Config, [*argv, "--data.columns", "[x, y]", "--data.weights.spam", "2.0"])
    assert config.training == Training(1e-3, "linear", False)
    assert config.out is None
    assert config.data.columns == ["x", "y"]
    assert config.data.weights == {"spam": 2.0}


def test_exponent_without_dot_in_yaml_is_a_number(yaml_file):
    path = yaml_file("data: {train: a}\ntraining:\n  learning_rate: 5e-5\n")
    assert parse(Config, ["--config", path]).training.learning_rate == 5e-5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data.trian", "x"], "unknown option --data.trian: did you mean --data.train?"),
        (
            ["--data.train", "x", "--lerning_rate=3"],
            "unknown option --lerning_rate: did you mean --training.le",
        ),
        (["--train", "x"], "unknown option --train: did you mean --data.train?"),
        (["--data.train", "x", "--qqq", "1"], "unknown option --qqq"),
        (["--data", "x"], "--data is a group of options: give one of --data.batch_size"),
        (["--seed", "1"], "missing --data.train"),
        (["--data.train", "x", "--seed", "one"], "--seed: expected int, got one"),
        (["--data.train", "x", "--data.batch_size", "1.5"], "--data.batch_size: expected int, got 1.5"),
        (
            ["--data.train", "x", "--training.schedule", "lin"],
            "--training.schedule: expected linear or cosine, got",
        ),
        (["--data.train", "x", "--training.learning_rate", "-1"], "learning_rate must be above 0, not -1"),
        (["--data.train", "x", "--config", "missing.yaml"], "--config missing.yaml: no such file"),
        (["--data.train"], "--data.train"),
        (["--data.train", "x", "stray"], "stray"),
    ],
)
def test_command_line_error_names_the_key(argv, message):
    with pytest.raises(ValueError) as error:
        parse(Config, argv)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:\n  trian: x\n", "config.yaml:2: unknown option --data.trian: did you mean --data.train?"),
        ("data: {train: x}\nsede: 1\n", "config.yaml:2: unknown option --sede: did you mean --seed?"),
        ("data: {train: x}\nseed: one\n", "config.yaml:2: --seed: expected int, got one"),
        ("data:\n  train: 5\n", "config.yaml:2: --data.train: expected str, got 5"),
        ("data: {train: x}\nseed: 1\nseed: 2\n", "config.yaml:3: --seed is given a second time"),
        ("data: {train: x\nseed: 1\n", "config.yaml:2: not valid YAML"),
        ("data: 3\n", "config.yaml:1: --data must hold `key: value` lines"),
        ("", "the file is empty"),
    ],
)
def test_yaml_error_names_file_line_and_key(yaml_file, text, message):
    path = yaml_file(text)
    with pytest.raises(ConfigError) as error:
        parse(Config, ["--config", path])
    assert message in str(error.value)


def test_yaml_round_trip(tmp_path):
    config = Config(Data("评论.tsv", columns=["文本"], weights={"好": 0.5}), Training(3e-5, "cosine"), 4, "runs/a")
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert from_yaml(Config, path) == config
    assert "评论.tsv" in path.read_text(encoding="utf-8")


def test_diff_names_dotted_keys():
    a = Config(Data("a"), seed=1)
    b = Config(Data("b"), seed=1, out="x")
    assert diff(a, b) == ["data.train", "out"]
    assert diff(a, a) == []


def test_run_returns_what_main_returns():
    assert run(main, ["--data.train", "x"]) == {"train": "x", "seed": 0}


def test_run_shows_one_line_and_exits_2(capsys):
    with pytest.raises(SystemExit) as stop:
        run(main, ["--data.trian", "x"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "aillm: unknown option --data.trian: did you mean --data.train?\n"


def test_debug_shows_the_traceback(capsys, monkeypatch):
    with pytest.raises(SystemExit):
        run(main, ["--debug", "--data.trian", "x"])
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("AILLM_DEBUG", "1")
    with pytest.raises(SystemExit):
        run(main, ["--data.trian", "x"])
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_exits_130():
    def interrupted(config: Config) -> dict:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run(interrupted, ["--data.train", "x"])
    assert stop.value.code == 130


def test_help_shows_comments_types_and_defaults(capsys):
    with pytest.raises(SystemExit) as stop:
        run(main, ["--help"], prog="aillm train x")
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert "usage: aillm train x [--config FILE]" in text
    assert "training rows: a path or a uri (required, type: str)" in text
    assert "rows of a batch; at most what fits in memory (type: int, default: 32)" in text
    assert "100% of the randomness" in text
    assert "did" not in text.partition("usage")[0]


def test_config_module_does_not_import_tensorflow():
    code = "import sys, aillm_tf.config; print([m for m in ('tensorflow', 'keras') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
