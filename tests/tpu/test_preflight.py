"""Steps lowered for a slice: what they hold and compute, by hand; and what a TPU would refuse, by name."""

import re

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.data.pipeline import Dataset, Ragged
from aillm_tf.tpu import lint
from aillm_tf.tpu.lower import arguments_of, new_values, updated_in_place
from aillm_tf.tpu.preflight import batch_of, check, lowered
from aillm_tf.tpu.topology import topology

SLICE = topology("v5e:2x4")
BYTES = {"i1": 1, "i8": 1, "ui8": 1, "bf16": 2, "i32": 4, "ui32": 4, "f32": 4, "i64": 8}


def argument_bytes(text: str) -> int:
    """Of the arguments of a program, read off its text."""
    total = 0
    for kind in arguments_of(text)[0]:
        *sizes, dtype = kind.removeprefix("tensor<").removesuffix(">").split("x")
        total += int(np.prod([int(size) for size in sizes], dtype=np.int64)) * BYTES[dtype]
    return total


def product_flops(text: str) -> int:
    """Two operations for each multiplication of the matrix products of a program."""
    total = 0
    # `dot` of two matrices contracts the last axis of the first
    product = (
        r"stablehlo\.dot(?:_general .*?contracting_dims = \[([\d, ]*)\] x| ).*?: \(tensor<([^>]*)>.*?-> tensor<([^>]*)>"
    )
    for contracted, left, result in re.findall(product, text):
        sizes, made = left.split("x")[:-1], result.split("x")[:-1]
        inner = np.prod([int(sizes[int(axis)]) for axis in (contracted or "-1").split(",")])
        total += 2 * int(inner * np.prod([int(size) for size in made]))
    return total


@pytest.fixture(scope="module")
def wide(tokenizer):
    """A classifier that is mostly matrix products, and rows of 64 tokens."""
    from aillm_tf.models.config import TransformerConfig
    from aillm_tf.tasks.classification import TextClassifier

    shape = {"hidden_size": 64, "layers": 2, "heads": 2, "ffn_size": 256, "segments": 2}
    config = TransformerConfig(tokenizer.vocab_size, **shape)
    task = TextClassifier(config, tokenizer, labels=["a", "b"], max_length=64, pooling="mean", dtype="mixed_bfloat16")
    ids = Ragged(np.ones(128 * 64, "int32"), np.arange(129) * 64)
    columns = {"token_ids": ids, "label": np.zeros(128, "int32")}
    return task, Dataset(columns, max_length=64, batch_size=64, fixed_length=True)


@pytest.fixture(scope="module")
def step(wide):
    """Its training step on eight replicas."""
    from aillm_tf.tpu.capture import Captured
    from aillm_tf.training.optimizer import adamw

    task, data = wide
    task.compile(adamw(1e-3, steps=10))
    return lowered(Captured(None, task, data, None, 10), SLICE, "train")[0]


def test_the_arguments_hold_exactly_weights_optimizer_and_batch(step, wide):
    task, _ = wide
    parameters = sum(v.shape.num_elements() for v in task.trainable_variables)
    held = step.program.bytes
    assert held["weights"] == 4 * parameters
    assert held["optimizer"] == 8 * parameters + 8  # two moments, and the count of steps
    assert held["batch"] == 8 * 64 * 4 * 2 + 8 * 4 * 2  # ids and valid; labels and weights
    assert argument_bytes(step.program.text) == sum(held.values())


def test_every_weight_and_slot_is_updated_in_place(step, wide):
    task, _ = wide
    assert step.program.text.count("tf.aliasing_output") == 3 * len(task.trainable_variables) + 1


def test_every_gradient_and_three_numbers_are_summed_over_the_replicas(step, wide):
    task, _ = wide
    assert step.program.all_reduces == len(task.trainable_variables) + 3  # loss, weight, whether a worker leaves


def test_the_formula_counts_the_products_of_the_program_within_two_percent(step):
    # per token and layer: 4 projections of 64 x 64, 2 of 64 x 256, scores and sum over 64 keys; backward twice as much
    by_hand = 3 * 64 * 64 * 2 * 2 * (4 * 64 * 64 + 2 * 64 * 256 + 2 * 64 * 64)
    assert step.flops == pytest.approx(by_hand, rel=0.02)
    assert SLICE.replicas * product_flops(step.program.text) == pytest.approx(by_hand, rel=0.02)


def test_rows_that_only_fill_and_padding_count_as_padding(captured, make_classifier):
    ids = Ragged(np.ones(12 * 4, "int32"), np.arange(13) * 4)  # 12 rows of 4 tokens
    data = Dataset({"token_ids": ids, "label": np.zeros(12, "int32")}, max_length=16, batch_size=12, fixed_length=True)
    (found,) = lowered(captured(make_classifier(), data), SLICE, "train")
    assert found.rows == 2
    assert found.padding == pytest.approx(1 - 12 * 4 / (16 * 16))


