import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eegdecode.config import Protocol
from eegdecode.data.splits import group_of, make_folds, part_of


def table(n_train: int = 6, n_test: int = 3) -> pd.DataFrame:
    concepts = [f"train{i}" for i in range(n_train)] + [f"test{i}" for i in range(n_test)]
    rows = [
        {"subject": subject, "session": "ses-01", "run": run, "concept": c, "picture": f"{c}/{k}"}
        for subject in ("sub-01", "sub-02")
        for run in ("run-01", "run-02")
        for c in concepts
        for k in range(2)
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(partition=["test" if p.startswith("test") else "train" for p in frame["picture"]])


def test_concept_fold_tests_on_the_sources_own_concepts() -> None:
    frame = table()
    (fold,) = make_folds(frame, Protocol(n_val=2))
    assert (fold.name, fold.by) == ("concepts", "concept")
    assert fold.test == ("test0", "test1", "test2")
    assert len(fold.val) == 2
    assert set(fold.train) | set(fold.val) == {f"train{i}" for i in range(6)}
    part_N = part_of(frame, fold)
    assert part_N.dtype == np.int8
    for part, names in ((0, fold.train), (1, fold.val), (2, fold.test)):
        assert set(frame["concept"][part_N == part]) == set(names)


@given(seed=st.integers(0, 1000), n_val=st.integers(0, 2))
def test_every_run_is_tested_once_and_never_trained_on_then(seed: int, n_val: int) -> None:
    frame = table(2, 1)
    protocol = Protocol(split_by="run", n_val=n_val, seed=seed, selection="validation" if n_val else "last")
    folds = make_folds(frame, protocol)
    runs = sorted(set(group_of(frame, "run")))
    assert [fold.test for fold in folds] == [(run,) for run in runs]
    assert runs[0] == "sub-01_ses-01_run-01"
    assert [fold.name for fold in folds] == [f"run-{run}" for run in runs]
    for fold in folds:
        assert len(fold.val) == n_val
        assert sorted(fold.train + fold.val + fold.test) == runs
    assert folds == make_folds(frame.sample(frac=1, random_state=seed), protocol)


def test_validation_depends_on_the_seed() -> None:
    frame = table(30)
    drawn = {make_folds(frame, Protocol(n_val=5, seed=seed))[0].val for seed in range(5)}
    assert len(drawn) > 1


def test_leave_one_subject_out() -> None:
    frame = table()
    folds = make_folds(frame, Protocol(split_by="subject", n_val=0, selection="last"))
    assert [(fold.name, fold.train, fold.test) for fold in folds] == [
        ("subject-sub-01", ("sub-02",), ("sub-01",)),
        ("subject-sub-02", ("sub-01",), ("sub-02",)),
    ]


def test_overlap_is_refused() -> None:
    frame = table()
    frame.loc[frame["picture"] == "train0/1", "partition"] = "test"
    with pytest.raises(ValueError, match=r"a concept must be in train or in test, got both for \['train0'\]"):
        make_folds(frame, Protocol(n_val=1))
    frame = table()
    frame.loc[0, "concept"] = "train1"
    with pytest.raises(
        ValueError, match=r"a picture must have one concept and one partition, got several for \['train0/0'\]"
    ):
        make_folds(frame, Protocol(n_val=1))


def test_too_little_is_refused() -> None:
    frame = table()
    with pytest.raises(ValueError, match="n_val must be less than the 6 training concepts, got 6"):
        make_folds(frame, Protocol(n_val=6))
    with pytest.raises(ValueError, match="n_val must leave a subject to train on"):
        make_folds(frame, Protocol(split_by="subject", n_val=1))
    with pytest.raises(ValueError, match="needs partition train or test"):
        make_folds(frame.assign(partition="any"), Protocol(n_val=1))
    with pytest.raises(ValueError, match="trials of test concepts, got none"):
        make_folds(frame.assign(partition="train"), Protocol(n_val=1))
    with pytest.raises(ValueError, match="at least one trial"):
        make_folds(frame.iloc[:0], Protocol(n_val=1))


def test_a_fold_of_other_data_is_refused() -> None:
    frame = table()
    (fold,) = make_folds(frame, Protocol(n_val=2))
    with pytest.raises(ValueError, match=r"concept \['test0'\] has no trial"):
        part_of(frame[frame["concept"] != "test0"], fold)
    one_subject = frame[frame["subject"] == "sub-01"]
    assert (part_of(one_subject, fold) >= 0).all()


def test_by_picture_the_sources_own_parts_are_used_and_concepts_are_shared() -> None:
    frame = table(4, 0)
    part = {0: "train", 1: "test"}
    frame["partition"] = [part[int(p[-1])] for p in frame["picture"]]
    protocol = Protocol(split_by="picture", n_val=1)
    (fold,) = make_folds(frame, protocol)
    assert (fold.name, fold.by, len(fold.val), len(fold.train)) == ("pictures", "picture", 1, 3)
    assert fold.test == tuple(f"train{i}/1" for i in range(4))
    # Where the source has a validation part, it is taken, and none is drawn.
    frame.loc[frame["picture"] == "train2/0", "partition"] = "val"
    (fold,) = make_folds(frame, protocol)
    assert fold.val == ("train2/0",)
    assert set(frame["concept"][part_of(frame, fold) == 0]) == {"train0", "train1", "train3"}


def test_groups_of_categories_are_those_of_strings_and_of_several_columns() -> None:
    frame = table()
    plain = frame["subject"] + "_" + frame["session"] + "_" + frame["run"]
    assert group_of(frame, "run").tolist() == plain.tolist()
    assert group_of(frame.astype("category"), "run").tolist() == plain.tolist()
    assert group_of(frame.astype("category").iloc[::-1], "concept").tolist() == frame["concept"].tolist()[::-1]


def test_every_way_of_dividing_is_made() -> None:
    folds = make_folds(table(), Protocol(n_val=0, also_split_by=("run", "subject"), selection="last"))
    assert [fold.by for fold in folds] == ["concept"] + 4 * ["run"] + 2 * ["subject"]


def test_leave_one_subject_out_with_test_concepts_of_their_own() -> None:
    """Each trial's part by hand: the left-out subject tests, the others train, and what is left is in no part."""
    frame = table()
    folds = make_folds(frame, Protocol(split_by="subject_concept", n_val=2))
    assert [fold.name for fold in folds] == ["subject_concept-sub-01", "subject_concept-sub-02"]
    (concepts,) = make_folds(frame, Protocol(n_val=2))
    for fold, left in zip(folds, ("sub-01", "sub-02"), strict=True):
        own_N, concept_N = (frame["subject"] == left).to_numpy(), frame["concept"].to_numpy()
        want_N = np.full(len(frame), -1)
        want_N[~own_N & np.isin(concept_N, concepts.train)] = 0
        want_N[~own_N & np.isin(concept_N, concepts.val)] = 1
        want_N[own_N & np.isin(concept_N, concepts.test)] = 2
        assert part_of(frame, fold).tolist() == want_N.tolist()
        assert np.bincount(want_N + 1).tolist() == [24 + 12, 16, 8, 12]


def test_few_shot_calibration_adds_training_concepts_of_the_left_out_subject_alone() -> None:
    frame = table(12)
    drawn = set()
    for seed in range(6):
        protocol = Protocol(split_by="subject_concept", n_val=2, calibration_concepts=3, seed=seed)
        plain = make_folds(frame, protocol.model_copy(update={"calibration_concepts": 0}))
        for before, fold in zip(plain, make_folds(frame, protocol), strict=True):
            left = fold.name.removeprefix("subject_concept-")
            added = set(fold.train) - set(before.train)
            assert len(added) == 3
            assert (fold.val, fold.test) == (before.val, before.test)
            trained = {name.split("_")[1] for name in before.train}
            assert all(name.split("_")[0] == left and name.split("_")[1] in trained for name in added)
            drawn.add(frozenset(added))
    assert len(drawn) > 6
    with pytest.raises(ValueError, match="at most the 10 concepts that are trained on, got 11"):
        make_folds(frame, Protocol(split_by="subject_concept", n_val=2, calibration_concepts=11))
    seen = frame[(frame["subject"] == "sub-01") | ~frame["concept"].str.startswith("train")]
    with pytest.raises(ValueError, match="subject 'sub-02' saw only 0 of the concepts"):
        make_folds(seen, Protocol(split_by="subject_concept", n_val=2, calibration_concepts=1))


def test_subject_and_concept_need_subjects_and_names_of_their_own() -> None:
    frame = table()
    with pytest.raises(ValueError, match="needs at least 2 subjects, got"):
        make_folds(frame[frame["subject"] == "sub-01"], Protocol(split_by="subject_concept", n_val=2))
    frame["subject"] = frame["subject"].replace({"sub-01": "a", "sub-02": "a_b"})
    frame["concept"] = frame["concept"].replace({"train0": "b_x", "train1": "x"})
    with pytest.raises(ValueError, match="'a_b_x' names two pairs of subject and concept"):
        make_folds(frame, Protocol(split_by="subject_concept", n_val=2))
    both = table()
    both.loc[both["picture"] == "train0/1", "partition"] = "test"
    with pytest.raises(ValueError, match="a concept must be in train or in test"):
        make_folds(both, Protocol(split_by="subject_concept", n_val=2))
