"""Neural networks, their training, and the placement of their data on a device.

Where torch was not imported before, it gets OpenMP threads that sleep while they wait for each other, unless the
environment says how they wait: beside another busy process, spinning ones were measured to be 3 to 30 times slower.
"""

import os

_POLICY = "OMP_WAIT_POLICY"

_own = _POLICY not in os.environ
if _own:
    os.environ[_POLICY] = "PASSIVE"  # OpenMP reads it once, when it is loaded
import torch  # noqa: E402, F401

if _own:
    del os.environ[_POLICY]
