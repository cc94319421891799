"""Writes squad.npz: the scores that SQuAD's official scripts give 1,000 sets of predictions.

The script for v1.1 lies in allennlp 0.9.0 as it was published; that for v2.0 in transformers 4.46.3 as `squad_metrics`,
with examples in place of the JSON file. Neither package is installed: their wheels are unpacked into a folder, from
which the two files are read. (torchmetrics and later scripts give two texts without words an F1 of 1 in v1.1, too.)

    pip download --no-deps -d wheels transformers==4.46.3 allennlp==0.9.0
    for wheel in wheels/*.whl; do unzip -q -o $wheel -d unpacked; done
    python tests/golden/make_squad.py unpacked
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import types
from pathlib import Path

import numpy as np
from squad_sets import prediction_sets

V2 = (
    *("exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1"),
    *("best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"),
)


def load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def squad_metrics(folder: Path):
    """The module, without the package around it: of that it needs a logger, and a tokenizer that is not used here."""
    for name in ("old", "old.data", "old.data.metrics", "old.models", "old.models.bert", "old.utils"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["old.models.bert"].BasicTokenizer = None
    sys.modules["old.utils"].logging = types.SimpleNamespace(get_logger=logging.getLogger)
    return load("old.data.metrics.squad_metrics", folder / "transformers" / "data" / "metrics" / "squad_metrics.py")


def v2_scores(module, one: dict) -> list[float]:
    examples = [
        types.SimpleNamespace(qas_id=str(i), answers=[{"text": text} for text in golds])
        for i, golds in enumerate(one["golds"])
    ]
    answers = {str(i): answer for i, answer in enumerate(one["answers"])}
    no_answer = {str(i): p for i, p in enumerate(one["no_answer"])}
    found = module.squad_evaluate(examples, answers, no_answer, no_answer_probability_threshold=1.0)
    return [found.get(name, np.nan) for name in V2]


def v1_scores(module, one: dict) -> list[float]:
    if not all(one["golds"]):
        return [np.nan] * 2
    questions = [{"id": str(i), "answers": [{"text": text} for text in golds]} for i, golds in enumerate(one["golds"])]
    answers = {str(i): answer for i, answer in enumerate(one["answers"])}
    found = module.evaluate([{"paragraphs": [{"qas": questions}]}], answers)
    return [found["exact_match"], found["f1"]]


if __name__ == "__main__":
    unpacked = Path(sys.argv[1])
    v1, v2 = load("squad_eval", unpacked / "allennlp" / "tools" / "squad_eval.py"), squad_metrics(unpacked)
    sets = prediction_sets()
    np.savez_compressed(
        Path(__file__).with_name("squad.npz"),
        v1=np.array([v1_scores(v1, one) for one in sets]),
        v2=np.array([v2_scores(v2, one) for one in sets]),
    )
