"""Translation and Summarization: what was learned is written, scored by the field's metrics, and exported."""

import json
from pathlib import Path

import numpy as np
import pytest

import aillm_tf
from aillm_tf.cli import main
from aillm_tf.export.saved_model import fresh_process
from aillm_tf.metrics.summaries import summary_scores
from aillm_tf.metrics.translation import translation_scores
from aillm_tf.tasks.summarization import Summarization
from aillm_tf.tasks.translation import Translation
from aillm_tf.text.tokenizer import Tokenizer
from aillm_tf.training.optimizer import adamw

SIDES = (("source", "en"), ("target", "de"))
TOKENIZERS = Path(__file__).parents[1] / "golden" / "tokenizers"


@pytest.fixture(scope="module")
def translator(make_toy, toy_pairs):
    """Trained until it translates the toy."""
    model = make_toy(Translation, label_smoothing=0.1)
    model.compile(adamw(5e-3, steps=250, warmup=25))
    model.fit(model.dataset(toy_pairs(200), batch_size=50, shuffle=True, fixed_length=True), steps=250, verbose=0)
    return model


def test_what_was_learned_is_written(translator):
    answers = translator.answer(["one two three", "six"])
    assert [answer["text"] for answer in answers] == ["drei zwei eins", "sechs"]
    assert all(-1.0 < answer["score"] < 0.0 for answer in answers)


def test_evaluation_scores_what_is_written_when_asked_to(translator, toy_pairs):
    rows = toy_pairs(20, seed=1)
    plain = translator.evaluate(translator.dataset(rows), verbose=0)
    assert set(plain) == {"loss", "perplexity", "accuracy"}
    scores = translator.evaluate(translator.dataset(rows, decode=12), verbose=0)
    written = translator.write(rows.sources[:12], verbose=0)
    expected = translation_scores(written, rows.references[:12]).scores
    assert scores == pytest.approx({**plain, **expected})
    assert scores["chrf"] > 90


def test_texts_are_written_in_the_order_of_sources(translator, toy_pairs):
    sources = toy_pairs(9, seed=2).sources
    expected = [answer["text"] for answer in translator.answer(sources)]
    assert translator.write(sources, batch_size=4, verbose=0) == expected


def test_a_summarizer_is_scored_by_rouge(make_toy, toy_pairs):
    model, rows = make_toy(Summarization, max_target_length=6), toy_pairs(5)
    scores = model.evaluate(model.dataset(rows, decode=None), verbose=0)
    written = model.write(rows.sources, verbose=0)
    assert scores == pytest.approx({**scores, **summary_scores(written, rows.references)})


def test_languages_of_a_model_of_many(toy_pairs):
    """mBART: the source ends with its language, the target too, and the decoder begins with it."""
    tokenizer = Tokenizer.from_folder(TOKENIZERS / "mbart")
    shape = {"hidden_size": 8, "layers": 1, "decoder_layers": 1, "heads": 1, "ffn_size": 8}
    config = aillm_tf.TransformerConfig(vocab_size=tokenizer.vocab_size, max_length=16, **shape)
    languages = {"source_language": "en_XX", "target_language": "ro_RO"}
    model = Translation(config, tokenizer, max_length=16, max_target_length=16, **languages)
    english, romanian = (tokenizer.vocabulary.index(code) for code in languages.values())
    batch = next(iter(model.dataset(toy_pairs(1), batch_size=1).batches()))
    assert batch["token_ids"].numpy()[0, -1] == english
    assert batch["target_ids"].numpy()[0, 0] == batch["targets"].numpy()[0, -1] == model.start_id == romanian
    assert model.options() == model.options() | languages


@pytest.mark.slow
def test_an_exported_translator_searches_with_beams_from_strings_to_strings(translator, tmp_path):
    texts = ["one two three", "six", "", "five five"]
    translator.generation = translator.generation.replace(num_beams=4)
    facts = translator.export(tmp_path / "1", check_texts=texts)
    assert facts["checked"] == 4
    found = fresh_process(tmp_path / "1", {"serving_default": {"text": texts}})["answers"]["serving_default"]
    expected = translator.answer(texts)
    assert found["text"] == [answer["text"] for answer in expected]
    np.testing.assert_allclose(found["score"], [answer["score"] for answer in expected], atol=1e-4)
    translator.generation = translator.generation.replace(num_beams=1)


@pytest.mark.slow
def test_an_exported_summarizer_with_two_vocabularies_and_a_prefix(make_toy, tmp_path):
    model = make_toy(Summarization, joint=False, prefix="six ", max_target_length=6)
    texts = ["one two three", ""]
    model.export(tmp_path / "1", check_texts=texts)
    found = fresh_process(tmp_path / "1", {"serving_default": {"text": texts}})["answers"]["serving_default"]
    assert found["text"] == [answer["text"] for answer in model.answer(texts)]


# Recipes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(toy_pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for name, rows in (("train", toy_pairs(40)), ("test", toy_pairs(8, seed=1))):
        lines = [json.dumps({"en": s, "de": t[0]}) for s, t in zip(rows.sources, rows.references, strict=True)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        for side, texts in zip(("en", "de"), rows.pairs(), strict=True):
            (folder / f"{name}.{side}").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return folder


def run_recipe(name, folder, *options):
    out = folder / f"run-{name}"
    training = (
        "--training.steps 4 --training.tokens_per_batch 256 --training.checkpoint_every 2 --training.dtype float32"
    )
    shape = "--model.vocab_size 300 --model.max_length 16 --model.max_target_length 12 --decoding.num_beams 2"
    main(
        [
            "train",
            name,
            *training.split(),
            *shape.split(),
            "--training.fixed_length",
            "true",
            "--out",
            str(out),
            *options,
        ]
    )
    written = [json.loads(line) for line in (out / "written.jsonl").read_text(encoding="utf-8").splitlines()]
    return json.loads((out / "report.json").read_text(encoding="utf-8")), written, aillm_tf.load(out / "model")


TINY = ["--model.preset", "t5-tiny", "--model.dropout", "0"]


@pytest.mark.slow
def test_the_translation_recipe_from_two_files_with_two_vocabularies(files):
    data = [f"--data.{part}.{side}={files}/{part}.{end}" for part in ("train", "test") for side, end in SIDES]
    options = ["--average", "2", "--model.joint", "false", "--data.max_ratio", "5", *TINY]
    report, written, model = run_recipe("translation", files, *data, *options)
    assert report["averaged_steps"] == [2, 4]
    assert set(report["scores"]) == {"loss", "perplexity", "accuracy", "bleu", "chrf", "ter"}
    assert report["signatures"]["bleu"].startswith("nrefs:1|case:mixed")
    assert report["data"]["train"] == 40
    assert [row["written"] for row in written] == model.write([row["source"] for row in written], verbose=0)
    assert model.generation.num_beams == 2


@pytest.mark.slow
def test_the_summarization_recipe_shows_the_lead_beside_the_model(files, capsys):
    data = [
        f"--data.train={files}/train.jsonl",
        f"--data.test={files}/test.jsonl",
        "--data.source=en",
        "--data.target=de",
    ]
    report, written, _ = run_recipe("summarization", files, *data, "--data.validation_rows", "5", *TINY)
    table = report["tables"]["ROUGE"]
    assert [row["of"] for row in table] == ["the model", "the first sentence"]
    assert table[1]["rougeL"] == report["lead"]["rougeL"] == 0.0
    assert report["data"]["validation"] == 5
    assert "of: the first sentence" in capsys.readouterr().out
    assert len(written) == 8
