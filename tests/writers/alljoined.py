"""Small Alljoined1 (FIF, tables as pandas' `to_hdf` writes them) and Alljoined-1.6M (EDF of the Emotiv FLEX2).

Shape letters: C chan, T time.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import mne
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from tests.writers.bids import write_edf
from tests.writers.stimuli import draw, responses

CHANNELS_1 = mne.channels.make_standard_montage("biosemi64").ch_names
CHANNELS_16 = (
    "Cz", "FCz", "Afz", "Fp1", "F5", "F1", "CP5", "CP3", "CP1", "P1", "P3", "P5", "P7", "PO7", "PO3", "O1", "Pz", "POz",
    "Oz", "O2", "PO4", "PO8", "P8", "P6", "P4", "P2", "CP2", "CP4", "CP6", "F2", "F6", "Fp2",
)  # fmt: skip
BLOSC = 32001


def write_alljoined1(
    folder: Path,
    sessions: Sequence[tuple[int, int]] = ((1, 1), (1, 2), (2, 1)),
    n_trials: int = 12,
    first_samp: int = 0,
    blosc: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Write sessions (subject, session), their tables, and the pictures as PNG.

    Returns
    -------
    What was shown: recording, sample (from the first of the file), picture.
    """
    numbers = [7, 46002, 72999]
    paths = [folder / "nsd_stimuli" / f"{number}.png" for number in numbers]
    latent_PK = draw([str(number) for number in numbers], paths, seed)
    response_uv_PCT = 10 * responses(latent_PK, 64, 200, 512.0, seed)
    shown = []
    for subject, session in sessions:
        rng = np.random.default_rng([seed, subject, session])
        order = rng.integers(0, len(numbers), n_trials)
        samples = 512 + 310 * np.arange(n_trials) + rng.integers(0, 20, n_trials)
        eeg_uv_CT = 0.01 * rng.standard_normal((64, samples[-1] + 512))
        stim_T = np.zeros((1, eeg_uv_CT.shape[1]))
        for sample, picture in zip(samples, order, strict=True):
            eeg_uv_CT[:, sample : sample + 200] += response_uv_PCT[picture]
            stim_T[0, sample : sample + 5] = picture + 1
        info = mne.create_info([*CHANNELS_1, "Status"], 512.0, ["eeg"] * 64 + ["stim"])
        raw = mne.io.RawArray(np.vstack([eeg_uv_CT * 1e-6, stim_T]), info, first_samp, verbose="ERROR")
        name = f"subj{subject:02d}_session{session}"
        (folder / "raw").mkdir(parents=True, exist_ok=True)
        raw.save(folder / "raw" / f"{name}_eeg.fif", overwrite=True, verbose="ERROR")
        table = {
            "subject_id": np.full(n_trials, subject),
            "session": np.full(n_trials, session),
            "block": np.ones(n_trials, int),
            "trial": 1 + np.arange(n_trials),
            "73k_id": np.array(numbers, np.int32)[order],
            "coco_id": 500 + order,
            "curr_time": (samples + first_samp) / 512,
        }
        write_table(folder / "05_125" / f"{name}.h5", table, blosc)
        pictures = [f"{numbers[k]:05d}" for k in order]
        key = f"sub-{subject:02d}_ses-{session:02d}"
        shown.append(pd.DataFrame({"recording": key, "sample": samples, "picture": pictures}))
    return pd.concat(shown, ignore_index=True)


