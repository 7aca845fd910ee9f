import re
from pathlib import Path

import pytest

from pgsearch.config import load_spec
from pgsearch.errors import InvalidSpec
from tests.records import write_spec

GOOD = """\
name: good
trials: 10
data: {name: digits}
model: {backbone: digits_resnet, weights: random}
loss:
  name: pg
  lambda1_neg: {tail: 3}
training: {epochs: 5, learning_rate: 1e-2}
space:
  loss.lambda1_neg: {type: float, low: 0.5, high: 8, log: true, groups: [tail]}
  loss.focusing: {type: categorical, choices: [none, fixed, adaptive]}
  loss.gamma: {type: float, low: 0.5, high: 3}
objective: {metric: map_tail}
"""


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    path = write_spec(folder, text)
    with pytest.raises(InvalidSpec) as error:
        load_spec(path, overrides)
    assert error.value.exit_code == 3
    return [problem.replace(f"{folder}/", "") for problem in error.value.problems]


def test_a_good_spec(tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path, GOOD))
    assert spec.training.learning_rate == 0.01  # YAML 1.2: 1e-2 is a number
    assert spec.loss.name == "pg"
    assert spec.loss.lambda1_neg.values_G == (1.0, 1.0, 3.0)  # the other groups keep the default
    assert [o.column for o in spec.objective] == ["map.validation.tail"]
    assert [d.name for d in spec.dimensions()][:4] == [
        "loss.lambda1_neg.tail",
        "loss.focusing.head",
        "loss.focusing.medium",
        "loss.focusing.tail",
    ]


def test_the_name_defaults_to_the_file(tmp_path: Path) -> None:
    path = write_spec(tmp_path, GOOD.replace("name: good\n", ""), "voc.yaml")
    assert load_spec(path).name == "voc"


def test_overrides_reach_every_depth(tmp_path: Path) -> None:
    path = write_spec(tmp_path, GOOD)
    spec = load_spec(
        path,
        [
            "training.epochs=2",
            "loss.lambda1_neg.head=0.5",
            "space.loss.lambda1_neg.high=4",
            "seeds=[1, 2]",
            "loss.max_ratio=1e1",
        ],
    )
    assert spec.training.epochs == 2
    assert spec.loss.name == "pg"
    assert spec.loss.lambda1_neg.values_G == (0.5, 1.0, 3.0)
    assert spec.space["loss.lambda1_neg"].high == 4  # type: ignore[union-attr]
    assert spec.seeds == [1, 2]
    assert spec.loss.max_ratio == 10.0


def test_a_group_over_a_single_value_keeps_it_for_the_others(tmp_path: Path) -> None:
    path = write_spec(tmp_path, GOOD.replace("{tail: 3}", "2.0"))
    spec = load_spec(path, ["loss.lambda1_neg.tail=5"])
    assert spec.loss.name == "pg"
    assert spec.loss.lambda1_neg.values_G == (2.0, 2.0, 5.0)


def test_extends_lays_one_file_over_another(tmp_path: Path) -> None:
    write_spec(tmp_path, GOOD, "base.yaml")
    child = write_spec(tmp_path, "extends: base.yaml\ntraining: {epochs: 7}\n", "child.yaml")
    spec = load_spec(child)
    assert (spec.name, spec.training.epochs, spec.training.learning_rate) == ("child", 7, 0.01)


def test_extends_lays_several_files_in_their_order(tmp_path: Path) -> None:
    write_spec(tmp_path, GOOD, "base.yaml")
    write_spec(tmp_path, "name: x\ntraining: {epochs: 7, learning_rate: 0.5}\n", "first.yaml")
    write_spec(tmp_path, "training: {epochs: 9}\n", "second.yaml")
    text = "extends: [base.yaml, first.yaml, second.yaml]\ntraining: {momentum: 0.5}\n"
    spec = load_spec(write_spec(tmp_path, text, "child.yaml"))
    assert (spec.name, spec.training.epochs, spec.training.learning_rate) == ("child", 9, 0.5)
    assert spec.training.momentum == 0.5
    write_spec(tmp_path, "training: {epochs: 0}\n", "second.yaml")
    with pytest.raises(InvalidSpec, match=r"second\.yaml:1: training\.epochs: 0"):
        load_spec(tmp_path / "child.yaml")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["loss={name: ldam}", "space={}"], "set model.head: cosine"),
        (["loss={name: ldam, scale: 10}", "model.head=cosine", "space={}"],
         "loss.scale (10) of ldam must be that of the cosine head, model.cosine_scale (30)"),
        (["training.trunk=frozen"], "give a file or torchvision:NAME"),
    ],
)  # fmt: skip
def test_parts_that_do_not_go_together(tmp_path: Path, overrides: list[str], expected: str) -> None:
    assert any(expected in problem for problem in problems(tmp_path, GOOD, *overrides))


