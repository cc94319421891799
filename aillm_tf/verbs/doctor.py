"""Check versions, devices and memory; say what to do about problems."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(arguments: argparse.Namespace) -> int:
    from aillm_tf.doctor import examine

    return examine()
