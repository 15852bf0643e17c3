"""Array type aliases of the numerics: one name for each dtype."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
"""An array of any dtype."""
FloatArray: TypeAlias = npt.NDArray[np.float64]
"""Sufficient statistics, densities and probabilities."""
Float32Array: TypeAlias = npt.NDArray[np.float32]
"""Inputs and outputs of neural networks."""
IntArray: TypeAlias = npt.NDArray[np.int64]
"""Labels, counts and lengths."""
Int32Array: TypeAlias = npt.NDArray[np.int32]
"""Indices of which there are many, such as the tokens of a corpus."""
BoolArray: TypeAlias = npt.NDArray[np.bool_]
"""Masks."""
