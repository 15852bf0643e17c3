"""Which model file ``serket run NAME`` means, and what the included ones are (:mod:`runner.config.model_names`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runner.config.cross_checks import as_map, find_sources
from runner.config.error_messages import ConfigError, suggest
from runner.config.model_names import included_models
from runner.config.run_config import Override, RunConfig, load_config
from runner.config.sections import find_path_problem
from runner.config.yaml_io import parse, read_config_text, split_override
from runner.data.packaged import PACKAGED, SHAPES
from runner.report.printable import printable_line

_SUFFIXES = (".yaml", ".yml")

_SHAPES = {
    "mnist": (3000, 784),
    "digits": (1740, 64),
    "words": (3000, 55),
    "clumps": (18200, 16),
    "cycle": (100, 2),
    "syllables": (2000, 2),
    **SHAPES,
}
"""Rows that are used by default, those of digits in cyclic order, and columns, of each built-in data set."""

_PATHS_OF_DATA = frozenset({"observations", "categories", "lengths", "cache"})

_SIZES = ("classes", "topics", "most", "latent_dim")
"""Parameters that say how large a module is."""


class ModelFile(NamedTuple):
    """Which model file a command was asked for.

    Parameters
    ----------
    path : Path
    included : bool
        Whether it is one of the package.
    note : str
        What else the name could have meant; empty if nothing.
    """

    path: Path
    included: bool
    note: str = ""

    def load(self, settings: Sequence[Override] = ()) -> RunConfig:
        """Read and validate the file; relative paths start from its directory or, if included, from the current one.

        Raises
        ------
        ConfigError
            As :func:`runner.config.run_config.load_config` does.
        """
        path = Path(self.path.name) if self.included else self.path
        text = read_config_text(self.path)
        try:
            return load_config(path, [setting_from_here(each, path.parent.absolute()) for each in settings], text=text)
        except ConfigError as error:  # which file it is, the key paths do not say
            named = str(error).startswith((str(path), "--set"))
            raise error if named else ConfigError(f"{path}: {error}") from None


def setting_from_here(setting: Override, root: Path) -> Override:
    """Return a setting of a command or a script, in which paths are meant from where it is typed."""
    keys, value = split_override(setting) if isinstance(setting, str) else setting
    meant = paths_from_here(keys, value, root)
    return setting if meant == value else (keys, meant)


def paths_from_here(keys: Sequence[str], value: Any, root: Path | None) -> Any:
    """Return the value of a key of a model file with its paths as they are meant where it is typed.

    A relative path starts from the current directory, unless there is nothing of this name while there is in `root`.
    """
    if isinstance(value, dict):
        return {key: paths_from_here([*keys, str(key)], each, root) for key, each in value.items()}
    if isinstance(value, list):
        return [paths_from_here(keys, each, root) for each in value]
    is_path = keys[0] == "code" or list(keys) == ["checkpoints", "storage"]
    is_path = is_path or (keys[0] == "data" and not _PATHS_OF_DATA.isdisjoint(keys[1:]))
    if not is_path or not isinstance(value, str) or not value.strip() or "://" in value or find_path_problem(value):
        return value
    given = os.path.expanduser(value.strip())  # noqa: PTH111 (never fails)
    here = Path.cwd() / given
    there = here if root is None else root / given
    if root is not None and os.path.realpath(here) == os.path.realpath(there):
        return value
    in_root_alone = os.path.exists(there) and not os.path.exists(here)  # noqa: PTH110 (False for any odd name)
    return value if in_root_alone else str(here)


def find_model(given: str) -> ModelFile:
    """Return the model file that `given` means: a file of that path or, if there is none, an included model.

    What has a separator of folders or ends in ``.yaml`` or ``.yml`` is always a path.

    Raises
    ------
    ConfigError
        If there is neither.
    """
    path = Path(given)
    included = included_models()
    is_path = path.name != given or path.suffix.lower() in _SUFFIXES
    is_folder = os.path.isdir(path)  # noqa: PTH112 (False for any name that no file can have)
    if is_path or (os.path.exists(path) and not is_folder):  # noqa: PTH110
        both = not is_path and given in included
        note = f"the file {given} of this directory is taken, not the included model {given}" if both else ""
        return ModelFile(path, included=False, note=note)
    if given in included:
        return ModelFile(included[given], included=True)
    if is_folder:
        raise ConfigError(f"{printable_line(given, 60)}: is a folder, and no included model; give a model file in it")
    beside = next((name for suffix in _SUFFIXES if os.path.isfile(name := f"{given}{suffix}")), "")  # noqa: PTH113
    shown = printable_line(given, 60)
    if beside:
        raise ConfigError(f"{shown}: there is no such file and no included model of this name; give {beside}")
    hint = suggest(given, included) or "; serket models lists the included ones"
    raise ConfigError(f"{shown}: there is no such file and no included model of this name{hint}")


def describe_models() -> list[dict[str, Any]]:
    """Describe each included model as :func:`describe_model` does."""
    return [describe_model(name, path) for name, path in included_models().items()]


def describe_model(name: str, path: Path) -> dict[str, Any]:
    """Describe a model file from its text alone: no code that it names is imported.

    Returns
    -------
    dict
        ``name``, ``path``; ``summary``, the first sentence of its first comment; ``data``, for each source ``name``,
        ``source``, ``rows`` and ``columns``; ``modules``, for each ``name``, ``type`` and ``size`` (such as
        ``10 classes``); ``rounds``.
    """
    text = read_config_text(path)
    content = as_map(parse(text, str(path)))
    sources = {source: as_map(values) for source, (_, values) in find_sources(content.get("data")).items()}
    modules = {str(key): as_map(module) for key, module in as_map(content.get("modules")).items()}
    return {
        "name": name,
        "path": str(path),
        "summary": _summary(text),
        "data": [_describe_source(source, values) for source, values in sources.items()],
        "modules": [_describe_module(key, module) for key, module in modules.items()],
        "rounds": as_map(content.get("schedule")).get("rounds"),
    }


def _summary(text: str) -> str:
    """Return the first sentence of the comment with which a model file begins."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    sentence, stop, _ = " ".join(lines).partition(". ")
    return sentence + stop.rstrip()


def _describe_source(name: str, values: dict[Any, Any]) -> dict[str, Any]:
    rows, columns = _SHAPES.get(str(values.get("source")), (None, None))
    source = values.get("source")
    rows = values.get("count") or rows
    place = "of another package" if source in PACKAGED else "included"
    return {"name": name, "source": source, "rows": rows, "columns": columns, "from": place}


def _describe_module(name: str, module: dict[Any, Any]) -> dict[str, Any]:
    size = next(((key, module[key]) for key in _SIZES if isinstance(module.get(key), int)), None)
    words = {"latent_dim": "{} latent dimensions", "most": "at most {} classes"}
    shown = "" if size is None else words.get(size[0], f"{{}} {size[0]}").format(size[1])
    return {"name": name, "type": module.get("type"), "size": shown}


def model_lines(entry: dict[str, Any]) -> list[str]:
    """Return the lines that describe a model to people."""
    data = ", ".join(
        f"{each['source']} ({each['rows']:,} rows × {each['columns']} columns, {each['from']})"
        for each in entry["data"]
    )
    modules = ", ".join(
        f"{each['name']} ({each['size']})" if each["size"] else str(each["name"]) for each in entry["modules"]
    )
    return [
        f"{entry['name']}: {entry['summary']}",
        f"  data: {data}",
        f"  modules: {modules}; {entry['rounds']} rounds",
    ]
