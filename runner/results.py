"""What a model has learnt, as arrays: the results of a run, read from its directory when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.errors import GraphError
from actors.types import Array, IntArray
from runner.report.printable import brief

if TYPE_CHECKING:
    from actors.storage.manifest import Manifest
    from runner.runs.directory import OpenedRun

_WHAT = {
    "Pdz": "class posteriors",
    "class": "classes",
    "mu": "class means",
    "trans_prob": "transitions",
    "z": "latent vectors",
    "loss": "losses",
}
"""Names of the outputs of modules, for error messages."""


class Arrays(Mapping[str, Array]):
    """Read-only arrays by name: of modules, or the columns of a table.

    Parameters
    ----------
    arrays : mapping of str to ndarray
    what : str
        What they are, for error messages.
    index : str
        Name of what numbers the rows in a frame.
    """

    def __init__(self, arrays: Mapping[str, Array], what: str, index: str = "row") -> None:
        self._arrays = dict(arrays)
        self._what, self._index = what, index

    def __getitem__(self, name: str) -> Array:
        if name not in self._arrays:
            known = f"there are those of {', '.join(self._arrays)}" if self._arrays else "no module has any"
            raise KeyError(f"there are no {self._what} of {brief(name)}; {known}")
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        if not self._arrays:
            return f"no {self._what}"
        lines = [f"  {name}: {array.dtype} {array.shape}" for name, array in self._arrays.items()]
        return "\n".join([f"{self._what}:", *lines])

    @property
    def only(self) -> Array:
        """The array, if there is one only.

        Raises
        ------
        GraphError
            If there are none or several.
        """
        if len(self._arrays) != 1:
            names = ", ".join(self._arrays) or "no module"
            raise GraphError(f"{self._what} are those of {names}, not of one; choose by name")
        return next(iter(self._arrays.values()))

    def frame(self, name: str | None = None) -> Any:
        """Return a pandas data frame.

        Parameters
        ----------
        name : str, optional
            The array, whose columns are those of the frame; by default the only one or, where all have one dimension
            and the same length, all as columns.

        Raises
        ------
        GraphError
            If pandas is not installed, or the arrays are not alike and none is named.
        """
        pandas = import_pandas()
        shapes = {array.shape for array in self._arrays.values()}
        if name is None and len(shapes) == 1 and len(next(iter(shapes))) == 1:
            made = pandas.DataFrame(dict(self._arrays))
        else:
            array = self.only if name is None else self[name]
            made = pandas.DataFrame(array.reshape(len(array), -1))
        made.index.name = self._index or None
        return made


def import_pandas() -> Any:
    """Return pandas, which is imported only for frames.

    Raises
    ------
    GraphError
        If it is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise GraphError(
            "frames need pandas, which is not installed: pip install 'serket-actors[pandas]', or use the arrays"
        ) from error
    return pandas


