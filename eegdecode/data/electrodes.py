"""Where electrodes are on a head, by their names.

Shape letters: C chan.
"""

from collections.abc import Sequence

import mne
import numpy as np
from numpy.typing import NDArray

MONTAGE = "colin27_1005"


def positions_of(channels: Sequence[str]) -> NDArray[np.float64]:
    """Return the places of electrodes of the 10-05 system on a standard head, (C, 3) in units of its radius.

    Right, front and up are positive; the median distance of all places from the origin is 1. Upper and lower case are
    alike.

    Raises
    ------
    ValueError
        Electrodes whose names have no place, all of them named.
    """
    montage = mne.channels.make_standard_montage(MONTAGE, head_size=1.0)
    place = {name.lower(): xyz for name, xyz in montage.get_positions()["ch_pos"].items()}
    unknown = [name for name in channels if name.strip().lower() not in place]
    if unknown:
        raise ValueError(
            f"encoder.virtual_chans needs a place of the 10-05 system for every electrode, got none for {unknown}. "
            "Leave them out with data.epochs.channels, or rename them in the recordings."
        )
    return np.array([place[name.strip().lower()] for name in channels], np.float64)
