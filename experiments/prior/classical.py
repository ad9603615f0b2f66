"""Filling holes without a network: the mean color of what is known, and the harmonic fill (Laplace's equation)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy import sparse
from scipy.sparse.linalg import spsolve


def mean_fill(image: Float[np.ndarray, "h w 3"], known: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    """The hole gets the mean color of the known pixels."""
    return np.where(known[..., None], image, image[known].mean(0)[None, None])


def harmonic_fill(image: Float[np.ndarray, "h w 3"], known: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    """Every pixel of the hole becomes the mean of its neighbors, known or not: the smoothest continuation.

    At the border of the picture the neighbors beyond are left out, so nothing flows across it. Something must be known.
    """
    height, width = known.shape
    index = np.arange(height * width).reshape(height, width)
    pairs = np.concatenate(
        [
            np.stack([index[:, :-1].ravel(), index[:, 1:].ravel()], axis=1),
            np.stack([index[:-1].ravel(), index[1:].ravel()], axis=1),
        ]
    )
    ones = np.ones(len(pairs))
    adjacency = sparse.csr_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(index.size, index.size))
    adjacency = adjacency + adjacency.T
    laplacian = sparse.diags(np.asarray(adjacency.sum(1)).ravel()) - adjacency
    free = ~known.ravel()
    values = image.reshape(-1, 3).astype(np.float64)
    if free.any():
        rows = laplacian.tocsr()[free]
        boundary = -(rows[:, ~free] @ values[~free])
        values[free] = spsolve(rows[:, free].tocsc(), boundary).reshape(-1, 3)
    return values.reshape(image.shape).astype(image.dtype)
