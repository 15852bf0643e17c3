"""Write the report of a run, or the comparison of several: ``serket report``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from actors.errors import ModuleError
from actors.storage.filesystem import storage_at
from runner.data.errors import DataError
from runner.report.printable import printable_line
from runner.runs.directory import RunDirectoryError, open_run
from runner.runs.run_report import REPORT, write_report


def report_run(path: Path) -> Path:
    """Write the report of the run in a directory; return its file.

    Labels are those of the run's data, which is loaded again; if it cannot be, the report says so.

    Raises
    ------
    RunDirectoryError
        If nothing was learnt yet.
    """
    config, directory = open_run(path)
    no_labels = ""
    try:
        directory.categories = config.categories(config.load_data())
    except (DataError, ModuleError, OSError) as error:
        no_labels = f"the labels cannot be read, as the data of the run cannot: {error}"
    if not [name for name in directory.checkpoints.names() if name != "round-000"]:
        raise RunDirectoryError(
            f"{path}: nothing is learnt yet, so there is nothing to report; follow it with serket watch"
        )
    write_report(directory, no_labels=no_labels)
    return path / REPORT


def draw_pictures(path: Path, folder: Path, suffix: str) -> list[Path]:
    """Draw the pictures of the run in the directory `path` into a folder; return the files.

    Raises
    ------
    RunDirectoryError
        If there is no such format, or the folder cannot be made.
    """
    from runner.runs.artifacts import PICTURE_FORMATS, draw_plots

    if suffix not in PICTURE_FORMATS:
        raise RunDirectoryError(f"--format {printable_line(suffix, 20)}: give one of {', '.join(PICTURE_FORMATS)}")
    config, directory = open_run(path)
    with suppress(DataError, ModuleError, OSError):  # without labels, if the data are gone
        directory.categories = config.categories(config.load_data())
    try:
        return draw_plots(directory, folder, suffix)
    except OSError as error:
        raise RunDirectoryError(
            f"--pictures {printable_line(folder)}: cannot be written ({error.strerror}); give another folder"
        ) from error


def write_comparison(paths: Sequence[Path], out: Path) -> None:
    """Write the comparison of several runs as a page.

    Raises
    ------
    RunDirectoryError
        If `out` is a directory, or if the runs cannot be compared.
    """
    from runner.runs.comparison import compare_runs

    write_page(compare_runs(paths).render(), out)


def write_page(page: str, out: Path) -> None:
    """Write a page to a file that the user has named.

    Raises
    ------
    RunDirectoryError
        If it is a directory.
    """
    if out.is_dir():
        raise RunDirectoryError(f"{out}: a directory; name the file to write")
    storage_at(out.parent.resolve()).write(out.name, page.encode())
