"""The simulated person: dipoles in a spherical head, what they answer to a picture, and all else that is recorded.

A trial is linear in the picture's code and in how the code fluctuates from one showing to the next, the background is
Gaussian, and all of it is kept here as numbers, so that the best possible decoder can be computed
(`eegdecode.evaluate.ideal_observer`). Blinks and bad stretches are the part that is not Gaussian.
Electrodes and their order: THINGS-EEG2 (Gifford et al. 2022), reference Fz.
Head: MNE's three-shell sphere (Berg & Scherg approximation).
Shape letters: C chan, D dipole, T time, K code, F frequency, P picture.
"""

from dataclasses import dataclass

import mne
import numpy as np

CHANNELS: tuple[str, ...] = (
    "Fp1", "F3", "F7", "FT9", "FC5", "FC1", "C3", "T7", "TP9", "CP5", "CP1", "Pz", "P3", "P7", "O1", "Oz",
    "O2", "P4", "P8", "TP10", "CP6", "CP2", "Cz", "C4", "T8", "FT10", "FC6", "FC2", "F4", "F8", "Fp2", "AF7",
    "AF3", "AFz", "F1", "F5", "FT7", "FC3", "FCz", "C1", "C5", "TP7", "CP3", "P1", "P5", "PO7", "PO3", "POz",
    "PO4", "PO8", "P6", "P2", "CPz", "CP4", "TP8", "C6", "C2", "FC4", "FT8", "F6", "F2", "AF4", "AF8",
)  # fmt: skip
REFERENCE = "Fz"
MONTAGE = "colin27_1005"
HEAD_CENTRE_M = (0.0, 0.0, 0.04)
HEAD_RADIUS_M = 0.095
SFREQ_HZ = 250.0
SOA_S = 0.2
"""From one picture to the next, as in THINGS-EEG2's rapid design: responses overlap."""
RESPONSE_S = 0.5
"""A response is zero from here on."""
N_FREQUENCIES = 16385
"""Points from 0 to half the sampling rate at which noise spectra are kept."""


@dataclass(frozen=True)
class Stage:
    """One stage of vision: where it is, when it answers, how much of the response it makes.

    Attributes
    ----------
    places
        Dipoles, in head radii from the head's centre (x right, y front, z up).
    centres_s, width_s
        Gaussian time courses, one per centre.
    share
        Of the picture-specific power over the scalp.
    """

    places: tuple[tuple[float, float, float], ...]
    centres_s: tuple[float, ...]
    width_s: float
    n_code: int
    share: float


STAGES: dict[str, Stage] = {
    "early": Stage(
        ((-0.2, -0.76, -0.05), (0.2, -0.76, -0.05),
         (-0.15, -0.72, 0.3), (0.15, -0.72, 0.3), (-0.45, -0.62, 0.12), (0.45, -0.62, 0.12)),
        (0.085, 0.105, 0.125, 0.145), 0.012, 14, 0.72,
    ),
    "texture": Stage(
        ((-0.42, -0.6, -0.06), (0.42, -0.6, -0.06), (-0.3, -0.64, -0.22), (0.3, -0.64, -0.22)),
        (0.15, 0.18, 0.21), 0.016, 5, 0.24,
    ),
    "concept": Stage(
        ((-0.62, -0.36, -0.16), (0.62, -0.36, -0.16), (-0.5, -0.5, -0.1), (0.5, -0.5, -0.1)),
        (0.2, 0.25, 0.3), 0.024, 2, 0.04,
    ),
}  # fmt: skip
"""Early visual areas, then V4 and its neighbours, then lateral occipital and fusiform areas."""
ALPHA_PLACES = ((-0.25, -0.6, 0.4), (0.25, -0.6, 0.4), (0.0, -0.7, 0.25), (-0.3, -0.7, 0.05), (0.3, -0.7, 0.05))
EYE_PLACES = ((-0.3, 0.75, -0.1), (0.3, 0.75, -0.1))


