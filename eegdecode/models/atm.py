"""ATM-S: electrodes as tokens of one transformer layer, then NICE's convolutions (Li et al., NeurIPS 2024).

Published code: dongyangli-del/EEG_Image_decode@22c84ad (MIT). It has two faults, kept in `atm_published` alone: the
slice that should drop the subject's token keeps it and drops the last electrode; and one subject beyond the table sends
the whole batch to the shared token. Its convolutions are NICE's and run in NICE's reduced form.

Shape letters: B batch, C chan, T time, N token (subject, then electrodes), H head, M model width, S subject,
D embedding.
"""

import torch
from torch import nn
from torch.nn import functional

from eegdecode.models.eegproject import ProjectionHead
from eegdecode.models.nice import NiceTrunk

WIDTH, HEADS, FEEDFORWARD = 250, 4, 256
_HEAD_WIDTH = WIDTH // HEADS  # 62: queries, keys and values are 248 wide
_DROPOUT = 0.25  # published in the transformer; a smaller `dropout` of the encoder lowers it
_SHARED = 0.1
_PUBLISHED_SUBJECTS = 10


class SubjectToken(nn.Module):
    """One token per subject, and one that all others share.

    The shared one would never be learnt where every subject is in the table, so in training a tenth of the trials get
    it in place of their own.

    Parameters
    ----------
    n_subjects
        Rows of the table; 0 gives every trial the shared token.
    p_shared
        Share of training trials that get the shared token.
    """

    def __init__(self, n_subjects: int, p_shared: float) -> None:
        super().__init__()
        self.n_subjects, self.p_shared = n_subjects, p_shared
        self.shared_1M = nn.Parameter(torch.randn(1, WIDTH))
        if n_subjects:
            self.table_SM = nn.Parameter(torch.randn(n_subjects, WIDTH))

    def forward(self, n: int, subject_B: torch.Tensor | None) -> torch.Tensor:
        """Return the tokens (B, M) of n trials; a subject outside the table gets the shared one."""
        if subject_B is None or not self.n_subjects:
            return self.shared_1M.expand(n, -1)
        known_B = (subject_B >= 0) & (subject_B < self.n_subjects)
        if self.training and self.p_shared:
            known_B = known_B & (torch.rand(n, device=subject_B.device) >= self.p_shared)
        own_BM = self.table_SM[subject_B.clamp(0, self.n_subjects - 1)]
        return torch.where(known_B[:, None], own_BM, self.shared_1M)


class PublishedSubjectToken(SubjectToken):
    """The published rule: ids count from 1 in a table of ten from 0, and one id beyond it decides for the batch."""

    def forward(self, n: int, subject_B: torch.Tensor | None) -> torch.Tensor:
        """Return the tokens (B, M); subject_B counts from 0 here, as everywhere in this package."""
        if subject_B is not None and bool((subject_B + 1 >= self.n_subjects).any()):
            return self.shared_1M.expand(n, -1)
        return super().forward(n, None if subject_B is None else torch.where(subject_B < 0, subject_B, subject_B + 1))


class ChannelTransformer(nn.Module):
    """One encoder layer of iTransformer (Liu et al., ICLR 2024), in which an electrode's samples are its token."""

    def __init__(self, n_times: int, dropout: float, subject: SubjectToken) -> None:
        super().__init__()
        self.value = nn.Linear(n_times, WIDTH)
        self.subject = subject
        self.query, self.key, self.read = (nn.Linear(WIDTH, HEADS * _HEAD_WIDTH) for _ in range(3))
        self.write = nn.Linear(HEADS * _HEAD_WIDTH, WIDTH)
        self.norm_attention, self.norm_feedforward, self.norm = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.feedforward = nn.Sequential(
            nn.Linear(WIDTH, FEEDFORWARD),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(FEEDFORWARD, WIDTH),
            nn.Dropout(dropout),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, eeg_BCT: torch.Tensor, subject_B: torch.Tensor | None) -> torch.Tensor:
        """Return the tokens (B, N, M): the subject's, then one per electrode."""
        value_BCM = self.value(eeg_BCT)
        subject_BM = self.subject(len(eeg_BCT), subject_B).to(value_BCM.dtype)
        x_BNM = self.dropout(torch.cat([subject_BM[:, None], value_BCM], dim=1))
        x_BNM = self.norm_attention(x_BNM + self.dropout(self._attend(x_BNM)))
        out_BNM: torch.Tensor = self.norm(self.norm_feedforward(x_BNM + self.feedforward(x_BNM)))
        return out_BNM

    def _attend(self, x_BNM: torch.Tensor) -> torch.Tensor:
        parts = (layer(x_BNM).unflatten(2, (HEADS, _HEAD_WIDTH)) for layer in (self.query, self.key, self.read))
        query, key, value = (part.transpose(1, 2) for part in parts)  # (B, H, N, M / H)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout.p if self.training else 0.0
        )
        out_BNM: torch.Tensor = self.write(mixed.transpose(1, 2).flatten(2))
        return out_BNM


class Atm(nn.Module):
    """ATM-S with all electrodes kept; see `atm_published` for the published one.

    Parameters
    ----------
    n_chans, n_times, embed_dim
        C, T and D. A token is 250 wide whatever T is, so the convolutions see 250 samples as published.
    dropout
        After the convolutions and in the head, 0.5 as published; in the transformer no more than the published 0.25.
    n_subjects
        Subjects with a token of their own; 0 gives all the shared one.
    """

    first_token = 1

    def __init__(self, n_chans: int, n_times: int, embed_dim: int, dropout: float, n_subjects: int = 0) -> None:
        super().__init__()
        self.n_chans = n_chans
        self.transformer = ChannelTransformer(n_times, min(dropout, _DROPOUT), self._subject(n_subjects, dropout))
        self.trunk = NiceTrunk(n_chans, WIDTH, dropout)
        self.head = ProjectionHead(self.trunk.n_features, embed_dim, dropout)

    def forward(self, eeg_BCT: torch.Tensor, subject_B: torch.Tensor | None = None) -> torch.Tensor:
        """Return z_BD.

        Parameters
        ----------
        subject_B
            Rows of the table of subjects, from 0; a subject outside it, or None, takes the shared token.
        """
        tokens_BNM = self.transformer(eeg_BCT, subject_B)
        z_BD: torch.Tensor = self.head(self.trunk(tokens_BNM[:, self.first_token : self.first_token + self.n_chans]))
        return z_BD

    def _subject(self, n_subjects: int, dropout: float) -> SubjectToken:
        return SubjectToken(n_subjects, min(dropout, _SHARED))


class AtmPublished(Atm):
    """ATM-S as published: the subject's token in, the last electrode out, and the published rule for subjects.

    NeuroBridge's copy (AAAI 2026) is the same.
    """

    first_token = 0

    def _subject(self, n_subjects: int, dropout: float) -> SubjectToken:
        return PublishedSubjectToken(_PUBLISHED_SUBJECTS if n_subjects else 0, 0.0)
