"""The independent sections of a model file, and the base class with which every section collects its problems.

Several sections have a plain dataclass in :mod:`actors` beside them (:class:`ResourcesConfig` and
:class:`actors.graph.spec.Resources`, for example), which ``to_model`` returns. There are two classes on purpose. The
section is what a person may write: aliases, units and short forms, checked by pydantic, with every problem reported at
its key path, and written back as YAML. The dataclass holds the resolved values, is sent between processes, and must
need neither pydantic nor :mod:`runner`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from actors.coordination.placement import Placement
from actors.coordination.recovery import RecoveryPolicy
from actors.graph.spec import Resources
from actors.limits import MAX_IMAGE_SIDE, MAX_PATH_CHARACTERS, MAX_SECONDS, MAX_WINDOW_ROWS
from actors.messaging.stored_rows import is_url
from runner.config.error_messages import (
    ConfigErrors,
    Problem,
    describe_errors,
    find_large_integer,
    format_value,
    get_fields,
)
from runner.data.datasets import IN_SEQUENCES
from runner.data.images import ImageOptions
from runner.data.packaged import LOCATED, WITH_SUBJECTS
from runner.data.ros import BagOptions, topic_problem
from runner.data.shards import IMAGES, PARQUET, ShardOptions
from runner.data.tables import TableOptions, is_table
from runner.data.waves import WaveOptions
from runner.data.windows import Feature, WindowOptions


class Section(BaseModel):
    """A part of a model file that collects all its problems instead of stopping at the first."""

    model_config = ConfigDict(extra="forbid", strict=True, ser_json_inf_nan="constants")
    expected: ClassVar[str] = "a map"

    @model_validator(mode="wrap")
    @classmethod
    def _collect_problems(cls, given: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        if isinstance(given, cls):
            return given
        plain = cls._expand(given)
        if not isinstance(plain, dict):
            raise ConfigErrors([((), f"expected {cls.expected}, got {format_value(given)}")])
        root = (info.context or {}).get("root", Path.cwd())
        plain, problems = cls._prepare(plain, root)
        try:
            made = handler(plain)
        except ValidationError as error:
            raise ConfigErrors([*problems, *describe_errors(error, get_fields(cls), plain)]) from error
        problems = problems or made._find_large_integers() or made._finish()
        if problems:
            raise ConfigErrors(problems)
        return made

    @classmethod
    def _expand(cls, given: Any) -> Any:
        """Return the map that a section's short form is an abbreviation of."""
        return given

    @classmethod
    def _prepare(cls, given: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[Problem]]:  # noqa: ARG003
        """Resolve and check what depends on several keys, before pydantic validates each of them."""
        return given, []

    def _find_large_integers(self) -> list[Problem]:
        """Return the fields with integers beyond int64, in which numpy and the operating system count."""
        own = {name: getattr(self, name) for name in type(self).model_fields}
        return [((name,), text) for name, value in own.items() if (text := find_large_integer(value))]

    def _finish(self) -> list[Problem]:
        """Check what can be checked only on a section that has no other problems."""
        return []


_Side = Annotated[int, Field(ge=1, le=MAX_IMAGE_SIDE)]


_Column = Annotated[str, Field(min_length=1)] | Annotated[int, Field(ge=1)]
ScaleKind = Literal["standard", "unit", "none"]


class FrameConfig(Section):
    """How the frames and arrays that Python gives are read, where a run has their rows in a file of its own.

    Which columns of data frames are used, and whether an array S × T × features is one of sequences.
    """

    columns: Annotated[list[_Column], Field(min_length=1)] | None = None
    exclude: Annotated[list[_Column], Field(min_length=1)] | None = None
    sequence_column: _Column | None = None
    category_column: _Column | None = None
    sequences: bool | None = None

    def to_model(self) -> TableOptions:
        """Return the choice of columns."""
        columns = None if self.columns is None else tuple(self.columns)
        return TableOptions(None, None, columns, tuple(self.exclude or ()), self.sequence_column, self.category_column)


