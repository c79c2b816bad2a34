"""Columns of numbers of a table that pandas wrote to HDF5 (``to_hdf``, format "fixed"), without pandas.

`pandas.read_hdf` unpickles every column of objects in the file. Here only blocks of numbers are read, and columns of
objects are passed over.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from eegdecode.data.sources import EventsError

BLOSC = 32001
"""Registered number of the compression that pandas uses as `complib="blosc"`; HDF5 itself does not have it."""
MAX_VALUES = 100_000_000


def read_columns(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
    """Return columns of the one table in a file.

    Raises
    ------
    EventsError
        A file that is unreadable or cut, holds no such table, or a column that is missing or not of numbers.
    """
    try:
        with h5py.File(path, "r") as file:
            tables = [node for node in file.values() if isinstance(node, h5py.Group) and "axis0" in node]
            if len(tables) != 1:
                raise EventsError(f"{path.name}: must hold one table as pandas writes it, holds {list(file)}.")
            columns = _columns(tables[0], path, set(names))
    except EventsError:
        raise
    # What comes out of h5py on a broken file depends on where it broke (OSError, KeyError, RuntimeError, ValueError).
    except Exception as error:
        raise EventsError(
            f"{path.name}: unreadable or truncated ({type(error).__name__}: {str(error)[:200]})."
        ) from error
    for name in names:
        if name not in columns:
            raise EventsError(f"{path.name}: needs the column '{name}' of numbers, has {sorted(columns)} among them.")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise EventsError(f"{path.name}: columns must be of one length, got {lengths}.")
    return columns


def _columns(table: h5py.Group, path: Path, wanted: set[str]) -> dict[str, npt.NDArray[np.float64]]:
    columns = {}
    for block in sorted(name for name in table if name.endswith("_items")):
        named = [name.decode() for name in _values(table[block], path)]
        if wanted.isdisjoint(named):
            continue
        values = table[block.replace("_items", "_values")]
        if values.dtype.kind not in "iuf" or values.ndim != 2 or values.shape[1] != len(named):
            raise EventsError(f"{path.name}: {named} must be columns of numbers, got {values.dtype} {values.shape}.")
        block_NC = _values(values, path).astype(np.float64)
        columns.update({name: block_NC[:, n] for n, name in enumerate(named) if name in wanted})
    return columns


def _values(dataset: h5py.Dataset, path: Path) -> npt.NDArray[Any]:
    """Return all values; chunks that were compressed with blosc are taken as they are and opened here."""
    if dataset.size > MAX_VALUES:
        raise EventsError(f"{path.name}: {dataset.name} says it has {dataset.shape} values, more than {MAX_VALUES}.")
    created = dataset.id.get_create_plist()
    filters = [created.get_filter(n)[0] for n in range(created.get_nfilters())]
    if BLOSC not in filters:
        return np.asarray(dataset[()])
    if filters != [BLOSC]:
        raise EventsError(
            f"{path.name}: {dataset.name} is compressed by HDF5 filters {filters}; {BLOSC} alone is read."
        )
    try:
        import blosc
    except ImportError as error:
        raise EventsError(
            f"{path.name} is compressed with blosc, which is not installed.\n  pip install blosc"
        ) from error
    values = np.zeros(dataset.shape, dataset.dtype)
    for n in range(dataset.id.get_num_chunks()):
        at = dataset.id.get_chunk_info(n).chunk_offset
        skipped, content = dataset.id.read_direct_chunk(at)
        # A set bit says that the filter was left out for this chunk.
        content = content if skipped else blosc.decompress(content)
        chunk = np.frombuffer(content, dataset.dtype).reshape(dataset.chunks)
        part = tuple(slice(o, min(o + c, s)) for o, c, s in zip(at, dataset.chunks, dataset.shape, strict=True))
        values[part] = chunk[tuple(slice(0, p.stop - p.start) for p in part)]
    return values
