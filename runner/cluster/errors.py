"""Errors of clusters, and of coordinators on them; importing them does not import Ray."""

from __future__ import annotations

from actors.errors import ModuleFailedError


class ClusterError(RuntimeError):
    """Raised when a cluster cannot be reached or does not have the requested resources."""


class UnprovenError(ClusterError):
    """Raised when a cluster does not prove that it is the one on which a run was started."""


class CoordinatorEndedError(ModuleFailedError):
    """The coordinator of a run was ended, and will not be restarted."""
