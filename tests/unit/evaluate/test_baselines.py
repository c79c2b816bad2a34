from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from pyriemann.classification import MDM
from pyriemann.estimation import ERPCovariances, XdawnCovariances
from pyriemann.tangentspace import TangentSpace
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from eegdecode.config import Epochs, MuseData
from eegdecode.data.epochs import cut
from eegdecode.data.sources import open_source
from eegdecode.data.splits import group_of
from eegdecode.data.trials import Trials, join
from eegdecode.evaluate.baselines import N_PERMUTATIONS, FoldwiseLda, classifier_contrast, lda_classes, lda_decider
from eegdecode.evaluate.contrast import ClassScore, ContrastScore
from eegdecode.evaluate.covariance_baselines import RIEMANN, riemann_decisions

# The pack's README: whole run 1 to 30 Hz, epochs from sample -25 at 256 Hz, baseline up to the sample before the onset,
# 100 µV, every fourth sample.
CUT = Epochs(
    tmin_s=-25 / 256,
    tmax_s=127 / 256,
    baseline_s=(None, -1 / 256),
    l_freq_hz=1.0,
    h_freq_hz=30.0,
    filter="butterworth4",
    sfreq_hz=64.0,
    reject_uv=100.0,
)


@cache
def muse(data: Path, task: str, first: int, last: int, baseline: bool = True) -> Trials:
    """Cut a data set; first and last in samples of 256 Hz."""
    spec = CUT.model_copy(
        update={"tmin_s": first / 256, "tmax_s": last / 256, "baseline_s": CUT.baseline_s if baseline else None}
    )
    source = open_source(MuseData(task=task), str(data))  # type: ignore[arg-type]
    return join([cut(source.read(ref), spec) for ref in source.recordings()])


def gratings_frequency(trials: Trials, n_permutations: int) -> ContrastScore:
    fine = trials.table["picture"].str.startswith("sf4.1").to_numpy()
    run, position = group_of(trials.table, "run"), trials.table["position"].to_numpy()
    return classifier_contrast(
        lda_decider(trials.eeg_uv_NCT, run),
        fine,
        run,
        run,
        position,
        labels=("sf0.1", "sf4.1"),
        split_by="run",
        permute="positions",
        seed=0,
        n_permutations=n_permutations,
    )


def gratings_classes(trials: Trials, shown: np.ndarray, n_permutations: int) -> ClassScore:
    run, position = group_of(trials.table, "run"), trials.table["position"].to_numpy()
    return lda_classes(
        trials.eeg_uv_NCT,
        shown,
        run,
        run,
        position,
        split_by="run",
        permute="positions",
        seed=0,
        n_permutations=n_permutations,
    )


def n170(trials: Trials, split_by: str, n_permutations: int = 1) -> ContrastScore:
    face = (trials.table["picture"] == "face").to_numpy()
    run = group_of(trials.table, "run")
    fold = group_of(trials.table, split_by)  # type: ignore[arg-type]
    return classifier_contrast(
        lda_decider(trials.eeg_uv_NCT, fold),
        face,
        fold,
        run,
        trials.table["position"].to_numpy(),
        labels=("house", "face"),
        split_by=split_by,  # type: ignore[arg-type]
        permute="trials",
        seed=0,
        n_permutations=n_permutations,
    )


def test_real_gratings_reach_the_figures_of_the_pack(shared: Path) -> None:
    trials = muse(shared / "data", "gratings", -25, 127)
    assert trials.eeg_uv_NCT.shape == (240, 5, 39)
    score = gratings_frequency(trials, 200)
    assert score.auc == pytest.approx(0.959, abs=0.01)
    assert score.sd == pytest.approx(0.004, abs=0.005)
    assert score.p_permutation == pytest.approx(1 / 201)
    shown = trials.table["picture"].to_numpy()
    eight = gratings_classes(trials, shown, 40)
    assert eight.accuracy == pytest.approx(0.279, abs=0.01)
    assert eight.p_permutation < 0.05
    orientation = gratings_classes(trials, trials.table["picture"].str[-6:].to_numpy(), 40)
    assert orientation.accuracy == pytest.approx(0.287, abs=0.01)
    assert orientation.p_permutation > 0.1


def test_real_gratings_before_the_picture_are_at_chance(shared: Path) -> None:
    score = gratings_frequency(muse(shared / "data", "gratings", -256, -13, baseline=False), 40)
    assert score.auc == pytest.approx(0.489, abs=0.01)
    assert score.p_permutation > 0.2


