"""Encoders: EEG (B, C, T) in, embedding (B, D) out; one architecture per file."""

from collections.abc import Callable

from torch import nn

from eegdecode.models.atm import Atm, AtmPublished
from eegdecode.models.deepnet import DeepNet
from eegdecode.models.eegnet import EEGNet
from eegdecode.models.eegproject import EEGProject, NeuroBridgeEncoder
from eegdecode.models.eegtransformer import EEGTransformer
from eegdecode.models.from_braindecode import PREFIX, BraindecodeEncoder
from eegdecode.models.linear import LinearMap
from eegdecode.models.nice import Nice
from eegdecode.models.nice_spatial import nice_ga, nice_sa
from eegdecode.models.options import PLAIN, EncoderOptions, SubjectLinear, VirtualMontage, WithOptions
from eegdecode.models.riemann import riemann, riemann_erp, riemann_samples
from eegdecode.models.shallownet import ShallowNet
from eegdecode.models.spectrogram import scalogram, spectrogram
from eegdecode.models.tsconv import TSConv, tsconv_ubp

ENCODERS: dict[str, Callable[[int, int, int, float], nn.Module]] = {
    "linear": LinearMap,
    "riemann": riemann,
    "riemann_erp": riemann_erp,
    "riemann_samples": riemann_samples,
    "mlp": EEGProject,
    "neurobridge": NeuroBridgeEncoder,
    "nice": Nice,
    "nice_sa": nice_sa,
    "nice_ga": nice_ga,
    "atm": Atm,
    "atm_published": AtmPublished,
    "tsconv": TSConv,
    "tsconv_ubp": tsconv_ubp,
    "eegnet": EEGNet,
    "shallownet": ShallowNet,
    "deepnet": DeepNet,
    "eegtransformer": EEGTransformer,
    "spectrogram": spectrogram,
    "scalogram": scalogram,
}
"""Name in `config.Encoder` to (n_chans, n_times, embed_dim, dropout) -> encoder; besides, `braindecode:<model>`."""

_WITH_TOKEN: dict[str, type[Atm]] = {"atm": Atm, "atm_published": AtmPublished}


def build_encoder(
    name: str, n_chans: int, n_times: int, embed_dim: int, dropout: float, options: EncoderOptions = PLAIN
) -> nn.Module:
    """Return a new encoder; without options it is the architecture and nothing around it.

    Raises
    ------
    ValueError
        An unknown name, trials that do not suit the encoder, positions for another number of electrodes, or a token per
        subject for an encoder that has none.
    """
    if name not in ENCODERS and not name.startswith(PREFIX):
        raise ValueError(f"encoder.name must be one of {sorted(ENCODERS)} or '{PREFIX}<model>', got '{name}'.")
    token = options.subject_layer == "token"
    if token and name not in _WITH_TOKEN:
        raise ValueError(f"encoder.subject_layer='token' needs one of {sorted(_WITH_TOKEN)}, got '{name}'.")
    montage = None
    if options.positions_C3 is not None:
        if len(options.positions_C3) != n_chans:
            raise ValueError(
                f"positions_C3 must have one row for each of {n_chans} electrodes, got {len(options.positions_C3)}."
            )
        montage = VirtualMontage(options.positions_C3, options.virtual_chans)
        n_chans = options.virtual_chans
    encoder: nn.Module
    if name.startswith(PREFIX):
        model = name.removeprefix(PREFIX)
        encoder = BraindecodeEncoder(model, n_chans, n_times, embed_dim, dropout, options.sfreq_hz)
    elif token:
        encoder = _WITH_TOKEN[name](n_chans, n_times, embed_dim, dropout, options.n_subjects)
    else:
        encoder = ENCODERS[name](n_chans, n_times, embed_dim, dropout)
    subject = SubjectLinear(options.n_subjects, n_times) if options.subject_layer == "linear" else None
    if montage is None and subject is None:
        return encoder
    return WithOptions(encoder, montage, subject, token)
