"""Makes the callbacks that a model file, the command line or Python names."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from actors.errors import ModuleError, shorten_text
from actors.limits import MAX_FIELD_CHARACTERS
from runner.report.printable import brief, printable_line
from runner.tracking.callback import Callback

BUILT_IN = {"tensorboard": "runner.tracking.tensorboard:TensorBoard", "mlflow": "runner.tracking.mlflow:MLflow"}
"""The trackers that have a name of their own."""


def import_tracker(module: str, extra: str) -> Any:
    """Import a module of the library that a tracker needs.

    Raises
    ------
    ModuleError
        If it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModuleError(
            f"tracking: {extra} needs the package {module.partition('.')[0]} ({error}); install it with "
            f"pip install 'serket-actors[{extra}]'"
        ) from error


def make_callback(given: Any) -> Callback:
    """Return a callback: itself, or what a name or a map with ``type`` and arguments stands for.

    Raises
    ------
    ModuleError
        If there is none of this name, or if it cannot be made.
    """
    if isinstance(given, Callback):
        return given
    arguments = dict(given) if isinstance(given, Mapping) else {"type": given}
    name = arguments.pop("type", None)
    if not isinstance(name, str):
        raise ModuleError(
            f"callbacks: has {brief(given)}, expected a runner.Callback, or tensorboard, mlflow or package.module:Class"
        )
    shown = printable_line(name, 100)
    module, _, attribute = BUILT_IN.get(name, name).partition(":")
    if not attribute:
        raise ModuleError(f"tracking: {shown}: unknown, expected tensorboard, mlflow or package.module:Class")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # the import of a user's file may raise anything
        reason = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise ModuleError(
            f"tracking: {shown} cannot be loaded: {shorten_text(reason, MAX_FIELD_CHARACTERS)}; correct the name, or "
            "install its package"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Callback)):
        raise ModuleError(f"tracking: {shown} is no subclass of runner.Callback; name a class that is one")
    try:
        return cls(**arguments)
    except ModuleError:
        raise
    except (Exception, SystemExit) as error:
        reason = shorten_text(f"{type(error).__name__}: {error}", MAX_FIELD_CHARACTERS)
        raise ModuleError(f"tracking: {shown} cannot be made ({reason}); correct its arguments") from error


def check_list(given: Any) -> None:
    """Raise ModuleError if callbacks are not given as a list."""
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise ModuleError(f"callbacks is {brief(given)}, expected a list; write callbacks=[…]")


def make_callbacks(given: Iterable[Any]) -> list[Callback]:
    """Return the callbacks that stand in a list.

    Raises
    ------
    ModuleError
        If it is no list, or one cannot be made.
    """
    check_list(given)
    return [make_callback(each) for each in given]
