"""Where each field of each sample lies in a shard: found by one scan of the tar, stored beside it.

A shard is a plain USTAR tar as WebDataset reads it: `<key>.<field>` members, the fields of a sample in a row.
"""

import hashlib
import io
import json
import math
import mmap
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BLOCK_BYTES = 512
"""A member's header and data each begin at a multiple of this."""

FORMAT = "eegdecode tar index 1"

_MEMBER = re.compile(rb"([A-Za-z0-9_-]+)\.([a-z0-9]+(?:\.[a-z0-9]+)?)")


@dataclass(frozen=True)
class Field:
    """One field of every sample; for ``.npy`` fields what all their headers say."""

    name: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    header_bytes: int = 0


@dataclass(frozen=True)
class TarIndex:
    """Keys, fields and places of a shard's samples.

    Attributes
    ----------
    offset_NF, size_NF
        Int64: first byte and length of each field's data in the tar.
    """

    tar_sha256: str
    tar_bytes: int
    fields: tuple[Field, ...]
    keys: tuple[str, ...]
    offset_NF: np.ndarray
    size_NF: np.ndarray

    def column(self, name: str) -> int:
        """Return the position of a field.

        Raises
        ------
        ValueError
            If the shard has no such field.
        """
        names = [field.name for field in self.fields]
        if name not in names:
            raise ValueError(f"a shard of this set must have the field '{name}', got {names}.")
        return names.index(name)

    def to_bytes(self) -> bytes:
        """Return the index as it is stored, the same bytes for the same index."""
        facts = {
            "format": FORMAT,
            "tar_sha256": self.tar_sha256,
            "tar_bytes": self.tar_bytes,
            "fields": [[f.name, f.dtype, list(f.shape), f.header_bytes] for f in self.fields],
        }
        file = io.BytesIO()
        np.savez(
            file,
            facts=np.frombuffer(json.dumps(facts, sort_keys=True).encode(), np.uint8),
            keys=np.array([key.encode() for key in self.keys], dtype=np.bytes_),
            offset_NF=self.offset_NF,
            size_NF=self.size_NF,
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, name: str, content: bytes) -> "TarIndex":
        """Read a stored index.

        Raises
        ------
        ValueError
            If it is no index, or its places lie outside the tar.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                facts = json.loads(arrays["facts"].tobytes())
                keys = tuple(key.decode() for key in arrays["keys"].tolist())
                offset_NF, size_NF = arrays["offset_NF"], arrays["size_NF"]
            if facts["format"] != FORMAT:
                raise ValueError(f"its format is {facts['format']!r}")
            fields = tuple(Field(n, d, tuple(s), h) for n, d, s, h in facts["fields"])
            index = cls(facts["tar_sha256"], facts["tar_bytes"], fields, keys, offset_NF, size_NF)
        except Exception as error:
            raise ValueError(
                f"{name} must be an index ({FORMAT}), and is not: {error}. Prepare the set again."
            ) from error
        shape = (len(keys), len(fields))
        inside = shape == offset_NF.shape == size_NF.shape and offset_NF.dtype == size_NF.dtype == np.int64
        if not inside or np.any(offset_NF % BLOCK_BYTES) or np.any(offset_NF < 0) or np.any(size_NF < 0):
            raise ValueError(f"{name} must hold one place per field and sample. Prepare the set again.")
        if np.any(offset_NF + size_NF > index.tar_bytes):
            raise ValueError(f"{name} must point into its tar of {index.tar_bytes} bytes. Prepare the set again.")
        return index


def index_tar(path: str | Path) -> TarIndex:
    """Scan a tar once and return its index.

    Raises
    ------
    ValueError
        If it is cut, holds anything but ordinary files with plain names, repeats a key, or its samples differ in their
        fields or in an array's type or shape.
    """
    path = Path(path)
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; a shard is a tar of samples.")
    with path.open("rb") as file:
        # Not closed by hand: it goes with the last array that looks into it.
        tar = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    keys, names, offset_NF, size_NF = _members(path, tar)
    bytes_ = np.frombuffer(tar, np.uint8)
    _check_sums(path, bytes_, keys, offset_NF)
    fields = tuple(
        _npy_field(path, bytes_, name, keys, offset_NF[:, f], size_NF[:, f]) if name.endswith(".npy") else Field(name)
        for f, name in enumerate(names)
    )
    return TarIndex(hashlib.sha256(tar).hexdigest(), len(tar), fields, keys, offset_NF, size_NF)


def _members(path: Path, tar: mmap.mmap) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray, np.ndarray]:
    """Walk the headers; nothing is decoded but name, size and type."""
    end, at = len(tar), 0
    names: list[bytes] = []
    places: list[tuple[int, int]] = []
    while True:
        header = tar[at : at + BLOCK_BYTES]
        if len(header) < BLOCK_BYTES:
            raise ValueError(f"{path} was cut: it ends at byte {end} without the end mark of a tar.")
        if header[0] == 0:
            if any(header):
                raise ValueError(f"{path} was altered: the header at byte {at} has no name.")
            break
        name = header[:100].split(b"\0", 1)[0]
        # Links, devices, folders, PAX and GNU extensions have other types; a prefix would be a path.
        if header[156] != 0x30 or header[257:263] != b"ustar\0" or header[345]:
            raise ValueError(
                f"{path}: '{name.decode(errors='replace')}' must be an ordinary USTAR file with a short name."
            )
        try:
            size = int(header[124:135], 8)
        except ValueError as error:
            raise ValueError(f"{path}: the size of '{name.decode(errors='replace')}' cannot be read.") from error
        first = at + BLOCK_BYTES
        at = first + -(-size // BLOCK_BYTES) * BLOCK_BYTES
        if at > end or size < 0:
            raise ValueError(f"{path} was cut: '{name.decode(errors='replace')}' goes on past the end at byte {end}.")
        names.append(name)
        places.append((first, size))
    return _samples(path, names, np.array(places, np.int64).reshape(-1, 2))


def _samples(
    path: Path, names: list[bytes], place_M2: np.ndarray
) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray, np.ndarray]:
    """Group members into samples by the key before the first dot, as WebDataset does."""
    if not names:
        raise ValueError(f"{path} holds no sample.")
    first_key = names[0].split(b".", 1)[0]
    n_fields = next((m for m, name in enumerate(names) if name.split(b".", 1)[0] != first_key), len(names))
    fields = [name[len(first_key) + 1 :] for name in names[:n_fields]]
    keys = [name[: -len(fields[0]) - 1] for name in names[::n_fields]]
    want = [key + b"." + field for key in keys for field in fields]
    if want != names:
        got = next((name for name, other in zip(names, want, strict=False) if name != other), names[-1])
        raise ValueError(
            f"{path}: every sample must have the fields {[f.decode() for f in fields]} in order; not at {got!r}."
        )
    refused = next((name for name in names if not _MEMBER.fullmatch(name)), None)
    if refused is not None:
        raise ValueError(f"{path}: a member must be named <letters, digits, - and _>.<field>, got {refused!r}.")
    if len(set(keys)) != len(keys):
        raise ValueError(f"{path}: key '{_first_double(keys).decode()}' occurs twice; keys must be unique.")
    place_NF2 = place_M2.reshape(len(keys), n_fields, 2)
    return (
        tuple(key.decode() for key in keys),
        tuple(field.decode() for field in fields),
        np.ascontiguousarray(place_NF2[..., 0]),
        np.ascontiguousarray(place_NF2[..., 1]),
    )


def _first_double(keys: list[bytes]) -> bytes:
    seen: set[bytes] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    raise AssertionError("no key occurs twice")


def _check_sums(path: Path, bytes_: np.ndarray, keys: tuple[str, ...], offset_NF: np.ndarray) -> None:
    """Compare each header's own checksum: the sum of its bytes with the checksum field as spaces."""
    rows = offset_NF.ravel() // BLOCK_BYTES - 1
    blocks = bytes_[: len(bytes_) // BLOCK_BYTES * BLOCK_BYTES].reshape(-1, BLOCK_BYTES)
    for start in range(0, len(rows), 4096):
        header_M = blocks[rows[start : start + 4096]]
        stated = [int(text.tobytes().strip(b"\0 ") or b"-1", 8) for text in header_M[:, 148:156]]
        header_M[:, 148:156] = 0x20
        wrong = np.flatnonzero(header_M.sum(axis=1, dtype=np.int64) != stated)
        if len(wrong):
            sample = (start + int(wrong[0])) // offset_NF.shape[1]
            raise ValueError(f"{path} was altered: a header of sample '{keys[sample]}' does not add up.")


def _npy_field(
    path: Path, bytes_: np.ndarray, name: str, keys: tuple[str, ...], offset_N: np.ndarray, size_N: np.ndarray
) -> Field:
    """Parse the first sample's header and ask that all others are the same bytes."""
    start, size = int(offset_N[0]), int(size_N[0])
    file = io.BytesIO(bytes_[start : start + min(size, 4096)].tobytes())
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("its format is not npy 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:
        raise ValueError(f"{path}: '{keys[0]}.{name}' is no npy array: {error}.") from error
    n_bytes = math.prod(shape) * dtype.itemsize
    if dtype.kind not in "fiu" or fortran or file.tell() + n_bytes != size:
        raise ValueError(f"{path}: '{keys[0]}.{name}' must be a plain C-ordered array of numbers as long as it says.")
    rows = offset_N // BLOCK_BYTES
    windows = np.ndarray(
        ((len(bytes_) - file.tell()) // BLOCK_BYTES + 1, file.tell()), np.uint8, bytes_, 0, (BLOCK_BYTES, 1)
    )
    same = (size_N == size) & (windows[rows] == windows[rows[0]]).all(axis=1)
    if not same.all():
        other = keys[int(np.argmin(same))]
        raise ValueError(f"{path}: '{other}.{name}' must have the type and shape of the first, {dtype} {shape}.")
    return Field(name, dtype.str, shape, file.tell())
