"""Pictures that a fixture shows, and an EEG response that is linear in what they look like.

Shape letters: P picture, C chan, T time, K latent.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

N_LATENTS = 6


def draw(concepts: Sequence[str], paths: Sequence[Path], seed: int, px: int = 32) -> npt.NDArray[np.float64]:
    """Write one picture per path, half of its looks shared by its concept; return the latents (P, K) behind them."""
    rng = np.random.default_rng([seed, 0])
    basis_K443 = rng.standard_normal((N_LATENTS, 4, 4, 3))
    shared = {concept: rng.standard_normal(N_LATENTS) for concept in dict.fromkeys(concepts)}
    latents = []
    for concept, path in zip(concepts, paths, strict=True):
        latent_K = (shared[concept] + rng.standard_normal(N_LATENTS)) / np.sqrt(2)
        rgb_443 = 0.5 + 0.5 * np.tanh(0.3 * np.tensordot(latent_K, basis_K443, 1))
        image = Image.fromarray(np.rint(255 * rgb_443).astype(np.uint8))
        path.parent.mkdir(parents=True, exist_ok=True)
        image.resize((px, px), Image.Resampling.BICUBIC).save(path)
        latents.append(latent_K)
    return np.array(latents)


def responses(
    latent_PK: npt.NDArray[np.float64], n_chans: int, n_times: int, sfreq_hz: float, seed: int
) -> npt.NDArray[np.float64]:
    """Return the noise-free response (P, C, T) from the onset on, of root mean square 1 over its first 0.4 s."""
    rng = np.random.default_rng([seed, 1])
    times_s = np.arange(n_times) / sfreq_hz
    centre_s = np.linspace(0.08, 0.28, latent_PK.shape[1])
    course_KT = np.exp(-0.5 * ((times_s - centre_s[:, None]) / 0.03) ** 2)
    pattern_KC = rng.standard_normal((latent_PK.shape[1], n_chans))
    response_PCT = np.einsum("pk,kc,kt->pct", latent_PK, pattern_KC, course_KT)
    early = response_PCT[:, :, times_s < 0.4]
    return response_PCT / np.sqrt((early**2).mean())
