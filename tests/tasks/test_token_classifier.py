"""TokenClassifier: what it learns, how it scores and answers, and what comes back from its files."""

import json
import random
import string
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from fuzzed import fuzzed
from scipy.special import log_softmax

import aillm_tf
from aillm_tf.data.conll import Tagged, tagged
from aillm_tf.data.tables import Places
from aillm_tf.data.tagged_rows import LabelIds, special_tokens_around, tagged_rows, windows
from aillm_tf.data.tags import entities, to_iob2
from aillm_tf.export import reload, saved_model
from aillm_tf.models.config import TransformerConfig
from aillm_tf.tasks.tagging import TokenClassifier
from aillm_tf.text.tokenizer import Tokenizer
from aillm_tf.text.words import join_tokens
from aillm_tf.training.optimizer import adamw

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers"
WNUT17 = Path(__file__).parents[3] / "shared" / "data" / "wnut17"
LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
TOYS = [
    ("Anna lives in New York .", "B-PER O O B-LOC I-LOC O"),
    ("Bob 's in Rome , with Anna Smith", "B-PER O O B-LOC O O B-PER I-PER"),
    ("nobody is here .", "O O O O"),
    ("Rome , York and Bob", "B-LOC O B-LOC O B-PER"),
    ("in New York Anna Smith is happy", "O B-LOC I-LOC B-PER I-PER O O"),
]


def rows_of(sentences):
    """`Tagged` rows of (tokens, tags), each one string."""
    texts, spans = zip(*(join_tokens(tokens.split(" ")) for tokens, _ in sentences), strict=True)
    tags = [tags.split() for _, tags in sentences]
    types = sorted({tag[2:] for row in tags for tag in row} - {""})
    where = Places(["toys:"], np.zeros(len(texts), "int32"), np.arange(len(texts)))
    return Tagged(list(texts), list(spans), tags, types, where, [], {})


@pytest.fixture(scope="module")
def tokenizer():
    """WordPiece whose pieces are single letters, so that words have many."""
    letters = [*string.ascii_letters, *string.digits, "é", "ü", "酒", "店"]
    pieces = [*letters, *(f"##{letter}" for letter in letters), *".,'@-", "##es", "in"]
    return Tokenizer.from_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces], lowercase=False)


@pytest.fixture(scope="module")
def make(tokenizer):
    """Builds a tagger of one layer; options of the task by name."""
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        layers=1,
        heads=2,
        ffn_size=32,
        max_length=64,
        segments=2,
        dropout=0.0,
        attention_dropout=0.0,
        initializer_range=0.3,
    )
    options = {"labels": LABELS, "max_length": 32, "dtype": "float32"}
    return lambda **changes: TokenClassifier(config, tokenizer, **{**options, **changes})


@pytest.fixture(scope="module", params=[False, True], ids=["softmax", "crf"])
def trained(request, make):
    """A tagger that learned the toys."""
    model = make(crf=request.param)
    model.compile(adamw(2e-2))
    data = model.dataset(rows_of(TOYS), batch_size=5, shuffle=True)
    model.fit(data, epochs=50, verbose=0)
    return model


def test_a_toy_set_is_learned(trained):
    scores = trained.evaluate(trained.dataset(rows_of(TOYS)), verbose=0)
    assert (scores["f1"], scores["strict_f1"], scores["token_accuracy"]) == (1.0, 1.0, 1.0)
    assert scores["loss"] < 0.1


def test_texts_and_tokens_have_the_same_entities(trained):
    for (tokens, tags), raw, cut in zip(
        TOYS, trained.answer([t for t, _ in TOYS]), trained.answer([t.split() for t, _ in TOYS]), strict=True
    ):
        assert cut["tags"] == tags.split()
        expected = entities(tags.split())
        assert [(e["type"], e["start"], e["end"]) for e in cut["entities"]] == expected
        _, spans = join_tokens(tokens.split())
        places = [(e.type, spans[e.start, 0], spans[e.end - 1, 1]) for e in expected]
        assert [(e["type"], e["start"], e["end"]) for e in raw["entities"]] == places
        assert all(tokens[e["start"] : e["end"]] == e["text"] and 0.5 < e["score"] <= 1 for e in raw["entities"])


