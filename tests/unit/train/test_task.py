"""The task learns planted relations to one target and to several, and logs what it did."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from eegdecode import losses
from eegdecode.batch import TrialBatch
from eegdecode.config import Experiment, Levels, Loss, LossTerm, Targets
from eegdecode.models.decoder import build_decoder
from eegdecode.train.levels import HIGH, LOW, MEDIUM, BlurLevels
from eegdecode.train.task import DecodingTask

N, DIM = 16, 6
PICTURE = torch.arange(N) % 8
CONCEPT_P = torch.arange(8) % 4


def planted() -> TrialBatch:
    """Eight pictures of four concepts, shown twice: the EEG is a linear map of the main target, and so is the other."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(8, DIM, generator=generator)
    mixing = torch.randn(DIM, 3 * 10, generator=generator)
    other = target @ torch.randn(DIM, 4, generator=generator)
    eeg = (target[PICTURE] @ mixing).view(N, 3, 10) + 0.1 * torch.randn(N, 3, 10, generator=generator)
    also = {"other": other[PICTURE], "same": target[PICTURE] + 1}
    return TrialBatch(eeg, target[PICTURE], torch.arange(N), PICTURE, torch.zeros(N), also)


def task(terms: list[LossTerm] | None = None, heads: dict[str, int] | None = None, **changes: object) -> DecodingTask:
    torch.manual_seed(0)
    decoder = build_decoder("linear", 3, 10, DIM, 0.0, temperature=0.2, learn_temperature=True, heads=heads)
    return DecodingTask(decoder, Loss(terms=tuple(terms)) if terms else Loss(), CONCEPT_P, **changes)  # type: ignore[arg-type]


def trained(made: DecodingTask, steps: int = 40) -> list[dict[str, float]]:
    optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
    history = []
    for _ in range(steps):
        loss, logs = made(planted())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        assert not any(value.requires_grad for value in logs.values())
        history.append({name: value.item() for name, value in logs.items()})
    return history


def test_it_learns_and_logs() -> None:
    history = trained(task())
    assert set(history[0]) == {"loss", "info_nce", "temperature", "top1"}
    assert abs(history[0]["temperature"] - 0.2) < 1e-6
    assert history[-1]["temperature"] < 0.2
    assert history[-1]["top1"] == 1.0
    assert history[-1]["loss"] < history[0]["loss"] / 2


def test_every_term_is_compared_with_its_own_target() -> None:
    """The value of each is that of its loss on the head's output, or on the embedding where lengths agree."""
    terms = [
        LossTerm(name="info_nce", weight=0.9),
        LossTerm(name="mse", target="same"),
        LossTerm(name="mse", target="other", weight=2.0),
        LossTerm(name="ce_hard", target="concept"),
        LossTerm(name="triplet"),
    ]
    made = task(terms, heads={"other": 4, "concept": 4})
    loss, logs = made(planted())
    batch = planted()
    z = made.decoder(batch.eeg_uv_BCT)
    concept = CONCEPT_P[PICTURE]
    expected = {
        "info_nce": losses.info_nce(z, batch.target_BD, made.decoder.logit_scale, PICTURE),
        "mse.same": (z - batch.also["same"]).square().mean(),
        "mse.other": (made.decoder.heads["other"](z) - batch.also["other"]).square().mean(),
        "ce_hard.concept": functional.cross_entropy(made.decoder.heads["concept"](z), concept),
        "triplet": losses.triplet(z, concept, 1.0),
    }
    for name, value in expected.items():
        torch.testing.assert_close(logs[name], value.detach())
    weights = [term.weight for term in terms]
    torch.testing.assert_close(loss, sum(w * v for w, v in zip(weights, expected.values(), strict=True)))


@pytest.mark.parametrize("term", ["mse.other", "ce_hard.concept", "ce_soft.concept", "siglip"])
def test_heads_and_biases_are_learnt(term: str) -> None:
    name, _, target = term.partition(".")
    heads = {target: 4} if target else None
    history = trained(task([LossTerm(name=name, target=target)], heads), steps=80)  # type: ignore[arg-type]
    assert history[-1][term] < 0.3 * history[0][term]


def test_a_term_must_name_a_target_that_is_there() -> None:
    with pytest.raises(ValueError, match=r"'mse\.txt' must name one of targets\.also \['text'\] or 'concept'"):
        Experiment(
            recipe="x", targets=Targets(also={"text": "gabor"}), loss=Loss(terms=(LossTerm(name="mse", target="txt"),))
        )
    with pytest.raises(ValueError, match=r"'concept' names the concepts of the trials"):
        Targets(also={"concept": "gabor"})
    with pytest.raises(ValueError, match=r"missing \['high'\]"):
        Targets(also={"low": "gabor"}, levels=Levels())
    with pytest.raises(ValueError, match=r"probabilities as they are"):
        Experiment(recipe="x", loss=Loss(terms=(LossTerm(name="ce_soft"),)))


