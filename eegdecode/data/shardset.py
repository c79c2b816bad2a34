"""A published shard set, opened: checked, fetched if it is in an object store, mapped, and gathered without parsing.

Shape letters: B batch, C chan, T time, D embedding, P picture, N samples of a shard.
"""

import fcntl
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import ValidationError

from eegdecode import storage
from eegdecode.batch import SCHEMA_VERSION, FileFact, Fold, Manifest, ShardFact
from eegdecode.data.splits import part_of
from eegdecode.data.tarindex import BLOCK_BYTES, TarIndex

MANIFEST_NAME = "manifest.json"
TABLE_NAME = "table.parquet"

_PARTS = {"train": 0, "val": 1}
_TEST = 2
_THREADS = 4


def picture_key(picture: str) -> str:
    """Return the name a picture has in its shard: its id, or for an id that can be no name what is left and a hash."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", picture):
        return picture
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", picture)[:60]
    return f"{plain}-{hashlib.sha256(picture.encode()).hexdigest()[:12]}"


def read_manifest(uri: str) -> Manifest:
    """Return the manifest of a published set.

    Raises
    ------
    ValueError
        If nothing is published there, or the manifest is of another schema, or was altered.
    """
    where = storage.join(uri, MANIFEST_NAME)
    try:
        content = storage.read_bytes(where)
    except storage.MissingError as error:
        raise ValueError(f"no shard set is published at {uri}: {error} Prepare it first.") from error
    try:
        tree = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{where} was cut or altered: it is not JSON ({error}). Prepare the set again.") from error
    version = tree.get("schema_version") if isinstance(tree, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{where} must have schema version {SCHEMA_VERSION}, got {version}: it was prepared by another release. "
            "Prepare the set again, or use that release."
        )
    try:
        manifest = Manifest.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{where} was altered: {error}") from error
    try:
        manifest.check()
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    for fact in _files(manifest):
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", fact.name):
            raise ValueError(f"{where}: a file of the set must be a plain name, got '{fact.name}'.")
    return manifest


def open_shards(uri: str, cache_dir: str | None = None, verify: bool = True) -> "ShardSet":
    """Open a published set; objects are first copied whole to a local folder that all processes of a node share.

    Parameters
    ----------
    cache_dir
        Where copies go, under the set's digest; a folder of this user among the temporary files if None or empty.
        Not used for a set that is local.
    verify
        Whether every file is hashed now. Without it tars are only held against the manifest's sizes: for processes
        beside one that has verified.

    Raises
    ------
    ValueError
        If the manifest, or a file named in it, is not what was published.
    """
    manifest = read_manifest(uri)
    folder = storage.local_path(uri)
    if folder is None:
        folder = _cache_folder(cache_dir) / manifest.digest
    remote = uri if storage.local_path(uri) is None else None
    with ThreadPoolExecutor(_THREADS) as pool:
        # A list, so that the first fault is raised here.
        list(pool.map(lambda fact: _hold(folder, fact, remote, verify), _files(manifest)))
    return ShardSet(manifest, folder)


def test_trials(shards: "ShardSet", fold: Fold) -> np.ndarray:
    """Return the trials of a fold's test part, int64; only `evaluate` and `reconstruct` call this."""
    return np.flatnonzero(part_of(shards.table, fold) == _TEST).astype(np.int64)


