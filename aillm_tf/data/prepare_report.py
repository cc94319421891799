"""report.html of a prepared corpus: what fell away and why, with examples, lengths, duplicates and packing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aillm_tf.config import to_yaml
from aillm_tf.data.prepare_parts import Parts
from aillm_tf.data.prepare_sources import SourceFile
from aillm_tf.files import write_atomic
from aillm_tf.training.charts import Line, chart
from aillm_tf.training.report import report_page

_CHANGED = ("changed", "characters")
_SPLIT = ("documents", "rows", "tokens", "bytes", "bytes_per_token", "filled", "cut_documents")


def write_report(
    folder: Path,
    manifest: dict[str, Any],
    parts: Parts,
    chosen: np.ndarray,
    lengths: np.ndarray,
    duplicates: dict,
    files: Sequence[SourceFile],
) -> None:
    """Write report.html; the same corpus gives the same page.

    Args:
        folder: of the shards.
        manifest: of the corpus.
        parts: the documents after the first stages.
        chosen: (documents,) bool, those that are in the shards.
        lengths: (documents,) tokens of each.
        duplicates: what `find_duplicates` found.
        files: of the sources, which examples name.
    """
    stages = manifest["stages"]
    read = stages["read"]["documents"]
    fallen = [
        {"stage": stage, "why": why, "documents": count, "share": count / max(read, 1)}
        for stage, why, count in [
            ("read", "bad rows", stages["read"].get("bad rows", 0)),
            *((stage, why, n) for stage in ("quality", "contamination") for why, n in _sorted(stages.get(stage, {}))),
            *(("duplicates", why, stages["duplicates"][why]) for why in ("exact copies", "near-duplicates")),
        ]
        if count
    ]
    changed = [{"stage": stage, **counts} for stage, counts in stages.items() if set(counts) == set(_CHANGED)]
    train = manifest["splits"]["train"]
    kept = sum(split["documents"] for split in manifest["splits"].values())
    report = {
        "task": "Corpus",
        "scores": {
            "documents read": read,
            "documents in shards": kept,
            "tokens": sum(split["tokens"] for split in manifest["splits"].values()),
            "bytes per token": train["bytes_per_token"],
            "rows filled": train["filled"],
        },
        "tables": {
            "What fell away": fallen,
            "What was changed": changed,
            "Sources": manifest["sources"],
            "Splits": [
                {"split": name, **{key: split[key] for key in _SPLIT}} for name, split in manifest["splits"].items()
            ],
            "Languages": [{"language": code, "documents": n} for code, n in _sorted(stages.get("language", {}))],
            "Evaluation texts": [{"evaluation": name, "texts": n} for name, n in stages.get("evaluation", {}).items()],
            "Examples of what fell away": _examples(parts, fell=True),
            "Examples of what was changed": _examples(parts, fell=False),
            "Examples of near-duplicates": [
                {
                    "document": _place(parts, files, later),
                    "is like": _place(parts, files, earlier),
                    "similarity": alike,
                    "text": text,
                    "earlier text": before,
                }
                for later, earlier, text, before, alike in duplicates["examples"]
            ],
        },
        "tokenizer": manifest["tokenizer"],
        "version": manifest["version"],
    }
    page = report_page(report, {}, to_yaml(manifest["options"]))
    write_atomic(
        folder / "report.html",
        page.replace("<section>", f"{_charts(manifest, lengths[chosen], duplicates)}<section>", 1),
    )


def _sorted(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _place(parts: Parts, files: Sequence[SourceFile], document: int) -> str:
    return f"{files[parts.files[document]].uri}:{parts.lines[document]}"


def _examples(parts: Parts, fell: bool) -> list[dict[str, str]]:
    rows = [
        {"stage": stage, "why": what, "document": place, "text": text, "became": after}
        for stage, kinds in parts.examples.items()
        for what, found in kinds.items()
        for place, text, after in found
        if (what != "changed") == fell
    ]
    left_out = "became" if fell else "why"
    return [{name: value for name, value in row.items() if name != left_out} for row in rows]


def _charts(manifest: dict, lengths: np.ndarray, duplicates: dict) -> str:
    edges = np.arange(0, 45) / 2
    counts = np.histogram(np.log2(np.maximum(lengths, 1)), edges)[0]
    last = int(np.flatnonzero(counts).max(initial=0)) + 2
    length = Line("", edges[:last].tolist(), counts[:last].tolist(), "c0 dots")
    tenths = [5 + 10 * place for place in range(10)]
    filled = Line("", tenths, manifest["splits"]["train"]["rows_by_fill"], "c2 dots")
    alike = Line("", tenths, duplicates["similarity"], "c1 dots")
    return (
        chart("Documents by length", [length], "tokens, as a power of 2")
        + chart("Rows by how full they are", [filled], "filled, percent")
        + (chart("Pairs compared, by similarity", [alike], "similarity, percent") if duplicates["candidates"] else "")
    )
