"""Merging runs: the parameters of all rows together, from runs whose rows never were in one place.

Statistics over rows add. A module that says which statistics its learnt parameters were made
from (:meth:`actors.sharing.contract.MergeableModule.statistics_of`) gets those of the rows of all runs. That is right
if its inputs mean the same in all runs:

* Observations do.
* Latent vectors do if the module that sends them has learnt the same parameters in all runs. It is taken as it is.
* Classes may have other numbers. Those of the further runs are matched to those of the first run, by the distances
  that modules define which learn what a class is, and the same permutation applies to every module that these classes
  are sent to. A module may also have classes of its own, as one that joins those of several others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from actors.errors import ModuleError
from actors.graph.graph import Graph
from actors.graph.spec import Route
from actors.kernels.label_alignment import match_classes
from actors.module import Module, Port
from actors.sharing.contract import NOT_FROM_SUMS, MergeableModule
from actors.sharing.shard import Statistics
from actors.types import FloatArray, IntArray, State

CLASSES = "class_posteriors"

_UNSOUND = (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError)
"""What numerics raise on a state that no rows can have led to, such as one with negative counts."""

_NO_SUMS = "its state is not that of sums over rows; train the run again"


@dataclass(frozen=True)
class Matching:
    """Which classes of a further run are those of the first one.

    Attributes
    ----------
    modules : tuple of str
        The modules whose classes they are.
    first, run : str
        Names of the first and of the further run.
    classes : ndarray of int64, shape (K,)
        The class of the further run that is the first run's class k.
    distances : ndarray of float64, shape (K,)
        How far these are apart; inf if one of them has no rows.
    unit : str
        Of the distances.
    alone : tuple of int
        The classes of the first run that have no counterpart: it has no rows, or is as far away as another class.
    """

    modules: tuple[str, ...]
    first: str
    run: str
    classes: IntArray
    distances: FloatArray
    unit: str
    alone: tuple[int, ...]


class MergedRuns(NamedTuple):
    """The states of all rows together; of each merged module the rows of each run; the matchings of classes."""

    states: dict[str, State]
    rows: dict[str, dict[str, int]]
    matchings: tuple[Matching, ...]


def merge_runs(graph: Graph, modules: Mapping[str, Module[Any]], runs: Mapping[str, Mapping[str, State]]) -> MergedRuns:
    """Return what runs of one model have learnt from all their rows together.

    Parameters
    ----------
    graph : Graph
    modules : mapping of str to Module
        An instance of each module except the sources, in order of connection, with the parameters that the states
        depend on.
    runs : mapping of str to mapping of str to State
        The states by run and module. The classes keep the numbers of the first run.

    Raises
    ------
    ModuleError
        If the parameters of all rows do not follow from the states; names module, reason and remedy.
    """
    kept = _same_in_all_runs(graph, modules, runs)
    statistics: dict[str, dict[str, Statistics]] = {}
    for name, module in modules.items():
        if name not in kept:
            statistics[name] = {run: _statistics_of(name, module, run, states[name]) for run, states in runs.items()}
            _check_shapes(name, statistics[name])
            _check_inputs(graph, name, modules, kept)
    matchings = _renumber(graph, modules, statistics)
    first = next(iter(runs.values()))
    states = {name: first[name] for name in kept}
    for name, own in statistics.items():
        with _named(name):
            states[name] = _combined(_mergeable(modules[name]), own)
    rows = {
        name: {run: round(float(own["rows"][0])) for run, own in by_run.items()} for name, by_run in statistics.items()
    }
    return MergedRuns({name: states[name] for name in modules}, rows, tuple(matchings))


# --- what can be merged -----------------------------------------------------------------------------------------------


def _same_in_all_runs(
    graph: Graph, modules: Mapping[str, Module[Any]], runs: Mapping[str, Mapping[str, State]]
) -> set[str]:
    """Return the modules that have learnt the same in all runs, and are taken as they are.

    Raises
    ------
    ModuleError
        If two runs have the same sums over rows: they are the same run, whose rows would count twice.
    """
    names = list(runs)
    kept: set[str] = set()
    for name, module in modules.items():
        states = [states[name] for states in runs.values()]
        nothing = not any(states)
        if all(_equal(states[0], other) for other in states) and (
            nothing or not _has_statistics(module) or _represents(graph, name, module)
        ):
            kept.add(name)
            continue
        for n, state in enumerate(states):
            if not state:
                raise ModuleError(f"module {name!r} has learnt nothing in run {names[n]}: train it there, too")
            twice = next((names[m] for m in range(n) if _equal(states[m], state)), None)
            if twice is not None and _has_statistics(module) and not _represents(graph, name, module):
                raise ModuleError(
                    f"runs {twice} and {names[n]} have learnt the same in module {name!r}: they are one run, whose "
                    "rows would count twice; give it once"
                )
    return kept


def _equal(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(
        np.array_equal(value, right[name], equal_nan=False) for name, value in left.items()
    )


def _has_statistics(module: Module[Any]) -> bool:
    return isinstance(module, MergeableModule) and type(module).statistics_of is not MergeableModule.statistics_of


def _mergeable(module: Module[Any]) -> MergeableModule[Any]:
    assert isinstance(module, MergeableModule)
    return module


def _represents(graph: Graph, name: str, module: Module[Any]) -> bool:
    """Return whether modules above learn from what a module makes of its rows, such as latent vectors."""
    return any(port.kind != CLASSES for _, port in _sent_upwards(graph.routes, name, module.ports))


def _sent_upwards(routes: Sequence[Route], sender: str, ports: Sequence[Port]) -> Iterator[tuple[Route, Port]]:
    """Yield the routes of a module's forward messages, with their output ports."""
    by_name = {port.name: port for port in ports}
    for route in routes:
        if route.sender == sender and by_name[route.out_port].pass_ == "forward":
            yield route, by_name[route.out_port]


