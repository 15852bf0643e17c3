"""Build and train a model from a script: handles that connect modules and update them one at a time.

A handle refers to a module, which runs in an actor of its own. The first ``update()`` starts a Ray cluster on this
machine (or joins the one given to :class:`Observation`); every ``update()`` is a step of the coordinator and a commit,
and writes the directory of the module (``module001_vae``, …) into the working directory.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from actors.errors import GraphError, ModuleError
from actors.graph.registry import validated_parameters
from actors.graph.spec import Resources, Sharing
from actors.limits import MAX_NAME_CHARACTERS, MAX_WORKERS
from actors.types import Array, IntArray, State
from actors.variables import local_runs, ray_address
from runner import spellings as spelling
from runner.handle_signature import HandleSignature
from runner.report.printable import brief
from runner.spellings import RECOGNITION, Spellings
from runner.user_networks import copy_networks, own_builders

if TYPE_CHECKING:
    from runner.data.datasets import Dataset
    from runner.script_run import ScriptRun
    from runner.tracking.callback import Callback

# What reads data and runs models is imported by the functions that use it: `from runner import GMM` stays fast.

Rows: TypeAlias = npt.ArrayLike | Mapping[str, npt.ArrayLike]
"""Rows of one observation, or of several by name."""

Lengths: TypeAlias = npt.ArrayLike | Mapping[str, npt.ArrayLike]
"""Lengths of the sequences of all observations, or of several by name."""


class Handle:
    """Refer to one module of a model.

    Parameters
    ----------
    *values
        The values of what ``spellings.positional`` lists, in that order.
    name : str, optional
        Name of the module; by default its short name, numbered if there are several.
    category : array_like (N,), optional
        True classes of the module's rows, integers or texts, to compute the accuracy; they are not used for learning.
    load_dir : str or Path, optional
        Directory of a module that an earlier script has trained (``module002_gmm``): the module recognizes with what
        it has learnt there, and does not learn.
    threads : int
        Number of threads of the process.
    num_gpus : float or "auto"
        Number of GPUs; "auto" uses one if there is one.
    workers : int or "auto", optional
        Number of processes that share the module's rows; by default one process has all rows and learns by ``update``.
    chunk, sample_rows : int, optional
        Rows that are computed together, and rows of the sample from which the module starts, where workers share rows.
    **parameters
        Parameters of the module type, also as the SERKET toolkits spell them (:mod:`runner.spellings`).

    Raises
    ------
    ModuleError
        If a parameter is invalid, or a spelling cannot be honoured.
    RunDirectoryError
        If there is nothing to load in `load_dir`.
    """

    type: str
    short: str
    spellings: ClassVar[Spellings] = Spellings()
    __signature__ = HandleSignature()
    _counter: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self, *values: Any, **given: Any) -> None:
        label = type(self).__name__
        bound = self.spellings.bind(label, values, given)
        if bound.pop("mode", "learn") != "learn":
            raise ModuleError(f"{label}: {RECOGNITION}")
        options = self.spellings.translate(label, bound)
        self.name = _checked_name(options.pop("name", ""), label)
        category = options.pop("category", None)
        self.category: IntArray | None = None
        self.notes: tuple[str, ...] = ()
        if category is not None:
            from runner.data.intake import check_categories

            self.category, self.notes = check_categories(category, f"{label}: category")
        self.threads = _checked_integer(options.pop("threads", 1), f"{label}: threads", 1)
        self.resources = Resources(num_gpus=_checked_gpus(options.pop("num_gpus", 0.0), label))
        self.sharing = _checked_sharing(options, label)
        self.code: tuple[str, ...] = ()
        load_dir = options.pop("load_dir", None)
        if load_dir is not None and not isinstance(load_dir, str | os.PathLike):
            raise ModuleError(f"{label}: load_dir is {brief(load_dir)}, expected the path of a directory")
        self.load_dir = None if load_dir is None else Path(load_dir)
        self._given = dict(options)
        self.parameters = self._validated(options)
        self.learnt: State | None = None
        if self.load_dir is not None:
            from runner.runs.learnt import read_learnt

            self.learnt = read_learnt(self.load_dir)
        self.below: list[Handle] = []
        self.above: list[Handle] = []
        self.number: int | None = None  # in the names of output directories, once a model is made
        self._runs: list[ScriptRun] = []  # several of an observation that is given to several models
        self._number = next(self._counter)

    @property
    def _model(self) -> ScriptRun | None:
        """The run of the model that the handle belongs to; of an observation, the one that was made last."""
        return self._runs[-1] if self._runs else None

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={brief(value)}" for name, value in self._given.items())
        return f"{type(self).__name__}({given})"

    def _validated(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters of the module."""
        try:
            return validated_parameters(self.type, given)
        except ModuleError:
            from runner.config.cross_checks import check_parameters

            # A class of its own is found or not in a sentence already; of parameters, what a model file would be told.
            _, problems = check_parameters(self.type, given)
            if not problems or problems[0][0] == ("type",):
                raise
            told = (f"{'.'.join(map(str, place)) or 'parameters'}: {text}" for place, text in problems)
            raise ModuleError(f"{type(self).__name__}: {'; '.join(told)}") from None

    def complete(self, directory: Path) -> None:
        """Complete the parameters once the connections and names of the model are known.

        `directory` is for files that the module's process imports.
        """

    def connect(self, *lower: Handle) -> None:
        """Connect this module to the modules below it, whose messages it receives."""
        for handle in lower:
            if not isinstance(handle, Handle):
                raise GraphError(f"connect: {_shown_handle(handle)} is no module; {_connect_hint(handle)}")
        if self in lower:
            raise GraphError(
                f"connect: a {type(self).__name__} cannot be connected to itself; give the modules below it"
            )
        for handle in (self, *lower):
            # An observation may be given to several models, one after the other.
            if handle._model is not None and not (isinstance(handle, Observation) and handle is not self):
                raise GraphError(f"{handle.name} has been updated already: connect all modules before the first update")
        self.below.extend(lower)
        for handle in lower:
            handle.above.append(self)

    def update(self) -> None:
        """Update the module from the latest messages that it received, and send its own messages."""
        if self._model is None:
            from runner.script_run import ScriptRun

            ScriptRun(self._connected_handles())
        assert self._model is not None
        self._model.update(self)

    def close(self) -> None:
        """End the run of the module's model: its callbacks, its modules' processes, and the cluster that it started.

        What was learnt can still be used (:attr:`outputs`, :meth:`recognize`), but no module of the model be updated.
        An observation ends all runs that it is part of. Without this call, a run ends with the script.
        """
        for run in self._runs:
            run.close()

    def __enter__(self) -> Self:
        """Return the handle, whose run ends with the block as by :meth:`close`."""
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """End the run, and tell its callbacks of an error."""
        for run in self._runs:
            run.close(error)

    @property
    def outputs(self) -> Mapping[str, Array]:
        """Outputs of the last update of the module, by name (``z``, ``class``, ``trans_prob``, …)."""
        return {} if self._model is None else self._model.outputs(self)

    def recognize(self, data: Rows, *, lengths: Lengths | None = None, ordered: bool = True) -> Mapping[str, Array]:
        """Return the outputs of the module for new rows, from what the model has learnt so far; nothing is learnt.

        Parameters
        ----------
        data : array_like (M, …), or mapping of str to array_like
            New rows; where the model has several observations, those of each, by name. An observation that is left
            out has only missing rows.
        lengths : array_like of int (S,), or mapping of str to array_like, optional
            Lengths of the new sequences; where observations differ in the number of rows, those of each, by name. By
            default all rows are one sequence.
        ordered : bool
            Whether the rows are in temporal order.

        Raises
        ------
        GraphError
            If the model was not updated yet.
        DataError
            If the lengths do not fit the rows, or the observations do not describe the same rows.
        """
        if self._model is None:
            raise GraphError("nothing was learnt yet: update the modules before they recognize")
        return self._model.recognize(self, data, lengths, ordered=ordered)

    def _connected_handles(self) -> list[Handle]:
        """Return all handles connected with this one, directly or indirectly, in the order of their creation."""
        reached: list[Handle] = []
        pending = [self]
        while pending:
            handle = pending.pop()
            if handle not in reached:
                reached.append(handle)
                pending.extend(each for each in (*handle.below, *handle.above) if each._model is None or not each.below)
        return sorted(reached, key=lambda handle: handle._number)


