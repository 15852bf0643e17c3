"""What a sweep consists of: grid, seeds and trials, and the files of its directory that say so."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.limits import MAX_INTEGER, MAX_RUN_FILE_BYTES, MAX_TRIALS
from actors.storage.field_checks import check_mapping
from actors.storage.filesystem import storage_at
from actors.storage.safe_files import parse_json
from runner.config.cross_checks import RUN_NAME
from runner.config.error_messages import format_text, unknown_name
from runner.config.model_files import paths_from_here
from runner.config.run_config import ConfigError, RunConfig, load_config
from runner.config.yaml_io import parse
from runner.report.printable import printable_line
from runner.runs.run_files import RunDirectoryError, RunFiles

PLAN = "sweep.json"
"""The file that says what a sweep consists of."""

MODEL = "model.yaml"
"""The model file as resolved, in which each trial sets its values."""

CRITERIA = ("evidence", "score")
"""What grid points may be chosen by: none of them needs labels."""

_SEED_RANGE = re.compile(r"(\d{1,19}):(\d{1,19})")


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: its name, the values of the grid's keys, and its seed."""

    name: str
    values: tuple[Any, ...]
    seed: int


@dataclass(frozen=True)
class Sweep:
    """A sweep.

    Parameters
    ----------
    path : Path
        Its directory, below which each trial has its run's directory.
    grid : mapping of str to sequence
        The values of each key path of the config.
    seeds : sequence of int
    by : {"evidence", "score"}
        What grid points are chosen by.
    """

    path: Path
    grid: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]
    by: str

    @property
    def points(self) -> list[tuple[Any, ...]]:
        """The grid points, as values of the keys in their order."""
        return list(itertools.product(*self.grid.values()))

    @property
    def trials(self) -> list[Trial]:
        """The trials: the seeds of the first grid point, then those of the next."""
        pairs = list(itertools.product(self.points, self.seeds))
        digits = len(str(len(pairs) - 1))
        return [
            Trial(self._name(number, digits, values, seed), values, seed) for number, (values, seed) in enumerate(pairs)
        ]

    def _name(self, number: int, digits: int, values: tuple[Any, ...], seed: int) -> str:
        parts = [f"{key.rpartition('.')[2]}-{show(value)}" for key, value in zip(self.grid, values, strict=True)]
        text = "-".join([f"{number:0{digits}d}", *parts])
        return f"{re.sub(r'[^A-Za-z0-9.]+', '-', text)[:60].strip('-.')}-seed-{seed}"

    def overrides(self, values: tuple[Any, ...], seed: int) -> list[tuple[list[str], Any]]:
        """Return what a trial sets in the config."""
        own = [(key.split("."), value) for key, value in zip(self.grid, values, strict=True)]
        return [*own, (["seed"], seed)]

    def config(self, trial: Trial) -> RunConfig:
        """Return the config of a trial.

        Raises
        ------
        ConfigError
            If the model file is not valid with its values.
        """
        return load_config(self.path / MODEL, self.overrides(trial.values, trial.seed))

    def write(self, model: RunConfig) -> None:
        """Write the plan and the model file into the sweep's directory."""
        plan = {"grid": {key: list(values) for key, values in self.grid.items()}, "seeds": list(self.seeds)}
        storage = storage_at(self.path.absolute())
        storage.write(MODEL, model.to_yaml().encode())
        storage.write(PLAN, json.dumps({**plan, "by": self.by}, indent=2).encode())


def read_sweep(path: Path) -> Sweep:
    """Return the sweep in a directory.

    Raises
    ------
    RunDirectoryError
        If there is none, or its files are damaged.
    """
    if not (path / PLAN).is_file():
        raise RunDirectoryError(f"{path}: is no directory of a sweep; give the one that serket sweep has named")
    try:
        plan = check_mapping(parse_json(RunFiles(path).read_bounded(PLAN, MAX_RUN_FILE_BYTES)), PLAN, 10)
    except ValueError:
        plan = {}
    grid, seeds, by = plan.get("grid"), plan.get("seeds"), plan.get("by")
    valid = (
        isinstance(grid, dict)
        and all(isinstance(values, list) and values for values in grid.values())
        and isinstance(seeds, list)
        and all(type(seed) is int and 0 <= seed <= MAX_INTEGER for seed in seeds)
        and by in CRITERIA
    )
    if not valid:
        raise RunDirectoryError(f"{path / PLAN}: is damaged; start the sweep again")
    assert isinstance(grid, dict)
    assert isinstance(seeds, list)
    check_count(grid, seeds)
    return Sweep(path, grid, seeds, str(by))


