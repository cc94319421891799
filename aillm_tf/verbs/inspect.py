"""Say family, configuration, parameters and tensors of a checkpoint."""

from __future__ import annotations

import argparse

from aillm_tf.verbs.convert import SOURCES


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help=SOURCES)


def run(arguments: argparse.Namespace) -> int:
    from aillm_tf.weights.inspect import describe

    print(describe(arguments.source))
    return 0
