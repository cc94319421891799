"""Score a run on labelled data."""

from __future__ import annotations

import argparse
import json
import sys

from aillm_tf.verbs import positive
from aillm_tf.verbs.models import find_model


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run directory, or a saved model")
    parser.add_argument("--data", required=True, metavar="URI", help="labelled rows: a file, tfds:, hf: or pypi: uri")
    parser.add_argument("--batch_size", type=positive, default=64, metavar="N", help="rows at a time (default: 64)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    from aillm_tf.training.evaluate import evaluate_run

    folder = find_model(arguments.run, exports=False)
    scores = evaluate_run(
        folder, arguments.data, arguments.batch_size, progress=sys.stdout.isatty() and not arguments.json
    )
    print(json.dumps(scores, ensure_ascii=False) if arguments.json else scores_table(scores))
    return 0


def scores_table(scores: dict[str, float]) -> str:
    """Scores as aligned lines; a score with an interval shows it on the same line.

    Example:
        >>> print(scores_table({"accuracy": 0.77, "accuracy_low": 0.7546, "accuracy_high": 0.7847, "examples": 3000}))
        accuracy  0.7700  (95 %: 0.7546 to 0.7847)
        examples    3000
    """
    rows = []
    for name, value in scores.items():
        base, _, end = name.rpartition("_")
        if end in ("low", "high") and base in scores:
            continue
        low, high = scores.get(f"{name}_low"), scores.get(f"{name}_high")
        interval = f"  (95 %: {low:.4f} to {high:.4f})" if low is not None and high is not None else ""
        rows.append((name, f"{value:.4f}" if isinstance(value, float) else str(value), interval))
    width, digits = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
    return "\n".join(f"{name:<{width}}  {value:>{digits}}{interval}" for name, value, interval in rows)
