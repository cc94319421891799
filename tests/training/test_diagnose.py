"""A loss or gradient that is not finite ends the run, names tensor and step, and leaves the weights as they were."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from aillm_tf.training.optimizer import adamw


def compiled(make, **options):
    model = make(layers=2)
    model.compile(adamw(5e-3, weight_decay=0.1), **options)
    return model


def ends(model, rows, **data):
    with pytest.raises(FloatingPointError) as error:
        data = {"batch_size": 6, "shuffle": True, "fixed_length": True, **data}
        model.fit(model.dataset(rows, **data), steps=6, verbose=0)
    return str(error.value)


def spoil_from(model, data_step, spoil, rows):
    """Within the batch of a step (from 1), the loss terms are what `spoil` makes of them."""
    data = model.dataset(rows, batch_size=6, shuffle=True, fixed_length=True)
    there = tf.constant(data.batch_rows(data_step - 1)[0])
    loss_terms = model.loss_terms

    def spoiled(batch, seed=None):
        total, weight = loss_terms(batch, seed)
        here = tf.reduce_any(batch["row"][:, None] == there[None])
        return spoil(total, tf.cast(here, tf.float32)), weight

    model.loss_terms = spoiled


@pytest.mark.slow
def test_the_layer_whose_output_was_the_first_is_named(make_classifier, rows):
    model = compiled(make_classifier)
    block = model.backbone.encoder.blocks[1]
    call = block.ffn.call
    block.ffn.call = lambda *inputs, **options: call(*inputs, **options) / 0.0
    message = ends(model, rows)
    assert "the loss is not finite at step 1" in message
    assert f"the output of {block.ffn.path.partition('/')[2]} has " in message
    assert "backbone/encoder/layer_1" in message


def test_a_weight_that_was_not_finite_is_named(make_classifier, rows):
    model = compiled(make_classifier)
    kernel = model.classifier.kernel
    kernel.assign(ops.full(kernel.shape, np.nan))
    message = ends(model, rows)
    assert "the weight classifier/kernel had" in message and "before the step" in message


def test_the_loss_is_named_where_all_layers_are_finite(make_classifier, rows):
    model = compiled(make_classifier)
    spoil_from(model, 3, lambda total, here: total + tf.math.log(1.0 - here), rows)
    assert "the loss is not finite at step 3. The first such tensor: the loss itself" in ends(model, rows)


@pytest.mark.parametrize(
    "options", [{"steps_per_execution": 4}, pytest.param({"accumulate": 2}, marks=pytest.mark.slow)], ids=str
)
def test_only_the_gradient_names_its_variable_and_the_weights_stay(options, make_classifier, rows):
    good, model = compiled(make_classifier), compiled(make_classifier, **options)
    good.fit(good.dataset(rows, batch_size=6, shuffle=True, fixed_length=True), steps=2, verbose=0)
    # the square root has an infinite gradient where the loss is unchanged
    spoil_from(model, 3, lambda total, here: total + here * tf.sqrt(total * (1.0 - here)), rows)
    message = ends(model, rows)
    assert "the gradient is not finite at step 3. The first such tensor: the gradient of classifier/" in message
    for expected, found in zip(good.trainable_variables, model.trainable_variables, strict=True):
        if not expected.path.endswith("qkv/bias"):  # of the keys: its gradient is zero up to rounding
            np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5, err_msg=expected.path)
