"""Small THINGS-EEG2 datasets in each layout it is passed around in, byte for byte as the published scripts write them.

Raw recordings carry a response that is linear in what a picture looks like, so a decoder can learn from them. Trials
that come cut are noise of deviation 1 with a mark in the first sample: channel 0 says the picture (its code, from 1
on), channel 1 the repetition, channel 2 the subject, each times `MARK`.
Shape letters: P picture, R repetition, N trial, C chan, T time, K latent.
"""

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.signal import lfilter

from eegdecode.data.sources.forward_model import CHANNELS

POSTERIOR = tuple(name for name in CHANNELS if name[0] in "OP")
"""The 17 electrodes of the authors' own cut, in the order of the files."""
MARK = 1 / 8
"""Whole multiples up to 2048 times this are exact in float16."""
SFREQ_RAW_HZ = 1000
SOA_MS = 200
LEAD_MS = 1000
TAIL_MS = 1500
TARGET = 99999
N_LATENTS = 6


@dataclass(frozen=True)
class ImageSet:
    """The pictures of a dataset in the order of their codes, and the latents they were drawn from."""

    folder: Path
    train: list[tuple[str, str]]
    """Concept (folder) and file."""
    test: list[tuple[str, str]]
    latent_PK: np.ndarray
    """Training pictures, then test pictures."""

    def ids(self, run: str) -> list[str]:
        return [Path(file).stem for _, file in (self.train if run == "training" else self.test)]

    def latents(self, run: str) -> np.ndarray:
        return self.latent_PK[: len(self.train)] if run == "training" else self.latent_PK[len(self.train) :]


def write_pictures(
    folder: Path,
    n_train_concepts: int = 8,
    pictures_per_concept: int = 4,
    n_test: int = 10,
    px: int = 64,
    seed: int = 0,
    train_folder: str = "training_images",
    metadata: bool = True,
) -> ImageSet:
    """Write JPEGs of smooth colour patterns, half of each shared by its concept, and `image_metadata.npy`."""
    rng = np.random.default_rng([seed, 0])
    basis_K443 = rng.standard_normal((N_LATENTS, 4, 4, 3))
    train, test, latents = [], [], []
    for k in range(n_train_concepts):
        concept, shared = f"{k + 1:05d}_thing{k + 1:04d}", rng.standard_normal(N_LATENTS)
        for n in range(pictures_per_concept):
            train.append((concept, f"thing{k + 1:04d}_{n + 1:02d}s.jpg"))
            latents.append((shared + rng.standard_normal(N_LATENTS)) / np.sqrt(2))
    for k in range(n_test):
        test.append((f"{k + 1:05d}_other{k + 1:04d}", f"other{k + 1:04d}_{k % 9 + 1:02d}s.jpg"))
        latents.append(rng.standard_normal(N_LATENTS))
    for part, listed, offset in ((train_folder, train, 0), ("test_images", test, len(train))):
        for row, (concept, file) in enumerate(listed):
            rgb_443 = 0.5 + 0.5 * np.tanh(0.3 * np.tensordot(latents[offset + row], basis_K443, 1))
            image = Image.fromarray(np.rint(255 * rgb_443).astype(np.uint8))
            path = folder / part / concept / file
            path.parent.mkdir(parents=True, exist_ok=True)
            image.resize((px, px), Image.Resampling.BICUBIC).save(path, quality=95)
    if metadata:
        described = {}
        for part, listed in (("train", train), ("test", test)):
            described[f"{part}_img_concepts"] = [concept for concept, _ in listed]
            described[f"{part}_img_files"] = [file for _, file in listed]
        np.save(folder / "image_metadata.npy", described)  # type: ignore[arg-type]
    return ImageSet(folder, train, test, np.array(latents))


