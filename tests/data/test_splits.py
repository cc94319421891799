"""From sources to splits: no text twice, every row accounted for, the same split for the same seed."""

import random

import pytest

from aillm_tf.data.options import ClassificationData
from aillm_tf.data.splits import load_splits
from aillm_tf.text.dedup import duplicate_key

WORDS = "red green blue fast slow warm cold good bad long short old new big small high low near far".split()


def write(path, lines):
    path.write_text("".join(f"{text}\t{label}\n" for text, label in lines), encoding="utf-8")
    return str(path)


def sentences(count, seed=0):
    """Different sentences of 8 to 12 words, no two nearly alike, with the labels a and b in turn."""
    chosen = random.Random(seed)
    texts = [" ".join(chosen.choices(WORDS, k=chosen.randint(8, 12))) + f" {seed} {i}" for i in range(count)]
    return [(text, "ab"[i % 2]) for i, text in enumerate(texts)]


@pytest.fixture
def options(tmp_path):
    """ClassificationData of 60 rows in a file; fields by name."""
    train = write(tmp_path / "train.tsv", sentences(60))

    def make(**changes):
        return ClassificationData(**{"train": train, "text": "0", "label": "1", **changes})

    return make


def texts(*parts):
    return [text for part in parts if part for text in part.texts]


def test_every_row_is_in_one_split(options):
    splits = load_splits(options(validation_rows=0.2, test_rows=7), seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (41, 12, 7)
    assert sorted(texts(splits.train, splits.validation, splits.test)) == sorted(text for text, _ in sentences(60))


def test_rows_keep_their_labels(options):
    splits = load_splits(options(test_rows=7), seed=0)
    label_of = dict(sentences(60))
    for part in (splits.train, splits.validation, splits.test):
        assert part.labels == ["a", "b"]
        assert [part.labels[i] for i in part.label_ids] == [label_of[text] for text in part.texts]


def test_the_seed_decides_the_split(options):
    one, same, other = (load_splits(options(), seed=seed).validation.texts for seed in (0, 0, 1))
    assert one == same != other


def test_held_out_rows_stay_the_same_when_fewer_rows_train(options):
    all_rows, few = load_splits(options(), seed=0), load_splits(options(train_rows=10), seed=0)
    assert few.validation.texts == all_rows.validation.texts
    assert few.train.texts == all_rows.train.texts[:10]


def test_splits_given_as_sources_are_taken_whole(options, tmp_path):
    validation = write(tmp_path / "dev.tsv", sentences(9, seed=1))
    test = write(tmp_path / "test.tsv", sentences(5, seed=2))
    splits = load_splits(options(validation=validation, test=test, test_rows=20), seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (60, 9, 5)


def test_no_validation_rows_on_request(options):
    splits = load_splits(options(validation_rows=0), seed=0)
    assert splits.validation is None
    assert splits.test is None
    assert len(splits.train) == 60


@pytest.fixture
def repeated(options, tmp_path):
    """20 rows, 10 of which repeat others in other case and punctuation, 2 with another label."""
    rows = sentences(20)
    again = [(text.upper() + "!", label) for text, label in rows[:8]]
    contrary = [(text.title() + "?", "ab"[label == "a"]) for text, label in rows[8:10]]
    path = write(tmp_path / "repeated.tsv", rows + again + contrary)
    return lambda **changes: options(train=path, deduplicate=True, **changes)


def test_splits_share_no_text_once_deduplicated(repeated):
    for seed in range(3):
        splits = load_splits(repeated(validation_rows=0.3, test_rows=4), seed)
        keys = [duplicate_key(text) for text in texts(splits.train, splits.validation, splits.test)]
        assert len(keys) == len(set(keys)) == 18


def test_rows_held_out_in_sources_are_not_trained_on(repeated, tmp_path):
    held_out = write(tmp_path / "dev.tsv", [(text.upper(), label) for text, label in sentences(20)[:5]])
    splits = load_splits(repeated(validation=held_out), seed=0)
    assert splits.counts["training rows that are held out too"] == 5
    assert not {duplicate_key(t) for t in splits.train.texts} & {duplicate_key(t) for t in splits.validation.texts}


@pytest.mark.parametrize("clean", ["none", "text", "tweets"])
def test_counts_add_up(options, tmp_path, clean):
    rows = [*sentences(20), *sentences(20)[:4], ("<br/>", "a"), (sentences(20)[7][0], "a"), ("", "a")]
    path = write(tmp_path / "rows.tsv", rows)
    counts = load_splits(
        options(train=path, clean=clean, deduplicate=True, on_bad="skip", test_rows=3, validation_rows=0.1), seed=0
    ).counts
    fell_away = ("bad rows", "exact duplicates", "texts with contradictory labels", "near-duplicates")
    assert counts["rows read"] == len(rows)
    assert counts["bad rows"] == 1
    assert counts["rows read"] - sum(counts[name] for name in fell_away) == counts["rows kept"]
    emptied = counts.get("training rows empty once cleaned", 0)
    assert counts["train"] + counts["validation"] + counts["test"] + emptied == counts["rows kept"]


def test_cleaning_changes_training_texts_only(options, tmp_path):
    tweets = [(f"@someone number {i} is http://t.co/{i} &amp; good", "ab"[i % 2]) for i in range(10)]
    splits = load_splits(options(train=write(tmp_path / "t.tsv", tweets), clean="tweets", test_rows=2), seed=0)
    assert all(text.endswith("is http & good") and text.startswith("@user") for text in splits.train.texts)
    # scores are of texts as they will come to a served model
    assert {*splits.validation.texts, *splits.test.texts} <= {text for text, _ in tweets}


def test_pairs_are_split_and_compared_as_pairs(options, tmp_path):
    path = tmp_path / "pairs.tsv"
    rows = [("the same premise", text, label) for text, label in sentences(10)]
    path.write_text("text\tpair\tlabel\n" + "".join("\t".join(row) + "\n" for row in rows))
    splits = load_splits(ClassificationData(train=str(path), pair="pair", deduplicate=True, validation_rows=3), seed=0)
    pairs = [*splits.train.pairs, *splits.validation.pairs]
    assert splits.counts["exact duplicates"] == 0
    assert len(set(pairs)) == len(pairs)


def test_nothing_left_to_train_on_is_refused(options):
    with pytest.raises(ValueError, match=r"50 test rows and 10 validation rows leave nothing of 60.*data\.test_rows"):
        load_splits(options(test_rows=50, validation_rows=10), seed=0)


def test_more_training_rows_than_there_are_is_refused(options):
    with pytest.raises(ValueError, match=r"data\.train_rows asks for 55 rows, but only 54 are left"):
        load_splits(options(train_rows=55), seed=0)


def test_a_bad_row_is_named_by_file_and_line(options, tmp_path):
    path = write(tmp_path / "bad.tsv", [("fine", "a"), ("", "b")])
    with pytest.raises(ValueError, match=r"bad\.tsv:2"):
        load_splits(options(train=path), seed=0)
