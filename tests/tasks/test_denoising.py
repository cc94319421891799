"""Denoising: source and target of every noise are the text, and what the model is asked to write is what is missing."""

import numpy as np
import pytest
from pretraining import OPTIONS, SHAPE, batch_of, clean_row

import aillm_tf
from aillm_tf.models.config import TransformerConfig
from aillm_tf.tasks.denoising import RATES, Denoising
from aillm_tf.text.sentinels import sentinel_ids, with_sentinels
from aillm_tf.text.train import train_tokenizer

BART = ("sentence_permutation", "text_infilling")


@pytest.fixture(scope="module")
def texts(reviews):
    return [f"{first} . {second}" for (first, _), (second, _) in zip(reviews, reversed(reviews), strict=True)]


@pytest.fixture(scope="module")
def writer(texts):
    return with_sentinels(train_tokenizer(texts, kind="bpe", vocab_size=300, use="seq2seq"), 8)


@pytest.fixture(scope="module")
def make(writer):
    config = TransformerConfig(vocab_size=writer.vocab_size, decoder_layers=1, **SHAPE)
    return lambda **options: Denoising(config, writer, **{**OPTIONS, "max_length": 32, **options})


def rows_of(model, texts):
    """(clean ids, source, target, given) of every row of a batch, without padding."""
    data = model.dataset(texts, batch_size=len(texts), fixed_length=True)
    batch = batch_of(data)
    assert len(data) >= len(texts)
    for i, row in enumerate(batch["row"]):
        count = int(batch["target_weights"][i].sum())
        source = batch["token_ids"][i][batch["valid"][i] > 0]
        yield clean_row(data, row), source, batch["targets"][i][:count], batch["target_ids"][i][:count]


@pytest.mark.parametrize("noise", [name for name in RATES if name not in ("span_corruption", "prefix")])
def test_the_target_of_barts_noises_is_the_text(noise, make, texts):
    changed = 0
    for clean, source, target, _ in rows_of(make(noise=noise), texts):
        np.testing.assert_array_equal(target, clean)
        assert source[-1] == clean[-1]  # </s> stays where it is
        changed += not np.array_equal(source, clean)
    assert changed > (2 if noise == "sentence_permutation" else len(texts) / 2)  # some rows are one sentence


def test_source_and_target_of_span_corruption_are_the_text(make, texts, writer):
    model = make(noise="span_corruption")
    sentinels = sentinel_ids(writer)
    for clean, source, target, _ in rows_of(model, texts):
        said, at = {}, None
        for token in target[:-1]:
            if token in sentinels:
                at = said.setdefault(token, [])
            else:
                at.append(token)
        whole = [token for word in source for token in said.get(word, [word])]
        assert whole == clean.tolist()
        assert target[-1] == writer.eos_id


def test_a_prefix_and_how_it_goes_on_are_the_text(make, texts):
    for clean, source, target, _ in rows_of(make(noise="prefix"), texts):
        assert [*source[:-1], *target] == clean.tolist()


def test_the_decoder_is_given_the_target_one_token_late(make, texts):
    model = make()
    for _, _, target, given in rows_of(model, texts[:8]):
        assert given.tolist() == [model.start_id, *target[:-1]]


def test_noises_are_applied_one_after_the_other(make, texts, writer):
    for clean, source, _, _ in rows_of(make(noise=("token_deletion", "token_masking"), rate=0.3), texts[:8]):
        body = len(clean) - 1
        left = body - max(1, round(0.3 * body))
        assert len(source) == left + 1
        assert (source == writer.mask_id).sum() == max(1, round(0.3 * left))


@pytest.mark.parametrize("noise", ["span_corruption", BART])
def test_shapes_are_static(noise, make, texts):
    model = make(noise=noise)
    spec = model.dataset(texts, batch_size=8, fixed_length=True).batches().element_spec
    source, target = (int(width) for width in model.widths(32))
    assert (spec["token_ids"].shape, spec["valid"].shape) == ((8, source), (8, source))
    assert {spec[name].shape for name in ("target_ids", "targets", "target_weights")} == {(8, target)}


