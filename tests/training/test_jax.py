"""The JAX path: the same losses as TensorFlow's on every mesh, from the same weights, with the same data."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aillm_tf.training import layouts
from aillm_tf.training.strategy import strategy

PROGRAM = Path(__file__).with_name("jax_program.py")
needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")

DEVICES = 8
ONE = {"name": "one"}
TENSOR_PARALLEL = {"mesh": "data=2,model=2"}
FULLY_SHARDED = {"mesh": "data=2,model=2", "layout": "fully_sharded"}
MESHES = {
    "data 1": ONE,
    "data 2": {"mesh": "data=2"},
    "data 4": {"mesh": "data=4"},
    "data 8": {},
    "tensor parallel": TENSOR_PARALLEL,
    "fully sharded": FULLY_SHARDED,
}
SHARDED = ("MaskedLM", "CausalLM", "Translation")
OTHERS = ("TokenClassifier", "ReplacedToken", "MultiTask")
ANSWERING = ("TextClassifier", "MaskedLM", "TokenClassifier", "QuestionAnswering", "ReplacedToken")
CURVES = [("TextClassifier", mesh) for mesh in MESHES]
CURVES += [(kind, mesh) for kind in SHARDED for mesh in ("data 8", "tensor parallel", "fully sharded")]
CURVES += [(kind, "data 4") for kind in OTHERS]
VARIANTS = {
    "micro-batches": ({"mesh": "data=2"}, {"accumulate": 2}),
    "several steps an execution": ({"mesh": "data=2"}, {"steps_per_execution": 3}),
    "guard, average and R-Drop": (TENSOR_PARALLEL, {"spike_guard": 4.0, "ema": 0.9, "r_drop": 1.0}),
}


# What needs no JAX


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("data=8", (8, 1)), ("model=2", (1, 2)), ("data=4, model=2", (4, 2)), ("model=2,data=4", (4, 2))],
)
def test_meshes_are_read(text, sizes):
    assert layouts.parse_mesh(text) == dict(zip(("data", "model"), sizes, strict=True))


@pytest.mark.parametrize("text", ["8", "data", "data=0", "data=-1", "rows=2", "data=two", ""])
def test_what_is_no_mesh_is_refused(text):
    with pytest.raises(ValueError, match="data=4,model=2"):
        layouts.parse_mesh(text)


def test_a_mesh_under_tensorflow_is_refused():
    with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
        strategy(mesh="data=2")


# What JAX computes


def run(backend: str, folder: Path, calls: dict) -> dict:
    """label -> result, of label -> (function of jax_program.py, arguments, options)."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if backend == "jax":
        # nearly all of the time is the compiler's: it shall not try hard, and compile nothing twice
        flags = f"--xla_force_host_platform_device_count={DEVICES} --xla_backend_optimization_level=0"
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        }
        environment |= {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", **cache}
    command = [sys.executable, str(PROGRAM), str(folder), json.dumps(calls)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=570)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jax")


@pytest.fixture(scope="module")
def of_tensorflow(folder):
    """What TensorFlow computes, on one device."""
    kinds = sorted({kind for kind, _ in CURVES} | set(ANSWERING))
    calls = {"make": ("make", [kinds], {})}
    calls |= {f"{kind} curve": ("curve", [kind, ONE], {}) for kind, _ in CURVES}
    calls |= {label: ("curve", ["TextClassifier", ONE], options) for label, (_, options) in VARIANTS.items()}
    calls |= {f"{kind} scores": ("scores", [kind, ONE, 14], {}) for kind in ("TextClassifier", "CausalLM")}
    calls |= {f"{kind} answers": ("answers", [kind, ONE], {}) for kind in ANSWERING}
    return run("tensorflow", folder, calls)


@pytest.fixture(scope="module")
def of_jax(of_tensorflow, folder):
    """What JAX computes, on eight devices."""
    calls = {f"{kind} {mesh}": ("curve", [kind, MESHES[mesh]], {}) for kind, mesh in CURVES}
    calls |= {label: ("curve", ["TextClassifier", how], options) for label, (how, options) in VARIANTS.items()}
    calls["no dropout"] = ("curve", ["TextClassifier", ONE], {"dropout": 0.0})
    for mesh in ("data 1", "fully sharded"):
        calls[f"dropout {mesh}"] = ("curve", ["TextClassifier", MESHES[mesh]], {"dropout": 0.3})
    calls |= {f"{kind} scores": ("scores", [kind, MESHES["data 4"], 6], {}) for kind in ("TextClassifier", "CausalLM")}
    calls |= {f"{kind} answers": ("answers", [kind, FULLY_SHARDED], {}) for kind in ANSWERING}
    calls["resumed"] = ("resumed", ["TextClassifier", FULLY_SHARDED, FULLY_SHARDED, str(folder / "same")], {})
    calls["elsewhere"] = ("resumed", ["TextClassifier", TENSOR_PARALLEL, ONE, str(folder / "other")], {})
    calls["broken"] = ("broken", ["TextClassifier", TENSOR_PARALLEL], {})
    calls["refusals"] = ("refusals", [], {})
    calls["trained"] = ("trained", ["TextClassifier", TENSOR_PARALLEL, str(folder / "trained")], {})
    return run("jax", folder, calls)


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "mesh"), CURVES, ids=lambda value: value.replace(" ", "_"))
def test_the_losses_are_those_of_tensorflow(kind, mesh, of_tensorflow, of_jax):
    expected = of_tensorflow[f"{kind} curve"]["losses"]
    assert len(expected) == 5
    np.testing.assert_allclose(of_jax[f"{kind} {mesh}"]["losses"], expected, rtol=0, atol=1e-5)


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("label", VARIANTS)
def test_the_options_of_training_do_what_they_do_under_tensorflow(label, of_tensorflow, of_jax):
    np.testing.assert_allclose(of_jax[label]["losses"], of_tensorflow[label]["losses"], rtol=0, atol=1e-5)


