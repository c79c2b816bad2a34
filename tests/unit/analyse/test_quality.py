"""Summaries of recordings, added, are those of all trials at once."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from eegdecode.analyse.quality import (
    RecordingSummary,
    SetSummary,
    choose_pictures,
    drop_kinds,
    merge,
    summarise,
)
from eegdecode.batch import Dropped

CHANNELS = ("Fz", "O1", "Oz", "A1")
SFREQ_HZ, TMIN_S, N_TIMES = 50.0, -0.1, 16
SUBJECTS = {"a": "01", "b": "01", "c": "02", "empty": "02", "d": "02"}
LENGTHS = {"a": 301, "b": 40, "c": 513, "empty": 0, "d": 1}


def recordings() -> dict[str, tuple[np.ndarray, pd.DataFrame]]:
    rng = np.random.default_rng(0)
    response = 3 * rng.standard_normal((20, len(CHANNELS), N_TIMES))
    made = {}
    for key, n in LENGTHS.items():
        shown = rng.integers(0, 20, n)
        eeg_NCT = 5 + response[shown] + [[1], [2], [3], [9]] * rng.standard_normal((n, len(CHANNELS), N_TIMES))
        table = pd.DataFrame(
            {
                "event": np.arange(n),
                "picture": [f"p{i:02d}" for i in shown],
                "concept": [f"c{i // 4}" for i in shown],
            }
        )
        made[key] = (eeg_NCT.astype(np.float32), table)
    return made


def summary(key: str, eeg_NCT: np.ndarray, table: pd.DataFrame, subject: str, **changes: object) -> RecordingSummary:
    given = {"channels": CHANNELS, "sfreq_hz": SFREQ_HZ, "tmin_s": TMIN_S, "tracked": [f"p{i:02d}" for i in range(12)]}
    return summarise(eeg_NCT, table, recording=key, subject=subject, **(given | changes))  # type: ignore[arg-type]


def merged() -> SetSummary:
    return merge(summary(key, *made, SUBJECTS[key]) for key, made in recordings().items())


def all_at_once() -> tuple[np.ndarray, pd.DataFrame]:
    made = recordings()
    table = pd.concat([t.assign(subject=SUBJECTS[key], recording=key) for key, (_, t) in made.items()])
    return np.concatenate([eeg for eeg, _ in made.values()]).astype(np.float64), table.reset_index(drop=True)


def test_response_and_interval_are_those_of_all_trials() -> None:
    found, (eeg_NCT, _) = merged(), all_at_once()
    assert found.electrodes.n == len(eeg_NCT) == 855
    np.testing.assert_allclose(found.electrodes.mean, eeg_NCT.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.electrodes.deviation, eeg_NCT.std(axis=0, ddof=1), rtol=1e-10)
    assert list(found.region_rows) == ["frontal", "occipital", "other"]
    occipital_NT = eeg_NCT[:, 1:3].mean(axis=1)
    np.testing.assert_allclose(found.regions.mean[1], occipital_NT.mean(axis=0), rtol=1e-10)
    low, high = stats.ttest_1samp(occipital_NT, 0).confidence_interval(0.95)
    np.testing.assert_allclose(found.regions.half_interval[1], (high - low) / 2, rtol=1e-8)


def test_plus_minus_average_field_power_and_noise_are_those_of_all_trials() -> None:
    found, (eeg_NCT, _) = merged(), all_at_once()
    plus_minus_CT = (eeg_NCT[0::2].mean(axis=0) - eeg_NCT[1::2].mean(axis=0)) / 2
    np.testing.assert_allclose(found.plus_minus_CT, plus_minus_CT, atol=1e-10)
    mean_CT = eeg_NCT.mean(axis=0)
    referenced_CT = mean_CT - mean_CT.mean(axis=0)
    np.testing.assert_allclose(found.field_power_T, np.sqrt((referenced_CT**2).mean(axis=0)), rtol=1e-10)
    np.testing.assert_allclose(found.noise_field_power_T, plus_minus_CT.std(axis=0), rtol=1e-8)
    assert found.noise_from == "baseline"
    assert found.baseline_T.sum() == 5
    before = eeg_NCT[:, :, :5].std(axis=0, ddof=1)
    np.testing.assert_allclose(found.noise_C, np.sqrt((before**2).mean(axis=1)), rtol=1e-10)


def test_noise_without_a_baseline_is_that_of_single_trials() -> None:
    rng = np.random.default_rng(1)
    noise_uv_C = np.array([2.0, 4.0, 8.0, 16.0])
    eeg_NCT = (30 + noise_uv_C[:, None] * rng.standard_normal((601, 4, 400))).astype(np.float32)
    table = pd.DataFrame({"event": range(601), "picture": "p00", "concept": "c"})
    found = merge([summary("a", eeg_NCT, table, "01", tmin_s=0.0)])
    assert found.noise_from == "plus-minus average"
    np.testing.assert_allclose(found.noise_C, noise_uv_C, rtol=0.1)


@pytest.mark.parametrize("n", [8, 9])
def test_plus_minus_average_of_a_constant_is_0(n: int) -> None:
    constant = np.broadcast_to(np.float32(7.25) + np.arange(N_TIMES, dtype=np.float32), (n, 4, N_TIMES))
    table = pd.DataFrame({"event": range(n), "picture": "p00", "concept": "c"})
    found = merge([summary("a", constant[:3], table[:3], "01"), summary("b", constant[3:], table[3:], "01")])
    np.testing.assert_array_equal(found.plus_minus_CT, 0)
    np.testing.assert_array_equal(found.noise_field_power_T, 0)


def test_halves_and_examples_are_those_of_all_trials() -> None:
    found, (eeg_NCT, table) = merged(), all_at_once()
    for subject, halves in found.halves.items():
        assert set(halves.pictures) <= {f"p{i:02d}" for i in range(12)}
        for picture, sum_2CT, count_2 in zip(halves.pictures, halves.sum_P2CT, halves.count_P2, strict=True):
            rows = np.flatnonzero((table["picture"] == picture) & (table["subject"] == subject))
            assert count_2.tolist() == [len(rows[0::2]), len(rows[1::2])]
            np.testing.assert_allclose(sum_2CT[0], eeg_NCT[rows[0::2]].sum(axis=0), rtol=1e-4, atol=1e-3)
            np.testing.assert_allclose(sum_2CT[1], eeg_NCT[rows[1::2]].sum(axis=0), rtol=1e-4, atol=1e-3)
    tracked = table[table["picture"] < "p12"]
    counts = tracked["picture"].value_counts()
    examples = found.examples(3)
    expected = sorted(counts.index, key=lambda p: (-counts[p], p))[:3]
    assert [(e.picture, e.n_trials) for e in examples] == [(p, counts[p]) for p in expected]
    np.testing.assert_allclose(
        examples[0].mean_CT, eeg_NCT[table["picture"] == expected[0]].mean(axis=0), rtol=1e-4, atol=1e-3
    )
    assert examples[0].concept == f"c{int(expected[0][1:]) // 4}"
    assert found.reliability is not None
    assert found.reliability.pictures_of == {"01": 12, "02": 12}
    assert found.reliability.window_low_R[1] > 0.5


def test_counts_and_facts() -> None:
    found, (_, table) = merged(), all_at_once()
    facts = json.loads(json.dumps(found.facts()))
    assert (facts["n_trials"], facts["n_recordings"], facts["n_subjects"]) == (855, 5, 2)
    assert (facts["n_pictures"], facts["n_concepts"]) == (20, 5)
    assert facts["trials_per_recording"] == {"min": 0, "median": 40.0, "max": 513}
    assert found.n_of_concept == table["concept"].value_counts().to_dict()
    per_picture = table.groupby(["subject", "picture"]).size()
    assert facts["repetitions_per_picture"]["max"] == per_picture.max()
    assert found.repetitions == per_picture.value_counts().sort_index().to_dict()
    assert facts["noise"]["from"] == "baseline"
    assert facts["noise"]["per_electrode"]["A1"]["region"] == "other"
    assert facts["noise"]["per_electrode"]["A1"]["value"] == pytest.approx(9, rel=0.15)
    occipital = facts["reliability"]["regions"]["occipital"]
    assert occipital["ci95"][0] < occipital["value"] < occipital["ci95"][1]
    assert facts["reliability"]["window_s"] == pytest.approx([0.06, 0.2])
    assert facts["field_power_peak"]["time_s"] > 0
    assert facts["field_power_peak"]["value"] > facts["field_power_peak"]["noise"]


def test_parts_that_do_not_belong_together_are_refused() -> None:
    (eeg_NCT, table), other = recordings()["b"], recordings()["a"]
    part = summary("b", eeg_NCT, table, "01")
    with pytest.raises(ValueError, match=r"same channels.*in b and .*in a"):
        merge([part, summary("a", *other, "01", channels=("Fz", "O1", "Oz", "A2"))])
    with pytest.raises(ValueError, match=r"number of times, got 16 in b and 10 in a"):
        merge([part, summary("a", other[0][:, :, :10], other[1], "01")])
    with pytest.raises(ValueError, match=r"b: .*twice"):
        merge([part, part])
    with pytest.raises(ValueError, match="at least 2 trials"):
        merge([summary("d", eeg_NCT[:1], table[:1], "01")])
    with pytest.raises(ValueError, match="at least 2 trials"):
        merge([])
    with pytest.raises(ValueError, match=r"b: trials must be .*40 rows.*3 electrodes, got \(40, 4, 16\)"):
        summary("b", eeg_NCT, table, "01", channels=CHANNELS[:3])
    broken = eeg_NCT.copy()
    broken[7, 1, 3] = np.nan
    with pytest.raises(ValueError, match=r"b: .*finite.*event 7"):
        summary("b", broken, table, "01")


def test_every_task_chooses_the_same_pictures_test_pictures_first() -> None:
    partitions = {f"train/{i}": "train" for i in range(500)} | {f"test/{i}": "test" for i in range(150)}
    assert choose_pictures(partitions) == tuple(sorted(p for p in partitions if p.startswith("test/")))
    many = {f"p{i}": "any" for i in range(5000)}
    chosen = choose_pictures(many)
    assert len(chosen) == 200
    assert choose_pictures(dict(reversed(many.items()))) == chosen
    assert np.mean([int(p[1:]) for p in chosen]) == pytest.approx(2500, abs=4 * 5000 / np.sqrt(12 * 200))
    assert len(choose_pictures({"a": "any", "b": "any"})) == 2
    few = {f"test/{i}": "test" for i in range(7)} | {f"train/{i}": "train" for i in range(300)}
    assert [p for p in choose_pictures(few) if p.startswith("test/")] == [f"test/{i}" for i in range(7)]
    assert len(choose_pictures(few)) == 200


def test_drops_are_grouped_without_their_numbers_and_electrodes() -> None:
    dropped = [
        Dropped(recording="a", event=3, reason="AF7 reaches 312 µV, more than 100"),
        Dropped(recording="a", event=9, reason="TP9 reaches 101.5 µV, more than 100"),
        Dropped(recording="b", event=1, reason="AF7 reaches 150 µV, more than 100"),
        Dropped(recording="b", event=2, reason="AF7 reaches 1e+03 µV, more than 100"),
        Dropped(recording="a", event=0, reason="window -0.2 to 0.8 s around 0.100 s reaches out of the recording"),
        Dropped(recording="c", event=0, reason="annotated BAD_jump2"),
    ]
    first, *rest = drop_kinds(dropped, ["TP9", "AF7", "AF"])
    assert (first.kind, first.n, first.n_recordings) == ("an electrode reaches … µV, more than …", 4, 2)
    assert first.electrodes == (("AF7", 3), ("TP9", 1))
    assert first.examples[0] == "a, event 3: AF7 reaches 312 µV, more than 100"
    assert len(first.examples) == 3
    assert [(kind.kind, kind.n) for kind in rest] == [
        ("annotated BAD_jump2", 1),
        ("window … to … s around … s reaches out of the recording", 1),
    ]
    assert sum(kind.n for kind in drop_kinds(dropped, [])) == 6
    assert drop_kinds([], ["AF7"]) == []


def test_a_summary_comes_back_from_its_bytes() -> None:
    for key, made in recordings().items():
        kept = summary(key, *made, SUBJECTS[key])
        again = RecordingSummary.from_bytes(kept.to_bytes())
        assert (again.recording, again.subject, again.channels) == (kept.recording, kept.subject, CHANNELS)
        assert (again.n_of_picture, again.concept_of) == (kept.n_of_picture, kept.concept_of)
        assert (again.electrodes.n, again.halves.pictures) == (kept.electrodes.n, kept.halves.pictures)
        np.testing.assert_array_equal(again.electrodes.squares, kept.electrodes.squares)
        np.testing.assert_array_equal(again.regions.mean, kept.regions.mean)
        np.testing.assert_array_equal(again.alternate_2CT, kept.alternate_2CT)
        np.testing.assert_array_equal(again.halves.sum_P2CT, kept.halves.sum_P2CT)
        np.testing.assert_array_equal(again.halves.count_P2, kept.halves.count_P2)
