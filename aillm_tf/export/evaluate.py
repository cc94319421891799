"""Score an exported SavedModel by what it answers, with nothing of the model but the SavedModel."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from aillm_tf.config import did_you_mean
from aillm_tf.data.conll import Tagged, tagged
from aillm_tf.data.parallel import Parallel, read_parallel
from aillm_tf.data.sources import Labelled, labelled
from aillm_tf.data.squad import Questions, read_squad
from aillm_tf.data.tags import to_iob2
from aillm_tf.metrics import classification, entities, squad, summaries, translation
from aillm_tf.training.evaluate import Evaluation, columns_of_run
from aillm_tf.training.loop import watched

Ask = Callable[..., dict[str, list]]


def evaluate_export(
    folder: Path, uri: Any, reading: Mapping[str, Any] | None = None, batch_size: int = 64, progress: bool = True
) -> Evaluation:
    """Scores an export.

    Args:
        folder: of the SavedModel, with the ``serving`` folder that export wrote. In RUN/export/N, columns are those of
            the run's config.
        uri: the labelled rows, as the task's `dataset` takes them.
        reading: names of columns, ``on_bad`` and ``encoding_errors``.
        batch_size: rows asked at a time.
        progress: whether to draw a progress bar.

    Returns:
        The metrics that answers alone decide: no loss, and no threshold that would have been better.

    Raises:
        ValueError: the SavedModel is no export of a task, or of one whose answers have no score; or a bad row.
    """
    import tensorflow_text  # noqa: F401  registers the ops of the tokenizer in the graph

    file = folder / "serving" / "model.json"
    if not file.is_file():
        raise ValueError(f"{folder} has no serving/model.json: give a SavedModel that `aillm export` wrote")
    about = json.loads(file.read_text(encoding="utf-8"))
    kind = "".join(part.capitalize() for part in about["name"].split("_"))
    if kind not in SCORED:
        raise ValueError(
            f"{folder} is an export of a task ({about['name']}) whose answers have no score: evaluate the run or the "
            "saved model that it was made of"
        )
    read, score = SCORED[kind]
    known = {"encoding_errors" if name == "errors" else name for name in inspect.signature(read).parameters}
    options = {**columns_of_run(folder.parents[1] / "config.yaml", known), **(reading or {})}
    for name in options:
        if name not in known:
            raise ValueError(f"{kind} does not read rows by {name!r}{did_you_mean(name, sorted(known))}")
    if read is labelled:
        pair = {"pair": options.get("pair", "pair")} if "pair" in about["inputs"] else {}
        options |= {"labels": about["labels"], "multi_label": "label" not in about["outputs"], **pair}
    options = {"errors" if name == "encoding_errors" else name: value for name, value in options.items()}
    rows, loaded = read(uri, **options), tf.saved_model.load(str(folder))

    def ask(signature: str = "serving_default", **columns: Sequence) -> dict[str, list]:
        """Outputs by name, a list with one value or array a row, for columns of strings or of lists of strings."""
        function, answers = loaded.signatures[signature], {}
        sizes = [sum(map(len, row)) for row in zip(*columns.values(), strict=True)]
        order = np.argsort(sizes, kind="stable")  # similar lengths together
        bar = keras.utils.Progbar(len(order), verbose=int(progress and watched()), unit_name="row")
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            given = {name: _tensor([column[i] for i in chosen]) for name, column in columns.items()}
            for name, values in function(**given).items():
                answers.setdefault(name, []).extend(values.numpy())
            bar.update(start + len(chosen))
        back = np.argsort(order)
        return {name: [values[i] for i in back] for name, values in answers.items()}

    scores, tally = score(ask, about, rows)
    return Evaluation(kind, scores, [tally])


def _tensor(column: list) -> tf.Tensor:
    if isinstance(column[0], str):
        return tf.constant(column)
    return tf.ragged.constant(column, tf.string, ragged_rank=1).to_tensor("")


def _classifier(ask: Ask, about: dict, rows: Labelled) -> tuple:
    columns = dict(zip(about["inputs"], (rows.texts, rows.pairs), strict=False))
    found = np.stack(ask(**columns)["probabilities"])
    if "label" in about["outputs"]:
        predicted = found.argmax(-1)
        tally = classification.classification_tally(rows.label_ids, predicted, rows.labels)
        return classification.classification_scores(rows.label_ids, predicted), tally
    tally = classification.multi_label_tally(rows.label_ids, found >= 0.5, rows.labels)
    return classification.multi_label_scores(rows.label_ids, found >= 0.5), tally


def _tagger(ask: Ask, about: dict, rows: Tagged) -> tuple:
    tags = ask("pretokenized", tokens=[rows.tokens(i) for i in range(len(rows))])["tags"]
    predicted = [[tag.decode() for tag in row[: len(true)]] for row, true in zip(tags, rows.tags, strict=True)]
    predicted = to_iob2(predicted, about["labels"])
    return entities.entity_scores(rows.tags, predicted), entities.entity_tally(rows.tags, predicted)


def _questions(ask: Ask, about: dict, rows: Questions) -> tuple:
    if "scoring" not in about:
        raise ValueError("serving/model.json does not say how answers are scored: export the model again")
    rows.check_answers(about["unanswerable"])
    asked, contexts = zip(*rows.pairs, strict=True)
    answers = [answer.decode() for answer in ask(question=asked, context=contexts)["answer"]]
    found = squad.score(answers, rows.golds, squad.rules(about["scoring"], about["unanswerable"]))
    scores = {name: value for name, value in found.summary.items() if not name.endswith("total")}
    return {**scores, "examples": len(rows)}, squad.answer_tally(found.exact, found.f1, rows.golds, rows.ids)


def _writer(score: Callable, tally: Callable) -> Callable:
    def evaluated(ask: Ask, about: dict, rows: Parallel) -> tuple:
        written = [text.decode() for text in ask(**{about["inputs"][0]: rows.sources})["text"]]
        return score(written, rows.references), tally(written, rows.references)

    return evaluated


def _translation_scores(*texts) -> dict[str, float]:
    return translation.translation_scores(*texts).scores


# task: what reads its rows, and what asks and scores
SCORED = {
    "TextClassifier": (labelled, _classifier),
    "TokenClassifier": (tagged, _tagger),
    "QuestionAnswering": (read_squad, _questions),
    "Translation": (read_parallel, _writer(_translation_scores, translation.translation_tally)),
    "Summarization": (read_parallel, _writer(summaries.summary_scores, summaries.summary_tally)),
    "PromptedSummarization": (read_parallel, _writer(summaries.summary_scores, summaries.summary_tally)),
}
