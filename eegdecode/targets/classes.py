"""A file of class names, for teachers that choose among them and for prompts that name what a label only numbers."""

import re
from pathlib import Path

from eegdecode.targets.frozen import local_path

_LABELLED = re.compile(r"(?P<label>n\d{8})\s+(?P<name>.+)")


def read_classes(name: str, weights_uri: str) -> dict[str, str]:
    """Return label -> name of classes, in the order of the file.

    A line is a name, which is then its own label, or a WordNet id and a name, as in ImageNet's `synset_words.txt`.

    Parameters
    ----------
    name
        A path, or a file below `weights_uri`.

    Raises
    ------
    ValueError
        No such file, fewer than two classes, or one that comes twice.
    """
    path = local_path(name, weights_uri) or Path(name)
    if not path.is_file():
        raise ValueError(
            f"targets.tower: classes must be a text file with one class a line, there is none at '{name}'."
        )
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    found = {}
    for line in lines:
        match = _LABELLED.fullmatch(line)
        found[match["label"] if match else line] = match["name"] if match else line
    if len(lines) < 2 or len(found) < len(lines) or len(set(found.values())) < len(lines):
        raise ValueError(f"{path}: needs two classes or more, each once, got {len(lines)} lines.")
    return found
