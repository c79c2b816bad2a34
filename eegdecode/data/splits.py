"""Trials to folds: by the source's own test concepts, or with one run or subject left out at a time.

Overlap is refused, never repaired. Which groups validate is drawn from (protocol.seed, number of the fold).
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from eegdecode.batch import Fold
from eegdecode.config import Protocol

TRAIN, VAL, TEST, NONE = 0, 1, 2, -1


def group_of(table: pd.DataFrame, by: Literal["concept", "run", "subject"]) -> npt.NDArray[np.object_]:
    """Return the group of each trial; a run is named ``subject_session_run``.

    Raises
    ------
    ValueError
        A column that is missing.
    """
    columns = {"concept": ["concept"], "subject": ["subject"], "run": ["subject", "session", "run"]}[by]
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ValueError(f"the trial table needs the columns {columns} to split by {by}, missing {missing}.")
    groups = table[columns[0]].astype(str)
    for name in columns[1:]:
        groups = groups + "_" + table[name].astype(str)
    return groups.to_numpy(dtype=object)


def make_folds(table: pd.DataFrame, partitions: Mapping[str, str], protocol: Protocol) -> tuple[Fold, ...]:
    """Divide the trials as the protocol says.

    By concept there is one fold, ``concepts``: its test part are the pictures of partition ``test``. By run or subject
    there is one fold for each group, which is its test part; the same pictures are then on all sides, and the score is
    about new runs or people, not about new pictures.

    Parameters
    ----------
    table
        One row a trial: subject, session, run, concept, picture.
    partitions
        Picture id to ``train``, ``test`` or ``any``.

    Raises
    ------
    ValueError
        A concept or picture on both sides, a picture without partition, or too few groups.
    """
    if table.empty:
        raise ValueError("folds need at least one trial, got none; see why they were dropped.")
    if protocol.split_by == "concept":
        return (_concept_fold(table, partitions, protocol),)
    groups = sorted(set(group_of(table, protocol.split_by)))
    n_left = len(groups) - 1
    if protocol.n_val >= n_left:
        raise ValueError(
            f"protocol.n_val must leave a {protocol.split_by} to train on: got {protocol.n_val} for validation and 1 "
            f"for test of {len(groups)}. At most {max(n_left - 1, 0)}; with 0 set protocol.selection='last'."
        )
    folds = []
    for index, test in enumerate(groups):
        rest = [group for group in groups if group != test]
        train, val = _hold_out(rest, protocol.n_val, [protocol.seed, index])
        name = f"{protocol.split_by}-{test}"
        folds.append(Fold(name=name, by=protocol.split_by, train=train, val=val, test=(test,)))
    return tuple(folds)


def part_of(table: pd.DataFrame, fold: Fold) -> npt.NDArray[np.int8]:
    """Return the part of each trial in a fold: 0 train, 1 val, 2 test, -1 none.

    Raises
    ------
    ValueError
        A group of the fold without a trial.
    """
    part = {name: TRAIN for name in fold.train} | {name: VAL for name in fold.val} | {name: TEST for name in fold.test}
    groups = group_of(table, fold.by)
    absent = sorted(set(part) - set(groups))
    if absent:
        raise ValueError(
            f"fold '{fold.name}': {fold.by} {absent[:3]} has no trial in this table ({len(absent)} of {len(part)}); "
            "the fold belongs to other data."
        )
    return np.array([part.get(group, NONE) for group in groups], dtype=np.int8)


def _hold_out(groups: list[str], n_val: int, seed: list[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    drawn = np.random.default_rng(seed).permutation(len(groups))[:n_val]
    val = {groups[i] for i in drawn}
    return tuple(g for g in groups if g not in val), tuple(sorted(val))


def _concept_fold(table: pd.DataFrame, partitions: Mapping[str, str], protocol: Protocol) -> Fold:
    pictures = table["picture"].astype(str)
    side = pictures.map(dict(partitions))
    loose = sorted(set(pictures[~side.isin(("train", "test"))]))
    if loose:
        raise ValueError(
            "protocol.split_by='concept' needs partition train or test for every picture, got "
            f"'{partitions.get(loose[0])}' for {loose[:3]} ({len(loose)} such). "
            "Give the pictures a partition, or split by run or subject."
        )
    concepts = {part: set(group_of(table[side == part], "concept")) for part in ("train", "test")}
    both = sorted(concepts["train"] & concepts["test"])
    if both:
        raise ValueError(f"a concept must be in train or in test, got both for {both[:3]} ({len(both)} such).")
    named_twice = table.assign(picture=pictures).groupby("picture")["concept"].nunique()
    if (named_twice > 1).any():
        raise ValueError(
            f"a picture must have one concept, got several for {sorted(named_twice[named_twice > 1].index)[:3]}."
        )
    for part in ("train", "test"):
        if not concepts[part]:
            raise ValueError(f"protocol.split_by='concept' needs trials of {part} concepts, got none.")
    if protocol.n_val >= len(concepts["train"]):
        raise ValueError(
            f"protocol.n_val must be less than the {len(concepts['train'])} training concepts, got {protocol.n_val}."
        )
    train, val = _hold_out(sorted(concepts["train"]), protocol.n_val, [protocol.seed, 0])
    return Fold(name="concepts", by="concept", train=train, val=val, test=tuple(sorted(concepts["test"])))
