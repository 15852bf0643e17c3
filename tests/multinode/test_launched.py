"""Tests of the files of configs/cluster on namespaces: Ray's cluster launcher with ssh, and the Slurm script.

Programs that this machine lacks are replaced by those of ``stand_ins``: an ssh server, rsync, two commands of Slurm,
and a Python whose virtual environments contain the dependencies, which pip would otherwise download from an index.
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
from tests.faults.commands import MODEL, Gates, digests, has_ended
from tests.multinode.machines import HOME, ROOT, SHARED, MachineNetwork, namespaces_allowed

pytest.importorskip("asyncssh")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.multinode,
    pytest.mark.skipif(not namespaces_allowed(), reason="machines are namespaces, which only root may create"),
]
BIN = f"{sys.prefix}/bin"
TOYS = ROOT / "tests" / "support" / "toy_modules.py"
PIP = (
    "[global]\nno-index = true\n[install]\nno-deps = true\nno-build-isolation = false\n"  # false disables the isolation
)
SPREAD = "--set cluster.strategy=spread"


def placed(path):
    """Return the first address of each module of a run."""
    lines = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    return {line["module"]: line["node"] for line in reversed(lines) if line["event"] == "placed"}


def test_machines_end_with_the_process_that_created_them(tmp_path):
    program = (
        "import pathlib, sys, time\n"
        "from tests.multinode.machines import MachineNetwork\n"
        f"network = MachineNetwork(pathlib.Path({str(tmp_path)!r}), ['own'], [], []).__enter__()\n"
        "print(network.first, network.machines[0].init, flush=True)\n"
        "time.sleep(60)\n"
    )
    creator = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    first, init = map(int, creator.stdout.readline().split())
    inside = [init, *(child.pid for child in psutil.Process(init).children(recursive=True))]
    assert len(inside) == 3  # the first process, its current child, and the ssh server
    creator.send_signal(signal.SIGKILL)
    creator.wait()
    wait_until(lambda: all(has_ended(pid) for pid in [first, *inside]))


def launcher_file(head, workers):
    """Return the contents of machines.yaml with the addresses of these machines and the ssh key."""
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
    """A laptop with this checkout, from which Ray was launched on three other machines, and functions to use them."""
    logs = tmp_path_factory.mktemp("machines")
    with MachineNetwork(logs, ["laptop", "head", "one", "two"], [0], ["rsync", "python3.11"]) as network:
        laptop, head, *workers = network.machines
        for machine in network.machines:
            machine.write("~/.config/pip/pip.conf", PIP)
        laptop.write("~/.ssh/id_ed25519", network.key)
        laptop.write("~/machines.yaml", launcher_file(head, workers))
        laptop.run(f"{BIN}/ray get-auth-token --generate && chmod 600 ~/.ray/auth_token")
        address = f"{head.address}:6379"

        def ray(arguments):
            started = time.monotonic()
            command = f"cd {ROOT} && {BIN}/ray {arguments} ~/machines.yaml"
            try:
                output = laptop.run(command)
            except AssertionError as error:
                if "timed out during startup" not in str(error):
                    raise
                # Ray's timeout for the start of a node is 30 s, which four machines on one may exceed.
                output = laptop.run(command)
            print(f"ray {arguments}: {time.monotonic() - started:.1f} s")
            return output

        def serket(arguments, **options):
            return head.run(f". ~/.bashrc; serket {arguments}", seconds=180, **options)

        def node_addresses():
            python = "RAY_AUTH_MODE=token ~/serket/bin/python -c"
            addresses = "print(*(n['NodeManagerAddress'] for n in ray.nodes() if n['Alive']))"
            program = "; ".join(["import ray", f"ray.init(address='{address}')", addresses])
            return head.run(f'{python} "{program}"').splitlines()[-1].split()

        ray("up -y")
        wait_until(lambda: all(worker.ray_processes("raylet") for worker in workers), 120)
        yield SimpleNamespace(
            laptop=laptop,
            head=head,
            workers=workers,
            address=address,
            ray=ray,
            serket=serket,
            node_addresses=node_addresses,
        )


@pytest.fixture(scope="module")
def undisturbed(launched):
    """The directory of an undisturbed run, whose module classes are in a file beside the model file on the head."""
    launched.head.write("~/small.yaml", MODEL.replace("tests.support.toy_modules", "toys"))
    launched.head.write("~/toys.py", TOYS.read_text())
    launched.serket(
        f"run small.yaml --address {launched.address} {SPREAD} --set cluster.nodes=3 --runs {SHARED}/undisturbed"
    )
    return launched.head.path(SHARED) / "undisturbed" / "small"


class TestMachines:
    def test_each_machine_has_installed_this_checkout(self, launched):
        version = "import runner.cli.app; print(runner.cli.app.__file__)"
        for machine in (launched.head, *launched.workers):
            assert f"{HOME}/serket/lib" in machine.run(f"~/serket/bin/python -c '{version}'")
            assert not machine.path(ROOT / "runner").exists()

    def test_only_its_owner_can_read_the_token(self, launched):
        for machine in (launched.laptop, launched.head, *launched.workers):
            assert machine.path("~/.ray/auth_token").stat().st_mode & 0o777 == 0o600

    def test_a_run_spreads_over_the_workers(self, launched, undisturbed):
        assert set(placed(undisturbed).values()) == {worker.address for worker in launched.workers}
        assert json.loads((undisturbed / "result.json").read_text())["rounds"] == 3

    def test_a_client_without_the_token_is_rejected(self, launched):
        status = f"{BIN}/ray status --address {launched.address}"
        wait_until(lambda: "3 local.cluster.node" in launched.laptop.run(status, RAY_AUTH_MODE="token"), 60)
        output = launched.laptop.run(status, code=1, RAY_AUTH_MODE="disabled")
        assert "InvalidAuthToken" in output

    def test_a_run_continues_from_its_last_commit_after_its_head_is_killed(self, launched, undisturbed):
        head = launched.head
        gates = Gates(head.path(SHARED) / "gates", "2-0")
        options = f"{SPREAD} --set cluster.nodes=3 --set modules.encoder.gates={SHARED}/gates --runs {SHARED}/killed"
        launched.serket(f"run small.yaml --address {launched.address} {options} --detach")
        gates.wait_until_reached("2-0")
        killed_at = time.monotonic()
        for process in (*head.ray_processes("gcs_server"), *head.ray_processes("raylet")):
            process.kill()
        launched.ray("up -y --restart-only")
        gates.open()
        launched.serket(f"attach {SHARED}/killed/small")
        print(f"the run is done {time.monotonic() - killed_at:.1f} s after its head was killed")
        assert digests(head.path(SHARED) / "killed" / "small") == digests(undisturbed)
        wait_until(lambda: len(launched.node_addresses()) == 3, 60)

    def test_ray_down_ends_ray_on_the_head_and_ray_stop_on_each_worker(self, launched):
        assert "No nodes remaining" in launched.ray("down -y")
        assert launched.head.ray_processes() == []
        # The workers would notice only after a minute.
        stop = "ssh -o StrictHostKeyChecking=no ray@{} serket/bin/ray stop &"
        launched.laptop.run(" ".join([*(stop.format(worker.address) for worker in launched.workers), "wait"]))
        assert [worker.ray_processes() for worker in launched.workers] == [[], []]


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
    """A function that submits jobs to nodes which share a home directory with a model file."""
    logs = tmp_path_factory.mktemp("nodes")
    with MachineNetwork(logs, ["shared", "shared"], [0, 1], ["scontrol", "srun"]) as network:
        first = network.machines[0]
        first.write("~/.ssh/id_ed25519", network.key)
        first.write("~/model.yaml", SLURM_MODEL)

        def submit(arguments, *, nodes, code, cpus="2"):
            names = [f"machine{number + 1}" for number in range(nodes)]
            variables = {"SLURM_JOB_NODELIST": ",".join(names), "SLURM_NNODES": str(nodes), "SLURM_CPUS_PER_TASK": cpus}
            command = f"PATH={BIN}:$PATH bash {ROOT}/configs/cluster/slurm.sh {arguments}"
            started = time.monotonic()
            output = first.run(command, code=code, seconds=200, SLURM_JOB_ID="7", **variables)
            print(f"{nodes} nodes, {arguments}: {time.monotonic() - started:.1f} s")
            assert [machine.ray_processes() for machine in network.machines] == [[], []]
            assert not list(first.path("~/.ray").iterdir())  # the token is deleted
            return output

        submit.home = first.path("~")
        submit.addresses = [machine.address for machine in network.machines]
        yield submit


class TestSlurm:
    def test_a_run_on_two_nodes_leaves_no_processes(self, job):
        job(f"model.yaml {SPREAD}", nodes=2, code=0)
        path = job.home / "runs" / "job"
        assert json.loads((path / "result.json").read_text())["rounds"] == 2
        assert set(placed(path).values()) == set(job.addresses)

    def test_a_failed_run_fails_the_job(self, job):
        assert "none.yaml: there is no such file" in job("none.yaml", nodes=1, code=2)

    def test_a_failed_start_of_ray_fails_the_job(self, job):
        output = job("model.yaml", nodes=1, code=1, cpus="many")
        assert "the run was not started: Ray did not start on machine1" in output