def test_punctuation_need_not_stand_apart(trained):
    spaced, close = trained.answer(["Bob 's in Rome , with Anna Smith", "Bob's in  Rome, with Anna Smith"])
    assert [e["text"] for e in close["entities"]] == [e["text"] for e in spaced["entities"]]
    assert [e["start"] for e in close["entities"]] == [0, 10, 21]
    np.testing.assert_allclose(*[[e["score"] for e in a["entities"]] for a in (spaced, close)], atol=1e-5)


def test_answers_do_not_depend_on_order_or_company(trained):
    texts = [text for text, _ in TOYS] + ["", "Rome " * 40]
    together = trained.answer(texts)
    alone = [trained.answer([text])[0] for text in texts]
    for one, other in zip(together, alone, strict=True):
        assert [(e["type"], e["start"], e["end"]) for e in one["entities"]] == [
            (e["type"], e["start"], e["end"]) for e in other["entities"]
        ]


@pytest.mark.parametrize("wrong", ["Rome", ["Rome", ["a"]], [["a", ""]], [3]])
def test_what_is_neither_text_nor_tokens_is_refused(wrong, make):
    with pytest.raises(TypeError):
        make().answer(wrong)


# The loss, against numpy


def logits_and_targets(model, rows):
    batch = next(iter(model.dataset(rows, batch_size=len(rows.texts)).batches()))
    return np.asarray(model(batch), "float64"), batch["targets"].numpy()


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 3.0, 1.0]])
@pytest.mark.parametrize("pieces", ["first", "all"])
def test_loss_is_the_mean_over_words_or_pieces(weights, pieces, make):
    model, rows = make(class_weights=weights, label_pieces=pieces), rows_of(TOYS)
    logits, targets = logits_and_targets(model, rows)
    targets = targets - 1
    losses = -np.take_along_axis(log_softmax(logits, -1), np.maximum(targets, 0)[..., None], -1)[..., 0]
    own = np.where(targets >= 0, np.array(weights or [1.0] * 5)[targets], 0.0)
    found = model.evaluate(model.dataset(rows, batch_size=2), verbose=0)["loss"]
    assert found == pytest.approx((losses * own).sum() / own.sum(), abs=1e-5)
    words = sum(len(tags.split()) for _, tags in TOYS)  # "'s", outside, is two, of which the first is learned
    tokens = len(model.tokenizer.encode(rows.texts).ids) - 2 * len(TOYS)
    assert (targets >= 0).sum() == {"first": words, "all": tokens}[pieces]


def test_a_word_has_its_label_at_the_first_piece(make, tokenizer):
    found = tagged_rows(rows_of(TOYS[:1]), tokenizer, LabelIds(LABELS), 32, 8).columns
    pieces = [tokenizer.vocabulary[i] for i in found["token_ids"].values]
    labelled = [(p, LABELS[t]) for p, t in zip(pieces, found["targets"].values - 1, strict=True) if t >= 0]
    assert labelled == [("A", "B-PER"), ("l", "O"), ("in", "O"), ("N", "B-LOC"), ("Y", "I-LOC"), (".", "O")]


def test_further_words_of_a_token_go_on(tokenizer):
    rows = rows_of([("x-y @a é", "B-LOC B-PER I-PER")])
    found = tagged_rows(rows, tokenizer, LabelIds(LABELS), 32, 8).columns["targets"].values - 1
    assert [LABELS[t] for t in found if t >= 0] == ["B-LOC", "I-LOC", "I-LOC", "B-PER", "I-PER", "I-PER"]