_Seconds = Annotated[float, Field(gt=0, le=10.0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1, le=1000)]


class SoundConfig(Section):
    """How frames of wave files become rows; see :class:`runner.data.waves.WaveOptions`."""

    feature: Literal["mfcc", "log_spectrum"] = "mfcc"
    frame: _Seconds = WaveOptions.frame
    hop: _Seconds = WaveOptions.hop
    bands: _Count = WaveOptions.bands
    coefficients: _Count = WaveOptions.coefficients

    def _finish(self) -> list[Problem]:
        many = self.feature == "mfcc" and self.coefficients > self.bands
        return [(("coefficients",), f"expected at most the {self.bands} bands, got {self.coefficients}")] * many

    def to_model(self) -> WaveOptions:
        """Return the options."""
        return WaveOptions(**self.model_dump())


class BagConfig(Section):
    """How the messages of ROS bags become rows; see :class:`runner.data.ros.BagOptions`."""

    topics: Annotated[list[str], Field(min_length=1)] | None = None
    rate: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = None
    gap: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] = BagOptions.gap
    clock: Literal["record", "header"] = "record"

    def _finish(self) -> list[Problem]:
        topics = enumerate(self.topics or ())
        problems = [(number, text, topic_problem(text)) for number, text in topics]
        return [(("topics", n), f"{problem}, got {format_value(text)}") for n, text, problem in problems if problem]

    def to_model(self) -> BagOptions:
        """Return the options."""
        return BagOptions(tuple(self.topics or ()), self.rate, self.gap, self.clock)


class WindowConfig(Section):
    """How windows of rows become rows; see :class:`runner.data.windows.WindowOptions`."""

    rows: Annotated[int, Field(ge=2, le=MAX_WINDOW_ROWS)]
    step: Annotated[int, Field(ge=1, le=MAX_WINDOW_ROWS)] | None = None
    features: Annotated[list[Feature], Field(min_length=1)] = Field(
        default_factory=lambda: list(WindowOptions.features)
    )
    bands: _Count = WindowOptions.bands

    def _finish(self) -> list[Problem]:
        if len(set(self.features)) < len(self.features):
            return [(("features",), "names a feature twice; leave one out")]
        if "spectrum" in self.features and self.bands > self.rows // 2:
            return [(("bands",), f"expected at most {self.rows // 2}, half the rows of a window, got {self.bands}")]
        return []

    def to_model(self) -> WindowOptions:
        """Return the options."""
        return WindowOptions(self.rows, self.step, tuple(self.features), self.bands)


