import shlex
import subprocess
import sys

import pytest

from eegdecode.config import Experiment
from eegdecode.recipes import RECIPES, command_line, from_command_line


def test_unknown_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"encoder\.nmae"):
        RECIPES["demo"]().override({"encoder.nmae": "nice"})


def test_unknown_section_is_named() -> None:
    with pytest.raises(ValueError, match="'encodr' is no section"):
        RECIPES["demo"]().override({"encodr.name": "nice"})


def test_divisions_that_do_not_fit_name_the_nearest_valid_values() -> None:
    demo = RECIPES["demo"]()
    with pytest.raises(ValueError, match=r"stream\.partitions, got 250 over 8\. Nearest valid values: 248, 256"):
        demo.override({"loss.contrastive_batch": 250})
    with pytest.raises(ValueError, match=r"got 8 over 3\. Nearest valid numbers of workers: 2, 4"):
        demo.override({"compute.workers": 3})
    with pytest.raises(ValueError, match=r"got 8 over 9\. Nearest valid numbers of workers: 8"):
        demo.override({"compute.workers": 9})


def test_compute_does_not_change_the_run_id_and_science_does() -> None:
    base = RECIPES["demo"]()
    assert base.override({"compute.workers": 4, "compute.zero_stage": 2}).run_id == base.run_id
    assert base.override({"schedule.lr": 0.5}).run_id != base.run_id


def test_selection_on_validation_needs_a_validation_part() -> None:
    with pytest.raises(ValueError, match=r"needs protocol\.n_val of at least 1"):
        RECIPES["demo"]().override({"protocol.n_val": 0})


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_crosses_processes_as_json(name: str) -> None:
    experiment = RECIPES[name]()
    assert experiment.recipe == name
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment


def test_command_line_sets_fields_and_prints_the_resolved_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert from_command_line("", ["--set", "schedule.lr=0.01", "--set", "loss.normalise=target"]).schedule.lr == 0.01
    with pytest.raises(SystemExit) as stop:
        from_command_line("", ["--dry-run", "--set", "schedule.lr=0.01"])
    assert stop.value.code == 0
    assert '"lr": 0.01' in capsys.readouterr().out


def test_bad_change_exits_with_2_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        from_command_line("", ["--set", "encoder.name=nic"])
    assert stop.value.code == 2
    assert "encoder.name" in capsys.readouterr().err


def test_describing_a_run_needs_no_torch_and_no_ray() -> None:
    code = "import sys, eegdecode.recipes; print(sorted({'torch', 'ray', 'mne'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_of_an_experiment_makes_it_again() -> None:
    changed = RECIPES["demo"]().override(
        {"schedule.lr": 0.5, "data.epochs.crop_s": None, "loss.normalise": "target", "compute.runs_uri": "a folder/x"}
    )
    words = shlex.split(command_line(changed))
    assert words[:2] == ["--recipe", "demo"]
    assert len(words) == 2 + 2 * 4
    assert from_command_line(None, words) == changed
    assert command_line(RECIPES["muse_n170"]()) == "--recipe muse_n170"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schedule.steps": 0}, "would keep random weights; set encoder.start, or steps of at least 1"),
        ({"encoder.start": "ridge"}, "and targets.project=0, got 'nice' and 0"),
        ({"encoder.name": "linear", "encoder.start": "ridge", "targets.project": 4}, "got 'linear' and 4"),
        (
            {"targets.router": {"depths": [1, 2], "centre": 1, "reduced": 3}},
            r"targets\.router needs targets\.project, .* got 0",
        ),
        ({"targets.also": {"a.b": "gabor"}}, "String should match pattern"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        RECIPES["nice"]().override(changes)
