"""Scores of drawn pictures: pixel correlation, structural similarity, and identification among the other pictures.

Conventions differ between papers, so each is stated: pictures are compared at the size they are given, and both sides
must have one size; `resized` brings the shown pictures to that of the drawn ones. Shape letters: N picture, H row,
W column, F feature.
"""

import numpy as np
from PIL import Image
from scipy.stats import hypergeom
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity


def resized(images_NHW3: np.ndarray, px: int) -> np.ndarray:
    """Return uint8 pictures resized to (N, px, px, 3) with Pillow's default (bicubic) filter, as Perceptogram does."""
    _check_uint8(images_NHW3)
    if images_NHW3.shape[1:3] == (px, px):
        return images_NHW3
    return np.stack([np.asarray(Image.fromarray(image).resize((px, px))) for image in images_NHW3])


def pixcorr(shown_NHW3: np.ndarray, drawn_NHW3: np.ndarray) -> np.ndarray:
    """Return each pair's Pearson correlation over all RGB values, float64 (N,).

    A picture of one colour correlates with nothing: its score is 0, not NaN.
    """
    _check_pair(shown_NHW3, drawn_NHW3)
    shown = shown_NHW3.reshape(len(shown_NHW3), -1).astype(np.float64)
    drawn = drawn_NHW3.reshape(len(drawn_NHW3), -1).astype(np.float64)
    return np.asarray(np.einsum("nf,nf->n", _unit_rows(shown), _unit_rows(drawn)))


def ssim(shown_NHW3: np.ndarray, drawn_NHW3: np.ndarray) -> np.ndarray:
    """Return each pair's structural similarity on grey pictures, float64 (N,).

    Gaussian window of deviation 1.5 (11 px), population covariance, range 1 (Wang et al. 2004), as in Perceptogram's
    evaluation. Pictures of at least 11 px.
    """
    _check_pair(shown_NHW3, drawn_NHW3)
    scores = [
        structural_similarity(
            rgb2gray(shown / 255.0),
            rgb2gray(drawn / 255.0),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
        )
        for shown, drawn in zip(shown_NHW3, drawn_NHW3, strict=True)
    ]
    return np.array(scores, dtype=np.float64)


def two_way(shown_NF: np.ndarray, drawn_NF: np.ndarray) -> np.ndarray:
    """Return the share of the other shown pictures that each drawn one is less like than its own, float64 (N,).

    Likeness is Pearson correlation over features; chance is 0.5. The drawn picture is fixed and the shown one varies,
    the own one is not compared with itself, and the count is divided by N - 1. The N (N - 1) comparisons are dependent:
    an interval comes from resampling pictures, never from a binomial over comparisons.

    Parameters
    ----------
    shown_NF, drawn_NF
        Features of the pictures shown and drawn, by the same tower.
    """
    n = len(shown_NF)
    if shown_NF.shape != drawn_NF.shape or shown_NF.ndim != 2 or n < 2:
        raise ValueError(
            f"two_way needs two (N, F) of one shape, N at least 2, got {shown_NF.shape}, {drawn_NF.shape}."
        )
    likeness_NN = _unit_rows(shown_NF.astype(np.float64)) @ _unit_rows(drawn_NF.astype(np.float64)).T
    own_N = np.diag(likeness_NN)
    beaten_NN = (likeness_NN < own_N[None]).astype(np.float64)
    # Drawings that are all alike tie with everything; half a point each keeps them on chance.
    ties_NN = (likeness_NN == own_N[None]).astype(np.float64)
    np.fill_diagonal(ties_NN, 0.0)
    share_N: np.ndarray = (beaten_NN + ties_NN / 2).sum(0) / (n - 1)
    return share_N


def correlation_distance(shown_NF: np.ndarray, drawn_NF: np.ndarray) -> np.ndarray:
    """Return 1 - Pearson correlation of each pair's features, float64 (N,); lower is better."""
    shown, drawn = _unit_rows(shown_NF.astype(np.float64)), _unit_rows(drawn_NF.astype(np.float64))
    return np.asarray(1 - np.einsum("nf,nf->n", shown, drawn))


def n_way_top_k(probability_NC: np.ndarray, class_N: np.ndarray, n_way: int, k: int) -> np.ndarray:
    """Return the exact chance that the true class is among the k best of itself and n_way - 1 random others, (N,).

    The expectation of the sampled n-way top-k of DreamDiffusion (Chen et al. 2023) and others, without the sampling:
    the number of better classes drawn is hypergeometric.

    Parameters
    ----------
    probability_NC
        A classifier's class probabilities on the drawn pictures.
    class_N
        The class of the picture shown.
    """
    n_classes = probability_NC.shape[1]
    if not 1 <= k < n_way <= n_classes:
        raise ValueError(f"n_way_top_k needs 1 <= k < n_way <= {n_classes} classes, got k={k}, n_way={n_way}.")
    own_N = probability_NC[np.arange(len(class_N)), class_N]
    better_N = (probability_NC > own_N[:, None]).sum(1)
    return np.asarray(hypergeom.cdf(k - 1, n_classes - 1, better_N, n_way - 1), dtype=np.float64)


def _unit_rows(x_NF: np.ndarray) -> np.ndarray:
    centred = x_NF - x_NF.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit: np.ndarray = centred / np.where(length > 0, length, 1.0)
    return unit


def _check_uint8(images_NHW3: np.ndarray) -> None:
    if images_NHW3.dtype != np.uint8 or images_NHW3.ndim != 4 or images_NHW3.shape[-1] != 3:
        raise ValueError(f"pictures must be uint8 (N, H, W, 3), got {images_NHW3.dtype} {images_NHW3.shape}.")


def _check_pair(shown_NHW3: np.ndarray, drawn_NHW3: np.ndarray) -> None:
    _check_uint8(shown_NHW3)
    _check_uint8(drawn_NHW3)
    if shown_NHW3.shape != drawn_NHW3.shape:
        raise ValueError(
            f"shown and drawn pictures must have one size, got {shown_NHW3.shape}, {drawn_NHW3.shape}; use resized()."
        )