class DataConfig(Section):
    """The training data: arguments of :func:`runner.data.datasets.load`."""

    source: Literal[
        "mnist",
        "digits",
        "words",
        "clumps",
        "cycle",
        "syllables",
        "spoken_digits",
        "spoken_digits_frames",
        "mocap6",
        "watch",
        "japanese_vowels",
        "japanese_vowels_test",
        "basic_motions",
        "basic_motions_test",
        "fashion_mnist",
        "fashion_mnist_test",
        "files",
    ]
    count: Annotated[int, Field(ge=1)] | None = None
    offset: Annotated[int, Field(ge=0)] = 0
    order: Literal["cyclic", "given", "shuffled"] = "given"
    observations: Path | str | Annotated[list[Path | str], Field(min_length=1)] | None = None
    categories: Path | dict[str, Path] | None = None
    lengths: Path | list[Annotated[int, Field(ge=1)]] | None = None
    header: bool | None = None
    index: bool | None = None
    divide_by: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    scale: ScaleKind | Annotated[dict[_Column, ScaleKind], Field(min_length=1)] | None = None
    sequences: bool | None = None
    on_disk: bool | None = None
    columns: Annotated[list[_Column], Field(min_length=1)] | None = None
    exclude: Annotated[list[_Column], Field(min_length=1)] | None = None
    sequence_column: _Column | None = None
    category_column: _Column | None = None
    variable: Annotated[str, Field(min_length=1)] | None = None
    frames: FrameConfig | None = None
    sound: SoundConfig | None = None
    ros: BagConfig | None = None
    windows: WindowConfig | None = None
    image_size: Annotated[list[_Side], Field(min_length=2, max_length=2)] | None = None
    grey: bool | None = None
    cache: Path | str | None = None
    type: Literal["observations", "labels"] | None = None
    confidence: Annotated[float, Field(gt=0, le=1)] | None = None
    subjects: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None

    @classmethod
    def _prepare(cls, given: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[Problem]]:
        plain = dict(given)
        problems: list[Problem] = []
        for key in ("observations", "categories", "lengths", "cache"):
            value = plain.get(key)
            if isinstance(value, dict) and key == "categories":
                plain[key] = {name: _resolve_path(path, root) for name, path in value.items()}
                problems += [((key, name), text) for name, path in value.items() if (text := find_path_problem(path))]
            elif value is not None and (key == "observations" or (key == "cache" and not isinstance(value, list))):
                plain[key], found = _resolve_locations(value, root)
                problems += [((key, *within), text) for within, text in found]
            elif value is not None:
                plain[key] = _resolve_path(value, root)
                problems += [((key,), text)] if (text := find_path_problem(value)) else []
        return plain, problems

    def _finish(self) -> list[Problem]:
        problems: list[Problem] = []
        if self.windows is not None and (self.labels or self.on_disk or self.order != "given"):
            text = "are of rows in memory, in the order given; leave out type: labels, on_disk and order"
            problems.append((("windows",), text))
        keys = ["observations", "categories", "lengths", "header", "index", "divide_by", "sequences", "on_disk"]
        keys += ["columns", "exclude", "sequence_column", "category_column", "variable", "sound", "ros"]
        keys += ["image_size", "grey", "cache", "type"]
        files = [key for key in keys if getattr(self, key) is not None]
        if self.subjects is not None and self.source not in WITH_SUBJECTS:
            named = " and ".join(WITH_SUBJECTS)
            problems.append((("subjects",), f"goes with the sources that name people, {named}; leave it out"))
        if self.source in IN_SEQUENCES and self.order != "given":
            problems.append((("order",), f"{self.order!r} would mix the sequences of {self.source}; use order 'given'"))
        if self.source != "files":
            files = [key for key in files if key != "observations" or self.source not in LOCATED]
            return problems + [((key,), f"goes with source 'files', the source is {self.source!r}") for key in files]
        if self.observations is None:
            problems.append((("observations",), "is missing: source 'files' needs the path of a file of observations"))
        if self.confidence is not None and not self.labels:
            problems.append((("confidence",), "is that of labels; add type: labels, or leave it out"))
        if self.labels and (self.scale not in (None, "none") or self.divide_by is not None):
            problems.append((("type",), "labels are numbers of classes; leave out scale and divide_by"))
        if self.exclude is not None and self.columns is not None:
            problems.append((("exclude",), "goes without columns, which name all that are used; leave out one of them"))
        name = str(self.observations).lower()
        if self.variable is not None and not name.endswith(".mat"):
            problems.append((("variable",), "goes with a .mat file, whose variable it names; leave it out"))
        if self.category_column is not None and self.categories is not None:
            problems.append((("category_column",), "goes without categories, a file of them; leave out one of them"))
        if self.order == "cyclic" and not isinstance(self.categories, Path) and self.category_column is None:
            problems.append((("order",), "'cyclic' needs categories: give one file of categories, or order 'given'"))
        if self.sequence_column is not None and (self.lengths is not None or self.sequences or self.order != "given"):
            text = "gives the lengths itself, in order 'given'; leave out lengths, sequences or order"
            problems.append((("sequence_column",), text))
        elif self.sequences and (self.lengths is not None or self.order != "given"):
            problems.append((("sequences",), "gives the lengths itself, in order 'given'; leave out lengths or order"))
        elif self.lengths is not None and self.order != "given":
            problems.append((("lengths",), f"order {self.order!r} would mix the sequences; use order 'given'"))
        return problems

    @property
    def labels(self) -> bool:
        """Whether the rows are labels of rows of other sources."""
        return self.type == "labels"

    def wave_options(self) -> WaveOptions:
        """Return how frames of wave files become rows."""
        return WaveOptions() if self.sound is None else self.sound.to_model()

    def bag_options(self) -> BagOptions:
        """Return how messages of ROS bags become rows."""
        return BagOptions() if self.ros is None else self.ros.to_model()

    def frame_options(self) -> TableOptions:
        """Return which columns of data frames are used."""
        own = {name: getattr(self, name) for name in FrameConfig.model_fields}
        return (self.frames or FrameConfig(**own)).to_model()

    def _is_table(self) -> bool:
        """Return whether the observations are a text table."""
        return isinstance(self.observations, str | Path) and is_table(Path(self.observations))

    def table_options(self) -> TableOptions:
        """Return how rows are made of a text table."""
        return TableOptions(
            self.header,
            self.index,
            None if self.columns is None or not self._is_table() else tuple(self.columns),
            tuple(self.exclude or ()),
            self.sequence_column,
            self.category_column,
            variable=self.variable,
        )

    def shard_options(self, kind: str = "") -> ShardOptions:
        """Return how rows are made of Parquet files and pictures: of one `kind`, or of what the section names."""
        size = None if self.image_size is None else (self.image_size[0], self.image_size[1])
        columns = self.columns if not self._is_table() else None
        return ShardOptions(
            None if columns is None or kind == IMAGES else tuple(map(str, columns)),
            ImageOptions() if kind == PARQUET else ImageOptions(size, bool(self.grey)),
            None if self.cache is None else str(self.cache),
        )


