"""Small BIDS-EEG datasets: a plain one (EDF, sessions and runs), and THINGS-EEG1 as OpenNeuro has it (ds003825).

Shape letters: C chan, T time.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import mne
import numpy as np
import numpy.typing as npt
import pandas as pd

from tests.writers.stimuli import draw, responses

CHANNELS = ("Fz", "Cz", "P3", "Pz", "P4", "O1", "Oz", "O2")
SFREQ_HZ = 250.0
THINGS_CHANNELS = (
    "Fp1", "Fz", "F3", "F7", "FT9", "FC5", "FC1", "C3", "T7", "TP9", "CP5", "CP1", "Pz", "P3", "P7", "O1", "Oz", "O2",
    "P4", "P8", "TP10", "CP6", "CP2", "C4", "T8", "FT10", "FC6", "FC2", "F4", "F8", "Fp2", "AF7", "AF3", "AFz", "F1",
    "F5", "FT7", "FC3", "FCz", "C1", "C5", "TP7", "CP3", "P1", "P5", "PO7", "PO3", "POz", "PO4", "PO8", "P6", "P2",
    "CPz", "CP4", "TP8", "C6", "C2", "FC4", "FT8", "F6", "F2", "AF4", "AF8",
)  # fmt: skip


def write_bids(
    folder: Path,
    subjects: Sequence[str] = ("01", "02"),
    sessions: Sequence[str] = ("01",),
    runs: Sequence[str] = ("01", "02"),
    n_train_concepts: int = 4,
    n_test_concepts: int = 3,
    pictures_per_concept: int = 2,
    repetitions: int = 2,
    soa_s: float = 0.6,
    signal_uv: float = 10.0,
    noise_uv: float = 10.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Write a dataset as mne-bids would; each run shows every picture `repetitions` times, and has key presses.

    Returns
    -------
    What was shown: recording, sample, picture, concept, partition.
    """
    concepts = [f"train{k}" for k in range(n_train_concepts)] + [f"test{k}" for k in range(n_test_concepts)]
    pictures = [f"{concept}/{concept}_{n}.png" for concept in concepts for n in range(pictures_per_concept)]
    latent_PK = draw([p.split("/")[0] for p in pictures], [folder / "stimuli" / p for p in pictures], seed)
    n_soa = round(soa_s * SFREQ_HZ)
    response_uv_PCT = signal_uv * responses(latent_PK, len(CHANNELS), round(0.5 * SFREQ_HZ), SFREQ_HZ, seed)
    described = {
        "Name": "Pictures",
        "BIDSVersion": "1.9.0",
        "License": "CC0",
        "Authors": ["Nobody"],
        "HowToAcknowledge": "Cite the paper.",
        "DatasetDOI": "10.18112/openneuro.ds999999.v1.0.0",
    }
    _json(folder / "dataset_description.json", described)
    _table(folder / "participants.tsv", pd.DataFrame({"participant_id": [f"sub-{s}" for s in subjects], "age": "n/a"}))
    shown = []
    for s, subject in enumerate(subjects):
        for ses, session in enumerate(sessions):
            for r, run in enumerate(runs):
                rng = np.random.default_rng([seed, 2, s, ses, r])
                order = rng.permutation(np.repeat(np.arange(len(pictures)), repetitions))
                samples = round(SFREQ_HZ) + n_soa * np.arange(len(order))
                # Whole seconds: MNE pads the last record of an EDF file and marks it as bad.
                n_times = (samples[-1] // round(SFREQ_HZ) + 2) * round(SFREQ_HZ)
                eeg_uv_CT = noise_uv * rng.standard_normal((len(CHANNELS), n_times))
                for sample, picture in zip(samples, order, strict=True):
                    eeg_uv_CT[:, sample : sample + response_uv_PCT.shape[2]] += response_uv_PCT[picture]
                key = f"sub-{subject}_ses-{session}_task-view_run-{run}"
                base = folder / f"sub-{subject}" / f"ses-{session}" / "eeg" / key
                base.parent.mkdir(parents=True, exist_ok=True)
                write_edf(base.with_name(f"{key}_eeg.edf"), eeg_uv_CT, CHANNELS, SFREQ_HZ)
                names = [pictures[k] for k in order]
                events = pd.DataFrame(
                    {
                        "onset": samples / SFREQ_HZ,
                        "duration": 0.2,
                        "trial_type": [name.split("/")[0] for name in names],
                        "stim_file": names,
                        "partition": [_part(name) for name in names],
                    }
                )
                presses = pd.DataFrame(
                    {
                        "onset": (samples[::5] + 20) / SFREQ_HZ,
                        "duration": 0.0,
                        "trial_type": "response",
                        "stim_file": "n/a",
                        "partition": "n/a",
                    }
                )
                table = pd.concat([events, presses]).sort_values("onset", kind="stable")
                _table(base.with_name(f"{key}_events.tsv"), table)
                channels = pd.DataFrame({"name": CHANNELS, "type": "EEG", "units": "µV", "status": "good"})
                _table(base.with_name(f"{key}_channels.tsv"), channels)
                _json(
                    base.with_name(f"{key}_eeg.json"),
                    {
                        "TaskName": "view",
                        "SamplingFrequency": SFREQ_HZ,
                        "EEGReference": "n/a",
                        "PowerLineFrequency": 50,
                    },
                )
                shown.append(
                    pd.DataFrame(
                        {
                            "recording": key,
                            "sample": samples,
                            "picture": names,
                            "concept": [name.split("/")[0] for name in names],
                            "partition": [_part(name) for name in names],
                        }
                    )
                )
    return pd.concat(shown, ignore_index=True)


def write_things_eeg1(folder: Path, subjects: Sequence[str] = ("01", "02"), seed: int = 0) -> pd.DataFrame:
    """Write THINGS-EEG1: onsets in milliseconds, backslashes, and no validation pictures for subject 01.

    Returns
    -------
    What was shown: recording, sample, picture, concept, partition.
    """
    concepts = ("aardvark", "badger", "carousel")
    main = [f"{concept}/{concept}_{n:02d}s.jpg" for n in (1, 2) for concept in concepts]
    test = [f"{concept}/{concept}_13n.jpg" for concept in concepts[:2]]
    pictures = main + test
    latent_PK = draw([p.split("/")[0] for p in pictures], [folder / "stimuli" / p for p in pictures], seed)
    response_uv_PCT = 10 * responses(latent_PK, len(THINGS_CHANNELS), 90, 1000.0, seed)
    _json(
        folder / "dataset_description.json",
        {
            "Name": "Human electroencephalography recordings from 50 subjects",
            "BIDSVersion": "1.0.2",
            "License": "CC0",
            "Authors": ["Grootswagers, Tijl"],
            "DatasetDOI": "10.18112/openneuro.ds003825.v1.1.0",
        },
    )
    _json(folder / "task-rsvp_eeg.json", {"TaskName": "rsvp", "SamplingFrequency": 1000, "EEGChannelCount": 63})
    _table(
        folder / "participants.tsv",
        pd.DataFrame({"participant_id": [f"sub-{s}" for s in subjects], "exclude": [int(s == "01") for s in subjects]}),
    )
    shown = []
    for s, subject in enumerate(subjects):
        rng = np.random.default_rng([seed, 3, s])
        names = [*main] if subject == "01" else [*main, *test, *reversed(test)]
        onsets_ms = 724 + 100 * np.arange(len(names))
        eeg_uv_CT = rng.standard_normal((63, onsets_ms[-1] + 1000))
        for onset, name in zip(onsets_ms, names, strict=True):
            eeg_uv_CT[:, onset : onset + 90] += response_uv_PCT[pictures.index(name)]
        base = folder / f"sub-{subject}" / "eeg" / f"sub-{subject}_task-rsvp_eeg"
        base.parent.mkdir(parents=True, exist_ok=True)
        write_brainvision(base.with_suffix(".vhdr"), eeg_uv_CT, THINGS_CHANNELS, 1000.0)
        tested = np.arange(len(names)) >= len(main)
        table = pd.DataFrame(
            {
                "onset": onsets_ms,
                "duration": 50,
                "eventnumber": np.arange(len(names)),
                "blocksequencenumber": np.where(tested, -1, 0),
                "isteststim": tested.astype(int),
                "object": [-1 if t else name.split("/")[0] for t, name in zip(tested, names, strict=True)],
                "stim": [f"stimuli\\{name}".replace("/", "\\") for name in names],
                "istarget": 0,
            }
        )
        _table(
            base.with_name(f"sub-{subject}_task-rsvp_events.tsv"),
            table.drop(columns="isteststim") if subject == "01" else table,
        )
        shown.append(
            pd.DataFrame(
                {
                    "recording": f"sub-{subject}_task-rsvp",
                    "sample": onsets_ms,
                    "picture": names,
                    "concept": [name.split("/")[0] for name in names],
                    "partition": np.where(tested, "test", "train"),
                }
            )
        )
    return pd.concat(shown, ignore_index=True)


def write_edf(
    path: Path, eeg_uv_CT: npt.NDArray[np.float64], channels: Sequence[str], sfreq_hz: float, annotations: object = None
) -> None:
    """Write EDF+ of 16 bit over ±1 mV."""
    raw = mne.io.RawArray(eeg_uv_CT * 1e-6, mne.create_info(list(channels), sfreq_hz, "eeg"), verbose="ERROR")
    raw.set_annotations(annotations)
    mne.export.export_raw(path, raw, physical_range=(-1000, 1000), overwrite=True, verbose="ERROR")


def write_brainvision(path: Path, eeg_uv_CT: npt.NDArray[np.float64], channels: Sequence[str], sfreq_hz: float) -> None:
    """Write the three files of BrainVision, float32."""
    eeg, markers = path.with_suffix(".eeg"), path.with_suffix(".vmrk")
    eeg.write_bytes(eeg_uv_CT.T.astype("<f4").tobytes())
    listed = "\n".join(f"Ch{k}={name},,1,µV" for k, name in enumerate(channels, 1))
    path.write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={eeg.name}\nMarkerFile={markers.name}\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        f"NumberOfChannels={len(channels)}\nSamplingInterval={1e6 / sfreq_hz:g}\n\n"
        f"[Binary Infos]\nBinaryFormat=IEEE_FLOAT_32\n\n[Channel Infos]\n{listed}\n",
        encoding="utf-8",
    )
    markers.write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={eeg.name}\n\n[Marker Infos]\nMk1=New Segment,,1,1,0,20200101120000000000\n",
        encoding="utf-8",
    )


def _part(name: str) -> str:
    return "test" if name.startswith("test") else "train"


def _json(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _table(path: Path, frame: pd.DataFrame) -> None:
    # mne-bids begins its tables with a byte order mark.
    frame.to_csv(path, sep="\t", index=False, encoding="utf-8-sig")
