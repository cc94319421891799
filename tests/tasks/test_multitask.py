"""MultiTask: every step is exactly that of its objective, over one backbone, and each is accounted for."""

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from pretraining import OPTIONS, SHAPE

import aillm_tf
from aillm_tf.layers.naming import variables_by_name
from aillm_tf.models.config import TransformerConfig
from aillm_tf.tasks.classification import TextClassifier
from aillm_tf.tasks.masked_lm import MaskedLM
from aillm_tf.tasks.multitask import Accounts, MultiTask
from aillm_tf.text.sentinels import with_sentinels
from aillm_tf.text.train import train_tokenizer
from aillm_tf.training.optimizer import adamw

OBJECTIVES = {"spans": {"task": "Denoising", "noise": "span_corruption"}, "masks": {"task": "MaskedLM", "rate": 0.3}}


@pytest.fixture(scope="module")
def texts(reviews):
    return [text for text, _ in reviews]


@pytest.fixture(scope="module")
def writer(texts):
    return with_sentinels(train_tokenizer(texts, kind="bpe", vocab_size=300, use="seq2seq"), 8)


@pytest.fixture(scope="module")
def make(writer):
    config = TransformerConfig(vocab_size=writer.vocab_size, decoder_layers=1, **SHAPE)
    return lambda **options: MultiTask(config, writer, **{**OPTIONS, "objectives": OBJECTIVES, **options})


def compiled(model, **options):
    model.compile(adamw(5e-3, steps=40, warmup=2), **options)
    return model


def curve(model, data, steps, callbacks=(), **options):
    losses = []

    class Losses(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            losses.extend(self.model.step_losses.tolist())

    model.fit(data, steps=steps, callbacks=[Losses(), *callbacks], verbose=0, **options)
    return np.array(losses)


@pytest.fixture(scope="module")
def trained(make, texts, tmp_path_factory):
    """A model after 12 steps, its data, the losses, and the rows of metrics.jsonl."""
    model, folder = compiled(make(), spike_guard=1e6), tmp_path_factory.mktemp("run")
    data = model.dataset(texts, batch_size=8, shuffle=True, seed=3, weights={"spans": 2, "masks": 1})
    with aillm_tf.Run(folder, {}) as run:
        losses = curve(model, data, 12, run.callbacks(data), validation_every=6)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return model, data, losses, rows


@pytest.fixture(scope="module")
def batches(trained):
    """name -> (a batch of the mixture that is this objective's, the same as it alone has it)."""
    data, found = trained[1], {}
    for step, whole in enumerate(data.batches(0, 12)):
        name = data.name_of(step)
        own = {key.partition("/")[2]: value for key, value in whole.items() if key.startswith(f"{name}/")}
        found.setdefault(name, (whole, {key: value for key, value in own.items() if key != "active"}))
    return found


def test_the_loss_of_a_batch_is_that_of_its_objective(trained, batches):
    model = trained[0]
    for name, task in model.tasks.items():
        whole, own = batches[name]
        for found, expected in zip(model.loss_terms(whole), task.loss_terms(own), strict=True):
            assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_the_first_step_has_the_loss_of_its_objective(trained, batches, make):
    _, data, losses, _ = trained
    name = data.name_of(0)
    total, weight = make().tasks[name].loss_terms(batches[name][1])
    assert losses[0] == pytest.approx(float(total) / float(weight), rel=1e-5)


def test_steps_tokens_and_losses_are_accounted_exactly(trained):
    model, data, losses, rows = trained
    names, rows = [data.name_of(step) for step in range(12)], [row for row in rows if "tokens" in row]
    for name, account in model.accounts.run.items():
        steps = [step for step in range(12) if names[step] == name]
        assert account["steps"] == len(steps)
        assert account["tokens"] == sum(rows[step]["tokens"] for step in range(12) if names[step] == name)
        own = [loss for loss, whose in zip(losses, names, strict=True) if whose == name]
        assert min(own) <= account["loss"] / account["weight"] <= max(own)
    assert sum(account["tokens"] for account in model.accounts.run.values()) == data.tokens(0, 12)


def test_the_spike_guard_has_seen_each_objective_as_often_as_it_was_trained(trained):
    model = trained[0]
    assert model.guard.seen.numpy().tolist() == [account["steps"] for account in model.accounts.run.values()]


def test_a_step_that_the_guard_left_out_is_not_counted_as_trained(trained):
    data, skipped = trained[1], np.array([False, True, False])
    accounts = Accounts(data)
    one = np.ones(3)
    accounts.set_model(SimpleNamespace(step=3, step_losses=one, step_weights=one, step_skipped=skipped))
    accounts.on_train_batch_end(2)
    assert sum(account["steps"] for account in accounts.run.values()) == 2
    assert accounts.run[data.name_of(1)]["skipped"] == 1
    assert sum(account["tokens"] for account in accounts.run.values()) == data.tokens(0, 1) + data.tokens(2, 3)


def test_logs_of_an_epoch_say_the_loss_and_tokens_of_every_objective(trained):
    model, _, _, rows = trained
    epochs = [row for row in rows if "epoch" in row]
    assert len(epochs) == 2
    for name, account in model.accounts.run.items():
        assert sum(epoch.get(f"{name}_tokens", 0) for epoch in epochs) == account["tokens"]
        assert any(f"{name}_loss" in epoch for epoch in epochs)


@pytest.mark.slow
def test_an_objective_that_has_no_turn_keeps_its_head(trained, make):
    data = trained[1]
    names = [data.name_of(step) for step in range(12)]
    assert set(names) == set(OBJECTIVES)
    only = compiled(make())
    before = only.tasks["masks"].mlm.bias.numpy()
    steps = next(step for step, name in enumerate(names) if name == "masks")
    if steps:
        curve(only, data, steps)
    np.testing.assert_array_equal(only.tasks["masks"].mlm.bias.numpy(), before)


def test_the_backbone_is_one(trained):
    model = trained[0]
    names = list(variables_by_name(model))
    assert len(names) == len(set(names))
    heads = [name for name in names if not name.startswith("backbone/")]
    assert heads and all(name.startswith("objectives/masks/mlm/") for name in heads)
    assert model.tasks["spans"].backbone is model.tasks["masks"].backbone.whole is model.backbone


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"accumulate": 2}, {"steps_per_execution": 3}], ids=str)
def test_micro_batches_and_longer_executions_give_the_same_curve(options, trained, make, texts):
    _, data, expected, _ = trained
    found = curve(compiled(make(), **options), data, 12)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_two_replicas_give_the_same_curve(trained, make, two_replicas):
    _, data, expected, _ = trained
    with two_replicas.scope():
        model = make()
    np.testing.assert_allclose(curve(compiled(model, accumulate=2), data, 6), expected[:6], rtol=1e-5)


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_same_objectives_and_counts(trained, make, tmp_path):
    model, data, *_ = trained
    for steps in (5, 12):
        again = compiled(make(), spike_guard=1e6)
        again.fit(data, steps=steps, checkpoints=aillm_tf.Checkpoints(tmp_path), verbose=0)
    assert again.accounts.run == model.accounts.run
    for name, numbers in model.guard.state().items():
        np.testing.assert_array_equal(again.guard.state()[name], numbers, err_msg=name)
    for one, other in zip(again.variables, model.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)


