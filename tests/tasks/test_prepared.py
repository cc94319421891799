"""Every pretraining task learns from a folder that `aillm prepare` wrote as from texts."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from pretraining import OPTIONS, SHAPE, batch_of

from aillm_tf.data.prepare import prepare
from aillm_tf.data.prepare_options import PrepareOptions
from aillm_tf.data.shards import open_shards
from aillm_tf.models.config import TransformerConfig
from aillm_tf.tasks.autoencoder import Autoencoder
from aillm_tf.tasks.causal_lm import CausalLM
from aillm_tf.tasks.denoising import Denoising
from aillm_tf.tasks.masked_lm import MaskedLM
from aillm_tf.tasks.replaced_token import ReplacedToken
from aillm_tf.tasks.sentence_order import NextSentence, SentenceOrder
from aillm_tf.text.sentinels import sentinel_ids, with_sentinels
from aillm_tf.text.tokenizer import Tokenizer
from aillm_tf.text.train import train_tokenizer
from aillm_tf.training.optimizer import adamw

LENGTH = 32
TOKENIZERS = Path(__file__).parents[1] / "golden" / "tokenizers"


@pytest.fixture(scope="module")
def texts(reviews):
    rows = [" . ".join(text for text, _ in reviews[i : i + 3]) + " ." for i in range(0, 39, 3)]
    return [*rows, " . ".join(text for text, _ in reviews)]  # the last is longer than a row


def options_for(source, tokenizer):
    return PrepareOptions(
        sources=(str(source),),
        documents="line",
        quality="none",
        min_words=1,
        similarity=0.0,
        validation=0,
        tokenizer=tokenizer and str(tokenizer),
        length=LENGTH,
    )


@pytest.fixture(scope="module")
def prepared(texts, tmp_path_factory):
    """use -> (folder, tokenizer)."""
    made = {}
    for use in ("encoder", "seq2seq"):
        folder = tmp_path_factory.mktemp(use)
        (folder / "corpus.txt").write_text("\n".join(texts), encoding="utf-8")
        if use == "encoder":
            tokenizer = train_tokenizer(texts, vocab_size=200)
        else:
            tokenizer = with_sentinels(train_tokenizer(texts, kind="bpe", vocab_size=300, use=use), 8)
        tokenizer.save(folder / "tokenizer")
        options = options_for(folder / "corpus.txt", folder / "tokenizer")
        prepare(folder / "shards", options, processes=1, progress=False)
        made[use] = (folder / "shards", tokenizer)
    return made


@pytest.mark.parametrize("kind", [MaskedLM, ReplacedToken, NextSentence, SentenceOrder, Denoising, Autoencoder])
def test_a_prepared_folder_is_learned_from(kind, prepared):
    decoder = kind in (Denoising, Autoencoder)
    folder, tokenizer = prepared["seq2seq" if decoder else "encoder"]
    shape = {"decoder_layers": 1} if decoder else {"segments": 2}
    config = TransformerConfig(vocab_size=tokenizer.vocab_size, **SHAPE, **shape)
    model = kind(config, tokenizer, **{**OPTIONS, "max_length": LENGTH})
    data = model.dataset(str(folder), batch_size=4, shuffle=True, seed=1)
    batch = batch_of(data)
    before, weight = model.loss_terms(batch)
    assert float(weight) > 0
    model.compile(adamw(1e-2))
    model.fit(data, steps=12, verbose=0)
    assert float(model.loss_terms(batch)[0]) < 0.95 * float(before)


def documents_alone(batch):
    """The documents of packed rows, each in a row of its own, with what is to be predicted in it."""
    rows = []
    for i, packed in enumerate(batch["packed_ids"]):
        for number in range(1, packed.max() + 1):
            at = np.flatnonzero(packed == number)
            row = {"token_ids": np.zeros_like(packed), "valid": np.zeros_like(packed)}
            row["token_ids"][: len(at)], row["valid"][: len(at)] = batch["token_ids"][i, at], 1
            asked = batch["target_positions"][i]
            own = np.isin(asked, at)
            row |= {"target_positions": np.where(own, asked - at[0], 0), "targets": batch["targets"][i]}
            rows.append({**row, "target_weights": batch["target_weights"][i] * own, "weight": batch["weight"][i]})
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("family", ["gpt2", "llama2"])
def test_a_tokenizer_without_a_pad_token_prepares_for_its_language_model(family, texts, tmp_path):
    (tmp_path / "corpus.txt").write_text("\n".join(texts), encoding="utf-8")
    prepare(tmp_path / "shards", options_for(tmp_path / "corpus.txt", TOKENIZERS / family), progress=False)
    tokenizer = Tokenizer.from_folder(TOKENIZERS / family)
    assert tokenizer.pad_id is None
    for own in (tokenizer, Tokenizer.from_folder(tmp_path / "shards" / "tokenizer")):
        model = CausalLM(TransformerConfig(vocab_size=tokenizer.vocab_size, **SHAPE), own, max_length=LENGTH)
        assert float(model.loss_terms(batch_of(model.dataset(str(tmp_path / "shards"), batch_size=4)))[1]) > 0


def test_a_trained_tokenizer_has_the_sentinels_of_span_corruption(texts, tmp_path):
    (tmp_path / "corpus.txt").write_text("\n".join(texts), encoding="utf-8")
    trained = {"tokenizer": None, "kind": "bpe", "use": "seq2seq", "vocab_size": 384, "sentinels": 8}
    options = dataclasses.replace(options_for(tmp_path / "corpus.txt", None), **trained)
    prepare(tmp_path / "shards", options, progress=False)
    tokenizer = Tokenizer.from_folder(tmp_path / "shards" / "tokenizer")
    assert tokenizer.vocab_size == 384 and len(sentinel_ids(tokenizer)) == 8
    config = TransformerConfig(vocab_size=384, decoder_layers=1, **SHAPE)
    model = Denoising(config, tokenizer, noise="span_corruption", max_length=LENGTH)
    assert float(model.loss_terms(batch_of(model.dataset(str(tmp_path / "shards"), batch_size=4)))[1]) > 0


def test_documents_of_a_packed_row_stay_apart(prepared):
    folder, tokenizer = prepared["encoder"]
    config = TransformerConfig(vocab_size=tokenizer.vocab_size, **SHAPE)
    model = MaskedLM(config, tokenizer, max_length=LENGTH, rate=0.3, dtype="float32")
    batch = batch_of(model.dataset(str(folder), batch_size=8))
    assert batch["packed_ids"].max() > 1
    found, expected = model.sums(batch), model.sums(documents_alone(batch))
    assert float(found["weight"]) == float(expected["weight"])
    assert float(found["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)


@pytest.mark.parametrize("noise", ["span_corruption", "text_infilling"])
def test_source_and_target_of_a_packed_row_are_its_text(noise, prepared):
    folder, tokenizer = prepared["seq2seq"]
    config = TransformerConfig(vocab_size=tokenizer.vocab_size, decoder_layers=1, **SHAPE)
    model = Denoising(config, tokenizer, noise=noise, max_length=LENGTH)
    data = model.dataset(str(folder), batch_size=4)
    clean, _, _, valid = open_shards(folder).read(np.arange(len(data)))
    without_end = 0
    for batch in data.batches():
        for i, row in enumerate(batch["row"].numpy()):
            if row < 0:
                continue
            source = batch["token_ids"][i].numpy()[batch["valid"][i].numpy() > 0].tolist()
            target = batch["targets"][i].numpy()[batch["target_weights"][i].numpy() > 0].tolist()
            text = clean[row][valid[row] > 0].tolist()
            ended = text[-1] == tokenizer.eos_id
            without_end += not ended
            if noise == "text_infilling":
                assert target == text
                continue
            said, at = {}, None
            for token in target[: len(target) - ended]:
                if token in model.sentinels:
                    at = said.setdefault(token, [])
                else:
                    at.append(token)
            assert [token for word in source for token in said.get(word, [word])] == text
    assert without_end  # the long document was cut


def test_words_of_texts_are_not_found_in_tokens(prepared):
    folder, tokenizer = prepared["encoder"]
    config = TransformerConfig(vocab_size=tokenizer.vocab_size, **SHAPE)
    model = MaskedLM(config, tokenizer, max_length=LENGTH, whole_word=True)
    with pytest.raises(ValueError, match="holds tokens, not texts"):
        model.dataset(str(folder), words="collocations")