class ShardSet:
    """Trials and pictures of an opened set.

    Attributes
    ----------
    manifest, table
        What was published; row ``t`` of the table is trial ``t``.
    """

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self.manifest = manifest
        self.table: pd.DataFrame = pd.read_parquet(folder / manifest.table.name, engine="pyarrow")
        if len(self.table) != manifest.n_trials:
            raise ValueError(
                f"the table must have {manifest.n_trials} rows, got {len(self.table)}. Prepare the set again."
            )
        self._trials = [_Shard(folder, fact) for fact in manifest.trials]
        self._pictures = [_Shard(folder, fact) for fact in manifest.pictures]
        shape_CT = (len(manifest.channels), manifest.n_times)
        self._eeg = [shard.windows("eeg.npy", "<f2", shape_CT) for shard in self._trials]
        self._target = [shard.windows("target.npy", "<f4", (manifest.target.dim,)) for shard in self._trials]
        self._eeg_block = _joined([shard.blocks("eeg.npy") for shard in self._trials])
        self._target_block = _joined([shard.blocks("target.npy") for shard in self._trials])
        self._start_S = np.cumsum([0, *(shard.n for shard in self._trials)])
        if self._start_S[-1] != manifest.n_trials:
            raise ValueError(f"the shards must hold {manifest.n_trials} trials, got {self._start_S[-1]}.")
        self.picture_row: np.ndarray = self.table["picture_row"].to_numpy(np.int64)

    def gather(self, trials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return EEG (B, C, T) float16 in µV and targets (B, D) float32 of the trials, in their order."""
        trials = np.asarray(trials, np.int64)
        if len(trials) and not 0 <= trials.min() <= trials.max() < self.manifest.n_trials:
            raise ValueError(
                f"a trial must be 0 to {self.manifest.n_trials - 1}, got {trials.min()} to {trials.max()}."
            )
        n_chans, n_times = len(self.manifest.channels), self.manifest.n_times
        eeg_B = np.empty((len(trials), n_chans * n_times), np.float16)
        target_BD = np.empty((len(trials), self.manifest.target.dim), np.float32)
        shard_B = np.searchsorted(self._start_S, trials, side="right") - 1
        places = zip(
            shard_B.tolist(), self._eeg_block[trials].tolist(), self._target_block[trials].tolist(), strict=True
        )
        # One copy a row, straight from the map: faster than fancy indexing a shard at a time, which copies twice.
        for b, (shard, eeg_block, target_block) in enumerate(places):
            eeg_B[b] = self._eeg[shard][eeg_block]
            target_BD[b] = self._target[shard][target_block]
        return eeg_B.reshape(-1, n_chans, n_times), target_BD

    def trials_of(self, fold: Fold, part: Literal["train", "val"]) -> np.ndarray:
        """Return the trials of a part, int64, ascending.

        Raises
        ------
        ValueError
            For any other part: the test part is not for training or selection.
        """
        if part not in _PARTS:
            raise ValueError(f"part must be 'train' or 'val', got '{part}': only scoring sees the test part.")
        return np.flatnonzero(part_of(self.table, fold) == _PARTS[part]).astype(np.int64)

    @cached_property
    def picture_ids(self) -> tuple[str, ...]:
        """Ids of the picture set, by row."""
        return tuple(self._picture_facts[0])

    @cached_property
    def picture_concepts(self) -> tuple[str, ...]:
        """Concept of each picture, by row."""
        return tuple(self._picture_facts[1])

    @cached_property
    def _picture_facts(self) -> tuple[list[str], list[str]]:
        facts = [json.loads(data) for shard in self._pictures for data in shard.each("json")]
        return [fact["picture"] for fact in facts], [fact["concept"] for fact in facts]

    @cached_property
    def target_PD(self) -> np.ndarray:
        """Target of each picture, float32, as the tower made it."""
        parts = []
        for shard in self._pictures:
            windows = shard.windows("target.npy", "<f4", (self.manifest.target.dim,))
            parts.append(windows[shard.blocks("target.npy")])
        return np.concatenate(parts)

    def picture_images(self, rows: Sequence[int] | np.ndarray) -> list[Image.Image]:
        """Return pictures as RGB images.

        Raises
        ------
        ValueError
            If one does not decode; it is named.
        """
        starts = np.cumsum([0, *(shard.n for shard in self._pictures)])
        images = []
        for row in np.asarray(rows, np.int64).tolist():
            if not 0 <= row < starts[-1]:
                raise ValueError(f"a picture row must be 0 to {starts[-1] - 1}, got {row}.")
            s = int(np.searchsorted(starts, row, side="right")) - 1
            data = self._pictures[s].bytes_of("png", row - int(starts[s]))
            try:
                images.append(Image.open(io.BytesIO(data), formats=("PNG",)).convert("RGB"))
            except Exception as error:
                raise ValueError(f"picture '{self.picture_ids[row]}' (row {row}) does not decode: {error}.") from error
        return images


class _Shard:
    """A mapped tar and where its fields lie."""

    def __init__(self, folder: Path, fact: ShardFact) -> None:
        self.name = fact.tar.name
        index = TarIndex.from_bytes(fact.index.name, (folder / fact.index.name).read_bytes())
        if (index.tar_sha256, index.tar_bytes) != (fact.tar.sha256, fact.tar.size_bytes):
            raise ValueError(
                f"index {fact.index.name} does not belong to its shard {self.name}: it was made for a tar with sha256 "
                f"{index.tar_sha256[:12]}…, the manifest says {fact.tar.sha256[:12]}…. Prepare the set again."
            )
        if len(index.keys) != fact.n_samples:
            raise ValueError(f"{self.name} must hold {fact.n_samples} samples, its index has {len(index.keys)}.")
        self.n = fact.n_samples
        self._index = index
        self._bytes = np.memmap(folder / self.name, dtype=np.uint8, mode="r")

    def windows(self, field: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return a view with one row per block of the tar: the array whose member's data begins there.

        Members begin at multiples of 512 bytes, so the rows overlap, and a member is one row, whatever lies between.
        """
        fact = self._index.fields[self._index.column(field)]
        if (fact.dtype, fact.shape) != (dtype, shape):
            raise ValueError(
                f"{self.name}: '{field}' must be {dtype} {shape} as the manifest says, got {fact.dtype} {fact.shape}."
            )
        count = int(np.prod(shape))
        item = np.dtype(dtype).itemsize
        rows = max(0, (len(self._bytes) - fact.header_bytes - count * item) // BLOCK_BYTES + 1)
        view: np.ndarray = np.ndarray((rows, count), dtype, self._bytes.data, fact.header_bytes, (BLOCK_BYTES, item))
        return view

    def blocks(self, field: str) -> np.ndarray:
        """Return for each sample the row of `windows` that is its field."""
        column = self._index.column(field)
        size = self._index.size_NF[:, column]
        fact = self._index.fields[column]
        if np.any(size != fact.header_bytes + int(np.prod(fact.shape)) * np.dtype(fact.dtype).itemsize):
            raise ValueError(
                f"{self.name}: every '{field}' must be as long as its type and shape. Prepare the set again."
            )
        return (self._index.offset_NF[:, column] // BLOCK_BYTES).astype(np.int32)

    def bytes_of(self, field: str, sample: int) -> bytes:
        column = self._index.column(field)
        start, size = int(self._index.offset_NF[sample, column]), int(self._index.size_NF[sample, column])
        return self._bytes[start : start + size].tobytes()

    def each(self, field: str) -> Iterator[bytes]:
        return (self.bytes_of(field, sample) for sample in range(self.n))


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def _files(manifest: Manifest) -> list[FileFact]:
    shards = (*manifest.trials, *manifest.pictures)
    return [manifest.table, *(fact for shard in shards for fact in (shard.index, shard.tar))]


def _hold(folder: Path, fact: FileFact, remote: str | None, verify: bool) -> None:
    """See to it that a file is in the folder and is what was published."""
    path = folder / fact.name
    if remote is not None and _fetched(path, fact, storage.join(remote, fact.name)):
        return
    if not path.is_file():
        raise ValueError(f"{path} is missing from the shard set. Prepare the set again.")
    if path.stat().st_size != fact.size_bytes:
        raise ValueError(
            f"{path} was cut or altered: it must have {fact.size_bytes} bytes, got {path.stat().st_size}. "
            "Prepare the set again."
        )
    # The small files are always hashed: an index decides what is read from where.
    if (verify or not fact.name.endswith(".tar")) and storage.file_sha256(path) != fact.sha256:
        if remote is not None:
            # A copy can be made again; the hash is checked on the way.
            path.unlink(missing_ok=True)
            _fetched(path, fact, storage.join(remote, fact.name))
            return
        raise ValueError(f"{path} was altered: its sha256 is not the one in the manifest. Prepare the set again.")


def _fetched(path: Path, fact: FileFact, uri: str) -> bool:
    """Copy an object here unless a process of this node has; return whether this call did."""
    with _locked(path):
        if path.is_file() and path.stat().st_size == fact.size_bytes:
            return False
        storage.download(uri, path, fact.sha256)
        return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of one cached file; the operating system lets go of it when a process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cache_folder(cache_dir: str | None) -> Path:
    if cache_dir:
        return Path(cache_dir)
    folder = Path(tempfile.gettempdir()) / f"eegdecode-cache-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ValueError(f"{folder} must belong to this user and does not. Name another with compute.cache_dir.")
    return folder