_MIN_AMOUNT = 0.0001
_LABEL_CHARACTERS = "letters, digits and, within, '.', '_' and '-'"
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_PREFIX_PART = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
_MAX_PREFIX = 253  # of a label's key, as in Kubernetes and Ray
_MAX_LABEL_VALUES = 100


def _is_label_key(text: str) -> bool:
    """Return whether a text is ``name`` or ``domain.of.the.name/name``; takes linear time."""
    prefix, slash, name = text.rpartition("/")
    if slash and (len(prefix) > _MAX_PREFIX or not all(map(_PREFIX_PART.fullmatch, prefix.split(".")))):
        return False
    return _LABEL.fullmatch(name) is not None


def _is_label_selector(text: str) -> bool:
    """Return whether a text is ``value``, ``!value``, ``in(a, b)`` or ``!in(a, b)``; takes linear time."""
    value = text.removeprefix("!")
    if not (value.startswith("in(") and value.endswith(")")):
        return _LABEL.fullmatch(value) is not None
    first, *others = value[3:-1].split(",", _MAX_LABEL_VALUES)
    return all(map(_LABEL.fullmatch, [first, *(each.lstrip(" ") for each in others)]))


class ResourcesConfig(Section):
    """The resources that a module's actor reserves; see :class:`actors.graph.spec.Resources`."""

    num_cpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    num_gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"] = 0.0
    memory: Annotated[int, Field(ge=0)] | str = 0
    accelerator_type: str | None = None
    label_selector: dict[str, str] = Field(default_factory=dict)
    custom: dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )

    def _finish(self) -> list[Problem]:
        problems: list[Problem] = []
        if isinstance(self.memory, str) and _parse_bytes(self.memory) is None:
            expected = "expected bytes, or a size as '2 GiB' or '500 MB'"
            problems.append((("memory",), f"{expected}, got {format_value(self.memory)}"))
        own = [("custom", name) for name in self.custom if name in ("CPU", "GPU", "memory", "object_store_memory")]
        problems += [(place, "has a key of its own; use that") for place in own]
        return problems + self._check_amounts() + self._check_labels()

    def _check_amounts(self) -> list[Problem]:
        """Return the amounts that Ray rejects: it counts in ten-thousandths, and only whole GPUs above one."""
        amounts: dict[tuple[str, ...], float | Literal["auto"]] = {
            ("num_cpus",): self.num_cpus,
            ("num_gpus",): self.num_gpus,
        }
        amounts |= {("custom", name): amount for name, amount in self.custom.items()}
        problems = [
            (place, f"expected at least {_MIN_AMOUNT:g}, got {amount:g}")
            for place, amount in amounts.items()
            if amount != "auto" and 0.0 < amount < _MIN_AMOUNT
        ]
        gpus = self.num_gpus
        if gpus != "auto" and gpus > 1.0 and not gpus.is_integer():
            problems.append((("num_gpus",), f"expected a part of one GPU or a whole number of them, got {gpus:g}"))
        return problems

    def _check_labels(self) -> list[Problem]:
        """Return the labels that are not valid in Ray's syntax."""
        problems: list[Problem] = []
        for key, value in self.label_selector.items():
            if not _is_label_key(key):
                expected = f"expected label names of {_LABEL_CHARACTERS}"
                problems.append((("label_selector",), f"{expected}, got {format_value(key)}"))
            elif value and not _is_label_selector(value):
                expected = f"expected value, !value, in(a, b) or !in(a, b), values of {_LABEL_CHARACTERS}"
                problems.append((("label_selector", key), f"{expected}, got {format_value(value)}"))
        return problems

    def to_model(self) -> Resources:
        """Return the resources, with `memory` in bytes."""
        given = self.model_dump()
        size = _parse_bytes(self.memory) if isinstance(self.memory, str) else self.memory
        return Resources(**{**given, "memory": float(size or 0)})


