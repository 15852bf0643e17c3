"""The sections of a model file that stand by themselves, and what every section does with its faults."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from actors.graph.spec import Resources
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from actors.coordination.placement import Placement
from actors.coordination.recovery import Recovery
from runner.config.error_messages import Fault, Faults, explain, fields_of, shown


class Section(BaseModel):
    """A part of a model file that gathers all its faults."""

    model_config = ConfigDict(extra="forbid", strict=True, ser_json_inf_nan="constants")
    expected: ClassVar[str] = "a map"

    @model_validator(mode="wrap")
    @classmethod
    def _gather(cls, given: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        if isinstance(given, cls):
            return given
        plain = cls._from_short(given)
        if not isinstance(plain, dict):
            raise Faults([((), f"expected {cls.expected}, got {shown(given)}")])
        root = (info.context or {}).get("root", Path.cwd())
        plain, faults = cls._prepare(plain, root)
        try:
            made = handler(plain)
        except ValidationError as error:
            raise Faults([*faults, *explain(error, fields_of(cls), plain)]) from error
        faults = faults or made._finish()
        if faults:
            raise Faults(faults)
        return made

    @classmethod
    def _from_short(cls, given: Any) -> Any:
        """Return the map that a section's short form stands for."""
        return given

    @classmethod
    def _prepare(cls, given: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[Fault]]:  # noqa: ARG003
        """Return the section with everything resolved that depends on more than one key, and what is wrong."""
        return given, []

    def _finish(self) -> list[Fault]:
        """Check what can only be checked on a section without other faults."""
        return []


class DataConfig(Section):
    """What to learn from; the arguments of :func:`runner.data.datasets.load`."""

    source: Literal["mnist", "digits", "words", "cycle", "files"]
    count: Annotated[int, Field(ge=1)] | None = None
    offset: Annotated[int, Field(ge=0)] = 0
    order: Literal["cyclic", "given", "shuffled"] = "given"
    observations: Path | None = None
    categories: Path | dict[str, Path] | None = None
    lengths: Path | list[Annotated[int, Field(ge=1)]] | None = None

    @classmethod
    def _prepare(cls, given: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[Fault]]:
        plain = dict(given)
        for key in ("observations", "categories", "lengths"):
            value = plain.get(key)
            if isinstance(value, dict) and key == "categories":
                plain[key] = {name: _resolved(path, root) for name, path in value.items()}
            elif value is not None:
                plain[key] = _resolved(value, root)
        return plain, []

    def _finish(self) -> list[Fault]:
        faults: list[Fault] = []
        files = [key for key in ("observations", "categories", "lengths") if getattr(self, key) is not None]
        if self.source != "files":
            return [((key,), f"goes with source 'files', the source is {self.source!r}") for key in files]
        if self.observations is None:
            faults.append((("observations",), "is missing: source 'files' needs the path of a file of observations"))
        if self.order == "cyclic" and not isinstance(self.categories, Path):
            faults.append((("order",), "'cyclic' goes by category: give one file of categories, or order 'given'"))
        if self.lengths is not None and self.order != "given":
            faults.append((("lengths",), f"order {self.order!r} would mix the sequences; use order 'given'"))
        return faults


_LEAST = 0.0001
_LETTERS = "letters, digits and, within, '.', '_' and '-'"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = rf"(?:{_LABEL}(?:\.{_LABEL})*/)?{_LABEL}"
_LABEL_VALUE = rf"!?(?:{_LABEL}|in\({_LABEL}(?:, *{_LABEL})*\))"


