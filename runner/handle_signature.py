"""The signature of a handle's class, from the parameters of its module type and the spellings of its positions.

``help``, completion in notebooks and ``inspect.signature`` see it; a handle itself takes any spelling.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from runner.script import Handle

OPTIONS: dict[str, Any] = {
    "name": "",
    "category": None,
    "load_dir": None,
    "threads": 1,
    "num_gpus": 0.0,
    "workers": None,
    "chunk": None,
    "sample_rows": None,
}
"""What every handle takes beside the parameters of its module, with the defaults."""


_KEPT = {"device": "cpu"}
"""Spellings that are shown as such by position: a device is no number of GPUs, though it stands for one."""


class HandleSignature:
    """Descriptor ``__signature__`` of handle classes that take ``(*values, **given)``; computed when it is read."""

    def __get__(self, instance: Handle | None, owner: type[Handle]) -> Signature:
        constructor = next(vars(each)["__init__"] for each in owner.__mro__ if "__init__" in vars(each))
        if constructor.__code__.co_varnames[:3] != ("self", "values", "given"):
            raise AttributeError("__signature__")  # it has a signature of its own
        return make_signature(owner)


def make_signature(handle: type[Handle]) -> Signature:
    """Return the signature of a handle's class.

    First come the positions that :attr:`runner.spellings.Spellings.positional` lists, under the documented names, then
    by name the other parameters of the module type and the options of every handle.
    """
    from actors.graph.registry import find

    declared = find(handle.type).Parameters
    hints = get_type_hints(declared)
    defaults: dict[str, Any] = {}
    for each in fields(declared):
        made = each.default_factory() if each.default_factory is not MISSING else Parameter.empty
        defaults[each.name] = made if each.default is MISSING else each.default
    known = {**defaults, **OPTIONS}
    names = [each if each in _KEPT else handle.spellings.names.get(each, each) for each in handle.spellings.positional]
    optional = False
    parameters = []
    for name in names:
        default = _KEPT.get(name, known.get(name))
        optional |= default is not Parameter.empty
        parameters.append(
            Parameter(
                name,
                Parameter.POSITIONAL_OR_KEYWORD,
                default=None if optional and default is Parameter.empty else default,
                annotation=hints.get(name, Parameter.empty),
            )
        )
    parameters += [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=hints.get(name, Parameter.empty))
        for name, default in known.items()
        if name not in names
    ]
    return Signature([*parameters, Parameter("spellings", Parameter.VAR_KEYWORD)])
