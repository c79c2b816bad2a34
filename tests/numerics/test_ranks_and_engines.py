"""Two ranks equal one process; 3 + 3 steps equal 6; DeepSpeed equals plain torch; ZeRO stages agree.

One pair of processes runs everything that needs two ranks while this one computes what it is held against.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from eegdecode import collectives
from eegdecode.train import resume
from tests.numerics.ranks import BATCH, PEOPLE, RUNS, STEPS, TIMES, Numbers, build, gradient, train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def alone() -> Iterator[dict[str, Numbers]]:
    """The same in this process, filled by `both` while the ranks work."""
    yield {}
    collectives.leave_group()


@pytest.fixture(scope="module")
def both(alone: dict[str, Numbers], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Numbers]]:
    """What each of the two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests" / "numerics" / "ranks.py")]
    logs = [(folder / f"rank-{rank}.log").open("w") for rank in range(2)]
    ranks = [
        subprocess.Popen([*command, str(rank), str(folder)], env=environment, stdout=log, stderr=subprocess.STDOUT)
        for rank, log in enumerate(logs)
    ]
    try:
        alone["gradient torch"] = gradient(build(RUNS["torch"]))
        alone["torch"] = train(build(RUNS["torch"]))
        alone["people"] = train(build(RUNS["torch"], options=PEOPLE))
        codes = [rank.wait(timeout=300) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
        for log in logs:
            log.close()
    said = "\n".join((folder / f"rank-{rank}.log").read_text()[-3000:] for rank in range(2))
    assert codes == [0, 0], said
    return [torch.load(folder / f"found-{rank}.pt", weights_only=True) for rank in range(2)]


def furthest(a: Numbers, b: Numbers) -> float:
    """Largest difference over all tensors, each against its own largest value."""
    assert set(a) == set(b)
    return max(
        float((a[k].double() - b[k].double()).abs().max() / b[k].double().abs().max().clamp(min=1e-3)) for k in a
    )


def test_two_ranks_have_the_gradient_of_one_process(both: list[dict[str, Numbers]], alone: dict[str, Numbers]) -> None:
    for rank in both:
        for name in RUNS:
            assert furthest(rank[f"gradient {name}"], alone["gradient torch"]) < 1e-4, name


@pytest.mark.parametrize("fault", ["halved", "local norm"])
def test_a_planted_fault_would_be_seen(fault: str, both: list[dict[str, Numbers]], alone: dict[str, Numbers]) -> None:
    assert furthest(both[0][f"gradient {fault}"], alone["gradient torch"]) > 1e-2


def test_two_ranks_train_as_one_process(both: list[dict[str, Numbers]], alone: dict[str, Numbers]) -> None:
    """Subjects' own layers too: their rows travel with the trials, and a rank may have no trial of a subject."""
    for rank in both:
        for name, same in (("torch", "torch"), ("people", "people"), ("people zero1", "people")):
            assert len(rank[name]["losses"]) == STEPS
            torch.testing.assert_close(rank[name]["losses"], alone[same]["losses"], rtol=1e-5, atol=1e-6)
            assert furthest(rank[name], alone[same]) < 2e-3  # Adam turns rounding of a small gradient into a step
    moved = (alone["people"]["decoder.encoder.subject.weight_STT"] - torch.eye(TIMES)).abs().amax(dim=(1, 2))
    assert float(moved.min()) > 1e-3


def test_zero_stages_and_plain_torch_agree(both: list[dict[str, Numbers]]) -> None:
    for name in RUNS:
        torch.testing.assert_close(both[0][name]["losses"], both[0]["torch"]["losses"], rtol=1e-5, atol=1e-6)
        assert furthest(both[0][name], both[0]["torch"]) < 2e-3, name
        assert furthest(both[0][name], both[1][name]) == 0, name


@pytest.mark.parametrize("name", ["torch", "zero1", "people", "dropout"])
def test_a_resumed_run_ends_with_the_same_bits(name: str, both: list[dict[str, Numbers]]) -> None:
    for rank in both:
        whole, resumed = rank[name], rank[f"{name} resumed"]
        assert torch.equal(whole["losses"][3:], resumed["losses"])
        assert all(torch.equal(whole[k], resumed[k]) for k in whole if k != "losses")


def test_deepspeed_alone_is_plain_torch_with_dropout_and_resumes(tmp_path: Path) -> None:
    """One process without a launcher; every random draw comes from the step, so both engines drop the same units."""
    plain = train(build(RUNS["torch"], 0.5, "mlp"))
    whole = train(build(RUNS["zero1"], 0.5, "mlp"), save_dir=tmp_path)
    assert torch.allclose(whole["losses"], plain["losses"], rtol=1e-5)
    assert furthest(whole, plain) < 1e-3
    resumed = train(build(RUNS["zero1"], 0.5, "mlp"), resume_from=tmp_path / "step-00000003")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole if k != "losses")
    with pytest.raises(ValueError, match="saved by engine deepspeed with ZeRO stage 1"):
        resume.load(tmp_path, build(RUNS["torch"], 0.5, "mlp"))


def test_zero_3_scatters_parameters_and_gives_them_back_whole() -> None:
    """Graph attention, BatchNorm and projection hold parameters in all the ways that DeepSpeed must find."""
    plain = train(build(RUNS["torch"], 0.0, "nice_ga"))
    engine = build({"engine": "deepspeed", "zero_stage": 3}, 0.0, "nice_ga")
    scattered = train(engine)
    assert torch.allclose(scattered["losses"], plain["losses"], rtol=1e-5)
    assert furthest(scattered, plain) < 2e-3
    engine.set_weights({name: value for name, value in plain.items() if name != "losses"})
    assert all(torch.equal(value, plain[name]) for name, value in engine.weights().items())


def test_deepspeed_works_in_the_next_group_of_a_process() -> None:
    first = train(build(RUNS["zero1"], 0.0, "mlp"))
    collectives.leave_group()
    assert furthest(train(build(RUNS["zero1"], 0.0, "mlp")), first) == 0


def test_bfloat16_stays_near_float32() -> None:
    """Weights and sums stay in float32; a wrong cast of BatchNorm's moments or the logits would be far off."""
    exact = train(build(RUNS["torch"]))
    rounded = train(build(RUNS["torch"] | {"precision": "bfloat16"}))
    assert all(value.dtype == exact[name].dtype for name, value in rounded.items())
    torch.testing.assert_close(rounded["losses"], exact["losses"], rtol=0.03, atol=0)
    assert not torch.equal(rounded["losses"], exact["losses"])


def test_a_step_takes_the_whole_batch() -> None:
    assert build(RUNS["torch"]).total_batch == BATCH
