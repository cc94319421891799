"""Texts with marked stretches."""

from aillm_tf.training.marked_text import marked_texts


def test_marks_stand_where_they_belong_and_text_is_escaped():
    lines = {"true": [[0, 3, "A&B", True]], "answered": [[4, 7, "C", False]]}
    page = marked_texts([{"text": "a<b >c>", "note": "x:1", "lines": lines}])
    assert "<span>true</span>" in page and "<small>x:1</small>" in page
    assert '<mark class="good">a&lt;b<small>A&amp;B</small></mark> &gt;c&gt;' in page
    assert 'a&lt;b <mark class="bad">&gt;c&gt;<small>C</small></mark>' in page