def test_real_n170_reaches_the_figures_of_the_pack(shared: Path) -> None:
    trials = muse(shared / "data", "n170", -25, 203)
    assert len(trials.table) + len(trials.dropped) == 2577
    by_run = n170(trials, "run", 19)
    assert len(by_run.per_fold) == 14
    assert (by_run.auc, by_run.sd) == (pytest.approx(0.573, abs=0.01), pytest.approx(0.102, abs=0.01))
    assert by_run.p_permutation == pytest.approx(1 / 20)
    by_subject = n170(trials, "subject")
    assert (by_subject.auc, by_subject.sd) == (pytest.approx(0.569, abs=0.01), pytest.approx(0.127, abs=0.01))
    assert by_subject.per_fold == {
        "sub-01": pytest.approx(0.487, abs=0.01),
        "sub-02": pytest.approx(0.527, abs=0.01),
        "sub-03": pytest.approx(0.407, abs=0.01),
        "sub-10": pytest.approx(0.760, abs=0.01),
        "sub-11": pytest.approx(0.666, abs=0.01),
    }
    assert by_subject.trials_per_fold["sub-10"] == 20


def test_real_n170_before_the_picture_is_at_chance(shared: Path) -> None:
    score = n170(muse(shared / "data", "n170", -128, -1, baseline=False), "run")
    assert (score.auc, score.sd) == (pytest.approx(0.522, abs=0.01), pytest.approx(0.069, abs=0.01))


