"""Which of n pictures was seen? From embeddings of test trials to a score with chance, interval and control.

Everything here is inductive: a query never sees another query. Pairs are made by id, never by row number.
Shape letters: N trial, Q query, G gallery, L label, D embedding, S subject, U concept.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import stats

from eegdecode import metrics
from eegdecode.config import Section
from eegdecode.evaluate.statistics import (
    Floats,
    Interval,
    Ints,
    bootstrap_interval,
    label_hits,
    pairing_null,
    permutation_p,
    two_way_interval,
)

Share = Annotated[float, Field(ge=0, le=1)]
Chance = Annotated[float, Field(gt=0, le=1)]


class Control(Section):
    """Something that must land on chance, and whether it did."""

    name: str
    value: Share
    chance: Chance
    ci95: Interval


class PartScore(Section):
    """One subject or fold."""

    n_queries: int
    top1: Share
    top5: Share
    map: Share
    ci95_top1: Interval | None = None


class RepetitionPoint(Section):
    """Top-1 where so many repetitions are averaged before the decoder."""

    repetitions: int
    top1: Share
    ci95_top1: Interval
    ideal_observer_top1: Share | None = None


class RetrievalScore(Section):
    """n-way top-k retrieval; the mean over subjects, with everything it takes to judge it."""

    n_way: int
    n_candidates: int = 0
    """Of which galleries of `n_way` are drawn; 0 in reports of earlier releases."""
    n_shown: int = 0
    """Candidates that are right in some query; the others are distractors, or lost their trials."""
    gallery_digest: str = ""
    """sha256 of the candidates' labels, whatever their order; empty in reports of earlier releases."""
    n_queries: int
    n_subjects: int
    repetitions: float
    """Mean number of repetitions averaged into a query."""
    top1: Share
    top5: Share
    map: Share
    chance_top1: Chance
    chance_top5: Chance
    chance_map: Chance
    ci95_top1: Interval
    ci95_top5: Interval
    ci95_top1_people: Interval | None = None
    """Of top-1, subjects drawn as well: for new people and new concepts; None for one subject."""
    resampled: str
    """What the interval was drawn over, for example `200 concepts`."""
    p_permutation: Share
    n_permutations: int
    shuffled_top1: Share
    """Mean over random pairings of the same EEG with the same pictures; belongs on chance."""
    shuffled_ci95: Interval
    per_subject: dict[str, PartScore]
    per_fold: dict[str, PartScore] = Field(default_factory=dict)
    ideal_observer_top1: Share | None = None
    ideal_observer_top5: Share | None = None
    ideal_observer_ci95: Interval | None = None
    repetition_curve: tuple[RepetitionPoint, ...] = ()
    controls: tuple[Control, ...] = ()

    def with_(self, **fields: Any) -> "RetrievalScore":
        """Return a validated copy with fields set (ideal observer, curve, controls)."""
        return type(self).model_validate(self.model_dump() | fields)


@dataclass(frozen=True)
class Averaged:
    """Test trials after averaging repetitions: one row a query.

    Attributes
    ----------
    eeg_uv_QCT
        Mean over repetitions (any trailing shape).
    picture_Q, subject_Q
        What was shown to whom.
    repetitions_Q
        How many trials each mean is of.
    """

    eeg_uv_QCT: NDArray[np.float32]
    picture_Q: NDArray[Any]
    subject_Q: NDArray[Any]
    repetitions_Q: Ints


def average_repetitions(
    eeg_uv_NCT: NDArray[Any], picture_N: NDArray[Any], subject_N: NDArray[Any], k: int = 0, seed: int = 0
) -> Averaged:
    """Average repetitions of one picture in one subject, before the decoder as the field does.

    Parameters
    ----------
    k
        Repetitions in each mean; 0: all of them, 1: single trials. With `k` below their number a picture gives
        several means over different trials, each trial in one mean at most; the rest of a division is left out.
    seed
        Decides which trials come together, for each subject and picture by itself.

    Raises
    ------
    ValueError
        A picture with fewer than `k` trials.
    """
    picture_N, subject_N = np.asarray(picture_N), np.asarray(subject_N)
    if not len(eeg_uv_NCT) == len(picture_N) == len(subject_N) or k < 0:
        raise ValueError(
            "averaging needs one picture and subject per trial and k of at least 0, got "
            f"{len(eeg_uv_NCT)}, {len(picture_N)}, {len(subject_N)} and k={k}."
        )
    groups: dict[tuple[Any, Any], list[int]] = {}
    for row, key in enumerate(zip(subject_N.tolist(), picture_N.tolist(), strict=True)):
        groups.setdefault(key, []).append(row)
    means, keys, counts = [], [], []
    for (subject, picture), rows in sorted(groups.items()):
        size = k or len(rows)
        if len(rows) < size:
            raise ValueError(
                f"picture '{picture}' of subject '{subject}' must have at least {size} trials to average, "
                f"got {len(rows)}. Set protocol.test_repetitions to that or less, or to 0 for all there are."
            )
        text = f"{seed}|{subject}|{picture}".encode()
        order = np.random.default_rng(int.from_bytes(hashlib.sha256(text).digest()[:8], "little")).permutation(rows)
        for start in range(0, len(rows) - size + 1, size):
            means.append(np.asarray(eeg_uv_NCT[np.sort(order[start : start + size])], np.float32).mean(axis=0))
            keys.append((subject, picture))
            counts.append(size)
    return Averaged(
        eeg_uv_QCT=np.stack(means).astype(np.float32),
        picture_Q=np.array([picture for _, picture in keys]),
        subject_Q=np.array([subject for subject, _ in keys]),
        repetitions_Q=np.array(counts, np.int64),
    )


