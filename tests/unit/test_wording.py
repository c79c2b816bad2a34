"""What pages and cards say of a protocol: which candidates are ranked, and what was learnt from."""

from dataclasses import replace
from pathlib import Path

import pytest

from eegdecode import bundle, hub
from eegdecode.config import Protocol
from eegdecode.wording import gallery_words, learnt_words
from tests.writers.bundles import toy_bundle


@pytest.mark.parametrize(
    ("changes", "n_shown", "n_candidates", "said"),
    [
        ({}, 200, 200, "the pictures shown, all 200"),
        ({"n_way": 200}, 200, 200, "the pictures shown, all 200"),
        (
            {"n_way": 50},
            200,
            200,
            "the pictures shown, 50 of 200 at a time: the exact mean over all draws of the others",
        ),
        ({"n_way": 1000}, 200, 1000, "the pictures shown (200) and 800 training pictures as distractors"),
        (
            {"gallery": "concept", "split_by": "picture"},
            40,
            40,
            "class centres, means of the unit-norm targets of a class's training pictures, all 40",
        ),
        (
            {"gallery": "concept", "n_way": 10},
            40,
            40,
            "class centres, means of the unit-norm targets of a class's other test pictures (its one if it has but "
            "one), 10 of 40 at a time: the exact mean over all draws of the others",
        ),
        ({"n_way": 50}, 0, 0, "the pictures shown"),
    ],
)
def test_candidates_are_named_and_counted(
    changes: dict[str, object], n_shown: int, n_candidates: int, said: str
) -> None:
    assert gallery_words(Protocol(**changes), n_shown, n_candidates) == said


def test_what_was_learnt_from_besides_or_less() -> None:
    assert learnt_words(Protocol()) == ()
    few = Protocol(split_by="subject_concept", calibration_concepts=5, train_share=0.25)
    assert learnt_words(few) == (
        "5 training concepts of the left-out subject are learnt from too (few-shot calibration)",
        "learnt from a share of 0.25 of the training concepts",
    )


def test_a_card_says_the_same(tmp_path: Path) -> None:
    made = toy_bundle()
    protocol = Protocol(split_by="subject_concept", calibration_concepts=5, n_way=2)
    fold = made.fact.fold.model_copy(update={"by": "subject_concept"})
    experiment = made.experiment.model_copy(update={"protocol": protocol})
    fact = made.fact.model_copy(update={"fold": fold})
    bundle.save(str(tmp_path), replace(made, experiment=experiment, fact=fact))
    hub.write_card(str(tmp_path))
    card = (tmp_path / "README.md").read_text()
    assert "leave one subject out, test concepts no decoder was trained on; 5 training concepts of the left-out" in card
    assert "- scores rank the pictures shown, 2 of 3 at a time: the exact mean over all draws of the others" in card
