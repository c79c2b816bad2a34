"""What a client may send: `.npy` bytes checked to the last one before anything is allocated, and errors that help.

No Ray and no torch here, so that every refusal is tested without them.
"""

import hmac
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256

import numpy as np
from numpy.lib import format as npy

MAX_HEADER_BYTES = 1024
_MAGIC = b"\x93NUMPY"


class RequestError(Exception):
    """A request that is refused, as RFC 9457 problem details plus what was expected.

    Attributes
    ----------
    status
        HTTP status, 4xx.
    title, detail
        Kind of the problem; what came, in this request.
    expected
        What must be sent instead.
    """

    def __init__(self, status: int, title: str, detail: str, expected: str) -> None:
        super().__init__(f"{status} {title}: {detail} Expected: {expected}")
        self.status, self.title, self.detail, self.expected = status, title, detail, expected

    def problem(self) -> dict[str, object]:
        """Return the body of the answer."""
        return {
            "type": "about:blank",
            "status": self.status,
            "title": self.title,
            "detail": self.detail,
            "expected": self.expected,
        }


_NAMES = {
    "uV": "microvolt",
    "whitened": "noise-normalised units (whitened by the session's training trials)",
    "scaled": "interquartile ranges of each electrode",
}


@dataclass(frozen=True)
class ModelFact:
    """What a served model is and takes; plain values, so that the HTTP side needs no torch.

    Attributes
    ----------
    bundle, digest
        Address and digest of the bundle.
    channels, n_times, sfreq_hz, tmin_s
        Of the trials: electrodes in order, samples, rate, and time of the first sample relative to the picture.
    concepts, pictures
        Size of the gallery.
    draws
        Whether there is a drawer; without one only concepts are returned.
    """

    bundle: str
    digest: str
    recipe: str
    fold: str
    channels: tuple[str, ...]
    n_times: int
    sfreq_hz: float
    tmin_s: float
    target: str
    concepts: int
    pictures: int
    draws: bool
    plausible_uv: tuple[float, float]
    unit: str = "uV"
    """Of the trials: `uV`, or what the shard set's preparation made of it (`whitened`, `scaled`), which is then the
    sender's to do."""
    subjects: tuple[str, ...] = ()
    """Those for whom the decoder has learnt something of their own."""

    def public(self) -> dict[str, object]:
        """Return what `GET /v1/models` tells; the bundle's address stays inside."""
        return {name: value for name, value in asdict(self).items() if name != "bundle"}


def check_token(header: str | None, token_hashes: Sequence[str]) -> None:
    """Raise RequestError 401 if an Authorization header carries none of the tokens with these sha256 digests."""
    expected = "Authorization: Bearer <token>."
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise RequestError(401, "No token", "The request has no bearer token.", expected)
    digest = sha256(token.strip().encode()).hexdigest()
    # Every hash is compared, each in constant time: how long it takes tells nothing.
    if not any([hmac.compare_digest(digest, known) for known in token_hashes]):
        raise RequestError(401, "Wrong token", "The bearer token is not known here.", expected)


def check_rate(sfreq_hz: str | None, fact: ModelFact) -> None:
    """Raise RequestError 422 if the client did not state the rate that the bundle was trained at."""
    expected = f"sfreq_hz={fact.sfreq_hz:g}; resample the trials to that rate first."
    if sfreq_hz is None:
        raise RequestError(422, "No sampling rate", "The query parameter sfreq_hz is missing.", expected)
    try:
        rate = float(sfreq_hz)
    except ValueError:
        raise RequestError(422, "Wrong sampling rate", f"sfreq_hz is no number: {sfreq_hz[:40]!r}.", expected) from None
    if not math.isclose(rate, fact.sfreq_hz, rel_tol=1e-6):
        raise RequestError(422, "Wrong sampling rate", f"The trials are sampled at {rate:g} Hz.", expected)


def parse_seed(seed: str | None) -> int:
    """Return the seed of a request, 0 if there is none; RequestError 422 if it is no integer from 0 to 2^31 - 1."""
    text = "0" if seed is None else seed
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 2**31):
        raise RequestError(422, "Wrong seed", f"seed is {text[:40]!r}.", "seed as an integer from 0 to 2147483647.")
    return int(text)


