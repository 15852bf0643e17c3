"""Spellings of the SERKET toolkits' scripts, translated into the parameters of this software's modules.

The scripts of that family name parameters in several ways (``epoch``, ``KLD_weight``, ``K``), and give several by
position. A spelling means the parameter that it stands for; one whose meaning cannot be kept is refused with the
reason. The documented names are those of ``serket modules``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.errors import ModuleError


@dataclass(frozen=True)
class Spellings:
    """How the scripts of the family spell the parameters of a module.

    Parameters
    ----------
    positional : tuple of str
        What is given by position, in this order: parameters or spellings.
    names : mapping of str to str
        Spelling → parameter.
    values : mapping of str to callable
        Spelling → function that returns the parameter's value for the spelling's.
    unused : tuple of str
        Spellings that change no result here, and are accepted without effect.
    refused : mapping of str to str
        Spellings that cannot be honoured, and what to do instead. None as a value is accepted.
    """

    positional: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    def bind(self, label: str, values: tuple[Any, ...], given: Mapping[str, Any]) -> dict[str, Any]:
        """Join what a script gives by position and by name.

        Parameters
        ----------
        label : str
            Name of the class, for error messages.
        values : tuple
            Given by position.
        given : mapping
            Given by name.

        Raises
        ------
        TypeError
            If there are too many positions, or something is given twice.
        """
        if len(values) > len(self.positional):
            raise TypeError(
                f"{label} takes at most {len(self.positional)} positional arguments ({', '.join(self.positional)}), "
                f"got {len(values)}"
            )
        bound = dict(zip(self.positional, values, strict=False))
        for key, value in given.items():
            if key in bound:
                raise TypeError(f"{label}: {key} is given twice, by position and by name; leave one out")
            bound[key] = value
        return bound

    def translate(self, label: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters that the spellings in `given` stand for; other names are kept.

        Raises
        ------
        TypeError
            If a parameter is given under two names.
        ModuleError
            If a spelling cannot be honoured.
        """
        parameters: dict[str, Any] = {}
        source: dict[str, str] = {}
        for key, value in given.items():
            if key in self.unused:
                continue
            if key in self.refused:
                if value is not None:
                    raise ModuleError(f"{label}: {key}={value!r} cannot be honoured: {self.refused[key]}")
                continue
            name = self.names.get(key, key)
            if name in parameters:
                raise TypeError(f"{label}: {source[name]} and {key} are the same parameter; give one of them")
            source[name] = key
            parameters[name] = self.values[key](value) if key in self.values else value
        return parameters


def _lower(value: Any) -> Any:
    """Return a text in lower case: the family writes ``RE="BCE"``."""
    return value.lower() if isinstance(value, str) else value


def _gpus(value: Any) -> Any:
    """Return the number of GPUs for a torch device."""
    if str(value) == "cpu":
        return 0.0
    if str(value).partition(":")[0] == "cuda":
        return "auto"
    raise ModuleError(f"device={value!r} is not known; use 'cpu' or 'cuda'")


RECOGNITION = (
    "mode='recog' is not known: to recognize with what an earlier script has learnt, give "
    "load_dir='module001_…', the directory of that module"
)

_TENSORFLOW = "initial weights are drawn by torch's rule here; leave it out"

_VAE_NAMES = {
    "itr": "epochs",
    "epoch": "epochs",
    "KLD_weight": "kl_weight",
    "KL_param": "kl_weight",
    "RE": "likelihood",
    "hidden_encoder_dim": "hidden",
    "hidden_decoder_dim": "hidden_decoder",
    "lr": "learning_rate",
    "device": "num_gpus",
}

VAE = Spellings(
    positional=("latent_dim", "epoch", "name", "batch_size", "KLD_weight", "RE", "load_dir"),
    names=_VAE_NAMES,
    values={"RE": _lower, "device": _gpus},
    unused=("loss_step",),  # how often a loss is kept: here, that of every epoch
    refused={"weight_stddev": _TENSORFLOW},
)

TORCH_VAE = Spellings(
    positional=(
        "input_dim",
        "latent_dim",
        "lr",
        "device",
        "epoch",
        "name",
        "batch_size",
        "KLD_weight",
        "RE",
        "load_dir",
    ),
    names=_VAE_NAMES,
    values=VAE.values,
    unused=VAE.unused,
    refused=VAE.refused,
)

GMM = Spellings(positional=("K", "itr", "name", "category", "load_dir"), names={"K": "classes", "itr": "iterations"})

MARKOV = Spellings(positional=("num_samp", "name", "load_dir"))

MLDA = Spellings(
    positional=("K", "weights", "itr", "name", "category", "load_dir"), names={"K": "topics", "itr": "iterations"}
)

_NETWORK_NAMES = {
    "itr": "epochs",
    "itr1": "epochs",
    "itr2": "input_steps",
    "batch_size1": "batch_size",
    "lr": "learning_rate",
    "device": "num_gpus",
}

_SEQUENCES = "rows are predicted one by one; leave it out"

NN = Spellings(
    positional=("itr1", "itr2", "name", "batch_size1", "batch_size2", "seaquence_size", "load_dir"),
    names=_NETWORK_NAMES,
    values={"device": _gpus},
    unused=("batch_size2",),  # the message down is computed for all rows at once
    refused={"seaquence_size": _SEQUENCES},
)

TORCH_NN = Spellings(
    positional=("batch_size1", "batch_size2", "itr1", "itr2", "lr", "device", "name", "load_dir"),
    names=_NETWORK_NAMES,
    values={"device": _gpus},
    unused=NN.unused,
)

ABSENT = {
    "serket_ros": "topics of ROS need a ROS installation, and no source of this software reads them; record the data, "
    "and give them to Observation",
    "CNN": "no module computes features of images; compute them with a network of your choice (torchvision, timm), and "
    "give the histograms to Observation",
    "speech_recog": "no module recognizes speech; give histograms of words to Observation",
    "mnvae": "there is no multinomial VAE; use vae.VAE and gmm.GMM",
}
"""Modules of the family that this software has not, and what to do instead."""


def absent_module(name: str) -> str:
    """Return why a module of the family cannot be imported, and what to do instead; empty if it is no such module."""
    return f"runner has no module {name!r}: {ABSENT[name]}" if name in ABSENT else ""
