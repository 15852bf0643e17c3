"""What a sweep has found: a table of its grid points, ``sweep.csv`` and ``report.html``."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.limits import MAX_SHOWN_TRIALS
from actors.storage.filesystem import storage_at
from runner.config.run_config import RunConfig
from runner.report import figures
from runner.report.pages import Panel, Picture, Section, Table, render_page
from runner.report.printable import csv_cell, printable_line
from runner.runs.comparison import ComparedRun, Comparison, format_measure, read_run
from runner.sweeps.plan import MODEL, Sweep, Trial, show
from runner.sweeps.trials import is_finished

TABLE = "sweep.csv"
REPORT = "report.html"
MEASURES = ("evidence", "score", "accuracy", "ari", "nmi", "ece", "rounds", "seconds")
_SHOWN = ("evidence", "score", "accuracy", "ari", "seconds")


@dataclass(frozen=True)
class TrialResult:
    """What is known of a trial.

    Parameters
    ----------
    trial : Trial
    state : {"done", "failed", "left"}
    reason : str
        Why it failed.
    run : ComparedRun or None
        Its measures, where it is done.
    """

    trial: Trial
    state: str
    reason: str = ""
    run: ComparedRun | None = None

    def measure(self, name: str) -> float | None:
        """Return a measure of a trial that is done, None if it is not known."""
        return None if self.run is None else self.run.measures.get(name)


@dataclass(frozen=True)
class PointResult:
    """A grid point: its values, and the trials of its seeds."""

    values: tuple[Any, ...]
    results: Sequence[TrialResult]

    def known(self, name: str) -> list[float]:
        """Return the known values of a measure, by seed."""
        found = [result.measure(name) for result in self.results]
        return [value for value in found if value is not None and math.isfinite(value)]

    def mean(self, name: str) -> float | None:
        """Return the mean of a measure over the seeds that have it, None without one."""
        known = self.known(name)
        return math.fsum(known) / len(known) if known else None

    def deviation(self, name: str) -> float | None:
        """Return the standard deviation of a measure over seeds (that of a sample), None of fewer than two."""
        known = self.known(name)
        if len(known) < 2:
            return None
        mean = math.fsum(known) / len(known)
        return math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1))

    def show(self, name: str) -> str:
        """Return mean and deviation of a measure as text."""
        mean, deviation = format_measure(name, self.mean(name)), self.deviation(name)
        if deviation is None:
            return mean
        number, _, unit = mean.partition(" ")
        decimals = len(number.partition(".")[2])
        return f"{number} ± {deviation:,.{decimals}f}{f' {unit}' if unit else ''}"


@dataclass(frozen=True)
class Summary:
    """The results of a sweep, by grid point, and how the best one is chosen."""

    sweep: Sweep
    points: Sequence[PointResult]
    caveat: str

    @property
    def results(self) -> list[TrialResult]:
        """The results of all trials."""
        return [result for point in self.points for result in point.results]

    @property
    def best(self) -> PointResult | None:
        """The point with the highest mean of the criterion, among those of which the most seeds are done."""
        measured = [point for point in self.points if point.known(self.sweep.by)]
        most = max((len(point.known(self.sweep.by)) for point in measured), default=0)
        whole = [point for point in measured if len(point.known(self.sweep.by)) == most]
        return max(whole, key=lambda point: point.mean(self.sweep.by) or 0.0, default=None)

    @property
    def best_trial(self) -> TrialResult | None:
        """The trial of the best point with the highest value of the criterion."""
        point = self.best
        if point is None:
            return None
        return max(point.results, key=lambda each: _or_lowest(each.measure(self.sweep.by)))

    def describe_choice(self) -> str:
        """Return one sentence: which point is best, by what, and how it was chosen."""
        point, trial, by = self.best, self.best_trial, self.sweep.by
        if point is None or trial is None:
            return f"no trial reports {'an' if by == 'evidence' else 'a'} {by}, so no grid point is chosen"
        return (
            f"best by mean {by}, without labels: {self.describe_point(point.values)} ({by} {point.show(by)}); its best "
            f"run is {self.sweep.path / trial.trial.name}"
        )

    def describe_point(self, values: Sequence[Any]) -> str:
        """Return the values of a grid point as text."""
        return ", ".join(f"{key}={show(value)}" for key, value in zip(self.sweep.grid, values, strict=True)) or "model"

    def keys(self) -> list[str]:
        """Return the grid's keys, without what goes before the last dot where that tells them apart."""
        short = [key.rpartition(".")[2] for key in self.sweep.grid]
        return [name if short.count(name) == 1 else key for name, key in zip(short, self.sweep.grid, strict=True)]

    def columns(self) -> list[str]:
        """Return the measures that at least one trial has."""
        return [name for name in _SHOWN if any(point.known(name) for point in self.points)]

    def rows(self) -> Iterator[list[str]]:
        """Yield the values, the number of seeds that are done, and the measures of each grid point."""
        for point in self.points:
            done = sum(result.state == "done" for result in point.results)
            count = f"{done}/{len(point.results)}"
            yield [*map(show, point.values), count, *(point.show(name) for name in self.columns())]

    def as_dict(self) -> dict[str, Any]:
        """Return the results for ``--json``."""
        trial = self.best_trial
        return {
            "sweep": str(self.sweep.path),
            "by": self.sweep.by,
            "best": None if trial is None else trial.trial.name,
            "trials": [self._row(result) for result in self.results],
        }

    def _row(self, result: TrialResult) -> dict[str, Any]:
        own = dict(zip(self.sweep.grid, result.trial.values, strict=True))
        measures = {name: result.measure(name) for name in MEASURES}
        head = {"trial": result.trial.name, **own, "seed": result.trial.seed, "state": result.state}
        return {**head, **measures, "reason": result.reason}

    def write(self) -> None:
        """Write ``sweep.csv`` and ``report.html``."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        rows = [self._row(result) for result in self.results]
        writer.writerow([csv_cell(name) for name in rows[0]])
        for row in rows:
            texts = {key: show(row[key]) for key in self.sweep.grid}
            cells = ["" if value is None else value for value in {**row, **texts}.values()]
            writer.writerow([csv_cell(cell) for cell in cells])
        storage = storage_at(self.sweep.path.absolute())
        storage.write(TABLE, text.getvalue().encode())
        storage.write(REPORT, self.render().encode())

    # --- the page -----------------------------------------------------------------------------------------------------

    def render(self) -> str:
        """Return the report as HTML."""
        done = [result for result in self.results if result.run is not None]
        shown = sorted(done, key=lambda each: _or_lowest(each.measure(self.sweep.by)), reverse=True)[:MAX_SHOWN_TRIALS]
        keys = [*self.keys(), "seeds done", *self.columns()]
        chosen = [self.describe_choice(), *([self.caveat] if self.caveat else [])]
        overview = [
            Panel("Grid points", tables=[Table(keys, list(self.rows()))], sentences=chosen, wide=True),
            *self._pictures(),
        ]
        sections = [Section("points", "Grid points", overview), Section("trials", "Trials", [self._trials()])]
        if shown:
            runs = [result.run for result in shown if result.run is not None]
            title = "Curves" if len(shown) == len(done) else f"Curves of the {len(shown)} best trials"
            sections.append(Section("curves", title, list(Comparison(runs).curves())))
        counts = f"{len(done)} of {len(self.results)} trials are done"
        return render_page("Sweep", f"{self.sweep.path.name}: {counts}", sections)

    def _pictures(self) -> Iterator[Panel]:
        """Yield how the criterion and the accuracy depend on each key that has several numbers."""
        for number, (key, values) in enumerate(self.sweep.grid.items()):
            if len(values) < 2 or not all(type(value) in (int, float) for value in values):
                continue
            for measure in dict.fromkeys((self.sweep.by, "accuracy")):
                lines = self._lines(number, measure)
                if lines:
                    top = 1.0 if measure == "accuracy" else None
                    shows = f"{measure} by {key}, with the standard deviation over seeds"
                    yield Panel(
                        f"{measure.capitalize()} by {key}", [Picture(figures.spread(lines, key, measure, top), shows)]
                    )

    def _lines(self, number: int, measure: str) -> dict[str, list[tuple[float, float, float]]]:
        """Return value, mean and deviation of the points along one key, by the values of the other keys."""
        lines: dict[str, list[tuple[float, float, float]]] = {}
        for point in self.points:
            mean = point.mean(measure)
            if mean is None:
                continue
            pairs = zip(self.sweep.grid, point.values, strict=True)
            others = [
                f"{key.rpartition('.')[2]}={show(value)}" for place, (key, value) in enumerate(pairs) if place != number
            ]
            line = lines.setdefault(", ".join(others), [])
            line.append((float(point.values[number]), mean, point.deviation(measure) or 0.0))
        return {name: sorted(line) for name, line in list(lines.items())[:MAX_SHOWN_TRIALS]}

    def _trials(self) -> Panel:
        head = ["trial", *self.keys(), "seed", "state", *self.columns()]
        rows = [
            [
                each.trial.name,
                *map(show, each.trial.values),
                each.trial.seed,
                f"{each.state}: {each.reason}" if each.reason else each.state,
                *(format_measure(name, each.measure(name)) for name in self.columns()),
            ]
            for each in self.results
        ]
        return Panel("Trials", tables=[Table(head, rows)], wide=True)


def summarize(sweep: Sweep, model: RunConfig, failures: Mapping[str, str]) -> Summary:
    """Return the results of a sweep, as its run directories have them, and `failures`, the reasons by trial."""
    results = {trial: _result(sweep, trial, failures) for trial in sweep.trials}
    points = [
        PointResult(values, [result for trial, result in results.items() if trial.values == values])
        for values in sweep.points
    ]
    return Summary(sweep, points, _caveat(sweep, model))


def describe_trial(sweep: Sweep, trial: Trial) -> str:
    """Return the measures of a trial that is done as text."""
    measures = read_run(sweep.path / trial.name, trial.name).measures
    return "  ".join(f"{name}={format_measure(name, measures[name])}" for name in _SHOWN if name in measures)


def _result(sweep: Sweep, trial: Trial, failures: Mapping[str, str]) -> TrialResult:
    if is_finished(sweep, trial):
        return TrialResult(trial, "done", "", read_run(sweep.path / trial.name, trial.name))
    if trial.name in failures:
        return TrialResult(trial, "failed", printable_line(failures[trial.name]))
    return TrialResult(trial, "left")


def _caveat(sweep: Sweep, model: RunConfig) -> str:
    """Return why the criterion may not compare grid points, empty if it does."""
    learnt = [name for name, module in model.modules.items() if module.type in ("vae", "pca", "network")]
    weighted = [name for name, module in model.modules.items() if dict(module.parameters).get("calibrate")]
    if not sweep.grid or not (learnt or weighted):
        return ""
    if learnt:
        reason = f"the evidence is that of the latent vectors of {', '.join(learnt)}, which each trial learns itself"
    else:
        reason = f"{', '.join(weighted)} weights its likelihood (calibrate), in each trial by another exponent"
    return f"{reason}: it compares seeds of a grid point, and different points only roughly; look at the curves, too"


def _or_lowest(value: float | None) -> float:
    return -math.inf if value is None or math.isnan(value) else value


__all__ = ["MODEL", "PointResult", "Summary", "TrialResult", "summarize"]
