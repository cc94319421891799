"""TextClassifier: what it learns, how it scores and answers, and what comes back from its files."""

import keras
import numpy as np
import pytest
from scipy.special import expit, log_softmax

import aillm_tf
from aillm_tf.tasks.classification import TextClassifier
from aillm_tf.training.optimizer import adamw

TOYS = [
    f"{'good' if i % 2 else 'bad'} {word}" for i, word in enumerate("film war end story cast wit heart joke".split())
]


@pytest.fixture(scope="module")
def trained(config, tokenizer, make_rows):
    """A classifier that learned to tell good from bad."""
    rows = make_rows(TOYS, [i % 2 for i in range(len(TOYS))], ["bad", "good"])
    model = TextClassifier(config, tokenizer, labels=["bad", "good"], max_length=16, dtype="float32")
    model.compile(adamw(1e-2))
    data = model.dataset(rows, batch_size=4, shuffle=True)
    history = model.fit(data, validation_data=model.dataset(rows), epochs=12, verbose=0)
    return model, history, rows


def logits_of(model, texts, pairs=None):
    features = model.features(texts, pairs)
    features["valid"] = (features["token_ids"] != model.tokenizer.pad_id).astype("int32")
    return np.asarray(model(features), "float64")


def test_a_separable_toy_set_is_learned(trained):
    model, history, _ = trained
    assert history.history["val_accuracy"][-1] == 1.0
    assert history.history["loss"][-1] < 0.1 < history.history["loss"][0]
    assert [answer["label"] for answer in model.answer(TOYS)] == ["bad", "good"] * 4


def test_answers_are_probabilities_of_every_label(trained):
    model, _, _ = trained
    for answer, logits in zip(model.answer(TOYS), logits_of(model, TOYS), strict=True):
        expected = np.exp(log_softmax(logits))
        assert list(answer["probabilities"]) == ["bad", "good"]
        np.testing.assert_allclose(list(answer["probabilities"].values()), expected, atol=1e-5)
        assert answer["score"] == max(answer["probabilities"].values())


def test_answers_do_not_depend_on_batch_order_or_company(trained, reviews):
    model, _, _ = trained
    texts = [text for text, _ in reviews[:11]]
    together = model.answer(texts)
    backwards = model.answer(texts[::-1], batch_size=3)[::-1]
    alone = [model.answer([text])[0] for text in texts[:3]]
    for one, other in [*zip(together, backwards, strict=True), *zip(together, alone, strict=False)]:
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_no_texts_have_no_answers(trained):
    assert trained[0].answer([]) == []


def test_one_string_is_not_a_list_of_texts(trained):
    with pytest.raises(TypeError, match="list of strings, not one string"):
        trained[0].answer("good film")


# Scores


def rows_and_logits(make, make_rows, reviews, **options):
    model = make(initializer_range=1.0, **options)
    texts, ids = [text for text, _ in reviews[:17]], [label for _, label in reviews[:17]]
    return model, make_rows(texts, ids, model.labels), logits_of(model, texts), np.array(ids)


@pytest.mark.parametrize("batch_size", [4, 17, 32])
def test_filling_rows_do_not_count_in_scores(batch_size, make_classifier, make_rows, reviews):
    model, rows, logits, ids = rows_and_logits(make_classifier, make_rows, reviews)
    scores, out = model.evaluate(model.dataset(rows, batch_size=batch_size), verbose=0, return_rows=True)
    assert scores["examples"] == 17
    assert scores["accuracy"] == (logits.argmax(-1) == ids).mean()
    assert scores["loss"] == pytest.approx(-log_softmax(logits, -1)[np.arange(17), ids].mean(), abs=1e-5)
    np.testing.assert_array_equal(out["label"], ids)
    np.testing.assert_allclose(out["probabilities"], np.exp(log_softmax(logits, -1)), atol=1e-5)


def test_scores_of_two_replicas_are_those_of_one(make_classifier, make_rows, reviews, two_replicas):
    model, rows, _, _ = rows_and_logits(make_classifier, make_rows, reviews)
    with two_replicas.scope():
        mirrored = make_classifier(initializer_range=1.0)
    one, two = (
        m.evaluate(m.dataset(rows, batch_size=6, shuffle=True), verbose=0, return_rows=True) for m in (model, mirrored)
    )
    assert one[0] == pytest.approx(two[0], abs=1e-5)
    np.testing.assert_allclose(one[1]["probabilities"], two[1]["probabilities"], atol=1e-5)
    np.testing.assert_array_equal(two[1]["row"], np.arange(17))


# The loss, against numpy