def candidates(
    kind: Literal["picture", "concept"], target_PD: NDArray[Any], pictures: Sequence[str], concepts: Sequence[str]
) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Return labels and targets that are ranked: the pictures shown, or one mean of unit-norm targets per concept."""
    unit_PD = _unit(target_PD, "gallery target")
    if kind == "picture":
        return tuple(pictures), unit_PD
    names = tuple(sorted(set(concepts)))
    concept_P = np.asarray(concepts)
    return names, _unit(np.stack([unit_PD[concept_P == name].mean(axis=0) for name in names]), "concept centre")


def centre_scores(
    z_QD: NDArray[Any],
    target_PD: NDArray[Any],
    pictures: Sequence[str],
    concepts: Sequence[str],
    shown_Q: Sequence[str] | NDArray[Any],
    concept_Q: Sequence[str] | NDArray[Any],
    normalise: Literal["both", "target"] = "both",
) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Return concepts (U) and scores (Q, U) against their centres: means of the unit-norm targets of their pictures.

    The picture of a query takes no part in the centre of its concept, or its own target would be half of the answer
    where there are two. Where every concept has the one picture that is shown, that is its centre, as NICE's galleries
    are rebuilt where its further photographs are in no recording.

    Parameters
    ----------
    target_PD, pictures, concepts
        The pictures that centres are of, P of them.
    shown_Q, concept_Q
        Picture and concept of each query.

    Raises
    ------
    ValueError
        Some concepts with one picture, which is shown, and some with several: the former had no centre.
    """
    unit_PD = _unit(target_PD, "gallery target")
    names, concept_P, count_U = np.unique(np.asarray(concepts), return_inverse=True, return_counts=True)
    labels, centre_UD = candidates("concept", target_PD, pictures, concepts)
    scores_QU = score_matrix(z_QD, centre_UD, normalise)
    if (count_U == 1).all():
        return labels, scores_QU
    row = {picture: k for k, picture in enumerate(pictures)}
    place = {name: u for u, name in enumerate(names.tolist())}
    sum_UD = np.stack([unit_PD[concept_P == u].sum(axis=0) for u in range(len(names))])
    for q, (picture, concept) in enumerate(zip(np.asarray(shown_Q), np.asarray(concept_Q), strict=True)):
        if picture not in row:
            continue
        u = place[concept]
        if count_U[u] == 1:
            raise ValueError(
                f"a centre needs a picture beside the one shown, and concept '{concept}' has '{picture}' alone while "
                f"others have several. Leave the concept out, or set protocol.gallery='picture'."
            )
        own_D = sum_UD[u] - unit_PD[row[picture]]
        scores_QU[q, u] = score_matrix(z_QD[q : q + 1], own_D[None], normalise)[0, 0]
    return labels, scores_QU


def score_matrix(
    z_QD: NDArray[Any], gallery_GD: NDArray[Any], normalise: Literal["both", "target"] = "both"
) -> NDArray[np.float32]:
    """Return scores (Q, G): cosine; with `target` the projection on unit-norm candidates, which ranks the same."""
    left_QD = _unit(z_QD, "predicted embedding") if normalise == "both" else np.asarray(z_QD, np.float32)
    gallery_GD = _unit(gallery_GD, "gallery target")
    if left_QD.shape[1] != gallery_GD.shape[1]:
        raise ValueError(
            f"queries and gallery must have one width, got {left_QD.shape[1]} and {gallery_GD.shape[1]}: "
            "the gallery was made by another tower than the decoder's."
        )
    return np.asarray(left_QD @ gallery_GD.T, np.float32)