_UNITS = {
    "": 1,
    "B": 1,
    **{f"{p}B": 1000**n for n, p in enumerate("KMGT", 1)},
    **{f"{p}iB": 1024**n for n, p in enumerate("KMGT", 1)},
}


_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_MAX_AMOUNT_CHARACTERS = 40


def _parse_bytes(text: str) -> int | None:
    """Return the bytes of a size such as ``2 GiB``, None if it cannot be parsed."""
    match = _AMOUNT.fullmatch(text.strip()) if len(text) <= _MAX_AMOUNT_CHARACTERS else None
    return int(float(match.group(1)) * _UNITS[match.group(2)]) if match and match.group(2) in _UNITS else None


class ClusterConfig(Section):
    """Settings that depend on the cluster.

    Placement of modules on nodes, resources of modules there, and the number of nodes that a run waits for before it
    starts.
    """

    strategy: Literal["pack", "spread"] | None = None
    together: list[list[str]] = Field(default_factory=list)
    nodes: Annotated[int, Field(ge=1)] = 1
    modules: dict[str, ResourcesConfig] = Field(default_factory=dict)

    def _finish(self) -> list[Problem]:
        small = [(index, group) for index, group in enumerate(self.together) if len(group) < 2]
        return [
            (("together", index), f"expected two modules at least, got {format_value(group)}") for index, group in small
        ]

    def to_model(self) -> Placement:
        """Return the placement of modules on nodes."""
        return Placement(self.strategy, tuple(tuple(group) for group in self.together))


class RecoveryConfig(Section):
    """Recovery from dead processes; see :class:`actors.coordination.recovery.RecoveryPolicy`."""

    tries: Annotated[int, Field(ge=1)] = RecoveryPolicy.tries
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = RecoveryPolicy.timeout
    wait: Annotated[float, Field(gt=0, allow_inf_nan=False)] = RecoveryPolicy.wait

    def _finish(self) -> list[Problem]:
        seconds = {"timeout": self.timeout, "wait": self.wait}
        return [
            ((name,), f"expected at most {MAX_SECONDS:g} seconds, got {value:g}")
            for name, value in seconds.items()
            if value is not None and value > MAX_SECONDS
        ]

    def to_model(self) -> RecoveryPolicy:
        """Return the recovery policy."""
        return RecoveryPolicy(self.tries, self.timeout, self.wait)


