"""YAML of model files: parsing, overriding values with ``--set``, and writing.

Plain values are read by the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), not by YAML 1.1 as
PyYAML does, for which ``no`` is false, ``010`` is 8, ``1:30`` is 90 and ``1e3`` is a text. One exception: a decimal
number with leading zeros is a text, which is refused where a number is meant, because 1.1 reads it as octal.

The size of a document is bounded while it is read, before anything is made of it: bytes, nesting, and the numbers of
nodes and characters with each alias counted in full, because what is parsed is walked and written in full later.
"""

from __future__ import annotations

import io
import os
import re
import select
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from actors.limits import (
    MAX_CONFIG_BYTES,
    MAX_CONFIG_CHARACTERS,
    MAX_CONFIG_DEPTH,
    MAX_CONFIG_NODES,
    MAX_NUMBER_CHARACTERS,
    PIPE_SECONDS,
)
from runner.config.error_messages import ConfigError, ConfigErrors, format_text, format_value, unknown_name

_TAG = "tag:yaml.org,2002:"
_TEXT = f"{_TAG}str"
_MERGE = f"{_TAG}merge"
_TAGS = frozenset(f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq"))
"""The tags that a document may contain; all others construct types that no field accepts."""

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and halves of characters (surrogates); in a name or path they are mistakes or attacks."""


class _Size(NamedTuple):
    """The nodes and characters of a node, each alias counted in full."""

    nodes: int
    characters: int


_CORE = {
    "null": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN",
}
"""The plain values of each type in the core schema of YAML 1.2, without numbers that have leading zeros."""

_CORE_PATTERNS = {f"{_TAG}{name}": re.compile(f"(?:{pattern})$") for name, pattern in _CORE.items()}


class _Loader(yaml.SafeLoader):
    """A safe loader with the core schema of YAML 1.2, and with string keys that may not repeat.

    Composing a document ends as soon as it exceeds a limit of :mod:`actors.limits`.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._total = _Size(0, 0)
        self._open: set[str] = set()  # anchors of the maps and lists that contain the present node
        self._sizes: dict[str, _Size] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        is_key = isinstance(parent, yaml.MappingNode) and index is None
        node = self._compose_bounded(event, parent, index)
        if not is_key or (isinstance(node, yaml.ScalarNode) and node.tag == _MERGE):
            return node
        if not isinstance(node, yaml.ScalarNode):
            raise _error("a key is a list or a map; expected a name", event)
        return yaml.ScalarNode(_TEXT, node.value, node.start_mark, node.end_mark)  # a module may be named 3 or no

    def _compose_bounded(self, event: Any, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose the node that begins with `event`, and count it with all within."""
        anchor, before = event.anchor, self._total
        if isinstance(event, yaml.AliasEvent):
            if anchor in self._open:
                raise _error(f"the alias *{anchor[:40]} is within what it stands for", event)
            self._count(self._sizes.get(anchor, _Size(1, 0)), event)
            return super().compose_node(parent, index)
        if event.tag is not None and event.tag not in _TAGS and event.tag != "!":
            raise _error(f"the tag {event.tag[:60]!r} is not supported; write the value without it", event)
        collection = not isinstance(event, yaml.ScalarEvent)
        if collection:
            self._depth += 1
            if self._depth > MAX_CONFIG_DEPTH:
                raise _error(f"more than {MAX_CONFIG_DEPTH} maps and lists are within each other", event)
        else:
            _check_scalar(event)
        self._count(_Size(1, 0 if collection else len(event.value)), event)
        if anchor is not None:
            self._open.add(anchor)
        node = super().compose_node(parent, index)
        self._depth -= collection
        if anchor is not None:
            self._open.discard(anchor)
            self._sizes[anchor] = _Size(self._total.nodes - before.nodes, self._total.characters - before.characters)
        return node

    def _count(self, size: _Size, event: yaml.Event) -> None:
        self._total = _Size(self._total.nodes + size.nodes, self._total.characters + size.characters)
        if self._total.nodes > MAX_CONFIG_NODES:
            raise _error(f"there are more than {MAX_CONFIG_NODES:,} values, aliases counted in full", event)
        if self._total.characters > MAX_CONFIG_CHARACTERS:
            raise _error(f"there are more than {MAX_CONFIG_CHARACTERS:,} characters, aliases counted in full", event)

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is yaml.ScalarNode and implicit[0] and len(value) > MAX_NUMBER_CHARACTERS:
            return _TEXT  # no number is that long, and the patterns of numbers may take quadratic time
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]

    def construct_core(self, node: yaml.ScalarNode) -> Any:
        """Return the value of a scalar of the core schema."""
        text = node.value
        if not _CORE_PATTERNS[node.tag].match(text):
            raise ValueError(text)
        if node.tag == f"{_TAG}null":
            return None
        if node.tag == f"{_TAG}bool":
            return text[0] in "tT"
        if node.tag == f"{_TAG}int":
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != _MERGE:
                if key.value in seen:
                    raise _error(f"{key.value[:60]!r} is given twice", key)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (LookupError, ValueError, AttributeError, TypeError, ArithmeticError) as error:
            value = node.value if isinstance(node, yaml.ScalarNode) else ""
            kind = node.tag.removeprefix(_TAG)
            raise _error(f"{value[:60]!r} is not of type {kind}", node) from error


def _check_scalar(event: yaml.ScalarEvent) -> None:
    if found := _CONTROL.search(event.value):
        raise _error(f"the character {found[0]!r} is not allowed in {event.value[:40]!r}", event)
    if event.tag in (f"{_TAG}int", f"{_TAG}float") and len(event.value) > MAX_NUMBER_CHARACTERS:
        raise _error(f"a number has {len(event.value)} characters, at most {MAX_NUMBER_CHARACTERS} are allowed", event)


def _error(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, place.start_mark)


class _Dumper(yaml.SafeDumper):
    """The loader's counterpart; writes repeated values in full instead of as aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _use_core_schema() -> None:
    """Replace the loader's types of plain values by those of YAML 1.2.

    The dumper keeps those of YAML 1.1 beside them: it quotes texts that a reader of either version would take for
    something else.
    """
    _Loader.yaml_implicit_resolvers = {"<": [(_MERGE, re.compile("<<$"))]}
    for tag, pattern in _CORE_PATTERNS.items():
        _Loader.add_constructor(tag, _Loader.construct_core)
        _Loader.add_implicit_resolver(tag, pattern, None)
        with_zeros = re.compile(pattern.pattern.replace("(0|[1-9][0-9]*)", "[0-9]+"))
        _Dumper.add_implicit_resolver(tag, with_zeros, None)


_use_core_schema()


def read_config_text(path: Path) -> str:
    """Read a model file, of at most :data:`MAX_CONFIG_BYTES`; it may be a pipe, but not one that sends nothing.

    Raises
    ------
    ConfigError
        If the file does not exist, is too large or is not text.
    """
    try:
        content = _read_bounded(path)
        if len(content) > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: is larger than {MAX_CONFIG_BYTES:,} bytes; is it a model file?")
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8").read()
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; correct the path") from None
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a text file ({error})") from None


def _read_bounded(path: Path) -> bytes:
    """Return at most one byte more than a model file may have."""
    content = bytearray()
    # Opening a pipe for reading would wait for a process that opens it for writing.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while len(content) <= MAX_CONFIG_BYTES:
            try:
                chunk = os.read(descriptor, MAX_CONFIG_BYTES + 1 - len(content))
            except BlockingIOError:  # a pipe that another process writes
                if not select.select([descriptor], [], [], PIPE_SECONDS)[0]:
                    raise OSError(f"it sent nothing for {PIPE_SECONDS:g} s") from None
                continue
            if not chunk:
                break
            content += chunk
    finally:
        os.close(descriptor)
    return bytes(content)


def parse(text: str, where: str) -> Any:
    """Parse YAML; errors name `where`.

    Raises
    ------
    ConfigError
        If the text is not valid YAML, or exceeds a limit of :mod:`actors.limits`.
    """
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{where}: is longer than {MAX_CONFIG_BYTES:,} characters; shorten it")
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"{where}{f', line {mark.line + 1}' if mark else ''}: is not valid YAML: {reason}") from error
    except Exception as error:  # PyYAML raises other errors, too, for what it cannot parse
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{where}: is not valid YAML: {reason}") from error


def check_size(plain: Any) -> None:
    """Check that what is written as YAML can be read back within the limits.

    Raises
    ------
    ConfigError
        If it has too many values or characters.
    """
    nodes = characters = 0
    pending = [plain]
    while pending:
        item = pending.pop()
        nodes += 1
        if isinstance(item, dict):
            nodes += len(item)
            characters += sum(len(str(key)) for key in item)
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, str):
            characters += len(item)
    if nodes > MAX_CONFIG_NODES or characters > MAX_CONFIG_CHARACTERS:
        raise ConfigError(
            f"the model file: with all defaults filled in it has {nodes:,} values of {characters:,} characters, at "
            f"most {MAX_CONFIG_NODES:,} of {MAX_CONFIG_CHARACTERS:,} are allowed; move lists into data files, or use "
            "fewer modules"
        )


def dump(plain: Any) -> str:
    """Return YAML that :func:`parse` reads back equal."""
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def split_override(override: str) -> tuple[list[str], Any]:
    """Return the keys and the parsed value of ``key.path=value``."""
    path, equals, value = override.partition("=")
    keys = path.strip().split(".", MAX_CONFIG_DEPTH)
    if not equals or not all(keys):
        raise ConfigError(f"--set {format_text(override)}: expected key.path=value, for instance schedule.rounds=3")
    if len(path) > MAX_CONFIG_BYTES or len(keys) > MAX_CONFIG_DEPTH or _CONTROL.search(path):
        raise ConfigError(
            f"--set {format_text(path)}: expected at most {MAX_CONFIG_DEPTH} keys without control characters"
        )
    return keys, parse(value, f"--set {format_text(path)}")


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
        if not key.isdecimal() or len(key) > MAX_NUMBER_CHARACTERS or int(key) >= len(node):
            raise ConfigErrors([(here, f"--set: there is no such place in a list of {len(node)}; count from 0")])
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