class Observation(Handle):
    """Provide the data of a model.

    Parameters
    ----------
    data : array_like (N, …), str or Path
        An array, lists, a masked array or a data frame of real numbers, whose columns of times are left out, which
        is said. Rows without any value (NaN or masked) are
        missing; values that are missing in a part of a row are left out by the modules that can, and what a
        conversion to float64 would change is refused. A text
        is the path of a file, a directory or a URL, as ``observations`` of a model file; rows of large files stay on
        disk.
    lengths : array_like of int (S,), optional
        Lengths of the sequences; by default all rows are one sequence.
    sequences : bool
        Whether the first axis numbers the sequences: S × T × features, or a list of S arrays T_s × features. By default
        the first axis numbers rows.
    divide_by : float, optional
        What all values are divided by, such as 255 for pixels.
    scale : {"standard", "unit", "none"} or mapping, optional
        How columns are scaled, by these rows: to mean 0 and deviation 1, to 0 … 1, or not; or a map from names or
        numbers (from 1) of columns to these. New rows are scaled as these were.
    seed : int
        Seed of all random draws of the model.
    address : str, optional
        Address of a Ray cluster; by default the value of RAY_ADDRESS, else a cluster is started on this machine.
    run : str, optional
        Name of the run, whose commits are stored in ``runs/``; by default the name of the script.
    name : str, optional
        Name of the source; by default ``data``, numbered if a model has several. If there are several sources, the
        seed, the address, the name of the run, `local`, `verbose` and `callbacks` are those of the source created
        first.
    local : bool, optional
        Whether all modules live in this process, without Ray; by default if ``SERKET_LOCAL`` is 1 in the environment.
        The results are the same.
    verbose : bool
        Whether each update writes a line to stderr. What is said of the data and deaths of processes is written anyway.
    callbacks : sequence of Callback, str or mapping
        What follows the run (:class:`runner.Callback`): objects, or ``"tensorboard"``, ``"mlflow"``,
        ``"package.module:Class"``, or maps with one of these as ``type`` and arguments. Whatever they raise is
        reported, and the run goes on. They are closed with the run (:meth:`close`, ``with``, or the script's end).
    """

    type, short = "observation", "data"

    def __init__(
        self,
        data: npt.ArrayLike | str | Path,
        *,
        lengths: npt.ArrayLike | None = None,
        sequences: bool = False,
        divide_by: float | None = None,
        scale: str | Mapping[str | int, str] | None = None,
        seed: int = 0,
        address: str | None = None,
        run: str | None = None,
        name: str = "",
        local: bool | None = None,
        verbose: bool = True,
        callbacks: Sequence[Callback | str | Mapping[str, Any]] = (),
    ) -> None:
        from actors.messaging.stored_rows import is_url
        from runner.data.conversion import without_times
        from runner.data.errors import DataError
        from runner.data.scaling import is_scaled, scale_rows
        from runner.tracking.loading import check_list

        super().__init__(name=name)
        seed = _checked_integer(seed, "seed", 0)
        if local is not None and not isinstance(local, bool):
            raise ModuleError(f"local is {brief(local)}, expected True or False")
        if not isinstance(verbose, bool):
            raise ModuleError(f"verbose is {brief(verbose)}, expected True or False")
        if run is not None and not isinstance(run, str):
            raise ModuleError(f"run is {brief(run)}, expected the name of the run, a text")
        check_list(callbacks)
        self.callbacks = tuple(callbacks)
        self.local = local_runs() if local is None else local
        self.reading: dict[str, Any] = {"divide_by": divide_by, "sequences": sequences, "scale": scale}
        self.file = str(Path(data).absolute()) if isinstance(data, str | Path) and not is_url(str(data)) else ""
        self.parameters = {"scaled": True} if is_scaled(scale) else {}
        data, times = without_times(data, None)
        self.reading["times"] = times
        rows = scale_rows(read_rows(data, "data", **self.reading), scale, "data")
        if times:
            said = f"{', '.join(map(repr, times))}, a time, is left out (rename it to use it)"
            rows = replace(rows, notes=(*rows.notes, said))
        if lengths is not None and sequences:
            raise DataError("lengths: sequences gives the lengths itself; leave out one of them")
        self.data = with_lengths(rows, lengths)
        self.seed = seed
        self.verbose = verbose
        self.address = address or ray_address() or None
        self.run = run or _script_name()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name or self.short}: {self.data.sizes()}>"

    def update(self) -> None:
        """Do nothing: the data are sent when the model is made."""


