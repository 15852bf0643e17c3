"""The command line as it is read: what every command does with odd arguments until Ray would start.

Each call is made in this process, in a directory with a model file, data and a trained run. What would start or join a
cluster, or compute for long, is replaced. Nothing outside of the directory may be written, which an audit hook watches.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from runner.cli.app import app
from runner.cli.output import run_app
from runner.cluster.connection import ClusterError
from runner.config.yaml_io import dump

OLD_RUN = Path(__file__).parents[1] / "data" / "old_run"
MODEL = {
    "name": "fuzzed",
    "data": {"observations": "rows.npy", "categories": "cats.txt"},
    "modules": {"gmm": {"type": "gmm", "classes": 4}, "mm": {"type": "markov"}},
    "connections": ["data -> gmm", "gmm -> mm"],
    "schedule": {"rounds": 2},
}
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("run", "model.yaml", "--name", "n1", "--runs", "runs"),
    ("run", "model.yaml", "--set", "seed=3", "--dry-run", "--json"),
    ("run", "model.yaml", "--detach", "--address", "127.0.0.1:6379"),
    ("resume", "old", "--set", "schedule.rounds=3", "--json"),
    ("attach", "old", "--address", "auto"),
    ("stop", "runs/old", "--now"),
    ("recognize", "old", "rows.npy", "--categories", "cats.txt", "--lengths", "lengths.txt"),
    ("recognize", "old", "data=table.csv", "--header", "--no-index", "--unordered", "--count", "5", "--offset", "1"),
    ("predict", "old", "rows.npy", "--steps", "2", "--out", "p.png", "--json"),
    ("generate", "old", "--length", "5", "--out", "g.png", "--seed", "3"),
    ("inspect", "old", "--json"),
    ("inspect", "old", "--timeline", "t.json"),
    ("modules", "gmm"),
    ("modules", "--json"),
    ("new-module", "thing", "--directory", "out"),
    ("check", "gmm", "--set", "classes=3", "--size", "N=4", "--no-ray"),
    ("doctor",),
    ("run", "--help"),
    (),
)
"""Valid commands to begin with."""

SLOW = ("predict", "generate")
"""Commands that draw pictures, which takes a tenth of a second."""

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")
_ABSOLUTE = re.compile(r"(^|[^A-Za-z0-9_.-])[/~]+")
_FOLDERS = ("a", "b", "c", "d", "work")
_CALLS_BEFORE_RENEWAL = 200
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PLACES = {"open": 1, "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2,
           "os.chmod": 1, "os.truncate": 1, "shutil.rmtree": 1, "shutil.move": 2}  # fmt: skip
_allowed: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse to write outside of the allowed directories; relative paths are those of a directory that is open."""
    if not _allowed or event not in _PLACES:
        return
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITES):
        return
    for place in arguments[: _PLACES[event]]:
        if isinstance(place, str | bytes | os.PathLike):
            path = os.path.normpath(os.fsdecode(place))
            relative = not path.startswith(("/", ".."))
            whole = os.path.abspath(path)  # noqa: PTH100 (follows no links)
            if not relative and not whole.startswith(tuple(_allowed)) and path != os.devnull:
                raise AssertionError(f"{event} outside of the directory: {path}")


sys.addaudithook(_watch)


@contextmanager
def _confined(*directories: Path) -> Iterator[None]:
    _allowed[:] = [str(each) for each in directories]
    try:
        yield
    finally:
        _allowed.clear()


@contextmanager
def _no_cluster(*_arguments: Any, **_options: Any) -> Iterator[str]:
    raise ClusterError("no cluster is started here")
    yield ""


def contained(argument: str) -> str:
    """Return an argument without what leads out of the directory: a test must not overwrite a file of this machine."""
    relative = _ABSOLUTE.sub(r"\1", argument)
    return relative if relative.count("..") < len(_FOLDERS) else relative.replace("..", ".")


class Calls:
    """The calls in one folder."""

    def __init__(self, folder: Path) -> None:
        self.top = folder / "cli"
        self.place = self.top.joinpath(*_FOLDERS)
        self.made = 0
        self._renew()
        for command in COMMANDS:  # imports and compiles what they need
            self.call(command)

    def _renew(self) -> None:
        shutil.rmtree(self.top, ignore_errors=True)
        self.place.mkdir(parents=True)
        points = np.random.default_rng(3).normal(size=(12, 2))
        np.save(self.place / "rows.npy", points)
        np.savetxt(self.place / "table.csv", points, delimiter=",", header="x,y", comments="")
        np.savetxt(self.place / "cats.txt", np.arange(12) % 4, fmt="%d")
        (self.place / "lengths.txt").write_text("5\n7\n")
        (self.place / "model.yaml").write_text(dump(MODEL))
        shutil.copytree(OLD_RUN, self.place / "runs" / "old")
        self.there = set(self.place.iterdir())

    def call(self, arguments: Sequence[str]) -> tuple[int, str]:
        """Return the exit status and what is printed."""
        self.made += 1
        if self.made % _CALLS_BEFORE_RENEWAL == 0:
            self._renew()
        printed, before = io.StringIO(), (Path.cwd(), sys.path[:])
        caches = [Path(os.environ[name]) for name in ("SERKET_STATE_DIR", "SERKET_CACHE_DIR") if name in os.environ]
        with ExitStack() as stack:
            stack.enter_context(patch("runner.runs.connect.cluster", _no_cluster))
            stack.enter_context(patch("runner.cluster.connection.cluster", _no_cluster))
            stack.enter_context(patch("runner.cli.doctor.run_checks", lambda: True))
            stack.enter_context(patch("runner.cli.check_module.run_checks", lambda _checks: True))
            stack.enter_context(patch("runner.runs.directory.probe_storage", lambda _root: None))
            stack.enter_context(patch.object(sys, "argv", ["serket", *map(contained, arguments)]))
            stack.enter_context(redirect_stdout(printed))
            stack.enter_context(redirect_stderr(printed))
            os.chdir(self.place)
            stack.callback(os.chdir, before[0])
            stack.enter_context(_confined(self.top, Path.home() / ".cache", *caches))
            status = 0
            try:
                run_app(app)
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        sys.path[:] = before[1]
        for path in set(self.place.iterdir()) - self.there:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return status, printed.getvalue()


_calls: dict[Path, Calls] = {}


def prepare(folder: Path) -> None:
    """Make the directory, and call every command once."""
    _calls[folder] = Calls(folder)


def read_command(folder: Path, arguments: Sequence[str]) -> bool:
    """Call ``serket``; it ends with status 0, or with one sentence and status 1 or 2."""
    if folder not in _calls:
        prepare(folder)
    if any("\0" in each for each in arguments):
        return False  # the operating system passes no such argument
    with suppress(KeyboardInterrupt):
        status, printed = _calls[folder].call(arguments)
    assert status in (0, 1, 2), status
    assert "internal error" not in printed, printed
    assert "Traceback" not in printed, printed
    assert not CONTROL.search(printed), repr(printed)
    assert len(printed) < 100_000, len(printed)
    assert status == 0 or printed.strip()
    return status == 0
