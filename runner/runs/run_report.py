"""The report of a run: what it learnt and how it went, as one HTML page that needs nothing else.

It is made from the run's directory alone, when the run is done or later. What the run does not keep is named as not
recorded; no value is made up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from actors.errors import CheckpointError, ModuleError
from actors.graph.graph import Graph
from actors.kernels.row_sample import spread_rows
from actors.limits import MAX_REPORT_READ_BYTES
from actors.messaging.message import Message
from actors.messaging.stored_rows import StoredRows
from actors.storage.manifest import Manifest, ModuleRecord
from actors.types import Array, BoolArray, FloatArray
from runner.report import figures
from runner.report.category_names import category_name
from runner.report.clustering_metrics import accuracy, confusion
from runner.report.model_layout import Drawing, Sent, draw_model
from runner.report.pages import Panel, Picture, Section, Table, render_page
from runner.report.plots import project
from runner.report.printable import format_bytes, printable_line
from runner.report.progress import format_duration
from runner.report.reliability import reliability_of
from runner.runs.artifacts import CommitOutputs, class_order, matched_names, read_commit, sequence_lengths
from runner.runs.directory import RunDirectory
from runner.runs.history import RunHistory
from runner.runs.levels import modules_of_regimes
from runner.runs.run_files import RunDirectoryError

REPORT = "report.html"
UNCERTAIN_ROWS = 8
COMPARED_ROWS = 12
MAX_TABLE_COLUMNS = 12
MAX_REGIMES_SHOWN = 8
MAX_INTERVALS = 100
MAX_DRAWN_INTERVALS = 30
MAX_CONFUSIONS = 4
"""Modules whose classes are compared with labels, and whose latent vectors are drawn."""
_PROBLEMS = (ValueError, OSError, CheckpointError, ModuleError)


def write_report(directory: RunDirectory, result: Mapping[str, Any] | None = None, *, no_labels: str = "") -> int:
    """Write ``report.html`` into a run's directory; return its size in bytes.

    Parameters
    ----------
    directory : RunDirectory
    result : mapping, optional
        The contents of ``result.json``, if that is not written yet.
    no_labels : str
        Why the labels of the rows are not known, where that is not because there are none.
    """
    page = RunReport(directory, result, no_labels).render().encode()
    with directory.new_file(REPORT) as file:
        file.write(page)
    return len(page)


class RunReport:
    """The report of one run.

    Parameters
    ----------
    directory : RunDirectory
    result : mapping, optional
    no_labels : str
    """

    def __init__(self, directory: RunDirectory, result: Mapping[str, Any] | None = None, no_labels: str = "") -> None:
        self.directory = directory
        self.graph: Graph = directory.graph
        self.no_labels = no_labels or "the data has no labels"
        self.history = RunHistory.read(directory.log)
        written = (directory.path / "result.json").exists()
        self.result: Mapping[str, Any] = result or (directory.read_json("result.json") if written else {})
        self.rounds = directory.metrics_file.rows() if (directory.path / "metrics.csv").exists() else []
        names = [name for name in directory.checkpoints.names() if name != "round-000"]
        self.manifest: Manifest | None = directory.checkpoints.manifest(names[-1]) if names else None
        self.commit = read_commit(directory, names[-1]) if names else CommitOutputs({})
        self._above = modules_of_regimes(self.graph)

    def render(self) -> str:
        """Return the report as HTML."""
        sections = [
            Section("model", "Model", [self._model(), self._times()]),
            Section("measures", "Measures by round", list(self._measures())),
            Section("classes", "Classes", list(self._classes())),
            Section("transitions", "Transitions", [*self._transitions(), *self._durations()]),
            Section("latents", "Latent space and decoded classes", list(self._latents())),
            Section("reliability", "Do probabilities hold", list(self._reliabilities())),
            Section("uncertain", "Least certain rows", list(self._uncertain())),
            Section("run", "How the run went", list(self._run())),
            Section("setup", "Configuration and machine", list(self._setup())),
        ]
        name = printable_line(self.directory.name, 200)
        done = "done" if self.result else "not done yet"
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.history.first or time.time()))
        return render_page(name, f"Run of {when}, {done}", sections, self._facts())

    def _facts(self) -> dict[str, str]:
        source: Mapping[str, Any] = self.result or (self.rounds[-1] if self.rounds else {})
        facts = {}
        measures = {"accuracy": "Accuracy", "ari": "ARI", "nmi": "NMI", "ece": "ECE", "evidence": "Evidence (nats)"}
        for key, label in measures.items():
            facts[label] = _number(source.get(key), 4 if key != "evidence" else 1) or "not measured"
        facts["Rounds"] = f"{len(self.rounds)} of {self.graph.schedule.rounds}"
        seconds = self.result.get("seconds")
        facts["Time"] = format_duration(seconds) if isinstance(seconds, int | float) else "not measured"
        return facts

    # --- the model ------------------------------------------------------------------------------------------------

    def _model(self) -> Panel:
        sizes = "Sizes are those of the messages in the last commit." if self.manifest else ""
        return Panel("Modules and messages", drawing=self.drawing(), sentences=[sizes] if sizes else [])

    def drawing(self) -> Drawing:
        """Return the drawing of the model, with the sizes of the messages in the last commit."""
        seconds = self.result.get("module_seconds", {})
        notes = {
            name: f"computed for {format_duration(value)}" if name not in self.graph.sources else ""
            for name, value in seconds.items()
            if isinstance(value, int | float)
        }
        sent = []
        for route in self.graph.routes:
            size = self._message_bytes(route.sender, route.out_port, route.receiver)
            sent.append(
                Sent(route.sender, route.receiver, (route.out_port, format_bytes(size) if size else "not sent"))
            )
        merged: dict[tuple[str, str], list[str]] = {}
        for each in sent:
            merged.setdefault((each.sender, each.receiver), []).extend(each.lines)
        pairs = [(each.lower, each.upper) for each in self.graph.connections]
        messages = [Sent(*ends, tuple(lines)) for ends, lines in merged.items()]
        return draw_model({name: spec.type for name, spec in self.graph.modules.items()}, pairs, messages, notes)

    def _message_bytes(self, sender: str, port: str, receiver: str) -> int:
        record = self.manifest.modules.get(sender) if self.manifest else None
        slots = (f"message:{port}", f"message:{port}.{receiver}")
        files = record.files if record else {}
        return sum(file.size for label, file in files.items() if label.partition("#")[0] in slots)

    def _times(self) -> Panel:
        rows = [
            (
                name,
                spec.type,
                _seconds(self.result.get("module_seconds", {}).get(name)),
                self.history.places.get(name, "–"),
            )
            for name, spec in self.graph.modules.items()
        ]
        return Panel("Modules", tables=[Table(("module", "type", "computed", "where"), rows)])

    # --- measures -------------------------------------------------------------------------------------------------

    def _measures(self) -> Iterator[Panel]:
        x = [row["round"] or 0.0 for row in self.rounds]

        def lines(*names: str) -> dict[str, Any]:
            values = {name: [row.get(name) for row in self.rounds] for name in names}
            return {name: (x, y) for name, y in values.items() if any(each is not None for each in y)}

        own = [name for name in (self.rounds[0] if self.rounds else {}) if name.startswith("accuracy_")]
        yield _panel(
            "Accuracy, ARI and NMI",
            lambda: self._curve(lines("accuracy", "ari", "nmi", *own), "agreement", top=1.0),
            f"Not measured: {self.no_labels}.",
        )
        yield _panel(
            "Expected calibration error",
            lambda: self._curve(lines("ece"), "ece", bottom=0.0),
            f"Not measured: {self.no_labels}.",
        )
        yield _panel(
            "Evidence",
            lambda: self._curve(lines("evidence"), "evidence"),
            "Not measured: no module reports an evidence.",
        )
        bounds = {}
        for module, metrics in self.history.metrics.items():
            for name in ("bound", "elbo", "loss"):
                if name in metrics:
                    rounds, values = zip(*metrics[name], strict=True)
                    bounds[f"{name} of {module}"] = (rounds, values)
                    break
        yield _panel("Bound", lambda: self._curve(bounds, "bound"), "Not measured: no module reports a bound.")

    def _curve(self, lines: Mapping[str, Any], label: str, **limits: float) -> list[Picture]:
        shows = f"{', '.join(lines)} over {len(self.rounds)} rounds"
        return [Picture(figures.curves(lines, label, **limits), shows)] if lines else []

    # --- classes --------------------------------------------------------------------------------------------------

    def _classes(self) -> Iterator[Panel]:
        named = {module: outputs["class"] for module, outputs in self.commit.outputs.items() if "class" in outputs}
        if not named:
            yield Panel("Confusion matrix", missing="Not measured: no module names classes.")
        for module, classes in list(named.items())[:MAX_CONFUSIONS]:
            labels = self.directory.categories_of(module, len(classes))
            if labels is None:
                yield Panel(f"Confusion matrix of {module}", missing=f"Not measured: {self.no_labels}.")
            else:
                yield _panel(f"Confusion matrix of {module}", partial(_confusion_pictures, classes, labels))
            yield _class_sizes(module, classes, labels)
            if self.commit.find("trans_prob") is not None:
                yield _panel(
                    f"Classes of {module} over time", partial(self._state_pictures, classes, labels), wide=True
                )
        for module in self._above:
            if (path := self.commit.outputs.get(module, {}).get("viterbi")) is not None:
                labels = self.directory.categories_of(module, len(path))
                yield _panel(f"Classes of {module} over time", partial(self._state_pictures, path, labels), wide=True)

    def _state_pictures(self, classes: Array, labels: Array | None) -> list[Picture]:
        drawn = figures.states(classes, labels, sequence_lengths(self.directory, len(classes)))
        return [Picture(drawn, "the class of each row, a line for each sequence")]

    def _transitions(self) -> Iterator[Panel]:
        found = {module: own["trans_prob"] for module, own in self.commit.outputs.items() if "trans_prob" in own}
        matrices = {module: each for module, each in found.items() if each.ndim == 2 and len(each) > 1}
        if not matrices:
            yield Panel("Transition probabilities", missing="Not measured: the model has no Markov model.")
        for module, values in matrices.items():
            whose, level = f" of {module}" if len(matrices) > 1 else "", self._level_of(module)
            yield from self._matrix_panels(values, whose, level)
            yield from self._transition_intervals(module, whose, level)
            regimes = self.commit.outputs[module].get("regime_trans_prob", ())
            order = class_order(values, self.commit)
            matched = matched_names(self.commit.classes, self.commit.categories)
            for r, each in enumerate(regimes[:MAX_REGIMES_SHOWN]):
                yield _panel(
                    f"Transition probabilities of {module} in regime {r}",
                    partial(_transition_pictures, each, order, matched),
                )

    def _level_of(self, module: str) -> CommitOutputs:
        """Return the outputs with the classes whose order a module learns: none, if these are regimes."""
        return CommitOutputs(self.commit.outputs) if module in self._above else self.commit

    def _matrix_panels(self, values: FloatArray, whose: str, level: CommitOutputs) -> Iterator[Panel]:
        """Show a matrix and its cycles."""
        order, matched = class_order(values, level), matched_names(level.classes, level.categories)
        yield _panel(f"Transition probabilities{whose}", partial(_transition_pictures, values, order, matched))
        cycles = figures.most_probable_cycles(values)
        names = _shown_names(matched)
        rows = []
        for cycle in cycles[:20]:
            steps = [float(values[k, cycle[(place + 1) % len(cycle)]]) for place, k in enumerate(cycle)]
            mean = math.exp(float(np.mean(np.log(np.maximum(steps, 1e-300)))))
            shown = " → ".join(names.get(k, str(k)) for k in [*cycle, cycle[0]][:41])
            rows.append((shown + (" → …" if len(cycle) > 40 else ""), len(cycle), f"{mean:.3f}"))
        table = Table(("cycle along the most probable next class", "classes", "mean probability of a step"), rows)
        if len(values) <= 40:
            yield _panel(
                f"Graph of the transitions{whose} and its cycles",
                lambda: [
                    Picture(
                        figures.transition_graph(values, order, names),
                        "classes on a circle, with arrows to those that follow",
                    )
                ],
                said="Each class has arrows to the next classes that make up 90 % of the probability, at least a blue "
                "one to the most probable other class; its ring is as wide as it is probable that it stays.",
                tables=[table],
            )
        else:
            too_many = f"{len(values)} classes are too many for a drawn graph."
            yield Panel(f"Cycles{whose}", tables=[table], missing=too_many)

    def _transition_intervals(self, module: str, whose: str, level: CommitOutputs) -> Iterator[Panel]:
        """Show the intervals of transitions, for a Markov model that draws from their posterior."""
        own = self.commit.outputs[module]
        if "trans_low" not in own or "trans_high" not in own:
            return
        values, low, high = (np.asarray(own[name]) for name in ("trans_prob", "trans_low", "trans_high"))
        order, names = class_order(values, level), _shown_names(matched_names(level.classes, level.categories))
        pairs = figures.leading_transitions(values, order, MAX_INTERVALS)
        rows = [
            (names.get(k, str(k)), names.get(j, str(j)), f"{values[k, j]:.3f}", f"{low[k, j]:.3f} to {high[k, j]:.3f}")
            for k, j in pairs
        ]
        yield _panel(
            f"Intervals of the transitions{whose}",
            lambda: [
                Picture(
                    figures.transition_intervals(values, low, high, pairs[:MAX_DRAWN_INTERVALS], names),
                    "the probabilities of transitions with their intervals, as in the table",
                )
            ],
            said="A point is what the model computes with; a bar is where the true probability lies, by draws of "
            "classes and parameters. Shown are the next classes that make up 90 % of each class's probability, at most "
            f"{MAX_INTERVALS} transitions.",
            tables=[Table(("class", "next class", "probability", "95 % posterior interval"), rows)],
        )

    def _durations(self) -> Iterator[Panel]:
        """Show how long segments are, for a Markov model with explicit durations."""
        found = (own for own in self.commit.outputs.items() if {"mean_duration", "duration_interval"} <= own[1].keys())
        module, own = next(found, ("", {}))
        if not module:
            return
        means, intervals = own["mean_duration"], own["duration_interval"]
        level, shown = self._level_of(module), range(min(len(means), 100))
        names = _shown_names(matched_names(level.classes, level.categories))
        rows = [
            (names.get(k, str(k)), f"{means[k]:.1f}", f"{intervals[k, 0]:.1f} to {intervals[k, 1]:.1f}") for k in shown
        ]
        yield Panel(
            "Durations",
            tables=[Table(("class", "mean rows of a segment", "95 % posterior interval"), rows)],
            sentences=["Transitions are between segments, so that no class follows itself."],
        )

    def _classifier_above(self, module: str) -> str:
        """Return the module right above `module` that names classes; empty if there is none."""
        above = [each.upper for each in self.graph.connections if each.lower == module]
        return next((name for name in above if "class" in self.commit.outputs.get(name, {})), "")

    def _class_names(self, module: str = "") -> dict[int, str]:
        """Return the names of the classes of `module`, by default of the first that names some, with their labels."""
        classes, labels = self.commit.classes, self.commit.categories
        if module:
            classes = self.commit.outputs[module]["class"]
            labels = self.directory.categories_of(module, len(classes))
        if classes is None or labels is None:
            return {}
        return _shown_names(matched_names(classes, labels))

    # --- latent space ---------------------------------------------------------------------------------------------

    def _latents(self) -> Iterator[Panel]:
        modules = [module for module, outputs in self.commit.outputs.items() if "z" in outputs]
        for module in modules[:MAX_CONFUSIONS]:
            yield _panel(f"Latent space of {module}", partial(self._latent_pictures, module), wide=True)
        if not modules:
            yield Panel("Latent space", missing="Not recorded: no module has latent vectors (output z).")
        yield _panel("Class means, decoded", self._mean_pictures, "Not recorded: no module decodes class means.")
        means = self.commit.find("mu")
        if means is not None and means.ndim == 2 and means.shape[1] <= MAX_TABLE_COLUMNS and len(means) <= 50:
            rows = [(k, *(f"{value:.4g}" for value in row)) for k, row in enumerate(means)]
            columns = ("class", *(f"column {d + 1}" for d in range(means.shape[1])))
            yield Panel("Class means", tables=[Table(columns, rows)])
        yield from self._reconstructions()

    def _latent_pictures(self, module: str) -> list[Picture]:
        found = self.commit.points("z", module)
        if found is None:
            return []
        points, rows, total = found
        plane, names = project(np.asarray(points, dtype=np.float64))
        some = f"{len(rows):,} of {total:,} rows, " if len(rows) < total else ""
        pictures = []
        named = self._classifier_above(module)
        classes = self.commit.outputs[named]["class"] if named else self.commit.classes
        labels = self.directory.categories_of(named or module, total)
        for groups, what in ((classes, "class"), (labels, "label")):
            if groups is not None and len(groups) == total:
                title = f"{some}coloured by {what}"
                pictures.append(Picture(figures.latents(plane, names, groups[rows], title), f"latent vectors, {title}"))
        return pictures or [Picture(figures.latents(plane, names, None, f"{some}latent vectors"), "latent vectors")]

    def _mean_pictures(self) -> list[Picture]:
        pictures = []
        for module in self.graph.modules:
            decoded = self.directory.read_output(module, "mu_hat", "learn")
            if decoded is not None and len(decoded):
                names = self._class_names(self._classifier_above(module))
                shown = decoded[:100]
                titles = [names.get(k, f"class {k}") for k in range(len(shown))]
                pictures.append(Picture(figures.images(shown, titles), f"class means decoded by {module}"))
        return pictures

    def _reconstructions(self) -> Iterator[Panel]:
        found = False
        for module, outputs in self.commit.outputs.items():
            if "x_hat" not in outputs:
                continue
            found = True
            title = f"Originals and reconstructions by {module}"
            yield _panel(
                title,
                partial(self._pair_pictures, module, outputs),
                said="Each row above its reconstruction; curves: the row in blue, its reconstruction in orange.",
            )
        if not found:
            yield Panel("Originals and reconstructions", missing="Not recorded: no module reconstructs rows (x_hat).")

    def _pair_pictures(self, module: str, outputs: Mapping[str, Array]) -> list[Picture]:
        sources = [each.lower for each in self.graph.connections if each.upper == module]
        source = next((name for name in sources if name in self.graph.sources), None)
        if source is None or self.manifest is None:
            raise ValueError("its rows come from another module, whose messages are not shown")
        record = self.manifest.modules[source]
        _check_size(self.manifest.modules[module], "outputs")
        message = self._message(record, "observations")
        values = message["values"]
        decoded = np.asarray(outputs["x_hat"])
        numbers = np.asarray(outputs["x_hat_rows"]) if "x_hat_rows" in outputs else np.arange(len(decoded))
        chosen = spread_rows(len(decoded), COMPARED_ROWS)
        rows = numbers[chosen].astype(np.int64)
        originals = values.take(rows) if isinstance(values, StoredRows) else np.asarray(values)[rows]
        labels = self.commit.categories
        titles = [
            f"{n}" if labels is None or n >= len(labels) else f"{n}, label {category_name(labels, int(labels[n]))}"
            for n in rows
        ]
        one, other = (each.reshape(len(rows), -1) for each in (originals, decoded[chosen]))
        return [Picture(figures.pairs(one, other, titles), f"{len(rows)} rows and their reconstructions")]

    def _message(self, record: ModuleRecord, slot: str) -> Message:
        """Return a message of the last commit.

        Raises
        ------
        ValueError
            If it is too large to be read for a report.
        """
        _check_size(record, f"message:{slot}")
        return self.directory.checkpoints.message(record, slot)

    # --- whether probabilities hold -------------------------------------------------------------------------------

    def _reliabilities(self) -> Iterator[Panel]:
        modules = [module for module, outputs in self.commit.outputs.items() if {"Pdz", "class"} <= outputs.keys()]
        for module in modules[:MAX_CONFUSIONS]:
            yield _panel_of(f"Reliability of {module}", partial(self._reliability_panel, module))
        if not modules:
            yield Panel("Reliability", missing="Not measured: no module names classes with their probabilities.")

    def _reliability_panel(self, module: str) -> Panel:
        """Return how often a module's classes are right, by their probability, with and without each parent."""
        title, record = f"Reliability of {module}", self.manifest.modules[module] if self.manifest else None
        if record is None or self.directory.categories_of(module) is None:
            return Panel(title, missing=f"Not measured: {self.no_labels}.")
        posterior, without, _missing = self._posteriors(module, record)
        labels = self.directory.categories_of(module, len(posterior))
        if labels is None:
            return Panel(title, missing="Not measured: the labels are those of other rows.")
        shown = {_with_parents(without): posterior, **{f"without {name}": each for name, each in without.items()}}
        tables = {name: reliability_of(each, labels) for name, each in shown.items()}
        rows = [
            (name, f"{tables[name].ece:.4f}", f"{reliability_of(each, labels, binning='mass').ece:.4f}")
            for name, each in shown.items()
        ]
        columns = ("posterior", "calibration error", "with bins of equal numbers of rows")
        picture = Picture(figures.reliability(tables), "accuracy by the probability of the most probable class")
        said = "On the dashed line probabilities are as often right as they say. Points are as large as their bin."
        return Panel(title, [picture], [Table(columns, rows)], [said, *self._calibration_of(module)])

    def _calibration_of(self, module: str) -> Iterator[str]:
        """Yield a sentence on the calibration of a module that has one."""
        metrics = self.history.metrics.get(module, {})
        if "likelihood_temperature" in metrics and "lapse_rate" in metrics:
            temperature, lapse = (metrics[name][-1][1] for name in ("likelihood_temperature", "lapse_rate"))
            yield (
                f"With calibrate, {module} raises its likelihood to the power {temperature:g} and takes it to be wrong "
                f"for {100 * lapse:g} % of the rows, whose classes are then those that other modules predict."
            )

    def _posteriors(
        self, module: str, record: ModuleRecord
    ) -> tuple[FloatArray, dict[str, FloatArray], BoolArray | None]:
        """Return a module's posterior (N, K), that without each parent that it sends to, and the missing rows (N,).

        The message to a parent is the posterior without that parent's own prior, of the same update.
        """
        _check_size(record, "outputs")
        posterior = np.asarray(self.commit.outputs[module]["Pdz"], dtype=np.float64)
        slots = [slot for slot in record.slots if slot.startswith("class_posteriors.")]
        messages = {slot.partition(".")[2]: self._message(record, slot) for slot in slots}
        without = {name: np.exp(np.asarray(m["log_prob"], np.float64)) for name, m in messages.items()}
        without = {name: values for name, values in without.items() if values.shape == posterior.shape}
        return posterior, without, next((m.mask for m in messages.values() if m.mask is not None), None)

    # --- least certain rows ---------------------------------------------------------------------------------------

    def _uncertain(self) -> Iterator[Panel]:
        found = False
        for module, outputs in self.commit.outputs.items():
            record = self.manifest.modules[module] if self.manifest else None
            slots = [slot for slot in record.slots if slot.startswith("class_posteriors.")] if record else []
            if "Pdz" in outputs and record is not None and slots:
                found = True
                yield _panel_of(f"Posterior of {module}", partial(self._parents_panel, module, record))
        if not found:
            yield Panel(
                "Posterior with and without the parent",
                missing="Not recorded: no module has a parent that sends a prior of its classes.",
            )

    def _parents_panel(self, module: str, record: ModuleRecord) -> Panel:
        """Return what the parents' messages changed in a module's posterior."""
        posterior, without, missing = self._posteriors(module, record)
        entropy = -np.sum(posterior * np.log(np.maximum(posterior, 1e-300)), axis=1)
        if missing is not None:
            entropy = np.where(missing, -np.inf, entropy)
        rows = np.argsort(-entropy, kind="stable")[:UNCERTAIN_ROWS]
        rows = rows[np.isfinite(entropy[rows])]
        labels = self.directory.categories_of(module, len(posterior))
        with_parents = _with_parents(without)
        sentences = [_change(posterior, values, name, labels) for name, values in without.items()]
        tables = {with_parents: posterior[rows], **{f"without {name}": v[rows] for name, v in without.items()}}
        columns = ("row", "label", "class", *(f"without {name}" for name in without), "entropy (nats)")
        lines = [
            (
                int(n),
                "–" if labels is None else category_name(labels, int(labels[n])),
                int(posterior[n].argmax()),
                *(int(values[n].argmax()) for values in without.values()),
                f"{abs(entropy[n]):.3g}",
            )
            for n in rows
        ]
        picture = Picture(figures.posteriors(tables, [int(n) for n in rows]), f"posteriors of the {len(rows)} rows")
        return Panel(
            f"Posterior of {module}, {with_parents} and without",
            [picture],
            [Table(columns, lines)],
            sentences,
            wide=True,
        )

    # --- the run --------------------------------------------------------------------------------------------------

    def _run(self) -> Iterator[Panel]:
        modules = [name for name in self.graph.modules if self.history.spans.get(name)]
        marks = [each.time - self.history.first for each in self.history.incidents if each.what == "died"]
        tracks: dict[str, Sequence[tuple[float, float]]] = {name: self.history.spans[name] for name in modules}
        tracks |= {"copies in chains": self.history.chains} if self.history.chains else {}
        yield _panel(
            "Who worked when",
            lambda: [Picture(figures.timeline(tracks, marks), "spans of time by module")] if tracks else [],
            "Not recorded: there are no events.",
            said="Red lines are deaths." if marks else "",
        )
        rows = [
            (time.strftime("%H:%M:%S", time.localtime(each.time)), each.what, each.module, each.details)
            for each in self.history.incidents
        ]
        said = [f"{self.history.omitted} earlier ones are in events.jsonl."] if self.history.omitted else []
        yield Panel(
            "Deaths and recoveries",
            tables=[Table(("time", "what", "who", "details"), rows)] if rows else [],
            sentences=said if rows else ["None: no process died, and nothing was repeated or resumed."],
        )
        phases = self.result.get("phases", {})
        times = [(name, _seconds(value)) for name, value in phases.items()] if isinstance(phases, Mapping) else []
        share, first = self.result.get("overhead_share"), self.result.get("first_output")
        times.append(("first output after", _seconds(first)))
        times.append(("time in which nothing computed", f"{share:.1%}" if isinstance(share, float) else "not measured"))
        yield Panel("Phases", tables=[Table(("phase", "seconds"), times)])

    def _setup(self) -> Iterator[Panel]:
        config = self.directory.config_text()
        yield Panel("config.yaml", code=config, missing="" if config else "Not recorded: there is no config.yaml.")
        environment = self.directory.environment()
        packages = environment.get("packages", {})
        names: tuple[str, ...] = ("python", "machine", "processor", "cores")
        rows = [(name, str(environment[name])) for name in names if name in environment]
        if self.manifest is not None:
            rows.insert(0, ("seed", str(self.manifest.seed)))
        rows += [(str(name), str(value)) for name, value in packages.items()]
        yield Panel(
            "Seed, versions and machine",
            tables=[Table(("what", "value"), rows, numbers=False)],
            missing="" if environment else "Not recorded: there is no environment.json.",
        )


