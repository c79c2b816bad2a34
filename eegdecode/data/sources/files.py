"""What several sources do with files: find copies."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from eegdecode.data.sources import RecordingError

_PROBE_BYTES = 1 << 16


def copies(paths: Iterable[Path]) -> dict[Path, Path]:
    """Return each file that is byte for byte an earlier one -> that earlier one.

    A whole file is read only if another one has its size, beginning, middle and end.

    Raises
    ------
    RecordingError
        A file that is empty or can not be read.
    """
    alike: dict[tuple[int, bytes], list[Path]] = {}
    for path in paths:
        alike.setdefault(_probe(path), []).append(path)
    first: dict[str, Path] = {}
    found = {}
    for path in (path for group in alike.values() if len(group) > 1 for path in group):
        with path.open("rb") as stream:
            twin = first.setdefault(hashlib.file_digest(stream, "sha256").hexdigest(), path)
        if twin != path:
            found[path] = twin
    return found


def _probe(path: Path) -> tuple[int, bytes]:
    try:
        size = path.stat().st_size
        probe = hashlib.sha256()
        with path.open("rb") as stream:
            for start in (0, size // 2, max(0, size - _PROBE_BYTES)):
                stream.seek(start)
                probe.update(stream.read(_PROBE_BYTES))
    except OSError as error:
        raise RecordingError(f"{path}: can not be read ({error.strerror or error}).") from error
    if not size:
        raise RecordingError(f"{path.name}: is empty.")
    return size, probe.digest()