def test_a_trained_trunk_over_a_frozen_one_says_its_augmentation(tmp_path: Path) -> None:
    text = GOOD.replace("weights: random", "weights: w.pth")
    frozen = ["training.trunk=frozen", "space={}"]

    def found(variant: str) -> list[str]:
        grid = text.replace("trials: 10\n", f"method: grid\nvariants: {{a: {variant}}}\n")
        return problems(tmp_path, grid, *frozen)

    silent = found("{training: {trunk: trained}}")
    assert any("would train without augmentation" in problem for problem in silent), silent
    said = "{training: {trunk: trained, photometric: 0.5, crop_min: 0.8, flip: 0.5}}"
    assert not any("augmentation" in problem for problem in found(said))
    assert not any("augmentation" in problem for problem in found("{training: {epochs: 2}}"))
    space = "space={training.trunk: {type: categorical, choices: [frozen, trained]}}"
    assert any("is a variant" in problem for problem in problems(tmp_path, text, space))


def test_a_rule_between_parts_of_a_variant_is_said_plainly(tmp_path: Path) -> None:
    grid = GOOD.replace("trials: 10\n", "method: grid\nvariants: {a: {loss: {name: ldam}}}\n")
    (problem,) = [p for p in problems(tmp_path, grid, "space={}") if "ldam" in p]
    assert "variants.a: loss ldam reads cosines" in problem


def test_a_grid_is_not_pruned(tmp_path: Path) -> None:
    text = GOOD.replace("trials: 10\n", "method: grid\nvariants: {a: {}}\n")
    found = problems(tmp_path, text, "pruner={name: median}", "space={}")
    assert any("compares trials at their last epoch" in problem for problem in found), found


def test_another_kind_of_loss_replaces_the_whole_section(tmp_path: Path) -> None:
    write_spec(tmp_path, GOOD, "base.yaml")
    child = write_spec(
        tmp_path,
        "extends: base.yaml\nloss: {name: bce}\nspace: {}\nmethod: grid\ntrials: null\n"
        "variants: {BCE: {}}\nspace: {}\n".replace("space: {}\n", "", 1),
        "child.yaml",
    )
    with pytest.raises(InvalidSpec, match="loss is bce"):
        load_spec(child)  # the base's space is about PG


def test_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = GOOD.replace("weights: random", "weights: '${WEIGHTS}/x.pth'")
    assert problems(tmp_path, text) == [
        "search.yaml:4: model.weights: the environment variable WEIGHTS is not set; set it, or "
        "override model.weights=…"
    ]
    monkeypatch.setenv("WEIGHTS", "w")
    assert load_spec(write_spec(tmp_path, text)).model.weights == "w/x.pth"
    text = text.replace("${WEIGHTS}", "${OTHER:-here}")
    assert load_spec(write_spec(tmp_path, text)).model.weights == "here/x.pth"


