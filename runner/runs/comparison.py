"""Comparison of runs: their measures side by side, and what their configs differ in.

Only files of the run directories are read; no code that a config names is imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.report import figures
from runner.report.model_layout import draw_model
from runner.report.pages import Panel, Picture, Section, Table, render_page
from runner.report.printable import printable_line
from runner.runs.outline import RunOutline, read_outline
from runner.runs.run_files import RunDirectoryError

MEASURES = ("accuracy", "ari", "nmi", "ece", "evidence", "score", "rounds", "seconds", "first_output", "overhead_share")
"""What is compared, in this order; modules' accuracies follow."""

NOT_COMPARED = ("name",)
MAX_COMPARED_RUNS = 100


@dataclass(frozen=True)
class ComparedRun:
    """One run of a comparison.

    Attributes
    ----------
    name : str
        Its name, which differs from those of the others.
    outline : RunOutline
    measures : dict of str to float
        The last ones that are known.
    rounds : list of dict
        The lines of ``metrics.csv``.
    settings : dict of str to str
        The config's values by key path.
    """

    name: str
    outline: RunOutline
    measures: Mapping[str, float]
    rounds: Sequence[Mapping[str, float | None]]
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side."""

    runs: Sequence[ComparedRun]

    @property
    def measures(self) -> dict[str, list[float | None]]:
        """The values of each measure that at least one run has, by run."""
        names = dict.fromkeys([*MEASURES, *(name for run in self.runs for name in run.measures)])
        table = {name: [run.measures.get(name) for run in self.runs] for name in names}
        return {name: values for name, values in table.items() if any(value is not None for value in values)}

    @property
    def differences(self) -> dict[str, list[str | None]]:
        """The values of each key path in which the configs differ; None where a config has none."""
        keys = dict.fromkeys(key for run in self.runs for key in run.settings)
        table = {key: [run.settings.get(key) for run in self.runs] for key in keys}
        return {key: values for key, values in table.items() if len(set(values)) > 1 and key not in NOT_COMPARED}

    def as_dict(self) -> dict[str, Any]:
        """Return names, measures and differences, for ``--json``."""
        return {"runs": [run.name for run in self.runs], "measures": self.measures, "config": self.differences}

    def render(self) -> str:
        """Return the comparison as an HTML page."""
        names = [run.name for run in self.runs]
        rows = [
            (name.replace("_", " "), *(format_measure(name, value) for value in values))
            for name, values in self.measures.items()
        ]
        found = self.differences
        config = [(key, *("–" if value is None else value for value in values)) for key, values in found.items()]
        sections = [
            Section(
                "measures",
                "Measures",
                [Panel("At the end", tables=[Table(("measure", *names), rows)], wide=True), *self.curves()],
            ),
            Section(
                "config",
                "Differences of the configurations",
                [
                    Panel(
                        "Settings",
                        tables=[Table(("setting", *names), config, numbers=False)] if config else [],
                        missing="" if config else "None: the configurations are the same.",
                        wide=True,
                    )
                ],
            ),
            Section("models", "Models", [self._drawing(run) for run in self.runs[:20]]),
        ]
        return render_page("Comparison", f"{len(names)} runs: {', '.join(names)}", sections)

    def curves(self) -> Iterator[Panel]:
        """Yield a panel for each measure by round."""
        for measure in ("accuracy", "ari", "evidence", "score"):
            lines = {}
            for run in self.runs:
                values = [row.get(measure) for row in run.rounds]
                if any(value is not None for value in values):
                    lines[run.name] = ([row["round"] or 0.0 for row in run.rounds], values)
            title = f"{measure.capitalize() if measure != 'ari' else 'ARI'} by round"
            if lines:
                top = 1.0 if measure in ("accuracy", "ari") else None
                picture = Picture(figures.curves(lines, measure, top), f"{measure} of {', '.join(lines)} by round")
                yield Panel(title, [picture])
            else:
                yield Panel(title, missing="Not measured in any of the runs.")

    def _drawing(self, run: ComparedRun) -> Panel:
        return Panel(run.name, drawing=draw_model(run.outline.types, run.outline.connections))


def compare_runs(paths: Sequence[Path]) -> Comparison:
    """Return the comparison of the runs in these directories.

    Raises
    ------
    RunDirectoryError
        If they are fewer than two, or if one of their files cannot be read.
    """
    if not 2 <= len(paths) <= MAX_COMPARED_RUNS:
        named = "one run was" if len(paths) == 1 else f"{len(paths)} runs were"
        raise RunDirectoryError(f"{named} named; name 2 to {MAX_COMPARED_RUNS} to compare them")
    names = [path.name for path in paths]
    shown = [path.name if names.count(path.name) == 1 else str(path) for path in paths]
    if len(set(shown)) < len(shown):
        twice = next(name for name in shown if shown.count(name) > 1)
        raise RunDirectoryError(f"{twice}: the run was named twice; name different runs")
    return Comparison([read_run(path, printable_line(name, 200)) for path, name in zip(paths, shown, strict=True)])


def read_run(path: Path, name: str) -> ComparedRun:
    """Return what the files of a run say of it."""
    outline = read_outline(path)
    directory = outline.directory
    rounds = directory.metrics_file.rows() if (path / "metrics.csv").exists() else []
    result = directory.read_json("result.json") if (path / "result.json").exists() else {}
    measures: dict[str, Any] = {key: value for key, value in (rounds[-1] if rounds else {}).items() if key != "round"}
    if rounds:
        measures["rounds"] = rounds[-1]["round"]
    measures |= {key: value for key, value in result.items() if key in MEASURES}
    known = {key: float(value) for key, value in measures.items() if isinstance(value, int | float)}
    return ComparedRun(name, outline, known, rounds, dict(_flatten(outline.content)))


def _flatten(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield the key path and the text of each value of a config; a list is one value."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{place}.{key}" if place else str(key))
    else:
        yield place, json.dumps(value, default=str, ensure_ascii=False) if not isinstance(value, str) else value


def format_measure(name: str, value: float | None) -> str:
    """Return a measure as text, – if it is not known."""
    if value is None:
        return "–"
    if name == "rounds":
        return f"{value:.0f}"
    if name == "overhead_share":
        return f"{value:.1%}"
    if name in ("seconds", "first_output"):
        return f"{value:,.1f} s"
    text = f"{value:,.4f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{text} nats" if name in ("evidence", "score") else text
