"""Search spaces: what the texts mean, and that the configured value is always among what is tried."""

import pytest

from aillm_tf.tune.space import DEFAULTS, METRICS, Parameter, parameters, take_space

CONFIG = {"lr": 1e-4, "layers": 4, "name": "a", "dropout": None, "flag": True}


def only(name, text):
    return parameters({name: text}, CONFIG)[name]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("lr", "loguniform:1e-5,1e-3", Parameter("loguniform", 1e-4, 1e-5, 1e-3)),
        ("lr", "loguniform:1e-3,1e-2", Parameter("loguniform", 1e-4, 1e-4, 1e-2)),  # widened
        ("lr", "around:10", Parameter("loguniform", 1e-4, 1e-5, 1e-3)),
        ("layers", "int:6,8", Parameter("int", 4, 4, 8)),
        ("layers", "choice:2,6", Parameter("choice", 4, choices=(4, 2, 6))),
        ("dropout", "choice:null,0.1", Parameter("choice", None, choices=(None, 0.1))),
        ("lr", "choice:1e-4,3e-4", Parameter("choice", 1e-4, choices=(1e-4, 3e-4))),  # texts in YAML
        ("name", "choice:1e-4,b", Parameter("choice", "a", choices=("a", "1e-4", "b"))),
    ],
)
def test_a_text_says_what_is_tried(name, text, expected):
    found = only(name, text)
    assert (found.kind, found.default, found.choices) == (expected.kind, expected.default, expected.choices)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("lr", "1e-5,1e-3", "as in loguniform:1e-5,1e-3"),
        ("lr", "loguniform:0,1", "above 0"),
        ("lr", "uniform:1", "give two bounds"),
        ("layers", "int:1,2.5", "whole ones for int"),
        ("dropout", "uniform:0,1", "the configured value is None"),
        ("flag", "uniform:0,1", "the configured value is True"),
        ("name", "choice:[1,2],b", r"not \[1, 2\]"),
        ("layer", "int:1,2", "no such option: did you mean layers?"),
    ],
)
def test_a_text_that_says_nothing_is_refused(name, text, message):
    with pytest.raises(ValueError, match=message):
        only(name, text)


def test_the_command_line_wins_over_files(tmp_path):
    (tmp_path / "space.yaml").write_text("lr: loguniform:1e-5,1e-3\nlayers: int:1,4\n")
    argv = ["--a", "b c", "--search.layers", "int:1,8", "--search", f"{tmp_path}/space.yaml", "--x=1=2"]
    space, rest = take_space(argv)
    assert space == {"lr": "loguniform:1e-5,1e-3", "layers": "int:1,8"}
    assert rest == ["--a", "b c", "--x=1=2"]


def test_the_spaces_of_the_recipes_fit_their_options():
    from aillm_tf.cli import load_recipe
    from aillm_tf.config import config_class_of, flatten, parse, to_plain

    for recipe, space in DEFAULTS.items():
        config = parse(config_class_of(load_recipe(recipe).main), ["--data.train", "a.tsv"])
        assert set(parameters(space, flatten(to_plain(config)))) == set(space)
    assert set(METRICS) <= set(DEFAULTS)
