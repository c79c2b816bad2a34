"""Decode what a person saw from EEG: training, search, reconstruction and serving on a cluster."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eegdecode.reconstruct.reconstructor import Reconstructor

__version__ = "0.1.0"


def load(uri: str) -> "Reconstructor":
    """Return a trained model, ready to predict concepts and to draw.

    Parameters
    ----------
    uri
        A folder, ``s3://bucket/key`` or ``hf://owner/name[@revision]``.

    Raises
    ------
    ValueError
        No bundle there, or one that was altered.

    Examples
    --------
    >>> model = eegdecode.load("runs/demo/bundle")  # doctest: +SKIP
    >>> model.predict(eeg_uv_NCT)  # doctest: +SKIP
    """
    from eegdecode import hub
    from eegdecode.reconstruct.reconstructor import Reconstructor  # torch is imported by those who load

    return Reconstructor(hub.load(uri))
