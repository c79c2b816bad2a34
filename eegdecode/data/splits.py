"""Trials to folds: by the source's own test concepts, or with one run or subject left out at a time.

Overlap is refused, never repaired. Which groups validate is drawn from (protocol.seed, number of the fold).
"""

from collections.abc import Collection
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from eegdecode.batch import Fold
from eegdecode.config import Protocol

TRAIN, VAL, TEST, NONE = 0, 1, 2, -1
By = Literal["concept", "picture", "run", "subject", "subject_concept"]
_OF_PARTITION = ["picture", "concept", "partition"]


COLUMNS = {
    "concept": ["concept"],
    "picture": ["picture"],
    "subject": ["subject"],
    "run": ["subject", "session", "run"],
    "subject_concept": ["subject", "concept"],
}


def group_of(table: pd.DataFrame, by: By) -> npt.NDArray[np.object_]:
    """Return the group of each trial; a run is named ``subject_session_run``.

    Raises
    ------
    ValueError
        A column that is missing.
    """
    code_N, names = groups(table, by)
    return np.array(names, dtype=object)[code_N]


def groups(table: pd.DataFrame, by: By) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Return the number of each trial's group, and the names of the groups; no string is made per trial.

    Raises
    ------
    ValueError
        A column that is missing.
    """
    columns = COLUMNS[by]
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ValueError(f"the trial table needs the columns {columns} to split by {by}, missing {missing}.")
    code_N = np.zeros(len(table), np.int64)
    labels: list[str] = [""]
    for name in columns:
        column = table[name].astype("category")
        values = [str(value) for value in column.cat.categories]
        code_N *= len(values)
        code_N += column.cat.codes.to_numpy()
        # Numbered again after each column, so that the numbers stay few whatever the product of the columns is.
        code_N, seen = pd.factorize(code_N)
        labels = [f"{labels[k // len(values)]}_{values[k % len(values)]}" for k in seen.tolist()]
    return code_N.astype(np.int64, copy=False), tuple(label[1:] for label in labels)


def columns_of(protocol: Protocol) -> list[str]:
    """Return the columns of the trial table that `make_folds` reads for a protocol."""
    ways = (protocol.split_by, *protocol.also_split_by)
    own = [name for by in ways for name in (COLUMNS[by] if by in ("run", "subject") else _OF_PARTITION)]
    return list(dict.fromkeys([*own, *(["subject"] if "subject_concept" in ways else [])]))


def make_folds(table: pd.DataFrame, protocol: Protocol) -> tuple[Fold, ...]:
    """Divide the trials in every way the protocol says.

    By concept there is one fold, ``concepts``: its test part are the pictures of partition ``test``, whose concepts are
    in no other part. By picture there is one fold, ``pictures``, of the source's own partitions: the same concepts are
    on all sides, and the score is about new pictures of known classes. By run or subject there is one fold for each
    group, which is its test part; the same pictures are then on all sides, and the score is about new runs or people.
    By subject_concept there is one fold for each subject: what is tested are the test concepts as that subject saw
    them, what is learnt the training concepts as the others saw them, and as many of the subject's own as
    `protocol.calibration_concepts` says; the other trials are in no part.

    Parameters
    ----------
    table
        One row a trial, or each different row once: subject, session, run, concept, picture, and the picture's
        partition, ``train``, ``val``, ``test`` or ``any``.

    Raises
    ------
    ValueError
        A concept or picture on both sides, a picture without partition, or too few groups.
    """
    if table.empty:
        raise ValueError("folds need at least one trial, got none; see why they were dropped.")
    ways = (protocol.split_by, *protocol.also_split_by)
    return tuple(fold for by in ways for fold in _folds(table, by, protocol))


def _folds(table: pd.DataFrame, by: By, protocol: Protocol) -> list[Fold]:
    if by in ("concept", "picture"):
        return [_partition_fold(table, by, protocol)]
    if by == "subject_concept":
        return _subject_concept_folds(table, protocol)
    names = sorted(groups(table, by)[1])
    n_left = len(names) - 1
    if protocol.n_val >= n_left:
        raise ValueError(
            f"protocol.n_val must leave a {by} to train on: got {protocol.n_val} for validation and 1 "
            f"for test of {len(names)}. At most {max(n_left - 1, 0)}; with 0 set protocol.selection='last'."
        )
    folds = []
    for index, test in enumerate(names):
        rest = [group for group in names if group != test]
        train, val = _hold_out(rest, protocol.n_val, [protocol.seed, index])
        folds.append(Fold(name=f"{by}-{test}", by=by, train=train, val=val, test=(test,)))
    return folds


def part_of(table: pd.DataFrame, fold: Fold) -> npt.NDArray[np.int8]:
    """Return the part of each trial in a fold: 0 train, 1 val, 2 test, -1 none.

    Raises
    ------
    ValueError
        A group of the fold without a trial.
    """
    part = {name: TRAIN for name in fold.train} | {name: VAL for name in fold.val} | {name: TEST for name in fold.test}
    code_N, names = groups(table, fold.by)
    absent = sorted(set(part) - set(names))
    if absent:
        raise ValueError(
            f"fold '{fold.name}': {fold.by} {absent[:3]} has no trial in this table ({len(absent)} of {len(part)}); "
            "the fold belongs to other data."
        )
    return np.array([part.get(name, NONE) for name in names], dtype=np.int8)[code_N]


def _hold_out(names: list[str], n_val: int, seed: list[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    drawn = np.random.default_rng(seed).permutation(len(names))[:n_val]
    val = {names[i] for i in drawn}
    return tuple(g for g in names if g not in val), tuple(sorted(val))


def _partition_fold(table: pd.DataFrame, by: By, protocol: Protocol) -> Fold:
    missing = [name for name in _OF_PARTITION if name not in table.columns]
    if missing:
        raise ValueError(f"the trial table needs the columns picture, concept and partition, missing {missing}.")
    facts = table[_OF_PARTITION].drop_duplicates().astype(str)
    known = ("train", "test") if by == "concept" else ("train", "val", "test")
    loose = facts[~facts["partition"].isin(known)].sort_values("picture")
    if len(loose):
        raise ValueError(
            f"protocol.split_by='{by}' needs partition {' or '.join(known)} for every picture, got "
            f"'{loose['partition'].iloc[0]}' for {loose['picture'].head(3).tolist()} ({len(loose)} such). "
            "Give the pictures a partition, or split by run or subject."
        )
    twice = sorted(set(facts["picture"][facts["picture"].duplicated()]))
    if twice:
        raise ValueError(f"a picture must have one concept and one partition, got several for {twice[:3]}.")
    part = {name: set(facts[by][facts["partition"] == name]) for name in ("train", "val", "test")}
    both = sorted(part["train"] & part["test"])
    if both:
        raise ValueError(f"a {by} must be in train or in test, got both for {both[:3]} ({len(both)} such).")
    for name in ("train", "test"):
        if not part[name]:
            raise ValueError(f"protocol.split_by='{by}' needs trials of {name} {by}s, got none.")
    train, val = tuple(sorted(part["train"])), tuple(sorted(part["val"]))
    if not val:
        if protocol.n_val >= len(train):
            raise ValueError(f"protocol.n_val must be less than the {len(train)} training {by}s, got {protocol.n_val}.")
        train, val = _hold_out(list(train), protocol.n_val, [protocol.seed, 0])
    return Fold(name=f"{by}s", by=by, train=_share_of(train, protocol), val=val, test=tuple(sorted(part["test"])))


def _share_of(train: tuple[str, ...], protocol: Protocol) -> tuple[str, ...]:
    """Return the first groups of one seeded order, so that a smaller share lies in every larger one."""
    n = round(protocol.train_share * len(train))
    if n == len(train):
        return train
    if n < 2:
        raise ValueError(
            f"protocol.train_share must leave at least 2 of {len(train)} training concepts, got "
            f"{protocol.train_share:g}, which is {n}."
        )
    order = np.random.default_rng([protocol.seed, 0, 2]).permutation(len(train))[:n]
    return tuple(train[k] for k in np.sort(order))


def _subject_concept_folds(table: pd.DataFrame, protocol: Protocol) -> list[Fold]:
    """Return a fold for each subject, of the concepts that the fold by concept has: overlap is refused there."""
    concepts = _partition_fold(table, "concept", protocol)
    shown: dict[str, list[str]] = {}
    pairs = table[COLUMNS["subject_concept"]].drop_duplicates().astype(str)
    for subject, concept in zip(pairs["subject"], pairs["concept"], strict=True):
        shown.setdefault(subject, []).append(concept)
    if len(shown) < 2:
        raise ValueError(f"protocol.split_by='subject_concept' needs at least 2 subjects, got {sorted(shown)}.")
    name_of = {(subject, concept): f"{subject}_{concept}" for subject, seen in shown.items() for concept in seen}
    if len(set(name_of.values())) != len(name_of):
        doubled = pd.Series(list(name_of.values()))
        raise ValueError(
            f"'{doubled[doubled.duplicated()].iloc[0]}' names two pairs of subject and concept: rename the subjects."
        )
    if protocol.calibration_concepts > len(concepts.train):
        raise ValueError(
            f"protocol.calibration_concepts must be at most the {len(concepts.train)} concepts that are trained on, "
            f"got {protocol.calibration_concepts}."
        )

    def seen_by(subjects: list[str], wanted: Collection[str]) -> tuple[str, ...]:
        return tuple(sorted(name_of[s, c] for s in subjects for c in shown[s] if c in wanted))

    train, val, test = set(concepts.train), set(concepts.val), set(concepts.test)
    folds = []
    for index, left in enumerate(sorted(shown)):
        others = [subject for subject in sorted(shown) if subject != left]
        # What the left-out subject saw decides: a concept whose trials were all dropped cannot calibrate.
        own = [concept for concept in concepts.train if concept in set(shown[left])]
        rng = np.random.default_rng([protocol.seed, index, 1])
        drawn = {own[k] for k in rng.permutation(len(own))[: protocol.calibration_concepts]}
        if len(drawn) < protocol.calibration_concepts:
            raise ValueError(
                f"protocol.calibration_concepts={protocol.calibration_concepts}: subject '{left}' saw only {len(own)} "
                "of the concepts that are trained on."
            )
        folds.append(
            Fold(
                name=f"subject_concept-{left}",
                by="subject_concept",
                train=(*seen_by(others, train), *seen_by([left], drawn)),
                val=seen_by(others, val),
                test=seen_by([left], test),
            )
        )
    return folds
