"""YAML as model files have it: read, changed with ``--set`` and written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from runner.config.error_messages import ConfigError, Faults, shown, unknown


class _Loader(yaml.SafeLoader):
    """Safe, keys are texts and stand once, and with YAML 1.2's floats (``1e-3`` is a number)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                key.tag = "tag:yaml.org,2002:str"  # a module may be called 3 or no
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """The loader's counterpart; writes everything out instead of referring to what was written before."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse(text: str, where: str) -> Any:
    """Read YAML; what is wrong with it is said of `where`."""
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
    """Return the keys and the value of a ``key.path=value``."""
    path, equals, value = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: expected key.path=value, for instance schedule.rounds=3")
    return keys, parse(value, f"--set {path}")


def set_at(node: Any, keys: Sequence[str], value: Any, done: tuple[str, ...] = ()) -> Any:
    """Return `node` with `value` at the path `keys`; copies what changes, for aliases share it."""
    key: Any = keys[0]
    here = (*done, key)
    changed: Any
    if isinstance(node, list):
        if not key.isdecimal() or int(key) >= len(node):
            raise Faults([(here, f"--set: there is no such place in a list of {len(node)}")])
        changed, key = list(node), int(key)
    elif isinstance(node, dict):
        changed = dict(node)
        if len(keys) > 1 and key not in node and done == ("modules",):
            raise Faults([(here, f"--set: {unknown('module', key, [str(name) for name in node])}")])
    else:
        raise Faults([(done, f"--set: this is {shown(node)}, which has no {key!r} in it")])
    child = {} if isinstance(changed, dict) and changed.get(key) is None else changed[key]
    changed[key] = value if len(keys) == 1 else set_at(child, keys[1:], value, here)
    return changed