class RunResults:
    """The results of a run, as of its last commit.

    Attributes of kind :class:`Arrays` have an array for each module that learns what they are; ``frame()`` makes pandas
    data frames of them.

    Parameters
    ----------
    run : OpenedRun
    owner : object
        What the run's directory is deleted with, which is kept as long as these results are.
    """

    def __init__(self, run: OpenedRun, owner: object = None) -> None:
        self._run = run
        self._owner = owner

    def __repr__(self) -> str:
        return f"<results of the run in {self.path}>"

    @property
    def path(self) -> Path:
        """The run's directory."""
        return self._run.directory.path

    @property
    def posteriors(self) -> Arrays:
        """P(class) of each training row, (N, K), by module."""
        return self._outputs("Pdz")

    @property
    def classes(self) -> Arrays:
        """The class of each training row, int64 (N,), by module; of a Markov model, the best path (Viterbi)."""
        found = {module: own.get("class", own.get("viterbi")) for module, own in self._modules()}
        return Arrays({name: array for name, array in found.items() if array is not None}, "classes")

    @property
    def means(self) -> Arrays:
        """The mean of each class, (K, D), by module: in the units of the rows, or of what the module below sends."""
        from runner.commands.trained_run import scalings_above

        means, scales = dict(self._outputs("mu", "class")), scalings_above(self._run.directory)
        plain = {name: scales[name].undo(mean) if name in scales else mean for name, mean in means.items()}
        return Arrays(plain, _WHAT["mu"], "class")

    @property
    def transitions(self) -> Arrays:
        """P(next class | class), (K, K) with rows that sum to one, by module."""
        return self._outputs("trans_prob", "class")

    @property
    def latents(self) -> Arrays:
        """Latent vector of each training row, (N, L), by module."""
        return self._outputs("z")

    @property
    def losses(self) -> Arrays:
        """The loss of each epoch of a module's last update, by module."""
        return self._outputs("loss", "epoch")

    @property
    def metrics(self) -> Arrays:
        """The columns of ``metrics.csv``, (R,) each: evidence and score in nats, accuracy, …; NaN where unknown."""
        rows = self._run.directory.metrics_file.rows()
        names = list(rows[0]) if rows else []
        columns = {name: np.array([np.nan if row[name] is None else row[name] for row in rows]) for name in names}
        if "round" in columns:
            columns["round"] = columns["round"].astype(np.int64)
        return Arrays(columns, "metrics", index="")

    @property
    def outputs(self) -> Mapping[str, Mapping[str, Array]]:
        """All outputs of the last update of each module, by module and name."""
        return {module: dict(own) for module, own in self._modules()}

    @property
    def categories(self) -> IntArray | None:
        """The categories of the training rows; None without, or if the files that they are from are gone."""
        self._read_categories()
        labels = self._run.directory.categories.get("")
        return None if labels is None else np.asarray(labels)

    @property
    def summary(self) -> dict[str, Any]:
        """The contents of ``result.json``: rounds, seconds, evidence, accuracy, …; empty for a run that is not done."""
        path = self._run.directory.path / "result.json"
        return self._run.directory.read_json("result.json") if path.exists() else {}

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report of the run as a page that needs nothing else, and return its path.

        Parameters
        ----------
        path : str or Path, optional
            The file; by default ``report.html`` in the run's directory.
        """
        from runner.commands.report import write_page
        from runner.runs.run_report import REPORT, RunReport

        self._read_categories()
        place = self.path / REPORT if path is None else Path(path)
        write_page(RunReport(self._run.directory).render(), place)
        return place

    def plots(self, folder: str | Path | None = None, suffix: str = "png") -> list[Path]:
        """Draw the pictures that ``serket run`` leaves, and return their paths.

        Parameters
        ----------
        folder : str or Path, optional
            Where they are written; it is made if it does not exist. By default the run's directory, as PNG files.
        suffix : {"png", "svg", "pdf"}
            Of the files in a folder; the last two are vector formats.

        Raises
        ------
        GraphError
            If there is no such format, or no folder for a vector format.
        """
        from runner.runs.artifacts import PICTURE_FORMATS, draw_plots

        if suffix not in PICTURE_FORMATS or (folder is None and suffix != "png"):
            raise GraphError(
                f"plots: suffix is {suffix!r}; give one of {', '.join(PICTURE_FORMATS)}, and a folder for svg and pdf"
            )
        self._read_categories()
        return draw_plots(self._run.directory, None if folder is None else Path(folder), suffix)

    def _read_categories(self) -> None:
        """Read the categories with the data, once; without them if the files are gone."""
        config, directory = self._run
        if not directory.categories:
            with suppress(ValueError, OSError):
                directory.categories = config.categories(config.load_data())

    def _commit(self) -> Manifest:
        manifest = self._run.directory.checkpoints.latest()
        if manifest is None:
            raise GraphError(f"{self.path}: nothing was learnt yet")
        return manifest

    def _modules(self) -> Iterator[tuple[str, Mapping[str, Array]]]:
        manifest, directory = self._commit(), self._run.directory
        for module in directory.graph.modules:
            if module in manifest.modules and module not in directory.graph.sources:
                yield module, directory.checkpoints.outputs(manifest, module)

    def _outputs(self, name: str, index: str = "row") -> Arrays:
        found = {module: own[name] for module, own in self._modules() if name in own}
        return Arrays(found, _WHAT[name], index)