def write_raw(
    root: Path,
    n_train_concepts: int = 8,
    pictures_per_concept: int = 4,
    n_test: int = 10,
    train_repetitions: int = 2,
    test_repetitions: int = 6,
    subjects: Sequence[str] = ("01",),
    sessions: int = 2,
    channels: Sequence[str] = POSTERIOR,
    n_targets: int = 3,
    signal_uv: float = 5.0,
    noise_uv: float = 10.0,
    px: int = 64,
    seed: int = 0,
) -> tuple[ImageSet, pd.DataFrame]:
    """Write image set and raw recordings; 9 MB as it stands.

    Repetitions are those of one session. Of several sessions, each shows every second training picture, as in the
    experiment, and all test pictures.

    Returns
    -------
    The pictures; and what was shown, catch trials included: subject, session, run, sample, code.
    """
    images = write_pictures(root / "image_set", n_train_concepts, pictures_per_concept, n_test, px, seed)
    shown = []
    for subject in subjects:
        for session in range(sessions):
            for run in ("training", "test"):
                rng = np.random.default_rng([seed, 1, int(subject), session, run == "test"])
                n_pictures = len(images.ids(run))
                codes = np.arange(1, n_pictures + 1)
                if run == "training" and sessions > 1:
                    codes = codes[session % 2 :: 2]
                repetitions = train_repetitions if run == "training" else test_repetitions
                order = np.concatenate([rng.permutation(codes) for _ in range(repetitions)])
                order = np.insert(order, rng.integers(1, len(order), n_targets), TARGET)
                samples = LEAD_MS + SOA_MS * np.arange(len(order))
                eeg_uv_CT = _noise_uv(rng, len(channels), int(samples[-1]) + TAIL_MS, noise_uv)
                response_uv_KCT = responses_uv(subject, len(channels), signal_uv)
                for sample, code in zip(samples, order, strict=True):
                    if code != TARGET:
                        response_uv_CT = np.tensordot(images.latents(run)[code - 1], response_uv_KCT, 1)
                        eeg_uv_CT[:, sample : sample + response_uv_CT.shape[1]] += response_uv_CT
                path = root / "raw_eeg" / f"sub-{subject}" / f"ses-{session + 1:02d}" / f"raw_eeg_{run}.npy"
                write_raw_file(path, eeg_uv_CT * 1e-6, channels, samples, order)
                shown.append(
                    pd.DataFrame(
                        {
                            "subject": subject,
                            "session": f"{session + 1:02d}",
                            "run": run,
                            "sample": samples,
                            "code": order,
                        }
                    )
                )
    return images, pd.concat(shown, ignore_index=True)


def responses_uv(subject: str, n_channels: int, signal_uv: float) -> np.ndarray:
    """Return what each latent does to the electrodes within 300 ms, (K, C, T); patterns differ between people."""
    rng = np.random.default_rng([int(subject), 2])
    time_s = np.arange(300) / SFREQ_RAW_HZ
    course_KT = np.exp(-0.5 * ((time_s - 0.08 - 0.025 * np.arange(N_LATENTS)[:, None]) / 0.02) ** 2)
    common = np.random.default_rng(2).standard_normal((N_LATENTS, n_channels))
    pattern_KC = 0.8 * common + 0.6 * rng.standard_normal((N_LATENTS, n_channels))
    return np.asarray(signal_uv * pattern_KC[:, :, None] * course_KT[:, None])


def _noise_uv(rng: np.random.Generator, n_channels: int, n_times: int, deviation_uv: float) -> np.ndarray:
    """Return noise that remembers its past for about 20 ms."""
    memory = 0.95
    white_CT = rng.standard_normal((n_channels, n_times)) * np.sqrt(1 - memory**2)
    return np.asarray(deviation_uv * lfilter([1.0], [1.0, -memory], white_CT, axis=1))