def _shown_names(matched: Mapping[int, str]) -> dict[int, str]:
    """Return what stands for each class that is matched to a label."""
    return {k: f"{k} = {name}" for k, name in matched.items()}


def _transition_pictures(values: FloatArray, order: Sequence[int], matched: Mapping[int, str]) -> list[Picture]:
    return [Picture(figures.transitions(values, order, matched), "transitions")]


def _check_size(record: ModuleRecord, label: str) -> None:
    """Raise ValueError if a module's file, or the sum of its parts, is too large to be read for a report."""
    size = sum(file.size for name, file in record.files.items() if name.partition("#")[0] == label)
    if size > MAX_REPORT_READ_BYTES:
        raise ValueError(f"{label} has {format_bytes(size)}, too much to be read for a report")


def _confusion_pictures(classes: Array, labels: Array) -> list[Picture]:
    table = confusion(classes, labels)
    names = [category_name(labels, k) for k in table.categories.tolist()]
    drawn = figures.confusion(table.matrix, names, list(table.classes))
    return [Picture(drawn, "rows of each label in each class")]


def _class_sizes(module: str, classes: Array, labels: Array | None) -> Panel:
    numbers, sizes = np.unique(classes, return_counts=True)
    matched = matched_names(classes, labels)
    rows = [(int(k), f"{n:,}", matched.get(int(k), "–")) for k, n in zip(numbers[:50], sizes[:50], strict=True)]
    sentences = [f"The first 50 of {len(numbers)} classes."] if len(numbers) > 50 else []
    if labels is not None:
        right = accuracy(classes, labels)
        sentences.append(
            f"{right * len(labels):,.0f} of {len(labels):,} rows lie in the class that is matched to their label."
        )
    return Panel(f"Classes of {module}", tables=[Table(("class", "rows", "label"), rows)], sentences=sentences)


