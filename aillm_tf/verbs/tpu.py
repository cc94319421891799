"""Compile a recipe for a Cloud TPU on this machine, without one.

`aillm tpu preflight RECIPE --topology v5e:2x4 [options of the recipe]` says what its steps would hold, take and cost;
`aillm tpu lint RECIPE ...` says in seconds what a TPU would refuse or do slowly, without the compiler.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
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
    parser.add_argument(
        "--mesh", metavar="data=N,model=N", help="compile the JAX backend's step for a mesh of the chips"
    )
    parser.add_argument("--layout", metavar="LAYOUT", help="of the mesh: tensor_parallel (default) or fully_sharded")
    parser.add_argument("--prices", metavar="FILE", help="YAML of dollars of a chip-hour, as in `v5e: 1.20`")
    parser.add_argument("--efficiency", type=float, default=0.6, help="share of the roofline assumed, default: 0.6")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--report", metavar="FOLDER", help="write report.json and report.html there")
    return parser


def run(arguments: argparse.Namespace) -> int:
    from aillm_tf.cli import load_recipe
    from aillm_tf.config import did_you_mean, to_yaml
    from aillm_tf.tpu import mesh
    from aillm_tf.tpu.topology import prices, topology

    options, of_the_recipe = _own_options().parse_known_args(arguments.options)
    dollars = prices(Path(options.prices)) if options.prices else None
    slices = [topology(name, dollars) for name in options.topology.split(",")]
    steps = options.step.split(",")
    for step in steps:
        if step not in STEPS:
            raise ValueError(f"--step: no step {step!r}{did_you_mean(step, STEPS)} Steps: {', '.join(STEPS)}")
    on_a_mesh = {}
    if options.mesh or options.layout:
        _check_mesh(arguments.what, options)
        environment = mesh.environment(slices[0].devices, os.environ)
        if environment != dict(os.environ):  # JAX reads it once, when it starts
            command = [sys.executable, "-m", "aillm_tf.cli", "tpu", "preflight", arguments.recipe, *arguments.options]
            return subprocess.run(command, env=environment).returncode
        slices = [mesh.laid_on(slice, options.mesh) for slice in slices]
        of_the_recipe += ["--training.mesh", options.mesh]
        of_the_recipe += ["--training.layout", options.layout] if options.layout else []
        on_a_mesh = {"strategy": "auto"}

    from aillm_tf.layers.transformer import remat_of
    from aillm_tf.tpu import lint, report
    from aillm_tf.tpu.capture import capture
    from aillm_tf.tpu.fit import fit
    from aillm_tf.tpu.preflight import check, compiled, lowered
    from aillm_tf.training.strategy import on_jax

    if on_jax() and not options.mesh:
        wanted = "lint reads TensorFlow's step: give"
        if arguments.what == "preflight":
            wanted = f"its step is compiled for a mesh: give --mesh data={slices[0].devices}, or"
        raise ValueError(f"KERAS_BACKEND is jax, and {wanted} KERAS_BACKEND=tensorflow")
    try:
        captured = capture(load_recipe(arguments.recipe), of_the_recipe, **on_a_mesh)
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
            remat = remat_of(captured.task)
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


def _check_mesh(what: str, options: argparse.Namespace) -> None:
    """Raises an error where something else is asked for than a training step on a mesh, or JAX is missing."""
    from aillm_tf.tpu.compiler import INSTALL

    if not options.mesh:
        raise ValueError("--layout says how weights lie on a mesh: give --mesh too, as in --mesh data=4,model=2")
    if what == "lint":
        raise ValueError("aillm tpu lint looks at TensorFlow's step, which knows no mesh: leave --mesh out")
    if options.step != "train":
        raise ValueError(f"--step {options.step}: of a mesh only the training step is compiled; leave --step out")
    if importlib.util.find_spec("jax") is None:
        raise ModuleNotFoundError(f"--mesh compiles JAX's step, and jax is not installed: {INSTALL}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
