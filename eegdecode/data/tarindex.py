"""Where each field of each sample lies in a shard: found by one scan of the tar, stored beside it.

A shard is a plain USTAR tar as WebDataset reads it: `<key>.<field>` members, the fields of a sample in a row.
"""

import hashlib
import io
import json
import math
import mmap
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import AnyStr

import numpy as np

BLOCK_BYTES = 512
"""A member's header and data each begin at a multiple of this."""

FORMAT = "eegdecode tar index 1"

_MEMBER = re.compile(rb"([A-Za-z0-9_-]+)\.([a-z0-9]+(?:\.[a-z0-9]+)?)")
# Eleven digits hold 8 GiB. Base 256, signs, spaces and twelve digits are what other writers make of other files.
_SIZE = re.compile(rb"[0-7]{11}[\0 ]")
_END_BYTES = 2 * BLOCK_BYTES
_NPY_HEADER_BYTES = 4096
_MOST_DIMENSIONS = 64
# So that no sum of an offset and a size goes over.
_MOST_TAR_BYTES = 1 << 60
_ARRAYS = ("facts", "keys", "offset_NF", "size_NF")


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

        Nothing it says is believed: no array is larger than its content, and fields lie where a tar can have them.

        Raises
        ------
        ValueError
            If it is no index, or no tar can have its samples where it says.
        """
        try:
            arrays = _stored_arrays(content)
            facts = json.loads(arrays["facts"].tobytes())
            if facts["format"] != FORMAT:
                raise ValueError(f"its format is {facts['format']!r}")
            fields = tuple(Field(n, d, tuple(s), h) for n, d, s, h in facts["fields"])
            keys = tuple(key.decode() for key in arrays["keys"].tolist())
            index = cls(facts["tar_sha256"], facts["tar_bytes"], fields, keys, arrays["offset_NF"], arrays["size_NF"])
            if not re.fullmatch(r"[0-9a-f]{64}", index.tar_sha256):
                raise ValueError("it does not say of which tar it is")
            if type(index.tar_bytes) is not int or not 0 < index.tar_bytes < _MOST_TAR_BYTES:
                raise ValueError(f"its tar cannot have {index.tar_bytes} bytes")
            for field in fields:
                _check_field(field)
        except Exception as error:
            raise ValueError(
                f"{name} must be an index ({FORMAT}), and is not: {error}. Prepare the set again."
            ) from error
        index._check_keys(name)
        index._check_places(name)
        return index

    def _check_keys(self, name: str) -> None:
        names = [field.name for field in self.fields]
        refused = next((key for key in self.keys if not _MEMBER.fullmatch(f"{key}.x".encode())), None)
        if refused is not None:
            raise ValueError(f"{name}: a key must be letters, digits, - and _, got {refused!r}. Prepare the set again.")
        for what, values in (("key", self.keys), ("field", names)):
            if not values or len(set(values)) != len(values):
                doubled = f"'{_first_double(values)}' occurs twice" if values else "there is none"
                raise ValueError(f"{name}: each {what} must be there once, {doubled}. Prepare the set again.")

    def _check_places(self, name: str) -> None:
        """Ask for one header and the data of each member, one after the other, and an end mark: so is every tar."""
        shape = (len(self.keys), len(self.fields))
        places = (self.offset_NF, self.size_NF)
        if any(place.shape != shape or place.dtype != np.int64 for place in places):
            raise ValueError(f"{name} must hold one place per field and sample, as int64. Prepare the set again.")
        if any(np.any(place < 0) or np.any(place > self.tar_bytes) for place in places):
            raise ValueError(f"{name} must point into its tar of {self.tar_bytes} bytes. Prepare the set again.")
        next_M = self.offset_NF.ravel() + -(-self.size_NF.ravel() // BLOCK_BYTES) * BLOCK_BYTES + BLOCK_BYTES
        wrong = np.flatnonzero(self.offset_NF.ravel() != np.concatenate([[BLOCK_BYTES], next_M[:-1]]))
        if len(wrong):
            sample, f = divmod(int(wrong[0]), shape[1])
            raise ValueError(
                f"{name}: '{self.keys[sample]}.{self.fields[f].name}' must follow what is before it in the tar, and "
                "overlaps it or leaves a gap. Prepare the set again."
            )
        if next_M[-1] - BLOCK_BYTES + _END_BYTES > self.tar_bytes:
            raise ValueError(f"{name} must point into its tar of {self.tar_bytes} bytes. Prepare the set again.")
        for f, field in enumerate(self.fields):
            want = field.header_bytes + math.prod(field.shape) * np.dtype(field.dtype).itemsize if field.dtype else None
            if want is not None and np.any(self.size_NF[:, f] != want):
                sample = int(np.argmax(self.size_NF[:, f] != want))
                raise ValueError(
                    f"{name}: '{self.keys[sample]}.{field.name}' must have {want} bytes to be {field.dtype} "
                    f"{field.shape}, the index says {self.size_NF[sample, f]}. Prepare the set again."
                )


def _stored_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Read the arrays as `np.savez` stores them, without compression: none can be larger than what is there."""
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [member.filename for member in archive.infolist()]
        if names != [f"{name}.npy" for name in _ARRAYS]:
            raise ValueError(f"it must hold the arrays {list(_ARRAYS)}, got {names[:8]}")
        for name, member in zip(_ARRAYS, archive.infolist(), strict=True):
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(content):
                raise ValueError(
                    f"'{name}' must be stored without compression, got {member.compress_size} bytes that are to "
                    f"become {member.file_size}"
                )
            data = archive.read(member)
            shape, dtype, header_bytes = _npy_header(data)
            arrays[name] = np.frombuffer(data, dtype, offset=header_bytes).reshape(shape)
            if arrays[name].dtype.kind != ("S" if name == "keys" else "u" if name == "facts" else "i"):
                raise ValueError(f"'{name}' has type {dtype}")
    return arrays


