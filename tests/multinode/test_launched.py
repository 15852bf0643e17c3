"""The files of configs/cluster, used as people do: Ray's launcher by ssh, and Slurm's script, on namespaces.

What this machine lacks has stand-ins (``stand_ins``): an ssh server, rsync, Slurm's two commands, and a Python whose
virtual environments find the dependencies, which would come from an index.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from tests.conftest import wait_until
from tests.faults.commands import MODEL, Gates, digests, gone
from tests.multinode.containers import HOME, ROOT, SHARED, Site, allowed

pytest.importorskip("asyncssh")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.multinode,
    pytest.mark.skipif(not allowed(), reason="machines are namespaces, which only root may make"),
]
BIN = f"{sys.prefix}/bin"
TOYS = ROOT / "tests" / "support" / "toy_modules.py"
PIP = "[global]\nno-index = true\n[install]\nno-deps = true\nno-build-isolation = false\n"  # that is: without isolation
SPREAD = "--set cluster.strategy=spread"


def placed(path):
    """Return the address of each of a run's modules, as it was placed first."""
    lines = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    return {line["module"]: line["node"] for line in reversed(lines) if line["event"] == "placed"}


def test_machines_end_with_whoever_made_them(tmp_path):
    program = (
        "import pathlib, sys, time\n"
        "from tests.multinode.containers import Site\n"
        f"site = Site(pathlib.Path({str(tmp_path)!r}), ['own'], [], []).__enter__()\n"
        "print(site.first, site.machines[0].init, flush=True)\n"
        "time.sleep(60)\n"
    )
    maker = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    first, init = map(int, maker.stdout.readline().split())
    inside = [init, *(child.pid for child in psutil.Process(init).children(recursive=True))]
    assert len(inside) == 3  # its first process, what that waits for, and the ssh server
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    wait_until(lambda: all(gone(pid) for pid in [first, *inside]))


def addressed(head, workers):
    """Return machines.yaml with other addresses and a key, and nothing else changed."""
    text = (ROOT / "configs" / "cluster" / "machines.yaml").read_text()
    for old, new in {
        "head_ip: 10.0.0.1 ": f"head_ip: {head.address} ",
        "worker_ips: [10.0.0.2, 10.0.0.3]": f"worker_ips: [{', '.join(worker.address for worker in workers)}]",
        "# ssh_private_key: ~/.ssh/id_ed25519": "ssh_private_key: ~/.ssh/id_ed25519",
    }.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A laptop with this checkout, from which Ray was launched on three other machines."""
    logs = tmp_path_factory.mktemp("machines")
    with Site(logs, ["laptop", "head", "one", "two"], [0], ["rsync", "python3.11"]) as site:
        laptop, head, *workers = site.machines
        for machine in site.machines:
            machine.write("~/.config/pip/pip.conf", PIP)
        laptop.write("~/.ssh/id_ed25519", site.key)
        laptop.write("~/machines.yaml", addressed(head, workers))
        laptop.run(f"{BIN}/ray get-auth-token --generate && chmod 600 ~/.ray/auth_token")
        address = f"{head.address}:6379"

        def ray(words):
            begun = time.monotonic()
            command = f"cd {ROOT} && {BIN}/ray {words} ~/machines.yaml"
            try:
                said = laptop.run(command)
            except AssertionError as error:
                if "timed out during startup" not in str(error):
                    raise
                # Ray gives a node half a minute to start, which may be too little where four machines are one.
                said = laptop.run(command)
            print(f"ray {words}: {time.monotonic() - begun:.1f} s")
            return said

        def serket(words, **how):
            return head.run(f". ~/.bashrc; serket {words}", seconds=180, **how)

        def nodes():
            words = ["RAY_AUTH_MODE=token ~/serket/bin/python -c", "import ray", f"ray.init(address='{address}')"]
            program = "; ".join([*words[1:], "print(*(n['NodeManagerAddress'] for n in ray.nodes() if n['Alive']))"])
            return head.run(f'{words[0]} "{program}"').splitlines()[-1].split()

        ray("up -y")
        wait_until(lambda: all(worker.rays("raylet") for worker in workers), 120)
        yield SimpleNamespace(
            laptop=laptop, head=head, workers=workers, address=address, ray=ray, serket=serket, nodes=nodes
        )


@pytest.fixture(scope="module")
def calm(launched):
    """What a run leaves that nothing happened to; its modules' class lies beside the model file on the head alone."""
    launched.head.write("~/small.yaml", MODEL.replace("tests.support.toy_modules", "toys"))
    launched.head.write("~/toys.py", TOYS.read_text())
    launched.serket(f"run small.yaml --address {launched.address} {SPREAD} --set cluster.nodes=3 --runs {SHARED}/calm")
    return launched.head.path(SHARED) / "calm" / "small"