def made(n_classes: int, n: int = 90, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(n_classes, size=n)
    eeg = rng.normal(0, 10, (n, 3, 7)) + 100
    eeg[:, 1, 3] += 8 * label
    eeg[:, 2] += rng.normal(0, 30, (n, 1))
    return eeg, label, np.repeat(["a", "b", "c"], n // 3)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_equals_scikit_learn_fold_by_fold(n_classes: int) -> None:
    eeg, label, fold = made(n_classes)
    classes = tuple(range(n_classes))
    got = FoldwiseLda(eeg, fold).decide(label, classes)
    x = eeg.reshape(len(eeg), -1)
    for name in "abc":
        test = fold == name
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x[~test], label[~test])
        want = lda.decision_function(x[test])
        if n_classes == 2:
            np.testing.assert_allclose(got[test, 1] - got[test, 0], want, rtol=1e-8, atol=1e-10)
        else:
            np.testing.assert_allclose(got[test] - got[test][:, :1], want - want[:, :1], rtol=1e-8, atol=1e-10)


def test_training_on_permuted_labels_uses_those_labels_only() -> None:
    eeg, label, fold = made(2)
    lda = FoldwiseLda(eeg, fold)
    before = lda.decide(label, (0, 1))
    other = np.random.default_rng(5).permutation(label)
    np.testing.assert_array_equal(lda.decide(other, (0, 1)), FoldwiseLda(eeg, fold).decide(other, (0, 1)))
    np.testing.assert_array_equal(lda.decide(label, (0, 1)), before)


def test_own_trials_never_train_their_decision() -> None:
    eeg, label, fold = made(2)
    lda = FoldwiseLda(eeg, fold)
    flipped = np.where(fold == "b", 1 - label, label)
    own = fold == "b"
    np.testing.assert_allclose(lda.decide(label, (0, 1))[own], lda.decide(flipped, (0, 1))[own], rtol=1e-7)
    assert not np.allclose(lda.decide(label, (0, 1))[~own], lda.decide(flipped, (0, 1))[~own])


def test_an_order_that_repeats_passes_the_run_null_but_not_the_position_null() -> None:
    # The value is the position in the run, the labels come in one order: position gives the label away.
    rng = np.random.default_rng(3)
    position = np.tile(np.arange(20), 3)
    label = np.tile(rng.permutation(np.repeat([False, True], 10)), 3)
    basis = rng.normal(size=(20, 8))
    eeg = (basis[position] + 0.05 * rng.normal(size=(60, 8)))[:, None, :]
    run = np.repeat(["r1", "r2", "r3"], 20)
    p = {
        how: classifier_contrast(
            lda_decider(eeg, run),
            label,
            run,
            run,
            position,
            labels=("x", "y"),
            split_by="run",
            permute=how,
            seed=0,
            n_permutations=100,
        ).p_permutation
        for how in ("trials", "positions")
    }
    assert p["trials"] < 0.05 < p["positions"]


def test_what_lda_can_not_do_is_said() -> None:
    eeg, label, fold = made(2)
    with pytest.raises(ValueError, match="at least two folds"):
        FoldwiseLda(eeg, np.repeat("a", len(eeg)))
    with pytest.raises(ValueError, match="one fold per trial"):
        FoldwiseLda(eeg, fold[:-1])
    with pytest.raises(ValueError, match="two training trials of each class, got 0 of '7'"):
        FoldwiseLda(eeg, fold).decide(label, (0, 1, 7))
    eeg[4, 0, 0] = np.inf
    with pytest.raises(ValueError, match="trial 4 is not"):
        FoldwiseLda(eeg, fold)


def few_trials() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """60 trials of 4 electrodes in 3 runs, in half of them one response more."""
    rng = np.random.default_rng(7)
    positive_N, run_N = np.arange(60) % 2 == 1, np.repeat(["a", "b", "c"], 20)
    eeg_NCT = rng.normal(size=(60, 4, 40)) * np.array([1.0, 3.0, 2.0, 5.0])[:, None]
    eeg_NCT[positive_N] += 0.8 * np.outer([1.0, 2.0, 0.5, -1.0], np.sin(np.arange(40) / 4))
    return eeg_NCT, positive_N, run_N


def test_xdawn_is_the_pipeline_of_pyriemann_fold_by_fold() -> None:
    eeg_NCT, positive_N, run_N = few_trials()
    name = "xDAWN covariances (2 filters), tangent space, logistic regression"
    found_N = riemann_decisions(RIEMANN[name], eeg_NCT, positive_N, run_N)
    aucs = {}
    for run in "abc":
        train_N = run_N != run
        covariances = XdawnCovariances(nfilter=2, estimator="oas", xdawn_estimator="oas")
        train_NMM = covariances.fit_transform(eeg_NCT[train_N], positive_N[train_N].astype(int))
        space = TangentSpace().fit(train_NMM)
        classifier = LogisticRegression(max_iter=1000).fit(space.transform(train_NMM), positive_N[train_N])
        wanted_N = classifier.decision_function(space.transform(covariances.transform(eeg_NCT[~train_N])))
        assert found_N[~train_N] == pytest.approx(wanted_N, abs=1e-8)
        aucs[run] = roc_auc_score(positive_N[~train_N], wanted_N)
    score = classifier_contrast(
        partial(riemann_decisions, RIEMANN[name], eeg_NCT, fold_N=run_N),
        positive_N,
        run_N,
        run_N,
        np.tile(np.arange(20), 3),
        labels=("low", "high"),
        split_by="run",
        permute="trials",
        seed=0,
        n_permutations=N_PERMUTATIONS,
        refitted=False,
    )
    assert score.per_fold == pytest.approx(aucs)
    assert score.auc == pytest.approx(np.mean(list(aucs.values())))
    assert score.auc > 0.8
    assert score.null == "fixed decisions"


def test_the_distance_to_means_is_that_of_pyriemann() -> None:
    eeg_NCT, positive_N, run_N = few_trials()
    found_N = riemann_decisions(RIEMANN["ERP covariances, minimum distance to mean"], eeg_NCT, positive_N, run_N)
    train_N = run_N != "b"
    covariances = ERPCovariances(estimator="oas").fit(eeg_NCT[train_N], positive_N[train_N].astype(int))
    classifier = MDM().fit(covariances.transform(eeg_NCT[train_N]), positive_N[train_N].astype(int))
    assert np.array_equal(
        found_N[~train_N] > 0, classifier.predict(covariances.transform(eeg_NCT[~train_N])).astype(bool)
    )


@pytest.mark.parametrize("name", RIEMANN)
def test_no_test_trial_enters_a_fit(name: str) -> None:
    """Other test trials and other labels of theirs leave the decision on the one that stays as it was."""
    eeg_NCT, positive_N, run_N = few_trials()
    before_N = riemann_decisions(RIEMANN[name], eeg_NCT, positive_N, run_N)
    changed_NCT, told_N = eeg_NCT.copy(), positive_N.copy()
    changed_NCT[41:] = 30 * np.random.default_rng(1).normal(size=(19, 4, 40))
    told_N[40:] = ~told_N[40:]
    after_N = riemann_decisions(RIEMANN[name], changed_NCT, told_N, run_N)
    assert after_N[40] == before_N[40]
    assert not np.allclose(after_N[:40], before_N[:40])  # where they are training trials they count
