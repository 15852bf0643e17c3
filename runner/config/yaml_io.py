"""YAML of model files: parsing, overriding values with ``--set``, and writing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from runner.config.error_messages import ConfigError, ConfigErrors, format_value, unknown_name


class _Loader(yaml.SafeLoader):
    """A safe loader with string keys that may not repeat, and with the floats of YAML 1.2 (``1e-3`` is a number)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                key.tag = "tag:yaml.org,2002:str"  # a module may be named 3 or no
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """The loader's counterpart; writes repeated values in full instead of as aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse(text: str, where: str) -> Any:
    """Parse YAML; errors name `where`.

    Raises
    ------
    ConfigError
        If the text is not valid YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"{where}{f', line {mark.line + 1}' if mark else ''}: is not valid YAML: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: is not valid YAML: {error}") from error


def dump(plain: Any) -> str:
    """Return YAML that :func:`parse` reads back equal."""
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def split_override(override: str) -> tuple[list[str], Any]:
    """Return the keys and the parsed value of ``key.path=value``."""
    path, equals, value = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: expected key.path=value, for instance schedule.rounds=3")
    return keys, parse(value, f"--set {path}")


def set_at(node: Any, keys: Sequence[str], value: Any, done: tuple[str, ...] = ()) -> Any:
    """Return `node` with `value` at the path `keys`; copies what it changes, as YAML aliases may share it.

    Raises
    ------
    ConfigErrors
        If there is no such place.
    """
    key: Any = keys[0]
    here = (*done, key)
    changed: Any
    if isinstance(node, list):
        if not key.isdecimal() or int(key) >= len(node):
            raise ConfigErrors([(here, f"--set: there is no such place in a list of {len(node)}")])
        changed, key = list(node), int(key)
    elif isinstance(node, dict):
        changed = dict(node)
        if len(keys) > 1 and key not in node and done == ("modules",):
            raise ConfigErrors([(here, f"--set: {unknown_name('module', key, [str(name) for name in node])}")])
    else:
        raise ConfigErrors([(done, f"--set: this is {format_value(node)}, which has no {key!r} in it")])
    child = {} if isinstance(changed, dict) and changed.get(key) is None else changed[key]
    changed[key] = value if len(keys) == 1 else set_at(child, keys[1:], value, here)
    return changed
