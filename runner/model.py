"""A model in Python: what a model file says, given as Python values, trained on rows in memory.

Everything passes the checks of model files and the way of ``serket run``; nothing is imported before it is needed, so
that importing this module takes no time.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from actors.types import Array, FloatArray, IntArray
    from runner.commands.trained_run import TrainedRun
    from runner.config.run_config import RunConfig
    from runner.data.datasets import Dataset
    from runner.results import RunResults
    from runner.runs.directory import OpenedRun
    from runner.script import Handle
    from runner.tracking.callback import Callback


class Generated(NamedTuple):
    """Rows that a model has drawn.

    Parameters
    ----------
    rows : ndarray (N, …), None, or dict of str to these
        In the units that the modules get; None if no module decodes classes to rows. Of several observations, by name.
    classes : ndarray of int64, shape (N,)
    """

    rows: Any
    classes: IntArray


class Model:
    """A probabilistic model of connected modules, which learn jointly.

    Parameters
    ----------
    modules : mapping of str to (mapping or handle), or sequence of handles, optional
        The modules by name, each with its ``type`` and parameters as in a model file, or a handle (``runner.GMM(4)``).
        Modules of a sequence are called by their handle's name: ``gmm``, ``mm``, …, numbered if there are several.
    connections : sequence of str or of pairs, optional
        ``"lower -> upper"``, also chains; the observations are called ``data``. By default those that handles were
        connected by (``upper.connect(lower)``) or, without any, one chain from ``data`` upwards in the order of the
        modules.
    schedule : mapping, optional
        ``rounds``, ``tolerance`` and ``steps`` as in a model file, with blocks and chains. By default two rounds in
        which the modules exchange messages until one exchange changes little, from four starts where a Markov model
        is above a mixture; with a VAE three rounds, each of which begins with its training.
    data : mapping, optional
        How rows are prepared, as in the section ``data`` of a model file (``divide_by``); for several observations a
        map from their names to such maps, which may be empty. With ``source``, the rows to learn from.
    seed : int
        Determines every random draw.
    name : str
        Name of the model and of its runs.
    code, cluster, recovery, checkpoints : optional
        The sections of a model file.
    **named : mapping or handle
        Modules by name, instead of `modules`.

    Raises
    ------
    ConfigError, GraphError, ModuleError
        If a module, a connection or the schedule is not valid; each problem is one line.

    Examples
    --------
    Two classes that come in turn, seen through noise. No label is given; the classes are numbered by the model.

    >>> import numpy as np
    >>> from runner import Model
    >>> rows = np.random.default_rng(0).normal(size=(200, 2)) + 6.0 * (np.arange(200) % 2)[:, None]
    >>> model = Model(
    ...     gmm={"type": "gmm", "classes": 2, "prior_scale": "data"},
    ...     mm={"type": "markov"},
    ...     connections=["data -> gmm -> mm"],
    ...     schedule={"rounds": 1, "steps": [{"steps": ["gmm", "mm"], "repeat": 5, "chains": 2}]},
    ... )
    >>> classes = model.fit(rows).predict(rows)
    >>> bool((classes[:-1] != classes[1:]).all())
    True
    >>> model.run.transitions["mm"].round(1).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    >>> next_class = model.predict_next(rows)[0].argmax()
    >>> bool(next_class == classes[0])
    True
    """

    def __init__(
        self,
        modules: Mapping[str, Mapping[str, Any] | Handle] | Sequence[Handle] | None = None,
        connections: str | Iterable[Any] | None = None,
        *,
        schedule: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        seed: int = 0,
        name: str = "model",
        code: Sequence[str | Path] | None = None,
        cluster: Mapping[str, Any] | None = None,
        recovery: Mapping[str, Any] | None = None,
        checkpoints: Mapping[str, Any] | None = None,
        **named: Mapping[str, Any] | Handle,
    ) -> None:
        from runner.config.python_models import build_config

        sections = {"code": code, "cluster": cluster, "recovery": recovery, "checkpoints": checkpoints}
        given = {key: value for key, value in sections.items() if value is not None}
        networks = self._new_directory()
        config, has_networks = build_config(
            modules, named, connections, schedule, data, {"name": name, "seed": seed, **given}, networks
        )
        self._adopt(config, code=networks if has_networks else None)

    @classmethod
    def from_file(cls, path: str | Path, **overrides: Any) -> Self:
        """Make the model of a model file.

        Parameters
        ----------
        path : str or Path
            The file; relative paths in it start from its directory. If there is none of this path, the name of an
            included model (``"mnist"``; ``serket models`` lists them).
        **overrides : object
            What replaces values of the file: ``seed=1``, nested maps such as ``schedule={"rounds": 5}`` and
            ``modules={"gmm": {"classes": 5}}``, or dotted keys (``**{"modules.gmm.classes": 5}``). A list replaces a
            whole list, a map only what it names.

        Raises
        ------
        ConfigError
            If the file cannot be read, or is not valid with the overrides.

        Examples
        --------
        >>> from runner import Model
        >>> model = Model.from_file("configs/hmm.yaml", seed=1, modules={"gmm": {"classes": 5}})
        >>> model
        <Model 'hmm': data -> gmm (5 classes) -> mm; not trained>
        """
        from runner.config.python_models import load_with_overrides

        model = cls.__new__(cls)
        model._adopt(load_with_overrides(path, overrides))
        return model

    @classmethod
    def load(cls, run: str | Path, runs: str | Path = "runs") -> Self:
        """Return a trained model from the directory of its run, without training.

        Parameters
        ----------
        run : str or Path
            What :meth:`save` wrote, the directory of a run of ``serket run`` or of a script, or the name of a run.
        runs : str or Path
            Where runs are looked for by name.

        Raises
        ------
        RunDirectoryError
            If there is no such run, or it has learnt nothing.
        """
        from runner.runs.directory import find_run, open_run

        opened = open_run(find_run(str(run), Path(runs)).absolute())
        model = cls.__new__(cls)
        model._adopt(opened.config)
        model._use_run(opened)
        model._trained()
        return model

    # --- learning -------------------------------------------------------------------------------------------------

    def fit(
        self,
        X: Any = None,
        lengths: Any = None,
        categories: Any = None,
        *,
        labels: Any = None,
        path: str | Path | None = None,
        ray: bool = False,
        address: str | None = None,
        progress: bool | Callable[[dict[str, Any]], object] = True,
        callbacks: Sequence[Callback | str | Mapping[str, Any]] = (),
    ) -> Self:
        """Learn from rows, as ``serket run`` does with the equal model file, and return the model.

        A model that has learnt already begins anew. Ctrl-C stops after the current step; what was learnt until then
        can be used.

        Parameters
        ----------
        X : array_like (N, …), list of array_like, str or Path, mapping of str to these, optional
            Rows in temporal order: an array of real numbers of any type, a data frame, a torch tensor, a memory map, or
            the path of a file. A list of arrays has a sequence in each. An array S × T × features is S rows, unless the
            model has ``data={"sequences": True}``; where that is left open, a warning says so. With several
            observations, those of each by name. By default the rows that the model file names. Rows of NaN alone are
            missing.
        lengths : array_like of int (S,), optional
            Lengths of the sequences, with sum N; by default all rows are one sequence.
        categories : array_like (N,), or mapping of str to array_like, optional
            True classes, integers or texts, to compute the accuracy; by module where rows or meanings differ. They are
            never used to learn.
        labels : array_like (N,), optional
            Numbers of the classes of some rows, -1, None or NaN for the others. They are learnt from: the classes of
            the model get the numbers of the labels. A model whose file has no source of labels gets one for its GMM.
        path : str or Path, optional
            The directory that the run gets, which must not exist; by default a temporary one, which is deleted with
            the model unless :meth:`save` copies it.
        ray : bool
            Whether the modules are actors on a Ray cluster; otherwise they live in this process. The results have the
            same bits.
        address : str, optional
            Address of a Ray cluster, which implies `ray`; by default that of RAY_ADDRESS, else one is started on this
            machine and ends with the fit.
        progress : bool or callable
            Whether to show a line on stderr, in a terminal or a notebook; or a function that is called with each event
            of the run, a dict with ``event`` and its fields.
        callbacks : sequence of Callback, str or mapping
            What follows the run (:class:`runner.Callback`), besides what the model file names: objects, or
            ``"tensorboard"``, ``"mlflow"``, ``"package.module:Class"``, or maps with one of these as ``type`` and
            arguments. Whatever they raise is reported, and the run goes on.

        Raises
        ------
        DataError
            If the rows, lengths or categories cannot be used.
        ModuleError, GraphError
            If a module cannot learn from the rows.
        RunDirectoryError
            If `path` exists.
        ClusterError
            If the cluster cannot be joined, or the model asks for what one process cannot do.
        KeyboardInterrupt
            If the training was interrupted.
        """
        from actors.variables import ray_address
        from runner.commands import fit as fitting
        from runner.commands.interrupts import StoppedError
        from runner.data.given import Given, ambiguous_axes
        from runner.report.line_progress import progress_of

        config = self._untrained_config(X)
        if labels is not None:
            from runner.config.python_models import with_labels
            from runner.data.given import rows_and_labels

            config, source = with_labels(config)
            X = rows_and_labels(config, X, labels, source)
        place = self._new_directory() / config.name if path is None else Path(path).absolute()
        given = Given(X, lengths, categories)
        if sentence := ambiguous_axes(config, given):
            warnings.warn(sentence, stacklevel=2)
        shown = progress_of(progress, config.graph)
        if ray and address is None:
            address = ray_address() or None
        try:
            run = fitting.fit(
                config,
                given,
                place,
                progress=shown,
                ray=ray or address is not None,
                address=address,
                known=path is not None,
                code=self._code,
                callbacks=callbacks,
            )
        except (StoppedError, KeyboardInterrupt) as error:
            if fitting.has_learnt(place):
                self._use_directory(place)
            raise KeyboardInterrupt(str(error) or "the training was interrupted") from None
        self._use_run(run)
        return self

    # --- using what was learnt --------------------------------------------------------------------------------------

    def predict(self, X: Any, lengths: Any = None, ordered: bool = True, *, module: str | None = None) -> IntArray:
        """Return the class of each row.

        Parameters
        ----------
        X, lengths
            As for :meth:`fit`; the sequences of new rows need lengths of their own.
        ordered : bool
            Whether the rows are in temporal order; otherwise each is classified by itself.
        module : str, optional
            The module whose classes are asked for; by default the most abstract one that has classes, whose accuracy
            a run reports: the mixture below a Markov model.

        Returns
        -------
        ndarray of int64, shape (N,)

        Raises
        ------
        DataError, ModuleError
            If the rows do not fit the trained model.
        GraphError
            If the model is not trained, or the module has no classes.
        """
        outputs = self._recognize(X, lengths, ordered=ordered)
        name = self._class_module(outputs, module)
        own = outputs[name]
        classes = _find(own, "class", "viterbi")
        found: IntArray = _posterior(own).argmax(axis=1) if classes is None else classes
        return found

    def predict_proba(
        self, X: Any, lengths: Any = None, ordered: bool = True, *, module: str | None = None
    ) -> FloatArray:
        """Return P(class) of each row, (N, K) with rows that sum to one; parameters as for :meth:`predict`."""
        outputs = self._recognize(X, lengths, ordered=ordered)
        return _posterior(outputs[self._class_module(outputs, module)])

    def score(self, X: Any, lengths: Any = None, ordered: bool = True) -> float:
        """Return the log evidence of rows under what was learnt, in nats per row; higher is better.

        It is the log-density of all sequences by the most abstract module that reports one (the output
        ``log_evidence`` of a Markov model, or of a mixture that is the top), divided by the number of rows, as in
        scikit-learn's mixtures. It compares rows under one model, and models only if they explain
        the same values: not where a VAE is below, which has latent vectors of its own, nor with ``calibrate``, which
        weights the likelihood.

        Raises
        ------
        GraphError
            If no module reports an evidence of new rows.
        """
        from actors.errors import GraphError

        outputs = self._recognize(X, lengths, ordered=ordered)
        found = [own for own in outputs.values() if "log_evidence" in own]
        if not found:
            raise GraphError(
                f"no module of {', '.join(outputs)} reports the evidence of new rows; a markov module, or a mixture at "
                "the top without calibrate, does"
            )
        rows = max(len(_posterior(found[-1])), 1)
        return float(found[-1]["log_evidence"].sum() / rows)

    def transform(self, X: Any, lengths: Any = None, ordered: bool = True, *, module: str | None = None) -> FloatArray:
        """Return the latent vector of each row, (N, L): of the VAE or PCA; without one, the class posteriors.

        Parameters
        ----------
        X, lengths, ordered
            As for :meth:`predict`.
        module : str, optional
            By default the most abstract module that has latent vectors.
        """
        from actors.errors import GraphError

        outputs = self._recognize(X, lengths, ordered=ordered)
        latent = [name for name, own in outputs.items() if "z" in own]
        if module is None and not latent:
            return _posterior(outputs[self._class_module(outputs, None)])
        if module is not None and "z" not in outputs.get(module, {}):
            raise GraphError(f"module {module!r} has no latent vectors; those with some are {', '.join(latent) or '–'}")
        found: FloatArray = outputs[module or latent[-1]]["z"]
        return found

    def predict_next(self, X: Any, steps: int = 1, lengths: Any = None) -> FloatArray:
        """Return P(class) of the rows that follow, (steps, K).

        Parameters
        ----------
        X, lengths
            As for :meth:`predict`; of several sequences, the last one is continued.
        steps : int
            At least 1, at most 10,000.

        Raises
        ------
        GraphError
            If no module learns the order of the classes.
        """
        from runner.commands.predict import check_steps, predict_rows

        steps = check_steps(steps)
        return predict_rows(self._trained(), self._new_rows(X, lengths), steps).probabilities

    def generate(self, n: int = 20, *, seed: int | None = None, noise: bool = False) -> Generated:
        """Draw `n` consecutive rows: classes by the learnt transitions, decoded to rows.

        Parameters
        ----------
        n : int
        seed : int, optional
            By default that of the model.
        noise : bool
            Whether a VAE or PCA decodes latent vectors that are drawn from the classes of the rows, so that rows of a
            class differ; otherwise it decodes class means. A mixture right above the observations always draws rows.

        Returns
        -------
        Generated
            ``rows`` (n, …) and ``classes`` (n,).
        """
        from runner.commands.generate import generate_from
        from runner.commands.predict import check_steps
        from runner.runs.levels import generated_classes

        outputs = generate_from(self._trained(seed), check_steps(n, "n"), noise=noise)
        graph = self._opened().directory.graph
        classes = generated_classes(graph, outputs)
        assert classes is not None
        rows: dict[str, Array | None] = dict.fromkeys(graph.sources)
        for each in graph.connections:
            if each.lower in rows and (drawn := _find(outputs.get(each.upper, {}), "x_hat", "x")) is not None:
                rows[each.lower] = drawn
        return Generated(rows if len(rows) > 1 else rows[graph.sources[0]], classes)

    def save(self, path: str | Path) -> Path:
        """Copy the run to `path`, a new directory that :meth:`load` and the command ``serket`` open.

        Raises
        ------
        RunDirectoryError
            If `path` exists, or if the run's commits lie elsewhere.
        """
        from runner.runs.directory import RunDirectoryError

        target, run = Path(path), self._opened()
        if run.config.checkpoints.storage:
            raise RunDirectoryError(
                f"{run.directory.path}: its commits are in {run.config.checkpoints.storage}, and are not copied; "
                "load the run from where it is"
            )
        try:
            shutil.copytree(run.directory.path, target, ignore=shutil.ignore_patterns(".lock", "__pycache__"))
        except FileExistsError as error:
            raise RunDirectoryError(f"{target}: exists already; give another path, or delete it") from error
        except OSError as error:
            reason = error.strerror or "not all files could be copied"
            raise RunDirectoryError(f"{target}: the model cannot be saved there ({reason})") from error
        self._use_directory(target.absolute())
        return target

    def copy(self, *, seed: int | None = None) -> Self:
        """Return the same model, not trained.

        Parameters
        ----------
        seed : int, optional
            By default that of this model.
        """
        copied = type(self).__new__(type(self))
        code = None
        if self._code is not None:
            code = copied._new_directory() / "code"
            shutil.copytree(self._code, code)
        config = self._config.model_copy(update={} if seed is None else {"seed": seed})
        copied._adopt(config, code)
        return copied

    @property
    def run(self) -> RunResults:
        """The results of the training, as arrays and frames.

        Raises
        ------
        GraphError
            If the model is not trained.
        """
        from runner.results import RunResults

        return RunResults(self._opened(), self)

    @property
    def is_fitted(self) -> bool:
        """Whether the model has learnt from rows."""
        return self._run is not None

    def types(self) -> set[str]:
        """Return the types of the model's modules."""
        return {module.type for module in self._config.modules.values()}

    def to_yaml(self) -> str:
        """Return the equal model file, with all defaults."""
        return self._config.to_yaml()

    # --- what it shows ----------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        from runner.report.model_drawing import describe_model

        return f"<{type(self).__name__} {self._config.name!r}: {describe_model(self._config.graph, self._results())}>"

    def _repr_html_(self) -> str:
        from runner.report.model_drawing import draw_model

        return draw_model(self._config.name, self._config.graph, self._results())

    def _results(self) -> RunResults | None:
        return self.run if self._run is not None else None

    # --- copies -----------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Return the config and the files of the run, so that a copy in another process is trained like this one."""
        folder = self._code if self._run is None else self._run.directory.path
        return {"config": self._config.model_dump(mode="json"), "fitted": self.is_fitted, "files": _read_files(folder)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        from runner.config.run_config import make_config

        place = self._new_directory() / str(state["config"]["name"])
        for name, content in state["files"].items():
            file = place / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        plain = dict(state["config"])
        if state["files"] and not state["fitted"]:
            plain["code"] = [str(place)]
        self._adopt(make_config(plain, place), code=place if state["files"] and not state["fitted"] else None)
        if state["fitted"]:
            self._use_directory(place)

    # --- the run ------------------------------------------------------------------------------------------------------

    def _adopt(self, config: RunConfig, code: Path | None = None) -> None:
        self._config = config
        self._code = code
        self._run: OpenedRun | None = None

    def _new_directory(self) -> Path:
        """Return a new temporary directory, which is deleted with the model."""
        place = tempfile.mkdtemp(prefix="serket-")
        weakref.finalize(self, shutil.rmtree, place, ignore_errors=True)
        return Path(place)

    def _use_directory(self, path: Path) -> None:
        from runner.runs.directory import open_run

        self._use_run(open_run(path))

    def _use_run(self, run: OpenedRun) -> None:
        self._run = run

    def _opened(self) -> OpenedRun:
        from actors.errors import GraphError

        if self._run is None:
            raise GraphError("nothing was learnt yet: call fit(rows) before, or Model.load(run)")
        return self._run

    def _trained(self, seed: int | None = None) -> TrainedRun:
        from runner.commands.trained_run import load_trained_run

        return load_trained_run(self._opened(), seed)

    def _untrained_config(self, X: Any) -> RunConfig:
        from runner.config.python_models import has_rows
        from runner.data.errors import DataError

        if X is None and not has_rows(self._config):
            raise DataError("X: is missing; give the rows to learn from")
        return self._config

    def _new_rows(self, X: Any, lengths: Any, *, ordered: bool = True) -> dict[str, Dataset]:
        from runner.commands.trained_run import find_missing_lengths
        from runner.data.errors import DataError
        from runner.data.given import read_rows

        if lengths is not None and not ordered:
            raise DataError("lengths go with rows in order; leave out lengths, or ordered=False")
        run = self._opened()
        rows = read_rows(run.config, X, lengths)
        if ordered and (sentence := find_missing_lengths(run.directory, rows, "give lengths=, or a list of arrays")):
            warnings.warn(sentence, stacklevel=4)
        return rows

    def _recognize(self, X: Any, lengths: Any, *, ordered: bool) -> dict[str, dict[str, Array]]:
        from runner.commands.trained_run import recognize_rows

        return recognize_rows(self._trained(), self._new_rows(X, lengths, ordered=ordered), ordered=bool(ordered))

    def _class_module(self, outputs: Mapping[str, Mapping[str, Array]], module: str | None) -> str:
        """Return the module whose classes are asked for, which has posteriors of classes."""
        from actors.errors import GraphError

        order = [name for name in self._opened().directory.graph.modules if name in outputs]
        known = [name for name in order if {"Pdz", "smoothed"} & set(outputs[name])]
        named = [name for name in known if "class" in outputs[name]] or known
        if module is None and named:
            return named[-1]
        if module not in known:
            asked = "no module of this model has classes" if module is None else f"module {module!r} has no classes"
            raise GraphError(f"{asked}; those that have some are {', '.join(known) or '–'}")
        return module


def _find(outputs: Mapping[str, Array], *names: str) -> Array | None:
    """Return the first of several outputs that a module has."""
    return next((outputs[name] for name in names if name in outputs), None)


def _posterior(outputs: Mapping[str, Array]) -> FloatArray:
    """Return the class posteriors among the outputs of a module."""
    found: FloatArray = outputs["Pdz"] if "Pdz" in outputs else outputs["smoothed"]
    return found


def _read_files(folder: Path | None) -> dict[str, bytes]:
    """Return the contents of all files below a folder by their relative paths."""
    if folder is None:
        return {}
    return {str(file.relative_to(folder)): file.read_bytes() for file in _files_in(folder)}


def _files_in(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != ".lock" and file.parent.name != "__pycache__":
            yield file
