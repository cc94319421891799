"""Ask a TensorFlow Serving server that runs this model; strings in, answers out; nothing but Python needed.

    python client.py "a stirring, funny film"                        one answer a line, as JSON
    python client.py --server http://10.0.0.7:8501 < texts.txt       one text a line
    python client.py $'a question\ta second text'                    a model of text pairs: the parts split by a tab

Export copies this file to ``serving/client.py``, beside ``model.json`` (name, inputs and labels of the model). From
Python: ``from client import ask; ask(["a stirring, funny film"])``.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path


def about_model() -> dict:
    """Reads ``model.json`` beside this file: the model's ``name``, ``inputs`` and ``labels``."""
    return json.loads((Path(__file__).resolve().parent / "model.json").read_text(encoding="utf-8"))


def columns_of(texts: list[str], inputs: list[str]) -> dict[str, list[str]]:
    """Makes one column an input from texts whose parts are separated by tabs.

    Raises:
        ValueError: A text does not have as many parts as the model has inputs.

    Example:
        >>> columns_of(["is it open?\\tit opens at nine"], ["text", "pair"])
        {'text': ['is it open?'], 'pair': ['it opens at nine']}
    """
    rows = [text.split("\t") if len(inputs) > 1 else [text] for text in texts]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(inputs):
            wanted = " and ".join(inputs)
            raise ValueError(f"text {number} has {len(row)} tab-separated parts; the model takes {wanted}: {row!r}")
    return {name: [row[column] for row in rows] for column, name in enumerate(inputs)}


def read_rows(outputs: dict[str, list], labels: list[str]) -> list[dict]:
    """Turns columns of outputs into one dict a text, with the probabilities under their labels.

    Example:
        >>> read_rows({"label": ["no"], "probabilities": [[0.75, 0.25]]}, ["no", "yes"])
        [{'label': 'no', 'probabilities': {'no': 0.75, 'yes': 0.25}}]
        >>> read_rows({"probabilities": [[0.75, 0.25]]}, ["no", "yes"])
        [{'probabilities': {'no': 0.75, 'yes': 0.25}, 'labels': ['no']}]
    """
    rows = [dict(zip(outputs, values)) for values in zip(*outputs.values())]  # noqa: B905  runs on any Python 3
    if ENTITY_COLUMNS.keys() <= outputs.keys():
        return [{"entities": _entities(row)} for row in rows]
    for row in rows:
        if "probabilities" in row and len(labels) == len(row["probabilities"]):
            row["probabilities"] = dict(zip(labels, row["probabilities"]))  # noqa: B905
            if "label" not in row:  # a model that gives a text any number of labels
                row["labels"] = [label for label, p in row["probabilities"].items() if p >= 0.5]
    return rows


# Columns of a model that finds entities: rows are as long as the longest, "counts" says how many are meant.
ENTITY_COLUMNS = {"types": "type", "scores": "score", "starts": "start", "ends": "end", "entities": "text"}


def _entities(row: dict) -> list[dict]:
    columns = [row[name][: row["counts"]] for name in ENTITY_COLUMNS]
    return [dict(zip(ENTITY_COLUMNS.values(), values)) for values in zip(*columns)]  # noqa: B905


def ask(texts: list[str], server: str = "http://localhost:8501", timeout: float = 60.0) -> list[dict]:
    """Asks the server about texts.

    Args:
        texts: Texts; the two parts of a pair are separated by a tab.
        server: Address of the REST port.
        timeout: Seconds to wait for the answer.

    Returns:
        One dict a text, such as ``{"label": "positive", "score": 0.98, "probabilities": {...}}``.

    Raises:
        ConnectionError: The server cannot be reached, or refuses; its own words are in the message.

    Reference:
        https://www.tensorflow.org/tfx/serving/api_rest#predict_api
    """
    about = about_model()
    url = f"{server.rstrip('/')}/v1/models/{about['name']}:predict"
    body = json.dumps({"signature_name": "serving_default", "inputs": columns_of(texts, about["inputs"])})
    request = urllib.request.Request(url, body.encode("utf-8"), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            outputs = json.load(response)["outputs"]
    except urllib.error.HTTPError as error:
        raise ConnectionError(f"{url}: {error.code}: {error.read().decode('utf-8', 'replace')}") from error
    except (urllib.error.URLError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(f"{url}: {reason}; is the server up? Start it with serving/run.sh") from error
    # A model with a single output comes back without its name.
    return read_rows(outputs if isinstance(outputs, dict) else {about["outputs"][0]: outputs}, about["labels"])


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Ask a TensorFlow Serving server about texts.")
    parser.add_argument("texts", nargs="*", help="texts; the parts of a pair are separated by a tab; none: read stdin")
    parser.add_argument("--server", default="http://localhost:8501", help="address of the REST port")
    options = parser.parse_args()
    texts = options.texts or sys.stdin.read().splitlines()
    try:
        rows = ask(texts, options.server)
    except (ConnectionError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