@dataclass(frozen=True)
class Generator:
    """Every amplitude of the simulation, microvolt at the electrodes (root mean square unless said otherwise)."""

    response_uv: float = 1.5
    """Picture-specific response over electrodes and `RESPONSE_S`; alike for all pictures, so power tells nothing."""
    evoked_uv: float = 1.5
    """The part of the response that all pictures share."""
    background_uv: float = 1.0
    background_exponent: float = 1.6
    alpha_uv: float = 0.7
    alpha_hz: float = 10.0
    line_uv: float = 0.5
    line_hz: float = 50.0
    sensor_uv: float = 0.3
    blink_uv: float = 110.0
    """Height of a blink at the electrode where it is largest."""
    blinks_per_s: float = 0.2
    bad_uv: float = 600.0
    """Height of the bursts that spoil a stretch; above any sensible rejection threshold."""
    bad_per_s: float = 0.015
    place_sd_m: float = 0.003
    turn_sd: float = 0.1
    """Standard deviation added to each coordinate of a dipole's unit direction, per subject."""
    latency_sd_s: float = 0.003
    gain_sd: float = 0.1
    variability: float = 4.0
    """Deviation of the code from one showing of a picture to the next, over its deviation from picture to picture: the
    brain does not answer twice alike. This, not the sensors, is what limits a decoder of single trials."""
    individual: float = 0.05
    """Share of the variance of the coefficients (code to dipole) that is a subject's own."""

    @property
    def clean_uv(self) -> float:
        """A trial above this holds a burst; infinite if there are none."""
        return self.bad_uv / 2 if self.bad_uv > 0 else float("inf")