def read_rows(given: npt.ArrayLike | str | Path, where: str, **reading: Any) -> Dataset:
    """Return rows that a script gives, or the file that it names, checked."""
    from runner.data.conversion import without_times
    from runner.data.datasets import Dataset, load
    from runner.data.intake import check_observations

    given, _ = without_times(given, reading.get("times", ()))
    reading = {key: value for key, value in reading.items() if key not in ("scale", "times")}
    if isinstance(given, str | Path):
        return load("files", observations=given, **reading)
    rows = check_observations(given, where, **reading)
    return Dataset(rows.values, None, rows.lengths, "the script", rows.mask, rows.notes, rows.columns)


def with_lengths(rows: Dataset, lengths: npt.ArrayLike | None) -> Dataset:
    """Return rows with the lengths of their sequences, checked, where these are given."""
    if lengths is None:
        return rows
    from runner.data.intake import check_lengths

    return replace(rows, lengths=check_lengths(lengths, "lengths", len(rows.observations)))


class HACFeatureExtractor(Observation):
    """Provide histograms of acoustic co-occurrences of sound files (:mod:`runner.data.sound`).

    Parameters
    ----------
    filenames : sequence of str or Path
        Wave files, one a row.
    ks : sequence of int
        Sizes of the three codebooks: of cepstral coefficients, and of their first and second differences.
    lags : sequence of int
        Numbers of frames between two codewords that are counted together.
    seed : int
        Seed of the codebooks, and of all random draws of the model.
    n_mfcc, n_fft, hop_length, n_mels : int
        Options of the spectrum.
    **options
        As for :class:`Observation`.
    """

    def __init__(
        self,
        filenames: Sequence[str | Path],
        ks: Sequence[int],
        lags: Sequence[int] = (5, 2),
        *,
        seed: int = 0,
        **options: Any,
    ) -> None:
        from runner.data.sound import SpectrumOptions, sound_histograms  # imports scipy.cluster

        spectrum = SpectrumOptions(**{key: options.pop(key) for key in SpectrumOptions._fields if key in options})
        super().__init__(sound_histograms(filenames, ks, lags, spectrum, seed), seed=seed, **options)