def _npy_header(data: bytes) -> tuple[tuple[int, ...], np.dtype, int]:
    """Return shape, dtype and length of the header of an npy 1.0 array that fills ``data`` exactly.

    NumPy's own reader allocates what the header says before it looks at what is there.
    """
    shape, dtype, header_bytes = _npy_facts(data[:_NPY_HEADER_BYTES])
    _check_shape(shape)
    if dtype.hasobject:
        raise ValueError("it must not hold objects")
    if header_bytes + math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"its header says {dtype} {shape}, which is not as long as the {len(data)} bytes there are")
    return shape, dtype, header_bytes


def _npy_facts(start: bytes) -> tuple[tuple[int, ...], np.dtype, int]:
    file = io.BytesIO(start)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"it must be npy 1.0, got {version[0]}.{version[1]}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran:
        raise ValueError("it must be in C order, got Fortran order")
    return shape, dtype, file.tell()


def _check_shape(shape: tuple[int, ...]) -> None:
    # Two negative sizes have a positive product, and with a zero any others go unnoticed.
    if len(shape) > _MOST_DIMENSIONS or any(type(size) is not int or size < 1 for size in shape):
        raise ValueError(f"it must have at most {_MOST_DIMENSIONS} sizes of at least 1, got {shape}")


def _check_field(field: Field) -> None:
    if not _MEMBER.fullmatch(f"x.{field.name}".encode()):
        raise ValueError(f"a field cannot be named {field.name!r}")
    if not field.name.endswith(".npy"):
        if (field.dtype, field.shape, field.header_bytes) != ("", (), 0):
            raise ValueError(f"'{field.name}' has a type and is no array")
        return
    _check_shape(field.shape)
    dtype = np.dtype(field.dtype)
    if (
        dtype.kind not in "fiu"
        or dtype.str != field.dtype
        or type(field.header_bytes) is not int
        or field.header_bytes < 1
    ):
        raise ValueError(f"'{field.name}' must be an array of numbers")


