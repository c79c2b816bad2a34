"""What several sources do with files: find copies, open a picture."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from eegdecode.data.sources import PictureError, RecordingError

MAX_PIXELS = 50_000_000
"""Stimuli have at most a few million; a larger picture is a decompression bomb."""
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


def open_picture(path: Path, picture: str) -> list[Image.Image]:
    """Return the image of a picture, in RGB.

    Raises
    ------
    PictureError
        No such file, one that does not decode, or one that is absurdly large.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise PictureError(
                    f"picture '{picture}': '{path}' must have at most {MAX_PIXELS} pixels, says it has "
                    f"{image.width} x {image.height}."
                )
            return [image.convert("RGB")]
    except PictureError:
        raise
    except FileNotFoundError as error:
        raise PictureError(f"picture '{picture}' does not exist: '{path}'.") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PictureError(f"picture '{picture}': '{path}' does not decode ({error}).") from error


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
