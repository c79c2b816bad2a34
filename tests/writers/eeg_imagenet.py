"""A small EEG-ImageNet as its authors' ``torch.save`` wrote it: two files, 62 channels, 501 samples, volt."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tests.writers.stimuli import draw, responses

N_CHANS = 62
N_TIMES = 501
SFREQ_HZ = 1000.0
CLASSES = {"n02106662": "fine", "n02124075": "coarse", "n02281787": "coarse"}


def write_eeg_imagenet(
    folder: Path,
    subjects: Mapping[int, Sequence[int]] | None = None,
    pictures_per_class: int = 4,
    scale: float = 1e-6,
    images: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Write one file per key of `subjects` (file -> people).

    Parameters
    ----------
    scale
        Microvolt times this is what is written; 1e-6 for volt.

    Returns
    -------
    One row a trial, in the order of the files: file, row, subject, picture, concept, granularity, eeg_uv (62, T).
    """
    rng = np.random.default_rng([seed, 2])
    names = [f"{wnid}_{1000 + n}.JPEG" for wnid in CLASSES for n in range(pictures_per_class)]
    target = folder / "imageNet_images" if images else folder / "nowhere"
    latent_PK = draw([n.split("_")[0] for n in names], [target / n.split("_")[0] / n for n in names], seed)
    response_uv_PCT = 10 * responses(latent_PK, N_CHANS, N_TIMES, SFREQ_HZ, seed)
    rows = []
    for file, people in (subjects or {1: (0, 1), 2: (8,)}).items():
        dataset = []
        for subject in people:
            for p, name in enumerate(names):
                eeg_uv = (10 * rng.standard_normal((N_CHANS, N_TIMES)) + response_uv_PCT[p]).astype(np.float32)
                wnid = name.split("_")[0]
                trial = {
                    "eeg_data": torch.from_numpy(eeg_uv.astype(np.float64) * scale),
                    "subject": subject,
                    "granularity": CLASSES[wnid],
                    "label": wnid,
                    "image": name,
                }
                fact = {"file": f"EEG-ImageNet_{file}.pth", "row": len(dataset), "subject": f"{subject:02d}"}
                rows.append(
                    {**fact, "picture": name[:-5], "concept": wnid, "granularity": CLASSES[wnid], "eeg_uv": eeg_uv}
                )
                dataset.append(trial)
        content = {"dataset": dataset, "labels": list(CLASSES), "images": names}
        torch.save(content, folder / f"EEG-ImageNet_{file}.pth")
    return pd.DataFrame(rows)
