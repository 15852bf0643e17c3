"""Test the on-disk cache of compiled kernels: it is valid for any copy of the same sources."""

import importlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numba
import numpy as np
import pytest

import actors.kernels
from actors.kernels import compilation, jit
from actors.kernels.mixture import cholesky

PACKAGE = Path(actors.kernels.__file__).parent

USE = """
import sys, warnings
warnings.simplefilter("always")
import numpy as np
from actors.kernels.mixture import cholesky
cholesky.rank_one_update(np.eye(2), np.ones(2), 1.0)
print(cholesky.__file__)
stats = cholesky.rank_one_update.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def copy_package(target):
    """Copy actors/kernels to another path, with other file times, and return the folder to import it from."""
    (target / "actors").mkdir(parents=True)
    (target / "actors" / "__init__.py").touch()
    shutil.copytree(PACKAGE, target / "actors" / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    for path in target.rglob("*.py"):
        os.utime(path, (1e9, 1e9))
    return target


def use_kernel(package, cache, **variables):
    """Run a kernel in a new process; return its cache hits and misses, and its standard error."""
    environment = {**os.environ, "PYTHONPATH": str(package), "SERKET_CACHE_DIR": str(cache), **variables}
    done = subprocess.run(
        [sys.executable, "-c", USE], capture_output=True, text=True, env=environment, timeout=120, cwd=package
    )
    assert done.returncode == 0, done.stderr
    where, numbers = done.stdout.splitlines()
    assert Path(where).is_relative_to(package)
    return tuple(int(n) for n in numbers.split()), done.stderr


@pytest.mark.slow
def test_a_copy_of_the_package_under_another_path_loads_the_compiled_kernels(tmp_path):
    first, second = copy_package(tmp_path / "first"), copy_package(tmp_path / "second")
    assert use_kernel(first, tmp_path / "cache")[0] == (0, 1)
    assert use_kernel(second, tmp_path / "cache")[0] == (1, 0)


def test_kernels_are_recompiled_when_the_source_of_another_file_changes(tmp_path):
    package = copy_package(tmp_path / "first")
    use_kernel(package, tmp_path / "cache")
    with (package / "actors" / "kernels" / "mixture" / "niw.py").open("a") as file:
        file.write("# changed\n")
    assert use_kernel(package, tmp_path / "cache")[0] == (0, 1)


def test_an_unwritable_cache_causes_only_a_warning(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    counts, stderr = use_kernel(copy_package(tmp_path / "package"), blocked)
    assert counts[0] == 0
    assert "cannot write compiled kernels" in stderr
    assert not list(tmp_path.rglob("*.nbi"))  # nothing was written beside the sources either


@pytest.mark.slow
def test_kernels_are_recompiled_when_the_cache_is_damaged(tmp_path):
    package = copy_package(tmp_path / "package")
    use_kernel(package, tmp_path / "cache")
    for path in (tmp_path / "cache").rglob("*.nb?"):
        path.write_bytes(path.read_bytes()[:100])
    counts, stderr = use_kernel(package, tmp_path / "cache")
    assert counts[0] == 0
    assert "cannot read compiled kernels" in stderr
    assert use_kernel(package, tmp_path / "cache")[0] == (1, 0)


@pytest.mark.slow
def test_of_several_processes_one_compiles_and_the_others_load(tmp_path):
    package = copy_package(tmp_path / "package")
    environment = {**os.environ, "PYTHONPATH": str(package), "SERKET_CACHE_DIR": str(tmp_path / "cache")}
    started = [
        subprocess.Popen([sys.executable, "-c", USE], env=environment, stdout=subprocess.PIPE, cwd=package)
        for _ in range(3)
    ]
    counts = [process.communicate(timeout=120)[0].split()[-2:] for process in started]
    assert sorted(counts) == [[b"0", b"1"], [b"1", b"0"], [b"1", b"0"]]
    assert use_kernel(package, tmp_path / "cache")[0] == (1, 0)


def test_a_kernel_that_another_process_compiles_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("SERKET_CACHE_DIR", str(tmp_path))
    function = cholesky.factorize.__wrapped__
    one, other = (compilation.dispatcher_of(function)._cache for _ in range(2))
    found = []
    monkeypatch.setattr(one, "_load", lambda *_: None)
    monkeypatch.setattr(other, "_load", lambda *_: "compiled" if found else None)
    assert one.load_overload((), None) is None
    waiting = threading.Thread(target=lambda: found.append(other.load_overload((), None)))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    found.append("saved")
    with pytest.warns(RuntimeWarning, match="cannot write compiled kernels"):
        one.save_overload((), None)
    waiting.join(10.0)
    assert found == ["saved", "compiled"]
    assert one.load_overload((), None) is None  # nothing is locked any more
    one.release()


def test_a_kernel_that_cannot_be_compiled_is_not_locked_for_ever(tmp_path, monkeypatch):
    monkeypatch.setenv("SERKET_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compilation, "LOCK_SECONDS", 0.0)
    dispatcher = compilation.dispatcher_of(cholesky.factorize.__wrapped__)
    with pytest.raises(numba.TypingError):
        dispatcher("text", "text")
    cache = compilation.dispatcher_of(cholesky.factorize.__wrapped__)._cache
    cache.load_overload((numba.int64,), numba.core.registry.cpu_target.target_context)
    assert cache._lock is not None
    cache.release()


def test_functions_outside_the_package_use_numbas_own_locators():
    cholesky = importlib.import_module("actors.kernels.mixture.cholesky")
    assert cholesky.rank_one_update.dispatcher  # making one installs the locator
    names = numba.config.CACHE_LOCATOR_CLASSES.split(",")
    assert names[0] == "actors.kernels.compilation.DigestLocator"
    assert "InTreeCacheLocator" in names
    assert compilation.DigestLocator.from_function(use_kernel, __file__) is None


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SERKET_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a/numba"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/serket-actors/numba"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/c"}, "/c/.cache/serket-actors/numba"),
        ({"HOME": "/c"}, "/c/.cache/serket-actors/numba"),
    ],
)
def test_the_cache_folder_depends_on_the_environment_variables(monkeypatch, variables, expected):
    for name in ("SERKET_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert jit.cache_directory() == Path(expected) / jit.source_digest()


def test_read_only_arrays_do_not_trigger_recompilation() -> None:
    from actors.kernels.markov import inference
    from actors.kernels.mixture import gibbs, gibbs_sweep, niw

    gibbs.compile_kernels()
    inference.compile_kernels()
    kernels = {
        name: kernel
        for module in (gibbs, gibbs_sweep, inference, niw)
        for name, kernel in vars(module).items()
        if hasattr(kernel, "signatures")
    }
    before = {name: len(kernel.signatures) for name, kernel in kernels.items()}
    assert before
    X = np.random.default_rng(0).normal(size=(60, 2))
    labels, log_prob = np.zeros(60, np.int64), np.full((60, 3), -np.log(3.0))
    mask, lengths = np.zeros(60, np.bool_), np.array([20, 40])
    for array in (X, labels, log_prob, mask, lengths):
        array.flags.writeable = False
    prior = niw.NIWPrior(X.mean(0), 1.0, 4.0, np.ones(2))
    labels, posterior = gibbs.gibbs(
        X, labels, 3, prior, 0.1, 2, np.random.default_rng(0), log_bias=log_prob, use_counts=False, mask=mask
    )
    niw.log_predictive(X, posterior, prior)
    niw.log_predictive_loo(X, labels, posterior, prior)
    T = np.full((3, 3), 1 / 3)
    inference.forward_backward(log_prob, T, np.full(3, 1 / 3), lengths, mask)
    inference.viterbi(log_prob, T, np.full(3, 1 / 3), lengths, mask)
    inference.one_step_message(np.exp(log_prob), T, log_prob, lengths)
    assert {name: len(kernel.signatures) for name, kernel in kernels.items()} == before
