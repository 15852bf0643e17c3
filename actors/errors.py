"""Every exception that this package raises, in one hierarchy under :class:`SerketError`.

Errors that a user can mend carry one sentence with what is wrong, where, and what to do. The second base class says
which of Python's own errors each is a kind of.
"""

from __future__ import annotations


class SerketError(Exception):
    """Base class of all errors of this package."""


# --- what a user or a module's author can mend --------------------------------------------------------------------


class KindError(SerketError, ValueError):
    """A message kind is not valid, or its name is taken by another kind."""


class MessageError(SerketError, ValueError):
    """A message, or the bytes of one, is not valid; names sender, receiver, port and kind."""


class ModuleError(SerketError, ValueError):
    """A module cannot do what it was asked to with what it was given; names the module and the reason."""


class NonFiniteError(ModuleError):
    """A metric, a state or an output is not a finite number; names module, round, step and array."""


class GraphError(SerketError, ValueError):
    """A model cannot be connected or scheduled as written; names the part and the reason."""


class StorageError(SerketError, ValueError):
    """A storage root cannot be used here; says what to do."""


class CheckpointError(SerketError, RuntimeError):
    """A checkpoint is missing, damaged or of another version; names the file."""


# --- what goes wrong while a run is running -----------------------------------------------------------------------


class BackendError(SerketError, RuntimeError):
    """The backend cannot give what was asked of it, such as resources that no node has."""


class ModuleFailedError(SerketError, RuntimeError):
    """A module raised an error or died too often; the run ends. Names the module and holds its traceback."""


class ModuleDiedError(SerketError, RuntimeError):
    """A module's process died or did not answer in time; a new process can take its place."""


class ObjectsLostError(SerketError, RuntimeError):
    """A state or a message that the coordinator refers to was lost with the node that held it."""


class StaleIncarnationError(SerketError, RuntimeError):
    """A call was meant for an earlier process of a module; the present one has not been given its state yet."""
