"""The TPU compiler: what is kept of it, and, where it is installed, what it says of small programs."""

import importlib.util

import pytest

from aillm_tf.tpu import compiler
from aillm_tf.tpu.compiler import CompileError, OutOfMemory, compile_for_tpu
from aillm_tf.tpu.topology import CHIPS, topology

installed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("jax", "libtpu")),
    reason=f"the TPU compiler is not installed: {compiler.INSTALL}",
)
ADD = """#loc1 = loc("here")
module @m {
  func.func @main(%arg0: tensor<SIZExf32> loc("x"), %arg1: tensor<SIZExf32>) -> tensor<SIZExf32> {
    %0 = stablehlo.add %arg0, %arg1 : tensor<SIZExf32> loc(#loc1)
    return %0 : tensor<SIZExf32>
  } loc(#loc1)
}
"""


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """A compiler that says what it is given, counts its calls, and keeps its answers in a new folder."""
    calls = []
    monkeypatch.setenv("AILLM_CACHE", str(tmp_path))
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(compiler.importlib.metadata, "version", lambda name: "1")

    def pretend(answer):
        monkeypatch.setattr(compiler, "_in_a_process", lambda *asked: calls.append(asked) or answer)
        return calls

    return pretend


def test_a_program_is_compiled_once_wherever_it_came_from(pretend):
    calls = pretend({"flops": 1.0})
    moved = ADD.replace('loc("here")', 'loc("there"(#loc7))').replace("@m ", "@another_17 ")
    assert compile_for_tpu(ADD, "v5e:2x4", 8) == compile_for_tpu(moved, "v5e:2x4", 8) == {"flops": 1.0}
    assert len(calls) == 1
    compile_for_tpu(ADD.replace("add", "multiply"), "v5e:2x4", 8)
    compile_for_tpu(ADD, "v6e:2x4", 8)
    assert len(calls) == 3


def test_what_does_not_fit_is_kept_too(pretend):
    calls = pretend({"out_of_memory": "Ran out of memory in memory space hbm. Used 16.25G of 15.75G hbm."})
    for _ in range(2):
        with pytest.raises(OutOfMemory) as error:
            compile_for_tpu(ADD, "v5e:2x4", 8)
        assert error.value.used == 16.25 * 2**30
    assert len(calls) == 1


def test_a_missing_compiler_says_what_to_install(monkeypatch):
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs jax and libtpu: pip install .*0\.10\.2"):
        compile_for_tpu(ADD, "v5e:2x4", 8)


@installed
@pytest.mark.slow
def test_arguments_are_counted_to_the_byte(monkeypatch, tmp_path):
    monkeypatch.setenv("AILLM_CACHE", str(tmp_path))
    found = compile_for_tpu(ADD.replace("SIZE", "30x130"), "v5e:2x4", 1)
    # tiles of 8 x 128: 30 x 130 takes the room of 32 x 256
    assert found["argument_bytes"] == 2 * 32 * 256 * 4
    assert found["output_bytes"] == 32 * 256 * 4


@installed
@pytest.mark.slow
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x4", "v5p:2x2x1", "v6e:2x4"])
def test_the_memory_of_a_chip_is_what_the_compiler_says(monkeypatch, tmp_path, name):
    monkeypatch.setenv("AILLM_CACHE", str(tmp_path))
    with pytest.raises(OutOfMemory) as error:
        compile_for_tpu(ADD.replace("SIZE", "131072x131072"), name, 1)
    assert error.value.capacity == pytest.approx(CHIPS[name.partition(":")[0]].usable, abs=6 << 20)


@installed
@pytest.mark.slow
def test_an_error_is_in_the_compilers_words(monkeypatch, tmp_path):
    monkeypatch.setenv("AILLM_CACHE", str(tmp_path))
    with pytest.raises(CompileError, match="has 8 devices, 16 are wanted"):
        compile_for_tpu(ADD.replace("SIZE", "8x128"), "v5e:2x4", 16)


@installed
@pytest.mark.slow
def test_recomputed_blocks_need_less_memory_and_more_operations(monkeypatch, tmp_path, captured, tokenizer):
    import numpy as np

    from aillm_tf.data.pipeline import Dataset, Ragged
    from aillm_tf.layers.transformer import set_remat
    from aillm_tf.models.config import TransformerConfig
    from aillm_tf.tasks.classification import TextClassifier
    from aillm_tf.tpu.preflight import compile_step, lowered

    monkeypatch.setenv("AILLM_CACHE", str(tmp_path))
    config = TransformerConfig(tokenizer.vocab_size, hidden_size=128, layers=3, heads=2, ffn_size=512)
    task = TextClassifier(config, tokenizer, labels=["a", "b"], max_length=128, dtype="mixed_bfloat16")
    ids = Ragged(np.ones(4096 * 128, "int32"), np.arange(4097) * 128)
    columns = {"token_ids": ids, "label": np.zeros(4096, "int32")}
    data, slice = Dataset(columns, max_length=128, batch_size=4096, fixed_length=True), topology("v5e:2x4")
    found = []
    for remat in (False, True):
        set_remat(task, remat)
        (step,) = lowered(captured(task, data), slice, "train")
        found.append(compile_step(step, slice))
    plain, recomputed = found
    assert recomputed["temp_bytes"] < 0.8 * plain["temp_bytes"]
    assert recomputed["flops"] > 1.15 * plain["flops"]
