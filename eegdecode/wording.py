"""What a protocol means, in plain words: what reports and model cards say beside every score."""

from eegdecode.config import Protocol

SPLIT = {
    "concept": "test concepts no decoder was trained on",
    "picture": "test pictures no decoder was trained on, of concepts that it was",
    "run": "leave one run out",
    "subject": "leave one subject out",
    "subject_concept": "leave one subject out, test concepts no decoder was trained on",
}
"""Way to divide -> what is new in the test part."""


def gallery_words(protocol: Protocol, n_shown: int, n_candidates: int) -> str:
    """Return what is ranked: which candidates, and how many of them at a time.

    Parameters
    ----------
    n_shown, n_candidates
        Candidates that some test trial showed, and all of them; 0 where that is not known.
    """
    if protocol.gallery == "picture":
        what = "the pictures shown"
    elif protocol.split_by == "picture":
        what = "class centres, means of the unit-norm targets of a class's training pictures"
    else:
        what = (
            "class centres, means of the unit-norm targets of a class's other test pictures (its one if it has but one)"
        )
    if not n_candidates:
        return what
    n_way = protocol.n_way or n_candidates
    if n_way < n_candidates:
        return f"{what}, {n_way} of {n_candidates} at a time: the exact mean over all draws of the others"
    if protocol.n_way and n_way > n_shown:
        return f"{what} ({n_shown}) and {n_way - n_shown} training pictures as distractors"
    return f"{what}, all {n_candidates}"


def learnt_words(protocol: Protocol) -> tuple[str, ...]:
    """Return what a decoder learnt from besides, or less than, the training part; empty where it is just that."""
    told = []
    if protocol.calibration_concepts:
        told.append(
            f"{protocol.calibration_concepts} training concepts of the left-out subject are learnt from too (few-shot "
            "calibration)"
        )
    if protocol.train_share < 1:
        told.append(f"learnt from a share of {protocol.train_share:.3g} of the training concepts")
    return tuple(told)
