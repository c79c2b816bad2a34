"""Open a picture that a user brought: of few formats, of bounded size, whole, and still; anything else is refused."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from eegdecode.data.sources import PictureError

MAX_PIXELS = 64_000_000
"""More than any full-frame camera gives (61 million), and 192 MB once decoded; a larger picture is a bomb."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
"""What stimuli come in. Pillow knows fifty more, some of which start other programs or unpack with old libraries."""


def open_picture(source: Path | bytes, picture: str, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Return a picture in RGB; 16 bits a channel become 8, and transparency is dropped.

    What the header says is looked at before anything is decoded.

    Parameters
    ----------
    source
        Its file or the content of one.
    picture
        What messages call it.
    formats
        What it may come in, by Pillow's names.

    Raises
    ------
    PictureError
        No such file, one of another format, one that is cut or altered, one that moves, or one that is absurdly large.
    """
    where = f"picture '{picture}'" if isinstance(source, bytes) else f"picture '{picture}': '{source}'"
    if isinstance(source, Path) and not source.is_file():
        # A pipe or a device would never end.
        raise PictureError(
            f"picture '{picture}' {'must be a file' if source.exists() else 'does not exist'}: '{source}'."
        )
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise PictureError(
                    f"{where} must have at most {MAX_PIXELS} pixels, says it has {image.width} x {image.height}."
                )
            # A camera's MPO is a JPEG with a preview behind it.
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise PictureError(f"{where} must be a still picture, and moves. Save the frame that was shown.")
            if image.mode.startswith("I;16"):
                # Pillow would make everything above 255 white.
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(f"{where} must have at most {MAX_PIXELS} pixels ({error}).") from error
    except UnidentifiedImageError as error:
        raise PictureError(f"{where} does not decode: it must be one of {', '.join(formats)}.") from error
    # What comes out of a decoder on a broken picture depends on where it broke.
    except Exception as error:
        raise PictureError(f"{where} does not decode ({error}).") from error


def open_images(path: Path, picture: str) -> list[Image.Image]:
    """Return what stands for a picture that is one file: that one image, as `open_picture` opens it."""
    return [open_picture(path, picture)]
