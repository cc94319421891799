"""Write a checkpoint of any kind as a folder for transformers or for this package, and compare both."""

from __future__ import annotations

import argparse

SOURCES = "folder, run, hf:org/name[@revision], pypi:, tfhub:, keras_hub: or tf1: source"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help=SOURCES)
    parser.add_argument("destination", metavar="DESTINATION", help="new or empty folder")
    parser.add_argument(
        "--dtype", choices=["float32", "float16", "bfloat16"], help="of the weights (default: as they are)"
    )
    parser.add_argument(
        "--to", choices=["huggingface", "aillm"], default="huggingface", help="layout (default: huggingface)"
    )


def run(arguments: argparse.Namespace) -> int:
    from aillm_tf.weights.convert import convert, report

    converted = convert(arguments.source, arguments.destination, dtype=arguments.dtype, to=arguments.to)
    print(report(converted, arguments.destination))
    return 0
