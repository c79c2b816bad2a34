"""A small synthetic set, cut and published without a cluster, with targets that stand for those of any tower."""

from pathlib import Path

import numpy as np
import pandas as pd

from eegdecode.batch import Manifest
from eegdecode.config import Epochs, SyntheticData
from eegdecode.data import shards
from eegdecode.data.epochs import cut
from eegdecode.data.shards import PackedPicture
from eegdecode.data.sources.forward_model import Generator
from eegdecode.data.sources.photographs import Photographs
from eegdecode.data.sources.synthetic import SyntheticSource
from eegdecode.targets import open_tower
from eegdecode.targets.spec import parse
from tests.writers import shard_set

SOURCE = SyntheticData(
    n_subjects=3,
    n_train_concepts=16,
    pictures_per_concept=4,
    train_repetitions=2,
    n_test_concepts=12,
    test_repetitions=4,
    picture_px=32,
)
CHANNELS = ("Pz", "PO7", "PO3", "POz", "PO4", "PO8", "O1", "Oz", "O2")
"""Few, since closed forms take the cube of electrodes times samples."""
EPOCHS = Epochs(tmin_s=-0.1, tmax_s=0.6, sfreq_hz=200.0, crop_s=(0.0, 0.545), channels=CHANNELS)


class SyntheticSet:
    """Trials and pictures at `uri`, and for every tower a target set that is a function of the pictures.

    Attributes
    ----------
    gabor_PD
        Targets of the tower that needs no weights; the others are linear maps of them, or of the concept.
    """

    def __init__(
        self,
        folder: Path,
        config: SyntheticData = SOURCE,
        generator: Generator | None = None,
        epochs: Epochs = EPOCHS,
        data_uri: str = "",
    ) -> None:
        self.folder, self.uri = folder, str(folder / "eeg")
        photographs = Photographs(Path(data_uri)) if config.pictures == "folder" else None
        source = self.source = SyntheticSource(config, generator, photographs)
        listed = source.pictures()
        pictures = [PackedPicture(p.picture, p.concept, p.images()[0]) for p in listed]
        self.ids = [p.picture for p in pictures]
        self.images = [p.image for p in pictures]
        self.concepts = [p.concept for p in pictures]
        self.training = sorted({p.concept for p in listed if p.partition == "train"})
        row = {name: k for k, name in enumerate(self.ids)}
        part = {p.picture: p.partition for p in listed}
        tables, eeg = [], []
        for ref in source.recordings():
            trials = cut(source.read(ref), epochs)
            tables.append(trials.table)
            eeg.append(trials.eeg_uv_NCT)
        shown = pd.concat(tables, ignore_index=True)
        rows = shown["picture"].map(row).to_numpy()
        table = shard_set.trial_table(
            len(shown),
            rows,
            key=[f"t{t:06d}" for t in range(len(shown))],
            **{name: shown[name] for name in ("recording", "subject", "session", "run", "picture")},
            concept=[self.concepts[r] for r in rows],
            partition=[part[name] for name in shown["picture"]],
        )
        per_shard = [len(part_NCT) for part_NCT in eeg]
        made = shard_set.write_set(self.uri, np.concatenate(eeg), table, per_shard, pictures, pictures_per_shard=50)
        made = made.model_copy(update={"sfreq_hz": epochs.sfreq_hz, "tmin_s": 0.0, "channels": trials.channels})
        self.manifest: Manifest = shards.publish(self.uri, made, table)
        self.gabor_PD = open_tower("gabor", "").embed(self.images).reshape(len(pictures), -1)
        self._made: dict[str, str] = {}

    def target(self, tower: str) -> np.ndarray:
        """Return what stands for a tower's targets: of its kind and form, with numbers made from the pictures."""
        spec = parse(tower)
        rng = np.random.default_rng(len(spec.kind))
        unit_PD = (self.gabor_PD - self.gabor_PD.mean(axis=0)) / (self.gabor_PD.std(axis=0) + 1e-6)
        names = sorted(set(self.concepts))
        of_concept_PK = np.eye(len(names))[[names.index(c) for c in self.concepts]]
        if spec.kind == "teacher":
            own_PK = np.array([[float(c == name) for name in self.training] for c in self.concepts])
            logits_PK = 3 * own_PK + 0.3 * unit_PD @ rng.normal(size=(unit_PD.shape[1], len(self.training))) / 10
            made = np.exp(logits_PK) / np.exp(logits_PK).sum(axis=1, keepdims=True)
        elif spec.kind == "text":
            made = of_concept_PK @ rng.normal(size=(len(names), 20))
            if "captions" in spec.options:
                made = made + 0.3 * unit_PD @ rng.normal(size=(unit_PD.shape[1], 20)) / unit_PD.shape[1] ** 0.5
        elif spec.kind == "gabor":
            made = self.gabor_PD
        else:
            width = {"vae": 30}.get(spec.kind, 24) * (len(spec.layers.names) if spec.layers else 1)
            made = unit_PD @ rng.normal(size=(unit_PD.shape[1], width)) / unit_PD.shape[1] ** 0.5
            for view in spec.views:  # a view moves the target a little
                made = made + 0.1 * np.random.default_rng(len(str(view))).normal(size=made.shape)
        return np.asarray(made, np.float32)

    def targets(self, towers: dict[str, str]) -> dict[str, str]:
        """Return where the target sets of towers lie, by the names of the targets; made when first asked for."""
        for tower in towers.values():
            if tower not in self._made:
                uri = str(self.folder / f"targets-{len(self._made)}")
                shard_set.publish_targets(uri, self.manifest, self.ids, self.target(tower))
                self._made[tower] = uri
        return {name: self._made[tower] for name, tower in towers.items()}
