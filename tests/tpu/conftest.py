"""What `capture` gives of a recipe that says nothing of its own, without the recipe."""

from __future__ import annotations

import types

import pytest


@pytest.fixture
def captured():
    """(task, data, options of training) -> `Captured`."""
    from aillm_tf.tpu.capture import Captured
    from aillm_tf.training.optimizer import adamw
    from aillm_tf.training.options import Training

    def captured(task, data, **training):
        task.compile(adamw(1e-3, steps=10))
        options = types.SimpleNamespace(training=Training(**training), data={"train": "gs://bucket/train.tsv"})
        return Captured(options, task, data, None, 10)

    return captured