@needs_jax
@pytest.mark.slow
def test_dropout_is_drawn_alike_on_every_mesh(of_jax):
    none, one, sharded = (
        of_jax[label]["losses"] for label in ("no dropout", "dropout data 1", "dropout fully sharded")
    )
    np.testing.assert_allclose(sharded, one, rtol=0, atol=1e-5)
    assert abs(none[0] - one[0]) > 1e-3


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["TextClassifier", "CausalLM"])
def test_evaluation_counts_every_row_once_whatever_fills_the_batches(kind, of_tensorflow, of_jax):
    expected, found = of_tensorflow[f"{kind} scores"], of_jax[f"{kind} scores"]
    assert found["scores"] == pytest.approx(expected["scores"], rel=1e-5)
    for name, values in expected["rows"].items():
        np.testing.assert_allclose(found["rows"][name], values, rtol=1e-5, atol=1e-5)


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("kind", ANSWERING)
def test_answers_are_those_of_tensorflow(kind, of_tensorflow, of_jax):
    expected, found = (result[f"{kind} answers"] for result in (of_tensorflow, of_jax))
    assert len(expected) >= 3
    same_answers(found, expected)


def same_answers(found, expected):
    """Equal but for the rounding of numbers."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same_answers(one, other)
    else:
        assert found == (pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected)


LAYERS = "backbone/encoder/layer_0"
SHARES = {  # of a device, on a mesh of 2 x 2: which share of each dimension
    f"{LAYERS}/attention/qkv/kernel": ((1, 2), (2, 2)),
    f"{LAYERS}/attention/out/kernel": ((2, 1), (2, 2)),
    f"{LAYERS}/ffn/up/kernel": ((1, 2), (2, 2)),
    f"{LAYERS}/ffn/down/kernel": ((2, 1), (2, 2)),
    f"{LAYERS}/ffn/up/bias": ((2,), (2,)),
    f"{LAYERS}/attention_norm/scale": ((1,), (1,)),
    "backbone/embeddings/token": ((2, 1), (2, 2)),
}


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize("i", [0, 1], ids=["tensor parallel", "fully sharded"])
def test_a_device_holds_its_share_of_weights_and_optimizer_state(i, of_jax):
    found = of_jax[f"CausalLM {('tensor parallel', 'fully sharded')[i]}"]["shares"]
    for name, shares in SHARES.items():
        shape, weight, momentum = found[name]
        assert weight == momentum == [size // share for size, share in zip(shape, shares[i], strict=True)], name


@needs_jax
@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit(of_jax):
    found = of_jax["resumed"]
    assert found["parts"] == found["whole"]
    assert found["same_weights"]


@needs_jax
@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh(of_jax):
    np.testing.assert_allclose(of_jax["elsewhere"]["parts"], of_jax["elsewhere"]["whole"], rtol=0, atol=1e-5)


@needs_jax
@pytest.mark.slow
def test_a_number_that_is_not_finite_is_found(of_jax):
    assert "the output of classifier has 12 of 12 numbers that are not finite" in of_jax["broken"]


@needs_jax
@pytest.mark.slow
@pytest.mark.parametrize(
    ("i", "words"),
    [
        (0, "KERAS_BACKEND=tensorflow aillm export RUN"),
        (1, "KERAS_BACKEND=tensorflow aillm generate RUN"),
        (2, "mesh (data=4,model=2)"),
        (3, "xla_force_host_platform_device_count=64"),
    ],
)
def test_what_jax_cannot_do_says_what_can(i, words, of_jax):
    assert len(of_jax["refusals"]) == 4
    assert words in of_jax["refusals"][i]


@needs_jax
@pytest.mark.slow
def test_what_jax_trained_tensorflow_answers_with_and_exports(of_jax, folder):
    calls = {"exported": ("exported", [str(folder / "trained"), str(folder / "export" / "1")], {})}
    found = run("tensorflow", folder, calls)["exported"]
    same_answers(of_jax["trained"], found["answers"])
    assert found["checked"] == 13
