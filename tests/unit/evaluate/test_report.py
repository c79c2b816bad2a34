"""The report: nothing without its chance, nothing from the network, stages add to one another."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from eegdecode.batch import SourceFact, TargetFact
from eegdecode.config import Protocol
from eegdecode.evaluate import page, plots
from eegdecode.evaluate.calibration import calibrate
from eegdecode.evaluate.ceiling import noise_ceiling
from eegdecode.evaluate.certainty import CalibrationFact, CeilingFact
from eegdecode.evaluate.contrast import ClassScore, ContrastScore, class_report, contrast_report
from eegdecode.evaluate.report import (
    AnchorScore,
    DataFact,
    FoldTraining,
    ReconstructionScore,
    Report,
    SearchFact,
    ServingFact,
    concerns,
    load_report,
    render,
    write_report,
)
from eegdecode.evaluate.retrieval import (
    Control,
    RepetitionPoint,
    RetrievalScore,
    retrieval_report,
    score_matrix,
)

N = 60


def decoded(noise: float, seed: int = 0) -> tuple[RetrievalScore, np.ndarray]:
    rng = np.random.default_rng(seed)
    gallery_GD = rng.normal(size=(N, 48))
    z_QD = np.concatenate([gallery_GD + noise * rng.normal(size=gallery_GD.shape) for _ in range(2)])
    names = [f"pic-{i:03d}" for i in range(N)]
    scores_QG = score_matrix(z_QD, gallery_GD)
    score = retrieval_report(
        scores_QG, names, names * 2, ["sub-01"] * N + ["sub-02"] * N, names * 2, n_permutations=500, seed=1
    )
    return score, scores_QG


def synthetic_report(noise: float = 3.2) -> tuple[Report, dict[str, bytes]]:
    score, scores_QG = decoded(noise)
    curve = tuple(
        RepetitionPoint(
            repetitions=k, top1=t, ci95_top1=(t * 0.8, min(1.2 * t, 1)), ideal_observer_top1=min(2 * t + 0.05, 1)
        )
        for k, t in ((1, 0.04), (2, 0.09), (5, 0.17), (10, 0.26), (20, 0.34))
    )
    score = score.with_(
        ideal_observer_top1=0.78,
        ideal_observer_top5=0.96,
        ideal_observer_ci95=(0.72, 0.83),
        repetition_curve=curve,
        controls=(Control(name="signal power alone", value=0.02, chance=1 / N, ci95=(0.004, 0.05)),),
    )
    report = Report(
        recipe="demo",
        run_id="demo-0123456789ab",
        manifest_digest="ab" * 32,
        protocol=Protocol(),
        command="make demo",
        commit="0" * 40,
        date="2026-11-21",
        versions={"python": "3.11.9", "torch": "2.13.0", "numpy": "2.4.6"},
        data=DataFact(
            source=SourceFact(
                name="synthetic", licence="none needed", citation="this project", design="rapid", truth="picture"
            ),
            target=TargetFact(tower="gabor", layer="energies", revision="1", preprocessing="64 px, sRGB", dim=320),
            channels=tuple(f"E{i}" for i in range(63)),
            sfreq_hz=100.0,
            tmin_s=-0.2,
            n_times=100,
            n_trials=16923,
            n_pictures=2456,
            dropped={"above 250 µV": 101},
            findings=("sub-01 ses-01: 41 blinks",),
        ),
        training=(FoldTraining(fold="concepts", steps=600, kept_step=450, val_score=0.42, n_train=8000, n_val=900),),
        retrieval=score,
        seconds={"prepare": 44.0, "train": 180.2},
    )
    steps = list(range(600))
    rng = np.random.default_rng(0)
    losses = [5.5 * np.exp(-s / 300) + 0.5 + 0.2 * rng.normal() for s in steps]
    at = list(range(50, 601, 50))
    figures = {
        "retrieval_bars": plots.retrieval_bars(score),
        "repetition_curve": plots.repetition_curve(score),
        "similarity": plots.similarity_matrix(scores_QG[:N]),
        "training": plots.training_curves(
            [plots.Curve("concepts", steps, losses, at, [0.45 * (1 - np.exp(-s / 200)) for s in at], 450)]
        ),
    }
    return report, figures


def test_calibration_and_ceiling_have_their_sections_or_their_reasons() -> None:
    report, figures = synthetic_report()
    rng = np.random.default_rng(0)
    scores_QG, target_Q = rng.normal(size=(120, 10)), rng.integers(10, size=120)
    scores_QG[np.arange(120), target_Q] += 2
    names = np.array([f"c{i}" for i in range(60)])
    found = calibrate(
        scores_QG[:60], target_Q[:60], names, scores_QG[60:], target_Q[60:], np.char.add("t", names), seed=0
    )
    ceiling = noise_ceiling(rng.normal(size=(30, 1, 2)) + rng.normal(size=(30, 4, 2)), seed=0)
    told = report.with_section(
        calibration=CalibrationFact(result=found, repetitions=4), ceiling=CeilingFact(per_subject={"sub-01": ceiling})
    )
    assert "How sure it may be" not in render(report, figures)
    text = render(told, figures | {"reliability": plots.reliability(found)})
    assert page.FIGURES["reliability"] in text
    for number in (page.percent(found.calibrated.ece), page.interval(found.coverage.ci95), f"{ceiling.corrected:.3f}"):
        assert f"<td class=n>{number}</td>" in text
    assert Report.model_validate_json(told.model_dump_json()) == told
    without = report.with_section(
        calibration=CalibrationFact(reason="none held out."), ceiling=CeilingFact(reason="once.")
    )
    text = render(without, figures)
    assert "Not available: none held out." in text
    assert "Not available: once." in text


def drawn() -> tuple[ReconstructionScore, dict[str, bytes]]:
    rng = np.random.default_rng(3)
    rows = {
        name: [rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(8)]
        for name in ("shown", "drawn from EEG", "oracle", "random", "mean", "nearest training")
    }
    score = ReconstructionScore(
        n_pictures=200,
        two_way=0.731,
        ci95_two_way=(0.70, 0.76),
        p_permutation=0.001,
        two_way_random=0.503,
        two_way_oracle=0.941,
        pixcorr=0.214,
        ssim=0.322,
        features="gabor",
        anchors={
            name: AnchorScore(two_way=t, pixcorr=0.1, ssim=0.2)
            for name, t in (("oracle", 0.941), ("random", 0.503), ("mean", 0.5), ("nearest", 0.68))
        },
    )
    return score, {"contact_sheet": plots.contact_sheet(rows, [f"blob {i}" for i in range(8)])}


def muse_scores(effect: float) -> tuple[ContrastScore, ClassScore]:
    rng = np.random.default_rng(5)
    n_runs, n = 6, 60
    run_N = np.repeat([f"01_01_{i:02d}" for i in range(n_runs)], n)
    position_N = np.tile(np.arange(n), n_runs)
    positive_N = rng.random(n_runs * n) < 0.5

    def score(size: float) -> ContrastScore:
        return contrast_report(
            size * positive_N + rng.normal(size=len(run_N)),
            positive_N,
            run_N,
            run_N,
            position_N,
            labels=("house", "face"),
            split_by="run",
            permute="trials",
            n_permutations=400,
            seed=0,
        )

    classes = ("0°", "45°", "90°", "135°")
    shown_N = rng.choice(classes, len(run_N))
    named_N = np.where(rng.random(len(run_N)) < 0.3 * effect, shown_N, rng.choice(classes, len(run_N)))
    accuracy = class_report(
        named_N,
        shown_N,
        run_N,
        run_N,
        position_N,
        classes=classes,
        split_by="run",
        permute="trials",
        n_permutations=400,
        seed=0,
    )
    return score(effect).beside(baseline=score(effect), control=score(0)), accuracy


def text_of(page_html: str) -> str:
    body = re.sub(r"<style>.*?</style>", "", page_html, flags=re.S)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)))


def test_summary_has_the_promised_keys_and_round_trips(tmp_path: Path) -> None:
    report, figures = synthetic_report()
    write_report(str(tmp_path), report, figures)
    assert load_report(str(tmp_path)) == report
    retrieval = json.loads((tmp_path / "summary.json").read_text())["retrieval"]
    promised = {
        "n_way", "top1", "top5", "chance_top1", "ci95_top1", "p_permutation", "shuffled_top1", "ideal_observer_top1",
    }  # fmt: skip
    assert promised <= set(retrieval)
    assert retrieval["n_way"] == N
    assert retrieval["chance_top1"] == pytest.approx(1 / N)
    assert retrieval["ci95_top1"][0] <= retrieval["top1"] <= retrieval["ci95_top1"][1]


def test_later_stages_add_their_section_and_keep_the_figures(tmp_path: Path) -> None:
    report, figures = synthetic_report()
    write_report(str(tmp_path), report, figures)
    score, sheet = drawn()
    write_report(str(tmp_path), load_report(str(tmp_path)).with_section(reconstruction=score), sheet)
    search = SearchFact(trials=4, best={"schedule.lr": 1e-3, "loss.temperature": 0.04})
    final = load_report(str(tmp_path)).with_section(
        search=search,
        serving=ServingFact(requests=20, errors=0, p50_ms=412.0, equal_to_batch_job=True),
        seconds={"serve": 12.5},
    )
    write_report(str(tmp_path), final)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["retrieval"]["top1"] == report.retrieval.top1  # type: ignore[union-attr]
    assert summary["search"]["trials"] == 4
    assert summary["search"]["best"] == {"schedule.lr": 1e-3, "loss.temperature": 0.04}
    assert {"two_way", "two_way_random", "two_way_oracle", "pixcorr", "ssim"} <= set(summary["reconstruction"])
    assert {"requests", "errors", "p50_ms"} <= set(summary["serving"])
    assert summary["seconds"] == {"prepare": 44.0, "train": 180.2, "serve": 12.5}
    shown = (tmp_path / "report.html").read_text()
    assert shown.count("data:image/png;base64,") == len(figures) + len(sheet) == 5


def test_page_loads_nothing_and_gives_every_score_its_chance() -> None:
    report, figures = synthetic_report()
    score, sheet = drawn()
    contrast, classes = muse_scores(1.0)
    whole = render(report.with_section(reconstruction=score, contrast=contrast, classes=classes), figures | sheet)
    assert not re.search(r"<(script|link|iframe|object)", whole)
    assert not re.search(r"(src|href|url\()\s*=?\s*[\"']?(https?:)?//", whole)
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]+)"', whole))
    text = text_of(whole)
    for value in (report.retrieval.top1, report.retrieval.top5):  # type: ignore[union-attr]
        assert page.percent(value) in text
    assert f"chance {page.percent(1 / N)}" in text
    assert "best possible on these trials 78.0 %" in text
    assert f"{contrast.auc:.3f} ± {contrast.sd:.3f}" in text
    assert "permutations by trials, fixed decisions" in text
    assert f"chance {page.percent(classes.chance)}" in text
    assert "chance 50.0 %, oracle 94.1 %" in text
    assert "101: above 250 µV" in text
    # A table of scores without a column for chance would be a score without chance.
    for table in re.findall(r"<table>.*?</table>", whole, flags=re.S):
        if re.search("top-1|AUC|accuracy|2-way", table):
            assert "chance" in table


def test_names_from_data_are_escaped() -> None:
    report, _ = synthetic_report()
    evil = report.data.model_copy(update={"findings": ("<script>alert(1)</script>",)})
    assert "<script" not in render(report.with_section(data=evil), {})


def test_a_score_without_chance_interval_or_protocol_can_not_be_built() -> None:
    report, _ = synthetic_report()
    assert report.retrieval is not None
    for missing in ("chance_top1", "chance_top5", "chance_map", "ci95_top1", "p_permutation", "shuffled_top1"):
        fields = report.retrieval.model_dump()
        del fields[missing]
        with pytest.raises(ValidationError, match=missing):
            RetrievalScore.model_validate(fields)
    fields = report.model_dump()
    del fields["protocol"]
    with pytest.raises(ValidationError, match="protocol"):
        Report.model_validate(fields)
    contrast, classes = muse_scores(1.0)
    for score in (contrast, classes):
        fields = score.model_dump()
        del fields["ci95"]
        with pytest.raises(ValidationError, match="ci95"):
            type(score).model_validate(fields)


def test_near_chance_is_reported_as_near_chance() -> None:
    report, _ = synthetic_report(noise=1000.0)
    assert "can not be told from chance" in page.headline(report.model_dump(mode="json"))
    report, _ = synthetic_report(noise=3.2)
    assert "can not be told" not in page.headline(report.model_dump(mode="json"))


def test_concerns_name_what_a_control_found() -> None:
    report, _ = synthetic_report()
    assert concerns(report) == ()
    assert report.retrieval is not None
    leak = Control(name="window before the picture", value=0.2, chance=1 / N, ci95=(0.1, 0.3))
    assert "window before the picture" in concerns(
        report.with_section(retrieval=report.retrieval.with_(controls=(leak,)))
    )[0]  # fmt: skip
    beyond = report.retrieval.with_(ideal_observer_top1=0.01)
    assert "best possible observer" in concerns(report.with_section(retrieval=beyond))[0]


def test_a_block_design_is_said_whatever_the_split() -> None:
    report, _ = synthetic_report()
    assert not [said for said in concerns(report) if "Block design" in said]
    source = report.data.source.model_copy(update={"design": "block"})
    for split_by in ("concept", "picture", "run"):
        protocol = report.protocol.model_copy(update={"split_by": split_by})
        data = report.data.model_copy(update={"source": source})
        blocked = report.model_copy(update={"data": data, "protocol": protocol})
        assert [said for said in concerns(blocked) if said.startswith("Block design: pictures of one class")]
        assert "Block design: pictures of one class" in text_of(render(blocked, {}))


def test_the_page_says_what_is_ranked_and_learnt_from() -> None:
    report, _ = synthetic_report()
    assert f"ranked: the pictures shown, all {N} ·" in text_of(render(report, {}))
    few = Protocol(split_by="subject_concept", calibration_concepts=3, n_way=5)
    assert report.retrieval is not None
    text = text_of(render(report.with_section(protocol=few, retrieval=report.retrieval.with_(n_way=5)), {}))
    assert f"ranked: the pictures shown, 5 of {N} at a time: the exact mean over all draws of the others ·" in text
    assert "· 3 training concepts of the left-out subject are learnt from too (few-shot calibration) ·" in text


def test_unknown_figure_and_missing_summary_are_refused(tmp_path: Path) -> None:
    report, _ = synthetic_report()
    with pytest.raises(ValueError, match="figure 'pie' must be one of"):
        write_report(str(tmp_path), report, {"pie": b""})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="no summary"):
        load_report(str(tmp_path))
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(ValueError, match="must be a report of schema"):
        load_report(str(tmp_path))