def retrieval_report(
    scores_QG: NDArray[Any],
    gallery: Sequence[str],
    shown_Q: Sequence[str] | NDArray[Any],
    subject_Q: Sequence[str] | NDArray[Any],
    concept_Q: Sequence[str] | NDArray[Any],
    *,
    n_permutations: int,
    seed: int,
    repetitions_Q: Ints | None = None,
    fold_Q: Sequence[str] | NDArray[Any] | None = None,
    unit: str = "concepts",
    n_way: int = 0,
) -> RetrievalScore:
    """Score a matrix of queries against candidates; the headline is the mean over subjects.

    Parameters
    ----------
    gallery, shown_Q
        Label of each candidate, and of the picture shown in each query. A label on several candidates: any is right.
    concept_Q, unit
        What the interval resamples, drawn alike for all subjects, and its name.
    n_way
        Size of the galleries the score is of, 0: all candidates. With fewer, every query is ranked among n - 1 others
        drawn at random; each of its scores is the exact mean over all such draws, so no draw decides.

    Raises
    ------
    ValueError
        A picture shown that is no candidate, scores that are not finite, lengths that differ, an `n_way` above the
        candidates or with several candidates of one label.
    """
    hits = {k: _hits(scores_QG, gallery, shown_Q, k, n_way) for k in (1, 5)}
    shown_L, label_G = np.unique(np.asarray(gallery), return_inverse=True)
    index_Q = np.searchsorted(shown_L, np.asarray(shown_Q))
    subject_Q, concept_Q = np.asarray(subject_Q), np.asarray(concept_Q)
    relevant_QG = label_G[None, :] == index_Q[:, None]
    weight_Q = _equal_subjects(subject_Q)
    own = {k: hits_QL[np.arange(len(index_Q)), index_Q] for k, hits_QL in hits.items()}
    null_R = pairing_null(hits[1], index_Q, weight_Q, n_permutations, seed)
    top1 = float(own[1] @ weight_Q)
    scores_QG = np.asarray(scores_QG)
    n_way = n_way or len(label_G)
    precision_Q = None
    if n_way < len(label_G):
        precision_Q = _of_galleries(scores_QG, n_way, lambda above: 1 / (1 + above))[
            np.arange(len(index_Q)), _columns(gallery, shown_Q)
        ]

    def part(rows: Ints, interval: bool) -> PartScore:
        return PartScore(
            n_queries=len(rows),
            top1=_share(own[1][rows].mean()),
            top5=_share(own[5][rows].mean()),
            map=_share(
                precision_Q[rows].mean()
                if precision_Q is not None
                else metrics.mean_average_precision(scores_QG[rows], relevant_QG[rows])
            ),
            ci95_top1=_interval(own[1][rows], concept_Q[rows], subject_Q[rows], seed) if interval else None,
        )

    per_subject = {str(s): part(np.flatnonzero(subject_Q == s), True) for s in np.unique(subject_Q)}
    folds = {} if fold_Q is None else {str(f): np.flatnonzero(np.asarray(fold_Q) == f) for f in np.unique(fold_Q)}
    n_relevant_Q = relevant_QG.sum(axis=1)
    return RetrievalScore(
        n_way=n_way,
        n_candidates=len(label_G),
        n_shown=len(np.unique(index_Q)),
        gallery_digest=gallery_digest(gallery),
        n_queries=len(index_Q),
        n_subjects=len(per_subject),
        repetitions=1.0 if repetitions_Q is None else float(np.mean(repetitions_Q)),
        top1=_share(top1),
        top5=_share(own[5] @ weight_Q),
        map=_share(np.mean([score.map for score in per_subject.values()])),
        chance_top1=_over_counts(n_relevant_Q, weight_Q, lambda m: metrics.chance_top_k(n_way, 1, m)),
        chance_top5=_over_counts(n_relevant_Q, weight_Q, lambda m: metrics.chance_top_k(n_way, 5, m)),
        chance_map=_over_counts(n_relevant_Q, weight_Q, lambda m: metrics.chance_average_precision(n_way, m)),
        ci95_top1=_interval(own[1], concept_Q, subject_Q, seed),
        ci95_top5=_interval(own[5], concept_Q, subject_Q, seed),
        ci95_top1_people=(
            two_way_interval(*_tables(own[1], concept_Q, subject_Q), seed=seed) if len(per_subject) > 1 else None
        ),
        resampled=f"{len(np.unique(concept_Q))} {unit}",
        p_permutation=permutation_p(top1, null_R),
        n_permutations=n_permutations,
        shuffled_top1=_share(null_R.mean()),
        shuffled_ci95=(_share(np.quantile(null_R, 0.025)), _share(np.quantile(null_R, 0.975))),
        per_subject=per_subject,
        per_fold={name: part(rows, False) for name, rows in folds.items()},
    )


