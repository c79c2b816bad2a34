"""Trials, pictures and targets to WebDataset tars, each with an index, and the manifest that makes them one set.

The same input gives the same bytes. A published set is never changed: other content needs another place.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from PIL import Image

from eegdecode import storage
from eegdecode.batch import FileFact, Manifest, ShardFact, Signed, TargetManifest
from eegdecode.data.shardset import (
    MANIFEST_NAME,
    TABLE_NAME,
    ShardSet,
    SignedT,
    open_shards,
    picture_key,
    read_signed,
    test_trials,
)
from eegdecode.data.tarindex import BLOCK_BYTES, TarIndex, index_tar

__all__ = [
    "PackedPicture",
    "ShardSet",
    "open_shards",
    "publish",
    "publish_targets",
    "test_trials",
    "write_picture_shard",
    "write_target_shard",
    "write_trial_shard",
]

TABLE_COLUMNS = (
    "trial", "key", "recording", "subject", "session", "run", "position", "picture", "picture_row", "concept",
    "partition", "repetition",
)  # fmt: skip
_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def write_trial_shard(uri: str, name: str, eeg_uv_NCT: np.ndarray, table: pd.DataFrame) -> ShardFact:
    """Write trials as ``<key>.eeg.npy`` (float16) and ``<key>.json`` (the table's row, which names the picture).

    Parameters
    ----------
    uri, name
        Folder or prefix of the set, and the shard's name in it without an ending.
    eeg_uv_NCT
        In the unit that the manifest will say.
    table
        One row a trial with at least ``key``: letters, digits, ``-`` and ``_``, unique in the set.

    Raises
    ------
    ValueError
        If a key is doubled or cannot be a file's name, or a trial holds NaN or a value that float16 cannot hold.
    """
    n = len(table)
    if eeg_uv_NCT.ndim != 3 or len(eeg_uv_NCT) != n or n == 0:
        raise ValueError(
            f"shard '{name}' needs trials (N, C, T) and N table rows with N of at least 1, got {eeg_uv_NCT.shape} "
            f"and {n} rows."
        )
    if "key" not in table.columns:
        raise ValueError(f"shard '{name}' needs a table with the column 'key', got {list(table.columns)}.")
    keys = [str(key) for key in table["key"]]
    _check_keys(name, keys)
    rows = [_json(row) for row in table.to_dict("records")]
    # Spaces after a JSON text mean nothing; with them all samples are of one length, and many are copied in one call.
    width = max(map(len, rows))

    def samples() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
        for key, eeg_uv_CT, row in zip(keys, eeg_uv_NCT, rows, strict=True):
            yield key, [("eeg.npy", _npy(_half(key, eeg_uv_CT))), ("json", row.ljust(width))]

    return _write_shard(uri, name, samples(), Manifest)


@dataclass(frozen=True)
class PackedPicture:
    """A picture as it is stored; `image_of` names the class it is one image of, where only the class is known."""

    picture: str
    concept: str
    image: Image.Image
    image_of: str = ""


def write_picture_shard(uri: str, name: str, pictures: Sequence[PackedPicture]) -> ShardFact:
    """Write pictures as ``<key>.png`` (RGB) and ``<key>.json`` (``picture``, ``concept``, perhaps ``image_of``).

    The key is made from the id, which may hold any character.

    Raises
    ------
    ValueError
        If an id is doubled, or a picture does not decode.
    """
    if not pictures:
        raise ValueError(f"shard '{name}' needs at least one picture, got none.")
    _check_keys(name, [picture_key(packed.picture) for packed in pictures])

    def samples() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
        for packed in pictures:
            row = {"picture": packed.picture, "concept": packed.concept}
            row |= {"image_of": packed.image_of} if packed.image_of else {}
            png = _png(packed.picture, packed.image)
            yield picture_key(packed.picture), [("png", png), ("json", _json(row))]

    return _write_shard(uri, name, samples(), Manifest)


def write_target_shard(uri: str, name: str, pictures: Sequence[str], target_PD: np.ndarray) -> ShardFact:
    """Write the targets of pictures as ``<key>.target.npy`` (float32), keyed as the pictures are.

    Raises
    ------
    ValueError
        If an id is doubled, or a target is not finite.
    """
    if target_PD.ndim != 2 or len(target_PD) != len(pictures) or not pictures:
        raise ValueError(
            f"shard '{name}' needs a target (P, D) for each picture, got {target_PD.shape}, {len(pictures)}."
        )
    keys = [picture_key(picture) for picture in pictures]
    _check_keys(name, keys)

    def samples() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
        for key, picture, target_D in zip(keys, pictures, target_PD, strict=True):
            yield key, [("target.npy", _npy(_single(picture, target_D)))]

    return _write_shard(uri, name, samples(), TargetManifest)


def publish(uri: str, manifest: Manifest, table: pd.DataFrame) -> Manifest:
    """Check that table and shards belong together, write the table, and then, as the last thing, the manifest.

    Parameters
    ----------
    manifest
        Its ``table`` and ``digest`` are filled in here.
    table
        One row a trial in the order of the manifest's shards; `Manifest.table` names the columns; more are kept.

    Raises
    ------
    ValueError
        If a shard is missing, a key is doubled or not that of the shard, a picture is not the one in its row, or
        another set is already published here.
    """
    table = _ordered(table, manifest)
    _check_pairing(uri, manifest, table)
    content = io.BytesIO()
    table.to_parquet(content, engine="pyarrow", index=False, compression="zstd")
    data = content.getvalue()
    fact = FileFact(name=TABLE_NAME, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    sealed = manifest.model_copy(update={"table": fact}).sealed()
    if not storage.exists(storage.join(uri, MANIFEST_NAME)):
        storage.write_bytes(storage.join(uri, TABLE_NAME), data)
    return _publish(uri, sealed)


def publish_targets(uri: str, manifest: TargetManifest, pictures: Manifest) -> TargetManifest:
    """Check that targets are those of a set's pictures, in order, and write their manifest.

    Raises
    ------
    ValueError
        If a shard is missing, or other targets are already published here.
    """
    if manifest.pictures_digest != pictures.pictures_digest:
        raise ValueError(f"{uri}: these targets are those of other pictures than the set's. Embed its pictures.")
    counts = [shard.n_samples for shard in manifest.shards], [shard.n_samples for shard in pictures.pictures]
    if counts[0] != counts[1] or manifest.n_pictures != pictures.n_pictures:
        raise ValueError(f"{uri}: targets must be one shard for each shard of pictures {counts[1]}, got {counts[0]}.")
    for shard in manifest.shards:
        _published_index(uri, shard)
    return _publish(uri, manifest.sealed())


def _publish(uri: str, sealed: SignedT) -> SignedT:
    """Write a manifest unless one is there, which must then be the same."""
    content = (sealed.model_dump_json(indent=1) + "\n").encode()
    try:
        storage.write_bytes(storage.join(uri, MANIFEST_NAME), content, if_absent=True)
    except storage.TakenError:
        there = read_signed(uri, type(sealed))
        if there.digest != sealed.digest:
            raise ValueError(_published(uri, there.digest)) from None
    return sealed


def _write_shard(
    uri: str,
    name: str,
    samples: Iterable[tuple[str, list[tuple[str, bytes]]]],
    kind: type[Signed],
) -> ShardFact:
    """Write tar and index; nothing is left at ``uri`` if a sample is refused, or another set is published there."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"a shard's name must be letters, digits, '.', '-' and '_', got '{name}'.")
    tar_uri, index_uri = storage.join(uri, f"{name}.tar"), storage.join(uri, f"{name}.index.npz")
    with storage.new_file(tar_uri) as temporary:
        with temporary.open("wb") as file:
            _write_tar(file, samples)
        index = index_tar(temporary)
        content = index.to_bytes()
        tar = FileFact(name=f"{name}.tar", size_bytes=index.tar_bytes, sha256=index.tar_sha256)
        index_file = FileFact(
            name=f"{name}.index.npz", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
        )
        fact = ShardFact(tar=tar, index=index_file, n_samples=len(index.keys))
        if storage.exists(storage.join(uri, MANIFEST_NAME)):
            there = read_signed(uri, kind)
            if fact not in there.all_shards:
                raise ValueError(_published(uri, there.digest))
    storage.write_bytes(index_uri, content)
    return fact


def _write_tar(file: BinaryIO, samples: Iterable[tuple[str, list[tuple[str, bytes]]]]) -> None:
    for key, fields in samples:
        for field, data in fields:
            # All but name and size are constants (time 0, owner 0): the same samples give the same bytes.
            member = tarfile.TarInfo(f"{key}.{field}")
            member.size = len(data)
            file.write(member.tobuf(tarfile.USTAR_FORMAT))
            file.write(data)
            file.write(b"\0" * (-len(data) % BLOCK_BYTES))
    file.write(b"\0" * (2 * BLOCK_BYTES))


def _check_keys(name: str, keys: list[str]) -> None:
    seen: set[str] = set()
    for key in keys:
        if not _KEY.fullmatch(key):
            raise ValueError(f"shard '{name}': a key must be up to 80 letters, digits, '-' and '_', got '{key}'.")
        if key in seen:
            raise ValueError(f"shard '{name}': key '{key}' occurs twice; keys must be unique.")
        seen.add(key)


def _half(key: str, eeg_uv_CT: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(eeg_uv_CT, dtype=np.float16)
    if not np.isfinite(half).all():
        # NaN, an infinity, or a number that became one.
        raise ValueError(
            f"trial '{key}': values must be finite and within ±65504 µV to be stored as float16, got "
            f"{float(eeg_uv_CT.min())} to {float(eeg_uv_CT.max())}. Check the unit, or drop the trial."
        )
    return half


def _single(key: str, target_D: np.ndarray) -> np.ndarray:
    single = np.ascontiguousarray(target_D, dtype=np.float32)
    if not np.isfinite(single).all():
        raise ValueError(f"'{key}': its target must be finite; the tower made NaN or an infinity.")
    return single


def _npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, values, version=(1, 0), allow_pickle=False)
    return file.getvalue()


def _png(picture: str, image: Image.Image) -> bytes:
    file = io.BytesIO()
    try:
        image.convert("RGB").save(file, format="PNG")
    except Exception as error:
        raise ValueError(f"picture '{picture}' does not decode: {error}.") from error
    return file.getvalue()


def _json(row: Mapping[Any, Any]) -> bytes:
    # NumPy's scalars become Python's; NaN is no JSON.
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
    plain = {name: None if isinstance(value, float) and value != value else value for name, value in plain.items()}
    return json.dumps(plain, sort_keys=True, allow_nan=False).encode()


def _ordered(table: pd.DataFrame, manifest: Manifest) -> pd.DataFrame:
    """Return the table with its columns in order and its rows numbered."""
    missing = [name for name in TABLE_COLUMNS if name not in table.columns and name != "trial"]
    if missing:
        raise ValueError(f"the trial table must have the columns {list(TABLE_COLUMNS)}; {missing} are missing.")
    counts = (manifest.n_trials, sum(shard.n_samples for shard in manifest.trials))
    if counts != (len(table), len(table)):
        raise ValueError(f"manifest, shards and table must count the same trials, got {counts} and {len(table)} rows.")
    trial = np.arange(len(table), dtype=np.int64)
    if "trial" in table.columns and not np.array_equal(table["trial"].to_numpy(), trial):
        raise ValueError("the column 'trial' must number the rows from 0 in the order of the shards, and does not.")
    doubled = table["key"][table["key"].duplicated()]
    if len(doubled):
        raise ValueError(f"key '{doubled.iloc[0]}' occurs twice; keys must be unique in a set.")
    columns = [*TABLE_COLUMNS, *(name for name in table.columns if name not in TABLE_COLUMNS)]
    return table.assign(trial=trial).reset_index(drop=True)[columns]


def _check_pairing(uri: str, manifest: Manifest, table: pd.DataFrame) -> None:
    """Hold the table against the keys in the shards, so that no row is paired by its number alone."""
    picture_keys = [key for shard in manifest.pictures for key in _published_index(uri, shard).keys]
    if len(picture_keys) != manifest.n_pictures:
        raise ValueError(f"the manifest counts {manifest.n_pictures} pictures, its shards hold {len(picture_keys)}.")
    if len(set(picture_keys)) != len(picture_keys):
        doubled = pd.Series(picture_keys)
        raise ValueError(f"picture '{doubled[doubled.duplicated()].iloc[0]}' is in two shards; ids must be unique.")
    row_N = table["picture_row"].to_numpy(np.int64)
    for key, picture, row in zip(table["key"], table["picture"], row_N.tolist(), strict=True):
        if not 0 <= row < len(picture_keys) or picture_keys[row] != picture_key(picture):
            raise ValueError(
                f"trial '{key}': picture_row {row} is not the row of picture '{picture}' in the picture set."
            )
    start = 0
    for shard in manifest.trials:
        keys = _published_index(uri, shard).keys
        for key, row_key in zip(keys, table["key"].iloc[start : start + len(keys)], strict=True):
            if key != row_key:
                raise ValueError(f"{shard.tar.name} holds trial '{key}' where the table says '{row_key}'.")
        start += len(keys)


def _published_index(uri: str, shard: ShardFact) -> TarIndex:
    """Return the index of a written shard, after asking that both files are there as the manifest says."""
    for fact in (shard.tar, shard.index):
        size = storage.size_bytes(storage.join(uri, fact.name))
        if size != fact.size_bytes:
            was = "is not there" if size is None else f"has {size}"
            raise ValueError(
                f"{storage.join(uri, fact.name)} must have {fact.size_bytes} bytes, and {was}. Write it again."
            )
    content = storage.read_bytes(storage.join(uri, shard.index.name))
    if hashlib.sha256(content).hexdigest() != shard.index.sha256:
        raise ValueError(f"{storage.join(uri, shard.index.name)} is not the index the manifest names. Write it again.")
    return TarIndex.from_bytes(shard.index.name, content)


def _published(uri: str, digest: str) -> str:
    return f"another set (digest {digest[:12]}) is published at {uri}. Choose another place, or delete that one first."
