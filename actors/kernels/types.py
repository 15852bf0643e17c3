"""The array types of the numerics: one name for each dtype."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
"""An array of any dtype."""
FloatArray: TypeAlias = npt.NDArray[np.float64]
"""Statistics and probabilities."""
Float32Array: TypeAlias = npt.NDArray[np.float32]
"""What goes into networks and comes out of them."""
IntArray: TypeAlias = npt.NDArray[np.int64]
"""Labels, counts and lengths."""
Int32Array: TypeAlias = npt.NDArray[np.int32]
"""Indices in large numbers, such as the tokens of a corpus."""
BoolArray: TypeAlias = npt.NDArray[np.bool_]
"""Masks."""
