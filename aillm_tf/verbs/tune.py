"""Search for better settings of a recipe, beginning with the configured ones.

`aillm tune RECIPE [options of the recipe] --trials 20 --search.training.learning_rate loguniform:1e-5,1e-3` runs the
recipe with many settings, stops the hopeless ones, and writes the best to OUT/best.yaml, which `aillm train RECIPE
--config` takes. The same command again goes on where a killed one stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aillm_tf.verbs import positive

SEARCHES = """
  --search.OPTION WHAT  what is tried of an option of the recipe; by default some options that matter in most cases:
                        loguniform:1e-5,1e-3  uniform:0,0.3  int:1,8  choice:16,32,64
                        around:8 (from an eighth to eight times the configured value)
  --search FILE         YAML of OPTION: WHAT"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("recipe", metavar="RECIPE", help="name or file of a recipe")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="the options below, and those of the recipe")
    parser.epilog = "\n".join(_own_options().format_help().splitlines()[2:]) + SEARCHES


def _own_options() -> argparse.ArgumentParser:
    """Options that may stand anywhere among those of the recipe."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--trials", type=positive, default=20, metavar="N", help="in all, default: 20")
    parser.add_argument("--metric", metavar="NAME", help="validation score that decides, as in f1 or loss")
    parser.add_argument("--out", metavar="DIR", help="folder of the study, default: runs/tune_RECIPE")
    parser.add_argument("--no-prune", action="store_true", help="run every trial to its end")
    return parser


def run(arguments: argparse.Namespace) -> int:
    from aillm_tf.cli import load_recipe
    from aillm_tf.tune.space import DEFAULTS, RATE, take_space
    from aillm_tf.tune.study import tune

    own, rest = _own_options().parse_known_args(arguments.options)
    space, argv = take_space(rest)
    main = load_recipe(arguments.recipe).main
    name = Path(arguments.recipe).stem
    out = Path(own.out or f"runs/tune_{name}")
    found = tune(
        arguments.recipe,
        main,
        argv,
        space or DEFAULTS.get(name, RATE),
        out,
        trials=own.trials,
        metric=own.metric,
        prune=not own.no_prune,
    )
    for name, value in found["scores"].items():
        print(f"{name}: {value:.4f}")
    for name, value in found["best"].items():
        print(f"  {name}: {value}")
    print(f"best: {out / found['best_trial']}   config: {out / 'best.yaml'}   report: {out / 'report.html'}")
    return 0