def _statistics_of(name: str, module: Module[Any], run: str, state: State) -> Statistics:
    """Return the statistics behind a state, which may come from a stranger's run.

    Raises
    ------
    ModuleError
        If there are none, or if they cannot be those of rows.
    """
    if not isinstance(module, MergeableModule):
        raise ModuleError(f"run {run}: module {name!r} {NOT_FROM_SUMS}")
    try:
        with np.errstate(all="ignore"):
            statistics = {key: np.asarray(value) for key, value in module.statistics_of(state).items()}
        rows = statistics["rows"]
        sound = rows.shape == (1,) and rows[0] > 0 and all(np.isfinite(each).all() for each in statistics.values())
    except ModuleError as error:
        raise ModuleError(f"run {run}: module {name!r} {error}") from None
    except _UNSOUND as error:
        raise ModuleError(f"run {run}: module {name!r}: {_NO_SUMS} ({error})") from error
    if not sound:
        raise ModuleError(f"run {run}: module {name!r}: {_NO_SUMS}")
    return statistics


def _check_shapes(name: str, by_run: Mapping[str, Statistics]) -> None:
    """Raise ModuleError if the statistics of two runs have other names or shapes."""
    (first, own), *others = by_run.items()
    for run, other in others:
        for key in dict.fromkeys([*own, *other]):
            shapes = [each[key].shape if key in each else None for each in (own, other)]
            if shapes[0] != shapes[1]:
                found = " and ".join(
                    f"{'none' if shape is None else shape} in {where}"
                    for where, shape in zip((first, run), shapes, strict=True)
                )
                raise ModuleError(
                    f"module {name!r} has learnt from rows of another form: {key} has the shape {found}; runs that are "
                    "merged need rows with the same columns"
                )


