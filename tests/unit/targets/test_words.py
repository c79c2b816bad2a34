import numpy as np
import pytest
from PIL import Image

from eegdecode.targets import open_tower
from eegdecode.targets.words import WORD_DIM, WORD_SHARE, word_vector, words_of

GREY = Image.new("RGB", (64, 64), (128, 128, 128))


def test_words_of_a_concept() -> None:
    assert words_of("disc-stripes_fine") == ("disc", "fine", "stripes", "stripes_fine")
    assert words_of("Aircraft carrier") == ("aircraft", "carrier")


def test_vectors_are_of_unit_length_nearly_at_right_angles_and_never_change() -> None:
    vector_WD = np.stack([word_vector(word) for word in ("disc", "ring", "arch", "weave")])
    gram_WW = vector_WD @ vector_WD.T
    np.testing.assert_allclose(np.diag(gram_WW), 1, rtol=1e-6)
    assert np.abs(gram_WW - np.diag(np.diag(gram_WW))).max() < 0.35
    # The first eight signs of the digest's stream, written down once.
    assert (word_vector("disc")[:8] > 0).astype(int).tolist() == FIRST_SIGNS


FIRST_SIGNS = [1, 1, 0, 0, 1, 1, 1, 0]


@pytest.mark.parametrize(("looks", "dim"), [("gabor", 222), ("pyramid", 579)])
def test_looks_first_then_the_sum_of_the_words(looks: str, dim: int) -> None:
    tower = open_tower(f"{looks}_words", "")
    found_ND = tower.embed([GREY, GREY], ["disc-solid", "ring-solid"])
    assert found_ND.shape == (2, tower.fact.dim) == (2, dim + WORD_DIM)
    looks_ND = open_tower(looks, "").embed([GREY])
    np.testing.assert_array_equal(found_ND[:, :dim], np.repeat(looks_ND, 2, axis=0))
    scale = np.sqrt(WORD_SHARE * dim / 2)
    expected_D = scale * (word_vector("ring") + word_vector("solid"))
    np.testing.assert_allclose(found_ND[1, dim:], expected_D, rtol=1e-5)
    difference_D = found_ND[0, dim:] - found_ND[1, dim:]
    np.testing.assert_allclose(difference_D, scale * (word_vector("disc") - word_vector("ring")), atol=1e-5)


def test_a_concept_for_each_picture_is_asked_for() -> None:
    with pytest.raises(ValueError, match="one concept for each of 2 pictures, got none"):
        open_tower("gabor_words", "").embed([GREY, GREY])