class _WithNetworks(Handle):
    """A module whose networks a subclass may define by methods, as in the SERKET toolkits."""

    def __init__(self, *values: Any, **given: Any) -> None:
        super().__init__(*values, **given)
        own_builders(type(self), _WithNetworks)  # refused before anything is trained

    def complete(self, directory: Path) -> None:
        """Add the networks that the class defines (:mod:`runner.user_networks`)."""
        methods = own_builders(type(self), _WithNetworks)
        if methods:
            probabilities = self.parameters.get("likelihood", "bce") == "bce"
            networks = copy_networks(type(self), methods, directory, probabilities=probabilities)
            self.parameters = validated_parameters(self.type, {**self.parameters, **networks})
            self.code = (str(directory),)


class VAE(_WithNetworks):
    """A variational autoencoder: ``VAE(latent_dim, itr=…, batch_size=…)``; parameters as in ``serket modules``.

    A subclass may define the networks: ``build_encoder(input_dim, latent_dim)`` returns a torch module that maps rows
    to mean and log-variance, ``build_decoder(input_dim, latent_dim)`` one that maps latent vectors to probabilities
    (with ``RE="MSE"``, to values); ``input_dim`` is the shape of a row, flattened: ``(D,)``.
    """

    type, short, spellings = "vae", "vae", spelling.VAE


