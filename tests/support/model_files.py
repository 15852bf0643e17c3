"""A model file whose modules do no numerical work, for tests of what is derived from model files.

The fixture ``fakes`` replaces the built-in modules by these.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import AliasChoices, Field

from actors.module import Context, Inbox, Module, Outbox, Port
from runner.config.run_config import ConfigError, RunConfig, load_config


class Fake(Module[Any]):
    def update(self, inbox: Inbox, context: Context) -> Outbox:
        return Outbox()

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        return Outbox()

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Any) -> None:
        pass


@dataclass(frozen=True)
class ObservationParameters:
    pass


class FakeObservation(Fake):
    Parameters = ObservationParameters
    ports = (Port("observations", "out", "forward", "observations"),)


@dataclass(frozen=True)
class VAEParameters:
    latent_dim: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=0, validation_alias=AliasChoices("epochs", "itr"))] = 200
    rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    send: Literal["mean", "sample"] = "mean"
    hidden: tuple[int, ...] = (128,)
    note: str | None = None
    options: dict[str, float] = field(default_factory=dict)


class FakeVAE(Fake):
    Parameters = VAEParameters
    uses_gpu: ClassVar[bool] = True
    ports = (
        Port("observations", "in", "forward", "observations"),
        Port("z", "out", "forward", "latent_vectors"),
    )


@dataclass(frozen=True)
class GMMParameters:
    classes: Annotated[int, Field(ge=2)] = 10
    iterations: Annotated[int, Field(ge=0)] = 100
    prior_scale: Annotated[float, Field(gt=0)] | Literal["data"] = 0.1

    def __post_init__(self) -> None:
        if self.classes == 13:
            raise ValueError("13 classes bring bad luck")


class FakeGMM(Fake):
    Parameters = GMMParameters
    ports = (
        Port("z", "in", "forward", "latent_vectors"),
        Port("classes", "out", "forward", "class_posteriors"),
    )


@dataclass(frozen=True)
class MarkovParameters:
    pass


class FakeMarkov(Fake):
    Parameters = MarkovParameters
    ports = (Port("classes", "in", "forward", "class_posteriors"),)


FAKES = {"observation": FakeObservation, "vae": FakeVAE, "gmm": FakeGMM, "markov": FakeMarkov}

MODEL = """
name: model-1
seed: 7
data: {source: mnist, count: 3000, order: cyclic}
modules:
  vae: {type: vae, latent_dim: 18, itr: 20, resources: {num_gpus: auto}, threads: 2}
  gmm: {type: gmm, classes: 10}
  mm: {type: markov}
connections: [data -> vae -> gmm, gmm -> mm]
schedule: {rounds: 5}
"""


def write(tmp_path: Path, text: str) -> Path:
    """Write a model file and return its path."""
    path = tmp_path / "model.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def config_errors(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    """Return the lines of the error that loading a model file raises."""
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), overrides)
    return str(caught.value).splitlines()


def load(tmp_path: Path, *overrides: str, text: str = MODEL) -> RunConfig:
    """Load a model file."""
    return load_config(write(tmp_path, text), overrides)
