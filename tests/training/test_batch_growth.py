"""Batch-size warm-up: parts of batches, every row once, the same on any number of replicas and after a resume."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from aillm_tf.data.mixture import Mixture
from aillm_tf.data.pipeline import Dataset, Ragged
from aillm_tf.models.config import TransformerConfig
from aillm_tf.training.batch_growth import GrowingBatches
from aillm_tf.training.checkpoint import Checkpoints
from aillm_tf.training.flops import step_flops
from aillm_tf.training.optimizer import adamw
from aillm_tf.training.options import Training, fit
from aillm_tf.training.strategy import strategy


def data(rows=80, batch=16, **options):
    columns = {"token_ids": Ragged(np.arange(3 * rows, dtype="int32"), 3 * np.arange(rows + 1))}
    return Dataset(columns, max_length=8, batch_size=batch, shuffle=True, fixed_length=True, **options)


def rows_of(batches):
    return [batch["row"].numpy()[batch["row"].numpy() >= 0].tolist() for batch in batches]


def joined(batches):
    return np.concatenate(batches).tolist()


def test_every_row_comes_once_in_the_order_of_the_whole_batches():
    whole, grown = data(), GrowingBatches(data(), 14)
    steps = grown.steps_of(5)
    assert (grown.stage_ends, steps) == ((8, 12, 14), 16)
    found = rows_of(grown.batches(0, steps))
    assert list(map(len, found)) == [2] * 8 + [4] * 4 + [8] * 2 + [16] * 2
    assert joined(found) == joined(rows_of(whole.batches(0, 5)))


@pytest.mark.parametrize("first", [0, 3, 8, 9, 13, 15])
def test_any_step_can_be_the_first(first):
    grown = GrowingBatches(data(), 14)
    assert rows_of(grown.batches(first, 17)) == rows_of(grown.batches(0, 17))[first:]
    assert [grown.batch_rows(step)[0].tolist() for step in range(17)] == rows_of(grown.batches(0, 17))


def test_replicas_share_a_part():
    grown = GrowingBatches(data(), 14)
    alone = rows_of(grown.batches(0, 17))
    two = rows_of(grown.batches(0, 17, replicas=range(2), total=2))
    assert [joined(two[2 * i : 2 * i + 2]) for i in range(17)] == alone
    second = rows_of(grown.batches(5, 17, replicas=range(1, 2), total=2))
    assert second == two[11::2]


def test_tokens_are_counted_once():
    grown = GrowingBatches(data(), 14)
    assert [grown.tokens(step, step + 1) for step in (0, 8, 12, 14)] == [6, 12, 24, 48]
    assert grown.tokens(0, grown.steps_of(5)) == data().tokens(0, 5) == 240


def test_the_operations_of_a_step_with_two_sides_are_counted():
    sides = {name: Ragged(np.arange(3 * 80, dtype="int32"), 3 * np.arange(81)) for name in ("token_ids", "target_ids")}
    whole = Dataset(sides, max_length=8, max_target_length=4, batch_size=16, fixed_length=True)
    config = TransformerConfig(vocab_size=10, hidden_size=4, layers=1, decoder_layers=1, heads=2, ffn_size=8)
    task = SimpleNamespace(config=config, backbone=SimpleNamespace(weights=[]), r_drop=None, adversarial=None)
    grown = GrowingBatches(whole, 14)
    assert [step_flops(task, whole, 0) / step_flops(task, grown, step) for step in (0, 8, 12, 14)] == [8, 4, 2, 1]


def test_several_objectives_have_no_warm_up(tmp_path):
    options = Training(batch_warmup=14)
    with pytest.raises(ValueError, match="training.batch_warmup grows the batches of one objective"):
        fit(SimpleNamespace(), Mixture({"a": data(), "b": data()}), options, None)


def test_a_batch_that_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match="12 rows of a batch are no multiple of 8"):
        GrowingBatches(data(batch=12), 14).batches(0, 1)


def test_a_warm_up_without_room_for_its_stages_is_refused():
    with pytest.raises(ValueError, match="give at least 14"):
        GrowingBatches(data(), 13)


def test_it_is_other_data_than_without():
    assert GrowingBatches(data(), 14).fingerprint != data().fingerprint
    assert GrowingBatches(data(), 14).fingerprint != GrowingBatches(data(), 42).fingerprint


def train(make, texts, folder, scope=None, steps=17, **options):
    with (scope or strategy("one")).scope():
        model = make()
    model.compile(adamw(5e-3, steps=17), **options)
    model.fuse_on_cpu = False
    losses = {}

    class Losses(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            first = self.model.step - len(self.model.step_losses) + 1
            losses.update(enumerate(self.model.step_losses.tolist(), start=first))

    grown = GrowingBatches(model.dataset(texts, batch_size=16, shuffle=True, fixed_length=True), 14)
    model.fit(grown, steps=steps, callbacks=[Losses()], checkpoints=Checkpoints(folder, every_steps=5), verbose=0)
    return losses


@pytest.mark.slow
def test_the_curve_is_the_same_for_other_executions_replicas_and_after_a_resume(
    make_masked_lm, reviews, two_replicas, tmp_path
):
    texts = [text for text, _ in reviews] * 2
    expected = train(make_masked_lm, texts, tmp_path / "one")
    first = train(make_masked_lm, texts, tmp_path / "two", steps=10, steps_per_execution=3)
    then = train(make_masked_lm, texts, tmp_path / "two", two_replicas, steps_per_execution=4)
    assert min(then) == 11
    np.testing.assert_allclose(list({**first, **then}.values()), list(expected.values()), atol=1e-5)
