"""The options that all recipes share, through the `fit` that all of them call."""

import pytest

from aillm_tf.config import parse
from aillm_tf.data.squad import read_squad
from aillm_tf.models.presets import preset
from aillm_tf.tasks.causal_lm import CausalLM
from aillm_tf.tasks.question_answering import QuestionAnswering
from aillm_tf.tasks.tagging import TokenClassifier
from aillm_tf.training.loop import stopped_before
from aillm_tf.training.options import Training, batches, fit
from aillm_tf.training.run import Run

TAGGED = "a B-X\nfine O\nfilm B-Y\n\nwar O\nand B-X\nwit I-X\n"
QUESTIONS = (
    '{"data": [{"title": "", "paragraphs": [{"context": "a film about the end of a war", "qas": ['
    '{"id": "1", "question": "what ?", "answers": [{"text": "war", "answer_start": 26}], "is_impossible": false}]}]}]}'
)


def trained(task, rows, folder, best, **options):
    """What `fit` gives, where nothing can get better: the learning rate is 0."""
    options = Training(**{"epochs": 6, "batch_size": 20, "learning_rate": 0.0, "fixed_length": True, **options})
    with Run(folder, options) as run:
        return fit(task, batches(task, rows, options), options, run, validation=task.dataset(rows), best=best)


def classifier(make_classifier, rows, **_):
    return make_classifier(), rows, "accuracy"


def tagger(config, tokenizer, folder, **_):
    (folder / "rows.conll").write_text(TAGGED, "utf-8")
    labels = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    task = TokenClassifier(config, tokenizer, labels=labels, max_length=16, dtype="float32")
    return task, str(folder / "rows.conll"), "f1"


def answerer(config, tokenizer, folder, **_):
    (folder / "questions.json").write_text(QUESTIONS, "utf-8")
    task = QuestionAnswering(config, tokenizer, max_length=24, dtype="float32", unanswerable=False)
    return task, read_squad(folder / "questions.json"), "f1"


def language_model(make_masked_lm, reviews, **_):
    return make_masked_lm(), [text for text, _ in reviews], "-loss"


@pytest.mark.slow
@pytest.mark.parametrize("make", [classifier, tagger, answerer, language_model])
def test_patience_counts_validations_by_the_metric_of_the_task(make, request, tmp_path):
    names = ("config", "tokenizer", "rows", "reviews", "make_classifier", "make_masked_lm")
    task, rows, best = make(folder=tmp_path, **{name: request.getfixturevalue(name) for name in names})
    history = trained(task, rows, tmp_path / "run", best, patience=2).history
    assert len(history[f"val_{best.removeprefix('-')}"]) == 3


def test_parts_to_freeze_may_be_one_number():
    assert parse(Training, ["--freeze", "3"]).freeze == "3"
    assert parse(Training, ["--freeze", "embeddings,0-3"]).freeze == "embeddings,0-3"


def test_lora_wants_pretrained_weights_and_freezes_enough(make_classifier, rows, tmp_path):
    with pytest.raises(ValueError, match="training.lora_rank adapts pretrained weights: give model.init"):
        trained(make_classifier(), rows, tmp_path / "a", "accuracy", lora_rank=2)
    with pytest.raises(ValueError, match="leave training.freeze out"):
        trained(make_classifier(), rows, tmp_path / "b", "accuracy", lora_rank=2, freeze="embeddings")


def test_the_options_reach_the_task(make_classifier, rows, tmp_path, capsys):
    task = make_classifier()
    task.source = "somewhere"
    with pytest.raises(RuntimeError), stopped_before(RuntimeError):
        trained(task, rows, tmp_path, "accuracy", lora_rank=3, lora_projections="out, down", adversarial=0.5)
    layer = task.backbone.encoder.blocks[0].ffn.down.lora
    assert (layer.rank, layer.alpha, list(layer.columns)) == (3, 16.0, ["down"])
    assert task.adversarial == 0.5
    assert "trained: " in capsys.readouterr().out


def test_remat_reaches_the_blocks_and_is_refused_where_there_are_none(make_classifier, rows, tokenizer, tmp_path):
    task = make_classifier()
    trained(task, rows, tmp_path / "a", "accuracy", remat=True, epochs=1)
    assert task.backbone.encoder.config.remat
    assert not task.config.remat  # how it was trained is not what it is
    model = CausalLM(preset("lstm-tiny", tokenizer.vocab_size), tokenizer, max_length=16, dtype="float32")
    with pytest.raises(ValueError, match="training.remat recomputes Transformer blocks"):
        fit(model, model.dataset(["a film"]), Training(remat=True), None)


def test_the_report_says_which_step_was_restored(make_classifier, rows, tmp_path):
    options = Training(epochs=2, batch_size=20, learning_rate=0.0, fixed_length=True, restore_best=True)
    task = make_classifier()
    data = batches(task, rows, options)
    with Run(tmp_path, options) as run:
        fit(task, data, options, run, validation=task.dataset(rows), best="accuracy")
        assert run.report({})["restored_step"] == data.steps_per_epoch  # of equals the first