def test_the_cache_of_a_decoder_is_held_and_updated_in_place(tokenizer, captured):
    import aillm_tf as ai
    from aillm_tf.models.config import TransformerConfig

    config = TransformerConfig(tokenizer.vocab_size, hidden_size=16, layers=2, heads=2, ffn_size=32, causal=True)
    task = ai.CausalLM(config, tokenizer, max_length=16, generation={"max_new_tokens": 16}, dtype="float32")
    data = task.dataset(["a b c"] * 32, batch_size=32, fixed_length=True)
    prefill, decode = lowered(captured(task, data), SLICE, "decode")
    assert (prefill.name, decode.name, prefill.rows, decode.rows) == ("prefill", "decode", 4, 4)
    keys_and_values = 2 * 2 * 4 * 32 * 16 * 4  # of 2 layers, for 4 rows of 16 + 16 tokens
    assert keys_and_values < decode.program.bytes["cache"] < keys_and_values + 2000  # and the tokens so far
    assert argument_bytes(decode.program.text) == sum(decode.program.bytes.values())
    inputs = len(arguments_of(decode.program.text)[1])
    assert decode.program.text.count("tf.aliasing_output") == inputs


def test_new_values_take_the_place_of_the_variables_that_have_any():
    text = "func.func @main(%arg0: tensor<2xi32> loc(x), %arg1: tensor<4xf32> {a}, %arg2: tensor<3xf32> , "
    text += "%arg3: tensor<4xf32> ) -> (tensor<f32>, tensor<3xf32>, tensor<4xf32>) {\n}"
    pairs = new_values(text, outputs=1)
    assert pairs == [(3, 2), (2, 1)]
    assert "%arg3: tensor<4xf32> {tf.aliasing_output = 2 : i32} )" in updated_in_place(text, pairs)


# What a TPU refuses ----------------------------------------------------------------------------------------------


def data_with(**columns):
    ids = Ragged(np.ones(32 * 8, "int32"), np.arange(33) * 8)
    columns = {"token_ids": ids, "label": np.zeros(32, "int32"), **columns}
    return Dataset(columns, max_length=16, batch_size=16, fixed_length=columns.pop("fixed", True))


@pytest.mark.parametrize(
    ("columns", "where", "mend"),
    [
        ({"title": np.array(["a"] * 32)}, "feature 'title'", "tokenize in the input pipeline"),
        ({"token_ids": Ragged(np.ones(256, "int64"), np.arange(33) * 8)}, "feature 'token_ids'", "cast it to int32"),
        ({"price": np.zeros(32)}, "feature 'price'", "cast it to float32"),
        ({"fixed": False}, "feature 'token_ids'", "fixed_length"),
    ],
    ids=["strings", "int64 ids", "float64", "dynamic length"],
)
def test_a_feature_that_a_tpu_refuses_is_named_with_the_mend(captured, make_classifier, columns, where, mend):
    with pytest.raises(lint.Refused) as refused:
        check(captured(make_classifier(), data_with(**columns)), SLICE)
    assert {finding.where for finding in refused.value.findings} >= {where}
    assert mend in str(refused.value)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda x: tf.ensure_shape(tf.py_function(tf.identity, [x], x.dtype), x.shape), "EagerPyFunc: it calls Python"),
        (lambda x: x + tf.math.real(tf.linalg.eig(x[:1, :1])[0]), "Eig: XLA has no such operation"),
        (lambda x: x * tf.cast(tf.size(tf.where(x > 0)), x.dtype), "Where: the size of its result depends"),
    ],
    ids=["py_function", "no lowering", "dynamic shape"],
)
def test_a_layer_that_a_tpu_refuses_is_named(captured, make_classifier, monkeypatch, function, told):
    task = make_classifier()
    sound = task.classifier.call
    monkeypatch.setattr(task.classifier, "call", lambda x: sound(function(x)))
    with pytest.raises(lint.Refused, match=told) as refused:
        lowered(captured(task, data_with()), SLICE, "train")
    assert refused.value.findings[0].where == "classifier"


def test_options_and_data_that_cost_time_are_named(captured, make_classifier):
    advice = check(captured(make_classifier(), data_with(), batch_warmup=100), topology("v5e:4x4"))
    found = {finding.where: finding for finding in advice if finding.level == "advice"}
    assert "waits for the host" in found["training.steps_per_execution"].what
    assert "four sizes" in found["training.batch_warmup"].what
    assert "16 x 8" not in str(advice)


def test_a_batch_that_the_replicas_cannot_share_is_named(captured, make_classifier):
    advice = check(captured(make_classifier(), data_with()), topology("v5e:4x8"))
    found = {finding.where: finding for finding in advice}
    assert "16 of 32 computed rows only fill up" in found["training.batch_size"].what


def test_every_replica_gets_static_shapes(captured, make_classifier):
    batch = batch_of(data_with(), SLICE)
    assert {name: spec.shape.as_list() for name, spec in batch.items()} == {
        "token_ids": [2, 16], "valid": [2, 16], "label": [2], "weight": [2]
    }  # fmt: skip
