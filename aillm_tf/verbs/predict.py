"""Answer texts with a run or an export; one JSON object a line."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path

from aillm_tf.verbs.models import answerer, find_model

CHUNK = 256  # texts answered, and written, at a time


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN|EXPORT", help="run directory, saved model, or exported SavedModel")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts; the parts of a pair are separated by a tab")
    parser.add_argument("--input", metavar="FILE", help="one text a line; '-' is standard input")
    parser.add_argument("--output", metavar="FILE", help="write JSON lines there instead of to standard output")


def run(arguments: argparse.Namespace) -> int:
    if bool(arguments.texts) == bool(arguments.input):
        raise ValueError("give either texts to answer or --input FILE ('-' for standard input), not both or neither")
    texts = read_lines(arguments.input) if arguments.input else list(arguments.texts)
    answer = answerer(find_model(arguments.model))
    with open(arguments.output, "w", encoding="utf-8") if arguments.output else nullcontext(sys.stdout) as output:
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start : start + CHUNK]
            for text, answered in zip(chunk, answer(chunk), strict=True):
                print(json.dumps({"text": text, **answered}, ensure_ascii=False), file=output)
            output.flush()
    return 0


def read_lines(source: str) -> list[str]:
    """The lines of a UTF-8 file, or of standard input for '-'; an empty line is a text too.

    Raises:
        ValueError: a line is not UTF-8; names it.
    """
    data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    texts = []
    for number, line in enumerate(lines, start=1):
        try:
            texts.append(line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            name = "standard input" if source == "-" else source
            raise ValueError(f"{name}:{number}: not UTF-8 text (byte {error.start + 1} of the line)") from None
    return texts