def index_tar(path: str | Path) -> TarIndex:
    """Scan a tar once and return its index.

    Raises
    ------
    ValueError
        If it is cut, holds anything but ordinary files with plain names, repeats a key, or its samples differ in their
        fields or in an array's type or shape.
    """
    path = Path(path)
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty; a shard is a tar of samples.")
    if size % BLOCK_BYTES:
        raise ValueError(f"{path} was cut: a tar has a multiple of {BLOCK_BYTES} bytes, it has {size}.")
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
            _check_end(path, tar, at)
            break
        name = header[:100].split(b"\0", 1)[0]
        # Links, devices, folders, PAX and GNU extensions have other types; a prefix would be a path.
        if header[156] != 0x30 or header[257:263] != b"ustar\0" or header[345]:
            raise ValueError(
                f"{path}: '{name.decode(errors='replace')}' must be an ordinary USTAR file with a short name."
            )
        if not _SIZE.fullmatch(header, 124, 136):
            raise ValueError(
                f"{path}: the size of '{name.decode(errors='replace')}' must be eleven octal digits, got "
                f"{header[124:136]!r}."
            )
        size = int(header[124:135], 8)
        first = at + BLOCK_BYTES
        at = first + -(-size // BLOCK_BYTES) * BLOCK_BYTES
        if at > end:
            raise ValueError(f"{path} was cut: '{name.decode(errors='replace')}' goes on past the end at byte {end}.")
        names.append(name)
        places.append((first, size))
    return _samples(path, names, np.array(places, np.int64).reshape(-1, 2))


def _check_end(path: Path, tar: mmap.mmap, at: int) -> None:
    """Ask for two blocks of zeros and nothing after them.

    A disk that gives zeros for a lost sector would otherwise end a shard early, and nobody would miss the rest.
    """
    if any(tar[at : at + BLOCK_BYTES]):
        raise ValueError(f"{path} was altered: the header at byte {at} has no name.")
    rest = np.frombuffer(tar, np.uint8, offset=at)
    if rest.any():
        raise ValueError(
            f"{path} was altered: its end mark is at byte {at}, and at byte {at + int(np.argmax(rest != 0))} there is "
            "more."
        )
    if len(rest) < _END_BYTES:
        raise ValueError(f"{path} was cut: the end mark at byte {at} must be {_END_BYTES} zeros, got {len(rest)}.")


def _samples(
    path: Path, names: list[bytes], place_M2: np.ndarray
) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray, np.ndarray]:
    """Group members into samples by the key before the first dot, as WebDataset does."""
    if not names:
        raise ValueError(f"{path} holds no sample.")
    refused = next((name for name in names if not _MEMBER.fullmatch(name)), None)
    if refused is not None:
        raise ValueError(f"{path}: a member must be named <letters, digits, - and _>.<field>, got {refused!r}.")
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
    if len(set(fields)) != n_fields:
        raise ValueError(f"{path}: '{names[0].decode()}' occurs twice; a sample has each field once.")
    if len(set(keys)) != len(keys):
        raise ValueError(f"{path}: key '{_first_double(keys).decode()}' occurs twice; keys must be unique.")
    place_NF2 = place_M2.reshape(len(keys), n_fields, 2)
    return (
        tuple(key.decode() for key in keys),
        tuple(field.decode() for field in fields),
        np.ascontiguousarray(place_NF2[..., 0]),
        np.ascontiguousarray(place_NF2[..., 1]),
    )


def _first_double(names: Sequence[AnyStr]) -> AnyStr:
    seen: set[AnyStr] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    raise AssertionError("no name occurs twice")


def _check_sums(path: Path, bytes_: np.ndarray, keys: tuple[str, ...], offset_NF: np.ndarray) -> None:
    """Compare each header's own checksum: the sum of its bytes with the checksum field as spaces."""
    rows = offset_NF.ravel() // BLOCK_BYTES - 1
    blocks = bytes_[: len(bytes_) // BLOCK_BYTES * BLOCK_BYTES].reshape(-1, BLOCK_BYTES)
    for start in range(0, len(rows), 4096):
        header_M = blocks[rows[start : start + 4096]]
        # Six octal digits, a zero and a space, as every USTAR writer has them.
        digit_MK = header_M[:, 148:154].astype(np.int64) - ord("0")
        written = ((digit_MK >= 0) & (digit_MK < 8)).all(axis=1) & np.isin(header_M[:, 154:156], (0, 0x20)).all(axis=1)
        stated = np.where(written, digit_MK @ (8 ** np.arange(5, -1, -1)), -1)
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
    try:
        shape, dtype, header_bytes = _npy_facts(bytes_[start : start + min(size, _NPY_HEADER_BYTES)].tobytes())
    except Exception as error:
        raise ValueError(f"{path}: '{keys[0]}.{name}' is no npy array: {error}.") from error
    try:
        _check_shape(shape)
        if dtype.kind not in "fiu":
            raise ValueError(f"its type is {dtype}")
        if header_bytes + math.prod(shape) * dtype.itemsize != size:
            raise ValueError(f"its header says {dtype} {shape}, and {size - header_bytes} bytes follow it")
    except ValueError as error:
        raise ValueError(
            f"{path}: '{keys[0]}.{name}' must be a plain C-ordered array of numbers as long as it says: {error}."
        ) from error
    alike = np.flatnonzero(size_N == size)
    rows = offset_N[alike] // BLOCK_BYTES
    # Only where the size is right: a smaller one near the end of the tar has no room for the header.
    windows = np.ndarray(
        ((len(bytes_) - header_bytes) // BLOCK_BYTES + 1, header_bytes), np.uint8, bytes_, 0, (BLOCK_BYTES, 1)
    )
    same = size_N == size
    same[alike] = (windows[rows] == windows[rows[0]]).all(axis=1)
    if not same.all():
        other = keys[int(np.argmin(same))]
        raise ValueError(f"{path}: '{other}.{name}' must have the type and shape of the first, {dtype} {shape}.")
    return Field(name, dtype.str, shape, header_bytes)