def gallery_digest(gallery: Sequence[str]) -> str:
    """Return the sha256 of the labels of the candidates, in sorted order, each as often as it comes."""
    return hashlib.sha256(json.dumps(sorted(map(str, gallery))).encode()).hexdigest()


def check_comparable(first: RetrievalScore, second: RetrievalScore) -> None:
    """Refuse to hold two scores against each other that answer different questions.

    Raises
    ------
    ValueError
        Another number of candidates, other candidates, or another number of repetitions averaged.
    """
    for field, what in (
        ("n_way", "the same number of candidates"),
        ("gallery_digest", "the same candidates"),
        ("repetitions", "the same number of repetitions averaged"),
    ):
        ours, theirs = getattr(first, field), getattr(second, field)
        if ours != theirs or ours == "":
            raise ValueError(
                f"scores that are compared must have {what}, got {field} {ours or 'unknown'} and "
                f"{theirs or 'unknown'}. Score both runs again under one protocol."
            )


def repetition_point(
    repetitions: int,
    scores_QG: NDArray[Any],
    gallery: Sequence[str],
    shown_Q: Sequence[str] | NDArray[Any],
    subject_Q: Sequence[str] | NDArray[Any],
    concept_Q: Sequence[str] | NDArray[Any],
    *,
    seed: int,
    ideal_observer_top1: float | None = None,
    n_way: int = 0,
) -> RepetitionPoint:
    """Return one point of the curve of top-1 against the number of repetitions averaged; see `retrieval_report`."""
    own_Q = own_hits(scores_QG, gallery, shown_Q, 1, n_way)
    subject_Q, concept_Q = np.asarray(subject_Q), np.asarray(concept_Q)
    return RepetitionPoint(
        repetitions=repetitions,
        top1=_share(own_Q @ _equal_subjects(subject_Q)),
        ci95_top1=_interval(own_Q, concept_Q, subject_Q, seed),
        ideal_observer_top1=ideal_observer_top1,
    )


def own_hits(scores_QG: NDArray[Any], gallery: Sequence[str], shown_Q: Any, k: int, n_way: int = 0) -> Floats:
    """Return (Q,): 1 where the picture shown is among the k best, 0 where not, the expected share where scores tie.

    With `n_way` the expected share over all galleries of that size, see `retrieval_report`.
    """
    index = {label: i for i, label in enumerate(np.unique(np.asarray(gallery)).tolist())}
    hits_QL = _hits(scores_QG, gallery, shown_Q, k, n_way)
    own_Q: Floats = hits_QL[np.arange(len(hits_QL)), [index[label] for label in np.asarray(shown_Q).tolist()]]
    return own_Q


def control_from(name: str, score: RetrievalScore) -> Control:
    """Return a retrieval that must fail (signal power, a window before the picture) as a control."""
    return Control(name=name, value=score.top1, chance=score.chance_top1, ci95=score.ci95_top1)


def _hits(scores_QG: NDArray[Any], gallery: Sequence[str], shown_Q: Any, k: int, n_way: int = 0) -> Floats:
    scores_QG, shown = np.asarray(scores_QG), np.asarray(shown_Q)
    if scores_QG.ndim != 2 or scores_QG.shape != (len(shown), len(gallery)) or not len(shown):
        raise ValueError(
            f"scores must be (queries, candidates), got {scores_QG.shape} for {len(shown)} and {len(gallery)}."
        )
    if not np.isfinite(scores_QG).all():
        q, g = np.argwhere(~np.isfinite(scores_QG))[0]
        raise ValueError(f"scores must be finite, got {scores_QG[q, g]} for query {q} against '{gallery[g]}'.")
    labels, label_G = np.unique(np.asarray(gallery), return_inverse=True)
    missing = sorted(set(shown.tolist()) - set(labels.tolist()))
    if missing:
        raise ValueError(f"every picture shown must be a candidate, '{missing[0]}' is not ({len(missing)} missing).")
    if n_way in (0, len(gallery)):
        return label_hits(scores_QG, label_G.astype(np.int64), len(labels), k)
    if not 2 <= n_way < len(gallery) or len(labels) != len(gallery):
        raise ValueError(
            f"a score in galleries of n_way needs 2 to {len(gallery)} of them, each candidate with a label of its own, "
            f"got n_way={n_way} and {len(labels)} labels. Set protocol.n_way, or 0 for all candidates."
        )
    hits_QG = _of_galleries(scores_QG, n_way, lambda above: (above < k).astype(np.float64))
    return hits_QG[:, np.argsort(label_G)]


