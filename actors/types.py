"""Type aliases of arrays and states, shared by modules, messages and checkpoints."""

from __future__ import annotations

from typing import Any, TypeAlias

from actors.kernels.types import Array as Array
from actors.kernels.types import BoolArray as BoolArray
from actors.kernels.types import Float32Array as Float32Array
from actors.kernels.types import FloatArray as FloatArray
from actors.kernels.types import Int32Array as Int32Array
from actors.kernels.types import IntArray as IntArray

Scalar: TypeAlias = bool | int | float | str | None
State: TypeAlias = dict[str, Any]
"""The state of a module: a flat dict of arrays and plain scalars (:data:`Scalar`)."""
