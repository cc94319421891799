"""CausalLM: one loss a token whatever the layout of rows, exact scores, and an LSTM in the place of the Transformer."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import aillm_tf
from aillm_tf.data.next_tokens import documents
from aillm_tf.tasks.causal_lm import CausalLM

GOLDEN = Path(__file__).parents[1] / "golden"
TEXTS = [
    "one two three four",
    "two three",
    "three four five six seven one two",
    "six",
    "four five six seven one",
    "seven one two three four five six seven one two three",
]
GPT = {"hidden_size": 16, "layers": 2, "heads": 2, "ffn_size": 32, "norm_placement": "pre", "embedding_norm": False}
SHAPES = {
    "learned": {**GPT},
    "rotary": {**GPT, "position": "rotary", "kv_heads": 1},
    "lstm": {"hidden_size": 16, "layers": 2, "heads": 1, "ffn_size": 16, "cell": "lstm", "position": "none"},
}


@pytest.fixture(scope="module")
def tokenizer():
    return aillm_tf.train_tokenizer(TEXTS, "bpe", 300, use="decoder")


def make(tokenizer, shape: str = "learned", **options) -> CausalLM:
    fields = {"max_length": 32, "dropout": 0.0, "attention_dropout": 0.0, "initializer_range": 0.3, **SHAPES[shape]}
    config = aillm_tf.TransformerConfig(vocab_size=tokenizer.vocab_size, **fields)
    return CausalLM(config, tokenizer, **{"max_length": 24, "dtype": "float32", **options})


@pytest.fixture(scope="module")
def model(tokenizer):
    return make(tokenizer)


def log_probabilities(model, ids) -> np.ndarray:
    """Of every token of a row after the first."""
    logits = np.asarray(model.logits({"token_ids": tf.constant(ids[None])}), np.float64)[0]
    logits -= logits.max(-1, keepdims=True)
    each = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return each[np.arange(len(ids) - 1), ids[1:]]


def rows_of(tokenizer) -> list[np.ndarray]:
    """The tokens of every text, as the task reads it."""
    ids, offsets, _ = documents(tokenizer, TEXTS)
    return np.split(ids, offsets[1:-1])


def by_hand(model) -> np.ndarray:
    return np.concatenate([log_probabilities(model, ids) for ids in rows_of(model.tokenizer)])


def test_the_loss_is_that_of_every_token_after_the_first(model):
    expected = by_hand(model)
    scores = model.evaluate(model.dataset(TEXTS, batch_size=4), verbose=0)
    assert scores["loss"] == pytest.approx(-expected.mean(), abs=1e-5)
    assert scores["perplexity"] == pytest.approx(np.exp(-expected.mean()), rel=1e-5)


def test_bits_per_byte_count_the_bytes_of_the_texts(model):
    expected = -by_hand(model).sum() / np.log(2) / sum(len(text.encode()) for text in TEXTS)
    assert model.evaluate(model.dataset(TEXTS), verbose=0)["bits_per_byte"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_packed_rows_have_the_loss_of_single_ones(tokenizer, shape):
    model = make(tokenizer, shape)
    alone = model.evaluate(model.dataset(TEXTS), verbose=0)
    together = model.dataset(TEXTS, layout="packed")
    assert len(together) < len(TEXTS)
    assert model.evaluate(together, verbose=0)["loss"] == pytest.approx(alone["loss"], abs=1e-5)


def test_training_and_evaluation_have_one_loss(model):
    batch = next(iter(model.dataset(TEXTS, layout="packed").batches()))
    total, weight = model.loss_terms(batch)
    sums, _ = model.evaluation(batch)
    assert float(total) == pytest.approx(float(sums["loss"]), rel=1e-5)
    assert float(weight) == float(sums["weight"])


def test_overlapping_windows_score_every_token_once_with_more_context(tokenizer):
    model = make(tokenizer, max_length=6)
    cut = model.evaluate(model.dataset(TEXTS), return_rows=True, verbose=0)[1]["log_probabilities"]
    slid = model.evaluate(model.dataset(TEXTS, stride=1), return_rows=True, verbose=0)[1]["log_probabilities"]
    targets = sum(len(ids) - 1 for ids in rows_of(tokenizer))
    assert np.isfinite(cut).sum() == np.isfinite(slid).sum() == targets
    whole = make(tokenizer, max_length=24)
    for mine, theirs in zip(whole.variables, model.variables, strict=True):
        mine.assign(theirs)
    # with a stride of 1, the last token is guessed from the six before it
    last = log_probabilities(whole, rows_of(tokenizer)[-1][-7:])[-1]
    assert slid[-1][np.isfinite(slid[-1])][-1] == pytest.approx(last, abs=1e-5)


def test_a_prefix_is_seen_in_both_directions_and_not_learned(tokenizer):
    model = make(tokenizer, prefix_lm=True)
    batch = next(iter(model.dataset(TEXTS, seed=1).batches()))
    prefix, weights = batch["prefix"].numpy(), np.asarray(model.targets(batch)[1])
    row = int(np.argmax(prefix.sum(-1)))
    count = prefix[row].sum()
    assert count >= 2 and weights[row, : count - 1].sum() == 0 and weights[row, count - 1] == 1
    changed = {name: value.numpy() for name, value in batch.items()}
    changed["token_ids"] = changed["token_ids"].copy()
    changed["token_ids"][row, count - 1] = (changed["token_ids"][row, count - 1] + 1) % tokenizer.vocab_size
    before, after = (np.asarray(model.logits(features))[row] for features in (batch, changed))
    assert np.abs(before[0] - after[0]).max() > 1e-4, "the first token does not see the end of the prefix"
    changed["token_ids"] = batch["token_ids"].numpy().copy()
    changed["token_ids"][row, count] = (changed["token_ids"][row, count] + 1) % tokenizer.vocab_size
    after = np.asarray(model.logits(changed))[row]
    np.testing.assert_allclose(after[:count], before[:count], atol=1e-5)


def test_a_stream_is_cut_elsewhere_in_every_epoch(model):
    data = model.dataset(TEXTS * 8, layout="stream", shuffle=True, batch_size=2)
    first, second = (
        np.concatenate([b["token_ids"] for b in data.batches(epoch * data.steps_per_epoch)]) for epoch in (0, 1)
    )
    assert not np.array_equal(first, second)
    batch = next(iter(data.batches()))
    np.testing.assert_array_equal(batch["targets"][:, :-1], batch["token_ids"][:, 1:])


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["learned", "lstm"])
def test_it_learns_and_comes_back_from_disk(tokenizer, shape, tmp_path):
    model = make(tokenizer, shape)
    data = model.dataset(TEXTS, batch_size=8, shuffle=True)
    before = model.evaluate(data, verbose=0)["loss"]
    model.compile(aillm_tf.adamw(3e-2))
    model.fit(data, epochs=15, verbose=0)
    scores = model.evaluate(data, verbose=0)
    assert scores["loss"] < 0.5 * before
    model.save(tmp_path / "model")
    again = aillm_tf.load(tmp_path / "model", dtype="float32")
    assert again.evaluate(data, verbose=0) == pytest.approx(scores, rel=1e-6)


def test_an_lstm_steps_as_it_reads(tokenizer):
    model = make(tokenizer, "lstm")
    ids = np.array([[5, 6, 7, 8, 9, 10]], "int32")
    whole = np.asarray(model.backbone({"token_ids": tf.constant(ids)}))
    cache, parts = model.backbone.init_cache(1, 8), []
    for at, piece in ((0, ids[:, :3]), (3, ids[:, 3:4]), (4, ids[:, 4:])):
        hidden, cache = model.backbone.step(tf.constant(piece), cache, at)
        parts.append(np.asarray(hidden))
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-5)


def test_layouts_and_prefixes_that_do_not_go_together_are_refused(tokenizer):
    with pytest.raises(ValueError, match="prefix_lm needs attention"):
        make(tokenizer, "lstm", prefix_lm=True)
    with pytest.raises(ValueError, match="goes not with prefix_lm"):
        make(tokenizer, prefix_lm=True).dataset(TEXTS, layout="packed")
    with pytest.raises(ValueError, match="layout is"):
        make(tokenizer).dataset(TEXTS, layout="rows")


def test_scores_of_many_chunks_are_those_of_one(model):
    from aillm_tf.layers.vocabulary_loss import token_losses

    batch = next(iter(model.dataset(TEXTS, batch_size=6).batches()))
    hidden, targets = model.hidden(batch), batch["targets"]
    for one, other in zip(
        token_losses(hidden, model.backbone.logits, targets),
        token_losses(hidden, model.backbone.logits, targets, chunk=7),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_log_probabilities_of_rows_are_those_of_their_targets(model, tokenizer):
    _, rows = model.evaluate(model.dataset(TEXTS), return_rows=True, verbose=0)
    for found, ids in zip(rows["log_probabilities"], rows_of(tokenizer), strict=True):
        np.testing.assert_allclose(found[: len(ids) - 1], log_probabilities(model, ids), atol=1e-5)
        assert np.isnan(found[len(ids) - 1 :]).all()


def test_a_prepared_folder_has_the_loss_and_the_bits_per_byte_of_its_texts(tokenizer, tmp_path):
    from aillm_tf.data.prepare import prepare
    from aillm_tf.data.prepare_options import PrepareOptions

    (tmp_path / "corpus.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    tokenizer.save(tmp_path / "tokenizer")
    options = PrepareOptions(
        sources=(str(tmp_path / "corpus.txt"),),
        documents="line",
        quality="none",
        min_words=1,
        similarity=0.0,
        validation=0,
        tokenizer=str(tmp_path / "tokenizer"),
        length=24,
    )
    prepare(tmp_path / "shards", options, processes=1, progress=False)
    model = make(tokenizer)
    data = model.dataset(str(tmp_path / "shards"), batch_size=2)
    scores = model.evaluate(data, verbose=0)
    ids, ends = data.segments()
    each = np.concatenate([log_probabilities(model, row) for row in np.split(ids, ends[1:-1])])
    assert scores["loss"] == pytest.approx(-each.mean(), abs=1e-5)
    bits = -each.sum() / np.log(2) / data.split["bytes"]
    assert scores["bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def test_generation_goes_on_as_the_lstm_alone_would(tokenizer):
    model = make(tokenizer, "lstm")
    prompts = ["one two three", "six", "four five six seven one"]
    together = model.answer(prompts, max_new_tokens=6)
    assert together == [model.answer([prompt], max_new_tokens=6)[0] for prompt in prompts]
    beams = model.answer(prompts, max_new_tokens=6, num_beams=3)
    alone = [model.answer([prompt], max_new_tokens=6, num_beams=3)[0] for prompt in prompts]
    assert [answer["text"] for answer in beams] == [answer["text"] for answer in alone]
    np.testing.assert_allclose([a["score"] for a in beams], [a["score"] for a in alone], atol=1e-5)


def test_the_last_token_of_a_text_is_gone_on_from_where_the_padding_ends_texts(tokenizer):
    padding = aillm_tf.train_tokenizer(TEXTS, "bpe", 300, use="seq2seq").with_special_tokens(pad="</s>")
    model, options = make(padding), make(padding).generation_options()
    expected = [padding.encode([text]).ids[:-1].tolist() for text in TEXTS]  # without </s>
    assert [prompt.tolist() for prompt in model.host_prompts(TEXTS, options)[0]] == expected
    read = model.graph_tokenizer()(tf.constant(TEXTS))
    for features in (read, {"token_ids": read["token_ids"]}):  # and as callers give ids
        ids, lengths, _ = model.prompts(features, options)
        assert [row[:n].tolist() for row, n in zip(ids.numpy(), lengths, strict=True)] == expected


def test_an_encoder_decoder_is_refused(model):
    with pytest.raises(ValueError, match="take SequenceToSequence"):
        CausalLM(model.config.replace(decoder_layers=1), model.tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("shape", list(SHAPES))
def test_an_export_answers_as_the_model(tokenizer, shape, tmp_path):
    model = make(tokenizer, shape, generation={"max_new_tokens": 4})
    texts = [*TEXTS, "", "seven " * 60]
    facts = model.export(tmp_path / "1", check_texts=texts)
    assert facts["checked"] == len(texts)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_pretrained_weights_keep_their_logits(family, tmp_path):
    shutil.copytree(GOLDEN / family, tmp_path, dirs_exist_ok=True)
    aillm_tf.train_tokenizer(TEXTS, "char", 60, use="decoder").save(tmp_path)
    backbone, _ = aillm_tf.load_backbone(tmp_path)
    model = CausalLM.from_pretrained(str(tmp_path), max_length=16, dtype="float32")
    ids = np.array([[3, 5, 7, 9]], "int32")
    expected = backbone.logits(backbone({"token_ids": ids}))
    np.testing.assert_allclose(model.logits({"token_ids": ids}), expected, atol=1e-5)
