import pytest

from eegdecode.config import Experiment
from eegdecode.runtime.tracking import Run, Tracker, find_or_create_run, flat


def test_without_a_server_nothing_is_logged_and_nothing_fails() -> None:
    run = find_or_create_run("", "demo", "search")
    assert run == Run("")
    tracker = Tracker(run.uri, run.experiment_id, run.run_id)
    tracker.log_params({"a": 1})
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.log_artifact("/does/not/exist")
    tracker.finish()


def test_a_tracker_needs_a_run() -> None:
    with pytest.raises(ValueError, match="find_or_create_run"):
        Tracker("http://127.0.0.1:1")


def test_flat_names_are_the_names_of_set() -> None:
    params = flat(Experiment(recipe="demo").model_dump(mode="json"))
    assert params["encoder.name"] == "mlp"
    assert params["data.source.kind"] == "synthetic"
    assert params["schedule.betas"] == [0.9, 0.999]