@dataclass(frozen=True)
class NoisePart:
    """Stationary noise: one covariance over electrodes, one spectrum.

    Attributes
    ----------
    covariance_uv2_CC
        At a point in time.
    density_F
        Relative power at `N_FREQUENCIES` points from 0 to half the sampling rate.
    """

    name: str
    covariance_uv2_CC: np.ndarray
    density_F: np.ndarray

    def autocorrelation(self, n_lags: int) -> np.ndarray:
        """Return the correlation at lags of 0 to n_lags - 1 samples."""
        correlation = np.fft.irfft(self.density_F)[:n_lags]
        return np.asarray(correlation / correlation[0])

    def draw(self, n_times: int, rng: np.random.Generator) -> np.ndarray:
        """Return a stretch of this noise in microvolt, (C, n_times)."""
        frequency = np.linspace(0, 1, n_times // 2 + 1)
        amplitude = np.sqrt(np.interp(frequency, np.linspace(0, 1, len(self.density_F)), self.density_F))
        values, vectors = np.linalg.eigh(self.covariance_uv2_CC)
        kept = values > 1e-12 * values[-1]
        root = vectors[:, kept] * np.sqrt(values[kept])
        shape = (root.shape[1], len(frequency))
        series = np.fft.irfft((rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) * amplitude, n=n_times)
        return np.asarray(root @ (series * np.sqrt(n_times**2 / 4 / np.sum(amplitude**2))))


@dataclass(frozen=True)
class SubjectModel:
    """Everything that generates one subject's EEG.

    Attributes
    ----------
    leadfield_uv_CD, dipole_stage_D
        Microvolt per nAm, and the stage of vision each dipole belongs to.
    kernel_uv_KCT
        Response to one unit of each number of the code, at `SFREQ_HZ` from the onset.
    evoked_uv_CT
        What all pictures share.
    noise
        Gaussian parts; `blink_noise` is the second moment of the blinks.
    blink_uv_C, blink_T
        Height at the electrodes of an average blink, and its course.
    """

    subject: str
    generator: Generator
    leadfield_uv_CD: np.ndarray
    dipole_stage_D: tuple[str, ...]
    kernel_uv_KCT: np.ndarray
    evoked_uv_CT: np.ndarray
    gain: float
    latency_s: float
    noise: tuple[NoisePart, ...]
    blink_uv_C: np.ndarray
    blink_T: np.ndarray

    def strength(self, code_PK: np.ndarray) -> np.ndarray:
        """Return the factor per picture that gives every response the same mean power, (P,)."""
        gram_KK = np.einsum("kct,lct->kl", self.kernel_uv_KCT, self.kernel_uv_KCT) / self.evoked_uv_CT.size
        power_P = np.einsum("pk,kl,pl->p", code_PK, gram_KK, code_PK)
        return np.asarray(self.generator.response_uv * self.gain / np.sqrt(power_P))

    def fluctuation(self, deviation_K: np.ndarray) -> np.ndarray:
        """Return the deviation of each number of the (scaled) code between showings of one picture, (K,).

        Parameters
        ----------
        deviation_K
            Of each number from picture to picture.
        """
        power_K = np.einsum("kct,kct->k", self.kernel_uv_KCT, self.kernel_uv_KCT) / self.evoked_uv_CT.size
        strength = self.generator.response_uv * self.gain / np.sqrt(np.sum(deviation_K**2 * power_K))
        return np.asarray(self.generator.variability * strength * deviation_K)

    def templates_uv(self, code_PK: np.ndarray) -> np.ndarray:
        """Return the response to each picture without noise, (P, C, T)."""
        scaled_PK = code_PK * self.strength(code_PK)[:, None]
        return np.asarray(self.evoked_uv_CT + np.tensordot(scaled_PK, self.kernel_uv_KCT, axes=1))

    @property
    def blink_noise(self) -> NoisePart:
        """The blinks as noise with their second moment (Campbell's theorem for shot noise)."""
        height = self.generator.blinks_per_s * (1 + BLINK_SPREAD**2 / 3) * np.sum(self.blink_T**2) / SFREQ_HZ
        density_F = np.abs(np.fft.rfft(self.blink_T, n=2 * (N_FREQUENCIES - 1))) ** 2
        return NoisePart("blink", np.outer(self.blink_uv_C, self.blink_uv_C) * height, density_F)


BLINK_SPREAD = 0.3
"""Heights of blinks are uniform within this part of their mean."""


def electrode_info() -> mne.Info:
    """Return the electrodes at their places, reference last."""
    info = mne.create_info([*CHANNELS, REFERENCE], SFREQ_HZ, "eeg")
    info.set_montage(MONTAGE)
    return info


def leadfield(places: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return what dipoles do at the electrodes against the reference.

    Parameters
    ----------
    places, directions
        (D, 3); head radii from the head's centre, and unit vectors.

    Returns
    -------
    Microvolt per nAm, (C, D).
    """
    sphere = mne.make_sphere_model(HEAD_CENTRE_M, HEAD_RADIUS_M, verbose="error")
    n = len(places)
    dipoles = mne.Dipole(
        times=np.arange(n) / SFREQ_HZ,
        pos=np.asarray(places) * HEAD_RADIUS_M + HEAD_CENTRE_M,
        amplitude=np.ones(n),
        ori=directions,
        gof=np.full(n, 100.0),
    )
    forward, _ = mne.make_forward_dipole(dipoles, sphere, electrode_info(), trans=None, verbose="error")
    potential = forward["sol"]["data"] * 1e-3  # V/Am is 1e6 uV / 1e9 nAm
    return np.asarray(potential[:-1] - potential[-1], dtype=np.float64)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _scaled(covariance: np.ndarray, rms_uv: float) -> np.ndarray:
    return np.asarray(covariance * (rms_uv**2 / np.trace(covariance) * len(covariance)))


def _equal_power(kernel_KCT: np.ndarray) -> np.ndarray:
    """Return the nearest kernels that are orthonormal over electrodes and time: no number of the code is drowned."""
    gram_KK = np.einsum("kct,lct->kl", kernel_KCT, kernel_KCT)
    values, vectors = np.linalg.eigh(gram_KK)
    return np.asarray(np.tensordot((vectors / np.sqrt(values)) @ vectors.T, kernel_KCT, axes=1))


def noise_parts(generator: Generator, seed: int) -> tuple[NoisePart, ...]:
    """Return background, alpha, line and sensor noise; the same for all subjects."""
    rng = np.random.default_rng([seed, 5])
    frequency_hz = np.linspace(0, SFREQ_HZ / 2, N_FREQUENCIES)
    n = 250
    scattered = _unit(rng.standard_normal((n, 3))) * rng.uniform(0.4, 0.82, (n, 1))
    background = leadfield(scattered, _unit(rng.standard_normal((n, 3))))
    alpha = leadfield(np.array(ALPHA_PLACES), _unit(np.array(ALPHA_PLACES) + 0.3 * rng.standard_normal((5, 3))))
    gradient = np.array([channel["loc"][:3] for channel in electrode_info()["chs"]]) @ rng.standard_normal((3, 2))
    line = gradient[:-1] - gradient[-1]
    # The reference electrode's own noise is in every channel.
    sensor = np.eye(len(CHANNELS)) + 1.0
    one_over_f = (frequency_hz**2 + 1.0**2) ** (-generator.background_exponent / 2)

    def bump(centre_hz: float, width_hz: float) -> np.ndarray:
        return np.asarray(np.exp(-0.5 * ((frequency_hz - centre_hz) / width_hz) ** 2))

    return (
        NoisePart("background", _scaled(background @ background.T, generator.background_uv), one_over_f),
        NoisePart("alpha", _scaled(alpha @ alpha.T, generator.alpha_uv), bump(generator.alpha_hz, 0.8)),
        NoisePart("line", _scaled(line @ line.T, generator.line_uv), bump(generator.line_hz, 0.1)),
        NoisePart("sensor", _scaled(sensor, generator.sensor_uv), np.ones(N_FREQUENCIES)),
    )


def build_subject(generator: Generator, seed: int, number: int) -> SubjectModel:
    """Draw one subject: own dipoles, latency, gain and coefficients around those all subjects share."""
    shared, own = np.random.default_rng([seed, 6]), np.random.default_rng([seed, 7, number])
    latency_s = float(own.normal(0, generator.latency_sd_s))
    gain = float(np.exp(own.normal(0, generator.gain_sd)))
    n_times = round(RESPONSE_S * SFREQ_HZ)
    time_s = np.arange(n_times) / SFREQ_HZ - latency_s
    fields, stages, kernels = [], [], []
    evoked_CT = np.zeros((len(CHANNELS), n_times))
    for name, stage in STAGES.items():
        places = np.array(stage.places)
        turned = _unit(_unit(places) + 0.6 * shared.standard_normal(places.shape))
        moved = places + own.normal(0, generator.place_sd_m / HEAD_RADIUS_M, places.shape)
        field_CD = leadfield(moved, _unit(turned + generator.turn_sd * own.standard_normal(places.shape)))
        course_BT = np.exp(-0.5 * ((time_s - np.array(stage.centres_s)[:, None]) / stage.width_s) ** 2)
        shape = (stage.n_code + 1, len(places), len(stage.centres_s))
        common, individual = shared.standard_normal(shape), own.standard_normal(shape)
        weight = np.sqrt(1 - generator.individual) * common + np.sqrt(generator.individual) * individual
        # The last row is the answer to any picture at all.
        kernel_KCT = np.einsum("cd,kdb,bt->kct", field_CD, weight, course_BT)
        kernels.append(_equal_power(kernel_KCT[:-1]) * np.sqrt(stage.share / stage.n_code))
        evoked_CT += kernel_KCT[-1] * np.sqrt(stage.share / np.sum(kernel_KCT[-1] ** 2))
        fields.append(field_CD)
        stages += [name] * len(places)
    evoked_CT *= generator.evoked_uv * gain / np.sqrt(np.mean(evoked_CT**2))
    eyes = np.array(EYE_PLACES)
    blink_C = leadfield(eyes, _unit(np.tile([0.0, 1.0, 0.2], (2, 1)))).sum(1)
    blink_time_s = np.arange(round(0.4 * SFREQ_HZ)) / SFREQ_HZ
    return SubjectModel(
        subject=f"{number + 1:02d}",
        generator=generator,
        leadfield_uv_CD=np.concatenate(fields, axis=1),
        dipole_stage_D=tuple(stages),
        kernel_uv_KCT=np.concatenate(kernels),
        evoked_uv_CT=evoked_CT,
        gain=gain,
        latency_s=latency_s,
        noise=noise_parts(generator, seed),
        blink_uv_C=blink_C / np.abs(blink_C).max() * generator.blink_uv,
        blink_T=np.exp(-0.5 * ((blink_time_s - 0.2) / 0.06) ** 2),
    )
