"""The mean of the last checkpoints."""

import numpy as np
import pytest

from aillm_tf.training.average import average_checkpoints
from aillm_tf.training.checkpoint import Checkpoints
from aillm_tf.training.checkpoint_files import DamagedCheckpoint


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of the steps 10, 20 and 30, whose weight is the step."""
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (10, 20, 30):
        weight = np.full((2,), step, "float32")
        checkpoints.save(step, {"model": {"weight": weight}, "optimizer": {"weight": -weight}}, {})
    return tmp_path


@pytest.mark.parametrize(("last", "mean", "steps"), [(1, 30, [30]), (2, 25, [20, 30]), (9, 20, [10, 20, 30])])
def test_the_mean_of_the_last_checkpoints(folder, last, mean, steps):
    averaged = average_checkpoints(folder, last)
    assert averaged.steps == steps
    np.testing.assert_array_equal(averaged.weights["weight"], np.full((2,), mean, "float32"))


def test_a_damaged_checkpoint_is_named(folder):
    file = folder / "step_00000020" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match="step_00000020"):
        average_checkpoints(folder, 2)


def test_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoints"):
        average_checkpoints(tmp_path, 2)
