"""A small EEGCVPR40 as its authors' ``torch.save`` wrote it: trials of about 500 samples, two split files, pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tests.writers.stimuli import draw, responses

N_CHANS = 128
SFREQ_HZ = 1000.0
WNIDS = ("n02106662", "n02124075", "n02281787", "n02389026", "n02492035", "n02504458", "n02510455", "n02607072")


def write_eegcvpr40(
    folder: Path,
    subjects: Sequence[int] = (1, 2),
    n_classes: int = 3,
    pictures_per_class: int = 6,
    file: str = "eeg_55_95_std.pth",
    signal: float = 1.0,
    lengths: dict[int, int] | None = None,
    images: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Write a file of filtered, standardised EEG (a name with `raw`: microvolt, with means and deviations).

    Subjects come one after the other; the classes in blocks, as they were shown. Of each class's pictures the last is
    of the test part, the one before of the validation part.

    Parameters
    ----------
    lengths
        Row -> number of samples; else 490 to 510.

    Returns
    -------
    One row a trial, in the order of the file: subject, picture, concept, part, eeg (128, L).
    """
    rng = np.random.default_rng([seed, 2])
    wnids = WNIDS[:n_classes]
    names = [f"{wnid}_{100 + n}" for wnid in wnids for n in range(pictures_per_class)]
    target = folder / "images" if images else folder / "nowhere"
    latent_PK = draw([n.split("_")[0] for n in names], [target / n.split("_")[0] / f"{n}.JPEG" for n in names], seed)
    response_PCT = signal * responses(latent_PK, N_CHANS, 520, SFREQ_HZ, seed)
    listed = sorted(names, key=lambda name: name[::-1])
    dataset, rows = [], []
    raw = "raw" in file
    for subject in subjects:
        for name in names:
            n_times = (lengths or {}).get(len(dataset), int(rng.integers(490, 511)))
            eeg = rng.standard_normal((N_CHANS, n_times)) * (10 if raw else 1)
            shared = min(n_times, 520)
            eeg[:, :shared] += (10 if raw else 1) * response_PCT[names.index(name)][:, :shared]
            tensor = torch.from_numpy(eeg.astype(np.float32))
            wnid = name.split("_")[0]
            dataset.append({"eeg": tensor, "image": listed.index(name), "label": wnids.index(wnid), "subject": subject})
            place = names.index(name) % pictures_per_class - pictures_per_class
            part = {-1: "test", -2: "val"}.get(place, "train")
            rows.append({"subject": f"{subject:02d}", "picture": name, "concept": wnid, "part": part, "eeg": tensor})
    shown = pd.DataFrame(rows)
    content = {"dataset": dataset, "labels": list(wnids), "images": listed}
    if raw:
        content |= {"means": torch.zeros(N_CHANS, 1), "stddevs": torch.ones(N_CHANS, 1)}
    torch.save(content, folder / file)
    for name, chosen in (("all", shown), ("single", shown[shown["subject"] == f"{subjects[0]:02d}"])):
        split = {part: [int(row) for row in chosen.index[chosen["part"] == part]] for part in ("train", "val", "test")}
        torch.save({"splits": [split, split]}, folder / f"block_splits_by_image_{name}.pth")
    return shown
