"""Laplace's equation in a hole, solved directly."""

import numpy as np
import scipy.sparse


def solve_directly(image, mask):
    """Each hole pixel (mask > 0) is the mean of its neighbours inside the image, [h, w, 3]."""
    number = np.arange(mask.size).reshape(mask.shape)
    links = [(number[:, :-1], number[:, 1:]), (number[:-1], number[1:])]
    first, second = (np.concatenate([pair[i].ravel() for pair in links]) for i in range(2))
    ones = np.ones(len(first))
    adjacent = scipy.sparse.coo_array((ones, (first, second)), (mask.size, mask.size))
    adjacent = (adjacent + adjacent.T).tocsr()
    laplacian = (scipy.sparse.diags_array(adjacent.sum(axis=1)) - adjacent).tocsr()
    hole, values = mask.ravel() > 0, image.reshape(-1, 3).astype(np.float64)
    right_side = -laplacian[hole][:, ~hole] @ values[~hole]
    values[hole] = scipy.sparse.linalg.splu(laplacian[hole][:, hole].tocsc()).solve(right_side)
    return values.reshape(image.shape)
