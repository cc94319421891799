"""PromptedSummarization: the summary alone is learned, the prompt is never cut off, and it is where answers begin."""

import numpy as np
import pytest

import aillm_tf
from aillm_tf.tasks.prompted import PromptedSummarization

SHAPE = {"hidden_size": 16, "layers": 1, "heads": 2, "ffn_size": 32, "norm_placement": "pre", "embedding_norm": False}


def make(toy_pairs, use: str, **special) -> PromptedSummarization:
    texts = [text for side in toy_pairs().pairs() for text in side]
    tokenizer = aillm_tf.train_tokenizer([*texts, "so:"], "bpe", 300, use=use).with_special_tokens(**special)
    config = aillm_tf.TransformerConfig(vocab_size=300, max_length=32, dropout=0.0, attention_dropout=0.0, **SHAPE)
    options = {"max_length": 14, "max_target_length": 5, "dtype": "float32"}
    return PromptedSummarization(config, tokenizer, prompt=" so:", **options)


@pytest.fixture(scope="module")
def model(toy_pairs):
    return make(toy_pairs, "decoder")


@pytest.fixture(scope="module")
def ending(toy_pairs):
    """With a tokenizer that puts an end token, which is the padding, too, after texts."""
    return make(toy_pairs, "seq2seq", pad="</s>")


@pytest.fixture(scope="module")
def rows(model, toy_pairs):
    """The tokens and weights of every row, without padding."""
    data = model.dataset(toy_pairs(12), batch_size=4)
    starts = data.columns["token_ids"].offsets[1:-1]
    return [np.split(data.columns[name].values, starts) for name in ("token_ids", "target_weights")]


def test_a_row_is_source_prompt_and_summary(model, rows, toy_pairs):
    tokenizer, pairs = model.tokenizer, toy_pairs(12)
    for ids, source, targets in zip(rows[0], pairs.sources, pairs.references, strict=True):
        assert ids[0] == tokenizer.bos_id
        assert ids[-1] == tokenizer.eos_id
        text = tokenizer.decode(ids)
        read, _, written = text.partition(" so:")
        assert source.startswith(read) and len(read) > 0
        assert targets[0].startswith(written) and len(written) > 0


def test_the_places_before_the_tokens_of_the_summary_have_weight(model, rows):
    for ids, weights in zip(*rows, strict=True):
        start = len(ids) - int(weights.sum())
        assert ids[start - len(model.prompt_ids) : start].tolist() == model.prompt_ids
        np.testing.assert_array_equal(np.flatnonzero(weights), np.arange(start - 1, len(ids) - 1))


def test_the_loss_is_that_of_the_summary_alone(model, toy_pairs, rows):
    batch = next(iter(model.dataset(toy_pairs(12), batch_size=12, fixed_length=True).batches()))
    logits, ids = np.asarray(model.logits(batch), np.float64), batch["token_ids"].numpy()
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    of_next = np.take_along_axis(log_p[:, :-1], ids[:, 1:, None].astype(int), -1)[..., 0]
    expected = -(of_next * batch["target_weights"].numpy()[:, :-1]).sum()
    loss, weight = model.loss_terms(batch)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(weight) == sum(weights.sum() for weights in rows[1])


def test_answers_begin_behind_the_prompt_however_long_the_source(model):
    options = model.generation_options()
    for text in ("one", "one two three four five six one two three four"):
        ids, lengths, _ = model.prompts(model.features([text, "six"]), options)
        begun = ids.numpy()[0, : lengths.numpy()[0]]
        assert begun[-len(model.prompt_ids) :].tolist() == model.prompt_ids
        assert len(begun) <= model.max_length - model.max_target_length


@pytest.mark.parametrize("name", ["model", "ending"])
def test_the_graph_reads_texts_as_the_host_does(name, request):
    model = request.getfixturevalue(name)
    options, tokenizer = model.generation_options(), model.graph_tokenizer()
    texts = ["one two", "six", "one two three four five six one two three four"]
    host, graph = (model.prompts(features, options) for features in (model.features(texts), tokenizer(texts)))
    np.testing.assert_array_equal(host[1], graph[1])
    for row, length in enumerate(host[1].numpy()):
        np.testing.assert_array_equal(host[0][row, :length], graph[0][row, :length])


def test_a_text_is_read_to_its_last_token_where_the_tokenizer_ends_texts(ending):
    options = ending.generation_options()
    (prompt, other), _ = ending.host_prompts(["six", "one two three four five six one two three four"], options)
    assert prompt.tolist() == [*ending.tokenizer.encode(["six"]).ids[:-1], *ending.prompt_ids]
    assert len(other) == ending.max_length - ending.max_target_length


def test_a_row_begins_as_the_prompt_of_an_answer(ending, toy_pairs):
    pairs = toy_pairs(12)
    data = ending.dataset(pairs, batch_size=4)
    rows = np.split(data.columns["token_ids"].values, data.columns["token_ids"].offsets[1:-1])
    prompts, _ = ending.host_prompts(pairs.sources, ending.generation_options())
    assert all(row[: len(prompt)].tolist() == prompt.tolist() for row, prompt in zip(rows, prompts, strict=True))


def test_pairs_that_would_be_cut_are_dropped_on_request(model, toy_pairs, caplog):
    pairs = toy_pairs(12)
    data = model.dataset(pairs, batch_size=4, longer="drop")
    whole = [
        len(model.tokenizer.encode([source]).ids) <= model.source_length
        and len(model.tokenizer.encode([target[0]]).ids) <= model.max_target_length
        for source, target in zip(pairs.sources, pairs.references, strict=True)
    ]
    assert len(data) == sum(whole) < len(pairs)
    assert f"{len(pairs) - sum(whole)} of {len(pairs)} pairs dropped" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model", "ending"])
def test_an_export_answers_as_the_model(name, request, tmp_path):
    texts = ["one two", "six", "", "one two three four five six one two three four"]
    facts = request.getfixturevalue(name).export(tmp_path / "1", check_texts=texts)
    assert facts["checked"] == len(texts)


def test_it_is_saved_and_loaded(model, tmp_path):
    model.save(tmp_path)
    loaded = aillm_tf.load(tmp_path)
    assert loaded.options() == model.options()
    assert loaded.answer(["one two"]) == model.answer(["one two"])


def test_no_room_for_a_source_is_refused(model):
    with pytest.raises(ValueError, match="leaves no room for a source"):
        PromptedSummarization(model.config, model.tokenizer, max_length=8, max_target_length=8)