def test_further_words_outside_of_entities_may_be_left_out(tokenizer):
    rows = rows_of([("x-y @a é", "B-LOC O O")])
    found = tagged_rows(rows, tokenizer, LabelIds(LABELS), 32, 8, outside_once=True)
    targets = found.columns["targets"].values - 1
    assert [LABELS[t] for t in targets if t >= 0] == ["B-LOC", "I-LOC", "I-LOC", "O", "O"]
    assert found.tags(np.maximum(padded(found.columns["targets"]) - 1, 0), LabelIds(LABELS)) == rows.tags


def test_characters_within_a_word_have_its_label(make, tokenizer):
    rows = rows_of([("酒 店 N B A 好", "O O B-PER I-PER I-PER O")])
    found = tagged_rows(rows, tokenizer, LabelIds(LABELS), 32, 8)
    assert rows.texts == ["酒店NBA好"]
    assert found.goes_on.tolist() == [False, False, False, True, True, False]
    best = np.maximum(padded(found.columns["targets"]) - 1, 0)
    assert found.tags(best, LabelIds(LABELS)) == rows.tags


def padded(column):
    lengths = np.diff(column.offsets)
    table = np.full((len(lengths), lengths.max()), -1)
    table[np.arange(lengths.max()) < lengths[:, None]] = column.values
    return table


# Windows


