"""Networks that a script defines by methods of a subclass, for the processes of its modules.

In the SERKET toolkits a network is a method: a subclass of ``torch_vae.TorchVAE`` defines ``build_encoder(input_dim,
latent_dim)`` and ``build_decoder(input_dim, latent_dim)``, one of ``torch_nn.TorchNN`` defines ``build_model(input_dim,
output_dim)``. A module's process has no script, so the file that defines the class is copied into a directory of its
own, with functions at its end that build the networks, and the modules import the copy. Lines of the file that connect
modules are left out of the copy, since it only defines.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from actors.errors import ModuleError

if TYPE_CHECKING:
    import torch

BUILDERS = {"build_encoder": "encoder", "build_decoder": "decoder", "build_model": "network"}
"""Method → parameter of the module that names the network."""

MIN_PROBABILITY = 1e-6
"""Decoded probabilities are clipped to this distance from 0 and 1 before their logits are taken."""


def own_builders(cls: type, base: type) -> dict[str, Callable[..., Any]]:
    """Return the methods by which a subclass of `base` defines networks, by name.

    Raises
    ------
    ModuleError
        If they are those of TensorFlow, which build a graph from a placeholder.
    """
    found = {}
    for name in (*BUILDERS, "model"):
        method = getattr(cls, name, None)
        if method is None or method is getattr(base, name, None):
            continue
        parameters = list(inspect.signature(method).parameters)[1:]
        if name == "model" or parameters[:1] in (["x"], ["z"]) or (name, parameters) == ("build_decoder", ["z"]):
            raise ModuleError(
                f"{cls.__name__}.{name}({', '.join(parameters)}) builds a network of TensorFlow, which cannot be run "
                "here: return a torch module from build_encoder(input_dim, latent_dim), build_decoder(input_dim, "
                "latent_dim) or build_model(input_dim, output_dim), or leave the methods out for the default networks"
            )
        found[name] = method
    return found


def copy_networks(
    cls: type, methods: dict[str, Callable[..., Any]], directory: Path, *, probabilities: bool = True
) -> dict[str, str]:
    """Copy the file that defines a class into `directory`, with functions that build its networks.

    Parameters
    ----------
    cls : type
        A class at the top level of a file.
    methods : dict of str to function
        From :func:`own_builders`.
    directory : Path
    probabilities : bool
        Whether a decoder returns probabilities (for a Bernoulli likelihood) instead of values.

    Returns
    -------
    dict of str to str
        Parameter (``encoder``, ``decoder``, ``network``) → ``package:function``.

    Raises
    ------
    ModuleError
        If the class is not at the top level of a file.
    """
    method = next(iter(methods.values()))
    file = Path(method.__code__.co_filename) if isinstance(method, FunctionType) else Path()
    if cls.__qualname__ != cls.__name__ or not file.is_file():
        raise ModuleError(
            f"{cls.__qualname__}: the processes of modules cannot import this class; define it at the top level of a "
            "Python file"
        )
    source = definitions(file.read_text(encoding="utf-8"))
    functions = {BUILDERS[name]: f"{cls.__name__}_{BUILDERS[name]}" for name in methods}
    builders = {key: f"{key}_builder" for key in functions}
    if not probabilities and "decoder" in builders:
        builders["decoder"] = "values_builder"
    lines = [f"{own} = user_networks.{builders[key]}({cls.__name__})" for key, own in functions.items()]
    text = "\n".join([source, "from runner import user_networks", *lines, ""])
    package = f"networks_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    (directory / f"{package}.py").write_text(text, encoding="utf-8")
    return {key: f"{package}:{own}" for key, own in functions.items()}


def definitions(source: str) -> str:
    """Return a script without its top-level lines that do something, if any of them connects modules.

    Kept are imports, functions, classes, and assignments without calls. A script that does so only in functions or
    below ``if __name__ == "__main__"`` is returned as it is.
    """
    tree = ast.parse(source)
    if not any(_connects(node) for node in tree.body):
        return source
    kept: list[ast.stmt] = [
        node
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)
        or (isinstance(node, ast.Assign | ast.AnnAssign) and not any(isinstance(n, ast.Call) for n in ast.walk(node)))
    ]
    return ast.unparse(ast.Module(kept, []))


def _connects(node: ast.stmt) -> bool:
    """Return whether a top-level statement connects modules, or makes or trains a model, when the file is imported."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    if isinstance(node, ast.If) and "__name__" in {n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)}:
        return False
    calls = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
    names = {function.attr for function in calls if isinstance(function, ast.Attribute)}
    names |= {function.id for function in calls if isinstance(function, ast.Name)} & {"Model"}
    return bool(names & {"connect", "fit", "Model"})


def encoder_builder(cls: type) -> Callable[[int, int], torch.nn.Module]:
    """Return the ``encoder`` of a VAE module for a class with ``build_encoder``."""

    def build(pixels: int, latent_dim: int) -> torch.nn.Module:
        network: torch.nn.Module = _new(cls).build_encoder((pixels,), latent_dim)
        return network

    return build


def decoder_builder(cls: type) -> Callable[[int, int], torch.nn.Module]:
    """Return the ``decoder`` of a VAE module for a class with ``build_decoder``, which decodes to probabilities.

    The Bernoulli likelihood is computed from logits, into which the probabilities are turned.
    """

    def build(latent_dim: int, pixels: int) -> torch.nn.Module:
        network: torch.nn.Module = _new(cls).build_decoder((pixels,), latent_dim)
        return _with_logits(network)

    return build


def values_builder(cls: type) -> Callable[[int, int], torch.nn.Module]:
    """Return the ``decoder`` of a VAE module with a Gaussian likelihood for a class with ``build_decoder``."""

    def build(latent_dim: int, pixels: int) -> torch.nn.Module:
        network: torch.nn.Module = _new(cls).build_decoder((pixels,), latent_dim)
        return network

    return build


def network_builder(cls: type) -> Callable[[int, int], torch.nn.Module]:
    """Return the ``network`` of a network module for a class with ``build_model``."""

    def build(inputs: int, outputs: int) -> torch.nn.Module:
        network: torch.nn.Module = _new(cls).build_model(inputs, outputs)
        return network

    return build


def _new(cls: Any) -> Any:
    """Return an instance whose networks can be built; it is not a module of a model."""
    return cls.__new__(cls)


def _with_logits(network: torch.nn.Module) -> torch.nn.Module:
    """Return the network with the logits of the probabilities that it returns."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, latents: torch.Tensor) -> torch.Tensor:
            """Return the logits (N, P) for latent vectors (N, L)."""
            probabilities: torch.Tensor = self.network(latents)
            if probabilities.numel() and (probabilities.min() < 0 or probabilities.max() > 1):
                low, high = float(probabilities.min()), float(probabilities.max())
                raise ModuleError(
                    f"build_decoder returned values from {low:g} to {high:g}, but RE='BCE' needs probabilities: end "
                    "the network with torch.nn.Sigmoid(), or give RE='MSE'"
                )
            return torch.logit(probabilities, eps=MIN_PROBABILITY)

    return Logits()