def published(logit: np.ndarray, running: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What UBP does to the samples of a batch, written out: running similarities, and levels of the next pass."""
    running = 0.3 * logit + 0.7 * running
    reach = 1.959963984540054 * np.std(running, ddof=1)
    level = np.where(logit > running.mean() + reach, LOW, np.where(logit < running.mean() - reach, HIGH, MEDIUM))
    return running, level


def test_levels_move_as_published_and_the_next_target_is_of_the_level() -> None:
    rng = np.random.default_rng(3)
    n = 40
    levels, running, moved = BlurLevels(Levels(), n), np.ones(n), set()
    for _ in range(4):
        z, target = rng.normal(size=(n, DIM)), rng.normal(size=(n, DIM))
        z[:3] *= 6
        picture = rng.permutation(n)
        scale = torch.tensor([1.0])
        levels.update(torch.tensor(z), torch.tensor(target), torch.tensor(picture), scale, "target")
        logit = np.e * (z * target / np.linalg.norm(target, axis=1, keepdims=True)).sum(axis=1)
        running[picture], level = published(logit, running[picture])
        np.testing.assert_allclose(levels.similarity_P.numpy(), running, rtol=1e-5)
        np.testing.assert_array_equal(levels.level_P.numpy()[picture], level)
        moved |= set(level.tolist())
    assert moved == {LOW, MEDIUM, HIGH}
    batch = TrialBatch(
        torch.zeros(n, 1, 1),
        torch.full((n, 1), float(MEDIUM)),
        torch.arange(n),
        torch.arange(n),
        torch.zeros(n),
        {"low": torch.full((n, 1), float(LOW)), "high": torch.full((n, 1), float(HIGH))},
    )
    assert torch.equal(levels.target(batch)[:, 0].long(), levels.level_P)


def test_levels_move_in_training_only_and_are_a_part_of_the_state() -> None:
    made = task(levels=BlurLevels(Levels(low="same", high="same"), 8))
    made.eval()(planted())
    assert made.levels is not None
    assert torch.equal(made.levels.similarity_P, torch.ones(8))
    made.train()(planted())
    assert not torch.equal(made.levels.similarity_P, torch.ones(8))
    assert {"levels.similarity_P", "levels.level_P"} < set(made.state_dict())
    assert "concept_P" not in made.state_dict()


def test_triplets_of_features_leave_the_read_out_alone() -> None:
    """The features get the triplets' gradient, the read-out the main target's alone (NeuroImagen's two parts)."""
    torch.manual_seed(0)
    decoder = build_decoder("linear", 3, 10, DIM, 0.0, temperature=0.2, learn_temperature=False, features=9)
    batch = planted()
    terms = (LossTerm(name="triplet", target="features", margin=2.0), LossTerm(name="mse", weight=0.5))
    _, logs = DecodingTask(decoder, Loss(terms=terms), CONCEPT_P)(batch)
    f = decoder.encoder(decoder.front(batch.eeg_uv_BCT))
    assert f.shape == (N, 9)
    torch.testing.assert_close(logs["triplet.features"], losses.triplet(f, CONCEPT_P[PICTURE], 2.0).detach())
    read_out = decoder.read_out
    assert isinstance(read_out, torch.nn.Linear)
    z = f @ read_out.weight.T + read_out.bias
    torch.testing.assert_close(logs["mse"], (z - batch.target_BD).square().mean().detach())
    torch.testing.assert_close(decoder(batch.eeg_uv_BCT), z)
    alone, _ = DecodingTask(decoder, Loss(terms=terms[:1]), CONCEPT_P)(batch)
    alone.backward()
    assert float(decoder.encoder.map.weight.grad.abs().max()) > 0
    assert read_out.weight.grad is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder.features": 0}, "with encoder.features of at least 1, got 0"),
        ({"loss.terms": [{"name": "mse", "target": "features"}]}, "'mse.features' acts on the encoder's features"),
        ({"targets.also": {"features": "gabor"}}, "'features' names the features of the encoder"),
        ({"encoder.name": "linear", "encoder.start": "ridge"}, "encoder.features is learnt by gradient"),
    ],
)
def test_features_go_with_triplets_and_a_random_start(changes: dict[str, object], said: str) -> None:
    experiment = Experiment(recipe="x").override({"encoder.features": 9, "encoder.name": "mlp"})
    with_triplets = experiment.override({"loss.terms": [{"name": "triplet", "target": "features"}, {"name": "mse"}]})
    with pytest.raises(ValueError, match=said):
        with_triplets.override(changes)