class CheckpointsConfig(Section):
    """Storage of commits.

    A path or URL below which each run has a directory (by default the run's own directory), and how many commits are
    kept.
    """

    storage: str | None = None
    keep: Annotated[int, Field(ge=1)] | None = None

    @classmethod
    def _prepare(cls, given: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[Problem]]:
        storage = given.get("storage")
        local = isinstance(storage, str) and "://" not in storage
        if isinstance(storage, str) and (problem := find_path_problem(storage)):
            return given, [(("storage",), problem)]
        return {**given, "storage": str(_resolve_path(storage, root))} if local else given, []


_TRACKER = re.compile(r"tensorboard|mlflow|[A-Za-z_]\w{0,99}(\.\w{1,100}){0,20}:[A-Za-z_]\w{0,99}")


class TrackerConfig(Section):
    """A callback that follows the run, with the arguments of its class; see :mod:`runner.tracking`."""

    model_config = ConfigDict(extra="allow")
    expected: ClassVar[str] = "tensorboard, mlflow or package.module:Class, or a map with this as type and arguments"

    type: str

    @classmethod
    def _expand(cls, given: Any) -> Any:
        return {"type": given} if isinstance(given, str) else given

    @classmethod
    def _prepare(cls, given: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[Problem]]:
        plain = dict(given)
        for name, key in (("tensorboard", "directory"), ("mlflow", "uri")):
            value = plain.get(key)
            if plain.get("type") == name and isinstance(value, str | Path) and "://" not in str(value):
                if problem := find_path_problem(value):
                    return plain, [((key,), problem)]
                plain[key] = str(_resolve_path(value, root))
        return plain, []

    def _finish(self) -> list[Problem]:
        if _TRACKER.fullmatch(self.type):
            return []
        return [(("type",), f"expected tensorboard, mlflow or package.module:Class, got {format_value(self.type)}")]

    @model_serializer(mode="wrap")
    def _abbreviate(self, handler: SerializerFunctionWrapHandler) -> Any:
        written: dict[str, Any] = handler(self)
        return written if len(written) > 1 else self.type


def _resolve_path(path: Any, root: Path) -> Any:
    """Return an absolute path; a value that is no path is returned unchanged, for the section to reject."""
    if not isinstance(path, str | Path) or not str(path) or find_path_problem(path):
        return path
    return Path(os.path.abspath(root / os.path.expanduser(path)))  # noqa: PTH100, PTH111 (neither follows links nor fails)


def _resolve_locations(given: Any, root: Path) -> tuple[Any, list[Problem]]:
    """Return an absolute path or a URL, or a list of these, and what is wrong with them."""
    problems: list[Problem] = []

    def resolved(location: Any, *within: int) -> Any:
        if not isinstance(location, str | Path) or not str(location):
            problems.append((within, f"expected a path, got {format_value(location)}"))
        elif text := find_path_problem(location):
            problems.append((within, text))
        elif not is_url(str(location)):
            return _resolve_path(location, root)
        return location

    if isinstance(given, list) and given:
        found: Any = [resolved(location, number) for number, location in enumerate(given)]
    else:
        found = resolved(given)
    return (None if problems else found), problems


def find_path_problem(path: Any) -> str:
    """Return the message that a path can be that of no file; empty if it can, or is not a path."""
    text = str(path) if isinstance(path, str | Path) else ""
    if len(text) > MAX_PATH_CHARACTERS:
        return f"expected a path of at most {MAX_PATH_CHARACTERS} characters, got {len(text)}"
    return f"expected a path without the character NUL, got {format_value(text)}" if "\0" in text else ""
