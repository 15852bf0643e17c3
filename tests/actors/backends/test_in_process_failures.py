"""Failures of a module's code in this process: sentences, never the end of the process."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from actors.backends.in_process import InProcessBackend, _run
from actors.errors import ModuleError, ModuleFailedError
from actors.graph import registry
from actors.graph.graph import Graph
from actors.graph.spec import Connection, ModuleSpec
from actors.modules.pca import PCA


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SystemExit(3), r"module 'gmm' ended its process: it called sys.exit\(3\)"),
        (MemoryError(), "module 'gmm' ran out of memory: it could not allocate more; use fewer rows"),
        (MemoryError("array of 8 TB"), "module 'gmm' ran out of memory: array of 8 TB"),
    ],
    ids=["exit", "memory", "which memory"],
)
def test_a_module_that_ends_its_process_or_has_no_memory_is_named(error: BaseException, message: str) -> None:
    task = _run(lambda: fail(error), "gmm")
    with pytest.raises(ModuleFailedError, match=message):
        InProcessBackend().collect(task)


def test_other_errors_keep_their_type_and_ctrl_c_ends_the_run() -> None:
    with pytest.raises(KeyError):
        InProcessBackend().collect(_run(lambda: fail(KeyError("x")), "gmm"))
    with pytest.raises(KeyboardInterrupt):
        _run(lambda: fail(KeyboardInterrupt()), "gmm")


@pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit(6)], ids=["raises", "exits"])
def test_checks_of_parameters_that_fail_are_named(error: BaseException) -> None:
    @dataclass(frozen=True)
    class Parameters:
        size: int = 1

        def __post_init__(self) -> None:
            fail(error)

    own = type("Own", (PCA,), {"Parameters": Parameters})
    with pytest.raises(ModuleError, match=f"module Own: its parameters cannot be checked: {type(error).__name__}"):
        registry.make_parameters(own, {})


def test_a_module_whose_class_exits_as_it_is_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PCA, "__init__", lambda *_: fail(SystemExit(4)))
    graph = Graph(
        [ModuleSpec("data", "observation", {}), ModuleSpec("p", "pca", {"latent_dim": 1})], [Connection("data", "p")]
    )
    with pytest.raises(ModuleError, match=r"module 'p': its class pca called sys.exit\(4\) as it was made"):
        InProcessBackend().start(graph)
