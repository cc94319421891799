"""The verbs of ``aillm``, one file each, in the order of the stages of a project.

A verb is a module: a docstring whose first line is the help text, ``arguments(parser)``, and ``run(arguments)`` that
returns the exit status. Each imports what it needs when it runs, so that ``aillm --help`` never waits for TensorFlow.
"""

from __future__ import annotations

import argparse

VERBS = ("prepare", "tune", "evaluate", "predict", "generate", "chat", "export", "convert", "inspect", "tpu", "doctor")


def positive(text: str) -> int:
    """The type of an argument that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value