def loss_of(model, rows):
    return model.evaluate(model.dataset(rows), verbose=0)["loss"]


def test_class_weights_make_a_weighted_mean(make_classifier, make_rows, reviews):
    model, rows, logits, ids = rows_and_logits(make_classifier, make_rows, reviews, class_weights=[0.5, 3.0])
    weights = np.array([0.5, 3.0])[ids]
    losses = -log_softmax(logits, -1)[np.arange(17), ids]
    assert loss_of(model, rows) == pytest.approx((losses * weights).sum() / weights.sum(), abs=1e-5)


def test_label_smoothing_spreads_a_share_of_the_target(make_classifier, make_rows, reviews):
    model, rows, logits, ids = rows_and_logits(make_classifier, make_rows, reviews, label_smoothing=0.2)
    target = np.where(np.arange(2) == ids[:, None], 0.9, 0.1)
    assert loss_of(model, rows) == pytest.approx(-(target * log_softmax(logits, -1)).sum(-1).mean(), abs=1e-5)


MANY = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], "float32")


@pytest.mark.parametrize("class_weights", [None, [1.0, 2.0, 6.0]])
def test_many_labels_have_a_binary_loss_each(class_weights, make_classifier, make_rows, reviews):
    options = {"labels": ["a", "b", "c"], "multi_label": True, "initializer_range": 1.0, "class_weights": class_weights}
    model = make_classifier(label_smoothing=0.1, **options)
    texts = [text for text, _ in reviews[:4]]
    p, target = expit(logits_of(model, texts)), MANY * 0.9 + 0.05
    weights = np.array(class_weights or [1.0, 1.0, 1.0])  # of each label's term
    losses = -(target * np.log(p) + (1 - target) * np.log(1 - p)) * weights
    assert loss_of(model, make_rows(texts, MANY, ["a", "b", "c"])) == pytest.approx(losses.mean(), abs=1e-5)


