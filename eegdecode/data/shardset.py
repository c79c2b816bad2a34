"""A published shard set, opened: checked, fetched if it is in an object store, mapped, and gathered without parsing.

Shape letters: B batch, C chan, T time, D embedding, P picture, N samples of a shard, S shard.
"""

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NewType, TypeVar

import numpy as np
import pandas as pd
from PIL import Image
from pyarrow import parquet
from pydantic import ValidationError

from eegdecode import storage
from eegdecode.batch import SCHEMA_VERSION, Fold, Manifest, ShardFact, Signed, TargetManifest
from eegdecode.config import Protocol
from eegdecode.data.cache import CacheFullError
from eegdecode.data.shardfile import Array, Files, Memory, Shard, index_of
from eegdecode.data.sources.pictures import open_picture
from eegdecode.data.splits import COLUMNS, TEST, TRAIN, VAL, columns_of, make_folds, part_of

SignedT = TypeVar("SignedT", bound=Signed)
Untested = NewType("Untested", np.ndarray)
"""Trials that may be learnt from or selected on: what `ShardSet.trials_of` returns, and nothing else does. Streams and
validations take these, so handing them the trials of `test_trials` does not type-check."""
MANIFEST_NAME = "manifest.json"
TABLE_NAME = "table.parquet"

_PARTS = {"train": TRAIN, "val": VAL}
_ROWS = 1 << 18
"""Rows of the table that are read at a time."""


def picture_key(picture: str) -> str:
    """Return the name a picture has in its shard: its id, or for an id that can be no name what is left and a hash."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", picture):
        return picture
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", picture)[:60]
    return f"{plain}-{hashlib.sha256(picture.encode()).hexdigest()[:12]}"


def read_manifest(uri: str) -> Manifest:
    """Return the manifest of a published set.

    Raises
    ------
    ValueError
        If nothing is published there, or the manifest is of another schema, or was altered.
    """
    return read_signed(uri, Manifest)


def read_signed(uri: str, kind: type[SignedT]) -> SignedT:
    """Return a published manifest of some kind; see `read_manifest` for what is raised."""
    where = storage.join(uri, MANIFEST_NAME)
    try:
        content = storage.read_bytes(where)
    except storage.MissingError as error:
        raise ValueError(f"no {_KINDS[kind]} is published at {uri}: {error} Prepare it first.") from error
    try:
        tree = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{where} was cut or altered: it is not JSON ({error}). Prepare the set again.") from error
    version = tree.get("schema_version") if isinstance(tree, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{where} must have schema version {SCHEMA_VERSION}, got {version}: it was prepared by another release. "
            "Prepare the set again, or use that release."
        )
    try:
        manifest = kind.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{where} was altered: {error}") from error
    try:
        manifest.check()
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    for name in _names(manifest):
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
            raise ValueError(f"{where}: a file of the set must be a plain name, got '{name}'.")
    return manifest


_KINDS: dict[type, str] = {Manifest: "shard set", TargetManifest: "target set"}


def _names(manifest: Signed) -> Iterator[str]:
    """Yield the names of all files a manifest lists."""
    for shard in manifest.all_shards:
        yield from (shard.tar.name, shard.index.name)
    if isinstance(manifest, Manifest):
        yield manifest.table.name


def open_shards(
    uri: str,
    cache_dir: str | None = None,
    verify: bool = True,
    targets: Mapping[str, str] | None = None,
    protocol: Protocol | None = None,
    cache_bytes: int | None = None,
) -> "ShardSet":
    """Open a published set: manifest and table now, each shard when it is first needed.

    Parameters
    ----------
    cache_dir, cache_bytes
        Where whole objects are copied to, by all processes of a node together, and what the copies may take; a folder
        of this user among the temporary files if None or empty, and no limit. Not used for a set that is local.
    verify
        Whether a file is hashed when it is first used. Without it local tars are only held against the manifest's
        sizes: for processes beside one that has verified. Indexes, tables and fetched copies are always checked.
    targets
        Name to URI of the target sets of its pictures; the main one has the name "".
    protocol
        How its trials are divided; see `ShardSet.folds`.

    Raises
    ------
    ValueError
        If a manifest or the table is not what was published, or a target set is that of other pictures.
    """
    files = Files(uri, cache_dir, cache_bytes, verify)
    shards = ShardSet(read_manifest(uri), files, protocol)
    for name, target_uri in (targets or {}).items():
        shards.targets[name] = open_targets(target_uri, shards, cache_dir, cache_bytes)
    return shards


def test_trials(shards: "ShardSet", fold: Fold) -> np.ndarray:
    """Return the trials of a fold's test part, int64; only `evaluate` and `reconstruct` call this."""
    return np.flatnonzero(shards.part_of(fold) == TEST).astype(np.int64)