class ResourcesConfig(Section):
    """What a module's actor reserves; see :class:`actors.graph.spec.Resources`."""

    num_cpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    num_gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"] = 0.0
    memory: Annotated[int, Field(ge=0)] | str = 0
    accelerator_type: str | None = None
    label_selector: dict[str, str] = Field(default_factory=dict)
    custom: dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )

    def _finish(self) -> list[Fault]:
        faults: list[Fault] = []
        if isinstance(self.memory, str) and _bytes(self.memory) is None:
            faults.append((("memory",), f"expected bytes, or a size as '2 GiB' or '500 MB', got {shown(self.memory)}"))
        own = [("custom", name) for name in self.custom if name in ("CPU", "GPU", "memory", "object_store_memory")]
        faults += [(place, "has a key of its own; use that") for place in own]
        return faults + self._uncountable() + self._no_labels()

    def _uncountable(self) -> list[Fault]:
        """Say which amounts Ray would refuse: it counts ten-thousandths, and above one whole GPUs."""
        amounts: dict[tuple[str, ...], float | Literal["auto"]] = {
            ("num_cpus",): self.num_cpus,
            ("num_gpus",): self.num_gpus,
        }
        amounts |= {("custom", name): amount for name, amount in self.custom.items()}
        faults = [
            (place, f"expected at least {_LEAST:g}, got {amount:g}")
            for place, amount in amounts.items()
            if amount != "auto" and 0.0 < amount < _LEAST
        ]
        gpus = self.num_gpus
        if gpus != "auto" and gpus > 1.0 and not gpus.is_integer():
            faults.append((("num_gpus",), f"expected a part of one GPU or a whole number of them, got {gpus:g}"))
        return faults

    def _no_labels(self) -> list[Fault]:
        """Say which labels are written as Ray has none."""
        faults: list[Fault] = []
        for key, value in self.label_selector.items():
            if not re.fullmatch(_LABEL_KEY, key):
                faults.append((("label_selector",), f"expected labels' names, of {_LETTERS}, got {shown(key)}"))
            elif value and not re.fullmatch(_LABEL_VALUE, value):
                expected = f"expected value, !value, in(a, b) or !in(a, b), values of {_LETTERS}"
                faults.append((("label_selector", key), f"{expected}, got {shown(value)}"))
        return faults

    def item(self) -> Resources:
        """Return what the graph holds of it."""
        given = self.model_dump()
        size = _bytes(self.memory) if isinstance(self.memory, str) else self.memory
        return Resources(**{**given, "memory": float(size or 0)})


_UNITS = {
    "": 1,
    "B": 1,
    **{f"{p}B": 1000**n for n, p in enumerate("KMGT", 1)},
    **{f"{p}iB": 1024**n for n, p in enumerate("KMGT", 1)},
}


def _bytes(text: str) -> int | None:
    """Return the bytes of a size as people write it, None where it is none."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    return int(float(found.group(1)) * _UNITS[found.group(2)]) if found and found.group(2) in _UNITS else None


class ClusterConfig(Section):
    """What differs from cluster to cluster.

    How modules are laid out over nodes, what each reserves there, and how many nodes a run waits for before it begins.
    """

    strategy: Literal["pack", "spread"] | None = None
    together: list[list[str]] = Field(default_factory=list)
    nodes: Annotated[int, Field(ge=1)] = 1
    modules: dict[str, ResourcesConfig] = Field(default_factory=dict)

    def _finish(self) -> list[Fault]:
        few = [(index, group) for index, group in enumerate(self.together) if len(group) < 2]
        return [(("together", index), f"expected two modules at least, got {shown(group)}") for index, group in few]

    def item(self) -> Placement:
        """Return what the coordinator is told of it."""
        return Placement(self.strategy, tuple(tuple(group) for group in self.together))


class RecoveryConfig(Section):
    """What the run does about deaths; see :class:`actors.coordination.recovery.Recovery`."""

    tries: Annotated[int, Field(ge=1)] = Recovery.tries
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Recovery.timeout
    wait: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Recovery.wait

    def item(self) -> Recovery:
        """Return what the coordinator is told of it."""
        return Recovery(self.tries, self.timeout, self.wait)


class CheckpointsConfig(Section):
    """Where commits go: a path or URL below which each run has a directory, by default the run's own. How many stay."""

    storage: str | None = None
    keep: Annotated[int, Field(ge=1)] | None = None

    @classmethod
    def _prepare(cls, given: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[Fault]]:
        storage = given.get("storage")
        local = isinstance(storage, str) and "://" not in storage
        return {**given, "storage": str(_resolved(storage, root))} if local else given, []


def _resolved(path: Any, root: Path) -> Any:
    """Return a path made absolute; anything else as it is, for the section to refuse."""
    if not isinstance(path, str | Path) or not str(path):
        return path
    return Path(os.path.abspath(root / os.path.expanduser(path)))  # noqa: PTH100, PTH111 (neither follows links nor fails)
