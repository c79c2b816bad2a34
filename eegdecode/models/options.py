"""What may stand in front of any encoder: electrodes brought to a common montage, a layer per subject.

The interface of every encoder is `encoder(eeg_BCT) -> z_BD`. One that was built with an option for subjects also takes
`encoder(eeg_BCT, subject_B)`, rows of its table counted from 0; -1, a row beyond the table, or None is a subject that
training did not see.

Shape letters: B batch, C chan, V virtual chan, T time, S subject, H harmonic, D embedding.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from eegdecode.config import Encoder

_HARMONICS = 4
_START = 3.0  # standard deviation of the attention logits before training


@dataclass(frozen=True)
class EncoderOptions:
    """Options of an encoder beyond its sizes.

    Attributes
    ----------
    subject_layer
        `linear`: a linear map over time per subject in front (as in ENIGMA); `token`: a token per subject, for ATM.
    n_subjects
        Rows of the table of subjects; needed with either.
    virtual_chans
        V electrodes that attention over positions makes of the real ones, so that data sets with other montages share
        weights; 0 takes the electrodes as they are.
    positions_C3
        Positions of the electrodes in units of the head's radius; needed with `virtual_chans`.
    sfreq_hz
        Sampling rate; models of braindecode may ask for it.
    """

    subject_layer: Literal["none", "linear", "token"] = "none"
    n_subjects: int = 0
    virtual_chans: int = 0
    positions_C3: np.ndarray | None = None
    sfreq_hz: float = 0.0

    def __post_init__(self) -> None:
        if (self.subject_layer != "none") != (self.n_subjects > 0):
            raise ValueError(
                "encoder.subject_layer and the number of subjects go together, got "
                f"'{self.subject_layer}' and {self.n_subjects} subjects."
            )
        if (self.virtual_chans > 0) != (self.positions_C3 is not None):
            raise ValueError(
                "encoder.virtual_chans and positions of the electrodes go together, got "
                f"{self.virtual_chans} and {'no ' if self.positions_C3 is None else ''}positions."
            )


PLAIN = EncoderOptions()
"""The architecture and nothing around it."""


def options_of(
    encoder: Encoder, subjects: Sequence[str], positions_C3: np.ndarray | None, sfreq_hz: float
) -> EncoderOptions:
    """Return the options that an experiment's encoder asks for.

    Parameters
    ----------
    subjects
        The table of subjects: those of the training trials, empty where the encoder has no layer for them.
    positions_C3
        As `EncoderOptions` takes them; None without virtual electrodes.
    """
    return EncoderOptions(encoder.subject_layer, len(subjects), encoder.virtual_chans, positions_C3, sfreq_hz)


def subject_rows(table: Sequence[str], subjects: Iterable[object]) -> torch.Tensor | None:
    """Return each subject's row in a table of subjects, int64, -1 for others; None where there is no table."""
    row = {name: k for k, name in enumerate(table)}
    return torch.tensor([row.get(str(name), -1) for name in subjects], dtype=torch.int64) if row else None


class SubjectLinear(nn.Module):
    """A linear map over time for every subject, the identity before training.

    The layer of ENIGMA (Alljoined/ENIGMA@460af4b, MIT), which starts at random and fails on a subject that training did
    not see; here such a subject gets the mean of the maps.
    """

    def __init__(self, n_subjects: int, n_times: int) -> None:
        super().__init__()
        self.weight_STT = nn.Parameter(torch.eye(n_times).repeat(n_subjects, 1, 1))
        self.bias_ST = nn.Parameter(torch.zeros(n_subjects, n_times))

    def forward(self, eeg_BCT: torch.Tensor, subject_B: torch.Tensor | None) -> torch.Tensor:
        """Return the mapped EEG (B, C, T)."""
        n_subjects = len(self.weight_STT)
        maps = [
            *zip(self.weight_STT, self.bias_ST, strict=True),
            (self.weight_STT.mean(dim=0), self.bias_ST.mean(dim=0)),
        ]
        if subject_B is None:
            weight_TT, bias_T = maps[-1]
            mean_BCT: torch.Tensor = eeg_BCT @ weight_TT.T + bias_T
            return mean_BCT
        known_B = (subject_B >= 0) & (subject_B < n_subjects)
        which_B = torch.where(known_B, subject_B, n_subjects)
        # Subject by subject, since weights gathered per trial would be (B, T, T).
        rows = [(which_B == k).nonzero().squeeze(1) for k in range(n_subjects + 1)]
        mapped = [eeg_BCT[r] @ weight_TT.T + bias_T for r, (weight_TT, bias_T) in zip(rows, maps, strict=True)]
        in_order_BCT: torch.Tensor = torch.cat(mapped)[torch.cat(rows).argsort()]
        return in_order_BCT


