"""Cleaning: what changes, what must not, and that every dropped row is counted."""

import unicodedata

import numpy as np
import pytest

from aillm_tf.text.clean import TWEETS, CleanOptions, clean_rows, clean_text


@pytest.mark.parametrize(
    "text, expected",
    [
        ("wo<b>rd</b>s<br/>here", "words here"),
        ('<p class="x">one</p><p>two</p>', "one two"),
        ("<script>var a = 1 < 2;</script>kept<!-- not\nkept -->", "kept"),
        ("a < b and c > d", "a < b and c > d"),
        ("I <3 you", "I <3 you"),
        ("R&D &amp; AT&T", "R&D & AT&T"),
        ("?a=1&region=2&copy=3", "?a=1&region=2&copy=3"),
        ("&lt;b&gt; &#x4e2d;&#25991;&nbsp;!", "<b> 中文 !"),
    ],
)
def test_markup_is_taken_out_and_nothing_else(text, expected):
    assert clean_text(text) == expected


def test_markup_stays_when_it_is_to_stay():
    assert clean_text("<b>&amp;</b>", CleanOptions(markup=False)) == "<b>&amp;</b>"


def test_no_control_character_is_left():
    every = "".join(
        chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cc", "Cs", "Zl", "Zp")
    )
    assert clean_text("a" + every + "b").replace(" ", "") == "ab"


def test_joiners_of_emoji_and_persian_are_kept():
    for text in ("👩\u200d🚀", "می\u200cخواهم"):
        assert clean_text(text) == text


@pytest.mark.parametrize("form, expected", [("NFC", "é Ａ ﬁ"), ("NFKC", "é A fi"), (None, "e\u0301 Ａ ﬁ")])
def test_unicode_form(form, expected):
    assert clean_text("e\u0301 Ａ ﬁ", CleanOptions(unicode_form=form)) == expected


def test_all_kinds_of_space_become_one():
    assert clean_text("\u3000one\u00a0\t two\r\nthree\u2028four ") == "one two three four"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("@bob: see http://t.co/x!", "@user: see http"),
        ("mail bob@home.org, WWW.HOME.ORG", "mail bob@home.org, http"),
        ("访问www.smallstonesoft.com交流，@张三", "访问http交流，@user"),
    ],
)
def test_links_and_mentions_are_replaced_when_asked(text, expected):
    assert clean_text(text, TWEETS) == expected
    assert clean_text(text) == text


def test_a_backslash_in_a_replacement_means_itself():
    assert clean_text("http://x.y", CleanOptions(links=r"\1")) == r"\1"


def test_cleaning_twice_changes_nothing_more():
    for text in ("a <b>b</b> @c http://d.e", "e\u0301\u200b x", "访问 www.x.com 好"):
        assert clean_text(clean_text(text, TWEETS), TWEETS) == clean_text(text, TWEETS)


def test_every_dropped_row_is_counted_by_reason():
    options = CleanOptions(min_characters=3, max_characters=5)
    cleaned = clean_rows(["four", "<br>", "ab", "abc  d", "far too long", "", "中文字"], options)
    assert cleaned.texts == ["four", "abc d", "中文字"]
    np.testing.assert_array_equal(cleaned.rows, [0, 3, 6])
    assert cleaned.counts == {"rows": 7, "kept": 3, "changed": 1, "empty": 2, "too_short": 1, "too_long": 1}


def test_no_rows_give_no_rows():
    assert clean_rows([]).texts == [] and clean_rows([]).rows.dtype == np.int64


def test_bounds_that_exclude_everything_are_refused():
    with pytest.raises(ValueError, match="max_characters 2 is below min_characters 3"):
        CleanOptions(min_characters=3, max_characters=2)


def test_an_unknown_unicode_form_is_refused():
    with pytest.raises(ValueError, match="unicode_form"):
        CleanOptions(unicode_form="NFD")
