"""Reading pickles without running them: NumPy arrays and plain containers, and nothing else.

The datasets of this field are pickles under several names: ``np.save`` of a dictionary, a pickle with the suffix
``.npy``, and ``torch.save`` archives. They are read by `eegdecode.data.sources.unpickle`, which can build nothing but
data; whatever else a file asks for is refused by name. An array's values are not read but mapped: opening 10 GB costs
nothing.
"""

import io
import math
import mmap
import pickle
import re
import struct
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eegdecode.data.sources import SourceError
from eegdecode.data.sources.unpickle import Interpreter, Named, array_over, refuse

_NPY_MAGIC = b"\x93NUMPY"
_ZIP_MAGIC = b"PK\x03\x04"
_HEADER_BYTES = 1 << 14
_STORAGES = {
    "HalfStorage": "f2",
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "CharStorage": "i1",
    "ShortStorage": "i2",
    "IntStorage": "i4",
    "LongStorage": "i8",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


def load_npy(path: Path) -> np.ndarray:
    """Map an array of numbers or strings.

    Returns
    -------
    A read-only map of the file.

    Raises
    ------
    SourceError
        A file that is unreadable, holds objects, or is shorter or longer than its header says.
    """
    view = _map(path)
    shape, dtype, start = _header(path, view)
    if dtype.hasobject:
        raise SourceError(f"{path.name}: must hold an array of numbers, holds Python objects.")
    expected, present = math.prod(shape) * dtype.itemsize, len(view) - start
    if min(shape, default=0) < 0 or expected != present:
        raise SourceError(
            f"{path.name}: its header says {shape} {dtype}, that is {expected} bytes, but {present} follow; "
            "the file was cut or altered. Fetch it again."
        )
    array: np.ndarray = np.load(path, mmap_mode="r" if expected else None, allow_pickle=False)
    return array


def load_pickle(path: Path) -> Any:
    """Return what ``np.load(path, allow_pickle=True)`` or ``torch.load(path)`` would, of arrays and plain containers.

    Read are ``.npy`` files (the dictionary, where one was saved), pickles of protocol 2 to 5, and archives of
    ``torch.save``. Arrays and tensors come as read-only NumPy arrays that map the file; byte strings of
    `MAPPED_FROM_BYTES` or more come as a memoryview.

    Raises
    ------
    SourceError
        A file that is none of these, was cut or altered, or asks for anything else, which is named; nothing was run.
    """
    view = _map(path)
    if bytes(view[:6]) == _NPY_MAGIC:
        shape, dtype, start = _header(path, view)
        if not dtype.hasobject:
            return load_npy(path)
        array = Interpreter(path, view[start:]).run()
        if not isinstance(array, np.ndarray) or array.dtype != object or array.shape != shape:
            raise SourceError(f"{path.name}: its header says {shape} objects, its pickle holds something else.")
        return array.item() if shape == () else array
    if bytes(view[:4]) == _ZIP_MAGIC:
        return _Archive(path, view).load()
    if bytes(view[:1]) == pickle.PROTO:
        return Interpreter(path, view).run()
    raise SourceError(f"{path.name}: must be a .npy file, a pickle of protocol 2 to 5 or an archive of torch.save.")


def load_torch(path: Path) -> Any:
    """Return what ``torch.load`` does with weights only, on the CPU, mapped where the file's format allows it.

    Raises
    ------
    SourceError
        A file that is unreadable, was cut, or asks for something that is neither a tensor nor a plain container.
    """
    try:
        with warnings.catch_warnings():
            # A remark on pickle protocols; what follows from it comes as an error.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        refuse(path, named[1] if named else str(error).splitlines()[0])
    # What else comes out of torch on a broken file depends on where it broke (RuntimeError, EOFError, KeyError).
    except Exception as error:
        what = f"{type(error).__name__}: {str(error)[:200]}"
        raise SourceError(f"{path.name}: unreadable or truncated ({what}).") from error


def _map(path: Path) -> memoryview:
    try:
        with path.open("rb") as stream:
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise SourceError(f"{path}: can not be read ({error.strerror or error}).") from error
    except ValueError as error:
        raise SourceError(f"{path.name}: is empty.") from error


def _header(path: Path, view: memoryview) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return shape, dtype and where the values start."""
    stream = io.BytesIO(bytes(view[:_HEADER_BYTES]))
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    except (ValueError, TypeError, SyntaxError) as error:
        raise SourceError(f"{path.name}: has no valid .npy header ({str(error)[:200]}).") from error
    return shape, dtype, stream.tell()


@dataclass(frozen=True)
class _Storage:
    """The type of a torch storage."""

    dtype: np.dtype[Any]


class _Archive:
    """A ``torch.save`` archive: a zip with a pickle and one file a tensor, none of them compressed."""

    def __init__(self, path: Path, view: memoryview) -> None:
        self._path, self._view = path, view
        try:
            with zipfile.ZipFile(path) as archive:
                self._entries = {info.filename: info for info in archive.infolist()}
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
            raise SourceError(f"{path.name}: truncated or altered archive ({error}).") from error
        pickles = [name for name in self._entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise SourceError(f"{path.name}: must be an archive of torch.save with one data.pkl, has {len(pickles)}.")
        self._root = pickles[0].removesuffix("data.pkl")

    def load(self) -> Any:
        """Return what the pickle describes, tensors as arrays."""
        named: dict[str, Any] = {f"torch.{name}": _Storage(np.dtype(code)) for name, code in _STORAGES.items()}
        named["torch._utils._rebuild_tensor_v2"] = Named(_tensor)
        try:
            pickled = self._content("data.pkl")
        except (ValueError, struct.error) as error:
            raise SourceError(f"{self._path.name}: truncated or altered archive ({error}).") from error
        return Interpreter(self._path, pickled, named, self._storage).run()

    def _content(self, name: str) -> memoryview:
        info = self._entries.get(self._root + name)
        if info is None or info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"entry '{name}' is missing or compressed")
        head = self._view[info.header_offset : info.header_offset + 30]
        if len(head) != 30:
            raise ValueError(f"entry '{name}' lies outside the file")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", head[26:30]))
        content = self._view[start : start + info.file_size]
        if len(content) != info.file_size:
            raise ValueError(f"entry '{name}' is cut")
        return content

    def _storage(self, key: Any) -> np.ndarray:
        kind, storage, name, _, n = key
        if kind != "storage" or not isinstance(storage, _Storage):
            raise ValueError("a tensor without a storage")
        return array_over(self._content(f"data/{name}"), storage.dtype, (n,), "C")


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: object) -> np.ndarray:
    if not isinstance(storage, np.ndarray) or len(shape) != len(stride) or min((offset, *shape, *stride)) < 0:
        raise ValueError("a tensor of an impossible shape")
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if math.prod(shape) > len(storage) or (math.prod(shape) and last >= len(storage)):
        raise ValueError(f"a tensor of shape {tuple(shape)} over {len(storage)} values")
    strides = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides, writeable=False)
