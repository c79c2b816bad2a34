"""The loop and its restart, in one process on plain torch: what is kept, what is refused, what is told."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from eegdecode.config import Compute, Schedule
from eegdecode.train import resume
from eegdecode.train.engine import Engine, build_engine, deepspeed_config, learning_rate, step_seed
from eegdecode.train.loop import Report, StreamEndedError, fit
from eegdecode.train.resume import Progress

BATCH = 4


class Line(nn.Module):
    """Fits y = 2x by squared error, with noise on its input so that random draws matter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        noisy = batch + 0.1 * torch.randn_like(batch)
        loss = ((noisy @ self.weight + self.bias - 2 * batch) ** 2).mean()
        return loss, {"loss": loss.detach()}


class Rows:
    """Row i holds a function of i; what was asked for is remembered."""

    def __init__(self, n: int = 10_000, bad: int | None = None) -> None:
        self.n, self.bad = n, bad
        self.taken: list[int] = []

    def starting_at(self, trials_seen: int) -> Iterator[torch.Tensor]:
        for start in range(trials_seen, self.n, BATCH):
            rows = torch.arange(start, start + BATCH)
            self.taken += rows.tolist()
            x = torch.sin(rows.float())[:, None]
            yield x * torch.nan if start == self.bad else x


def schedule(steps: int = 10, **changes: object) -> Schedule:
    base = {"lr": 0.1, "warmup_steps": 2, "validate_every": 2, "save_every": 5, "seed": 3}
    return Schedule(steps=steps, **(base | changes))


def engine(steps: int = 10) -> Engine:
    return build_engine(Line(), schedule(steps), Compute(engine="torch"), BATCH)


def test_five_and_five_steps_are_ten(tmp_path: Path) -> None:
    """To the bit, each trial taken once, although the first run is cut off in the middle of a step."""
    whole = engine()
    assert fit(whole, Rows(), schedule()) == Progress(step=10, trials_seen=40)

    class Killed(BaseException):
        pass

    def die(progress: Progress, scalars: dict[str, float]) -> None:
        if progress.step == 8:
            raise Killed

    first = Rows()
    with pytest.raises(Killed):
        fit(engine(), first, schedule(), Report(scalars=die), save_dir=tmp_path, log_every=1)
    second, rest = engine(), Rows()
    torch.manual_seed(99)  # no random state is carried over
    assert fit(second, rest, schedule(), save_dir=tmp_path, resume_from=tmp_path) == Progress(10, 40)
    assert torch.equal(second.module.weight, whole.module.weight)  # type: ignore[arg-type]
    assert first.taken[:20] + rest.taken == list(range(40))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000005", "step-00000010"]


def test_the_weights_of_the_best_step_are_kept_across_a_restart(tmp_path: Path) -> None:
    seen: list[tuple[int, float, bool]] = []

    def validate(task: nn.Module) -> dict[str, float]:
        assert isinstance(task, Line)
        assert not torch.is_grad_enabled()
        seen.append((len(seen), task.weight.item(), task.training))
        return {"val_score": -abs(len(seen) - 2)}  # best at the second validation

    told: list[Progress] = []
    report = Report(validated=lambda progress, scores: told.append(progress))
    run = engine()
    done = fit(run, Rows(), schedule(), report, validate, save_dir=tmp_path)
    assert (done.best_step, done.best_val) == (4, 0.0)
    assert run.module.weight.item() == seen[1][1] != seen[-1][1]  # type: ignore[operator]
    assert [p.step for p in told] == [2, 4, 6, 8, 10]
    assert not any(training for _, _, training in seen)
    assert run.module.training
    again = engine()
    assert fit(again, Rows(), schedule(), report, validate, resume_from=tmp_path / "step-00000005") == done
    assert again.module.weight.item() == seen[1][1]  # type: ignore[operator]


def test_a_finished_run_takes_no_step_more(tmp_path: Path) -> None:
    whole = engine()
    fit(whole, Rows(), schedule(), save_dir=tmp_path)
    again, rows = engine(), Rows()
    assert fit(again, rows, schedule(), resume_from=tmp_path) == Progress(10, 40)
    assert rows.taken == []
    assert torch.equal(again.module.weight, whole.module.weight)  # type: ignore[arg-type]


def test_what_is_reported() -> None:
    scalars: list[tuple[int, dict[str, float]]] = []
    fit(engine(7), Rows(), schedule(7), Report(scalars=lambda p, s: scalars.append((p.step, s))), log_every=3)
    assert [step for step, _ in scalars] == [3, 6, 7]
    assert [s["lr"] for _, s in scalars] == pytest.approx([learning_rate(schedule(7), step) for step in (2, 5, 6)])
    assert all(set(s) == {"loss", "lr"} for _, s in scalars)