class TestMachines:
    def test_each_has_installed_this_checkout(self, launched):
        version = "import runner.cli.app; print(runner.cli.app.__file__)"
        for machine in (launched.head, *launched.workers):
            assert f"{HOME}/serket/lib" in machine.run(f"~/serket/bin/python -c '{version}'")
            assert not machine.path(ROOT / "runner").exists()

    def test_the_token_is_its_owners_alone(self, launched):
        for machine in (launched.laptop, launched.head, *launched.workers):
            assert machine.path("~/.ray/auth_token").stat().st_mode & 0o777 == 0o600

    def test_a_run_spreads_over_the_workers(self, launched, calm):
        assert set(placed(calm).values()) == {worker.address for worker in launched.workers}
        assert json.loads((calm / "result.json").read_text())["rounds"] == 3

    def test_who_has_no_token_is_refused(self, launched):
        ask = f"{BIN}/ray status --address {launched.address}"
        wait_until(lambda: "3 local.cluster.node" in launched.laptop.run(ask, RAY_AUTH_MODE="token"), 60)
        said = launched.laptop.run(ask, code=1, RAY_AUTH_MODE="disabled")
        assert "InvalidAuthToken" in said

    def test_a_head_that_is_killed_takes_its_run_up_where_it_was(self, launched, calm):
        head = launched.head
        gates = Gates(head.path(SHARED) / "gates", "2-0")
        wish = f"{SPREAD} --set cluster.nodes=3 --set modules.encoder.gates={SHARED}/gates --runs {SHARED}/struck"
        launched.serket(f"run small.yaml --address {launched.address} {wish} --detach")
        gates.reached("2-0")
        begun = time.monotonic()
        for process in (*head.rays("gcs_server"), *head.rays("raylet")):
            process.kill()
        launched.ray("up -y --restart-only")
        gates.open()
        launched.serket(f"attach {SHARED}/struck/small")
        print(f"the run is done {time.monotonic() - begun:.1f} s after its head was killed")
        assert digests(head.path(SHARED) / "struck" / "small") == digests(calm)
        wait_until(lambda: len(launched.nodes()) == 3, 60)

    def test_down_ends_ray_on_the_head_and_a_stop_on_each_worker(self, launched):
        assert "No nodes remaining" in launched.ray("down -y")
        assert launched.head.rays() == []
        # The others would notice after a minute.
        stop = "ssh -o StrictHostKeyChecking=no ray@{} serket/bin/ray stop &"
        launched.laptop.run(" ".join([*(stop.format(worker.address) for worker in launched.workers), "wait"]))
        assert [worker.rays() for worker in launched.workers] == [[], []]


SLURM_MODEL = """
name: job
data: {source: cycle}
modules:
  gmm: {type: gmm, classes: 4, iterations: 2}
  mm: {type: markov}
connections: [data -> gmm, gmm -> mm]
schedule: {rounds: 2}
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Submits jobs over nodes that share a home directory, in which there is a model file."""
    logs = tmp_path_factory.mktemp("nodes")
    with Site(logs, ["shared", "shared"], [0, 1], ["scontrol", "srun"]) as site:
        first = site.machines[0]
        first.write("~/.ssh/id_ed25519", site.key)
        first.write("~/model.yaml", SLURM_MODEL)

        def submit(words, *, nodes, code, cpus="2"):
            names = [f"machine{number + 1}" for number in range(nodes)]
            given = {"SLURM_JOB_NODELIST": ",".join(names), "SLURM_NNODES": str(nodes), "SLURM_CPUS_PER_TASK": cpus}
            command = f"PATH={BIN}:$PATH bash {ROOT}/configs/cluster/slurm.sh {words}"
            begun = time.monotonic()
            said = first.run(command, code=code, seconds=200, SLURM_JOB_ID="7", **given)
            print(f"{nodes} nodes, {words}: {time.monotonic() - begun:.1f} s")
            assert [machine.rays() for machine in site.machines] == [[], []]
            assert not list(first.path("~/.ray").iterdir())  # the token has gone
            return said

        submit.home = first.path("~")
        submit.addresses = [machine.address for machine in site.machines]
        yield submit


class TestSlurm:
    def test_a_run_over_two_nodes_is_done_and_nothing_stays(self, job):
        job(f"model.yaml {SPREAD}", nodes=2, code=0)
        path = job.home / "runs" / "job"
        assert json.loads((path / "result.json").read_text())["rounds"] == 2
        assert set(placed(path).values()) == set(job.addresses)

    def test_a_run_that_fails_fails_the_job(self, job):
        assert "none.yaml: there is no such file" in job("none.yaml", nodes=1, code=2)

    def test_a_ray_that_does_not_start_fails_the_job(self, job):
        said = job("model.yaml", nodes=1, code=1, cpus="many")
        assert "the run was not begun: Ray did not start on machine1" in said
