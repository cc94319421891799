"""Compile a recipe for a Cloud TPU on this machine, without one.

`aillm tpu preflight RECIPE --topology v5e:2x4 [options of the recipe]` says what its step would hold, take and cost;
`aillm tpu lint RECIPE ...` says in seconds what a TPU would refuse, without the compiler.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", choices=["preflight", "lint"])
    parser.add_argument("recipe", metavar="RECIPE", help="name or file of a recipe")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="the options below, and those of the recipe")
    parser.epilog = "\n".join(_own_options().format_help().splitlines()[2:])


def _own_options() -> argparse.ArgumentParser:
    """Options that may stand anywhere among those of the recipe."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--topology", default="v5e:2x4", metavar="KIND:SHAPE[,...]", help="slices, default: v5e:2x4")
    parser.add_argument("--step", choices=["train", "evaluate"], default="train", help="which step, default: train")
    parser.add_argument("--prices", metavar="FILE", help="YAML of dollars of a chip-hour, as in `v5e: 1.20`")
    parser.add_argument("--efficiency", type=float, default=0.6, help="share of the roofline assumed, default: 0.6")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def run(arguments: argparse.Namespace) -> int:
    from aillm_tf.cli import load_recipe
    from aillm_tf.tpu.capture import capture
    from aillm_tf.tpu.preflight import check, preflight, table
    from aillm_tf.tpu.topology import prices, topology

    options, of_the_recipe = _own_options().parse_known_args(arguments.options)
    dollars = prices(Path(options.prices)) if options.prices else None
    slices = [topology(name, dollars) for name in options.topology.split(",")]
    captured = capture(load_recipe(arguments.recipe), of_the_recipe)
    if arguments.what == "lint":
        for finding in dict.fromkeys(finding for slice in slices for finding in check(captured, slice)):
            print(finding)
        return 0
    results = [preflight(captured, slice, options.step, options.efficiency) for slice in slices]
    if options.json:
        print(json.dumps([result.to_dict() for result in results], ensure_ascii=False))
        return 0
    print(table(results))
    for finding in results[0].findings:
        print(finding)
    return 0
