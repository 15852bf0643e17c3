"""The workers of a group where the first one drives the others over connections, and the side of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from actors.errors import WorkerConnectionError
from actors.sharing.connections import Connection
from actors.sharing.driver import PARAMETERS_AT
from actors.sharing.frames import pack_frame
from actors.sharing.transport import Repeated, SentChanges, pack_triangles, unpack_triangles
from actors.types import State

_CALLED = ("summarise", "accumulate", "enter")
"""What the first worker may call at the others (:class:`actors.sharing.driver.Worker`)."""


class ConnectedWorkers:
    """Workers as the first one calls them (:class:`actors.sharing.driver.Workers`).

    It computes itself when it is called; the others compute meanwhile.

    Parameters
    ----------
    own : callable
        As :meth:`actors.sharing.driver.Worker.run`, of the first worker.
    connections : sequence of Connection
        To the others, in their order.

    Attributes
    ----------
    count : int
        Number of workers that take part, by default all.
    """

    def __init__(self, own: Callable[..., Any], connections: Sequence[Connection]) -> None:
        self.count = 1 + len(connections)
        self._own = own
        self._connections = connections
        self._changes = SentChanges()
        self._sent: State | None = None  # the parameters that were sent last, and which ones these are
        self._number = 0
        self._frames: dict[bool, Sequence[Any]] = {}  # of these, for workers with those before, and for others
        self._holds = [0] * len(connections)  # the number of the parameters that each worker has

    def call(self, worker: int, method: str, *values: Any, returns: int | None = None) -> Any:
        """Call a method; those of the other workers have one value.

        Raises
        ------
        WorkerConnectionError
            If a connection is lost.
        actors.sharing.frames.UnsendableError
            If a value cannot be sent.
        """
        given = [self.get(value) for value in values]
        if worker == 0:
            answer = self._own(method, *given)
            return answer if returns is None else list(answer)
        connection, at = self._connections[worker - 1], PARAMETERS_AT[method]
        frames = self._new_parameters(worker - 1, given[at])
        given[at] = Repeated()
        connection.send(*frames, pack_frame(("call", method, *map(pack_triangles, given))))
        return _Reply(connection)

    def get(self, value: Any) -> Any:
        """Return a value, when it is there."""
        return value.get() if isinstance(value, _Reply) else value

    def end(self) -> None:
        """Let the other workers go on to what comes after the passes."""
        self._sent, self._frames = None, {}
        for connection in self._connections[: self.count - 1]:
            connection.send(pack_frame(("end",)))

    def close(self) -> None:
        """Release the connections."""
        for connection in self._connections:
            connection.close()

    def shut(self) -> None:
        """End the connections, from any thread."""
        for connection in self._connections:
            connection.shut()

    def _new_parameters(self, at: int, parameters: State) -> list[Sequence[Any]]:
        """Return the frame of parameters for a worker; none if it has them."""
        if self._sent is not parameters:
            self._sent, self._frames, self._number = parameters, {}, self._number + 1
            self._frames[True] = pack_frame(("parameters", *self._changes.of(parameters)))
        if self._holds[at] == self._number:
            return []
        follows = self._holds[at] == self._number - 1
        if follows not in self._frames:  # of a worker that took no part in a call
            self._changes.forget_others(parameters)
            self._frames[follows] = pack_frame(("all", pack_triangles(parameters)))
        self._holds[at] = self._number
        return [self._frames[follows]]


class _Reply:
    """The answer of another worker, read when it is needed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._is_read = False
        self._value: Any = None

    def get(self) -> Any:
        """Return the answer."""
        if not self._is_read:
            match self._connection.receive():
                case ("answer", value):
                    self._value, self._is_read = unpack_triangles(value), True
                case _:
                    raise WorkerConnectionError("another worker sent no answer")
        return self._value


class Follower:
    """A worker that does what the first one asks for.

    Parameters
    ----------
    connection : Connection
        To the first worker.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._parameters: State = {}
        self._known: State = {}  # what each name of a parameter stood for last

    def run(self, own: Callable[..., Any]) -> None:
        """Answer until the passes end.

        Parameters
        ----------
        own : callable
            As :meth:`actors.sharing.driver.Worker.run`, of this worker.

        Raises
        ------
        WorkerConnectionError
            If the connection is lost.
        actors.sharing.frames.UnsendableError
            If an answer cannot be sent.
        Exception
            What the worker's own methods raise.
        """
        while True:
            match self._connection.receive():
                case ("end",):
                    return
                case ("all", dict(parameters)):
                    self._parameters = self._known = unpack_triangles(parameters)
                case ("parameters", list(names), list(known), list(values)):
                    self._parameters = SentChanges.applied(self._known, names, known, values)
                    self._known = {**self._known, **self._parameters}
                case ("call", str(method), *values) if method in _CALLED:
                    given = [self._parameters if isinstance(v, Repeated) else unpack_triangles(v) for v in values]
                    self._connection.send(pack_frame(("answer", pack_triangles(own(method, *given)))))
                case _:
                    raise WorkerConnectionError("the first worker asks for what there is not")

    def close(self) -> None:
        """Release the connection."""
        self._connection.close()

    def shut(self) -> None:
        """End the connection, from any thread."""
        self._connection.shut()
