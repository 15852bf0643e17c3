"""The contract of modules whose rows are divided among workers.

The rows are cut into chunks of a fixed size. Everything that is computed for a row is computed within its chunk from
the same parameters, and everything that is summed over rows is summed within a chunk and then along one fixed binary
tree (:mod:`actors.kernels.chunk_tree`). The bits therefore do not depend on how many workers there are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np

from actors.errors import ModuleError
from actors.module import Context, Inbox, Module, Outbox
from actors.sharing.chunks import Chunk, Extent
from actors.sharing.driver import answer_alone, update_alone
from actors.sharing.shard import Statistics, add_statistics
from actors.types import FloatArray, IntArray, State

P = TypeVar("P")

NOT_FROM_SUMS = (
    "learns parameters that do not follow from sums over rows: train one run on all rows, or let all runs use the same "
    "learnt module"
)
"""Why a module of any type cannot be merged unless it defines :meth:`MergeableModule.statistics_of`."""


class MergeableModule(Module[P]):
    """A module that says from which statistics over rows its parameters were made, so that runs can be merged.

    See :mod:`actors.sharing.merging`. By default the parameters of a module do not follow from statistics.

    Attributes
    ----------
    own_classes : bool
        Whether the classes of a module that receives class posteriors are others than those of the senders.
    distance_unit : str
        Of :meth:`class_distances`, for people.
    """

    own_classes: ClassVar[bool] = False
    distance_unit: ClassVar[str] = ""

    def statistics_of(self, learnt: State) -> Statistics:  # noqa: ARG002 (for overriding)
        """Return the statistics over all rows that learnt parameters were made from.

        Those of runs from different rows are combined by :meth:`merge`, and :meth:`learnt_from` makes parameters of
        them, so that runs become one whose rows never were in one place (:mod:`actors.sharing.merging`). One entry is
        ``rows`` (1,), the number of rows. Where :meth:`merge` tells statistics of several kinds apart, these are one
        more.

        Raises
        ------
        ModuleError
            If the statistics do not follow from what was learnt; in words that follow the module's name, with a remedy.
        """
        raise ModuleError(NOT_FROM_SUMS)

    def learnt_from(self, statistics: Statistics) -> State:
        """Return the parameters that are made from combined statistics, as :meth:`statistics_of` returns them."""
        raise NotImplementedError

    def renumber(self, statistics: Statistics, classes: IntArray) -> Statistics:  # noqa: ARG002 (for overriding)
        """Return the statistics in which class ``classes[k]`` has the number k; by default there are no classes."""
        return statistics

    def class_distances(self, left: Statistics, right: Statistics) -> FloatArray | None:  # noqa: ARG002
        """Return how far the classes (K, K) of two runs are apart, by which they are matched; inf for one without rows.

        Only modules that learn from their rows what a class is return it.
        """
        return None

    def renumber_inputs(self, statistics: Statistics, below: Mapping[str, IntArray]) -> Statistics:  # noqa: ARG002
        """Return the statistics in which class ``below[sender][k]`` of a sender has the number k.

        It is called for modules with classes of their own.
        """
        return statistics

    def joint_classes(self, left: Statistics, right: Statistics) -> IntArray:
        """Return which class (K,) of `right` is class k of `left`, in a module with classes of its own.

        It is called where these have no distances because they follow from the classes of the senders, which have the
        same numbers in both.

        Raises
        ------
        ModuleError
            If the senders do not agree.
        """
        raise NotImplementedError

    def merge(self, left: Statistics, right: Statistics) -> Statistics:
        """Return the statistics of two stretches of rows, or of two runs, together: by default their sums, by name.

        Such as the smallest and largest values of both, for statistics that do not add. It must not matter which of
        three neighbours are merged first.
        """
        return add_statistics(left, right)


class ShardedModule(MergeableModule[P]):
    """A module that learns from sums over rows, so that workers can share them.

    An update starts from the learnt parameters, or from :meth:`start` on a sample of the rows. It then repeats passes:
    :meth:`accumulate` for every chunk, and :meth:`maximise` on the sums over all chunks, until :meth:`is_finished`. At
    the end, :meth:`respond` computes the messages and outputs of each chunk.

    `accumulate` and `respond` run in the worker that holds the chunk, each worker with an instance of its own; the
    other methods run in the first worker. They depend on nothing but their arguments and the module's parameters.

    Attributes
    ----------
    row_outputs : tuple of str
        Those of the outputs whose first dimension is the rows; the others are the same for every chunk.
    sequence_outputs : tuple of str
        Those of the outputs that are a sum over the rows of each sequence, (S,); a chunk returns one value for each
        piece of a sequence in it.
    float32_statistics : tuple of str
        Those of the statistics that are added as float32, such as gradients of networks: half as much to exchange. A
        sum is off by at most 6e-8 of the sum of magnitudes for each level of the tree. The others are float64.
    missing_values_by_workers : bool
        Whether workers can use rows that lack some of their values, as :attr:`missing_values` says of one process.
    """

    row_outputs: ClassVar[tuple[str, ...]] = ()
    sequence_outputs: ClassVar[tuple[str, ...]] = ()
    float32_statistics: ClassVar[tuple[str, ...]] = ()
    missing_values_by_workers: ClassVar[bool] = True

    def __init__(self, parameters: P) -> None:
        super().__init__(parameters)
        self.learnt: State = {}

    @abstractmethod
    def start(self, inbox: Inbox, context: Context) -> State:
        """Return the parameters that the first update starts from.

        Parameters
        ----------
        inbox : Inbox
            A sample of the rows: whole chunks in their order, all of them if they are few.
        context : Context
        """

    @abstractmethod
    def accumulate(self, chunk: Chunk, learnt: State, context: Context) -> Statistics:
        """Return the sums over the rows of one chunk.

        Parameters
        ----------
        chunk : Chunk
        learnt : State
            The present parameters.
        context : Context
            Its generator is that of the chunk and the pass (:attr:`actors.module.Context.sweep`).
        """

    def selects(self, index: int, extent: Extent, learnt: State, context: Context) -> bool:  # noqa: ARG002 (overridden)
        """Return whether the chunk `index` takes part in this pass, as all do by default.

        A module that learns from batches accumulates a few chunks in each pass. The answer is the same in every worker.
        """
        return True

    @abstractmethod
    def maximise(self, statistics: Statistics, learnt: State, context: Context) -> State:
        """Return the next parameters, from the sums over all rows and the present parameters."""

    def broadcast(self, learnt: State) -> State:
        """Return those of the parameters that `selects`, `accumulate`, `summarise` and `respond` need; by default all.

        They travel to every worker before each pass. The others, such as the moments of an optimiser, stay in the first
        worker.
        """
        return learnt

    @abstractmethod
    def respond(self, chunk: Chunk, learnt: State, context: Context) -> Outbox:
        """Return the messages and outputs of one chunk; its metrics are sums over the chunk's rows.

        It is called after the passes of an update, and at recognition.
        """

    @classmethod
    def unshared_setting(cls, parameters: Any) -> str | None:  # noqa: ARG003 (for overriding)
        """Return which parameter needs all rows in one process, in words that follow the module's name; None if none.

        For example: "learns by engine 'gibbs', which needs all rows in one process; use engine: vb".
        """
        return None

    def is_finished(self, learnt: State, passes: int, context: Context) -> bool:  # noqa: ARG002 (for overriding)
        """Return whether an update ends after this number of passes.

        By default after as many as the first of the ``learning_parameters`` says, such as ``iterations``.
        """
        if not context.learn or not self.learning_parameters:
            return True
        limit: int = getattr(self.at(context), self.learning_parameters[0])
        return passes >= limit

    def prepare_sharing(self) -> None:
        """Prepare for the methods of this class, in each worker; called after :meth:`prepare`."""

    def finish(self, sums: Mapping[str, float], learnt: State, context: Context) -> Mapping[str, float]:  # noqa: ARG002
        """Return the metrics of an update, from the sums over all rows of the metrics that :meth:`respond` returned.

        By default these sums.
        """
        return sums

    # --- the contract of modules, by the one above ----------------------------------------------------------------

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Learn from all rows in this process, chunk by chunk; the result is that of any number of workers."""
        self.learnt, outbox = update_alone(self, self.learnt, inbox, context)
        return outbox

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Respond to new rows, chunk by chunk.

        Raises
        ------
        ModuleError
            If nothing was learnt yet.
        """
        if not self.learnt:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
        return answer_alone(self, self.learnt, inbox, context)

    def state(self) -> State:
        """Return a copy of the learnt parameters."""
        return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in self.learnt.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load learnt parameters; an empty state is that of a module that has learnt nothing."""
        self.learnt = {
            name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in state.items()
        }

    # --- scans: what a chunk needs of the rows before and after it ------------------------------------------------

    def scans(self, learnt: State, responding: bool, context: Context) -> tuple[str, ...]:  # noqa: ARG002 (for overriding)
        """Return the names of the scans that run before a pass, or before the response; by default none.

        A scan computes what enters each chunk from all rows before and after it. Each chunk is summarised, summaries of
        neighbours are combined up to that of all rows, and what enters a pair of neighbours is divided among them. It
        stays in ``chunk.entering`` until the scan runs again, so that a pass or the response can use that of an earlier
        pass with the same parameters.

        Parameters
        ----------
        learnt : State
            The present parameters.
        responding : bool
            Whether the response follows.
        context : Context
            Its ``sweep`` is the number of the pass that follows.
        """
        return ()

    def summarise(self, scan: str, chunk: Chunk, learnt: State, context: Context) -> Mapping[str, Any]:
        """Return the summary of one chunk; ``chunk.entering`` has the results of the scans before this one."""
        raise NotImplementedError

    def combine(self, scan: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the summary of two neighbouring stretches of rows from those of each."""
        raise NotImplementedError

    def descend(self, scan: str, entering: Any, left: Mapping[str, Any], right: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return what enters each of two neighbouring stretches, from what enters the pair and the summaries of both.

        What enters all rows is None.
        """
        raise NotImplementedError


def sharing_problem(cls: type[Module[Any]], parameters: Any) -> str | None:
    """Return why workers cannot share the rows of a module; None if they can."""
    if not issubclass(cls, ShardedModule):
        return (
            f"of type {cls.__name__} learns from all rows in one process: it has only update, "
            "not start, accumulate, maximise and respond (actors.ShardedModule)"
        )
    return cls.unshared_setting(parameters)
