"""Places of electrodes, against where anatomy says they are."""

import numpy as np
import pytest

from eegdecode.data.electrodes import positions_of
from eegdecode.data.sources.forward_model import CHANNELS


def test_electrodes_are_where_their_names_say() -> None:
    place = dict(zip(("Fp1", "OZ", "cz ", "T7", "t8"), positions_of(["Fp1", "OZ", "cz ", "T7", "t8"]), strict=True))
    for name, axis, sign in (("Fp1", 1, 1), ("OZ", 1, -1), ("cz ", 2, 1), ("T7", 0, -1), ("t8", 0, 1)):
        xyz = place[name]
        assert np.abs(xyz).argmax() == axis
        assert np.sign(xyz[axis]) == sign
    np.testing.assert_allclose(place["T7"] * [-1, 1, 1], place["t8"], atol=0.06)  # a head is nearly symmetric
    radius_C = np.linalg.norm(positions_of(CHANNELS), axis=1)
    assert abs(np.median(radius_C) - 1) < 0.05  # head radii, not metres
    assert radius_C.max() < 1.3


def test_all_electrodes_without_a_place_are_named() -> None:
    with pytest.raises(ValueError, match=r"got none for \['A3', 'EOG'\]\. Leave them out with data\.epochs\.channels"):
        positions_of(["Oz", "A3", "EOG", "Cz"])
