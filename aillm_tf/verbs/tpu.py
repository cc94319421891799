"""Compile a recipe for a Cloud TPU on this machine, without one.

`aillm tpu preflight RECIPE --topology v5e:2x4 [options of the recipe]` says what its steps would hold, take and cost;
`aillm tpu lint RECIPE ...` says in seconds what a TPU would refuse or do slowly, without the compiler.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

STEPS = ("train", "evaluate", "decode")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", choices=["preflight", "lint"])
    parser.add_argument("recipe", metavar="RECIPE", help="name or file of a recipe")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="the options below, and those of the recipe")
    parser.epilog = "\n".join(_own_options().format_help().splitlines()[2:])


def _own_options() -> argparse.ArgumentParser:
    """Options that may stand anywhere among those of the recipe."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    slices = {"default": "v5e:2x4", "metavar": "KIND:SHAPE[,...]"}
    parser.add_argument("--topology", "--compare", **slices, help="slices, a column each; default: v5e:2x4")
    parser.add_argument("--step", default="train", help=f"which steps, of {','.join(STEPS)}; default: train")
    parser.add_argument("--fit", action="store_true", help="find the largest batch that fits, with and without remat")
    parser.add_argument("--prices", metavar="FILE", help="YAML of dollars of a chip-hour, as in `v5e: 1.20`")
    parser.add_argument("--efficiency", type=float, default=0.6, help="share of the roofline assumed, default: 0.6")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--report", metavar="FOLDER", help="write report.json and report.html there")
    return parser


def run(arguments: argparse.Namespace) -> int:
    from aillm_tf.cli import load_recipe
    from aillm_tf.config import did_you_mean, to_yaml
    from aillm_tf.tpu.topology import prices, topology

    options, of_the_recipe = _own_options().parse_known_args(arguments.options)
    dollars = prices(Path(options.prices)) if options.prices else None
    slices = [topology(name, dollars) for name in options.topology.split(",")]
    steps = options.step.split(",")
    for step in steps:
        if step not in STEPS:
            raise ValueError(f"--step: no step {step!r}{did_you_mean(step, STEPS)} Steps: {', '.join(STEPS)}")

    from aillm_tf.tpu import lint, report
    from aillm_tf.tpu.capture import capture
    from aillm_tf.tpu.fit import fit
    from aillm_tf.tpu.preflight import check, compiled, lowered

    try:
        captured = capture(load_recipe(arguments.recipe), of_the_recipe)
        findings = [finding for slice in slices for finding in check(captured, slice)]
        if options.fit and arguments.what == "preflight":
            results = [best for slice in slices for best in fit(captured, slice, options.efficiency, _say)]
        else:
            programs = [(slice, step) for slice in slices for name in steps for step in lowered(captured, slice, name)]
            findings += [finding for _, step in programs for finding in step.program.advice]
        findings = list(dict.fromkeys(findings))
        if arguments.what == "lint":
            print("\n".join(map(str, findings)) or "nothing to change")
            return 0
        if not options.fit:
            remat = captured.task.config.remat
            results = [compiled(step, slice, remat, options.efficiency) for slice, step in programs]
    except lint.Refused as error:  # a line each
        print(error, file=sys.stderr)
        return 2
    if options.report:
        config = to_yaml(captured.config)
        report.write(Path(options.report), arguments.recipe, results, findings, config)
    if options.json:
        print(json.dumps([report.to_dict(result) for result in results], ensure_ascii=False))
        return 0
    print(report.table(results))
    if options.fit:
        print("\n".join(map(report.to_give, results)) or "not even 8 rows on a chip fit, with remat either")
    print("\n".join(map(str, findings)))
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
