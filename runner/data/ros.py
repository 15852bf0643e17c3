"""ROS bags as observations: topics become columns, resampled to one clock.

ROS 1 bags (``.bag``), ROS 2 bags (directories with ``metadata.yaml``, ``.db3``) and MCAP files (``.mcap``) are read by
the library rosbags. The numeric fields of the messages of each topic are columns; at the times of the clock, floats are
interpolated linearly between the messages before and after, other values are those of the message before.

A bag may be a stranger's. rosbags makes Python code of the message definitions in a bag: only definitions whose names
are plain identifiers are passed to it, without their constants. Compressed parts may expand as other data files may.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.limits import MAX_BAG_MESSAGES, MAX_BAG_VALUES, MAX_LISTED_NAMES, MAX_STORED_FILES
from actors.messaging.stored_rows import is_url
from actors.types import Array, BoolArray, FloatArray
from runner.data.errors import DataError
from runner.data.intake import Rows, check_observations
from runner.data.readers import find_file
from runner.report.printable import printable_line, printable_reason

SUFFIXES = (".bag", ".mcap", ".db3")
METADATA = "metadata.yaml"
EXTRA = "pip install 'serket-actors[ros]'"

_TIMES = ("builtin_interfaces/msg/Time", "builtin_interfaces/msg/Duration")
_FILLER = "structure_needs_at_least_one_member"
"""The field of a message without any."""

_NANOSECONDS = 1e9
_COLUMN = re.compile(r"[/A-Za-z0-9_~]+(\.[A-Za-z0-9_.\[\]]+)?")


@dataclass(frozen=True)
class BagOptions:
    """How messages become rows.

    Parameters
    ----------
    topics : tuple of str
        ``/topic`` for all of its numeric fields but those of the header, or ``/topic.field`` for one field or what is
        below it. Empty: the only topic that has numbers.
    rate : float, optional
        Rows a second.
    gap : float
        Longest time between two messages of a topic, in seconds, across which it has values; rows in longer ones are
        missing.
    clock : {"record", "header"}
        Whether a message has the time at which it was recorded, or that of its header.
    """

    topics: tuple[str, ...] = ()
    rate: float | None = None
    gap: float = 1.0
    clock: str = "record"


@dataclass
class Series:
    """The messages of a topic, as numbers.

    Attributes
    ----------
    topic : str
    names : list of str
        Of the values of each message.
    floats : ndarray of bool, shape (D,)
        The values that are interpolated.
    times : ndarray of int64, shape (n,)
        In nanoseconds, rising.
    values : ndarray of float64, shape (n, D)
    """

    topic: str
    names: list[str]
    floats: BoolArray
    times: Array = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    values: FloatArray = field(default_factory=lambda: np.empty((0, 0)))


def find_bags(given: str | Path | Sequence[str | Path], root: str | Path) -> list[Path]:
    """Return the bags that are given; empty for other files and directories.

    Raises
    ------
    DataError
        If bags are mixed with others, or one is missing.
    """
    names: list[str | Path] = [given] if isinstance(given, str | Path) else [*given]
    if any(is_url(str(name)) for name in names):
        return []
    bags = [name for name in names if Path(name).suffix.lower() in SUFFIXES or _is_bag(Path(root) / name)]
    if not bags:
        return []
    if len(bags) < len(names):
        raise DataError("data.observations: has ROS bags beside others; give one kind")
    if len(bags) > MAX_STORED_FILES:
        raise DataError(f"data.observations: are {len(bags):,} bags, at most {MAX_STORED_FILES:,} are read")
    return [path if _is_bag(path := Path(root) / Path(name).expanduser()) else find_file(name, root) for name in bags]


def _is_bag(path: Path) -> bool:
    """Return whether a path is a directory of a ROS 2 bag."""
    try:
        return (path.expanduser() / METADATA).is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def read_bags(bags: Sequence[Path], options: BagOptions) -> Rows:
    """Return the rows of bags, in their order, a sequence for each.

    Raises
    ------
    DataError
        If rosbags is not installed, if a bag cannot be read, or if it does not have the topics.
    """
    parts: list[Rows] = []
    notes: dict[str, None] = {}
    total = 0
    for bag in bags:
        series, more = _read_series(bag, options)
        if parts and parts[0].columns != _columns(series):
            differing = next(iter({*_columns(series)} ^ {*parts[0].columns}), "their order")
            raise DataError(f"{bag}: has other columns than {bags[0]} ({differing}); choose data.ros.topics they share")
        if options.rate is None:
            raise DataError(f"{bag}: data.ros.rate is missing, the rows a second; {_describe_rates(series)}")
        values = resample(series, options, str(bag), MAX_BAG_VALUES - total)
        total += values.size
        parts.append(replace(check_observations(values, str(bag), columns=_columns(series)), notes=()))
        notes |= dict.fromkeys(more)
    values = np.concatenate([part.values for part in parts])
    masks = [np.zeros(len(part.values), dtype=bool) if part.mask is None else part.mask for part in parts]
    mask = np.concatenate(masks)
    count = f"{len(bags):,} bags" if len(bags) > 1 else "1 bag"
    told = [f"{count} at {options.rate:g} rows a second, by the {options.clock} time of messages", *notes]
    if missing := int(mask.sum()):
        told.append(f"{missing:,} rows in gaps of more than {options.gap:g} s are missing")
    lengths = np.array([len(part.values) for part in parts], dtype=np.int64)
    return Rows(values, mask if missing else None, tuple(told), lengths, parts[0].columns)


def _columns(series: Sequence[Series]) -> tuple[str, ...]:
    return tuple(f"{each.topic}.{name}" for each in series for name in each.names)


def _describe_rates(series: Sequence[Series]) -> str:
    rates = [f"{each.topic} has {_rate(each):.3g}" for each in series[:MAX_LISTED_NAMES]]
    return f"of messages a second, {', '.join(rates)}"


def _rate(series: Series) -> float:
    span = float(series.times[-1] - series.times[0]) / _NANOSECONDS
    return (len(series.times) - 1) / span if span > 0 else 0.0


# --- one clock --------------------------------------------------------------------------------------------------------


def resample(series: Sequence[Series], options: BagOptions, where: str, room: int) -> FloatArray:
    """Return the values (N, D) of all topics at the times of one clock, NaN in rows that are missing.

    The clock begins when every topic has had a message, and ends with the topic that ends first.

    Parameters
    ----------
    series : sequence of Series
    options : BagOptions
    where : str
        Names the bag in errors.
    room : int
        Values that there may be.

    Raises
    ------
    DataError
        If the topics do not overlap, if there are too many rows, or if all are missing.
    """
    assert options.rate is not None
    last, first = max(series, key=lambda each: each.times[0]), min(series, key=lambda each: each.times[-1])
    start, end = int(last.times[0]), int(first.times[-1])
    if end < start:
        raise DataError(f"{where}: {first.topic} ends before {last.topic} begins; choose topics of the same time")
    seconds = (end - start) / _NANOSECONDS
    width = sum(len(each.names) for each in series)
    if (seconds * options.rate + 1) * width > room:
        raise DataError(
            f"{where}: {seconds:,.0f} s at {options.rate:g} rows a second have more than {MAX_BAG_VALUES:,} values; "
            "use a lower data.ros.rate, or fewer topics"
        )
    rows = int(np.floor(seconds * options.rate + 1e-6)) + 1
    clock = start + np.round(np.arange(rows) * (_NANOSECONDS / options.rate)).astype(np.int64)
    parts, missing = [], []
    for each in series:
        values, absent = _at_times(each, np.minimum(clock, each.times[-1]), options.gap)
        parts.append(values)
        missing.append(absent)
        if absent.all():
            raise DataError(
                f"{where}: {each.topic} has {_rate(each):.3g} messages a second, so that every row is in a gap of more "
                f"than {options.gap:g} s; raise data.ros.gap"
            )
    found = np.concatenate(parts, axis=1)
    return mark_missing(found, missing, where)


def mark_missing(values: FloatArray, missing: Sequence[BoolArray], where: str) -> FloatArray:
    """Return rows (N, D) in which those are NaN that are missing in any topic; `missing` has (N,) for each topic."""
    rows = np.logical_or.reduce(missing)
    if rows.all():
        raise DataError(f"{where}: in every row a topic has a gap; raise data.ros.gap, or choose other topics")
    return np.where(rows[:, None], np.nan, values)


def _at_times(series: Series, clock: Array, gap: float) -> tuple[FloatArray, BoolArray]:
    """Return the values of a topic at the times of a clock, and which of these are in a gap.

    Between the messages at t_a <= t <= t_b with values a and b, a float is a + (b - a)·(t - t_a)/(t_b - t_a).
    """
    before = np.searchsorted(series.times, clock, side="right") - 1
    after = np.minimum(before + 1, len(series.times) - 1)
    elapsed = (clock - series.times[before]).astype(np.float64)
    span = (series.times[after] - series.times[before]).astype(np.float64)
    share = np.divide(elapsed, span, out=np.zeros_like(elapsed), where=span > 0)[:, None]
    a, b = series.values[before], series.values[after]
    with np.errstate(invalid="ignore", over="ignore"):
        between = (1.0 - share) * a + share * b
    values = np.where(series.floats & (share > 0), between, a)
    return values, (elapsed > 0) & (span > gap * _NANOSECONDS)


# --- the bag ----------------------------------------------------------------------------------------------------------


def _read_series(bag: Path, options: BagOptions) -> tuple[list[Series], list[str]]:
    """Return the series of the chosen topics of a bag, in the order of their choice, and what there is to say."""
    from runner.data.ros_bag import BagError, open_bag  # with rosbags, which is slow to import, and an extra

    try:
        with ExitStack() as stack:
            return _series_of(stack.enter_context(open_bag(bag)), options, bag)
    except DataError:
        raise
    except BagError as error:
        raise DataError(f"{bag}: {error}") from error
    except Exception as error:  # of a damaged file, any
        raise DataError(f"{bag}: is damaged or no ROS bag ({printable_reason(error)}); record it again") from error


def _series_of(opened: Any, options: BagOptions, bag: Path) -> tuple[list[Series], list[str]]:
    wanted = _wanted(opened.topics, options, bag)
    notes: list[str] = []
    opened.prepare([*wanted])
    collected = {topic: _Collector(topic, fields, options, bag) for topic, fields in wanted.items()}
    values = 0
    for number, (topic, time, message) in enumerate(opened.messages([*wanted])):
        values += collected[topic].add(time, message)
        if number >= MAX_BAG_MESSAGES or values > MAX_BAG_VALUES:
            raise DataError(
                f"{bag}: the topics have more than {MAX_BAG_MESSAGES:,} messages or {MAX_BAG_VALUES:,} values; choose "
                "fewer data.ros.topics, or cut the bag"
            )
    return [each.finish(notes) for each in collected.values()], notes


def _wanted(topics: dict[str, Any], options: BagOptions, bag: Path) -> dict[str, list[str]]:
    """Return the fields of each chosen topic, of which an empty one stands for all."""
    wanted: dict[str, list[str]] = {}
    for given in options.topics:
        topic, _, path = given.partition(".")
        if topic not in topics:
            raise DataError(f"{bag}: has no topic {printable_line(topic, 80)}; it has {_list(topics)}")
        wanted.setdefault(topic, []).append(path)
    if not wanted:
        numeric = [topic for topic, count in topics.items() if count]
        if len(numeric) != 1:
            raise DataError(f"{bag}: data.ros.topics is missing; choose among {_list(topics)}")
        wanted[numeric[0]] = [""]
    return wanted


def _list(topics: dict[str, Any]) -> str:
    shown = [f"{printable_line(name, 80)} ({count:,} messages)" for name, count in topics.items()]
    more = f" and {len(shown) - MAX_LISTED_NAMES} more" if len(shown) > MAX_LISTED_NAMES else ""
    return (", ".join(shown[:MAX_LISTED_NAMES]) or "no topic") + more


class _Collector:
    """Collects the numbers of the messages of a topic.

    Parameters
    ----------
    topic : str
    fields : sequence of str
        What is chosen of it; an empty text stands for all but the header.
    options : BagOptions
    bag : Path
    """

    def __init__(self, topic: str, fields: Sequence[str], options: BagOptions, bag: Path) -> None:
        self._topic, self._fields, self._options, self._bag = topic, fields, options, bag
        self._names: list[str] = []
        self._order: list[int] | None = None
        self._kinds: list[bool] = []
        self._parts: list[str] = []
        self._times = array("q")
        self._values = array("d")
        self._count = 0

    def add(self, time: int, message: Any) -> int:
        """Take a message that was recorded at `time`; return the number of its values."""
        if self._order is None:
            self._choose(message)
        values: list[float] = []
        for part in self._parts:
            _flatten(getattr(message, part), part, None, values, [])
        if len(values) != self._count:
            raise DataError(
                f"{self._bag}: a message of {self._topic} has {len(values)} numbers, the first one has {self._count}; "
                "choose fields of a constant size in data.ros.topics"
            )
        assert self._order is not None
        self._times.append(self._stamp(message) if self._options.clock == "header" else time)
        self._values.extend([values[n] for n in self._order])
        return len(self._order)

    def _choose(self, message: Any) -> None:
        """Choose values by the names of those of the first message."""
        names, kinds = self._describe(message, list(message.__dataclass_fields__))
        chosen: list[str] = []
        for path in self._fields:
            own = [name for name in names if _is_within(name, path)]
            if not own:
                known = ", ".join(names[:MAX_LISTED_NAMES]) or "none"
                what = f"has no numeric field {printable_line(path, 80)}" if path else "has no numeric fields"
                raise DataError(f"{self._bag}: {self._topic} {what}; its numeric fields are {known}")
            chosen += [name for name in own if name not in chosen] if chosen else own
        wanted = {re.split(r"[.\[]", name)[0] for name in chosen}
        self._parts = [part for part in message.__dataclass_fields__ if part in wanted]
        names, kinds = self._describe(message, self._parts)
        places = {name: n for n, name in enumerate(names)}
        self._names, self._count = chosen, len(names)
        self._order = [places[name] for name in chosen]
        self._kinds = [kinds[n] for n in self._order]

    @staticmethod
    def _describe(message: Any, parts: Sequence[str]) -> tuple[list[str], list[bool]]:
        """Return the names of the numbers in some fields of a message, and whether they are floats."""
        names: list[str] = []
        kinds: list[bool] = []
        for part in parts:
            if not part.startswith("__") and part != _FILLER:
                _flatten(getattr(message, part), part, names, [], kinds)
        return names, kinds

    def _stamp(self, message: Any) -> int:
        stamp = getattr(getattr(message, "header", None), "stamp", None)
        if stamp is None:
            raise DataError(f"{self._bag}: the messages of {self._topic} have no header; use data.ros.clock: record")
        return int(stamp.sec) * 10**9 + int(stamp.nanosec)

    def finish(self, notes: list[str]) -> Series:
        """Return the series, in the order of its times; of messages at one time, the last one."""
        if not self._times:
            raise DataError(f"{self._bag}: {self._topic} has no messages; choose other data.ros.topics")
        times = np.array(self._times, dtype=np.int64)
        values = np.array(self._values, dtype=np.float64).reshape(len(times), -1)
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
        last = np.append(times[1:] != times[:-1], True)
        if not last.all():
            notes.append(f"{int((~last).sum()):,} messages of {self._topic} at the time of another one are left out")
        if times[0] < 0:
            raise DataError(
                f"{self._bag}: a message of {self._topic} has a time before 1970; use data.ros.clock: record"
            )
        return Series(self._topic, self._names, np.array(self._kinds), times[last], values[last])


def _is_within(name: str, path: str) -> bool:
    """Return whether the value `name` belongs to the field `path`; the header belongs only to itself."""
    if not path:
        return not name.startswith("header.")
    return name == path or name.startswith((f"{path}.", f"{path}["))


def _flatten(value: Any, name: str, names: list[str] | None, values: list[float], kinds: list[bool]) -> None:
    """Append the numbers within a value, whether they are floats and, unless `names` is None, their names."""
    if isinstance(value, bool | int | float | np.number | np.bool_):
        values.append(float(value))
        kinds.append(isinstance(value, float | np.floating))
        if names is not None:
            names.append(name)
    elif isinstance(value, np.ndarray):
        values.extend(value.ravel().tolist())
        kinds.extend([value.dtype.kind == "f"] * value.size)
        if names is not None:
            names.extend(f"{name}[{n}]" for n in range(value.size))
    elif isinstance(value, list):
        for n, each in enumerate(value):
            _flatten(each, f"{name}[{n}]", names, values, kinds)
    elif getattr(value, "__msgtype__", "") in _TIMES:
        _flatten(value.sec + value.nanosec / _NANOSECONDS, name, names, values, kinds)
    elif hasattr(value, "__msgtype__"):
        for part in value.__dataclass_fields__:
            if not part.startswith("__") and part != _FILLER:
                _flatten(getattr(value, part), f"{name}.{part}", names, values, kinds)


def topic_problem(text: str) -> str:
    """Return what is wrong with an entry of ``topics``, empty if nothing is."""
    return "" if _COLUMN.fullmatch(text) and len(text) <= 1000 else "expected /topic or /topic.field"
