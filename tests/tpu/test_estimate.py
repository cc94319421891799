import pytest

from aillm_tf.tpu.estimate import estimate, memory_by_kind, network_seconds
from aillm_tf.tpu.topology import topology

COMPILED = {
    "argument_bytes": 1000,
    "output_bytes": 900,
    "alias_bytes": 880,
    "temp_bytes": 300,
    "code_bytes": 50,
    "flops": 197e12,  # a second at the peak of a v5e
    "bytes_accessed": 819e9 / 2,
    "collectives": {"all-reduce": (1, 100e9)},
}
HELD = {"weights": 300, "optimizer": 600, "batch": 60}


def test_memory_counts_every_byte_of_the_compiler_once():
    memory = memory_by_kind(COMPILED, HELD)
    assert memory["padding"] == 40 and memory["activations"] == 320
    assert sum(memory.values()) == 1000 + 300 + 50 + (900 - 880)


def test_the_slower_of_compute_and_memory_decides_and_the_network_comes_after():
    found = estimate(COMPILED, HELD, topology("v5e:2x4"), model_flops=8 * 197e12, tokens=80, efficiency=1.0)
    network = 2 * 7 / 8 * 100e9 / 200e9
    assert found.seconds == pytest.approx(1.0 + network)
    assert found.bound == "compute"
    assert found.mfu == pytest.approx(1 / (1.0 + network))
    assert found.tokens_per_second == pytest.approx(80 / (1.0 + network))


def test_an_epoch_costs_its_hours_times_the_chips():
    found = estimate(COMPILED, HELD, topology("v5e:2x4"), model_flops=1, tokens=1, steps_per_epoch=3600, efficiency=1.0)
    assert found.dollars_per_epoch == pytest.approx(found.seconds * 8 * 1.20)


def test_one_replica_sends_nothing():
    assert network_seconds({"all-reduce": (3, 10**9)}, 1, 1e9) == 0.0
