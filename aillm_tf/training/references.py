"""Published scores of well-known benchmarks (references.yaml), to stand beside ours."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from aillm_tf.config import did_you_mean, flatten

NOT_SCORES = ("system", "split", "source")


@functools.cache
def benchmarks() -> dict[str, dict[str, Any]]:
    """Name -> ``title``, ``names`` and ``scores``, as references.yaml has them."""
    return yaml.safe_load(Path(__file__).with_name("references.yaml").read_text(encoding="utf-8"))


def published(name: str) -> dict[str, Any]:
    """A benchmark's ``name``, ``title`` and ``scores``.

    Args:
        name: of the benchmark.

    Raises:
        ValueError: there is no such benchmark; the nearest is suggested.

    Example:
        >>> published("sst2")["scores"][0]["system"]
        'RNTN'
    """
    known = benchmarks()
    if name not in known:
        raise ValueError(
            f"no published scores of {name!r}{did_you_mean(name, list(known))} There are: {', '.join(known)}"
        )
    return {"name": name, "title": known[name]["title"], "scores": known[name]["scores"]}


def recognised(sources: Iterable[Any]) -> str | None:
    """The benchmark that the names of data sources speak of; None where it is none, or not one alone.

    Args:
        sources: uris; what is no string is passed over.

    Example:
        >>> recognised(["data/sst2/train.tsv", None]), recognised(["hf:conll2003:test"]), recognised(["mine.tsv"])
        ('sst2', 'conll2003', None)
    """
    names = [source.lower() for source in sources if isinstance(source, str)]
    found = {
        benchmark
        for benchmark, facts in benchmarks().items()
        if any(re.search(pattern, name) for pattern in facts["names"] for name in names)
    }
    return found.pop() if len(found) == 1 else None


def for_run(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The published scores that belong to a run.

    Args:
        config: of the run, as nested dicts: ``benchmark`` names them ("none" for none), or its ``data`` are recognised.
    """
    config = config or {}
    name, data = config.get("benchmark"), config.get("data")
    if name is None:
        held = ("train", "validation", "test")
        flat = flatten(data) if isinstance(data, Mapping) else {"train": data}
        name = recognised(value for key, value in flat.items() if key.partition(".")[0] in held)
    return None if name in (None, "none") else published(name)


def beside(references: Mapping[str, Any], scores: Mapping[str, Any], split: str = "") -> list[dict[str, Any]]:
    """Published scores and ours as rows of a table, ours first.

    Args:
        references: what `published` gave.
        scores: ours.
        split: what ours are of.
    """
    metrics = list(dict.fromkeys(key for row in references["scores"] for key in row if key not in NOT_SCORES))
    ours = {"system": "this model", "split": split, **{name: scores.get(name) for name in metrics}, "source": ""}
    theirs = [
        {"system": row["system"], "split": row["split"], **{m: row.get(m) for m in metrics}, "source": row["source"]}
        for row in references["scores"]
    ]
    return [ours, *theirs]


def as_text(references: Mapping[str, Any]) -> str:
    """Published scores as lines."""
    lines = [f"published, {references['title']}:"]
    for row in references["scores"]:
        scores = ", ".join(f"{name} {value}" for name, value in row.items() if name not in NOT_SCORES)
        lines.append(f"  {row['system']} ({row['split']}): {scores}   {row['source']}")
    return "\n".join(lines)
