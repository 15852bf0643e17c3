"""What a model is made of: modules, what they reserve, connections, and the routes and slots of messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Resources:
    """What a module's actor reserves on the cluster.

    Parameters
    ----------
    num_cpus : float
    num_gpus : float or "auto"
        ``auto`` is a GPU if the cluster has one, shared with others that hope for one.
    memory : float
        Bytes.
    accelerator_type : str, optional
        As Ray calls them (``A100``, ``H100``, …).
    label_selector : mapping of str to str
        Labels that the node must have; values as Ray reads them: ``value``, ``!value``, ``in(a, b)``, ``!in(a, b)``.
    custom : mapping of str to float
        Resources of names of one's own, which nodes were started with.
    """

    num_cpus: float = 0.0
    num_gpus: float | Literal["auto"] = 0.0
    memory: float = 0.0
    accelerator_type: str | None = None
    label_selector: Mapping[str, str] = field(default_factory=dict)
    custom: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModuleSpec:
    """A module of the model: what it is, what it may use, and in which directories its Python files may lie."""

    name: str
    type: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    resources: Resources = field(default_factory=Resources)
    code: tuple[str, ...] = ()


@dataclass(frozen=True)
class Connection:
    """`lower` is nearer to the data: its forward messages go to `upper`, whose backward messages come back."""

    lower: str
    upper: str

    def __str__(self) -> str:
        return f"{self.lower} -> {self.upper}"


@dataclass(frozen=True)
class Route:
    """The way of one message: from an output port of `sender` to an input port of `receiver`."""

    sender: str
    out_port: str
    receiver: str
    in_port: str


@dataclass(frozen=True)
class Slot:
    """One message that a module's update returns: for all receivers of a port, or (`receiver`) for one."""

    port: str
    kind: str
    receiver: str = ""

    @property
    def name(self) -> str:
        """The slot's name in files and logs."""
        return f"{self.port}.{self.receiver}" if self.receiver else self.port
