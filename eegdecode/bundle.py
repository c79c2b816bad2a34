"""A trained model at rest: safetensors, the Experiment, and the digest of what it was trained on.

The hinge between training and everything after it: evaluation, drawing and serving read a bundle and know nothing of
engines or clusters. Nothing in a bundle is a pickle.
"""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from eegdecode import storage
from eegdecode.batch import FileFact, Fold, TargetFact
from eegdecode.config import Experiment, Section
from eegdecode.diffusion.drawer import Drawer
from eegdecode.models.decoder import Decoder, decoder_of
from eegdecode.models.options import options_of

SCHEMA_VERSION = 2


class BundleFact(Section):
    """What must be known to use the weights, and where they come from."""

    manifest_digest: str
    targets_digest: str
    """Of the shard set and the target set it was trained on."""
    fold: Fold
    channels: tuple[str, ...]
    sfreq_hz: float
    tmin_s: float
    n_times: int
    unit: Literal["uV", "whitened", "scaled"] = "uV"
    """Of the trials the decoder takes."""
    target: TargetFact
    heads: dict[str, int] = Field(default_factory=dict)
    """Further targets that the decoder has a head for, and their lengths."""
    subjects: tuple[str, ...] = ()
    """Table of subjects of an encoder that has one, in the order of its rows: those of the training trials."""
    positions: tuple[tuple[float, float, float], ...] = ()
    """Of the electrodes, in units of the head's radius, for an encoder behind virtual ones."""
    concepts: dict[Literal["train", "val"], tuple[str, ...]] = Field(default_factory=dict)
    """Which it was trained and which it was validated on, sorted; empty in bundles of before they were kept."""
    step: int
    val_score: float | None
    """Score on the validation part at the step that was kept; None where the last step is kept."""


class BundleIndex(Section):
    """Content of `bundle.json`, written last."""

    schema_version: int = SCHEMA_VERSION
    experiment: Experiment
    fact: BundleFact
    gallery_pictures: tuple[str, ...]
    gallery_concepts: tuple[str, ...]
    files: tuple[FileFact, ...]


@dataclass(frozen=True)
class Gallery:
    """Candidates that are ranked: ids, concepts and targets of P pictures."""

    pictures: tuple[str, ...]
    concepts: tuple[str, ...]
    target_PD: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.pictures) == len(self.concepts) == len(self.target_PD):
            raise ValueError(
                f"A gallery needs one id, concept and target per picture, got {len(self.pictures)}, "
                f"{len(self.concepts)} and {len(self.target_PD)}."
            )


@dataclass(frozen=True)
class Bundle:
    """A decoder of one fold with what it takes to rank and to draw.

    Attributes
    ----------
    bridge_weight_ED, bridge_bias_D
        Linear map from the unit-norm predicted embedding to the target's space, fitted without test trials.
    drawer
        None where no pictures are drawn.
    digest
        sha256 of `bundle.json`; empty before it is saved.
    """

    experiment: Experiment
    fact: BundleFact
    decoder: Decoder
    bridge_weight_ED: np.ndarray
    bridge_bias_D: np.ndarray
    gallery: Gallery
    drawer: Drawer | None
    digest: str = ""


def save(uri: str, bundle: Bundle) -> str:
    """Publish a bundle under `uri`, `bundle.json` last, and return its digest."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        state = {name: value.detach().cpu().contiguous() for name, value in bundle.decoder.state_dict().items()}
        save_file(state, root / "decoder.safetensors")
        arrays = {
            "bridge_weight_ED": bundle.bridge_weight_ED,
            "bridge_bias_D": bundle.bridge_bias_D,
            "gallery_target_PD": bundle.gallery.target_PD,
        }
        save_arrays(
            {name: np.ascontiguousarray(a, np.float32) for name, a in arrays.items()}, root / "arrays.safetensors"
        )
        if bundle.drawer is not None:
            bundle.drawer.save(root / "drawer")
        names = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
        index = BundleIndex(
            experiment=bundle.experiment,
            fact=bundle.fact,
            gallery_pictures=bundle.gallery.pictures,
            gallery_concepts=bundle.gallery.concepts,
            files=tuple(_file_fact(root, name) for name in names),
        )
        for name in names:
            storage.upload(root / name, storage.join(uri, name))
        text = index.model_dump_json(indent=1).encode()
        storage.write_bytes(storage.join(uri, "bundle.json"), text)
    return hashlib.sha256(text).hexdigest()


def load(uri: str) -> Bundle:
    """Read a bundle; every file is checked against the digest in `bundle.json`.

    Raises
    ------
    ValueError
        No bundle of this schema, or a file that is not the one that was published.
    """
    where = storage.join(uri, "bundle.json")
    if not storage.exists(where):
        raise ValueError(f"{uri} holds no bundle.json: no bundle was published there, or it is not finished yet.")
    text = storage.read_bytes(where)
    version = json.loads(text).get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{where} must have schema_version {SCHEMA_VERSION}, got {version}: load it with the version that wrote it."
        )
    index = BundleIndex.model_validate_json(text)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for file in index.files:
            (root / file.name).parent.mkdir(parents=True, exist_ok=True)
            storage.download(storage.join(uri, file.name), root / file.name, sha256=file.sha256)
        arrays = load_arrays(root / "arrays.safetensors")
        fact = index.fact
        positions_C3 = np.array(fact.positions) if fact.positions else None
        options = options_of(index.experiment.encoder, fact.subjects, positions_C3, fact.sfreq_hz)
        decoder = decoder_of(index.experiment, len(fact.channels), fact.n_times, fact.target.dim, fact.heads, options)
        decoder.load_state_dict(load_file(root / "decoder.safetensors"))
        drawer = Drawer.load(root / "drawer") if (root / "drawer").is_dir() else None
    return Bundle(
        experiment=index.experiment,
        fact=index.fact,
        decoder=decoder.eval(),
        bridge_weight_ED=arrays["bridge_weight_ED"],
        bridge_bias_D=arrays["bridge_bias_D"],
        gallery=Gallery(index.gallery_pictures, index.gallery_concepts, arrays["gallery_target_PD"]),
        drawer=drawer,
        digest=hashlib.sha256(text).hexdigest(),
    )


def copy(uri: str, folder: Path) -> Path:
    """Copy everything beside a bundle, its card too, to a local folder, and return that."""
    for file in storage.list_uris(uri):
        target = folder / file.removeprefix(uri.rstrip("/") + "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        storage.download(file, target)
    return folder


def _file_fact(root: Path, name: str) -> FileFact:
    data = (root / name).read_bytes()
    return FileFact(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
