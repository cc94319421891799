"""Bare backbones with pretrained weights, and what loading costs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import aillm_tf
from aillm_tf.models.decoder import Decoder
from aillm_tf.models.encoder import Encoder
from aillm_tf.models.encoder_decoder import EncoderDecoder
from aillm_tf.weights.backbones import backbone_variables, load_backbone
from aillm_tf.weights.loading import load_pretrained

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"


@pytest.mark.parametrize(
    ("folder", "kind"), [("bert_masked_lm", Encoder), ("qwen3", Decoder), ("t5_v1_1", EncoderDecoder)]
)
def test_config_says_which_backbone_it_is(folder, kind):
    backbone, _ = load_backbone(GOLDEN / folder)
    assert type(backbone) is kind


def test_every_variable_has_the_value_of_the_checkpoint():
    backbone, _ = load_backbone(GOLDEN / "qwen3")
    pretrained = load_pretrained(GOLDEN / "qwen3")
    variables = backbone_variables(backbone)
    assert set(variables) == set(pretrained.names)
    assert [name for name in variables if not np.array_equal(variables[name], pretrained.read(name))] == []


def test_tokenizer_comes_along_where_there_is_one():
    _, tokenizer = load_backbone(GOLDEN / "bert_masked_lm")
    assert tokenizer.vocab_size == 120
    assert load_backbone(GOLDEN / "bart")[1] is None


@pytest.mark.parametrize(("dtype", "stored"), [("bfloat16", "bfloat16"), ("mixed_bfloat16", "float32")])
def test_weights_are_of_the_type_of_the_policy(dtype, stored):
    backbone, _ = load_backbone(GOLDEN / "qwen3", dtype=dtype)
    exact = load_pretrained(GOLDEN / "qwen3").read("backbone/embeddings/token")
    found = backbone.embeddings.token
    assert found.dtype == stored
    np.testing.assert_array_equal(found.numpy(), exact.astype(getattr(ml_dtypes, stored, stored)))


def test_public_name_is_the_same_function():
    assert aillm_tf.load_backbone is load_backbone


def test_loading_under_a_strategy_gives_each_replica_the_values():
    # devices are fixed once TensorFlow has started: so a process of its own
    code = (
        "import numpy as np, tensorflow as tf\n"
        "tf.config.set_logical_device_configuration(tf.config.list_physical_devices('CPU')[0], "
        "[tf.config.LogicalDeviceConfiguration()] * 2)\n"
        "from aillm_tf.weights.backbones import load_backbone\n"
        "from aillm_tf.weights.loading import load_pretrained\n"
        "with tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1']).scope():\n"
        "    backbone, _ = load_backbone('tests/golden/qwen3')\n"
        "copies = backbone.embeddings.token.value.values\n"
        "exact = load_pretrained('tests/golden/qwen3').read('backbone/embeddings/token')\n"
        "print(len(copies), all(np.array_equal(copy.numpy(), exact) for copy in copies))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.splitlines()[-1:] == ["2 True"], done.stderr[-2000:]


def test_model_of_another_size_than_its_configuration_is_refused(tmp_path):
    for file in (GOLDEN / "qwen3").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 24}))
    with pytest.raises(ValueError, match=r"ffn/up/kernel: \(16, 40\) in the checkpoint, \(16, 48\) in the model"):
        load_backbone(tmp_path)


def test_decoder_that_was_saved_as_a_classifier_has_a_new_head_and_says_so(caplog):
    with caplog.at_level("WARNING", "aillm_tf"):
        backbone, _ = load_backbone(GOLDEN / "qwen2_classifier")
    assert [record.getMessage() for record in caplog.records] == [
        "qwen2_classifier: not in it, so they start anew: backbone/head/kernel"
    ]
    assert np.asarray(backbone.head.kernel).std() > 0


def test_language_model_without_its_head_is_refused(tmp_path):
    tensors = load_file(GOLDEN / "qwen3" / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((GOLDEN / "qwen3" / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"missing from the checkpoint: backbone/head/kernel"):
        load_backbone(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the resident set from /proc")
def test_loading_needs_little_more_memory_than_the_weights(tmp_path):
    """The small twin of benchmarks/load_weights.py: 25 M parameters, 100 MB."""
    spec = importlib.util.spec_from_file_location("load_weights", ROOT / "benchmarks" / "load_weights.py")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        benchmark = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(benchmark)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    sizes = {"hidden": 512, "layers": 4, "heads": 8, "kv_heads": 4, "ffn": 1536, "vocab": 12_000}
    parameters = benchmark.fabricate(tmp_path, "bfloat16", sizes)
    # not getrusage's peak, in which a process starts with that of the one that made it
    code = (
        "import sys, pathlib, re; sys.path.insert(0, 'benchmarks'); import load_weights\n"
        f"side = load_weights.load_with_ours(pathlib.Path({str(tmp_path)!r}), 'float32')\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', pathlib.Path('/proc/self/status').read_text())\n"
        "print(int(peak[1]) * 1024 - side['before'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    grown = int(done.stdout.splitlines()[-1])
    assert grown < 1.3 * 4 * parameters
