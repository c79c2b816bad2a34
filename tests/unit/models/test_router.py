"""Learnt weights over the layers of a tower."""

import pytest
import torch

from eegdecode.models.router import LayerRouter, LayerTarget


def test_weights_start_centred_and_add_to_one() -> None:
    router = LayerRouter([8, 10, 14], centre=10, n_subjects=2)
    weights = router(4, torch.tensor([0, 1, -1, 5]))
    torch.testing.assert_close(weights, torch.softmax(torch.tensor([-1.0, 0.0, -2.0]), 0).expand(4, 3))
    with torch.no_grad():
        router.offset_SL[1] = torch.tensor([5.0, 0.0, 0.0])
    moved = router(4, torch.tensor([0, 1, -1, 5]))
    torch.testing.assert_close(moved[[0, 2, 3]], weights[[0, 2, 3]])
    assert float(moved[1, 0]) > 0.9
    assert router.penalty().item() == pytest.approx(25 / 6)
    assert LayerRouter([1, 2], 1).penalty().item() == 0


def test_gradient_reaches_the_weights_of_layers() -> None:
    target = LayerTarget(LayerRouter([0, 1], 0), layer_dim=6, reduced_dim=4, embed_dim=3)
    embedded = target(torch.randn(5, 12))
    assert embedded.shape == (5, 3)
    embedded.square().sum().backward()
    assert float(target.router.logits_L.grad.abs().max()) > 0  # type: ignore[union-attr]


@pytest.mark.parametrize("layers", [[3], [3, 3], [5, 4]])
def test_layers_must_ascend(layers: list[int]) -> None:
    with pytest.raises(ValueError, match="two layers in ascending order"):
        LayerRouter(layers, 3)
