"""Model files as Python values: what :class:`runner.Model` is given becomes the content of a model file.

The content is validated as that of a file is, with the same messages; this module only translates: handles and numpy
values into plain data, connections of handles into names, and it completes what Python may leave out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.errors import GraphError
from actors.graph.graph import Graph
from actors.graph.registry import find
from runner.config.cross_checks import DATA
from runner.config.model_files import find_model
from runner.config.run_config import ConfigError, RunConfig, make_config
from runner.config.sections import DataConfig
from runner.report.printable import brief

if TYPE_CHECKING:
    from runner.script import Handle

ROWS = "given-by-python.npy"
"""Stands for rows that no file holds: those that :meth:`runner.Model.fit` is yet to be given, and those of a script."""

_LATENT = ("vae", "pca")
_MIXTURES = ("gmm", "dp_gmm", "ar_gmm")


def build_config(
    modules: Any,
    named: Mapping[str, Any],
    connections: Any,
    schedule: Mapping[str, Any] | None,
    data: Mapping[str, Any] | None,
    sections: Mapping[str, Any],
    networks: Path,
) -> tuple[RunConfig, bool]:
    """Return the config of a model whose parts are given as Python values.

    Parameters
    ----------
    modules, connections, schedule, data
        As for :class:`runner.Model`.
    named : mapping
        Further modules by name.
    sections : mapping
        Further sections of the model file.
    networks : Path
        A folder for networks that classes of handles define.

    Returns
    -------
    RunConfig
    bool
        Whether there are files in `networks`.

    Raises
    ------
    ConfigError
        Lists every problem that was found.
    GraphError
        If something is neither a module nor a connection.
    """
    given = _name_modules(modules, named)
    sources = _make_sources(data)
    names = list(sources) if _are_several(data) else [DATA]
    pairs = _make_connections(connections, given, names[0])
    modules_section = _make_sections(given, pairs, networks)
    has_networks = any(networks.iterdir())
    raw: dict[str, Any] = {
        **{key: _plain(value) for key, value in sections.items()},
        "data": sources if _are_several(data) else sources[DATA],
        "modules": modules_section,
        "connections": pairs,
        "schedule": {"rounds": 1} if schedule is None else _schedule_of(schedule),
    }
    if has_networks:
        raw["code"] = [*raw.get("code", []), str(networks)]
    config = make_config(raw, Path.cwd())
    if schedule is None:
        config = make_config({**raw, "schedule": default_schedule(config.graph)}, Path.cwd())
    return config, has_networks


def config_of_script(handles: Sequence[Handle], name: str, seed: int, code: Path, root: Path) -> RunConfig:
    """Return the config of a run of a script, by which others can use what it has learnt.

    Parameters
    ----------
    handles : sequence of Handle
        All of the model, with their names.
    name : str
    seed : int
    code : Path
        The folder of networks that classes of handles define.
    root : Path
        The run's directory.

    Raises
    ------
    ConfigError
        If a module has a name that it cannot have in a model file.
    """
    sources = {handle.name: handle for handle in handles if handle.type == "observation"}
    sections = {source: _section_of_observation(handle) for source, handle in sources.items()}
    raw = {
        "name": name,
        "seed": seed,
        "data": sections[DATA] if list(sections) == [DATA] else sections,
        "modules": {handle.name: _section_of(handle) for handle in handles if handle.name not in sources},
        "connections": [f"{lower.name} -> {handle.name}" for handle in handles for lower in handle.below],
        "schedule": {"rounds": 1},
        "code": [str(code)] if code.is_dir() and any(code.iterdir()) else [],
    }
    return make_config(raw, root)


def _section_of_observation(handle: Any) -> dict[str, Any]:
    reading = {key: value for key, value in handle.reading.items() if value}
    return {"source": "files", "observations": handle.file or ROWS, **reading}


def load_with_overrides(given: str | Path, overrides: Mapping[str, Any]) -> RunConfig:
    """Return the config of a model file with values that replace its own (:meth:`runner.Model.from_file`).

    Without a file of that path, `given` is the name of an included model, as for ``serket run``.

    Raises
    ------
    ConfigError
        Lists every problem that was found.
    """
    try:
        return find_model(str(given)).load(list(_flatten(overrides)))
    except ConfigError as error:
        raise ConfigError(str(error).replace("--set: ", "")) from None


def with_labels(config: RunConfig) -> tuple[RunConfig, str]:
    """Return a config with a source of labels, added if it has none, and the name of this source.

    Raises
    ------
    GraphError
        If it is not clear which module the labels are for.
    """
    told = [name for name, source in config.sources.items() if source.labels]
    if len(told) == 1:
        return config, told[0]
    takers = [name for name, module in config.modules.items() if _takes_labels(module.type)]
    if told or len(takers) != 1:
        several = told or takers
        found = (
            f"there are {', '.join(several)}"
            if several
            else "there is none; use a gmm, dp_gmm, ar_gmm, mlda or product"
        )
        what = "source of labels" if told else "module that takes labels"
        raise GraphError(f"labels: need one {what}, and {found}")
    name = next(each for each in ("labels", "known_labels", "labels_of_rows") if each not in config.modules)
    plain = config.plain()
    data = plain["data"] if isinstance(config.data, dict) else {DATA: plain["data"]}
    section = {"source": "files", "observations": str(Path(ROWS).absolute()), "type": "labels"}
    connections = [*plain["connections"], f"{name} -> {takers[0]}"]
    raw = {**plain, "data": {**data, name: section}, "connections": connections}
    return make_config(raw, Path.cwd()), name


def _takes_labels(type_name: str) -> bool:
    return any(port.name == "labels" and port.direction == "in" for port in find(type_name).ports)


def has_rows(config: RunConfig) -> bool:
    """Return whether a config names the rows to learn from."""
    return not any(_is_placeholder(source) for source in config.sources.values())


def _is_placeholder(source: DataConfig) -> bool:
    return isinstance(source.observations, str | PurePath) and PurePath(source.observations).name == ROWS


def default_schedule(graph: Graph) -> dict[str, Any]:
    """Return the schedule of a model without one: that of ``configs/hmm.yaml``, with a VAE that of ``digits.yaml``.

    Modules with latent vectors learn first. All others exchange messages until one exchange changes the score by
    little; where a Markov model is above a mixture, from several starts, of which the best one is kept. A mixture then
    answers the last message, and before it a Markov model with regimes.
    """
    kinds = {name: spec.type for name, spec in graph.modules.items() if name not in graph.sources}
    first = [name for name, kind in kinds.items() if kind in _LATENT]
    rest = [name for name in kinds if name not in first]
    steps: list[Any] = list(first)
    if len(rest) < 2:
        return {"rounds": 3 if first and rest else 1, "steps": [*steps, *rest]}
    by_network = "vae" in kinds.values()
    block: dict[str, Any] = {"steps": rest, "repeat": 20, "tolerance": 0.01}
    if by_network:
        block |= {"repeat": 10, "tolerance": 5.0}
    if "markov" in kinds.values() and any(kinds[name] in _MIXTURES for name in rest):
        block["chains"] = 3 if by_network else 4
    last = [{"module": name, "set": {"inner_iterations": 0}} for name in rest if kinds[name] == "switching_markov"]
    last += [{"module": name, "set": {"iterations": 0}} for name in rest if kinds[name] in ("gmm", "ar_gmm")]
    return {"rounds": 3 if by_network else 2, "steps": [*steps, block, *last]}


# --- modules ------------------------------------------------------------------------------------------------------


def _name_modules(modules: Any, named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections and handles of modules by name."""
    if modules is None:
        given: dict[str, Any] = {}
    elif isinstance(modules, Mapping):
        given = {str(name): module for name, module in modules.items()}
    elif isinstance(modules, Iterable) and not isinstance(modules, str):
        given = _name_handles(list(modules))
    else:
        given = _name_handles([modules])
    if twice := [name for name in named if name in given]:
        raise GraphError(f"module {twice[0]!r} is given twice; leave one out")
    given |= named
    if not given:
        raise GraphError("no module is given; a model needs at least one, such as gmm=runner.GMM(4)")
    for name, module in given.items():
        if not isinstance(module, Mapping) and not _is_handle(module):
            raise GraphError(
                f"module {name!r} is {brief(module)}; give a handle such as runner.GMM(4), or a map with its type and "
                "parameters"
            )
    return given


