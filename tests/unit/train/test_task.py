"""The contrastive task learns a planted relation and logs what it did."""

import torch

from eegdecode.batch import TrialBatch
from eegdecode.config import Loss
from eegdecode.models.decoder import build_decoder
from eegdecode.train.task import ContrastiveTask


def test_it_learns_and_logs() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(8, 6, generator=generator)
    mixing = torch.randn(6, 3 * 10, generator=generator)
    picture = torch.arange(16) % 8
    eeg = (target[picture] @ mixing).view(16, 3, 10) + 0.1 * torch.randn(16, 3, 10, generator=generator)
    batch = TrialBatch(eeg, target[picture], torch.arange(16), picture, torch.zeros(16))
    torch.manual_seed(0)
    task = ContrastiveTask(build_decoder("linear", 3, 10, 6, 0.0, temperature=0.2, learn_temperature=True), Loss())
    optimizer = torch.optim.Adam(task.parameters(), lr=0.05)
    history = []
    for _ in range(40):
        loss, logs = task(batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        history.append({name: value.item() for name, value in logs.items()})
    assert set(history[0]) == {"loss", "info_nce", "temperature", "top1"}
    assert abs(history[0]["temperature"] - 0.2) < 1e-6
    assert history[-1]["temperature"] < 0.2
    assert history[-1]["top1"] == 1.0
    assert history[-1]["loss"] < history[0]["loss"] / 2
    assert not any(value.requires_grad for value in logs.values())