def test_all_problems_come_at_once_with_file_and_line(tmp_path: Path) -> None:
    text = GOOD.replace("epochs: 5", "epochs: 0").replace("trials: 10", "trials: 0")
    text = text.replace("lambda1_neg: {tail: 3}", "lamda1_neg: {tail: 3}")
    assert problems(tmp_path, text, "objective.split=tset") == [
        "search.yaml:7: loss.lamda1_neg: unknown key; did you mean lambda1_neg?",
        "search.yaml:8: training.epochs: 0: Input should be greater than or equal to 1",
        "search.yaml:2: trials: 0: Input should be greater than or equal to 1",
        "command line: objective.split: 'tset': Input should be 'validation' or 'test'; "
        "did you mean test?",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: pg", "name: pgg", "6: loss.name: 'pgg' is unknown; did you mean pg?; it is one of"),
        ("{tail: 3}", "{tial: 3}", "7: loss.lambda1_neg.tial: unknown key; did you mean tail?"),
        ("{tail: 3}", "{tail: 0}", "7: loss.lambda1_neg.tail: 0: Input should be greater than 0"),
        ("{tail: 3}", "{tail: .inf}", "lambda1_neg.tail: inf: Input should be a finite number"),
        ("low: 0.5, high: 8", "low: 8, high: 0.5", "low (8.0) must be below high (0.5)"),
        ("low: 0.5, high: 8", "low: 2, high: 2", "low (2.0) must be below high (2.0)"),
        ("low: 0.5, high: 8", "low: 0, high: 8", "a log scale needs low > 0, got 0.0"),
        ("choices: [none, fixed, adaptive]", "choices: []", "at least 1 item"),
        ("choices: [none, fixed, adaptive]", "choices: [none, fxed]", "'fxed': Input should be"),
        ("groups: [tail]", "groups: []", "groups: []: List should have at least 1 item"),
        ("groups: [tail]", "groups: [tails]", "did you mean tail?"),
        ("trials: 10\n", "", "trials: a search needs the number of configurations"),
        ("loss.gamma", "loss.gama", "loss.gama is not a value of this configuration, whose loss is "
                                    "pg; did you mean loss.gamma?"),
        ("  loss.focusing: {type: categorical, choices: [none, fixed, adaptive]}\n", "",
         "loss.gamma.head is never active: it needs loss.focusing.head in ['fixed']"),
        ("loss.focusing:", "loss.name:", "another kind of a section is a variant"),
        ("digits_resnet", "resnet51", "did you mean resnet50?"),
        ("map_tail", "map_tial", "did you mean map_tail?"),
        ("weights: random", "weights: 3", "weights: 3: Input should be a valid string"),
        ("epochs: 5", "epochs: '5'", "epochs: '5': Input should be a valid integer"),
        ("epochs: 5", "epochs: 5, decay_epochs: [7, 5]", "must be positive and rise, got [7, 5]"),
        ("name: good", "name: ../x", "name: '../x': String should match"),
        ("data: {name: digits}", "data: {name: digits, tail_below: 200}", "must not be above head"),
        ("objective: {metric: map_tail}", "objective: []", "at least 1 item"),
    ],
)  # fmt: skip
def test_bad_input_names_value_rule_and_fix(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert old in GOOD
    problem = problems(tmp_path, GOOD.replace(old, new))[0]
    assert expected in problem
    assert re.match(r"search\.yaml(:\d+)?: ", problem)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1, 2", "not valid YAML"),
        ("- a\n- b\n", "a spec is a mapping"),
        ("", "a spec is a mapping"),
        (GOOD + "trials: 11\n", "trials appears twice"),
        ("1: a\n", "a key must be text"),
        ("extends: {a: b}\n", "must be the path of a file or a list"),
        ("extends: [search.yaml, 3]\n", "must be the path of a file or a list"),
        ("extends: search.yaml\n", "goes round in a circle"),
        ("extends: absent.yaml\n", "no such file"),
        ("!!python/object/apply:os.system ['true']", "mapping"),
        ("a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
         "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n"
         "e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n",
         "more than 100,000 values"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_spec(tmp_path: Path, text: str, expected: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert expected in problem


def test_an_absent_file_names_its_neighbour(tmp_path: Path) -> None:
    write_spec(tmp_path, GOOD, "voc_lt.yaml")
    with pytest.raises(InvalidSpec, match=r"no such file.*did you mean .*voc_lt\.yaml"):
        load_spec(tmp_path / "voc_it.yaml")


@pytest.mark.parametrize("override", ["epochs", "=3", "a b=3", "training.epochs=[1"])
def test_a_bad_override(tmp_path: Path, override: str) -> None:
    assert any("command line" in p for p in problems(tmp_path, GOOD, override))


def test_a_date_that_does_not_exist(tmp_path: Path) -> None:
    assert "not valid YAML" in problems(tmp_path, GOOD, "purpose=2024-13-45")[0]
    assert "not valid YAML" in problems(tmp_path, GOOD + "purpose: 2024-13-45\n")[0]


def test_a_problem_is_reported_at_its_own_parameter(tmp_path: Path) -> None:
    text = GOOD.replace(
        "objective:", "  loss.lambda1_neg_mode: {type: categorical, choices: [adaptve]}\nobjective:"
    )
    (problem,) = problems(tmp_path, text)
    assert problem.startswith("search.yaml:13: space.loss.lambda1_neg_mode.choices.0: 'adaptve'")


def test_gamma_of_the_focal_loss_is_a_dimension(tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("loss:")] + "loss: {name: focal}\nspace:\n"
    text += "  loss.gamma: {type: float, low: 0.5, high: 3, tied: true}\n"
    (dimension,) = load_spec(write_spec(tmp_path, text)).dimensions()
    assert dimension.is_active({})


def test_pruning_needs_one_objective(tmp_path: Path) -> None:
    text = GOOD.replace(
        "objective: {metric: map_tail}", "objective: [{metric: map_head}, {metric: map_tail}]"
    )
    assert "pruning needs a single objective" in problems(tmp_path, text, "pruner.name=median")[0]


def test_pruning_on_test_needs_its_map_while_a_trial_runs(tmp_path: Path) -> None:
    overrides = ["pruner.name=median", "objective.split=test"]
    assert "set training.test_every" in problems(tmp_path, GOOD, *overrides)[0]
    path = write_spec(tmp_path, GOOD)
    assert load_spec(path, [*overrides, "training.test_every=1"])


def test_a_grid_has_an_end(tmp_path: Path) -> None:
    text = GOOD.replace("trials: 10", "method: grid")
    assert any("a grid needs choices or a step" in p for p in problems(tmp_path, text))
    text = (
        text[: text.index("space:")]
        + """
space:
  loss.lambda1_neg: {type: float, low: 1, high: 2, step: 0.5, tied: true}
  loss.focusing: {type: categorical, choices: [none, fixed], tied: true}
  loss.gamma: {type: int, low: 1, high: 2, tied: true}
"""
    )
    # gamma is a dimension only where focusing is fixed
    assert load_spec(write_spec(tmp_path, text)).num_trials == 3 * (1 + 2)


def test_a_bad_variant_is_named(tmp_path: Path) -> None:
    text = GOOD.replace("trials: 10", "method: grid") + "variants:\n  A: {loss: {lambda9: 1}}\n"
    found = problems(tmp_path, text, "space={}")
    assert found[0].startswith("search.yaml:15: variants.A")
