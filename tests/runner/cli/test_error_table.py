"""Every error that a user can cause, by command: one sentence with what is wrong, where, and what to do.

Each ends with exit status 2, without a traceback, before Ray is imported, and leaves no file behind.
"""

import json
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from actors.storage.checkpoints import Checkpoints
from runner.cli.app import app
from runner.config.yaml_io import parse
from tests.runner.commands.test_predict import train

MODEL = """
name: arm
data: {source: files, observations: rows.csv, lengths: lengths.txt}
modules:
  gmm: {type: gmm, classes: 3, iterations: 2, prior_scale: data}
  mm: {type: markov}
connections: [data -> gmm, gmm -> mm]
schedule: {rounds: 1, steps: [gmm, mm]}
"""
FILES = {
    "arm.yaml": MODEL,
    "bad.yaml": "name: [\n",
    "binary.yaml": b"\xff\xfe\0",
    "damaged.npy": b"\x93NUMPY",
    "empty.csv": "",
    "few.txt": "1\n2\n",
    "gap.csv": "x,y,z\n" + 60 * "1,,2\n",
    "inf.csv": "x,y\n1,2\n3,inf\n",
    "lengths.txt": "30\n30\n",
    "list.yaml": "- a\n",
    "narrow.csv": "x\n1.5\n2.5\n",
    "noname.yaml": MODEL.replace("name: arm", ""),
    "one.txt": "2\n",
    "ragged.csv": "x,y\n1,2\n3,4,5\n",
    "robot.yml": MODEL,
    "rows.pkl": b"x",
    "rows.xlsx": b"PK",
    "short.txt": "3\n4\n",
    "text.csv": "x,y\n1,2\n3,four\n",
    "zero.txt": "0\n60\n",
}
RUNS = r"the runs in runs are arm, broken, fresh, other"
HELP = r"; serket{} --help shows how to call it"
USAGE = {
    name: HELP.format(f" {name}") for name in ("run", "recognize", "predict", "generate", "merge", "inspect", "export")
}
MODULE_TYPES = (
    "one of observation, vae, gmm, markov, product, pca, network, mlda, dp_gmm, labels, ar_gmm, switching_markov, "
    "or package.module:Class"
)