def _panel(
    title: str,
    draw: Callable[[], list[Picture]],
    missing: str = "",
    *,
    said: str = "",
    tables: Sequence[Table] = (),
    wide: bool = False,
) -> Panel:
    """Return a panel with pictures; if they cannot be drawn, with the reason."""
    try:
        pictures = draw()
    except _PROBLEMS as error:
        return Panel(title, missing=f"Not shown: {error}", tables=tables)
    return Panel(title, pictures, tables, [said] if said and pictures else (), "" if pictures else missing, wide=wide)


def _panel_of(title: str, make: Callable[[], Panel]) -> Panel:
    try:
        return make()
    except _PROBLEMS as error:
        return Panel(title, missing=f"Not shown: {error}")


def _change(posterior: FloatArray, without: FloatArray, parent: str, labels: Array | None) -> str:
    """Return a sentence about what a parent's message changed."""
    before, after = without.argmax(axis=1), posterior.argmax(axis=1)
    changed = int(np.count_nonzero(before != after))
    sentence = f"The message of {parent} changed the class of {changed:,} of {len(after):,} rows"
    if labels is None:
        return f"{sentence}."
    return f"{sentence}: accuracy {accuracy(before, labels):.4f} without it, {accuracy(after, labels):.4f} with it."


def _with_parents(without: Mapping[str, FloatArray]) -> str:
    return f"with {' and '.join(without)}" if without else "as it is"


def _number(value: Any, digits: int) -> str:
    valid = isinstance(value, int | float) and math.isfinite(value)
    return f"{value:,.{digits}f}" if valid else ""


def _seconds(value: Any) -> str:
    return f"{value:.2f} s" if isinstance(value, int | float) else "–"


__all__ = ["REPORT", "RunDirectoryError", "RunReport", "write_report"]