@pytest.mark.parametrize("room, overlap", [(3, 0), (4, 1), (7, 3), (7, 6), (50, 12)])
def test_every_token_is_in_a_window_that_owns_it(room, overlap):
    lengths = np.arange(30)
    splits = np.concatenate([[0], np.cumsum(lengths)])
    cut = windows(splits, room, overlap)
    assert (cut.lasts - cut.firsts <= room).all()
    place = np.arange(splits[-1])
    assert (cut.firsts[cut.owner] <= place).all() and (place < cut.lasts[cut.owner]).all()
    text = np.repeat(np.arange(30), lengths)
    np.testing.assert_array_equal(cut.texts[cut.owner], text)
    # Context on the shorter side is at least half of the overlap, where the text has it.
    before = np.minimum(place - cut.firsts[cut.owner], 10**6)
    after = cut.lasts[cut.owner] - 1 - place
    least = np.minimum(overlap // 2, np.minimum(place - splits[text], splits[text + 1] - 1 - place))
    assert (before >= np.minimum(least, overlap // 2)).all() and (after >= np.minimum(least, (overlap - 1) // 2)).all()


@pytest.mark.parametrize("max_length, overlap", [(6, 2), (9, 0), (12, 9), (32, 8)])
def test_every_token_of_a_long_sentence_is_learned_once(max_length, overlap, tokenizer):
    long = (" ".join(text for text, _ in TOYS), " ".join(tags for _, tags in TOYS))
    rows, labels = rows_of([*TOYS, long]), LabelIds(LABELS)
    found = tagged_rows(rows, tokenizer, labels, max_length, overlap)
    targets = padded(found.columns["targets"]) - 1
    words = sum(len(tags) for tags in rows.tags) + 2
    assert (targets >= 0).sum() == words
    assert len(set(zip(found.rows, found.places, strict=True))) == len(found.rows)
    assert found.tags(np.maximum(targets, 0), labels) == rows.tags
    front, back = special_tokens_around(tokenizer)
    for first, last in zip(found.columns["token_ids"].offsets, found.columns["token_ids"].offsets[1:], strict=False):
        ids = found.columns["token_ids"].values[first:last].tolist()
        assert (ids[:1], ids[-1:], len(ids) <= max_length) == (front, back, True)


@pytest.mark.parametrize("crf", [False, True])
def test_answers_of_long_texts_are_what_is_scored(crf, make):
    model = make(max_length=12, overlap=5, crf=crf)
    if crf:
        model.crf.transition.assign(np.random.default_rng(0).normal(size=(5, 5)) / 50)
    sentences = [(" ".join([text] * n), " ".join([tags] * n)) for n, (text, tags) in enumerate(TOYS, 1)]
    data = model.dataset(rows_of(sentences), batch_size=4)
    _, found = model.evaluate(data, verbose=0, return_rows=True)
    answers = model.answer([text.split() for text, _ in sentences])
    assert to_iob2([answer["tags"] for answer in answers], LABELS) == found["predicted"]
    assert len({tag for row in found["predicted"] for tag in row}) > 2
    for answer in answers:
        assert [(e["type"], e["start"], e["end"]) for e in answer["entities"]] == entities(answer["tags"])


def test_a_text_never_begins_within_an_entity(make):
    model = make(max_length=12, overlap=5, crf=True)
    model.tagger.bias.assign([0, 0, 50, 0, 0])  # I-LOC, wherever it may stand
    sentences = [(" ".join([text] * n), " ".join([tags] * n)) for n, (text, tags) in enumerate(TOYS, 1)]
    _, found = model.evaluate(model.dataset(rows_of(sentences), batch_size=4), verbose=0, return_rows=True)
    tokens = [text.split() for text, _ in sentences]
    expected = [["B-LOC"] + ["I-LOC"] * (len(row) - 1) for row in tokens]  # in later windows from their beginning
    assert found["predicted"] == expected
    assert [answer["tags"] for answer in model.answer(tokens)] == expected
    served = served_by(model)([text for text, _ in sentences])
    assert [(len(of), of[0]["start"], of[0]["end"]) for of in served] == [(1, 0, len(text)) for text, _ in sentences]


def test_tokens_that_the_tokenizer_makes_nothing_of_are_outside(make):
    model = make()
    rows = rows_of([("Anna \u200b Smith", "B-PER I-PER I-PER")])
    _, found = model.evaluate(model.dataset(rows), verbose=0, return_rows=True)
    assert found["predicted"][0][1] == "O" and len(found["predicted"][0]) == 3
    assert to_iob2([model.answer([["Anna", "\u200b", "Smith"]])[0]["tags"]], LABELS) == found["predicted"]


# Offsets


def served_by(model):
    """What an export's default signature computes, in this process."""
    function, inputs = model.signatures(model.graph_tokenizer())["serving_default"]
    call = tf.function(function, autograph=False).get_concrete_function(**inputs)

    def serve(texts):
        outputs = {name: value.numpy() for name, value in call(text=tf.constant(texts)).items()}
        return [answer["entities"] for answer in model.read_answers(outputs)]

    return serve


@pytest.fixture(scope="module")
def short(make):
    """A model with windows of few words, and what it serves."""
    model = make(max_length=16)
    return model, served_by(model)


def check_offsets(serve, texts):
    """Whether served entities are what stands at their places; returns how many there are."""
    found = 0
    for at in range(0, len(texts), 250):
        for text, served in zip(texts[at : at + 250], serve(texts[at : at + 250]), strict=True):
            end = 0
            for entity in served:
                assert end <= entity["start"] < entity["end"] <= len(text), repr(text)
                end = entity["end"]
                assert entity["text"] == text[entity["start"] : end] == entity["text"].strip(), repr(text)
                found += 1
    return found


def test_served_entities_are_those_of_answer(short):
    model, serve = short
    chance = random.Random(0)
    texts = [fuzzed(chance, chance.randint(0, 60)) for _ in range(100)]
    for text, served, answer in zip(texts, serve(texts), model.answer(texts), strict=True):
        where = [[(e["type"], e["start"], e["end"], e["text"]) for e in of] for of in (served, answer["entities"])]
        assert where[0] == where[1], repr(text)


def test_2500_odd_texts_have_entities_where_they_say(short):
    chance = random.Random(1)
    assert check_offsets(short[1], [fuzzed(chance, chance.randint(0, 120)) for _ in range(2500)]) > 2500


@pytest.mark.skipif(not WNUT17.exists(), reason="WNUT-17 does not lie beside the repository")
def test_2500_tweets_have_entities_where_they_say(short):
    assert check_offsets(short[1], tagged(WNUT17 / "wnut17train.conll").texts[:2500]) > 2500


def test_class_weights_do_not_go_with_a_crf(make):
    with pytest.raises(ValueError, match="leave one of both out"):
        make(crf=True, class_weights=[1.0] * 5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"labels": ["B-A", "I-A"]}, "one of them is O"),
        ({"labels": ["O", "A"]}, "is no tag"),
        ({"class_weights": [1.0]}, "give one for each"),
        ({"overlap": 30}, "share fewer"),
        ({"label_pieces": "last"}, '"first" or "all"'),
    ],
)
def test_wrong_options_are_named(options, message, make):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_types_without_a_label_are_named(make):
    for rows, options in (([("EU", "B-ORG")], {}), ([*TOYS, ("EU", "B-ORG")], {"shuffle": True})):
        with pytest.raises(ValueError, match="entities of type 'ORG'; the model knows LOC, PER"):
            make().dataset(rows_of(rows), **options)


