"""NextSentence and SentenceOrder: pairs are made of the text as their labels say."""

import numpy as np
import pytest
from pretraining import OPTIONS, SHAPE, batch_of

import aillm_tf
from aillm_tf.models.config import TransformerConfig
from aillm_tf.tasks.classification import TextClassifier
from aillm_tf.tasks.sentence_order import NextSentence, SentenceOrder
from aillm_tf.text.train import train_tokenizer

# a text of sentences whose words say which text and which sentence they are of
TEXTS = [" ".join(f"{letter} {'ab cd ef gh'.split()[n]} ." for n in range(4)) for letter in "abcdefgh"]


@pytest.fixture(scope="module")
def make():
    tokenizer = train_tokenizer(TEXTS * 2, vocab_size=60)
    config = TransformerConfig(vocab_size=tokenizer.vocab_size, segments=2, **SHAPE)
    return lambda kind, **options: kind(config, tokenizer, **{**OPTIONS, "max_length": 32, **options})


def pairs(model, data, first_step, last_step):
    """(first, second, label) of every row of some batches, ids without special tokens."""
    for batch in data.batches(first_step, last_step):
        yield from pairs_of(model, {name: value.numpy() for name, value in batch.items()})


def pairs_of(model, batch):
    special = [model.tokenizer.cls_id, model.tokenizer.sep_id]
    for ids, valid, segments, label, weight in zip(
        batch["token_ids"], batch["valid"], batch["segment_ids"], batch["label"], batch["weight"], strict=True
    ):
        if not weight:
            continue
        ids, segments = ids[valid > 0], segments[valid > 0]
        assert ids[0] == special[0] and ids[-1] == special[1] and np.isin(ids, special).sum() == 3
        inner = ~np.isin(ids, special)
        assert (np.diff(segments) >= 0).all() and ids[segments == 0][-1] == special[1]
        yield ids[inner & (segments == 0)].tolist(), ids[inner & (segments == 1)].tolist(), int(label)


def bodies(model):
    encoded = model.tokenizer.encode(TEXTS)
    rows = np.split(encoded.ids, encoded.offsets[1:-1])
    return [row[1:-1].tolist() for row in rows]


def test_parts_are_in_order_or_exchanged_as_the_label_says(make):
    model = make(SentenceOrder)
    data = model.dataset(TEXTS, batch_size=8)
    whole, labels, cuts = bodies(model), [], set()
    for first, second, label in pairs(model, data, 0, 40):
        text = first + second if label == 0 else second + first
        assert text in whole
        labels.append(label)
        cuts.add(len(first if label == 0 else second))
    assert 0.4 < np.mean(labels) < 0.6
    assert len(cuts) >= 3  # all three places where a sentence ends


def test_the_second_part_follows_or_is_sentences_of_another_text(make):
    model = make(NextSentence)
    data = model.dataset(TEXTS, batch_size=8)
    whole, labels, end = bodies(model), [], model.tokenizer.encode(["."]).ids[1]
    stream = [token for text in whole for token in text]
    for first, second, label in pairs(model, data, 0, 40):
        (text,) = [text for text in whole if text[: len(first)] == first]
        labels.append(label)
        assert first[-1] == end
        assert second[-1] == end
        if label == 0:
            assert first + second == text
        else:
            starts = [i for i in range(len(stream)) if stream[i : i + len(second)] == second]
            assert any(i == 0 or stream[i - 1] == end for i in starts)
            assert text[len(first) :] != second
            assert len(first) + len(second) == len(text)  # sentences of all texts are of one length here
    assert 0.4 < np.mean(labels) < 0.6


def test_a_long_first_sentence_is_not_drawn_for_a_short_part(make):
    model = make(NextSentence)
    data = model.dataset(["a " * 20 + ". b .", *TEXTS], batch_size=9, fixed_length=True)
    assert all(len(first) + len(second) + 3 <= 32 for first, second, _ in pairs(model, data, 0, 20))


def test_two_data_sets_draw_from_their_own_texts(make):
    model = make(NextSentence)
    one, two = (model.dataset(part, batch_size=4) for part in (TEXTS[:4], TEXTS[4:]))
    for data, part in ((one, slice(0, 4)), (two, slice(4, 8))):
        seen = {token for text in bodies(model)[part] for token in text}
        for first, second, _ in pairs(model, data, 0, 1):
            assert set(first + second) <= seen


def test_pairs_are_cut_anew_every_epoch(make):
    model = make(SentenceOrder)
    data = model.dataset(TEXTS, batch_size=8)
    first, second, again = (list(pairs(model, data, step, step + 1)) for step in (0, 1, 0))
    assert first != second
    assert first == again


def test_rows_that_fill_a_batch_weigh_nothing(make):
    model = make(SentenceOrder)
    data = model.dataset(TEXTS[:3], batch_size=8, fixed_length=True)
    total, weight = model.loss_terms(batch_of(data))
    assert float(weight) == 3 and np.isfinite(float(total))


def test_rows_are_whole_sentences_as_many_as_fit(make):
    length = len(bodies(make(SentenceOrder))[0]) // 2  # of two sentences
    model = make(SentenceOrder, max_length=length + 4)
    long = " ".join([TEXTS[0], TEXTS[1], "a cd"])
    data = model.dataset([long], batch_size=8)
    assert len(data) == 4
    whole = bodies(model)[0] + bodies(model)[1]
    found = sorted(second + first if label else first + second for first, second, label in pairs(model, data, 0, 1))
    assert found == sorted(whole[i : i + length] for i in range(0, len(whole), length))


def test_texts_of_one_sentence_are_left_out_and_counted(make, caplog):
    data = make(SentenceOrder).dataset(["a b c", "a b .", *TEXTS[:3]], batch_size=4)
    assert len(data) == 3
    assert "1 of 4 rows are left out" in caplog.text
    with pytest.raises(ValueError, match="no row has two whole sentences"):
        make(SentenceOrder).dataset(["a b c"])


def test_one_text_has_no_other_to_draw_from(make):
    with pytest.raises(ValueError, match="all rows are of one document"):
        make(NextSentence).dataset(TEXTS[:1])


def test_answers_say_whether_a_pair_is_in_order(make):
    (answer,) = make(SentenceOrder).answer([("a film .", "the end .")])
    assert set(answer["probabilities"]) == {"in_order", "exchanged"}


def test_a_saved_model_comes_back_and_its_reader_becomes_a_classifier(make, tmp_path):
    model = make(NextSentence, pooling="mean")
    model.save(tmp_path)
    loaded = aillm_tf.load(tmp_path, dtype="float32")
    assert isinstance(loaded, NextSentence) and loaded.options() == model.options()
    assert loaded.answer([("a", "b")]) == model.answer([("a", "b")])
    tuned = TextClassifier.from_pretrained(str(tmp_path), labels=["no", "yes"], dtype="float32", max_length=16)
    np.testing.assert_array_equal(tuned.backbone.embeddings.token, model.backbone.embeddings.token)
