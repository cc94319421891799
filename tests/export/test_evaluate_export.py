"""An export is scored as the task that it was made of."""

import json

import pytest

from aillm_tf.export import reload, saved_model
from aillm_tf.export.evaluate import evaluate_export
from aillm_tf.training.evaluate import evaluate

ENCODER = {"hidden_size": 16, "layers": 1, "heads": 2, "ffn_size": 32, "segments": 2, "initializer_range": 0.5}


def encoder(kind, texts, **options):
    import aillm_tf as ai

    tokenizer = ai.train_tokenizer(texts, vocab_size=150)
    config = ai.TransformerConfig(vocab_size=tokenizer.vocab_size, **ENCODER)
    return getattr(ai, kind)(config, tokenizer, dtype="float32", **options)


def classifier(folder):
    texts = ["a good film", "a bad film", "what a mess", "good", "so bad it is good"] * 6
    lines = [f"{text}\t{('no', 'perhaps', 'yes')[i % 3]}" for i, text in enumerate(texts)]
    (folder / "rows.tsv").write_text("words\tsentiment\n" + "\n".join(lines) + "\n")
    task = encoder("TextClassifier", texts, labels=["no", "perhaps", "yes"], max_length=16)
    return task, folder / "rows.tsv", {"text": "words", "label": "sentiment"}


def tagger(folder):
    sentences = ["Anna B-PER\nlives O\nin O\nNew B-LOC\nYork I-LOC\n", "Rome B-LOC\nis O\nold O\n"] * 4
    (folder / "rows.conll").write_text("\n".join(sentences))
    task = encoder("TokenClassifier", ["Anna lives in New York", "Rome is old"] * 3, max_length=8, labels=[
        "O", "B-LOC", "I-LOC", "B-PER", "I-PER",
    ])  # fmt: skip
    return task, folder / "rows.conll", {}


def reader(folder, **options):
    context = "Rollo led the Norse to Rouen in 911"
    asked = [("who led", "Rollo"), ("what", context), ("why", None), ("when", "911")] * 4
    asked = [pair for pair in asked if pair[1] or options.get("unanswerable", True)]
    questions = []
    for number, (question, answer) in enumerate(asked):
        answers = [] if answer is None else [{"text": answer, "answer_start": context.index(answer)}]
        given = {"question": question, "answers": answers, "is_impossible": not answers}
        questions.append({"id": str(number), **given})
    content = {"data": [{"title": "", "paragraphs": [{"context": context, "qas": questions}]}]}
    (folder / "rows.json").write_text(json.dumps(content))
    texts = [context, "who led", "what", "why", "when"] * 2
    task = encoder("QuestionAnswering", texts, max_length=32, stride=4, **options)
    return task, folder / "rows.json", {}


def reader_of_characters(folder):  # by the option of the model, whatever the contexts look like
    return reader(folder, scoring="cmrc")


def reader_that_always_answers(folder):
    return reader(folder, unanswerable=False)


def translator(folder):
    import aillm_tf as ai

    words = dict(zip("one two three four".split(), "eins zwei drei vier".split(), strict=True))
    lines = [json.dumps({"en": f"{a} {b}", "de": [f"{words[b]} {words[a]}"]}) for a in words for b in words]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    tokenizer = ai.train_tokenizer([*words, *words.values()] * 2, "bpe", 300, use="seq2seq")
    shape = {name: value for name, value in ENCODER.items() if name != "segments"}
    config = ai.TransformerConfig(vocab_size=tokenizer.vocab_size, decoder_layers=1, **shape)
    task = ai.Translation(config, tokenizer, max_length=8, max_target_length=4, dtype="float32")
    return task, folder / "rows.jsonl", {"source": "en", "target": "de"}


KINDS = [classifier, tagger, reader, reader_of_characters, reader_that_always_answers, translator]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_export_scores_as_its_task(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(saved_model, "fresh_process", reload.report)  # without seconds of importing
    task, file, reading = kind(tmp_path)
    data = "".join(f"  {name}: {value}\n" for name, value in reading.items())
    (tmp_path / "config.yaml").write_text(f"data:\n{data}" if data else "seed: 0\n")
    task.export(tmp_path / "export" / "1")
    found = evaluate_export(tmp_path / "export" / "1", str(file), batch_size=3, progress=False)
    expected = evaluate(task, str(file), reading, batch_size=3, progress=False)
    assert found.task == expected.task == type(task).__name__
    assert found.scores == pytest.approx({name: expected.scores[name] for name in found.scores})
    (tally,) = found.tallies
    assert tally.score() == pytest.approx({name: found.scores[name] for name in tally.score()})
    assert list(tally.keys) == list(expected.tallies[-1].keys)


@pytest.mark.parametrize(
    ("facts", "message"),
    [({}, "export the model again"), ({"scoring": "squad", "unanswerable": False}, "the model always answers")],
)
def test_questions_that_an_export_cannot_be_scored_on_are_refused(facts, message, tmp_path):
    from aillm_tf.data.squad import read_squad
    from aillm_tf.export.evaluate import _questions

    _, file, _ = reader(tmp_path)
    with pytest.raises(ValueError, match=message):
        _questions(None, facts, read_squad(file))


def test_tags_of_another_scheme_are_scored_as_iob2(tmp_path):
    from aillm_tf.data.conll import tagged
    from aillm_tf.export.evaluate import _tagger

    _, file, _ = tagger(tmp_path)
    answers = [tags.split() for tags in (b"S-PER O O B-LOC E-LOC", b"S-LOC O O")] * 4
    labels = ["O", *(f"{prefix}-{kind}" for kind in ("LOC", "PER") for prefix in "BIES")]
    scores, tally = _tagger(lambda *_, **__: {"tags": answers}, {"labels": labels}, tagged(file))
    assert scores["f1"] == scores["strict_f1"] == scores["token_accuracy"] == 1.0
    assert tally.score()["strict_f1"] == 1.0


def test_what_is_no_export_of_a_task_with_scores_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no serving/model\.json"):
        evaluate_export(tmp_path, "rows.tsv")
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "model.json").write_text(json.dumps({"name": "masked_l_m", "inputs": ["text"]}))
    with pytest.raises(ValueError, match="whose answers have no score"):
        evaluate_export(tmp_path, "rows.tsv")
