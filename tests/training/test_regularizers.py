"""R-Drop and adversarial training against their formulas, and on one curve with plain training."""

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.data.squad import read_squad
from aillm_tf.tasks.classification import TextClassifier
from aillm_tf.tasks.question_answering import QuestionAnswering
from aillm_tf.tasks.tagging import TokenClassifier
from aillm_tf.training.optimizer import adamw
from aillm_tf.training.regularizers import adversarial_gradients, r_drop
from aillm_tf.training.step import make_train_function
from aillm_tf.training.strategy import strategy

SEED = [3, 5]


@pytest.fixture(scope="module")
def batches(config, tokenizer, make_rows, reviews, tmp_path_factory):
    """name -> a task with dropout, and a batch of it."""
    texts, labels = zip(*reviews[:6], strict=True)
    options = {"max_length": 24, "dtype": "float32"}
    shape = config.replace(dropout=0.3, attention_dropout=0.3)

    def classifier(**more):
        return TextClassifier(shape, tokenizer, labels=["a", "b"], **options, **more)

    folder = tmp_path_factory.mktemp("rows")
    tagged = folder / "rows.conll"
    tagged.write_text("a B-X\nfine O\nfilm B-Y\n\nwar O\nand B-X\nwit I-X\n", "utf-8")
    questions = folder / "questions.json"
    questions.write_text(
        '{"data": [{"title": "", "paragraphs": [{"context": "a film about the end of a war", "qas": ['
        '{"id": "1", "question": "what ?", "answers": [{"text": "war", "answer_start": 26}], "is_impossible": false},'
        '{"id": "2", "question": "who ?", "answers": [], "is_impossible": true}]}]}]}',
        "utf-8",
    )
    many = np.array([[1, 0], [1, 1], [0, 0], [0, 1], [1, 0], [0, 1]])
    made = {
        "labels": (classifier(class_weights=[0.5, 2.0]), make_rows(list(texts), labels, ["a", "b"])),
        "several labels": (classifier(multi_label=True), make_rows(list(texts), many, ["a", "b"])),
        "tags": (
            TokenClassifier(shape, tokenizer, labels=["O", "B-X", "I-X", "B-Y", "I-Y"], **options),
            str(tagged),
        ),
        "answers": (QuestionAnswering(shape, tokenizer, **options), read_squad(questions)),
    }
    return {
        # rows of weight 0 fill the batch
        name: (task, next(iter(task.dataset(rows, batch_size=8).batches())))
        for name, (task, rows) in made.items()
    }


NAMES = ["labels", "several labels", "tags", "answers"]


