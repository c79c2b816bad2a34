import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from eegdecode.diffusion.drawer import CHUNK, Drawer, DrawerTask, PictureStream


def discs(n: int, seed: int = 0, px: int = 16) -> tuple[list[Image.Image], np.ndarray]:
    """Discs whose place and colour are the whole embedding."""
    z = np.random.default_rng(seed).uniform(-1, 1, (n, 5)).astype(np.float32)
    y, x = np.mgrid[0:px, 0:px] / px * 2 - 1
    images = []
    for left, top, *rgb in z:
        inside = np.hypot(x - 0.5 * left, y - 0.5 * top) < 0.5
        images.append(Image.fromarray(np.where(inside[..., None], 128 + 120 * np.array(rgb), 60).astype(np.uint8)))
    return images, z


def small(**changes) -> Drawer:
    torch.manual_seed(0)
    return Drawer(**({"embed_dim": 5, "px": 16, "width": 16, "sampler_steps": 4} | changes))


@pytest.fixture(scope="module")
def trained() -> Drawer:
    """Two hundred steps are enough to know where and in which colour."""
    images, z = discs(256)
    drawer = small(sampler_steps=8)
    drawer.set_condition_stats(z.mean(0), z.std(0))
    task = DrawerTask(drawer)
    optimiser = torch.optim.AdamW(task.parameters(), lr=3e-3)
    stream = PictureStream(drawer, images, z, batch=32, seed=0).starting_at(0)
    for _ in range(200):
        loss, _ = task(next(stream))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return drawer


def pixel_error(drawn: np.ndarray, images: list[Image.Image]) -> float:
    return float(np.abs(drawn / 255.0 - np.stack([np.asarray(i) for i in images]) / 255.0).mean())


def test_it_learns_to_draw_what_the_embedding_says(trained):
    images, z = discs(24, seed=1)
    told = pixel_error(trained.draw(z, seed=0), images)
    untold = pixel_error(trained.draw(np.roll(z, 1, axis=0), seed=0), images)
    assert told < 0.7 * untold


def test_a_picture_is_the_same_alone_in_another_group_and_at_another_place(trained):
    _, z = discs(2 * CHUNK + 3, seed=2)
    whole = trained.draw(z, seed=5)
    np.testing.assert_array_equal(whole, trained.draw(z, seed=5))
    for rows in ([0], [CHUNK + 1], [3, 17, 9], list(range(18, 1, -1)), [1, 9, 17, 5]):
        some = trained.draw(z[rows], seed=5)
        np.testing.assert_array_equal(some, whole[rows])


def test_the_seed_alone_decides_the_noise(trained):
    z = np.zeros((2, 5), np.float32)
    first = trained.draw(z, seed=0)
    np.testing.assert_array_equal(first[0], first[1])
    assert not np.array_equal(first, trained.draw(z, seed=1))


def test_saved_and_loaded_it_draws_the_same(trained, tmp_path):
    _, z = discs(3, seed=3)
    trained.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drawer.json", "drawer.safetensors"]
    np.testing.assert_array_equal(Drawer.load(tmp_path).draw(z, seed=0), trained.draw(z, seed=0))


def test_what_is_saved_is_the_running_average():
    drawer = small()
    before = drawer.ema_K.clone()
    with torch.no_grad():
        for parameter in drawer.net.parameters():
            parameter.add_(1.0)
    x, z = torch.rand(2, 3, 16, 16), torch.zeros(2, 5)
    drawer.train()(x, z)
    # First update: decay min(0.995, 1 / 10).
    torch.testing.assert_close(drawer.ema_K, before + 0.9)
    drawer.eval()(x, z)
    assert drawer.ema_updates.item() == 1


def test_the_loss_is_that_of_its_definition():
    drawer = small(cond_dropout=0.0, cond_noise=0.0).eval()
    drawer.net.forward = lambda x, t, c: torch.zeros(x.shape)
    x, z = torch.rand(64, 3, 16, 16), torch.zeros(64, 5)
    got = drawer(x, z)
    torch.testing.assert_close(got, (drawer.encode(x) ** 2).mean())