def test_rows_that_fill_a_batch_weigh_nothing(make):
    model, short = make(noise="span_corruption"), ["a long war", "a dull film", "the end of it"]
    filled, full = (model.loss_terms(batch_of(model.dataset(short, batch_size=n, fixed_length=True))) for n in (5, 3))
    for one, other in zip(filled, full, strict=True):
        assert float(one) == pytest.approx(float(other), rel=1e-5)


def test_noise_is_drawn_anew_every_epoch(make, texts):
    data = make(noise="text_infilling").dataset(texts[:8], batch_size=40, fixed_length=True)
    first, second = (batch["token_ids"].numpy() for batch in data.batches(0, 2))
    assert (first != second).any(-1).sum() > 6
    np.testing.assert_array_equal(batch_of(data)["token_ids"], first)


def test_gaps_are_filled_with_what_the_decoder_says(make, writer, monkeypatch):
    model = make(noise="span_corruption")
    first, second, third = sentinel_ids(writer)[:3]
    said = [first, *writer.encode([" film"]).ids[:-1], second, *writer.encode([" end"]).ids[:-1], third, writer.eos_id]
    seen = []

    class Said:
        def generate(self, prompts, options, source):
            from aillm_tf.generation.generator import Generated

            seen.append(source["token_ids"][0].tolist())
            return Generated([np.array(said)], [np.zeros(len(said))], np.array([-0.5]))

    monkeypatch.setattr(model, "_generator", Said())
    (answer,) = model.fill(["a funny ___ about the ___ of a war"])
    assert answer == {"text": "a funny film about the end of a war", "gaps": ["film", "end"], "score": -0.5}
    assert [token for token in seen[0] if token in (first, second, third)] == [first, second]
    assert seen[0][-1] == writer.eos_id


def test_masks_are_filled_by_writing_the_text_anew(make, monkeypatch):
    model = make()
    monkeypatch.setattr(model, "answer", lambda texts, **options: (texts, options))
    assert model.fill(["a ___ story"], max_new_tokens=4) == (["a <mask> story"], {"max_new_tokens": 4})
    with pytest.raises(ValueError, match="knows no gaps"):
        make(noise="document_rotation").fill(["a ___ story"])


def test_a_saved_model_comes_back_the_same(make, tmp_path, texts):
    model = make(noise="span_corruption", rate=0.2, span_length=2.0)
    model.save(tmp_path)
    loaded = aillm_tf.load(tmp_path, dtype="float32")
    assert loaded.options() == model.options()
    one, other = (float(m.loss_terms(batch_of(m.dataset(texts[:8], batch_size=8)))[0]) for m in (model, loaded))
    assert one == other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "sentence_shuffling"}, "choose from span_corruption"),
        ({"noise": ()}, "choose from"),
        ({"noise": ("span_corruption", "text_infilling")}, "come last"),
        ({"rate": 1.0}, "rate is the share"),
        ({"span_length": 0.5}, "span_length is the mean"),
    ],
)
def test_options_that_make_no_noise_are_refused(options, message, make):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_tokenizer_without_sentinels_is_refused(texts):
    bare = train_tokenizer(texts, kind="bpe", vocab_size=300, use="seq2seq")
    config = TransformerConfig(vocab_size=bare.vocab_size, decoder_layers=1, **SHAPE)
    with pytest.raises(ValueError, match="with_sentinels"):
        Denoising(config, bare, noise="span_corruption", **OPTIONS)


def test_sentinels_are_added_once_and_survive_a_save(writer, tmp_path):
    assert sentinel_ids(writer) == list(range(writer.vocab_size - 8, writer.vocab_size))
    assert with_sentinels(writer, 8).vocab_size == writer.vocab_size
    writer.save(tmp_path)
    assert sentinel_ids(type(writer).from_folder(tmp_path)) == sentinel_ids(writer)