class TorchVAE(VAE):
    """A VAE as ``torch_vae.TorchVAE(input_dim, latent_dim, …)``; `input_dim` is compared with the observations."""

    spellings = spelling.TORCH_VAE

    def __init__(self, *values: Any, **given: Any) -> None:
        bound = self.spellings.bind(type(self).__name__, values, given)
        self.input_dim = bound.pop("input_dim", None)
        super().__init__(**bound)

    def complete(self, directory: Path) -> None:
        """Compare the width that the script names with that of the observations."""
        for lower in self.below:
            width = math.prod(lower.data.observations.shape[1:]) if isinstance(lower, Observation) else None
            named = None if self.input_dim is None else int(np.prod(self.input_dim))
            if None not in (width, named) and width != named:
                raise GraphError(f"module {self.name!r}: input_dim is {self.input_dim}, but a row has {width} numbers")
        super().complete(directory)


class GMM(Handle):
    """A Gaussian mixture: ``GMM(classes, category=…)``; parameters as in ``serket modules``."""

    type, short, spellings = "gmm", "gmm", spelling.GMM


class MarkovModel(Handle):
    """A Markov model: ``MarkovModel()``; parameters as in ``serket modules``."""

    type, short, spellings = "markov", "mm", spelling.MARKOV

    def predict(self, data: Rows, steps: int = 1, *, lengths: Lengths | None = None) -> Array:
        """Return P(class) of the `steps` rows that follow new rows, (steps, K), from what the model has learnt.

        Parameters
        ----------
        data, lengths
            As for :meth:`recognize`; of several sequences, the last one is continued.
        steps : int
            At least 1, at most 10,000.

        Raises
        ------
        GraphError, DataError
            As :meth:`recognize`.
        """
        if self._model is None:
            raise GraphError("nothing was learnt yet: update the modules before they predict")
        return self._model.predict(data, lengths, steps)


class SwitchingMarkov(Handle):
    """A Markov model with transitions for each regime: ``SwitchingMarkov(R)``; parameters as in ``serket modules``.

    A :class:`MarkovModel` above it learns the order of the regimes, such as words of syllables.
    """

    type, short, spellings = "switching_markov", "switching_mm", Spellings(positional=("regimes",))


class MLDA(Handle):
    """Multimodal latent Dirichlet allocation: ``MLDA(topics, weights=…)``; parameters as in ``serket modules``.

    ``weights`` is a map from the name of a module below to its tokens per row, or a list in the order of connection, in
    which None leaves a modality without a weight.
    """

    type, short, spellings = "mlda", "mlda", spelling.MLDA

    def _validated(self, given: dict[str, Any]) -> dict[str, Any]:
        weights = given.pop("weights", None)
        if weights is not None and (isinstance(weights, str) or np.ndim(weights) != (not isinstance(weights, Mapping))):
            raise ModuleError(
                f"{type(self).__name__}: weights is {brief(weights)}; give a list, one for each module below in the "
                "order of connection, or a map from their names"
            )
        self._weights = None if weights is None or isinstance(weights, Mapping) else list(weights)
        if isinstance(weights, Mapping):
            given["weights"] = weights
        return super()._validated(given)

    def complete(self, directory: Path) -> None:  # noqa: ARG002 (imports no files)
        """Name the modalities of a list of weights."""
        if self._weights is None:
            return
        if len(self._weights) != len(self.below):
            names = ", ".join(lower.name for lower in self.below)
            raise GraphError(
                f"module {self.name!r}: {len(self._weights)} weights for {len(self.below)} modules below ({names}); "
                "give one for each, in the order of connection"
            )
        pairs = zip(self.below, self._weights, strict=True)
        named = {lower.name: weight for lower, weight in pairs if weight is not None}
        self.parameters = validated_parameters(self.type, {**self.parameters, "weights": named})


class DPGMM(Handle):
    """A Dirichlet process Gaussian mixture: ``DPGMM()``; infers K; parameters as in ``serket modules``."""

    type, short = "dp_gmm", "dp_gmm"


class ARGMM(Handle):
    """A mixture of autoregressions: ``ARGMM(K)``; parameters as in ``serket modules``."""

    type, short, spellings = "ar_gmm", "ar_gmm", Spellings(positional=("classes",))


class PCA(Handle):
    """Principal components: ``PCA(latent_dim)``; parameters as in ``serket modules``."""

    type, short, spellings = "pca", "pca", Spellings(positional=("latent_dim",))