def test_the_same_generator_gives_the_same_loss():
    drawer = small().eval()
    x, z = torch.rand(4, 3, 16, 16), torch.randn(4, 5)
    one, two = (drawer(x, z, torch.Generator().manual_seed(1)) for _ in range(2))
    assert one.item() == two.item()
    torch.manual_seed(1)
    assert drawer(x, z).item() == one.item()


def test_a_network_that_knows_the_way_arrives_in_one_step_or_many():
    drawer = small(guidance=1.0).eval()
    goal = torch.rand(1, 3, 16, 16)
    target = drawer.encode(goal)
    drawer.net.forward = lambda x, t, c: target.repeat(len(x), 1, 1, 1)
    expected = (goal * 255).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()
    for steps in (2, 8):
        drawer.sampler_steps = steps
        drawn = drawer.draw(np.zeros((2, 5), np.float32), seed=0)
        assert np.abs(drawn.astype(int) - expected).max() <= 1


def test_gradients_reach_every_weight():
    drawer = small().train()
    drawer(torch.rand(8, 3, 16, 16), torch.randn(8, 5)).backward()
    missing = [name for name, p in drawer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []


def test_the_stream_gives_each_picture_once_a_pass_and_can_be_resumed():
    drawer = small()
    images, _ = discs(10)
    z = np.repeat(np.arange(10, dtype=np.float32)[:, None], 5, axis=1)
    stream = PictureStream(drawer, images, z, batch=4, seed=7)
    batches = stream.starting_at(0)
    seen = torch.cat([next(batches).z_BD[:, 0] for _ in range(10)]).int().tolist()
    for k in range(4):
        assert sorted(seen[10 * k : 10 * k + 10]) == list(range(10))
    assert seen[:10] != seen[10:20]
    resumed = stream.starting_at(12)
    assert torch.cat([next(resumed).z_BD[:, 0] for _ in range(7)]).int().tolist() == seen[12:]
    ranks = [PictureStream(drawer, images, z, 4, 7, rank, 2).starting_at(4) for rank in (0, 1)]
    assert torch.cat([next(r).z_BD[:, 0] for r in ranks]).int().tolist() == seen[4:8]


def test_the_stream_carries_pictures_with_their_own_embedding():
    drawer = small()
    images, z = discs(6)
    batch = next(PictureStream(drawer, images, z, batch=6, seed=0).starting_at(0))
    decoded = (drawer.space.decode(batch.x_BCHW) * 255).round().permute(0, 2, 3, 1).numpy()
    for picture, embedding in zip(decoded, batch.z_BD.numpy(), strict=True):
        row = int(np.flatnonzero((z == embedding).all(1))[0])
        np.testing.assert_array_equal(picture, np.asarray(images[row]))


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (np.zeros((2, 4), np.float32), r"\(pictures, 5\)"),
        (np.full((1, 5), np.nan, np.float32), "finite"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(z, message):
    with pytest.raises(ValueError, match=message):
        small().draw(z, seed=0)


def test_a_drawer_of_other_weights_or_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"drawer\.json"):
        Drawer.load(tmp_path)
    drawer = small()
    drawer.save(tmp_path)
    plan = json.loads((tmp_path / "drawer.json").read_text())
    (tmp_path / "drawer.json").write_text(json.dumps(plan | {"width": 24}))
    with pytest.raises(ValueError, match="does not fit"):
        Drawer.load(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "drawer.safetensors")
    with pytest.raises(ValueError, match="does not fit"):
        Drawer.load(tmp_path)


def test_sizes_that_can_not_be_built_are_refused():
    with pytest.raises(ValueError, match=r"drawer\.width must be a multiple of 8, got 12"):
        small(width=12)
    with pytest.raises(ValueError, match=r"drawer\.px must be a multiple of 8, got 20"):
        small(px=20)