def write_raw_file(
    path: Path,
    eeg_v_CT: np.ndarray,
    channels: Sequence[str],
    samples: np.ndarray,
    codes: np.ndarray,
    pulse: int = 1,
    **changed: Any,
) -> None:
    """Write one recording: the channels, then `stim`, which holds the code for `pulse` samples.

    Parameters
    ----------
    changed
        Entries of the dictionary to replace; None takes one out.
    """
    stim_T = np.zeros(eeg_v_CT.shape[1])
    for k in range(pulse):
        stim_T[samples + k] = codes
    content = {
        "raw_eeg_data": np.append(eeg_v_CT, stim_T[None], axis=0),
        "ch_names": [*channels, "stim"],
        "ch_types": ["eeg"] * len(channels) + ["stim"],
        "sfreq": SFREQ_RAW_HZ,
        "highpass": 0.01,
        "lowpass": 100,
    }
    content.update(changed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_as_numpy_1(path, {key: value for key, value in content.items() if value is not None})


def save_as_numpy_1(path: Path, content: dict[str, Any]) -> None:
    """Do what ``np.save(path, content)`` did in NumPy 1: pickle protocol 3, and NumPy's core under its old name."""
    array = np.empty((), dtype=object)
    array[()] = content
    pickled = pickle.dumps(array, protocol=3).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
        stream.write(pickled)


def marked(codes_N: np.ndarray, repetition_N: np.ndarray, subject: str, n_channels: int, n_times: int) -> np.ndarray:
    """Return trials of noise with their marks, float64 (N, C, T)."""
    rng = np.random.default_rng([3, int(subject), len(codes_N)])
    eeg_NCT = rng.standard_normal((len(codes_N), n_channels, n_times))
    eeg_NCT[:, 0, 0], eeg_NCT[:, 1, 0], eeg_NCT[:, 2, 0] = MARK * codes_N, MARK * repetition_N, MARK * int(subject)
    return np.asarray(eeg_NCT)


def _marked_by_picture(n_pictures: int, n_repetitions: int, subject: str, shape: tuple[int, int]) -> np.ndarray:
    codes_N = np.repeat(np.arange(1, n_pictures + 1), n_repetitions)
    eeg_NCT = marked(codes_N, np.tile(np.arange(n_repetitions), n_pictures), subject, *shape)
    return eeg_NCT.reshape(n_pictures, n_repetitions, *shape)


def times_s(n_times: int, sfreq_hz: float, before: int) -> np.ndarray:
    """Return the times of `before` samples before the picture and the rest after it, from 0 s on."""
    return (np.arange(before + n_times) - before) / sfreq_hz


_REPETITIONS = {"training": 4, "test": 6}


def write_gifford(root: Path, subjects: Sequence[str] = ("01",), **pictures: Any) -> ImageSet:
    """Write 17 channels at 100 Hz from -0.2 s on, as ``np.save`` of a dictionary."""
    images = write_pictures(root / "image_set", **pictures)
    for subject in subjects:
        for run, repetitions in _REPETITIONS.items():
            eeg_PRCT = _marked_by_picture(len(images.ids(run)), repetitions, subject, (len(POSTERIOR), 40))
            path = root / "preprocessed_data" / f"sub-{subject}" / f"preprocessed_eeg_{run}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            times = times_s(20, 100.0, 20)
            save_as_numpy_1(path, {"preprocessed_eeg_data": eeg_PRCT, "ch_names": list(POSTERIOR), "times": times})
    return images


def write_nice(root: Path, subjects: Sequence[str] = ("01",), n_channels: int = 63, **pictures: Any) -> ImageSet:
    """Write channels at 250 Hz from 0 s on, as a pickle under the name of a .npy; `times` begins at -0.2 s."""
    images = write_pictures(root / "image_set", **pictures)
    for subject in subjects:
        for run, repetitions in _REPETITIONS.items():
            eeg_PRCT = _marked_by_picture(len(images.ids(run)), repetitions, subject, (n_channels, 25))
            path = root / "Preprocessed_data_250Hz" / f"sub-{subject}" / f"preprocessed_eeg_{run}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {
                "preprocessed_eeg_data": eeg_PRCT,
                "ch_names": list(CHANNELS[:n_channels]),
                "times": times_s(25, 250.0, 50),
            }
            with path.open("wb") as stream:
                pickle.dump(content, stream, protocol=4)
    return images


