"""Saliency: a map of what stands out in a picture, for layouts that guide a drawing (NeuroImagen).

The spectral residual (Hou & Zhang, CVPR 2007) needs no weights. A learned map is the foreground of a transformers
model for semantic segmentation: one label, or several of which the first is called background.
Shape letters: N picture, H row, W column, K label.
"""

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from eegdecode.batch import TargetFact
from eegdecode.targets.frozen import blank, one_by_one, probe
from eegdecode.targets.spec import Spec
from eegdecode.targets.towers import Loaded, describe_processor, load_transformers, open_processor, pixels, shape_facts

PX = 64
AVERAGE = 3
"""Side of the box that smooths the log spectrum."""
SIGMA = 2.5
"""Gaussian that smooths the map, pixels of 64."""
FLOOR = 1e-6
"""Amplitudes below this share of the mean are lifted to it: a picture of few frequencies has zeros."""


def spectral_residual(grey_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where a grey picture's spectrum departs from its own smooth trend, (H, W) in [0, 1].

    A picture of one grey has nothing that stands out: all zero.
    """
    if np.ptp(grey_HW) == 0:
        return np.zeros_like(grey_HW)
    spectrum_HW = scipy.fft.fft2(grey_HW)
    amplitude_HW = np.abs(spectrum_HW)
    log_HW = np.log(np.maximum(amplitude_HW, FLOOR * amplitude_HW.mean()))
    residual_HW = log_HW - ndimage.uniform_filter(log_HW, AVERAGE, mode="nearest")
    map_HW = np.abs(scipy.fft.ifft2(np.exp(residual_HW + 1j * np.angle(spectrum_HW)))) ** 2
    smooth_HW = ndimage.gaussian_filter(map_HW, SIGMA, mode="constant")
    low, high = smooth_HW.min(), smooth_HW.max()
    return np.asarray((smooth_HW - low) / (high - low))


class SpectralResidual:
    """The spectral residual of the luminance at 64 x 64."""

    def __init__(self) -> None:
        self.fact = TargetFact(
            tower="saliency:spectral_residual",
            layer="map",
            revision="1",
            preprocessing=(
                f"luminance (Pillow L), squeezed to {PX}x{PX} (Pillow bicubic) | box {AVERAGE}, sigma {SIGMA}, "
                f"floor {FLOOR:g}, scaled to [0, 1]"
            ),
            **shape_facts((PX, PX)),
        )

    def embed(self, images: list[Image.Image], concepts: list[str] | None = None) -> NDArray[np.float32]:
        """Return maps in [0, 1], float32 (N, 64, 64)."""
        maps = [spectral_residual(np.asarray(_small(image), dtype=np.float64)) for image in images]
        return np.stack(maps).astype(np.float32) if maps else np.zeros((0, PX, PX), dtype=np.float32)


class SegmentedForeground:
    """Probability that a pixel belongs to an object, at the side of the model's own output."""

    def __init__(self, loaded: Loaded) -> None:
        self._net, self._processor = loaded.net, open_processor(loaded.source)
        labels = {int(k): v for k, v in loaded.net.config.id2label.items()}
        self._single = len(labels) == 1
        if not self._single and labels[0].lower() != "background":
            raise ValueError(
                f"targets.tower: saliency needs a model of one label, or of several with the first called background; "
                f"{loaded.tower} has {len(labels)} and calls the first '{labels[0]}'."
            )
        self.fact = TargetFact(
            tower=loaded.tower.replace("transformers:", "saliency:", 1),
            layer="foreground",
            revision=loaded.revision,
            preprocessing=describe_processor(self._processor),
            **shape_facts(probe(self._prepare, self._foreground, blank())),
        )

    def embed(self, images: list[Image.Image], concepts: list[str] | None = None) -> NDArray[np.float32]:
        """Return maps in [0, 1], float32 (N, H, W)."""
        return one_by_one(images, self._prepare, self._foreground, self.fact.shape)

    def _prepare(self, image: Image.Image) -> torch.Tensor:
        return pixels(self._processor, image)

    def _foreground(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        logits_NKHW: torch.Tensor = self._net(pixel_values=images_NCHW).logits
        return logits_NKHW[:, 0].sigmoid() if self._single else 1 - logits_NKHW.softmax(dim=1)[:, 0]


def open_saliency(spec: Spec, weights_uri: str) -> SpectralResidual | SegmentedForeground:
    """Make the tower of a ``saliency:`` spec."""
    if spec.model == "spectral_residual":
        return SpectralResidual()
    return SegmentedForeground(load_transformers(spec.model, weights_uri, kind="AutoModelForSemanticSegmentation"))


def _small(image: Image.Image) -> Image.Image:
    grey = image.convert("L")
    return grey if grey.size == (PX, PX) else grey.resize((PX, PX), Image.Resampling.BICUBIC)