def write_table(path: Path, columns: Mapping[str, npt.NDArray[np.generic]], blosc: bool = False) -> None:
    """Write a frame in the format "fixed": one block for each dtype, and the EEG as a pickle in a block of objects."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dtypes = list(dict.fromkeys(values.dtype for values in columns.values()))
    with h5py.File(path, "w") as file:
        table = file.create_group("df")
        table.attrs.update({"CLASS": b"GROUP", "pandas_type": b"frame", "nblocks": len(dtypes) + 1, "ndim": 2})
        put = _put_blosc if blosc else _put
        put(table, "axis0", _names([*columns, "eeg"]))
        put(table, "axis1", np.arange(len(next(iter(columns.values())))))
        for k, dtype in enumerate(dtypes):
            mine = {name: values for name, values in columns.items() if values.dtype == dtype}
            put(table, f"block{k}_items", _names(list(mine)))
            put(table, f"block{k}_values", np.column_stack(list(mine.values())))
        put(table, f"block{len(dtypes)}_items", _names(["eeg"]))
        # Of the numbers in the objects nothing is read; a reader that unpickles them would fail.
        objects = table.create_dataset(f"block{len(dtypes)}_values", (1,), h5py.vlen_dtype(np.uint8))
        objects[0] = np.frombuffer(b"\x80\x04cos\nsystem\n", np.uint8)


def _names(names: list[str]) -> npt.NDArray[np.bytes_]:
    return np.array([name.encode() for name in names])


def _put(group: h5py.Group, name: str, values: npt.NDArray[np.generic]) -> None:
    group.create_dataset(name, data=values)


def _put_blosc(group: h5py.Group, name: str, values: npt.NDArray[np.generic]) -> None:
    """Write chunks in blosc's own format, stored without compression, which needs no library."""
    chunks = (min(5, len(values)), *values.shape[1:])
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk(chunks)
    created.set_filter(BLOSC, h5py.h5z.FLAG_OPTIONAL, (2, 2, values.itemsize, 0, 9, 1, 0))
    space = h5py.h5s.create_simple(values.shape)
    dtype = h5py.h5t.py_create(values.dtype, logical=True)
    dataset = h5py.h5d.create(group.id, name.encode(), dtype, space, created)
    for start in range(0, len(values), chunks[0]):
        chunk = np.zeros(chunks, values.dtype)
        part = values[start : start + chunks[0]]
        chunk[: len(part)] = part
        content = chunk.tobytes()
        stored = 2
        head = struct.pack(
            "<BBBBIII", 2, 1, stored, min(values.itemsize, 255), len(content), len(content), len(content) + 16
        )
        dataset.write_direct_chunk((start, *[0] * (values.ndim - 1)), head + content)


def write_alljoined16(
    folder: Path,
    blocks: Sequence[tuple[int, int, int]] = ((1, 1, 1), (1, 1, 5), (8, 1, 1)),
    n_trials: int = 10,
    concepts: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Write blocks (subject, session, block): the first four of a session show test pictures, the others training ones.

    Each has a catch trial, a key press and a deleted event. Files of subject 8 carry the number 19.

    Returns
    -------
    What was shown: recording, sample, picture.
    """
    numbers = [0, 5, 16539, 16540, 16739, 16745]
    images = folder / "stimuli" / "images"
    paths = [images / f"{number:05d}.png" for number in numbers]
    latent_PK = draw([str(number) for number in numbers], paths, seed)
    for path in paths:
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    response_uv_PCT = 10 * responses(latent_PK, 32, 50, 256.0, seed)
    if concepts:
        table = folder / "preprocessed_eeg" / "sub-01" / "stim_order.parquet"
        table.parent.mkdir(parents=True)
        paths_given = [f"/somewhere/images/{number:05d}.jpg" for number in numbers]
        names = ["aardvark", "aardvark", "zucchini", "airplane", "wok", "woody"]
        frame = pd.DataFrame({"image_path": paths_given, "category_name": names, "partition": "stim_train"})
        pd.concat([frame, frame]).to_parquet(table)
    shown = []
    for subject, session, block in blocks:
        rng = np.random.default_rng([seed, subject, session, block])
        mine = [3, 4] if block <= 4 else [0, 1, 2]
        order = rng.choice(mine, n_trials)
        samples = 256 + 51 * np.arange(n_trials + 3)
        eeg_uv_CT = 0.01 * rng.standard_normal((len(CHANNELS_16), 256 * 6))
        texts = [f"stim_{'test' if block <= 4 else 'train'},{numbers[k]},-1,{n}" for n, k in enumerate(order, 1)]
        for sample, picture in zip(samples, order, strict=False):
            eeg_uv_CT[:, sample : sample + 50] += response_uv_PCT[picture]
        texts += ["oddball,16745,-1,98", f"stim_test,{numbers[mine[0]]},1,99", "behav,3,-1,100"]
        device = np.tile(np.arange(eeg_uv_CT.shape[1]) % 128, (2, 1)).astype(float)
        number = 19 if subject == 8 else subject
        place = folder / "raw_eeg" / f"sub-{subject:02d}" / f"session_{session:02d}" / f"block_{block:02d}"
        place.mkdir(parents=True)
        write_edf(
            place
            / f"Subject {number}, Session {session}, Block {block} Recording_FLEX2_1_2025.01.25T15.18.28.08.00.md.edf",
            np.vstack([device[:1], eeg_uv_CT, device[1:]]),
            ["Counter", *CHANNELS_16, "CQ_Cz"],
            256.0,
            mne.Annotations(samples / 256, np.zeros(len(samples)), texts),
        )
        key = f"sub-{subject:02d}_ses-{session:02d}_run-{block:02d}"
        pictures = [f"{numbers[k]:05d}" for k in order]
        shown.append(pd.DataFrame({"recording": key, "sample": samples[:n_trials], "picture": pictures}))
    return pd.concat(shown, ignore_index=True)
