"""The page says what it must, holds everything it shows and leaves nothing behind."""

import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from eegdecode.analyse import quality_plots as plots
from eegdecode.analyse.quality import SetSummary, choose_pictures, merge, summarise
from eegdecode.analyse.quality_page import concerns, write_quality
from eegdecode.batch import Dropped, SourceFact
from eegdecode.data.epochs import cut
from eegdecode.data.sources.muse import MuseSource
from eegdecode.recipes import muse_gratings

CAP = ("Fp1", "fz", "CZ", "C3", "T7", "TP9", "P3", "POz", "O1", "oz", "E1")
MUSE = ("TP9", "AF7", "AF8", "TP10")
SOURCE = SourceFact(name="a <b>", licence="free", citation="nobody & co", design="rapid", truth="picture")
N_TIMES = 30


class Page(HTMLParser):
    """Tags that are open, images, links, and the text between tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.links: list[str | None] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attrs)
        self.links += [found[name] for name in ("src", "href", "srcset", "action") if name in found]
        if tag == "img":
            self.images.append(found)
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " " if tag in ("td", "th", "h3", "p", "span", "b") else ""

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def summary(
    channels: tuple[str, ...] = CAP, unit: str = "uV", tmin_s: float = -0.1, n_pictures: int = 10
) -> SetSummary:
    rng = np.random.default_rng(0)
    response = 2 * rng.standard_normal((n_pictures, len(channels), N_TIMES))
    parts = []
    for key, subject in (("r1", "01"), ("r2", "02")):
        shown = np.tile(np.arange(n_pictures), 4)
        eeg_NCT = response[shown] + rng.standard_normal((len(shown), len(channels), N_TIMES))
        table = pd.DataFrame({"event": range(len(shown)), "picture": [f"p{i}" for i in shown], "concept": "thing"})
        part = summarise(
            eeg_NCT.astype(np.float32),
            table,
            recording=key,
            subject=subject,
            channels=channels,
            sfreq_hz=100.0,
            tmin_s=tmin_s,
            tracked=choose_pictures({f"p{i}": "any" for i in range(n_pictures)}),
            unit=unit,  # type: ignore[arg-type]
        )
        parts.append(part)
    return merge(parts)


def page(found: SetSummary, source: SourceFact = SOURCE, dropped: tuple[Dropped, ...] = ()) -> str:
    return write_quality(
        found,
        source=source,
        dropped=dropped,
        findings=["run 7 was left out: a copy"],
        folds={"concepts": {"test": 12, "train": 34, "val": 5}},
        pictures=[(example, Image.new("RGB", (640, 300), "red")) for example in found.examples()],
    )


DROPPED = tuple(
    Dropped(recording=recording, event=i, reason=reason)
    for i, (recording, reason) in enumerate(
        [("r1", "CZ reaches 120 µV, more than 100"), ("r1", "CZ reaches 130 µV, more than 100"), ("r9", "marked <bad>")]
    )
)


@pytest.fixture(scope="module")
def html() -> str:
    return page(summary(), dropped=DROPPED)


def test_page_is_one_file_that_fetches_and_runs_nothing(html: str) -> None:
    read = Page(html)
    assert read.open == []
    assert "script" not in read.tags
    assert len(read.images) == 6 + 2 * 6
    assert all(link is not None and link.startswith("data:image/png;base64,") for link in read.links)
    assert all(len(image["alt"] or "") > 15 for image in read.images)
    assert not re.search(r"https?:|url\(|@import", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))
    assert plt.get_fignums() == []
    assert page(summary(), dropped=DROPPED) == html


def test_page_says_counts_reasons_and_chance(html: str) -> None:
    found = summary()
    text = " ".join(Page(html).text.split())
    assert "80 trials of 10 pictures from 2 subjects; 3 more (3.6 %) were left out." in text
    assert "2 in 1 recording: an electrode reaches … µV, more than …" in text
    assert "1 in 1 recording: marked <bad>" in text
    assert "r1, event 1: CZ reaches 130 µV, more than 100" in text
    assert "Electrodes: CZ 2." in text
    assert re.search(r"fold train val test concepts 34 5 12", text)
    assert re.search(r"r1 01 40 2 4\.8 r2 02 40 0 0 r9 – 0 1 100", text)
    assert "Chance is 0" in text
    assert found.reliability is not None
    row = found.reliability.regions.index("occipital")
    expected = [getattr(found.reliability, f"window_{name}")[row] for name in ("R", "low_R", "high_R")]
    assert "occipital {:.3f} {:.3f} to {:.3f} 0".format(*expected) in text
    assert "run 7 was left out: a copy" in text
    assert "a <b>, rapid design" in text
    assert "Read this first" not in text


def test_block_design_and_class_truth_are_said_at_the_top() -> None:
    source = SOURCE.model_copy(update={"design": "block", "truth": "class"})
    text = " ".join(Page(page(summary(), source)).text.split())
    top = text[: text.index("Why trials were left out")]
    assert "pictures of one class were shown together. A decoder can tell the classes by slow drifts" in top
    assert "need the block controls" in top
    assert "Only the class of the picture is known" in top
    assert "80 trials of 10 classes of pictures" in top


def test_concerns_name_what_is_wrong() -> None:
    found = summary()
    assert concerns(found, SOURCE, ()) == []
    many = [Dropped(recording="r1", event=i, reason="bad") for i in range(20)]
    assert concerns(found, SOURCE, many) == ["20 % of the trials were left out; the reasons are below."]
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"event": range(40), "picture": [f"p{i % 10}" for i in range(40)], "concept": "thing"})
    eeg_NCT = rng.standard_normal((40, 4, N_TIMES)).astype(np.float32)
    eeg_NCT[:, 2] *= 9
    common = {"subject": "01", "channels": MUSE, "sfreq_hz": 100.0, "tmin_s": 0.0, "tracked": set(table["picture"])}
    parts = [
        summarise(eeg_NCT[:n], table[:n], recording=key, **common)  # type: ignore[arg-type]
        for key, n in (("r1", 40), ("r2", 0))
    ]
    said = concerns(merge(parts), SOURCE, ())
    assert said[0] == "No trial is left of 1 recording: r2."
    assert said[1] == "AF8: more than 3 times the median noise of the electrodes."
    assert said[2].startswith("In no region does the response of single electrodes to a picture repeat beyond chance")


def test_electrodes_without_a_place_are_bars(html: str) -> None:
    assert plots.placed(CAP) == dict(enumerate(["Fp1", "Fz", "Cz", "C3", "T7", "TP9", "P3", "POz", "O1", "Oz"]))
    assert plots.placed(MUSE) == {}
    assert plots.placed([f"C{i}" for i in range(1, 33)]) == {}
    alts = [image["alt"] or "" for image in Page(html).images]
    assert any(alt.startswith("Map of the head with the noise of 10 electrodes") for alt in alts)
    assert any(alt.startswith("Noise of each electrode: E1 ") for alt in alts)
    muse = [image["alt"] or "" for image in Page(page(summary(MUSE))).images]
    assert not any(alt.startswith("Map") for alt in muse)
    assert any(re.match(r"Noise of each electrode: TP9 .*AF7 .*AF8 .*TP10 ", alt) for alt in muse)


def test_units_and_missing_baseline_are_said(html: str) -> None:
    text = Page(page(summary(unit="whitened", tmin_s=0.0))).text
    assert "noise, whitened units" in text
    assert "µV" not in text
    assert "plus-minus average (every other trial" in text
    assert "Dashed: onset" not in text
    text = Page(html).text
    assert "before the picture (−0.1 to −0.01 s)" in text
    assert "Dashed: onset" in text


def test_too_few_pictures_are_said_and_not_scored() -> None:
    text = " ".join(Page(page(summary(n_pictures=3))).text.split())
    assert "needs 8 of them; here there are at most 3." in text
    assert "Split-half" not in text


@pytest.mark.parametrize(("channels", "rows"), [(MUSE, [0, 1, 2, 3]), (CAP, [6, 7, 8, 9])])
def test_single_responses_are_drawn_of_the_back_of_the_head(channels: tuple[str, ...], rows: list[int]) -> None:
    assert plots.shown_electrodes(channels) == rows


def test_real_gratings_drive_the_occipital_electrode(shared: Path) -> None:
    experiment = muse_gratings()
    source = MuseSource(experiment.data.source, str(shared / "data"))  # type: ignore[arg-type]
    tracked = choose_pictures({p.picture: p.partition for p in source.pictures()})
    parts = []
    for ref in source.recordings():
        trials = cut(source.read(ref), experiment.data.epochs)
        parts.append(
            summarise(
                trials.eeg_uv_NCT,
                trials.table.assign(concept=trials.table["picture"]),
                recording=ref.key,
                subject=ref.subject,
                channels=trials.channels,
                sfreq_hz=trials.sfreq_hz,
                tmin_s=trials.tmin_s,
                tracked=tracked,
            )
        )
    found = merge(parts)
    facts = found.facts()
    assert (facts["n_trials"], facts["n_pictures"], facts["repetitions_per_picture"]["min"]) == (240, 8, 30)
    assert facts["reliability"]["regions"]["occipital"]["ci95"][0] > 0.3
    assert 0.1 < facts["field_power_peak"]["time_s"] < 0.2
    assert facts["field_power_peak"]["value"] > 10 * facts["field_power_peak"]["noise"]
    before_T = found.times_s < 0
    assert found.field_power_T[before_T].mean() < 3 * found.noise_field_power_T[before_T].mean()
