"""The cleaning stages of documents keep text and lines, and take out what is not text."""

import pytest

from aillm_tf.text.clean import DOCUMENT_STAGES, drop_boilerplate, drop_control, drop_markup, normalise


def test_paragraphs_stay_paragraphs():
    assert normalise("one\r\ntwo  \n\n\n\nthree\u3000four") == "one\ntwo\n\nthree four"


def test_blocks_end_lines_and_inline_tags_do_not():
    assert normalise(drop_markup("<div>A <em>fine</em> day<br>ends</div><script>x<y</script>")) == "A fine day\nends"


@pytest.mark.parametrize("text", ["map<unk> vector<T> a < b > c", "AT&T ?a=1&region=2"])
def test_what_only_looks_like_markup_stays(text):
    assert drop_markup(text) == text


def test_invisible_characters_go_and_line_ends_stay():
    assert drop_control("a\x00b\u200b\nc\ud800\td") == "ab\nc\td"


def test_boilerplate_lines_go_and_long_lines_about_it_stay():
    about = "The court found that the privacy policy of the company had been changed without notice. " * 3
    assert drop_boilerplate(f"Text.\n{about}\nSkip to content\n版权所有 2020") == f"Text.\n{about}".strip()


def test_cleaning_twice_changes_nothing():
    text = "<p>A&nbsp;B</p>\r\n\x07<ul><li>C</li></ul>\nAll rights reserved."
    for stage in DOCUMENT_STAGES.values():
        text = stage(text)
    again = text
    for stage in DOCUMENT_STAGES.values():
        again = stage(again)
    assert text == again == "A B\n\nC"