TABLE = [
    # serket
    ("rn mnist", r"no such command 'rn'. Did you mean 'run'\?; serket --help shows how to call it"),
    ("--nope", r"no such option: --nope; serket --help shows how to call it"),
    # serket run: the model file
    ("run", "missing argument 'MODEL'" + USAGE["run"]),
    ("run arm.yaml extra", r"got unexpected extra argument\(s\) \(extra\)" + USAGE["run"]),
    ("run arm.yaml --nope", r"no such option: --nope .*" + USAGE["run"]),
    ("run nope", "nope: there is no such file and no included model of this name; serket models lists the included ones"),
    ("run mnits", r"mnits: there is no such file and no included model of this name; did you mean 'mnist'\?"),
    ("run robot", r"robot: there is no such file and no included model of this name; give robot.yml"),
    ("run nope.yaml", "nope.yaml: there is no such file; correct the path"),
    ("run folder", "folder: is a folder, and no included model; give a model file in it"),
    ("run bad.yaml", "bad.yaml, line 2: is not valid YAML: expected the node content, but found '<stream end>'"),
    ("run list.yaml", r"list.yaml: the model file: expected a map with name, data, .* and schedule, got \['a'\]"),
    ("run noname.yaml", "noname.yaml: name: is missing, expected a text"),
    ("run binary.yaml", r"binary.yaml: cannot be read as a text file \(.*\)"),
    ("run arm.yaml --set modules.gmm.clases=3", r"arm.yaml: modules.gmm.clases: unknown parameter .*; did you mean 'classes'\?"),
    ("run arm.yaml --set modules.gmm.classes=many", "arm.yaml: modules.gmm.classes: expected an integer of at least 1, got 'many'"),
    ("run arm.yaml --set modules.gmm.classes=0", "arm.yaml: modules.gmm.classes: expected an integer of at least 1, got 0"),
    ("run arm.yaml --set modules.gmx.classes=3", r"arm.yaml: modules.gmx: --set: unknown module, .*; did you mean 'gmm'\?"),
    ("run arm.yaml --set modules.gmm.type=gnn", f"arm.yaml: modules.gmm.type: unknown module type 'gnn': {MODULE_TYPES}"),
    ("run arm.yaml --set schedule.rounds", "--set schedule.rounds: expected key.path=value, for instance schedule.rounds=3"),
    ("run arm.yaml --set schedule.rounds=0", "arm.yaml: schedule.rounds: expected an integer of at least 1, got 0"),
    ("run arm.yaml --set schedule.rounds=[", "--set schedule.rounds, line 1: is not valid YAML: .*"),
    ("run arm.yaml --set schedule.steps.9=gmm", "arm.yaml: schedule.steps.9: --set: there is no such place in a list of 2; count from 0"),
    ("run arm.yaml --set 'connections=[data -> mm]'", "arm.yaml: connections: connection data -> mm: .*: connect data -> gmm and gmm -> mm"),
    ("run arm.yaml --set 'connections=[data > gmm]'", "arm.yaml: connections.0: expected 'a -> b', the names of two modules, got 'data > gmm'"),
    ("run arm.yaml --set 'connections=[data -> gnn]'", "arm.yaml: connections.0: unknown module, expected one of data, gmm, mm, got 'gnn'"),
    ("run arm.yaml --set 'schedule.steps=[gmm, data]'", "arm.yaml: schedule.steps.1: 'data' gives observations and learns nothing; leave it out"),
    ("run arm.yaml --set 'schedule.steps=[nope]'", "arm.yaml: schedule.steps.0: unknown module, expected one of gmm, mm, got 'nope'"),
    ("run arm.yaml --set seed=-1", "arm.yaml: seed: expected an integer of at least 0 and below 9223372036854775808, got -1"),
    ("run arm.yaml --track tensorbord", "arm.yaml: tracking.0.type: expected tensorboard, mlflow or package.module:Class, got 'tensorbord'"),
    ("run arm.yaml --track json:JSONDecoder", "tracking: json:JSONDecoder is no subclass of runner.Callback; name a class that is one"),
    ("run arm.yaml --track nopackage:A", "tracking: nopackage:A cannot be loaded: No module named 'nopackage'; correct the name, or install its package"),
    # serket run: the data
    ("run arm.yaml --set modules.gmm.classes=99", "module 'gmm': 60 rows cannot start 99 classes: use at most 60"),
    ("run arm.yaml --set data.observations=gone.csv", r".*/gone.csv: there is no such file; correct the path"),
    ("run arm.yaml --set data.observations=folder", ".*/folder: is a directory without .npy, Parquet files or pictures; give another one"),
    ("run arm.yaml --set data.observations=text.csv", ".*/text.csv, line 3: holds 'four' where a number belongs; correct it"),
    ("run arm.yaml --set data.observations=gap.csv", r"data: column 2 \('y'\) has no value in any row; leave out columns without values"),
    ("run arm.yaml --set data.observations=inf.csv", r".*/inf.csv, line 3: holds NaN or an infinity: column 2 \('y'\) is inf .*; remove or replace it"),
    ("run arm.yaml --set data.observations=empty.csv", ".*/empty.csv: holds no rows of numbers; write at least one row into it"),
    ("run arm.yaml --set data.observations=ragged.csv", ".*/ragged.csv, line 3: has 3 columns where 2 were expected; correct it"),
    ("run arm.yaml --set data.observations=rows.xlsx", ".*/rows.xlsx: .xlsx is not supported; save the sheet as .csv"),
    ("run arm.yaml --set data.observations=rows.pkl", ".*/rows.pkl: .pkl is not supported; pickles are never read, as they can run code; save an array with numpy.save, .*"),
    ("run arm.yaml --set data.observations=damaged.npy", r".*/damaged.npy: is not a .npy file \(pickles are never read\); save the array with numpy.save"),
    ("run arm.yaml --set data.lengths=short.txt", ".*/short.txt: the lengths do not add up to the 60 rows of the observations, but to 7; correct either"),
    ("run arm.yaml --set data.lengths=zero.txt", ".*/zero.txt: has a length that is no positive integer, .*; use integers of at least 1"),
    ("run arm.yaml --set data.categories=few.txt", ".*/few.txt: holds 2 categories for 60 observations; one per row is needed"),
    ("run arm.yaml --set data.count=500", "data.count: 500 rows are asked for, but rows.csv has at most 60 in given order; ask for less"),
    ("run arm.yaml --set data.order=sorted", "arm.yaml: data.order: expected 'cyclic' or 'given' or 'shuffled', got 'sorted'"),
    ("run arm.yaml --set data.source=mnits", "arm.yaml: data.source: expected 'mnist' or .* or 'files', got 'mnits'"),
    ("run arm.yaml --set data.header=maybe", "arm.yaml: data.header: expected true or false, got 'maybe'"),
    ("run arm.yaml --set data.ros.topics=[imu-x]", "arm.yaml: data.ros.topics.0: expected /topic or /topic.field, got 'imu-x'"),
    ("run arm.yaml --set data.observations=gone.mcap", r".*/gone.mcap: there is no such file; correct the path"),
    # serket run: where and how
    ("run arm.yaml --name a/b", "'a/b' cannot be a run's name: expected a plain directory name of letters, .*, got 'a/b', with '/'"),
    ("run arm.yaml --name arm", "runs/arm: there is a run of this name; choose another --name, or --overwrite, which deletes that run"),
    ("run arm.yaml --runs rows.csv/x", r"rows.csv/x/arm: cannot be created \(Not a directory\); choose other --runs"),
    ("run arm.yaml --local --detach", "--local ends with this command: leave out --detach, or run the model on Ray"),
    ("run arm.yaml --local --address 10.0.0.1:1", "--local runs every module in this process: leave out --address 10.0.0.1:1, or --local"),
    ("run arm.yaml --local --dry-run", "--dry-run says where Ray would place the modules: leave out --local, or --dry-run"),
    ("run arm.yaml --detach", "--detach needs a cluster that outlives this command: start one with `ray start --head`, then give its --address"),
    ("run arm.yaml --local --set cluster.nodes=3", "cluster.nodes: there are no nodes with --local; leave it out, or run the model on Ray, without --local"),
    # serket resume, attach, stop
    ("resume nope", f"nope: no such run; {RUNS}"),
    ("resume arm", "runs/arm: all 1 rounds are done; to run more, use --set schedule.rounds=N"),
    ("resume broken", "runs/broken/config.yaml, line 1: is not valid YAML: .*"),
    ("resume arm --set schedule.rounds=x", "schedule.rounds: expected an integer of at least 1, got 'x'"),
    ("resume arm --local --detach", "--local ends with this command: leave out --detach, or run the model on Ray"),
    ("resume arm --track tensorbord", "tracking.0.type: expected tensorboard, mlflow or package.module:Class, got 'tensorbord'"),
    ("attach nope", f"nope: no such run; {RUNS}"),
    ("stop nope", f"nope: no such run; {RUNS}"),
    ("stop arm", "runs/arm: as far as is known here .*, the run is not running; all rounds are done; see the result with serket attach arm"),
    # serket recognize, predict, generate
    ("recognize", "missing argument 'run'" + USAGE["recognize"]),
    ("recognize arm", r"missing argument '\[SOURCE=\]DATA...'" + USAGE["recognize"]),
    ("recognize nope rows.csv", f"nope: no such run; {RUNS}"),
    ("recognize fresh rows.csv", r"runs/fresh: the run is not trained yet \(no round is committed\)"),
    ("recognize arm gone.csv", r"gone.csv: there is no such file; correct the path \(relative ones start from /.*\)"),
    ("recognize arm narrow.csv --lengths one.txt", "narrow.csv: has no column y, from which the run has learnt; add what is absent .empty cells are missing values., or correct the names"),
    ("recognize arm text.csv", "text.csv, line 3: holds 'four' where a number belongs; correct it"),
    ("recognize arm data=rows.csv data=rows.csv", "source data is given twice, as 'rows.csv' and 'rows.csv'; leave one out"),
    ("recognize arm cam=rows.csv", "cam=rows.csv: the run has no source cam; its sources are data"),
    ("recognize arm rows.csv --lengths short.txt", "short.txt: the lengths do not add up to the 60 rows of the observations, but to 7; correct either"),
    ("recognize arm rows.csv --categories few.txt", "few.txt: holds 2 categories for 60 observations; one per row is needed"),
    ("recognize arm rows.csv --count 100", "data.count: 100 rows are asked for, but rows.csv has at most 60 in given order; ask for less"),
    ("recognize arm rows.csv --count 0", "invalid value for '--count': Input should be greater than or equal to 1" + USAGE["recognize"]),
    ("recognize arm rows.csv --offset -1", "invalid value for '--offset': Input should be greater than or equal to 0" + USAGE["recognize"]),
    ("recognize arm rows.csv --lengths lengths.txt --unordered", "--lengths goes with sequences, --unordered with rows that form none; leave out one of them"),
    ("predict arm rows.csv --steps 0", "invalid value for '--steps': Input should be greater than or equal to 1" + USAGE["predict"]),
    ("predict arm rows.csv --steps x", "invalid value for '--steps': Input should be a valid integer, .*" + USAGE["predict"]),
    ("predict arm rows.csv --out folder", "--out folder: is a folder; give the name of a file, such as classes.png"),
    ("predict arm rows.csv --out no/x.png", "--out no/x.png: there is no folder no; create it, or give another place"),
    ("generate nope", f"nope: no such run; {RUNS}"),
    ("generate arm --length 999", "invalid value for '--length': Input should be less than or equal to 256" + USAGE["generate"]),
    ("generate arm --seed -1", "invalid value for '--seed': Input should be greater than or equal to 0" + USAGE["generate"]),
    ("generate fresh", r"runs/fresh: the run is not trained yet \(no round is committed\)"),
    # serket merge, inspect, list, export, import
    ("merge arm other", "missing option '--name'" + USAGE["merge"]),
    ("merge arm --name x", "merging needs two runs or more, 1 was given; name another one"),
    ("merge arm arm --name x", "runs/arm: this run is given twice, its rows would count twice; give it once"),
    ("merge arm other --name x", "modules.gmm.classes is 3 in arm and 4 in other: only runs of the same model can be merged; train them with the same"),
    ("inspect", "missing argument 'run'" + USAGE["inspect"]),
    ("inspect nope", f"nope: no such run; {RUNS}"),
    ("inspect arm --timeline x.json", "runs/arm: there are no events yet to show"),
    ("list nope", r"nope: cannot be read \(No such file or directory\); give the directory that holds the runs"),
    ("list rows.csv", "rows.csv: is a file; give the directory that holds the runs"),
    ("export nope x.serket", f"nope: no such run; {RUNS}"),
    ("export arm", "missing argument 'FILE'" + USAGE["export"]),
    ("export fresh x.serket", r"runs/fresh: the run has learnt nothing yet \(.*\); export it after its first round"),
    ("export arm rows.csv", "rows.csv: exists already; give another name, or delete it"),
    ("export arm no/x.serket", r"no/x.serket: cannot be written \(No such file or directory\); give another place"),
    ("import nope.serket", "nope.serket: there is no such file; give one that serket export wrote"),
    ("import rows.csv", r"rows.csv: is no file that serket export wrote \(.*\); ask for another one"),
    ("import folder", r"folder: cannot be opened \(.*\); give a file that serket export wrote"),
    # serket report, compare, watch
    ("report nope", f"nope: no such run; {RUNS}"),
    ("report fresh", "runs/fresh: nothing is learnt yet, so there is nothing to report; follow it with serket watch"),
    ("report broken", "runs/broken/config.yaml, line 1: is not valid YAML: .*"),
    ("compare", "missing argument 'RUN RUN...'; serket compare --help shows how to call it"),
    ("compare arm", "one run was named; name 2 to 100 to compare them"),
    ("compare arm nope", f"nope: no such run; {RUNS}"),
    ("compare arm arm", "runs/arm: the run was named twice; name different runs"),
    ("watch nope", f"nope: no such run; {RUNS}"),
    ("watch arm --port 99999", "invalid value for '--port': Input should be less than or equal to 65535; serket watch --help shows how to call it"),
    # serket sweep
    ("sweep", "serket sweep needs a model file, or --resume with the directory of a sweep"),
    ("sweep nope", "nope: there is no such file and no included model of this name; serket models lists the included ones"),
    ("sweep arm.yaml --grid gmm.classes", "--grid gmm.classes: expected KEY=VALUE,VALUE,…, for instance gmm.classes=5,10,20"),
    ("sweep arm.yaml --grid gmm.clases=3,4", r"--grid modules.gmm.clases=3: modules.gmm.clases: unknown parameter .*; did you mean 'classes'\?"),
    ("sweep arm.yaml --grid gmx.classes=3", r"--grid gmx.classes: unknown section or module, .*; did you mean 'gmm'\?"),
    ("sweep arm.yaml --grid gmm.classes=3,x", "--grid modules.gmm.classes=x: modules.gmm.classes: expected an integer of at least 1, got 'x'"),
    ("sweep arm.yaml --grid gmm.classes=3,[", "--grid gmm.classes, line 1: is not valid YAML: .*"),
    ("sweep arm.yaml --grid gmm.classes=3,3", "--grid modules.gmm.classes: has the value 3 twice; leave one out"),
    ("sweep arm.yaml --grid gmm.classes=3 --grid modules.gmm.classes=4", "--grid modules.gmm.classes: is given twice; give all of its values at once"),
    ("sweep arm.yaml --grid gmm.classes=3,99", "--grid modules.gmm.classes=99: module 'gmm': 60 rows cannot start 99 classes: use at most 60"),
    ("sweep arm.yaml --grid seed=1,2", "--grid seed: is none of the values that a grid has; use --seeds"),
    ("sweep arm.yaml --seeds 5:0", "--seeds 5:0: expected FIRST:END, as in 0:5 for 0 to 4, or different numbers with commas between them"),
    ("sweep arm.yaml --seeds 1,1", "--seeds 1,1: expected FIRST:END, .*"),
    ("sweep arm.yaml --seeds 0:10000 --grid gmm.classes=2,3", "the grid and the seeds make 20,000 trials, at most 10,000 are run; take fewer"),
    ("sweep arm.yaml --by accuracy", "--by accuracy: expected evidence or score, which need no labels"),
    ("sweep arm.yaml --name a/b", "'a/b' cannot be a sweep's name: use letters, digits, . _ and -"),
    ("sweep arm.yaml --name arm", "runs/arm: there is a sweep or a run of this name; choose another --name"),
    ("sweep arm.yaml --local --trials-at-once 2", "--local runs one trial after the other: leave out --trials-at-once, or --local"),
    ("sweep arm.yaml --set cluster.nodes=3", "cluster.nodes: there are no nodes with serket sweep; .*"),
    ("sweep --resume nope", "nope: is no directory of a sweep; give the one that serket sweep has named"),
    ("sweep arm.yaml --resume runs", "--resume goes on with the sweep as it was started: leave out MODEL"),
    # serket models, modules, check, new-module, new-model, completion
    ("models hm", r"hm: there is no included model of this name; did you mean 'hmm'\?"),
    ("modules gnn", f"unknown module type 'gnn': {MODULE_TYPES}"),
    ("modules nopackage:b", "module type 'nopackage:b' cannot be loaded: No module named 'nopackage'; correct the name, or install its package"),
    ("modules os:system", "module type 'os:system' is no subclass of actors.Module; name a class that is one"),
    ("check gnn", f"unknown module type 'gnn': {MODULE_TYPES}"),
    ("check gmm --set clases=3", r"--set clases: unknown parameter, .*; did you mean 'classes'\?"),
    ("check gmm --size K", "--size K: expected LETTER=NUMBER, for instance K=4, or ...=8x8"),
    ("check gmm --size K=0", "--size K=0: expected LETTER=NUMBER, numbers from 1 to 100000"),
    ("check gmm --size Q=3", "--size Q: no message of gmm has such a dimension; they have ..., D, K, N"),
    ("new-module a/b", "'a/b' is not a valid package name: use letters, digits and '-', a letter first"),
    ("new-module gmm", "a module type 'gmm' already exists, in serket-actors .*; choose another name"),
    ("new-module json", "a Python package 'json' already exists; choose another name"),
    ("new-model --no-ask", "the data are not given; name a file of rows, or one of mnist, digits, words, clumps, cycle"),
    ("new-model gone.csv --classes 3 --no-ask", "gone.csv: there is no such file, and no built-in data set of this name; give a file of rows, .*"),
    ("new-model text.csv --classes 2 --no-ask", r"text.csv: column 'y' holds texts; say what it is \(--labels y\), or choose what to learn from, --columns x"),
    ("new-model rows.csv --no-ask", "the number of classes is not given, and there are no labels to count; give --classes K, or --classes auto"),
    ("new-model rows.csv --classes 3 --output arm.yaml --no-ask", "arm.yaml: exists already; give another --output, or delete it"),
    ("completion tcsh", "invalid value for 'shell': 'tcsh' is not one of 'bash', 'zsh', 'fish'; serket completion --help shows how to call it"),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with files of every kind, and runs: complete, of another model, not begun, and damaged."""
    path = tmp_path_factory.mktemp("place")
    for name, content in FILES.items():
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = np.arange(60)[:, None] % 3 * 5 + np.random.default_rng(0).normal(size=(60, 2))
    np.savetxt(path / "rows.csv", rows, delimiter=",", header="x,y", comments="")
    (path / "folder").mkdir()
    arm = train(path / "runs" / "arm", path / "arm")
    (arm / "result.json").write_text(json.dumps({"run": "arm", "rounds": 1}))
    (arm / ".lock").touch()
    checkpoints = Checkpoints(arm / "checkpoints")
    checkpoints.commit(replace(checkpoints.latest(), config=parse((arm / "config.yaml").read_text(), "")))
    other = shutil.copytree(arm, path / "runs" / "other") / "config.yaml"
    other.write_text(other.read_text().replace("classes: 3", "classes: 4"))
    (path / "runs" / "fresh").mkdir()
    shutil.copy(arm / "config.yaml", path / "runs" / "fresh")
    (path / "runs" / "broken").mkdir()
    (path / "runs" / "broken" / "config.yaml").write_text("name: [")
    return path


def snapshot(path):
    return {str(each): each.stat().st_mtime_ns for each in path.rglob("*") if not each.is_dir()}


@pytest.mark.parametrize(("line", "sentence"), TABLE, ids=[line for line, _ in TABLE])
def test_an_error_is_one_sentence_with_what_where_and_what_to_do(place, monkeypatch, line, sentence):
    monkeypatch.chdir(place)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)  # an import of it would fail
    before = snapshot(place)
    done = CliRunner().invoke(app, shlex.split(line), prog_name="serket")
    assert done.exit_code == 2, done.output
    *told, last = done.stderr.splitlines()
    assert re.fullmatch(f"serket: (?:{sentence})", last), last
    assert [each for each in told if each.startswith("serket: ")] == []
    assert done.stdout == ""
    assert "Traceback" not in done.output
    assert snapshot(place) == before


def test_the_table_has_all_commands_that_can_be_called_wrongly():
    commands = {line.partition(" ")[0] for line, _ in TABLE}
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert names - commands == {"doctor"}  # it takes nothing
    assert len(TABLE) >= 60


def test_the_files_of_the_table_are_all_used():
    lines = " ".join(line for line, _ in TABLE)
    unused = [name for name in FILES if name not in lines and Path(name).stem not in lines]
    assert unused == []
