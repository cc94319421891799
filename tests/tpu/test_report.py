"""The table, JSON and page of preflight, of numbers that the compiler might have said."""

import dataclasses
import json

import pytest

from aillm_tf.tpu import report
from aillm_tf.tpu.compiler import OutOfMemory
from aillm_tf.tpu.estimate import estimate
from aillm_tf.tpu.lint import Finding, of_memory
from aillm_tf.tpu.lower import Program
from aillm_tf.tpu.mesh import laid_on
from aillm_tf.tpu.preflight import Result, Step
from aillm_tf.tpu.topology import topology

COMPILED = {"argument_bytes": 1000, "output_bytes": 900, "alias_bytes": 880, "temp_bytes": 300, "code_bytes": 50}
COMPILED |= {"flops": 2e12, "bytes_accessed": 8e9, "collectives": {"all-reduce": [1, 5]}, "seconds": 12.0}


@pytest.fixture
def results():
    train = Step("train", Program("", {"weights": 300, "optimizer": 600, "batch": 60}, 1, ()), 4, 80.0, 1e12, 0.25, 10)
    decode = Step("decode", Program("", {"weights": 300, "cache": 500}, 0, ()), 4, 32.0, None, 0.0, None)
    found = []
    for step, name in ((train, "v5e:2x4"), (train, "v6e:2x4"), (decode, "v5e:2x4")):
        options = {"model_flops": step.flops, "tokens": step.tokens, "steps_per_epoch": step.steps_per_epoch}
        made = estimate(COMPILED, step.program.bytes, topology(name), **options)
        found.append(Result(topology(name), step, COMPILED, made, False))
    return found


def test_the_table_has_a_column_for_every_result(results):
    lines = {line.split("  ")[0]: line.split()[-3:] for line in report.table(results).splitlines()}
    assert lines["topology"] == ["v5e:2x4", "v6e:2x4", "v5e:2x4"]
    assert lines["step"] == ["train", "train", "decode"]
    assert lines["padding of the data"] == ["25.0%", "25.0%", "0.0%"]
    assert lines["dollars an epoch (modelled)"][-1] == "-"


def test_a_program_of_all_chips_names_their_mesh(results):
    assert "mesh" not in report.cells(results[0])
    program = dataclasses.replace(results[0].step.program, partitions=8)
    step = dataclasses.replace(results[0].step, program=program)
    found = dataclasses.replace(results[0], step=step, topology=laid_on(topology("v5e:2x4"), "data=4,model=2"))
    assert report.cells(found)["mesh"] == report.to_dict(found)["mesh"] == "data=4,model=2"
    assert report.to_dict(found)["global_rows"] == 4 * 4


def test_json_and_page_say_the_same(results, tmp_path):
    finding = Finding("advice", "batch_size", "3 rows <on> a chip", "a multiple of 8")
    report.write(tmp_path / "new", "classification", results, [finding], "seed: 0\n")
    found = json.loads((tmp_path / "new" / "report.json").read_text())["results"]
    assert [one["step"] for one in found] == ["train", "train", "decode"]
    assert found[0]["used_bytes"] == sum(found[0]["memory"].values()) == 1370
    page = (tmp_path / "new" / "report.html").read_text()
    assert "3 rows &lt;on&gt; a chip" in page
    assert f"{1e3 * found[0]['seconds']:.2f} ms" in page


def test_what_fits_is_said_as_options(results):
    assert report.to_give(results[0]) == "v5e:2x4: 4 rows on a chip: --training.batch_size 32"
    assert report.to_give(dataclasses.replace(results[0], remat=True)).endswith("--training.remat true)")


MESSAGE = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 18.02G \
of 15.75G hbm. Exceeded hbm capacity by 2.27G.

  Largest program allocations in hbm:

  1. Size: 16.00G
     Operator: op_name="backbone_1/encoder_1/layer_3_1/ffn_1/up_1/MatMul" source_file="x.py" source_line=1
     Shape: f32[65536,65536]{1,0:T(8,128)}
     Unpadded size: 16.00G
"""


def test_a_step_that_does_not_fit_names_the_layer_and_the_numbers():
    error = OutOfMemory(MESSAGE)
    assert (error.used / 2**30, error.capacity / 2**30) == (pytest.approx(18.02), pytest.approx(15.75))
    told = str(of_memory(error, rows=64, remat=False))
    assert "18.02 GiB of the 15.75 GiB" in told
    assert "backbone/encoder/layer_3/ffn/up f32[65536,65536] 16.00 GiB" in told
    assert "remat" in told and "remat" not in str(of_memory(error, rows=64, remat=True))
