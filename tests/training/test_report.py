"""report.html: complete, self-contained, safe with any label; and the charts in it."""

import re

import pytest

from aillm_tf.training.charts import Line, chart, smoothed, thinned, ticks
from aillm_tf.training.report import report_page, write_report

ROWS = [
    *({"step": n, "loss": 2.0 / n, "learning_rate": 1e-5 * n} for n in range(1, 41)),
    {"epoch": 1, "step": 20, "train_loss": 0.4, "val_loss": 0.5, "val_accuracy": 0.7, "val_accuracy_low": 0.6},
    {"epoch": 2, "step": 40, "train_loss": 0.2, "val_loss": 0.4, "val_accuracy": 0.8, "val_accuracy_low": 0.7},
]
REPORT = {
    "task": "TextClassifier",
    "scores": {"accuracy": 0.77, "accuracy_low": 0.755, "accuracy_high": 0.785},
    "labels": ["负面", "<b>正面</b>"],
    "confusion": [[30, 10], [5, 55]],
    "examples_per_second": 67.9,
    "data": {"train": 2000, "held out": 3000},
    "tables": {"Two models": [{"model": "pretrained", "accuracy": 0.77}, {"model": "scratch", "accuracy": 0.655}]},
}


@pytest.fixture(scope="module")
def page():
    return report_page(REPORT, {"": ROWS}, "seed: 0\n")


@pytest.mark.parametrize(
    "text",
    [
        "0.770",
        "95 %: 0.755 – 0.785",
        "负面",
        "75.0%",
        "examples / s",
        "Loss",
        "Learning rate",
        "seed: 0",
        "Two models",
        "data held out",
    ],
)
def test_page_shows(page, text):
    assert text in page


def test_page_loads_nothing_from_elsewhere(page):
    assert not re.search(r"""(src|href)\s*=|url\(|@import|<script|https?://""", page)


def test_labels_are_escaped(page):
    assert "<b>正面</b>" not in page
    assert "&lt;b&gt;正面&lt;/b&gt;" in page


def test_tags_are_balanced(page):
    for tag in ("section", "table", "tr", "td", "figure", "svg", "div", "dl"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag


def test_long_run_makes_a_small_page():
    rows = [{"step": n, "loss": 1.0 / n, "learning_rate": 1e-5} for n in range(1, 50_001)]
    assert len(report_page(REPORT, {"": rows})) < 150_000


def test_many_classes_are_listed_by_confusion():
    labels = [f"intent {n}" for n in range(30)]
    confusion = [[9 if i == j else int((i, j) == (3, 7)) * 4 for j in range(30)] for i in range(30)]
    page = report_page({"labels": labels, "confusion": confusion}, {})
    assert "The most frequent confusions" in page
    assert '<td>intent 3</td><td>intent 7</td><td class="n">4</td><td class="n">13</td>' in page


def test_report_of_nothing_is_a_page():
    assert "<h1>Run</h1>" in report_page({}, {})


def test_confusion_without_its_labels_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="one row and one column for each"):
        write_report(tmp_path, {"confusion": [[1, 0], [0, 1]], "labels": ["a"]}, {})
    assert list(tmp_path.iterdir()) == []


def test_failed_write_keeps_the_old_report(tmp_path, monkeypatch):
    write_report(tmp_path, {"task": "first"}, {})
    before = (tmp_path / "report.json").read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path, {"task": "second"}, {})
    assert (tmp_path / "report.json").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_thinning_keeps_the_extremes():
    ys = [0.5] * 10_000
    ys[1234], ys[7777] = 9.0, -3.0
    xs, thin = thinned(range(10_000), ys, most=200)
    assert len(xs) <= 210
    assert (max(thin), min(thin)) == (9.0, -3.0)
    assert xs == sorted(xs)


def test_smoothing_is_unbiased_from_the_first_value():
    assert smoothed([4.0, 4.0, 4.0], 20) == pytest.approx([4.0, 4.0, 4.0])
    assert smoothed([1.0, 5.0], 1) == [1.0, 5.0]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.31, 0.52, [0.35, 0.4, 0.45, 0.5]), (0, 5e-5, [0, 1e-5, 2e-5, 3e-5, 4e-5, 5e-5])],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high, 5) == pytest.approx(expected)


def test_missing_values_are_left_out_of_a_line():
    drawn = chart("x", [Line("", [1, 2, 3], [1.0, None, 3.0])], "step")
    assert "nan" not in drawn and "None" not in drawn


def test_constant_line_and_single_point_can_be_drawn():
    assert "<circle" in chart("x", [Line("", [5], [2.0])], "step")
    assert "<path" in chart("x", [Line("", [1, 2], [0.0, 0.0])], "step")
