"""Follows docs/tutorial.md, a newcomer's first quarter of an hour, and runs its notebook."""

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from runner.cli.app import app
from runner.report.clustering_metrics import score

DOCS = Path(__file__).parents[1] / "docs"
TUTORIAL = (DOCS / "tutorial.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TUTORIAL, re.DOTALL | re.MULTILINE)


def shown_after(command):
    """Return what the page shows of the output of a command, without lines and ends that it leaves out (…)."""
    found = re.search(rf"```console\n{re.escape(command)}\n```\n\n```\n(.*?)```", TUTORIAL, re.DOTALL)
    return [line.removesuffix("…") for line in found[1].splitlines() if line.strip("…")]


def serket(command):
    done = CliRunner().invoke(app, shlex.split(command)[1:], prog_name="serket")
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The directory in which the page was followed: its files, the output of each command, and the program's names."""
    home, outputs, names = tmp_path_factory.mktemp("tutorial"), {}, {}
    make, program = blocks("python")
    with contextlib.chdir(home), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERKET_REPORT", "1")
        exec(compile(make, "tutorial.md", "exec"), names)
        for command in "".join(blocks("console")).splitlines():
            outputs[command] = serket(command)
        with contextlib.redirect_stderr(io.StringIO()):
            exec(compile(program, "tutorial.md", "exec"), names)
    return home, outputs, names


@pytest.mark.slow
def test_every_command_of_the_tutorial_prints_what_the_page_shows(followed):
    _, outputs, _ = followed
    assert [status for status, _ in outputs.values()] == [2, 0, 0, 0]
    for command, (_, output) in outputs.items():
        lines = [" ".join(line.split()) for line in output.splitlines()]
        missing = [
            shown
            for shown in shown_after(command)
            if not any(line.startswith(" ".join(shown.split())) for line in lines)
        ]
        assert missing == [], command


@pytest.mark.slow
def test_the_model_file_is_the_one_that_the_page_shows(followed):
    home, _, _ = followed
    (section,) = blocks("yaml")
    assert section in (home / "arm.yaml").read_text()


@pytest.mark.slow
def test_the_program_segments_plots_and_saves(followed):
    home, _, names = followed
    assert len(blocks("python")[1].splitlines()) < 15
    truth = pd.factorize(names["table"]["activity"])[0]
    assert score(names["table"]["class"], truth).accuracy > 0.995
    new = pd.factorize(pd.read_csv(home / "new.csv")["activity"])[0]
    assert score(names["classes"], new).accuracy > 0.99
    assert (home / "pictures" / "states.png").read_bytes().startswith(b"\x89PNG")
    assert (home / "arm_model" / "config.yaml").is_file()
    assert repr(names["model"]).split("evidence")[0] in TUTORIAL


@pytest.mark.slow
def test_hmmlearn_on_the_same_rows_is_as_good_in_one_seed_and_worse_in_another(followed):
    """The two ends of the table's second line."""
    from hmmlearn.hmm import GaussianHMM

    home, _, _ = followed
    table = pd.read_csv(home / "arm.csv")
    rows, truth = table[["force", "current", "angle", "temperature"]].to_numpy(), pd.factorize(table["activity"])[0]
    lengths = table.groupby("trial", sort=False).size().to_numpy()
    found = [
        score(GaussianHMM(4, "full", n_iter=50, random_state=seed).fit(rows, lengths).predict(rows, lengths), truth)
        for seed in (0, 1)
    ]
    assert [round(each.accuracy, 3) for each in found] == [0.999, 0.602]


# --- the notebook ----------------------------------------------------------------------------------------------------

NOTEBOOK = DOCS / "tutorial.ipynb"


def test_the_notebook_is_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.slow
def test_the_notebook_runs_from_the_first_cell_to_the_last_in_a_kernel(tmp_path, monkeypatch):
    """A model shows itself as a drawing, a picture as an image; the last cell has the accuracy."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(DOCS.parent))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    kinds = [kind for output in shown for kind in output["data"]]
    assert kinds.count("text/html") >= 4
    assert "image/png" in kinds
    assert "<svg" in "".join(output["data"].get("text/html", "") for output in shown)
    accuracy = float(re.match(r"\(([\d.]+)", shown[-1]["data"]["text/plain"])[1])
    assert accuracy > 0.98