def parse_grid(given: Sequence[str], model: RunConfig) -> dict[str, list[Any]]:
    """Return the values of each key path that ``--grid KEY=VALUE,VALUE`` names.

    A key begins with a section of the model file, or with the name of a module or a source.

    Raises
    ------
    ConfigError
        If there is no such key, or if the values cannot be parsed.
    """
    grid: dict[str, list[Any]] = {}
    for text in given:
        key, equals, values = text.partition("=")
        keys = key.strip().split(".")
        if not equals or not all(keys) or not values.strip():
            raise ConfigError(
                f"--grid {format_text(text)}: expected KEY=VALUE,VALUE,…, for instance gmm.classes=5,10,20"
            )
        parsed = parse(f"[{values}]", f"--grid {format_text(key)}")
        full = ".".join(_full_key(keys, model))
        if full in grid:
            raise ConfigError(f"--grid {full}: is given twice; give all of its values at once")
        if full in ("seed", "name", "tracking"):
            remedy = "use --seeds" if full == "seed" else "leave it out"
            raise ConfigError(f"--grid {full}: is none of the values that a grid has; {remedy}")
        if not isinstance(parsed, list) or not parsed:
            raise ConfigError(f"--grid {full}: has no values; separate them by commas")
        twice = next((value for number, value in enumerate(parsed) if value in parsed[:number]), None)
        if twice is not None:
            raise ConfigError(f"--grid {full}: has the value {show(twice)} twice; leave one out")
        grid[full] = paths_from_here(full.split("."), parsed, None)
    return grid


def _full_key(keys: list[str], model: RunConfig) -> list[str]:
    """Return the keys from the top of the model file on."""
    first = keys[0]
    if first in type(model).model_fields:
        return keys
    if first in model.modules:
        return ["modules", *keys]
    if first in model.sources:
        return ["data", *keys]
    known = [*type(model).model_fields, *model.modules, *model.sources]
    raise ConfigError(f"--grid {format_text('.'.join(keys))}: {unknown_name('section or module', first, known)}")


def parse_seeds(given: str | None, model: RunConfig) -> list[int]:
    """Return the seeds: ``0:5`` are 0, 1, 2, 3, 4; ``0,7`` are these two; by default that of the model file.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    if given is None:
        return [model.seed]
    text = given.strip()
    if match := _SEED_RANGE.fullmatch(text):
        first, last = int(match[1]), int(match[2])
        if 0 < last - first <= MAX_TRIALS:
            return list(range(first, last))
    elif re.fullmatch(r"\d{1,19}(,\d{1,19})*", text):
        seeds = [int(each) for each in text.split(",")]
        if len(set(seeds)) == len(seeds) and max(seeds) <= MAX_INTEGER:
            return seeds
    raise ConfigError(
        f"--seeds {printable_line(given, 40)}: expected FIRST:END, as in 0:5 for 0 to 4, or different numbers with "
        "commas between them"
    )


def check_count(grid: Mapping[str, Sequence[Any]], seeds: Sequence[int]) -> None:
    """Check that a sweep does not have more trials than :data:`actors.limits.MAX_TRIALS`.

    Raises
    ------
    ConfigError
        If it has.
    """
    count = math.prod(len(values) for values in grid.values()) * len(seeds)
    if count > MAX_TRIALS:
        raise ConfigError(f"the grid and the seeds make {count:,} trials, at most {MAX_TRIALS:,} are run; take fewer")


def check_name(name: str) -> None:
    """Check that a name is that of a directory.

    Raises
    ------
    RunDirectoryError
        If it is not.
    """
    if not re.fullmatch(RUN_NAME, name):
        raise RunDirectoryError(
            f"{printable_line(name, 40)!r} cannot be a sweep's name: use letters, digits, . _ and -"
        )


def show(value: Any) -> str:
    """Return a value of the grid as text."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
