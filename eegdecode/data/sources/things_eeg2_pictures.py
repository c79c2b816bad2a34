"""The pictures of THINGS-EEG2: what `image_metadata.npy` or a file of trials says, and the folders they lie in."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from PIL import Image

from eegdecode.data.sources import Picture, PictureError
from eegdecode.data.sources.pickles import load_pickle
from eegdecode.data.sources.pictures import open_picture

METADATA = "image_metadata.npy"
FOLDERS = {"train": ("training_images", "train_images"), "test": ("test_images",)}
"""Names of the folder of a part: that of the authors first, then what others renamed it to."""

Part = Literal["train", "test"]


@dataclass(frozen=True)
class Shown:
    """One picture: `concept` is its folder, for example ``00001_aardvark``."""

    part: Part
    concept: str
    file: str

    @property
    def picture(self) -> str:
        """Its id: the file's name without suffix."""
        return Path(self.file).stem


def places(root: Path) -> list[Path]:
    """Return where the parts of the dataset may lie: the folder given, and the folders in it."""
    return [root, *sorted(path for path in root.iterdir() if path.is_dir())]


def read_metadata(root: Path) -> dict[Part, list[Shown]]:
    """Return the pictures in the order of `image_metadata.npy`: code n in a recording is row n - 1.

    Raises
    ------
    PictureError
        No such file, or more than one; a key that is missing; lists of different lengths; an impossible name.
    """
    found = [place / METADATA for place in places(root) if (place / METADATA).is_file()]
    if len(found) != 1:
        raise PictureError(
            f"source things_eeg2 needs one {METADATA} in '{root}' or a folder in it, found "
            f"{[str(path.relative_to(root)) for path in found] or 'none'}. It comes with the image set."
        )
    content = load_pickle(found[0])
    if not isinstance(content, dict):
        raise PictureError(f"{METADATA}: must hold a dictionary, holds {type(content).__name__}.")
    shown: dict[Part, list[Shown]] = {}
    part: Part
    for part in ("train", "test"):
        lists = []
        for key in (f"{part}_img_concepts", f"{part}_img_files"):
            if key not in content:
                raise PictureError(f"{METADATA}: needs the key '{key}', has {sorted(map(str, content))}.")
            lists.append([str(name) for name in content[key]])
        concepts, files = lists
        if len(concepts) != len(files) or not files:
            raise PictureError(f"{METADATA}: {part} needs a concept for each file, got {len(concepts)}, {len(files)}.")
        shown[part] = [Shown(part, concept, file) for concept, file in zip(concepts, files, strict=True)]
    check([picture for listed in shown.values() for picture in listed], METADATA)
    return shown


def from_path(part: Part, path: str) -> Shown:
    """Return the picture of a path on somebody's machine; its last two names count."""
    names = re.split(r"[/\\]", path)
    return Shown(part, names[-2] if len(names) > 1 else "", names[-1])


def check(shown: Iterable[Shown], source: str) -> None:
    """Refuse names that lead elsewhere, an id that is used twice, and a concept in both parts.

    Raises
    ------
    PictureError
        Any of these, named.
    """
    of_id: dict[str, Shown] = {}
    part_of: dict[str, tuple[str, str]] = {}
    for one in shown:
        for name in (one.concept, one.file):
            if name in ("", ".", "..") or re.search(r"[/\\\0]", name):
                raise PictureError(f"{source}: '{one.concept}/{one.file}' is no folder and file name.")
        twin = of_id.setdefault(one.picture, one)
        if twin != one:
            raise PictureError(
                f"{source}: picture ids (file names without suffix) must be unique, '{one.picture}' is both "
                f"'{twin.part}/{twin.concept}/{twin.file}' and '{one.part}/{one.concept}/{one.file}'."
            )
        # The folders are numbered in each part: 00001_aardvark, 00001_aircraft_carrier.
        word = re.sub(r"^\d+_", "", one.concept)
        part, concept = part_of.setdefault(word, (one.part, one.concept))
        if part != one.part:
            raise PictureError(
                f"{source}: a concept must be in one part, '{word}' is in both ('{concept}', '{one.concept}')."
            )


def listed(root: Path, shown: Iterable[Shown]) -> list[Picture]:
    """Return the pictures by id; their files are looked for when an image is opened."""
    folders = {part: _folder(root, names) for part, names in FOLDERS.items()}
    return [
        Picture(one.picture, one.concept, one.part, partial(_open, folders[one.part], one))
        for one in sorted(shown, key=lambda one: one.picture)
    ]


def _folder(root: Path, names: tuple[str, ...]) -> Path:
    """Return the folder of a part, beside the metadata if it is there too; where it should be if there is none."""
    found = [place for place in places(root) if any((place / name).is_dir() for name in names)]
    found.sort(key=lambda place: not (place / METADATA).is_file())
    place = found[0] if found else root
    return next((place / name for name in names if (place / name).is_dir()), place / names[0])


def _open(folder: Path, one: Shown) -> list[Image.Image]:
    path = folder / one.concept / one.file
    return [open_picture(path, one.picture)]
