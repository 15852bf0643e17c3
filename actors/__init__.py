"""Probabilistic modules that exchange messages and learn as one model.

The names below are the public interface for authors of modules; everything else in this package is internal and may
change. :class:`Module` is the contract, with a complete module in its docstring; :mod:`actors.conformance` checks that
a module fulfils it.
"""

from __future__ import annotations

from actors.errors import KindError, MessageError, ModuleError, NonFiniteError, SerketError
from actors.messaging.codec import make_message
from actors.messaging.kinds import ArraySpec, Kind, register_kind
from actors.messaging.message import Header, Message, rows_of
from actors.module import Context, Inbox, Module, Outbox, OutgoingMessage, Port
from actors.sharing.chunks import Chunk
from actors.sharing.contract import MergeableModule, ShardedModule
from actors.types import Array, BoolArray, FloatArray, IntArray, State

__all__ = [
    "Array",
    "ArraySpec",
    "BoolArray",
    "Chunk",
    "Context",
    "FloatArray",
    "Header",
    "Inbox",
    "IntArray",
    "Kind",
    "KindError",
    "MergeableModule",
    "Message",
    "MessageError",
    "Module",
    "ModuleError",
    "NonFiniteError",
    "Outbox",
    "OutgoingMessage",
    "Port",
    "SerketError",
    "ShardedModule",
    "State",
    "make_message",
    "register_kind",
    "rows_of",
]