def known_subject(subject: str | None, fact: ModelFact) -> str | None:
    """Return whose trials a request says they are, if the model has learnt something of their own; None for others."""
    return subject if subject in fact.subjects else None


def parse_trials(body: bytes, fact: ModelFact, max_trials: int) -> np.ndarray:
    """Return the trials of a request, float32 (trials, chans, times) in microvolt.

    The header is read with a bounded size, its shape is held against the length of the body before an array is made,
    and the array is a view of the body: no declared number makes us allocate anything. Pickles are never read.

    Raises
    ------
    RequestError
        400 no or cut `.npy`, 413 too many trials, 415 another dtype, 422 shape, NaN, or a scale that is no microvolt.
    """
    n_chans = len(fact.channels)
    expected = (
        f".npy, little-endian float32, C order, (trials, {n_chans} chans, {fact.n_times} times) in "
        f"{_NAMES[fact.unit]}, 1 to {max_trials} trials."
    )
    shape, fortran, dtype, start = _header(body, expected)
    if dtype.hasobject:
        raise RequestError(
            415, "Wrong dtype", "The array holds Python objects (a pickle), which is never read.", expected
        )
    if dtype != np.dtype("<f4"):
        raise RequestError(415, "Wrong dtype", f"The array is of dtype {dtype.str[:40]}.", expected)
    if fortran:
        raise RequestError(422, "Wrong order", "The array is in Fortran order; use np.ascontiguousarray.", expected)
    if len(shape) != 3 or shape[1:] != (n_chans, fact.n_times) or shape[0] < 1:
        raise RequestError(422, "Wrong shape", f"The array has shape {_short(shape)}.", expected)
    if shape[0] > max_trials:
        raise RequestError(413, "Too many trials", f"The array has {_short(shape[:1])} trials.", expected)
    size = 4 * math.prod(shape)
    if len(body) - start != size:
        detail = f"The header promises {size} bytes of data, {len(body) - start} came."
        raise RequestError(400, "Cut or padded file", detail, expected)
    eeg_uv_NCT = np.frombuffer(body, dtype="<f4", offset=start).reshape(shape)
    _check_values(eeg_uv_NCT, fact)
    return eeg_uv_NCT


def _header(body: bytes, expected: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return shape, Fortran order, dtype and where the data starts."""
    if not body.startswith(_MAGIC):
        raise RequestError(400, "Not an .npy file", f"The body ({len(body)} bytes) has no .npy magic.", expected)
    head = io.BytesIO(body[: len(_MAGIC) + 6 + MAX_HEADER_BYTES])
    try:
        version = npy.read_magic(head)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = read(head, max_header_size=MAX_HEADER_BYTES)
    except (
        Exception
    ) as error:  # numpy evaluates the header's text as a literal: whatever goes wrong there is the client's
        raise RequestError(
            400, "Bad .npy header", f"The header cannot be read ({type(error).__name__}).", expected
        ) from None
    if not all(type(n) is int and n >= 0 for n in shape):
        raise RequestError(400, "Bad .npy header", "The shape holds something else than sizes.", expected)
    return shape, fortran, dtype, head.tell()


def _check_values(eeg_uv_NCT: np.ndarray, fact: ModelFact) -> None:
    finite_NC = np.isfinite(eeg_uv_NCT).all(axis=2)
    if not finite_NC.all():
        trial, chan = (int(k) for k in np.argwhere(~finite_NC)[0])
        detail = f"NaN or infinity in trial {trial}, chan {fact.channels[chan]}."
        raise RequestError(422, "Not finite", detail, "finite values; leave out or repair the trial.")
    low, high = fact.plausible_uv
    size_uv_N = np.median(np.abs(eeg_uv_NCT), axis=(1, 2))
    wrong = np.flatnonzero((size_uv_N < low) | (size_uv_N > high))
    if len(wrong):
        detail = f"Trial {wrong[0]} has a median absolute value of {size_uv_N[wrong[0]]:.3g}."
        hint = "; multiply volts by 1e6" if fact.unit == "uV" else ", as the model's shard set was prepared"
        raise RequestError(422, "Wrong unit", detail, f"{_NAMES[fact.unit]}, {low:g} to {high:g}{hint}.")


def _short(shape: tuple[int, ...]) -> str:
    text = ", ".join(str(n) if n < 10**12 else "huge" for n in shape[:5])
    return f"({text}{', …' if len(shape) > 5 else ''})"