def test_many_labels_are_learned_scored_and_answered(make_classifier, make_rows):
    texts = ["good film", "war", "good war", "film"]
    rows = make_rows(texts, [[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], ["praise", "war", "joke"])
    model = make_classifier(labels=rows.labels, multi_label=True)
    model.compile(adamw(2e-2))
    model.fit(model.dataset(rows, batch_size=4), epochs=40, verbose=0)
    scores = model.evaluate(model.dataset(rows), verbose=0)
    assert scores["exact_match"] == scores["micro_f1"] == 1.0
    assert [answer["labels"] for answer in model.answer(texts)] == [["praise"], ["war"], ["praise", "war"], []]


def test_pairs_are_told_apart_by_their_order(make_classifier, make_rows):
    pairs = [("a film", "a war"), ("a war", "a film"), ("the end", "a joke"), ("a joke", "the end")]
    rows = make_rows([a for a, _ in pairs], [0, 1, 0, 1], ["no", "yes"], [b for _, b in pairs])
    model = make_classifier(labels=rows.labels, pair=True)
    assert model.serving_inputs == ("text", "pair")
    model.compile(adamw(2e-2))
    data = model.dataset(rows, batch_size=4)
    segments = next(iter(data.batches()))["segment_ids"].numpy()
    assert set(segments.ravel()) == {0, 1}
    model.fit(data, epochs=40, verbose=0)
    assert [answer["label"] for answer in model.answer(pairs)] == ["no", "yes", "no", "yes"]


def test_bfloat16_trains_and_answers_in_float32(make_classifier, make_rows):
    rows = make_rows(TOYS, [i % 2 for i in range(len(TOYS))], ["bad", "good"])
    model = make_classifier(dtype="mixed_bfloat16")
    model.compile(adamw(1e-2))
    model.fit(model.dataset(rows, batch_size=4, shuffle=True, fixed_length=True), epochs=8, verbose=0)
    assert {v.dtype for v in model.variables} == {"float32"}
    exact = make_classifier()
    for own, other in zip(exact.variables, model.variables, strict=True):
        own.assign(other)
    expected = logits_of(exact, TOYS)
    assert model(model.features(TOYS)).dtype == "float32"
    for answer, logits in zip(model.answer(TOYS), expected, strict=True):
        np.testing.assert_allclose(list(answer["probabilities"].values()), np.exp(log_softmax(logits)), atol=1e-5)


# Files


def test_a_saved_classifier_comes_back_the_same(trained, tmp_path):
    model, _, rows = trained
    model.save(tmp_path)
    loaded = aillm_tf.load(tmp_path, dtype="float32")
    assert loaded.answer(TOYS) == model.answer(TOYS)
    assert (loaded.labels, loaded.max_length, loaded.config) == (model.labels, model.max_length, model.config)
    assert loaded.options() == model.options()
    assert loss_of(loaded, rows) == loss_of(model, rows)


def test_options_of_a_saved_classifier_can_be_changed(trained, tmp_path):
    trained[0].save(tmp_path)
    loaded = TextClassifier.from_pretrained(str(tmp_path), dropout=0.3, max_length=8, dtype="float32")
    assert (loaded.config.dropout, loaded.max_length) == (0.3, 8)
    assert loaded.answer(TOYS) == trained[0].answer(TOYS)


@pytest.mark.parametrize("kind", [list, tuple])
def test_the_same_labels_keep_the_head(kind, trained, tmp_path):
    trained[0].save(tmp_path)
    loaded = TextClassifier.from_pretrained(str(tmp_path), labels=kind(["bad", "good"]), dtype="float32")
    np.testing.assert_array_equal(loaded.classifier.kernel.numpy(), trained[0].classifier.kernel.numpy())


@pytest.mark.parametrize("labels", [["good", "bad"], ["a", "b", "c"]])
def test_other_labels_start_a_new_head_on_the_same_backbone(labels, trained, tmp_path):
    model = trained[0]
    model.save(tmp_path)
    loaded = TextClassifier.from_pretrained(str(tmp_path), labels=labels, dtype="float32")
    assert loaded.labels == labels
    np.testing.assert_array_equal(loaded.backbone.embeddings.token.numpy(), model.backbone.embeddings.token.numpy())
    np.testing.assert_array_equal(loaded.pooler.kernel.numpy(), model.pooler.kernel.numpy())
    assert np.abs(loaded.classifier.kernel.numpy()[:, :2] - model.classifier.kernel.numpy()).max() > 0.01


def test_a_classifier_takes_the_backbone_of_a_masked_lm(make_masked_lm, tmp_path):
    pretrained = make_masked_lm(seed=3)
    pretrained.save(tmp_path)
    model = TextClassifier.from_pretrained(
        str(tmp_path), labels=["bad", "good"], max_length=16, dtype="float32", seed=4
    )
    for own, other in zip(model.backbone.variables, pretrained.backbone.variables, strict=True):
        np.testing.assert_array_equal(own.numpy(), other.numpy(), err_msg=own.path)
    assert model.tokenizer.fingerprint == pretrained.tokenizer.fingerprint


def test_a_folder_without_a_task_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no task\.json"):
        aillm_tf.load(tmp_path)


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["one"]}, "two or more different labels"),
        ({"labels": ["a", "a"]}, "two or more different labels"),
        ({"class_weights": [1.0]}, r"class weights \[1.0\] for \['bad', 'good'\]: give one for each"),
        ({"pooler_activation": "swish"}, "pooler_activation is one of tanh, relu, gelu, not 'swish'"),
        ({"label_smoothing": 1.0}, r"label_smoothing is a share in \[0, 1\), not 1.0"),
        ({"max_length": 65}, "max_length 65 is more than the model's 64 positions"),
        ({"vocab_size": 50}, "the tokenizer has [0-9]+ tokens, the model only 50"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_options_that_make_no_sense_are_refused(options, message, make_classifier):
    with pytest.raises(ValueError, match=message):
        make_classifier(**options)


def test_rows_with_other_labels_are_refused(make_classifier, make_rows):
    with pytest.raises(ValueError, match=r"the rows have the labels \['good', 'bad'\], the model \['bad', 'good'\]"):
        make_classifier().dataset(make_rows(["fine"], [0], ["good", "bad"]))


def test_fit_before_compile_is_refused(make_classifier, rows):
    model = make_classifier()
    with pytest.raises(RuntimeError, match="call compile"):
        model.fit(model.dataset(rows))


def test_fit_takes_a_dataset_only(make_classifier):
    model = make_classifier()
    model.compile(adamw(1e-3))
    with pytest.raises(TypeError, match="fit takes a Dataset.*not list"):
        model.fit([["a film"], [0]])


def test_an_optimizer_that_reduces_by_itself_is_refused(make_classifier):
    with pytest.raises(TypeError, match=r"compile with aillm_tf\.adamw.*not AdamW"):
        make_classifier().compile(keras.optimizers.AdamW(1e-3))


def test_a_loss_that_is_not_finite_names_its_step(make_classifier, rows):
    model = make_classifier()
    model.compile(adamw(1e-3))
    model.classifier.bias.assign([np.nan, 0.0])
    with pytest.raises(FloatingPointError, match=r"not finite at step 1\..*classifier/bias"):
        model.fit(model.dataset(rows, fixed_length=True), verbose=0)
