"""Counts of what was taken for what."""

import io

import numpy as np
from PIL import Image

from eegdecode.evaluate import plots
from eegdecode.evaluate.confusions import Confusion, top_confusions
from eegdecode.evaluate.decisions import Decisions


def answered(*pairs: tuple[str, str]) -> Decisions:
    shown, named = zip(*pairs, strict=True)
    right = tuple(float(a == b) for a, b in pairs)
    return Decisions(
        run_id="r-1", gallery_digest="g", test_digest="t", picture=shown, subject=("s1",) * len(pairs),
        concept=tuple(f"of {p}" for p in shown), named=named, top1=right, top5=right,
    )  # fmt: skip


def test_the_most_frequent_mistake_comes_first_and_right_answers_are_counted() -> None:
    answers = answered(
        ("a", "a"), ("a", "c"), ("a", "b"), ("a", "c"), ("b", "b"), ("b", "b"), ("c", "a"), ("c", "a"), ("c", "a")
    )  # fmt: skip
    assert top_confusions(answers) == (
        Confusion(shown="c", concept="of c", n_queries=3, n_right=0, taken_for=(("a", 3),)),
        Confusion(shown="a", concept="of a", n_queries=4, n_right=1, taken_for=(("c", 2), ("b", 1))),
    )
    assert [one.shown for one in top_confusions(answers, n_pictures=1)] == ["c"]
    assert top_confusions(answered(("a", "a"))) == ()


def test_the_sheet_shows_each_picture_above_what_it_was_taken_for() -> None:
    answers = answered(("a", "b"), ("b", "b"))
    images = {"a": np.full((8, 8, 3), (200, 0, 0), np.uint8), "b": np.full((8, 8, 3), (0, 0, 200), np.uint8)}
    sheet = np.asarray(Image.open(io.BytesIO(plots.confusion_sheet(top_confusions(answers), images))))
    red, blue = ((sheet == colour).all(axis=2) for colour in ((200, 0, 0), (0, 0, 200)))
    assert red.sum() == blue.sum() == 96 * 96
    assert np.argwhere(red)[:, 0].max() < np.argwhere(blue)[:, 0].min()