def _check_inputs(graph: Graph, name: str, modules: Mapping[str, Module[Any]], kept: set[str]) -> None:
    """Raise ModuleError if the rows of a module come from one that has learnt something else in every run."""
    for lower, module in modules.items():
        sent = [port for route, port in _sent_upwards(graph.routes, lower, module.ports) if route.receiver == name]
        if lower not in kept and any(port.kind != CLASSES for port in sent):
            raise ModuleError(
                f"module {name!r} has learnt from what {lower!r} sends, which means something else in each run: "
                f"{lower!r} has learnt other parameters there, so that sums over its vectors do not add; "
                f"merge runs that have the same learnt {lower!r}, or leave it out of the model"
            )


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the module in errors of its methods."""
    try:
        with np.errstate(all="ignore"):  # results that are not finite are refused
            yield
    except ModuleError as error:
        raise ModuleError(f"module {name!r}: {error}") from None
    except _UNSOUND as error:
        raise ModuleError(f"module {name!r}: in one of the runs {_NO_SUMS} ({error})") from error


def _combined(module: MergeableModule[Any], by_run: Mapping[str, Statistics]) -> State:
    """Return the state of a module from the statistics of all runs."""
    first, *others = by_run.values()
    for other in others:
        first = module.merge(first, other)
    module.load_state(module.learnt_from(first))
    state = dict(module.state())
    if not all(np.isfinite(value).all() for value in state.values() if isinstance(value, np.ndarray)):
        raise ModuleError(f"in one of the runs {_NO_SUMS}")
    return state


# --- classes ----------------------------------------------------------------------------------------------------------


def _renumber(
    graph: Graph, modules: Mapping[str, Module[Any]], statistics: dict[str, dict[str, Statistics]]
) -> list[Matching]:
    """Give the classes in the statistics of the further runs the numbers of the first run; return how they matched."""
    matchings: list[Matching] = []
    matched: dict[str, dict[str, IntArray]] = {}  # by module and run
    for group in _groups_of_classes(graph, modules):
        if any(name not in statistics for name in group):  # what is the same in all runs defines the numbers
            continue
        with _named(group[0]):
            for name in filter(lambda name: _has_own_classes(modules[name]), group):
                senders = [route.sender for route in graph.routes_to(name) if route.sender in matched]
                for run in list(statistics[name])[1:]:
                    below = {sender: matched[sender][run] for sender in senders if run in matched[sender]}
                    own = _mergeable(modules[name])
                    statistics[name][run] = own.renumber_inputs(statistics[name][run], below)
            by_run, found = _match(group, modules, statistics)
            matchings += found
            for name in group:
                matched[name] = by_run
                for run, classes in by_run.items():
                    statistics[name][run] = _mergeable(modules[name]).renumber(statistics[name][run], classes)
    return matchings


def _has_own_classes(module: Module[Any]) -> bool:
    """Return whether the classes of a module are others than those of the modules that send class posteriors to it."""
    return isinstance(module, MergeableModule) and module.own_classes


def _groups_of_classes(graph: Graph, modules: Mapping[str, Module[Any]]) -> list[list[str]]:
    """Return the modules that number classes in the same way, each group after those that it receives classes from."""
    group = {name: [name] for name in modules}
    for name, module in modules.items():
        for route, port in _sent_upwards(graph.routes, name, module.ports):
            own = _has_own_classes(modules[route.receiver])
            if port.kind == CLASSES and not own and group[route.receiver] is not group[name]:
                joined = [*group[name], *group[route.receiver]]
                group.update(dict.fromkeys(joined, joined))
    unique = {id(each): each for each in group.values()}
    order = {name: n for n, name in enumerate(modules) if _has_own_classes(modules[name])}
    groups = [[name for name in modules if name in each] for each in unique.values()]
    return sorted(groups, key=lambda members: max(order.get(name, -1) for name in members))


def _match(
    group: Sequence[str], modules: Mapping[str, Module[Any]], statistics: Mapping[str, Mapping[str, Statistics]]
) -> tuple[dict[str, IntArray], list[Matching]]:
    """Return by further run its class that is class k of the first run, and how they matched; none without classes.

    Raises
    ------
    ModuleError
        If modules learn from classes that cannot be matched.
    """
    (first, *others), by_run, found = list(statistics[group[0]]), dict[str, IntArray](), list[Matching]()

    def distances(left: str, right: str) -> tuple[FloatArray | None, tuple[str, ...]]:
        by_module = {
            name: _mergeable(modules[name]).class_distances(statistics[name][left], statistics[name][right])
            for name in group
        }
        known = {name: each for name, each in by_module.items() if each is not None}
        return (np.sum(list(known.values()), axis=0) if known else None), tuple(known)

    for run in others:
        between, definers = distances(first, run)
        if between is None:
            joint = next((name for name in group if _has_own_classes(modules[name])), "")
            if joint:
                own = statistics[joint]
                by_run[run] = _mergeable(modules[joint]).joint_classes(own[first], own[run])
            elif len(group) > 1:
                raise ModuleError(
                    f"{group[-1]!r} has learnt from its classes, which may have other numbers in each run and cannot "
                    "be matched: its type does not define how far apart they are (class_distances)"
                )
            continue
        by_run[run] = classes = match_classes(between)
        within = (distances(each, each)[0] for each in (first, run))
        alone = _without_counterpart(between, classes, *within)
        unit = _mergeable(modules[definers[0]]).distance_unit
        found.append(Matching(definers, first, run, classes, between[np.arange(len(classes)), classes], unit, alone))
    return by_run, found


def _without_counterpart(
    between: FloatArray, classes: IntArray, in_first: FloatArray | None, in_other: FloatArray | None
) -> tuple[int, ...]:
    """Return the classes of the first run that are as far from those that they match as from others of their own run.

    Parameters
    ----------
    between, in_first, in_other : ndarray (K, K)
        Distances of the classes of both runs, of the first one, and of the other one.
    classes : ndarray (K,)
        The class of the other run that matches.
    """
    own, other = _to_nearest(in_first), _to_nearest(in_other)[classes]
    nearest = np.where(np.isnan(own) | np.isnan(other), np.inf, np.minimum(own, other))
    both_empty = np.isnan(own) & np.isnan(other)
    matched = between[np.arange(len(classes)), classes]
    return tuple(np.flatnonzero(~both_empty & ~(matched < nearest)).tolist())


def _to_nearest(within: FloatArray | None) -> FloatArray:
    """Return the distance (K,) of each class to the nearest other one of its run; NaN for one without rows."""
    assert within is not None
    others = within.copy()
    np.fill_diagonal(others, np.inf)
    return np.where(np.isfinite(np.diagonal(within)), others.min(axis=1), np.nan)
