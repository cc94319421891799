"""What the tests of decoder-only families share: a golden model's outputs, and its folder written again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights.configs import read_config, write_config
from aillm_tf.weights.families import family
from aillm_tf.weights.loading import load_pretrained, save_pretrained

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = {"rtol": 0.0, "atol": 1e-5}


def features(golden: dict[str, np.ndarray], batch: str, *names: str) -> dict[str, np.ndarray]:
    return {name: golden[name if name == "packed_ids" else f"{batch}_{name}"] for name in ("token_ids", *names)}


def assert_hidden_states(backbone, golden: dict[str, np.ndarray], name: str) -> None:
    batch = features(golden, "batch", "valid", "positions")
    hidden = np.asarray(backbone(batch))[batch["valid"] == 1]
    np.testing.assert_allclose(hidden, golden[f"{name}_batch_hidden"], **TOLERANCE)


def assert_logits(backbone, golden: dict[str, np.ndarray], name: str) -> None:
    batch = features(golden, "batch", "valid", "positions")
    logits = np.asarray(backbone.logits(backbone(batch)))[batch["valid"] == 1]
    np.testing.assert_allclose(logits, golden[f"{name}_batch_logits"], **TOLERANCE)


def assert_logits_of_packed_documents(backbone, golden: dict[str, np.ndarray], name: str) -> None:
    hidden = backbone(features(golden, "packed", "packed_ids", "positions"))
    np.testing.assert_allclose(backbone.logits(hidden)[0], golden[f"{name}_packed_logits"], **TOLERANCE)


def assert_logits_after_a_prompt(backbone, golden: dict[str, np.ndarray], name: str) -> None:
    token_ids, prompt = golden["past_token_ids"], int(golden["past_prompt"])
    _, cache = backbone.step(token_ids[:, :prompt], backbone.init_cache(1, token_ids.shape[1]), 0)
    hidden, _ = backbone.step(token_ids[:, prompt:], cache, prompt)
    np.testing.assert_allclose(backbone.logits(hidden)[0], golden[f"{name}_past_logits"], **TOLERANCE)


def assert_scores(backbone, kernel: np.ndarray, golden: dict[str, np.ndarray], name: str) -> None:
    """The head of a classifier reads the last token of a row."""
    batch = features(golden, "batch", "valid", "positions")
    last = batch["valid"].shape[1] - 1 - np.argmax(batch["valid"][:, ::-1], axis=1)
    hidden = np.asarray(backbone(batch))[np.arange(len(last)), last]
    np.testing.assert_allclose(hidden @ kernel, golden[f"{name}_scores"], **TOLERANCE)


def saved_again(source: Path, target: Path, dtype: str | None = None) -> Path:
    """A checkpoint through our names and back."""
    model = load_pretrained(source)
    variables = {name: model.read(name) for name in model.names}
    save_pretrained(
        target, model.config, variables, None, labels=model.labels, architecture=model.architecture, dtype=dtype
    )
    return target


def assert_same_tensors(ours: Path, theirs: Path) -> None:
    """Every tensor has the same name, shape and bits."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (ours, theirs))
    assert sorted(ours) == sorted(theirs)
    assert [name for name in theirs if ours[name].shape != theirs[name].shape] == []
    assert [name for name in theirs if ours[name].tobytes() != theirs[name].tobytes()] == []


def respelled(source: Path, target: Path, change=lambda tensors: tensors, **config) -> Path:
    """A copy of a checkpoint with other tensors; `change` gets and returns them, `config` is changed too."""
    shutil.copytree(source, target)
    save_file(change(load_file(source / "model.safetensors")), target / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((source / "config.json").read_text()) | config
    (target / "config.json").write_text(json.dumps(values))
    return target


def read(values: dict) -> TransformerConfig:
    return read_config(values, family(values["model_type"]))


def written_again(values: dict) -> TransformerConfig:
    """What is read from the config.json that we write for a config.json."""
    table = family(values["model_type"])
    return read_config(write_config(read_config(values, table), table), table)
