"""Test trials of folds ranked among the candidates that the protocol names, and the score of them all.

Shape letters: N trial, Q query, G gallery, P picture, D embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eegdecode.config import Experiment, Protocol
from eegdecode.data.shardset import ShardSet
from eegdecode.evaluate.retrieval import (
    RetrievalScore,
    average_repetitions,
    centre_scores,
    retrieval_report,
    score_matrix,
)
from eegdecode.runtime.tested import Tested
from eegdecode.train.fold import embedded_targets


@dataclass(frozen=True)
class Queries:
    """What was asked, and of which candidates.

    Attributes
    ----------
    gallery
        Labels of the candidates: pictures, or concepts where centres are ranked.
    shown_Q
        Label of the right candidate.
    """

    gallery: tuple[str, ...]
    shown_Q: NDArray[Any]
    subject_Q: NDArray[Any]
    concept_Q: NDArray[Any]
    fold_Q: NDArray[Any]
    repetitions_Q: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence["Queries"]) -> "Queries":
        """Return the queries of several folds, which rank one gallery."""
        names = ("shown_Q", "subject_Q", "concept_Q", "fold_Q", "repetitions_Q")
        return cls(parts[0].gallery, **{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


class Ranked:
    """Test trials of a fold ranked by its bundle, among the candidates that the protocol names."""

    def __init__(self, experiment: Experiment, shards: ShardSet, tested: Tested) -> None:
        self._experiment, self._tested = experiment, tested
        gallery, protocol = tested.bundle.gallery, experiment.protocol
        self._concept = dict(zip(gallery.pictures, gallery.concepts, strict=True))
        rows = np.zeros(0, np.int64)
        if protocol.gallery == "concept" and protocol.split_by == "picture":
            rows = np.unique(shards.picture_row[shards.trials_of(tested.fold, "train")]).astype(np.int64)
            rows = rows[[shards.picture_concepts[row] in set(gallery.concepts) for row in rows.tolist()]]
        elif protocol.n_way > len(gallery.pictures) and protocol.gallery == "picture":
            rows = self._distractors(shards)
        own = slice(0, 0 if protocol.gallery == "concept" and len(rows) else None)
        self._pictures = (*gallery.pictures[own], *(shards.picture_ids[row] for row in rows.tolist()))
        self._concepts = (*gallery.concepts[own], *(shards.picture_concepts[row] for row in rows.tolist()))
        more_PD = embedded_targets(tested.bundle.decoder, shards.target_PD[rows])
        self._target_PD = np.concatenate([gallery.target_PD[own], more_PD]) if len(rows) else gallery.target_PD

    def _distractors(self, shards: ShardSet) -> NDArray[np.int64]:
        """Return rows of training pictures, alike for all folds, that fill the gallery up to `n_way`."""
        protocol, gallery = self._experiment.protocol, self._tested.bundle.gallery
        table = shards.table
        training = np.unique(shards.picture_row[table["partition"].to_numpy(str) == "train"]).astype(np.int64)
        wanted = protocol.n_way - len(gallery.pictures)
        if wanted > len(training):
            raise ValueError(
                f"protocol.n_way must be at most {len(gallery.pictures) + len(training)}, the {len(gallery.pictures)} "
                f"test pictures and {len(training)} training pictures as distractors, got {protocol.n_way}."
            )
        drawn = np.random.default_rng([protocol.seed, protocol.n_way]).permutation(training)[:wanted]
        return np.sort(drawn)

    def scores(self, repetitions: int) -> tuple[NDArray[np.float32], Queries]:
        """Return scores (Q, G) where so many repetitions are averaged, and what was asked."""
        tested, experiment = self._tested, self._experiment
        averaged = average_repetitions(
            tested.eeg_uv_NCT,
            tested.table["picture"].to_numpy(str),
            tested.table["subject"].to_numpy(str),
            repetitions,
            experiment.protocol.seed,
        )
        z_QD = tested.reconstructor.embed(averaged.eeg_uv_QCT, subject=averaged.subject_Q.tolist())
        normalise = experiment.loss.normalise
        concept_Q = np.array([self._concept[p] for p in averaged.picture_Q])
        if experiment.protocol.gallery == "concept":
            labels, scores_QG = centre_scores(
                z_QD, self._target_PD, self._pictures, self._concepts, averaged.picture_Q, concept_Q, normalise
            )
            shown_Q = concept_Q
        else:
            labels, shown_Q = self._pictures, averaged.picture_Q
            scores_QG = score_matrix(z_QD, self._target_PD, normalise)
        fold_Q = np.full(len(shown_Q), tested.fold.name)
        return scores_QG, Queries(labels, shown_Q, averaged.subject_Q, concept_Q, fold_Q, averaged.repetitions_Q)


def answers_of(ranked: Sequence[Ranked], repetitions: int) -> tuple[NDArray[np.float32], Queries]:
    """Return the scores of every fold's queries, which rank one gallery, and what was asked.

    Raises
    ------
    ValueError
        Folds that rank different candidates.
    """
    parts = [one.scores(repetitions) for one in ranked]
    galleries = {queries.gallery for _, queries in parts}
    if len(galleries) != 1:
        raise ValueError("every fold must rank the same candidates: train all folds on one set, with one protocol.")
    return np.concatenate([scores_QG for scores_QG, _ in parts]), Queries.joined([part for _, part in parts])


def score_of(scores_QG: NDArray[np.float32], queries: Queries, protocol: Protocol) -> RetrievalScore:
    """Return the score of the queries of all folds together."""
    return retrieval_report(
        scores_QG,
        queries.gallery,
        queries.shown_Q,
        queries.subject_Q,
        queries.concept_Q,
        n_permutations=protocol.permutations,
        seed=protocol.seed,
        repetitions_Q=queries.repetitions_Q,
        fold_Q=queries.fold_Q if len(np.unique(queries.fold_Q)) > 1 else None,
        n_way=protocol.n_way,
    )