def write_ubp(
    root: Path, subjects: Sequence[str] = ("01",), n_channels: int = 63, tensors: bool = False, **pictures: Any
) -> ImageSet:
    """Write float16 trials with the path of each one's picture by ``torch.save`` (NumPy arrays, protocol 5).

    Parameters
    ----------
    tensors
        The trials as a tensor, as a file that was saved again may have them.
    """
    images = write_pictures(root / "Image_set_Resize", train_folder="train_images", metadata=False, **pictures)
    for subject in subjects:
        for run, repetitions in _REPETITIONS.items():
            listed, mode = (images.train, "train") if run == "training" else (images.test, "test")
            paths = np.array([f"{mode}_images/{concept}/{file}" for concept, file in listed])
            eeg = _marked_by_picture(len(listed), repetitions, subject, (n_channels, 25)).astype(np.float16)
            shape = (len(listed), repetitions)
            concepts = sorted({concept for concept, _ in listed})
            content = {
                "eeg": torch.from_numpy(eeg) if tensors else eeg,
                "label": np.tile(np.array([concepts.index(concept) for concept, _ in listed])[:, None], repetitions),
                "img": np.tile(paths[:, None], (1, repetitions)),
                "text": np.tile(np.array([file.rsplit("_", 1)[0] for _, file in listed])[:, None], (1, repetitions)),
                "session": np.broadcast_to(np.arange(repetitions) // 2, shape).astype(np.float64),
                "ch_names": list(CHANNELS[:n_channels]),
                "times": times_s(25, 250.0, 50),
            }
            path = root / "Preprocessed_data_250Hz_whiten" / f"sub-{subject}" / f"{mode}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(content, path, pickle_protocol=5)
    return images


def write_neurobridge(
    root: Path,
    subjects: Sequence[str] = ("01",),
    n_channels: int = 63,
    normalization: str = "mvnn",
    **pictures: Any,
) -> ImageSet:
    """Write float32 arrays (concept, picture, repetition, channel, time) and `info.json`."""
    images = write_pictures(root / "image_set", train_folder="train_images", **pictures)
    folder = root / "preprocessed_eeg"
    for subject in subjects:
        (folder / f"sub-{subject}").mkdir(parents=True, exist_ok=True)
        for run, repetitions in _REPETITIONS.items():
            listed, mode = (images.train, "train") if run == "training" else (images.test, "test")
            n_concepts = len({concept for concept, _ in listed})
            eeg = _marked_by_picture(len(listed), repetitions, subject, (n_channels, 25)).astype(np.float32)
            np.save(folder / f"sub-{subject}" / f"{mode}.npy", eeg.reshape(n_concepts, -1, *eeg.shape[1:]))
    info = {
        "ch_names": list(CHANNELS[:n_channels]),
        "times": times_s(25, 250.0, 50).tolist(),
        "baseline_duration": 0.2,
        "after_duration": 1.0,
        "normalization": normalization,
        "sfreq": 250.0,
        "precision": "fp32",
        "seed": 20200220,
    }
    (folder / "info.json").write_text(json.dumps(info, indent=4))
    return images


def write_enigma(root: Path, subjects: Sequence[str] = ("01",), n_channels: int = 63, **pictures: Any) -> ImageSet:
    """Write trials in the order of presentation and the table that says what each of them was; a few were dropped."""
    images = write_pictures(root / "images", metadata=False, **pictures)
    for subject in subjects:
        rng = np.random.default_rng([4, int(subject)])
        folder = root / "things_eeg2" / f"sub-{subject}"
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for run, repetitions in _REPETITIONS.items():
            listed, part, name = (
                (images.train, "stim_train", "training_images")
                if run == "training"
                else (images.test, "stim_test", "test_images")
            )
            order_N = rng.permutation(np.repeat(np.arange(len(listed)), repetitions))
            table = pd.DataFrame(
                {
                    "partition": part,
                    "dropped": rng.random(len(order_N)) < 0.1,
                    "image_path": [f"/somewhere/else/{name}/{'/'.join(listed[k])}" for k in order_N],
                    "category_name": [listed[k][0].split("_", 1)[1] for k in order_N],
                    "category_num": order_N,
                    "subject": int(subject),
                    "code": order_N + 1,
                }
            )
            kept = table[~table["dropped"]]
            repetition_N = kept.groupby("code").cumcount().to_numpy()
            content = {
                "preprocessed_eeg_data": marked(kept["code"].to_numpy(), repetition_N, subject, n_channels, 25),
                "ch_names": list(CHANNELS[:n_channels]),
                "times": times_s(25, 250.0, 0),
            }
            with (folder / f"preprocessed_eeg_{run}_flat.npy").open("wb") as stream:
                pickle.dump(content, stream, protocol=4)
            rows.append(table.drop(columns="code"))
        # The two parts alternate in blocks; only the order within a part counts.
        pd.concat(rows[::-1]).to_parquet(folder / "experiment_metadata.parquet")
    return images