def test_a_loss_that_is_not_finite_stops_before_the_update() -> None:
    run = engine()
    with pytest.raises(ValueError, match=r"loss of step 4 must be finite, got nan .* after 12 trials"):
        fit(run, Rows(bad=12), schedule())
    assert torch.isfinite(run.module.weight).all()  # type: ignore[arg-type]


def test_a_stream_that_ends_is_an_error() -> None:
    with pytest.raises(StreamEndedError, match="last for 10 steps, it ended after 3"):
        fit(engine(), Rows(n=12), schedule())


def test_validation_must_give_the_score_that_selects() -> None:
    with pytest.raises(ValueError, match=r"'val_score', got \['top1'\]"):
        fit(engine(), Rows(), schedule(), validate=lambda task: {"top1": 0.5})


def test_a_state_half_written_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = engine()
    first = resume.save(tmp_path, run, Progress(5, 20), None)
    with monkeypatch.context() as patch:
        patch.setattr(type(run), "save", lambda self, folder: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            resume.save(tmp_path, run, Progress(10, 40), None)
    assert resume.latest(tmp_path) == first
    assert resume.load(tmp_path, run)[0].step == 5
    assert resume.save(tmp_path, run, Progress(10, 40), None).name == "step-00000010"
    assert resume.load(tmp_path, run)[0].step == 10
    assert not list(tmp_path.glob(".*.part"))


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold a finished state \(progress.json\)"):
        resume.load(tmp_path, engine())
    state = resume.save(tmp_path, engine(), Progress(5, 20), None)
    facts = json.loads((state / "progress.json").read_text())
    (state / "progress.json").write_text(json.dumps(facts | {"engine": "deepspeed", "zero_stage": 1}))
    with pytest.raises(ValueError, match=r"saved by engine deepspeed with ZeRO stage 1 .* got torch"):
        resume.load(tmp_path, engine())


def test_learning_rate_is_a_function_of_the_step() -> None:
    cosine = Schedule(steps=12, lr=0.4, warmup_steps=2, decay="cosine")
    assert [learning_rate(cosine, s) for s in (0, 1, 2, 7, 12)] == pytest.approx([0.2, 0.4, 0.4, 0.2, 0.0])
    constant = Schedule(steps=12, lr=0.4, warmup_steps=0, decay="constant")
    assert [learning_rate(constant, s) for s in (0, 11)] == [0.4, 0.4]


def test_every_step_and_rank_has_its_own_seed() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(20) for rank in range(4)}
    assert len(seeds) == 240
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_decay_spares_vectors_and_frozen_parameters_stay() -> None:
    run = engine()
    decays = {p.ndim: g["weight_decay"] for g in run.optimizer.param_groups for p in g["params"]}
    assert decays == {2: schedule().weight_decay, 1: 0.0}
    task = Line()
    task.bias.requires_grad_(False)
    fit(build_engine(task, schedule(), Compute(engine="torch"), BATCH), Rows(), schedule())
    assert task.bias.item() == 0
    assert task.weight.item() != 0


def test_gradients_are_clipped_to_the_norm_that_was_asked() -> None:
    run = build_engine(Line(), schedule(grad_clip=0.01), Compute(engine="torch"), BATCH)
    run.begin(0)
    run.backward(run(torch.ones(4, 1))[0])
    seen = []
    run.optimizer.register_step_pre_hook(lambda *_: seen.append([p.grad.norm() for p in run.module.parameters()]))  # type: ignore[union-attr]
    run.step()
    assert torch.stack(seen[0]).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_an_engine_that_could_not_work_is_refused() -> None:
    task = Line()
    task.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"'scale' must have a dimension, .* use shape \[1\]"):
        build_engine(task, schedule(), Compute(engine="torch"), BATCH)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"gpus_per_worker is 1\.0 but this worker sees no GPU"):
            build_engine(Line(), schedule(), Compute(engine="torch", gpus_per_worker=1), BATCH)


def test_deepspeed_configuration_is_derived() -> None:
    config = deepspeed_config(schedule(grad_clip=0.5), zero_stage=2, total_batch=64, world=4, n_weights=1001)
    assert config["train_micro_batch_size_per_gpu"] * 4 == config["train_batch_size"] == 64
    assert config["gradient_accumulation_steps"] == 1
    assert config["gradient_clipping"] == 0.5
    assert config["zero_optimization"]["stage"] == 2
    assert config["zero_optimization"]["reduce_bucket_size"] == 1002  # DeepSpeed wants it even
