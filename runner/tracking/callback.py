"""The protocol by which a user's code follows a run."""

from __future__ import annotations

from typing import Any


class Callback:
    """Follows a run: each method is called when something has happened, and does nothing unless it is overridden.

    The methods are called one at a time by the process that drives the run, in the order of the events. Each is given
    a dict of its own, with ``time`` (seconds since 1970) where it is about an event. The run waits for none of them,
    except at its end. An exception is written to the log with its traceback; then the callback is called no more.

    A run that is resumed or attached to has new callbacks, for which :meth:`run_started` is called again with
    ``resumed``. What happened in the meantime is told first.

    Examples
    --------
    >>> import numpy as np
    >>> from runner import GMM, Callback, Model
    >>> class Rounds(Callback):
    ...     def round_finished(self, event):
    ...         print("round", event["round"], *event["metrics"])
    >>> rows = np.random.default_rng(0).normal(size=(50, 2))
    >>> model = Model(gmm=GMM(2), schedule={"rounds": 2}).fit(rows, callbacks=[Rounds()])
    round 1 evidence score
    round 2 evidence score
    """

    def run_started(self, run: dict[str, Any]) -> None:
        """Begin: ``name``, ``path`` (of the run's directory), ``config`` (the model file as resolved), ``resumed``."""

    def update_finished(self, event: dict[str, Any]) -> None:
        """Follow an update of a module.

        Parameters
        ----------
        event : dict
            ``module``, ``round``, ``step``, ``update`` (from 1, the number of this update of the module in the events
            of the run), ``metrics`` (a dict of float), ``seconds``, ``message_bytes``; within blocks also ``exchange``
            and ``temperature``.
        """

    def round_finished(self, event: dict[str, Any]) -> None:
        """Follow a round that was measured: ``round``, ``metrics``.

        A round of a script of handles ends where the next one begins, or with the run.
        The metrics are those that are known of ``evidence``, ``score``, ``accuracy``, ``ari``, ``nmi``, ``ece``, and
        ``accuracy_<module>`` where several modules are labelled.
        """

    def committed(self, event: dict[str, Any]) -> None:
        """Follow a commit: ``name``, ``round``, ``whole`` (whether it ends the round), ``seconds``."""

    def fault(self, event: dict[str, Any]) -> None:
        """Follow the loss of a process or an object.

        Parameters
        ----------
        event : dict
            ``event`` is ``lost`` (a process died; ``module``, ``doing``, ``times``, ``reason``), ``restarted`` (the
            coordinator) or ``replay`` (a round is repeated; ``round``, ``reason``).
        """

    def recovered(self, event: dict[str, Any]) -> None:
        """Follow the start of a new process for one that died: ``module``, ``seconds``."""

    def event(self, event: dict[str, Any]) -> None:
        """Follow any event, before the method for its kind is called: ``event`` (its name) and its fields.

        They are the fields of a line of ``events.jsonl``.
        """

    def run_finished(self, result: dict[str, Any]) -> None:
        """Follow the end of a complete run, whose `result` is the contents of ``result.json``.

        That of a script of handles, which writes no such file, has ``run``, ``rounds``, ``seconds``, the last measures
        and ``module_seconds``.
        """

    def run_stopped(self, event: dict[str, Any]) -> None:
        """Follow the end of a run that was stopped or has failed: ``reason``, ``failed``; it may be resumed later."""

    def close(self) -> None:
        """Release what the callback holds: the last call, also where the run goes on without this process."""
