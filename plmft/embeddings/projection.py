"""Vectors laid out on a plane, and how much of their neighbourhood that keeps: PCA, t-SNE and UMAP.

PCA costs one decomposition. t-SNE and UMAP begin from 50 principal components; on one core some 10 s for 2,000 points,
and UMAP as much again for its compiler.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from plmft import InputError

Method = Literal["pca", "tsne", "umap"]
NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
COMPONENTS = 50  # that t-SNE and UMAP begin from
CHECKED = 2000  # points whose neighbours are compared
LEAST = 5  # points that make a picture


@dataclass(frozen=True)
class Plane:
    """Where points lie.

    Args:
        points: (N, 2) float64. axes: names of both.
        kept: share of the nearest neighbours among vectors that are nearest in the plane too; 0 to 1.
    """

    points: np.ndarray
    axes: tuple[str, str]
    kept: float


def project(vectors: np.ndarray, method: Method, *, neighbours: int, perplexity: float, seed: int) -> Plane:
    """Lay (N, D) float32 vectors out.

    Args: neighbours: of a point, in UMAP and in the check. perplexity: of t-SNE, about as many.
    Raises: InputError: fewer than 5 points, all of them equal, perplexity or neighbours not less than their number, or
        umap-learn is not installed.
    """
    count = len(vectors)
    if count < LEAST:
        raise InputError(f"{count} points make no picture; at least {LEAST} are needed.")
    if np.ptp(vectors, axis=0).max() == 0:
        raise InputError(f"all {count:,} vectors are equal: there is nothing to draw.")
    if neighbours >= count:
        raise InputError(f"neighbours={neighbours}: there are {count} points. Set fewer.")
    if method == "tsne" and perplexity >= count:
        raise InputError(f"perplexity={perplexity:g}: there are {count} points. Set a smaller one.")
    components, shares = _components(vectors, seed)
    axes = (f"{NAMES[method]} 1", f"{NAMES[method]} 2")
    if method == "pca":
        points = np.pad(components[:, :2], ((0, 0), (0, max(0, 2 - components.shape[1]))))
        told = [f"{share:.1%} of the variance" for share in [*shares[:2], 0.0][:2]]
        axes = (f"PC 1 ({told[0]})", f"PC 2 ({told[1]})")
    elif method == "tsne":
        points = _tsne(components, perplexity, seed)
    else:
        points = _umap(components, neighbours, seed)
    return Plane(points, axes, neighbours_kept(vectors, points, neighbours, seed))


def _components(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, at most COMPONENTS) principal components, and the share of the variance that each explains."""
    from sklearn.decomposition import PCA

    most = min(COMPONENTS, *vectors.shape)
    fitted = PCA(most, random_state=seed, svd_solver="full" if min(vectors.shape) <= 500 else "randomized")
    points = fitted.fit_transform(vectors.astype(np.float64))
    return points, fitted.explained_variance_ratio_


def _tsne(components: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(components)


def _umap(components: np.ndarray, neighbours: int, seed: int) -> np.ndarray:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TensorFlow that is not there, and of one thread for one seed
            from umap import UMAP

            return UMAP(n_neighbors=neighbours, random_state=seed).fit_transform(components.astype(np.float32))
    except ImportError:
        raise InputError('method=umap needs the package umap-learn. Install it: pip install -e ".[embed]"') from None


def neighbours_kept(vectors: np.ndarray, points: np.ndarray, neighbours: int, seed: int) -> float:
    """Mean share of a point's nearest neighbours among `vectors` (N, D) that are among those of `points` (N, 2).

    At most CHECKED points are asked, evenly drawn; their neighbours are looked for among all.
    """
    from sklearn.neighbors import NearestNeighbors

    drawn = np.random.default_rng(seed).permutation(len(vectors))[:CHECKED]
    near = []
    for space in (vectors, points):
        found = NearestNeighbors(n_neighbors=neighbours + 1, algorithm="auto").fit(space)
        near.append([set(row) - {own} for row, own in zip(found.kneighbors(space[drawn])[1], drawn, strict=True)])
    return float(np.mean([len(a & b) / neighbours for a, b in zip(*near, strict=True)]))