def test_entities_without_a_label_are_missed(trained, caplog):
    metrics = pytest.importorskip("seqeval.metrics")
    data = trained.dataset(rows_of([*TOYS, ("EU and Rome", "B-ORG O B-LOC"), ("EU", "B-ORG")]))
    assert "2 of 13 entities are of types that the model has no label for (ORG)" in caplog.text
    scores, found = trained.evaluate(data, verbose=0, return_rows=True)
    assert found["targets"][-1] == ["B-ORG"]
    assert scores["recall"] == metrics.recall_score(found["targets"], found["predicted"]) > 0.5
    assert scores["macro_f1"] == metrics.f1_score(found["targets"], found["predicted"], average="macro")


@pytest.mark.parametrize(("label", "tags"), [("I-LOC", "B-LOC I-LOC"), ("S-LOC", "B-LOC B-LOC")])
def test_what_heads_of_other_schemes_predict_is_scored_as_iob2(label, tags, make):
    labels = ["O", "B-LOC", "I-LOC"] if label == "I-LOC" else ["O", "B-LOC", "I-LOC", "E-LOC", "S-LOC"]
    model = make(labels=labels)
    model.tagger.bias.assign([50.0 * (name == label) for name in labels])
    scores = model.evaluate(model.dataset(rows_of([("New York", tags)])), verbose=0)
    assert (scores["f1"], scores["strict_f1"], scores["token_accuracy"]) == (1.0, 1.0, 1.0)


def test_balanced_epochs_have_as_many_sentences_of_every_rarest_type(make):
    rows = rows_of([("Rome", "B-LOC")] * 8 + [("Anna in Rome", "B-PER O B-LOC")] * 2 + [("here", "O")] * 2)
    data = make().dataset(rows, balance=True, shuffle=True, batch_size=4)
    assert rows.rarest_types().tolist() == [1] * 8 + [0] * 2 + [-1] * 2
    drawn = np.concatenate([data.batch_rows(step)[0] for step in range(data.steps_per_epoch)])
    assert np.bincount(1 + rows.rarest_types()[drawn]).tolist() == [4, 4, 4]


def test_heads_of_other_schemes_are_read(make):
    model = make(labels=["O", "I-LOC", "B-LOC", "S-PER", "E-PER"])
    labels = model.label_ids
    assert labels.numbers(["B-PER", "I-PER", "I-LOC"]).tolist() == [3, 3, 1]
    assert labels.types == ["LOC", "PER"]


# Files


def test_a_saved_tagger_comes_back_the_same(trained, tmp_path):
    trained.save(tmp_path)
    loaded = aillm_tf.load(tmp_path, dtype="float32")
    texts = [text for text, _ in TOYS]
    assert loaded.answer(texts) == trained.answer(texts)
    assert loaded.options() == trained.options()


def test_other_labels_start_a_new_head_on_the_same_backbone(trained, tmp_path):
    trained.save(tmp_path)
    loaded = TokenClassifier.from_pretrained(str(tmp_path), labels=["O", "B-X", "I-X"], dtype="float32")
    assert loaded.labels == ["O", "B-X", "I-X"]
    np.testing.assert_array_equal(loaded.backbone.embeddings.token.numpy(), trained.backbone.embeddings.token.numpy())


