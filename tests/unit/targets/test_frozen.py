"""A picture's target is the same bytes in any list: what sharing pictures among workers and resuming rests on."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from eegdecode.targets import open_tower
from eegdecode.targets.frozen import one_by_one

CONCEPTS = ["tench", "goldfish", "aircraft_carrier", "dog", "carrier"]
PROMPT = "prompt=a photo of this {concept}"
SPECS = (
    "gabor",
    "saliency:spectral_residual",
    "transformers:clip",
    "transformers:dinov2@token(encoder.layer.0,encoder.layer.2)",
    "transformers:clip#blur+mosaic",
    "vae(px=64):tiny",
    f"text({PROMPT}):transformers:clip",
    "text(captions=blip):transformers:clip",
    f"teacher(classes=classes.txt; {PROMPT}):transformers:clip",
)


@pytest.fixture(autouse=True)
def one_thread():
    """As in a worker of one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models(hub, clip, dinov2, blip):
    torch.manual_seed(0)
    AutoencoderTiny(
        encoder_block_out_channels=(16, 16),
        decoder_block_out_channels=(16, 16),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).save_pretrained(hub / "tiny")
    (hub / "classes.txt").write_text("\n".join(f"{a} {b}" for a in CONCEPTS for b in ("of", "a", "this")))
    return str(hub)


@pytest.fixture(scope="module")
def many():
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((50, 40), Image.Resampling.BICUBIC)
        for _ in range(7)
    ]


@pytest.mark.parametrize("spec", SPECS)
def test_a_targets_bytes_do_not_depend_on_the_others_nor_on_the_order(models, many, spec):
    tower = open_tower(spec, models)
    concepts = [CONCEPTS[k % 5] for k in range(len(many))]
    whole = tower.embed(many, concepts)
    assert whole.shape == (len(many), *tower.fact.shape)
    for size in (1, 3):
        parts = [tower.embed(many[k : k + size], concepts[k : k + size]) for k in range(0, len(many), size)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()
    order = np.random.default_rng(1).permutation(len(many))
    mixed = tower.embed([many[k] for k in order], [concepts[k] for k in order])
    assert mixed.tobytes() == whole[order].tobytes()


def test_another_opening_gives_the_same_bytes(models, many):
    first, second = (open_tower("transformers:clip", models) for _ in range(2))
    assert first.embed(many[:8]).tobytes() == second.embed(many[:8]).tobytes()


def test_items_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match=r"to one size, got \[\(1, 3\), \(1, 4\)\]"):
        one_by_one([3, 3, 4], lambda n: torch.ones(1, n), lambda x: x.sum((1, 2)), ())


def test_of_nothing_comes_nothing_of_the_right_shape():
    nothing = one_by_one([], lambda n: torch.ones(n), lambda x: x, (2, 3))
    assert (nothing.shape, nothing.dtype) == ((0, 2, 3), np.float32)
