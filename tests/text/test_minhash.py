"""MinHash bands find what they promise; the similarity of a pair is the true one."""

import numpy as np
import pytest

from aillm_tf.text.minhash import NO_BAND, band_shape, bands, shingles, similarity
from aillm_tf.text.units import split_units

WORDS = np.array([f"w{n}" for n in range(5000)])


@pytest.fixture(scope="module")
def pairs():
    """400 documents, and the same with one passage replaced so that they share 0.8 of their runs."""
    rng = np.random.default_rng(0)
    first = [rng.choice(WORDS, 200) for _ in range(400)]
    second = [np.r_[d[:60], rng.choice(WORDS, 18), d[78:]] for d in first]
    units = split_units([" ".join(d) for d in first + second])
    return shingles(units)


def test_similarity_is_the_jaccard_similarity_of_five_word_runs(pairs):
    hashes, starts = pairs
    found = similarity(hashes, starts, np.arange(400), np.arange(400) + 400)
    assert np.allclose(found, 174 / (196 + 196 - 174), atol=0.02)


def test_pairs_at_the_threshold_share_a_band(pairs):
    found = bands(*pairs, threshold=0.79)
    assert np.mean((found[:400] == found[400:]).any(1)) >= 0.99


def test_other_documents_share_none(pairs):
    found = bands(*pairs, threshold=0.79)
    assert not (found[:399] == found[1:400]).any()


def test_bands_do_not_depend_on_the_company(pairs, monkeypatch):
    hashes, starts = pairs
    whole = bands(hashes, starts, 0.65)
    monkeypatch.setattr("aillm_tf.text.minhash._BLOCK", 1000)
    assert np.array_equal(bands(hashes, starts, 0.65), whole)
    assert np.array_equal(bands(hashes[: starts[3]], starts[:4], 0.65), whole[:3])


def test_a_document_without_a_run_has_no_band():
    found = bands(*shingles(split_units(["four words are few", "", "now there are five words"])), threshold=0.65)
    assert (found[:2] == NO_BAND).all() and (found[2] != NO_BAND).all()


def test_the_shape_of_bands_misses_one_pair_in_200_at_most():
    for threshold in (0.5, 0.65, 0.8, 0.95):
        count, rows = band_shape(threshold)
        assert (1 - threshold**rows) ** count <= 0.0051