class VirtualMontage(nn.Module):
    """Electrodes anywhere on the head -> V virtual ones, by attention over a Fourier embedding of positions.

    The spatial attention of Défossez et al., 2023, with positions in three dimensions in place of a flat head. Its
    weights do not depend on the number or order of electrodes; the positions are a buffer.

    Raises
    ------
    ValueError
        Positions that are not (C, 3), not finite or not in units of the head's radius.
    """

    fourier_CH: torch.Tensor

    def __init__(self, positions_C3: np.ndarray, virtual_chans: int) -> None:
        super().__init__()
        given = np.asarray(positions_C3, np.float64)
        if given.ndim != 2 or given.shape[1] != 3 or not np.isfinite(given).all() or np.abs(given).max() > 2:
            raise ValueError(
                "positions_C3 must be finite, (C, 3) and in units of the head's radius (about 1), got shape "
                f"{given.shape} up to {np.abs(given).max(initial=0):.3g}. Divide metres by the radius first."
            )
        waves_H3 = np.stack(np.meshgrid(*[np.arange(_HARMONICS)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        phase_CH = given @ waves_H3.T * (np.pi / 2)  # the longest wave spans four radii: no two places look alike
        fourier = np.concatenate([np.cos(phase_CH), np.sin(phase_CH)], axis=1)
        self.register_buffer("fourier_CH", torch.from_numpy(fourier.astype(np.float32)))
        self.weight_VH = nn.Parameter(torch.randn(virtual_chans, fourier.shape[1]) * _START / len(waves_H3) ** 0.5)

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return the virtual EEG (B, V, T)."""
        attention_VC = torch.softmax(self.weight_VH @ self.fourier_CH.T, dim=1)
        return attention_VC @ eeg_BCT


class WithOptions(nn.Module):
    """An encoder behind a common montage, a layer per subject, or both.

    Parameters
    ----------
    encoder
        Takes `subject_B` itself where `token` is set.
    """

    def __init__(
        self, encoder: nn.Module, montage: VirtualMontage | None, subject: SubjectLinear | None, token: bool
    ) -> None:
        super().__init__()
        self.montage = nn.Identity() if montage is None else montage
        self.subject = subject
        self.encoder = encoder
        self.token = token

    def forward(self, eeg_BCT: torch.Tensor, subject_B: torch.Tensor | None = None) -> torch.Tensor:
        """Return z_BD."""
        eeg_BCT = self.montage(eeg_BCT)
        if self.subject is not None:
            eeg_BCT = self.subject(eeg_BCT, subject_B)
        z_BD: torch.Tensor = self.encoder(eeg_BCT, subject_B) if self.token else self.encoder(eeg_BCT)
        return z_BD


_OF_ONE_DATA_SET = ("fourier_CH", "weight_STT", "bias_ST", "table_SM")


def take_over(encoder: nn.Module, state: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Start an encoder from the weights of another data set's; what belongs to one data set stays as it is.

    That are the positions of electrodes and the tables of subjects.

    Parameters
    ----------
    state
        State dict of an encoder with the same name and options.

    Returns
    -------
    Names that were not taken over.

    Raises
    ------
    ValueError
        Weights that are missing, too many or of another shape, as with other electrodes and no virtual ones.
    """
    own = encoder.state_dict()
    stays = tuple(sorted(name for name in own if name.rpartition(".")[2] in _OF_ONE_DATA_SET))
    wanted = {name: value.shape for name, value in own.items() if name not in stays}
    given = {name: value.shape for name, value in state.items() if name.rpartition(".")[2] not in _OF_ONE_DATA_SET}
    wrong = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"Pretrained weights must be those of the same encoder: '{name}' is {wanted.get(name)} here and "
            f"{given.get(name)} there ({len(wrong)} differ). With other electrodes set encoder.virtual_chans."
        )
    encoder.load_state_dict({**own, **{name: state[name] for name in wanted}})
    return stays