class Product(Handle):
    """The product of the class posteriors of several modules: ``Product()``; parameters as in ``serket modules``."""

    type, short = "product", "product"


class Network(_WithNetworks):
    """A supervised mapping from messages to observations: ``Network()``; parameters as in ``serket modules``.

    A subclass may define the network: ``build_model(input_dim, output_dim)`` returns a torch module.
    """

    type, short, spellings = "network", "network", spelling.NN


class TorchNN(Network):
    """A network as ``torch_nn.TorchNN(batch_size1, batch_size2, …)``."""

    spellings = spelling.TORCH_NN


class Module(Handle):
    """A module of any type: ``Module("package.module:Class", …)``.

    Parameters
    ----------
    type : str
        As in a model file: the short name of a built-in module or a plug-in, or ``package.module:Class``.
    **options
        As for :class:`Handle`.
    """

    def __init__(self, type: str, **options: Any) -> None:
        self.type = type
        self.short = re.sub(r"\W", "_", type.rpartition(":")[2].lower())
        super().__init__(**options)


# The modules of the family, as its scripts import them: `from runner import vae, gmm, mm`.
vae = SimpleNamespace(VAE=VAE)
torch_vae = SimpleNamespace(TorchVAE=TorchVAE)
gmm = SimpleNamespace(GMM=GMM)
dpgmm = SimpleNamespace(DPGMM=DPGMM)
mm = SimpleNamespace(MarkovModel=MarkovModel)
mlda = SimpleNamespace(MLDA=MLDA)
hac = SimpleNamespace(HACFeatureExtractor=HACFeatureExtractor)
nn = SimpleNamespace(NN=Network)
torch_nn = SimpleNamespace(TorchNN=TorchNN)


def _checked_name(name: Any, label: str) -> str:
    """Return the name of a module, which is also a part of the names of files; empty if none is given."""
    if name is None or name == "":
        return ""
    problem = "expected a text"
    if isinstance(name, str):
        problem = ""
        if "/" in name or not name.isprintable() or name.startswith("."):
            problem = "expected one that does not begin with '.', and has neither '/' nor control characters"
        elif len(os.fsencode(name)) > MAX_NAME_CHARACTERS:
            problem = f"its {len(os.fsencode(name))} bytes are more than the {MAX_NAME_CHARACTERS} that a name may have"
    if problem:
        raise ModuleError(f"{label}: name is {brief(name)}; {problem}")
    return str(name)


def _checked_integer(value: Any, what: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value < 2**63:
        raise ModuleError(f"{what} is {brief(value)}, expected an integer of at least {least} and below 2^63")
    return int(value)


def _checked_gpus(value: Any, label: str) -> float | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value < float("inf"):
        raise ModuleError(f"{label}: num_gpus is {brief(value)}, expected a number of at least 0, or 'auto'")
    return float(value)


def _checked_sharing(options: dict[str, Any], label: str) -> Sharing | None:
    """Take what says how workers share rows from the options of a handle; None if there is nothing."""
    given: dict[str, Any] = {}
    for name in ("workers", "chunk", "sample_rows"):
        value = options.pop(name, None)
        if name == "workers" and isinstance(value, str) and value == "auto":
            given[name] = value
        elif value is not None:
            given[name] = _checked_integer(value, f"{label}: {name}", 1)
    if isinstance(given.get("workers"), int) and given["workers"] > MAX_WORKERS:
        raise ModuleError(f"{label}: workers is {given['workers']}, expected at most {MAX_WORKERS}")
    return Sharing(**given) if given else None


def _shown_handle(given: Any) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"


def _connect_hint(given: Any) -> str:
    """Return what to give instead of something that is no handle."""
    if isinstance(given, type) and issubclass(given, Handle):
        return f"make one, as in {given.__name__}(…)"
    if isinstance(given, list | tuple) and given and all(isinstance(each, Handle) for each in given):
        return "give the modules one by one, as in connect(a, b)"
    return "give rows as Observation(rows)"


def _script_name() -> str:
    """Return the name of the script as a name of a run; ``script`` for one that comes from a pipe or a console."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", Path(sys.argv[0]).stem).lstrip(".-")
    return name[:MAX_NAME_CHARACTERS] if name and sys.argv[0] not in ("-", "-c") else "script"
