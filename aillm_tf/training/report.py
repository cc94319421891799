"""report.json and report.html: what was trained, on what, how well and how fast, in files that need nothing else."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from aillm_tf import machine
from aillm_tf.config import flatten
from aillm_tf.files import write_atomic
from aillm_tf.training.charts import Line, chart, smoothed
from aillm_tf.training.marked_text import STYLE, marked_texts
from aillm_tf.training.metrics_log import plain_numbers
from aillm_tf.training.references import beside, for_run
from aillm_tf.training.report_template import TEMPLATE

WIDEST_CONFUSION = 25  # classes; a larger matrix is told as the list of its most frequent confusions
SPEED = {
    "steps": ("steps", "{:,.0f}"),
    "training_seconds": ("training time", "{:,.1f} s"),
    "examples_per_second": ("examples / s", "{:,.1f}"),
    "tokens_per_second": ("tokens / s", "{:,.0f}"),
    "mfu": ("MFU", "{:.1%}"),
    "padding_fraction": ("padding", "{:.1%}"),
    "skipped_steps": ("skipped steps", "{:,.0f}"),
    "seconds_to_first_step": ("to first step", "{:,.1f} s"),
}
SHOWN_APART = {"scores", "confusion", "labels", "tables", "marked", "versions", "hardware", "date", "task", *SPEED}
SHOWN_APART |= {"references", "charts"}


def write_report(
    directory: str | os.PathLike,
    report: Mapping[str, Any],
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    config_yaml: str = "",
) -> dict:
    """Writes report.json and report.html, each as a whole.

    Args:
        directory: where; must exist.
        report: ``task``, ``seed``, ``scores`` and whatever else was measured; ``confusion`` ((classes, classes)
            counts, row is the true class) with ``labels``; ``tables``, title -> list of dicts with the same keys;
            ``marked``, title -> rows as `aillm_tf.training.marked_text` shows them; ``charts``, title -> list of dicts
            of ``title``, ``x`` (the label of that axis) and ``lines``, each [name, xs, ys, style] as `charts.Line`.
        curves: name -> rows of metrics.jsonl. Several are drawn into the same charts; a single one may be named "".
        config_yaml: the resolved config, for the page.

    Returns:
        The report with versions, hardware, date (UTC) and the published scores of a known benchmark added: what
        report.json holds.

    Raises:
        ValueError: the confusion matrix has not as many rows and columns as there are labels.
    """
    report = plain_numbers({k: v for k, v in report.items() if v is not None})
    labels, confusion = report.get("labels"), report.get("confusion")
    if confusion is not None and [len(row) for row in confusion] != [len(labels or [])] * len(labels or []):
        raise ValueError(f"the confusion matrix needs one row and one column for each of the labels {labels}")
    references = for_run(yaml.safe_load(config_yaml)) if report.get("scores") else None
    if references:
        report["references"] = references
    report["versions"] = machine.versions()
    report["hardware"] = machine.hardware()
    report["date"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    text = json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    write_atomic(Path(directory) / "report.json", text)
    write_atomic(Path(directory) / "report.html", report_page(report, curves, config_yaml))
    return report


def report_page(
    report: Mapping[str, Any], curves: Mapping[str, Sequence[Mapping[str, Any]]], config_yaml: str = ""
) -> str:
    """The report as one HTML page that loads nothing from elsewhere; light or dark as the reader's system.

    Args:
        report: what report.json holds.
        curves: name -> rows of metrics.jsonl.
        config_yaml: the resolved config.

    Returns:
        The page.
    """
    title = str(report.get("task", "Run"))
    hardware = report.get("hardware", {})
    place = " · ".join(
        str(part)
        for part in (
            hardware.get("cpu"),
            hardware.get("cores") and f"{hardware['cores']} cores",
            hardware.get("memory_gib") and f"{hardware['memory_gib']} GiB",
            ", ".join(hardware.get("devices", [])),
        )
        if part
    )
    plain = flatten({name: value for name, value in report.items() if name not in SHOWN_APART})
    plain = {name.replace(".", " "): value for name, value in plain.items() if not isinstance(value, (dict, list))}
    sections = [
        _tiles(report.get("scores", {})),
        _speed(report),
        _references(report),
        *(_section(name, _charts(charts)) for name, charts in report.get("charts", {}).items()),
        *(_section(name, _table(rows)) for name, rows in report.get("tables", {}).items()),
        _section("Training", _curves(curves)),
        _section("Validation", _validation(curves)),
        _section("Confusion", _confusion(report)),
        _section("Classes", _classes(report)),
        *(_section(name, marked_texts(rows)) for name, rows in report.get("marked", {}).items()),
        _section("Facts", _pairs(plain)),
        _section("Config", f"<pre>{escape(config_yaml)}</pre>" if config_yaml else ""),
        _section("Versions", _pairs(report.get("versions", {}))),
    ]
    date = str(report.get("date", ""))[:16].replace("T", " ")
    subtitle = " · ".join(filter(None, [date and f"{date} UTC", place]))
    page = TEMPLATE
    for mark, value in (("TITLE", escape(title)), ("SUBTITLE", escape(subtitle)), ("BODY", "\n".join(sections))):
        page = page.replace(f"<!--{mark}-->", value)
    page = page.replace("</style>", f"{STYLE}</style>", 1)
    return page


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _number(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if value and abs(value) < 1e-3:
            return f"{value:.2e}"
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"
    return str(value)


def _tiles(scores: Mapping[str, Any]) -> str:
    tiles = []
    for name, value in scores.items():
        base, _, end = name.rpartition("_")
        if (end in ("low", "high", "std") and base in scores) or not isinstance(value, (int, float)):
            continue
        low, high, std = (scores.get(f"{name}_{end}") for end in ("low", "high", "std"))
        interval = f"<small>95 %: {low:.3f} – {high:.3f}</small>" if low is not None and high is not None else ""
        interval = f"<small>± {std:.3f}</small>" if std is not None else interval
        text = f"{value:.3f}" if isinstance(value, float) and abs(value) < 10 else _number(value)
        tiles.append(f"<div><span>{escape(name.replace('_', ' '))}</span><b>{text}</b>{interval}</div>")
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _references(report: Mapping[str, Any]) -> str:
    found = report.get("references")
    if not found:
        return ""
    rows = beside(found, report.get("scores", {}), report.get("scored_on", ""))
    return _section(f"Published scores: {found['title']}", _table(rows))


def _speed(report: Mapping[str, Any]) -> str:
    found = [(label, form.format(report[key])) for key, (label, form) in SPEED.items() if report.get(key) is not None]
    return (
        f'<dl class="speed">{"".join(f"<div><dt>{a}</dt><dd>{b}</dd></div>" for a, b in found)}</dl>' if found else ""
    )


def _pairs(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(str(k).replace('_', ' '))}</th><td>{escape(_number(v))}</td></tr>" for k, v in values.items()
    )
    return f'<div class="scroll"><table class="pairs">{rows}</table></div>' if rows else ""


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {name for name in names if all(isinstance(row.get(name, 0), (int, float, type(None))) for row in rows)}
    css = {name: ' class="n"' if name in numeric else "" for name in names}
    head = "".join(f"<th{css[name]}>{escape(name.replace('_', ' '))}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td{css[name]}>{escape(_number(row.get(name)))}</td>" for name in names) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _charts(charts: Sequence[Mapping[str, Any]]) -> str:
    return "".join(chart(each["title"], [Line(*line) for line in each["lines"]], each["x"]) for each in charts)


def _curves(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    loss, rate = [], []
    for index, (name, rows) in enumerate(curves.items()):
        steps = [row for row in rows if "epoch" not in row and row.get("loss") is not None]
        xs, ys = [row["step"] for row in steps], [row["loss"] for row in steps]
        loss.insert(index, Line("" if name else "each step", xs, ys, f"c{index % 6} raw"))
        loss.append(Line(name or "smoothed", xs, smoothed(ys, len(ys) / 20), f"c{index % 6}"))
        rated = [row for row in steps if "learning_rate" in row]
        rate.append(Line(name, [r["step"] for r in rated], [r["learning_rate"] for r in rated], f"c{index % 6}"))
    return chart("Loss", loss, "step") + chart("Learning rate", rate, "step")


def _validation(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    lines, table = [], []
    for name, rows in curves.items():
        epochs = [row for row in rows if "epoch" in row]
        metrics = [key for key in dict.fromkeys(k for row in epochs for k in row) if key.startswith("val_")]
        metrics = [key for key in metrics if key.rpartition("_")[0] not in metrics and key != "val_examples"]
        for metric in metrics:
            if metric == "val_loss" or len(epochs) < 2:
                continue
            measured = [row for row in epochs if row.get(metric) is not None]
            line = Line(
                f"{name} {metric[4:]}".strip().replace("_", " "),
                [row["epoch"] for row in measured],
                [row[metric] for row in measured],
                f"c{len(lines) % 6} dots",
            )
            lines.append(line)
        for row in epochs:
            shown = {key.replace("val_loss", "validation_loss").removeprefix("val_"): row.get(key) for key in metrics}
            table.append(
                {**({"run": name} if name else {}), "epoch": row["epoch"], "train_loss": row.get("train_loss"), **shown}
            )
    return chart("Metrics by epoch", lines, "epoch") + _table(table)


def _confusion(report: Mapping[str, Any]) -> str:
    confusion, labels = report.get("confusion"), report.get("labels")
    if confusion is None:
        return ""
    if len(labels) > WIDEST_CONFUSION:
        wrong = [
            {"true": labels[i], "answered": labels[j], "times": count, "of": sum(row)}
            for i, row in enumerate(confusion)
            for j, count in enumerate(row)
            if i != j and count
        ]
        return "<p>The most frequent confusions.</p>" + _table(sorted(wrong, key=lambda row: -row["times"])[:20])
    head = "".join(f"<th>{escape(label)}</th>" for label in labels)
    body = []
    for i, row in enumerate(confusion):
        cells = []
        for j, count in enumerate(row):
            share = count / sum(row) if sum(row) else 0.0
            css = "right" if i == j else "wrong"
            cells.append(f'<td class="{css}" style="--p:{share:.3f}">{count:,}<small>{share:.1%}</small></td>')
        body.append(f"<tr><th>{escape(labels[i])}</th>{''.join(cells)}</tr>")
    return (
        '<p>Rows: the true class. Columns: the answer. Percentages are of the row.</p><div class="scroll">'
        f'<table class="confusion"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def _classes(report: Mapping[str, Any]) -> str:
    if report.get("confusion") is None:
        return ""
    from aillm_tf.metrics.classification import per_class

    return _table(per_class(report["confusion"], report["labels"]))
