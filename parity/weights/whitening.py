"""The filters that whiten the 2x2 patches of CIFAR-10's images: the start of an `Init` of the kind "whitening"."""

from __future__ import annotations

import numpy as np

from parity.arrays import Array
from parity.errors import InputError
from parity.network.nodes import Shape

# fmt: off
FILTERS = (
    (0.0891061, 0.0891092, 0.0886105, 0.0885886, 0.0938578, 0.0938439, 0.0930264, 0.0929996, 0.0900465, 0.0900279, 0.0892198, 0.0891931),
    (0.388171, 0.387973, 0.390978, 0.390356, -0.000836519, -0.00112097, 0.00409523, 0.00347293, -0.390627, -0.390742, -0.384064, -0.384425),
    (-0.481998, -0.474542, 0.453933, 0.461814, -0.462341, -0.455401, 0.489524, 0.496472, -0.433253, -0.427255, 0.422961, 0.428982),
    (-0.507697, 0.514624, -0.515257, 0.508368, -0.517818, 0.527621, -0.525358, 0.518873, -0.464643, 0.470754, -0.471655, 0.462441),
    (-0.472859, -0.474663, -0.506656, -0.506883, 0.953489, 0.950648, 0.920337, 0.918166, -0.473211, -0.475701, -0.504133, -0.505231),
    (1.25315, -1.2474, -1.23699, 1.23462, 1.2626, -1.26572, -1.2712, 1.27151, 1.13968, -1.14154, -1.14886, 1.15095),
    (-2.82191, -2.75387, 2.75829, 2.83926, 0.391245, 0.373269, -0.380286, -0.392151, 2.65676, 2.57798, -2.60216, -2.67011),
    (2.94264, -3.02758, 3.0431, -2.96079, -0.388107, 0.396999, -0.375967, 0.371667, -2.82174, 2.89779, -2.87443, 2.7969),
    (-2.65147, -2.31296, 2.31156, 2.6404, 5.91125, 5.16691, -5.17149, -5.90524, -3.66915, -3.22466, 3.21123, 3.68189),
    (2.46878, -2.82122, 2.83065, -2.48118, -5.4053, 6.18078, -6.15806, 5.39036, 3.32036, -3.80077, 3.80535, -3.33063),
    (7.96013, -7.96345, -7.96302, 7.96885, -0.953028, 0.969927, 0.961382, -0.978858, -7.57121, 7.56037, 7.58875, -7.57845),
    (-5.55984, 5.54907, 5.55131, -5.54474, 12.1054, -12.1001, -12.1171, 12.1192, -7.37344, 7.37655, 7.38253, -7.38972),
)
# fmt: on
"""Row i: the i-th principal direction [3, 2, 2] of the patches of the first 5,000 training images, divided by sqrt(variance + 0.0005).

Pixels are normalised by `parity.recipe.presets.WHITENED`. The numbers are stored, because each library chooses the sign of an eigenvector
itself. After Page 2019 and Jordan 2024 (arXiv 2404.00498, section 3.2).
"""


def make_filters(shape: Shape) -> Array:
    """The rows of `FILTERS`, then their negatives, as float32 of `shape` [n,3,2,2], n <= 24. `InputError` for any other shape."""
    rows = np.array([*FILTERS, *(tuple(-value for value in row) for row in FILTERS)], np.float32)
    if len(shape) != 4 or shape[1:] != (3, 2, 2) or shape[0] > len(rows):
        raise InputError(f"whitening needs at most {len(rows)} kernels of 2x2 and 3 channels, not a shape of {shape}")
    return rows[: shape[0]].reshape(-1, 3, 2, 2)