def _name_handles(handles: list[Any]) -> dict[str, Any]:
    """Return handles by their names or, for those without, numbered short names."""
    given: dict[str, Any] = {}
    for handle in handles:
        if not _is_handle(handle):
            raise GraphError(
                f"modules: {brief(handle)} is no module; give handles such as runner.GMM(4), or a map by name"
            )
        base, number = handle.name or handle.short, 1
        name = base
        while name in given:
            if handle.name:
                raise GraphError(f"two modules are named {name!r}; give one another name")
            number += 1
            name = f"{base}{number}"
        given[name] = handle
    return given


def _is_handle(given: Any) -> bool:
    """Return whether something is a handle; those who give none do not wait for the import of all handles."""
    return any(cls.__module__ == "runner.script" and cls.__name__ == "Handle" for cls in type(given).__mro__)


def _make_sections(given: Mapping[str, Any], pairs: Sequence[str], networks: Path) -> dict[str, Any]:
    """Return the sections of all modules, and copy the networks that classes of handles define."""
    handles = {name: handle for name, handle in given.items() if _is_handle(handle)}
    for name, handle in handles.items():
        if handle.type == "observation":
            raise GraphError(
                f"{name!r} is an observation: leave it out, connect to 'data', and give its rows to fit(rows)"
            )
        if handle.load_dir is not None:
            raise GraphError(f"{name!r}: load_dir is for modules that a script updates; use Model.load(run)")
    sections = {name: module if name in handles else _section_of(module) for name, module in given.items()}
    before = {handle: dict(vars(handle)) for handle in handles.values()}
    try:
        for name, handle in handles.items():
            handle.name = name
            lower = [pair.split(" -> ")[0] for pair in pairs if pair.split(" -> ")[1] == name]
            handle.below = [handles.get(each, SimpleNamespace(name=each)) for each in lower]
        for name, handle in handles.items():
            handle.complete(networks)
            sections[name] = _section_of(handle)
    finally:  # the same handles may be given to another model
        for handle, values in before.items():
            vars(handle).update(values)
    return sections