@pytest.mark.parametrize("name", NAMES)
def test_without_dropout_r_drop_is_the_plain_loss(name, batches):
    task, batch = batches[name]
    np.testing.assert_allclose(r_drop(task, 5.0)(batch), task.loss_terms(batch), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_r_drop_adds_the_divergence_of_two_passes(name, batches):
    """The loss of one pass each, and the divergence in float64 from the logits."""
    task, batch = batches[name]
    seed = tf.constant(SEED)
    twice = {name: tf.concat([x, x], 0) for name, x in batch.items()}
    logits = task.logits(twice, seed).numpy()
    one, other = np.split(logits.astype("float64"), 2)
    assert np.abs(one - other).max() > 0.01

    def probabilities(logits):
        if name == "several labels":
            p = 1 / (1 + np.exp(-logits))
            return np.stack([p, 1 - p], -1)
        if name == "answers":
            logits = np.where(batch["valid"].numpy()[..., None], logits, -1e9).swapaxes(1, 2)
        e = np.exp(logits - logits.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    p, q = probabilities(one), probabilities(other)
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = np.nansum(p * np.log(p / q) + q * np.log(q / p), -1)
    weights = {
        "labels": lambda: np.array([0.5, 2.0])[batch["label"].numpy()] * batch["weight"].numpy(),
        "several labels": lambda: np.repeat(batch["weight"].numpy()[:, None] / 2, 2, 1),
        "tags": lambda: (batch["targets"].numpy() > 0) * batch["weight"].numpy()[:, None],
        "answers": lambda: np.repeat((batch["weight"] * batch["learned"]).numpy()[:, None] / 2, 2, 1),
    }[name]()
    plain = [float(task.terms(tf.constant(part, tf.float32), batch)[0]) for part in (one, other)]
    expected = (sum(plain) + 3.0 * (divergence * weights).sum()) / 2
    total, weight = r_drop(task, 3.0)(batch, seed)
    assert float(total) == pytest.approx(expected, rel=1e-4)
    assert float(weight) == pytest.approx(float(task.loss_terms(batch)[1]))


def test_adversarial_training_moves_the_embeddings_of_every_row_along_its_gradient(make_classifier, make_rows):
    """Where no token comes twice, moving embeddings is moving rows of the token table."""
    model = make_classifier()
    words = [" ".join(row) for row in (("war", "film"), ("story", "end", "cast"))]
    data = model.dataset(make_rows(words, [0, 1], ["bad", "good"]), batch_size=1)
    rows = list(data.batches())
    both = {key: tf.concat([row[key] for row in rows], 0) for key in rows[0]}
    variables = [v.value for v in model.trainable_variables]
    table = model.backbone.embeddings.token

    def gradients_of(loss_terms, batch, key, sources=()):
        with tf.GradientTape() as tape:
            tape.watch(sources)
            total, weight = loss_terms(batch, seed=key)
        found = tape.gradient(total, [*variables, *sources], unconnected_gradients="zero")
        return [tf.convert_to_tensor(g) for g in found], total, weight

    found, total, weight = adversarial_gradients(gradients_of, model, 0.7)(model.loss_terms, both, None)
    assert float(weight) == 2.0
    expected, sums = 0.0, [np.zeros(v.shape) for v in variables]
    before = table.numpy()
    for row in rows:
        plain, loss, _ = gradients_of(model.loss_terms, row, None)
        slope = plain[[v is table.value for v in variables].index(True)].numpy()
        tokens = row["token_ids"].numpy()[row["valid"].numpy() > 0].tolist()
        assert len(set(tokens)) == len(tokens)
        table.assign(before + 0.7 * slope / np.linalg.norm(slope))
        moved, harder, _ = gradients_of(model.loss_terms, row, None)
        table.assign(before)
        assert float(harder) > float(loss) + 1e-3
        expected += 0.5 * float(loss + harder)
        sums = [s + 0.5 * (a.numpy() + b.numpy()) for s, a, b in zip(sums, plain, moved, strict=True)]
    assert float(total) == pytest.approx(expected, rel=1e-5)
    for gradient, wanted in zip(found, sums, strict=True):
        np.testing.assert_allclose(gradient.numpy(), wanted, atol=1e-5)


def losses(make, rows, scope=None, compile=(), fused=False):
    """The losses of four steps, of batches of 6."""
    with (scope or strategy("one")).scope():
        model = make()
    model.compile(adamw(5e-3, steps=20), **dict(compile))
    model.fuse_on_cpu = fused
    data = model.dataset(rows, batch_size=6, shuffle=True, fixed_length=True)
    iterator = iter(data.distribute(model.strategy, 0, 4, model.accumulate))
    found = make_train_function(model)(iterator, tf.constant(4))
    return (found["loss"] / found["weight"]).numpy()


@pytest.mark.slow
def test_an_epsilon_of_zero_is_plain_training(make_classifier, rows):
    plain = losses(make_classifier, rows)
    np.testing.assert_allclose(losses(make_classifier, rows, compile={"adversarial": 0.0}), plain, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("option", [{"r_drop": 1.0}, {"adversarial": 0.5}], ids=str)
def test_the_curve_is_the_same_on_two_replicas_and_with_micro_batches(option, make_classifier, rows, two_replicas):
    one = losses(make_classifier, rows, compile=option)
    for scope, more in ((two_replicas, {}), (None, {"accumulate": 3}), (two_replicas, {"accumulate": 3})):
        np.testing.assert_allclose(losses(make_classifier, rows, scope, {**option, **more}), one, atol=1e-5)


@pytest.mark.slow
def test_fused_programs_give_the_same_curve(make_classifier, rows):
    one, other = (losses(make_classifier, rows, compile={"adversarial": 0.5}, fused=fused) for fused in (True, False))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_what_cannot_be_is_refused(make_classifier, make_masked_lm, config, tokenizer):
    with pytest.raises(ValueError, match="training.r_drop is for classification, tagging and question answering"):
        make_masked_lm().compile(adamw(1e-3), r_drop=1.0)
    with pytest.raises(ValueError, match="give one of them"):
        make_classifier().compile(adamw(1e-3), r_drop=1.0, adversarial=1.0)
    tagger = TokenClassifier(config, tokenizer, labels=["O", "B-X", "I-X"], crf=True, dtype="float32", max_length=16)
    with pytest.raises(ValueError, match="a CRF scores whole sentences"):
        tagger.compile(adamw(1e-3), r_drop=1.0)