def test_a_folder_for_transformers_has_the_head_and_comes_back(make, tmp_path):
    model = make()
    model.save_huggingface(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"]
    assert config["id2label"] == {str(i): label for i, label in enumerate(LABELS)}
    loaded = TokenClassifier.from_pretrained(str(tmp_path), max_length=32, dtype="float32")
    assert loaded.labels == LABELS
    np.testing.assert_array_equal(loaded.tagger.kernel.numpy(), model.tagger.kernel.numpy())


def test_a_crf_has_no_place_in_transformers(make, tmp_path):
    with pytest.raises(ValueError, match="crf/start"):
        make(crf=True).save_huggingface(tmp_path)


# Exports


def test_an_export_answers_as_the_tagger_does(make, tmp_path, monkeypatch):
    monkeypatch.setattr(saved_model, "fresh_process", reload.report)
    facts = make(max_length=16).export(tmp_path / "1")
    assert (facts["checked"], facts["max_difference"] < 1e-4) == (13, True)


@pytest.mark.slow
def test_an_export_of_a_trained_tagger_answers_in_a_fresh_process(trained, tmp_path):
    texts = [text for text, _ in TOYS] + ["Zoë: Rome😀  e\u0301 New York!", "Anna " * 200, "Rome \ud7a3 " * 3000]
    facts = trained.export(tmp_path / "1", check_texts=texts)
    assert facts["max_difference"] < 1e-4
    answers = reload.answer(tmp_path / "1", {"text": texts})
    for row, text in enumerate(texts):
        for i in range(answers["counts"][row]):
            start, end = answers["starts"][row, i], answers["ends"][row, i]
            assert answers["entities"][row, i].decode() == text[start:end]
    assert answers["counts"].sum() > 10


def test_bytes_that_are_not_utf8_are_served_as_replacement_characters(short):
    model, serve = short
    texts = [b"Rom\xff Anna", b"caf\xc3 New \xe2\x82York\xf0\x9f", b"\xfe", b""]
    served = serve(texts)
    answers = model.answer([text.decode("utf-8", errors="replace") for text in texts])
    assert sum(map(len, served)) > 1
    for found, answer in zip(served, answers, strict=True):
        assert [{**e, "score": 0} for e in found] == [{**e, "score": 0} for e in answer["entities"]]
        assert [e["score"] for e in found] == pytest.approx([e["score"] for e in answer["entities"]], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["roberta", "llama2", "t5", "bert_cased"])
def test_an_export_answers_with_every_kind_of_tokenizer(name, tmp_path, monkeypatch):
    monkeypatch.setattr(saved_model, "fresh_process", reload.report)
    tokenizer = Tokenizer.from_folder(GOLDEN / name)
    if tokenizer.pad_id is None:
        tokenizer = tokenizer.with_special_tokens(pad=tokenizer.vocabulary[0])
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, layers=1, heads=2, ffn_size=32, initializer_range=0.5
    )
    model = TokenClassifier(config, tokenizer, labels=LABELS, max_length=24, dtype="float32")
    assert model.export(tmp_path / "1")["max_difference"] < 1e-4
    texts = ["Anna lives  in New York.", "e\u0301 Zürich 東京 😀"]
    assert check_offsets(served_by(model), texts) > 2


def test_a_tokenizer_without_offsets_in_the_graph_is_refused_when_exported(tmp_path):
    tokenizer = Tokenizer.from_folder(GOLDEN / "qwen2")
    config = TransformerConfig(vocab_size=tokenizer.vocab_size, hidden_size=16, layers=1, heads=2, ffn_size=32)
    model = TokenClassifier(config, tokenizer, labels=LABELS, max_length=24, dtype="float32")
    with pytest.raises(NotImplementedError, match="offsets in the graph: the normalizer NFC"):
        model.export(tmp_path / "1")
    assert model.answer(["Anna"])[0].keys() == {"entities"}
