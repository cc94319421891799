"""Write a run's model as a SavedModel for TF Serving: strings in, answers out."""

from __future__ import annotations

import argparse
from pathlib import Path

from aillm_tf.verbs.models import find_model


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run directory, or a saved model")
    parser.add_argument("folder", nargs="?", metavar="DIR", help="new folder (default: RUN/export/1)")


def run(arguments: argparse.Namespace) -> int:
    import aillm_tf

    folder = Path(arguments.folder or Path(arguments.run, "export", "1"))
    aillm_tf.load(find_model(arguments.run, exports=False)).export(folder)
    print(f"exported to {folder}; how to serve it: {folder / 'serving' / 'README.md'}")
    return 0
