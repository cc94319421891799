"""Tags of entities: schemes read, repaired and written."""

import pytest

from aillm_tf.data.tags import Entity, broken, entities, iob2, scheme_of, split_tag, tag_names, to_iob2

SAME = [Entity("PER", 0, 2), Entity("PER", 2, 3), Entity("LOC", 4, 7)]


@pytest.mark.parametrize(
    "scheme, tags",
    [
        ("IOB1", "I-PER I-PER B-PER O I-LOC I-LOC I-LOC"),
        ("IOB2", "B-PER I-PER B-PER O B-LOC I-LOC I-LOC"),
        ("BIOES", "B-PER E-PER S-PER O B-LOC I-LOC E-LOC"),
        ("BIOES", "B-PER L-PER U-PER O B-LOC I-LOC L-LOC"),
        ("BIOES", "B-PER E-PER W-PER O B-LOC M-LOC E-LOC"),
    ],
)
def test_every_scheme_says_the_same_entities(scheme, tags):
    tags = tags.split()
    assert (scheme_of([["O"], tags]), broken(tags, scheme), entities(tags)) == (scheme, 0, SAME)


def test_what_is_read_is_written_as_iob2():
    assert iob2(SAME, 8) == "B-PER I-PER B-PER O B-LOC I-LOC I-LOC O".split()


@pytest.mark.parametrize(
    "scheme, tags, count, found",
    [
        ("IOB2", "O I-LOC I-LOC", 1, [Entity("LOC", 1, 3)]),
        ("IOB2", "B-PER I-LOC", 1, [Entity("PER", 0, 1), Entity("LOC", 1, 2)]),
        ("BIOES", "B-LOC O E-PER", 2, [Entity("LOC", 0, 1), Entity("PER", 2, 3)]),
        ("BIOES", "S-LOC I-LOC", 1, [Entity("LOC", 0, 1), Entity("LOC", 1, 2)]),
    ],
)
def test_broken_tags_are_counted_and_repaired(scheme, tags, count, found):
    assert (broken(tags.split(), scheme), entities(tags.split())) == (count, found)


def test_strict_entities_begin_with_b():
    assert entities("I-PER B-LOC I-LOC I-PER".split(), strict=True) == [Entity("LOC", 1, 3)]


def test_a_type_may_hold_hyphens():
    assert split_tag("B-creative-work") == ("B", "creative-work")


@pytest.mark.parametrize("tag", ["PER", "X-PER", "B", "", "o"])
def test_what_is_no_tag_is_refused(tag):
    with pytest.raises(ValueError, match="is no tag"):
        split_tag(tag)


def test_labels_begin_with_outside():
    assert tag_names(["A", "B"]) == ["O", "B-A", "I-A", "B-B", "I-B"]


@pytest.mark.parametrize(
    ("predicted", "labels", "expected"),
    [
        ("I-A I-A O I-B", "O B-A I-A B-B I-B", "B-A I-A O B-B"),  # IOB1
        ("S-A B-A E-A O", "O B-A I-A E-A S-A", "B-A B-A I-A O"),
        ("I-A O B-A", "O B-A I-A", "I-A O B-A"),  # IOB2, broken
        ("O O", "O I-A", "O O"),
    ],
)
def test_predictions_become_iob2_where_the_head_is_of_another_scheme(predicted, labels, expected):
    assert to_iob2([predicted.split()], labels.split()) == [expected.split()]


def test_a_head_of_iob1_may_part_two_entities_of_a_type():
    sentences = [["I-A", "B-A"], *[["I-A"]] * 10]
    assert to_iob2(sentences, ["O", "B-A", "I-A"]) == [["B-A", "B-A"], *[["B-A"]] * 10]