def _columns(gallery: Sequence[str], shown_Q: Any) -> Ints:
    """Return the candidate of each query's own label."""
    column = {label: g for g, label in enumerate(gallery)}
    return np.array([column[label] for label in np.asarray(shown_Q).tolist()], np.int64)


def _of_galleries(scores_QG: NDArray[Any], n_way: int, value: Callable[[Ints], Floats]) -> Floats:
    """Return (Q, G): the mean value of each candidate over all galleries of it and n - 1 of the other candidates.

    How many of those stand above it is hypergeometric, so the mean needs the candidate's place alone. Equal scores
    stand in a random order, in expectation.

    Parameters
    ----------
    value
        Of the number of candidates above.
    """
    n_others, drawn = scores_QG.shape[1] - 1, n_way - 1
    above_W = np.arange(n_way)
    chance_GW = stats.hypergeom.pmf(above_W[None, :], n_others, np.arange(n_others + 1)[:, None], drawn)
    # Sums over places, so that the mean over tied places is a difference of two.
    total_G = np.concatenate([[0.0], np.cumsum(chance_GW @ value(above_W))])
    mean_QG = np.empty(scores_QG.shape)
    for q, row_G in enumerate(np.asarray(scores_QG, np.float64)):
        sorted_G = np.sort(row_G)
        first_G = len(row_G) - np.searchsorted(sorted_G, row_G, side="right")
        last_G = len(row_G) - np.searchsorted(sorted_G, row_G, side="left")
        mean_QG[q] = (total_G[last_G] - total_G[first_G]) / (last_G - first_G)
    return mean_QG


def _equal_subjects(subject_Q: NDArray[Any]) -> Floats:
    """Weights of the queries that make their sum the mean over subjects."""
    _, index_Q, count_S = np.unique(subject_Q, return_inverse=True, return_counts=True)
    weight_Q: Floats = 1 / (count_S[index_Q] * len(count_S))
    return weight_Q


def _interval(own_Q: Floats, concept_Q: NDArray[Any], subject_Q: NDArray[Any], seed: int) -> Interval:
    sum_SU, count_SU = _tables(own_Q, concept_Q, subject_Q)

    def mean_over_subjects(weight_RU: Floats) -> Floats:
        count_RS = weight_RU @ count_SU.T
        share_RS = np.divide(weight_RU @ sum_SU.T, count_RS, out=np.full(count_RS.shape, np.nan), where=count_RS > 0)
        return np.asarray(np.nanmean(share_RS, axis=1))

    low, high = bootstrap_interval(mean_over_subjects, sum_SU.shape[1], seed=seed)
    return _share(low), _share(high)


def _tables(own_Q: Floats, concept_Q: NDArray[Any], subject_Q: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return sum of hits and number of queries of each subject and concept, (S, U)."""
    concepts, concept_of_Q = np.unique(concept_Q, return_inverse=True)
    subjects, subject_of_Q = np.unique(subject_Q, return_inverse=True)
    sum_SU, count_SU = np.zeros((2, len(subjects), len(concepts)))
    np.add.at(sum_SU, (subject_of_Q, concept_of_Q), own_Q)
    np.add.at(count_SU, (subject_of_Q, concept_of_Q), 1)
    return sum_SU, count_SU


def _over_counts(n_relevant_Q: Ints, weight_Q: Floats, chance: Callable[[int], float]) -> float:
    """Mean chance over queries that have different numbers of right candidates."""
    by_count = {int(m): chance(int(m)) for m in np.unique(n_relevant_Q)}
    return _share(np.dot(weight_Q, [by_count[int(m)] for m in n_relevant_Q]))


def _share(value: Any) -> float:
    """Clip rounding: a sum of 200 weights may be 1 + 2e-16."""
    return float(np.clip(value, 0, 1))


def _unit(x_ND: NDArray[Any], what: str) -> NDArray[np.float32]:
    x_ND = np.asarray(x_ND, np.float32)
    norm_N = np.linalg.norm(x_ND, axis=1, keepdims=True)
    if not np.isfinite(norm_N).all() or (norm_N == 0).any():
        row = int(np.flatnonzero(~np.isfinite(norm_N[:, 0]) | (norm_N[:, 0] == 0))[0])
        raise ValueError(f"every {what} must have a finite length above 0, row {row} has {float(norm_N[row, 0])}.")
    return np.asarray(x_ND / norm_N, np.float32)