def test_every_objective_is_scored_on_its_data(trained, monkeypatch):
    model, data, *_ = trained
    for number, (name, task) in enumerate(model.tasks.items()):
        monkeypatch.setattr(
            task,
            "evaluate",
            lambda x, name=name, number=number, **_: ({"loss": number + 1.0}, {"of": x is data.parts[name]}),
        )
    scores, rows = model.evaluate(data, verbose=0, return_rows=True)
    assert scores == pytest.approx({"loss": 2 / 3 * 1.0 + 1 / 3 * 2.0, "spans_loss": 1.0, "masks_loss": 2.0})
    assert rows == {"spans_of": True, "masks_of": True}


def same_variables(one, other):
    others = variables_by_name(other)
    for name, variable in variables_by_name(one).items():
        np.testing.assert_array_equal(variable, others[name], err_msg=name)


def test_a_saved_model_comes_back_the_same(trained, tmp_path):
    model = trained[0]
    model.save(tmp_path)
    loaded = aillm_tf.load(tmp_path, dtype="float32")
    assert json.dumps(loaded.options()) == json.dumps(model.options())
    same_variables(loaded, model)
    # fewer objectives, or others: the backbone is kept
    again = MultiTask.from_pretrained(str(tmp_path), objectives={"masks": {"task": "MaskedLM"}}, dtype="float32")
    same_variables(again, model)


def test_an_objective_becomes_a_task_of_its_own(trained, batches, tmp_path):
    model = trained[0]
    masks, (_, batch) = model.task("masks"), batches["masks"]
    expected = float(model.tasks["masks"].loss_terms(batch)[0])
    assert float(masks.loss_terms(batch)[0]) == pytest.approx(expected, rel=1e-6)
    masks.save(tmp_path)
    loaded = aillm_tf.load(tmp_path, dtype="float32")
    assert isinstance(loaded, MaskedLM)
    same_variables(loaded, masks)
    assert model.task("spans").noise == ("span_corruption",)


def test_the_backbone_of_encoders_is_fine_tuned_from_what_it_saved(config, tokenizer, tmp_path):
    objectives = {"masks": {"task": "MaskedLM"}, "order": {"task": "SentenceOrder"}}
    model = MultiTask(config, tokenizer, objectives=objectives, **OPTIONS)
    model.save(tmp_path)
    tuned = TextClassifier.from_pretrained(str(tmp_path), labels=["no", "yes"], max_length=16, dtype="float32")
    np.testing.assert_array_equal(tuned.backbone.embeddings.token, model.backbone.embeddings.token)


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ({}, "at least one objective"),
        ({"a": {"task": "Guessing"}}, "'Guessing' is none"),
        ({"a": {}}, "None is none"),
        ({"a/b": {"task": "MaskedLM"}}, "'a/b' is none"),
        ({"a": {"task": "CausalLM"}}, "CausalLM needs a decoder as backbone, this config is of an encoder-decoder"),
    ],
)
def test_objectives_that_are_none_are_refused(objectives, message, make):
    with pytest.raises(ValueError, match=message):
        make(objectives=objectives)


def test_data_of_one_task_are_refused(trained, texts):
    model = trained[0]
    with pytest.raises(TypeError, match="fit takes what model.dataset"):
        model.fit(model.tasks["masks"].dataset(texts))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("spans", "mask"), "rows names 'mask'; the objectives are spans, masks; did you mean 'masks'"),
        (("spans",), "rows say nothing of 'masks'"),
    ],
)
def test_data_of_other_objectives_are_refused(names, message, trained, texts):
    with pytest.raises(ValueError, match=message):
        trained[0].dataset(dict.fromkeys(names, texts))


def test_which_objective_is_to_answer_has_to_be_said(trained):
    with pytest.raises(TypeError, match=r"model.task\(name\).answer"):
        trained[0].answer(["a"])