class TargetSet:
    """One tower's targets for the pictures of a shard set.

    Attributes
    ----------
    manifest
        What was published.
    """

    def __init__(self, manifest: TargetManifest, files: Files, keys: Callable[[], Sequence[str]]) -> None:
        self.manifest, self._files, self._keys = manifest, files, keys
        files.prefetch(file for fact in manifest.shards for file in (fact.index, fact.tar))

    @cached_property
    def target_PD(self) -> np.ndarray:
        """Float32, one row a picture in the order of the set, as the tower made it; read when it is first needed.

        Raises
        ------
        ValueError
            If a file is not what was published, or a target is not in the row of its own picture.
        """
        manifest, keys = self.manifest, self._keys()
        target_PD = np.empty((manifest.n_pictures, manifest.target.dim), np.float32)
        row = 0
        for fact in manifest.shards:
            shard = Shard(self._files, fact, Array("target.npy", "<f4", (manifest.target.dim,)))
            for k, (key, wanted) in enumerate(zip(shard.keys, keys[row : row + shard.n], strict=False)):
                if key != wanted:
                    raise ValueError(
                        f"{self._files.uri}: target {row + k} must be that of picture '{wanted}', got that of '{key}': "
                        "targets and pictures are paired by name. Run jobs/targets.py again."
                    )
            shard.copy(np.arange(shard.n), target_PD[row : row + shard.n])
            row += shard.n
            shard.close()
        if row != manifest.n_pictures:
            raise ValueError(
                f"{self._files.uri}: the shards must hold {manifest.n_pictures} targets, got {row}. Make them again."
            )
        return target_PD


def open_targets(
    uri: str, shards: "ShardSet", cache_dir: str | None = None, cache_bytes: int | None = None
) -> TargetSet:
    """Open a published target set, and hold it against the pictures of the set it is asked for.

    Raises
    ------
    ValueError
        If it was made for other pictures, or its manifest is not what was published.
    """
    manifest, pictures = read_signed(uri, TargetManifest), shards.manifest
    if (manifest.pictures_digest, manifest.n_pictures) != (pictures.pictures_digest, pictures.n_pictures):
        raise ValueError(
            f"{uri}: targets must be those of the set's {pictures.n_pictures} pictures "
            f"({pictures.pictures_digest[:12]}), got {manifest.n_pictures} ({manifest.pictures_digest[:12]}): the "
            "pictures changed since. Run jobs/targets.py again."
        )
    return TargetSet(manifest, Files(uri, cache_dir, cache_bytes, verify=True), lambda: shards.picture_keys)


