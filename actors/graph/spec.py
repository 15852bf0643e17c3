"""Plain specifications that a model graph consists of: modules, resources, connections, routes and slots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Resources:
    """Resources that a module's actor reserves on the cluster.

    Parameters
    ----------
    num_cpus : float
    num_gpus : float or "auto"
        ``auto`` requests a GPU if the cluster has one, shared with the other modules that request ``auto``.
    memory : float
        Bytes.
    accelerator_type : str, optional
        Ray's name of the accelerator (``A100``, ``H100``, …).
    label_selector : mapping of str to str
        Labels that the node must have; values in Ray's syntax: ``value``, ``!value``, ``in(a, b)``, ``!in(a, b)``.
    custom : mapping of str to float
        Custom resources, declared when the nodes were started.
    """

    num_cpus: float = 0.0
    num_gpus: float | Literal["auto"] = 0.0
    memory: float = 0.0
    accelerator_type: str | None = None
    label_selector: Mapping[str, str] = field(default_factory=dict)
    custom: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sharing:
    """How the workers of a module share its rows; the results depend on `chunk` and `sample_rows` alone.

    Parameters
    ----------
    workers : int or "auto"
        Number of processes; ``auto`` is one for each core that the cluster has left.
    chunk : int
        Number of rows that are computed together.
    sample_rows : int
        Number of rows of the sample from which the module starts.
    """

    workers: int | Literal["auto"] = 1
    chunk: int = 4096
    sample_rows: int = 20_000


@dataclass(frozen=True)
class ModuleSpec:
    """Specification of one module of a model.

    Parameters
    ----------
    name : str
    type : str
        A short name, or ``package.module:Class`` (:func:`actors.graph.registry.find`).
    parameters : mapping
        The module's parameters; :class:`actors.graph.registry.ValidatedParameters` are not validated again.
    threads : int
        Threads that the module's numerical libraries use.
    resources : Resources
    code : tuple of str
        Directories of the module's Python files.
    sharing : Sharing, optional
        How workers share the module's rows; by default all rows are in one process, which learns by ``update``.
    """

    name: str
    type: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    resources: Resources = field(default_factory=Resources)
    code: tuple[str, ...] = ()
    sharing: Sharing | None = None


@dataclass(frozen=True)
class Connection:
    """A connection of two modules.

    `lower` is nearer to the data: its forward messages go to `upper`, whose backward messages return to `lower`.
    """

    lower: str
    upper: str

    def __str__(self) -> str:
        return f"{self.lower} -> {self.upper}"


@dataclass(frozen=True)
class Route:
    """The route of one message: from an output port of `sender` to an input port of `receiver`."""

    sender: str
    out_port: str
    receiver: str
    in_port: str


@dataclass(frozen=True)
class Slot:
    """One message that a module's update returns: for all receivers of a port, or (`receiver`) for one of them.

    Parameters
    ----------
    port, kind, receiver : str
    unread : bool
        Whether all receivers are sources, which are updated before all others, and so read no message.
    """

    port: str
    kind: str
    receiver: str = ""
    unread: bool = False

    @property
    def name(self) -> str:
        """The slot's name in files and logs."""
        return f"{self.port}.{self.receiver}" if self.receiver else self.port