def _section_of(module: Any) -> Any:
    """Return the section of a module in a model file."""
    if isinstance(module, Mapping):
        return _plain(module)
    handle: Handle = module
    section: dict[str, Any] = {"type": handle.type, **handle.parameters, "threads": handle.threads}
    if handle.resources.num_gpus:
        section["resources"] = {"num_gpus": handle.resources.num_gpus}
    if handle.sharing is not None:
        section |= asdict(handle.sharing)
    return _plain(section)


# --- connections, data and schedule ---------------------------------------------------------------------------------


def _make_connections(given: Any, modules: Mapping[str, Any], source: str) -> list[str]:
    """Return connections as texts; without any, those of handles or one chain."""
    if given is None:
        return _connected_handles(modules, source) or _pairs_of([source, *modules])
    items = [given] if isinstance(given, str) else list(given)
    pairs: list[str] = []
    for item in items:
        parts = item.split("->") if isinstance(item, str) else item
        if isinstance(parts, str | Mapping) or not isinstance(parts, Iterable):
            raise GraphError(f"connections: {brief(item)} is none; give 'lower -> upper', or a pair of modules")
        chain = [_name_of(part, modules) for part in parts]
        if len(chain) < 2:
            raise GraphError(f"connections: {brief(item)} names one module; give 'lower -> upper'")
        pairs += _pairs_of(chain)
    return pairs


def _pairs_of(chain: Sequence[str]) -> list[str]:
    return [f"{lower} -> {upper}" for lower, upper in pairwise(chain)]


def _name_of(part: Any, modules: Mapping[str, Any]) -> str:
    """Return the name of a module in a connection."""
    if isinstance(part, str):
        return part.strip()
    for name, module in modules.items():
        if module is part:
            return name
    raise GraphError(f"connections: {brief(part)} is none of the modules {', '.join(modules)}; give their names")


def _connected_handles(modules: Mapping[str, Any], source: str) -> list[str]:
    """Return the connections that handles were given by ``connect``; those without any are above the observations."""
    if not any(getattr(module, "below", None) for module in modules.values()):
        return []
    pairs: list[str] = []
    for name, module in modules.items():
        lower = getattr(module, "below", None) or []
        own = [_name_of(each, modules) for each in lower if getattr(each, "type", "") != "observation"]
        if len(own) < len(lower) or not lower:
            own = [source, *own]
        pairs += [f"{each} -> {name}" for each in own]
    return pairs


def _are_several(data: Mapping[str, Any] | None) -> bool:
    """Return whether `data` describes several observations by name."""
    if not isinstance(data, Mapping) or not data or set(data) & set(DataConfig.model_fields):
        return False
    return any(isinstance(each, Mapping) for each in data.values())


def _make_sources(data: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the sections of the observations by name, with a placeholder for their rows."""
    if data is not None and not isinstance(data, Mapping):
        raise GraphError(
            f"data is {brief(data)}; give rows to fit(rows), and here a map such as {{'divide_by': 255}}, or of "
            "several observations the names"
        )
    given = {str(name): each for name, each in (data or {}).items()} if _are_several(data) else {DATA: data or {}}
    return {name: _section_of_source(each) for name, each in given.items()}


def _section_of_source(given: Any) -> Any:
    plain = _plain(given)
    if not isinstance(plain, dict) or "source" in plain:
        return plain
    return {"observations": ROWS, **plain, "source": "files"}


def _schedule_of(given: Any) -> Any:
    if isinstance(given, Mapping):
        return _plain(given)
    raise GraphError(f"schedule is {brief(given)}; give a map such as {{'rounds': 3, 'steps': ['gmm', 'mm']}}")


# --- plain data -----------------------------------------------------------------------------------------------------


def _plain(given: Any) -> Any:
    """Return Python and numpy values as a model file has them."""
    if isinstance(given, Mapping):
        return {str(key): _plain(value) for key, value in given.items()}
    if isinstance(given, np.generic):
        return given.item()
    if isinstance(given, np.ndarray):
        return given.tolist()
    if isinstance(given, list | tuple | set | frozenset):
        return [_plain(value) for value in given]
    if isinstance(given, PurePath):
        return str(given)
    return given


_DOTTED = re.compile(r"[^.]+(\.[^.]+)*")


def _flatten(given: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterable[tuple[list[str], Any]]:
    """Yield the keys and the value of each override; maps within maps replace only what they name."""
    for key, value in given.items():
        if not _DOTTED.fullmatch(str(key)):
            raise ConfigError(f"{brief(key)}: expected keys with dots between them, such as modules.gmm.classes")
        keys = (*above, *str(key).split("."))
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, keys)
        else:
            yield list(keys), _plain(value)