class ShardSet:
    """Trials and pictures of an opened set. Its methods may be called by several threads.

    Attributes
    ----------
    manifest
        What was published.
    targets
        Target sets by name; "" is the main one.
    """

    def __init__(self, manifest: Manifest, files: Files, protocol: Protocol | None = None) -> None:
        self.manifest = manifest
        self.targets: dict[str, TargetSet] = {}
        self._files, self._protocol = files, protocol
        path, self._table_lease = files.open(manifest.table, small=True)
        self._table_path = path
        n_rows = parquet.read_metadata(path).num_rows
        counts = (n_rows, sum(fact.n_samples for fact in manifest.trials))
        if counts != (manifest.n_trials, manifest.n_trials):
            raise ValueError(
                f"table and shards must have {manifest.n_trials} trials, got {counts}. Prepare the set again."
            )
        self._start_S = np.cumsum([0, *(fact.n_samples for fact in manifest.trials)])
        self._picture_start_S = np.cumsum([0, *(fact.n_samples for fact in manifest.pictures)])
        # Opened shards, the one used last at the end.
        self._open: OrderedDict[str, Shard] = OrderedDict()
        self._open_bytes = 0
        self._memory = Memory()
        self._lock = threading.Lock()

    @cached_property
    def table(self) -> pd.DataFrame:
        """All columns of the trial table; row ``t`` is trial ``t``."""
        return pd.read_parquet(self._table_path, engine="pyarrow")

    def columns(self, names: Sequence[str]) -> pd.DataFrame:
        """Return text columns of the table as categories: a few bytes a trial, and no other column is read."""
        codes = {name: np.empty(self.manifest.n_trials, np.int32) for name in names}
        values: dict[str, dict[str, int]] = {name: {} for name in names}
        start = 0
        for part in self._coded(values):
            for name, code_R in part.items():
                codes[name][start : start + len(code_R)] = code_R
            start += len(code_R)
        found = {name: pd.Categorical.from_codes(codes[name], pd.Index(list(values[name]))) for name in names}
        return pd.DataFrame(found, copy=False)

    def distinct(self, names: Sequence[str]) -> pd.DataFrame:
        """Return the different rows that text columns of the table have, in the order they come."""
        values: dict[str, dict[str, int]] = {name: {} for name in names}
        seen: dict[tuple[int, ...], None] = {}
        for part in self._coded(values):
            sizes = [len(values[name]) for name in names]
            combined = np.zeros(len(part[names[0]]), np.int64)
            for name, size in zip(names, sizes, strict=True):
                combined = combined * size + part[name]
            rows = np.unravel_index(pd.unique(combined), sizes)
            seen |= dict.fromkeys(zip(*(codes.tolist() for codes in rows), strict=True))
        known = [list(values[name]) for name in names]
        return pd.DataFrame([[known[k][code] for k, code in enumerate(row)] for row in seen], columns=list(names))

    def _coded(self, values: dict[str, dict[str, int]]) -> Iterator[dict[str, np.ndarray]]:
        """Yield a part of the rows at a time, each column as numbers; new values are numbered in ``values``."""
        names = list(values)
        file = parquet.ParquetFile(self._table_path, read_dictionary=names)
        known: dict[str, tuple[Any, np.ndarray]] = {}
        for batch in file.iter_batches(batch_size=_ROWS, columns=names):
            part = {}
            for name in names:
                column = batch.column(name)
                # Every part brings its own dictionary; mostly it is the last one's.
                if name not in known or not column.dictionary.equals(known[name][0]):
                    number = values[name]
                    own = [number.setdefault(value, len(number)) for value in column.dictionary.to_pylist()]
                    known[name] = (column.dictionary, np.array(own, np.int32))
                part[name] = known[name][1][column.indices.to_numpy(zero_copy_only=False)]
            yield part

    @cached_property
    def picture_row(self) -> np.ndarray:
        """Row of each trial's picture in the picture set, int32."""
        rows = np.empty(self.manifest.n_trials, np.int32)
        start = 0
        for batch in parquet.ParquetFile(self._table_path).iter_batches(batch_size=_ROWS, columns=["picture_row"]):
            part = batch.column(0).to_numpy(zero_copy_only=False)
            rows[start : start + len(part)] = part
            start += len(part)
        return rows

    @cached_property
    def folds(self) -> tuple[Fold, ...]:
        """The folds of the protocol the set was opened with.

        Raises
        ------
        ValueError
            If it was opened without one, or the trials cannot be divided so.
        """
        if self._protocol is None:
            raise ValueError("a shard set has folds when it is opened with a protocol, and this one was not.")
        return make_folds(self.distinct(columns_of(self._protocol)), self._protocol)

    @property
    def target(self) -> TargetSet:
        """The main target set.

        Raises
        ------
        ValueError
            If the set was opened without targets.
        """
        if "" not in self.targets:
            raise ValueError("this shard set was opened without targets. Name a target set when it is opened.")
        return self.targets[""]

    @property
    def target_PD(self) -> np.ndarray:
        """The main target of each picture, float32, as the tower made it."""
        return self.target.target_PD

    def part_of(self, fold: Fold) -> np.ndarray:
        """Return the part of each trial in a fold, int8; see `splits.part_of`."""
        return part_of(self.columns(COLUMNS[fold.by]), fold)

    def gather(self, trials: np.ndarray) -> np.ndarray:
        """Return EEG (B, C, T) float16, in the manifest's unit, of the trials in their order.

        Trials of one shard next to each other are copied together: ascending order is the fastest. The rows may lie
        apart in memory.

        Raises
        ------
        ValueError
            A trial that is not in the set, or a shard that is not what was published.
        """
        trials = np.asarray(trials, np.int64)
        shape_CT = (len(self.manifest.channels), self.manifest.n_times)
        eeg = Array("eeg.npy", "<f2", shape_CT)
        shard_B = self.shard_of(trials)
        starts = np.flatnonzero(np.diff(shard_B, prepend=-1)).tolist()
        stops = [*starts[1:], len(trials)] if starts else []
        parts = [
            (self._shard(self.manifest.trials[s], eeg), slice(start, stop), trials[start:stop] - self._start_S[s])
            for start, stop, s in zip(starts, stops, shard_B[starts].tolist(), strict=True)
        ]
        strides = {shard.stride for shard, _, _ in parts}
        if len(strides) == 1 and (stride := strides.pop()):
            # Whole samples in one call a shard, of which the EEG is a view: it needs no interpreter's lock.
            buffer_BX = self._memory.array((len(trials), stride))
            for shard, rows, samples in parts:
                shard.take(samples, buffer_BX[rows])
            flat_BX = buffer_BX[:, : 2 * shape_CT[0] * shape_CT[1]].view("<f2")
            return flat_BX.reshape(len(trials), *shape_CT)
        eeg_BCT = np.empty((len(trials), *shape_CT), np.float16)
        for shard, rows, samples in parts:
            shard.copy(samples, eeg_BCT[rows])
        return eeg_BCT

    def shard_of(self, trials: np.ndarray) -> np.ndarray:
        """Return the number of the shard that holds each trial.

        Raises
        ------
        ValueError
            A trial that is not in the set.
        """
        if len(trials) and not 0 <= trials.min() <= trials.max() < self.manifest.n_trials:
            raise ValueError(
                f"a trial must be 0 to {self.manifest.n_trials - 1}, got {trials.min()} to {trials.max()}."
            )
        shard_B: np.ndarray = np.searchsorted(self._start_S, trials, side="right") - 1
        return shard_B

    def prefetch(self, shards: Iterable[int]) -> None:
        """Begin to fetch trial shards by number, in this order; nothing happens for a set that is local."""
        facts = [self.manifest.trials[s] for s in shards]
        self._files.prefetch(file for fact in facts for file in (fact.index, fact.tar))

    def stop_prefetch(self) -> None:
        """Drop what was to be fetched and has not begun; a process waits for all of it otherwise before it ends."""
        self._files.stop_prefetch()

    def trials_of(self, fold: Fold, part: Literal["train", "val"]) -> Untested:
        """Return the trials of a part, int64, ascending.

        Raises
        ------
        ValueError
            For any other part: the test part is not for training or selection.
        """
        if part not in _PARTS:
            raise ValueError(f"part must be 'train' or 'val', got '{part}': only scoring sees the test part.")
        return Untested(np.flatnonzero(self.part_of(fold) == _PARTS[part]).astype(np.int64))

    def check_apart(self, fold: Fold) -> None:
        """Refuse a fold whose pictures (and concepts) are to be new, and whose test pictures another part shows too.

        `make_folds` refuses that too, from the labels of the table. A fold also comes out of a bundle, or by hand, and
        a trial may carry another label than the picture it shows: this asks what was shown, trial by trial.

        Raises
        ------
        ValueError
            A picture in test and in train or val, or a concept unless the fold is by picture.
        """
        if fold.by in ("run", "subject"):
            return
        part_N = self.part_of(fold)
        tested, other = (
            set(np.unique(self.picture_row[rows_N]).tolist())
            for rows_N in (part_N == TEST, (part_N == TRAIN) | (part_N == VAL))
        )
        both = sorted(tested & other)
        if both:
            raise ValueError(
                f"fold '{fold.name}': a picture of the test part must be shown in no other, got repetitions of "
                f"'{self.picture_ids[both[0]]}' in both ({len(both)} such). The trial table names its concept or "
                "picture differently in different trials: correct it, and prepare the set again."
            )
        if fold.by != "picture":
            shared = sorted(
                {self.picture_concepts[row] for row in tested} & {self.picture_concepts[row] for row in other}
            )
            if shared:
                raise ValueError(
                    f"fold '{fold.name}': a concept of the test part must be in no other, got pictures of "
                    f"'{shared[0]}' in both ({len(shared)} such). Correct the concepts, and prepare the set again."
                )

    @cached_property
    def picture_keys(self) -> tuple[str, ...]:
        """Names of the pictures in their shards, by row; of the pictures only the indexes are read."""
        return tuple(key for fact in self.manifest.pictures for key in index_of(self._files, fact).keys)

    @cached_property
    def picture_ids(self) -> tuple[str, ...]:
        """Ids of the picture set, by row."""
        return tuple(fact["picture"] for fact in self._picture_facts)

    @cached_property
    def picture_concepts(self) -> tuple[str, ...]:
        """Concept of each picture, by row."""
        return tuple(fact["concept"] for fact in self._picture_facts)

    @cached_property
    def _picture_facts(self) -> list[dict[str, str]]:
        return [fact for shard in range(len(self.manifest.pictures)) for fact in self.picture_facts(shard)]

    def picture_facts(self, shard: int) -> list[dict[str, str]]:
        """Return what is known of each picture of one shard, by row; no other shard is fetched.

        ``picture`` and ``concept``; and ``image_of``, the class it is one image of, where only classes are known.
        """
        opened = self._shard(self.manifest.pictures[shard])
        return [json.loads(opened.bytes_of("json", sample)) for sample in range(opened.n)]

    def picture_rows(self, shard: int) -> range:
        """Return the rows of a shard of pictures."""
        return range(int(self._picture_start_S[shard]), int(self._picture_start_S[shard + 1]))

    def picture_images(self, rows: Sequence[int] | np.ndarray) -> list[Image.Image]:
        """Return pictures as RGB images.

        Raises
        ------
        ValueError
            If one does not decode or is absurdly large; it is named. A set may come from others.
        """
        images = []
        for row in np.asarray(rows, np.int64).tolist():
            if not 0 <= row < self.manifest.n_pictures:
                raise ValueError(f"a picture row must be 0 to {self.manifest.n_pictures - 1}, got {row}.")
            s = int(np.searchsorted(self._picture_start_S, row, side="right")) - 1
            shard, sample = self._shard(self.manifest.pictures[s]), row - int(self._picture_start_S[s])
            picture = json.loads(shard.bytes_of("json", sample))["picture"]
            images.append(open_picture(shard.bytes_of("png", sample), picture, ("PNG",)))
        return images

    def _shard(self, fact: ShardFact, array: Array | None = None) -> Shard:
        """Return an opened shard; beyond this process's share, the shards used least recently are let go of."""
        with self._lock:
            name = fact.tar.name
            while name not in self._open:
                try:
                    self._open[name] = Shard(self._files, fact, array)
                    self._open_bytes += fact.tar.size_bytes
                except CacheFullError:
                    if not self._open:
                        raise
                    self._let_go()
            self._open.move_to_end(name)
            while len(self._open) > 1 and self._open_bytes > self._files.kept_bytes:
                self._let_go()
            return self._open[name]

    def _let_go(self) -> None:
        shard = self._open.popitem(last=False)[1]
        self._open_bytes -= shard.n_bytes
        shard.close()
