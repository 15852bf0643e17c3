"""Two hosts, one of which is disconnected while a module learns on it: ``python -m tests.faults.hosts [SCENARIO …]``.

The hosts are network namespaces with addresses of their own on a bridge, and require a token of each other. This
program runs in the root namespace, from which the link can be cut; it runs each scenario in a driver on host 1.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.faults.scenarios import FAULTY_ROUND, LARGE, Scenario, run_and_print, shorten_health_checks

NETWORK = "10.77.7"
PORT = 6399
ON_HEAD = {"resources": {"head": 0.01}}
GMM_LEARNS = ("update", {"module": "gmm", "round": FAULTY_ROUND, "exchange": 0})
RAY = [str(Path(sys.executable).with_name("ray"))]


def ip(*arguments, check=True):
    subprocess.run(["ip", *arguments], check=check, capture_output=not check)


def namespaces_allowed():
    """Return whether this process may create network namespaces."""
    probe = f"srk{os.getpid()}"
    with suppress(OSError):
        made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode == 0
        if made:
            ip("netns", "del", probe)
        return made
    return False


class Hosts:
    """Two hosts on a bridge, with Ray on each: host 1 is the head and has the CPUs, host 2 has a GPU."""

    roles = (
        ["--head", f"--port={PORT}", "--num-cpus=2", '--resources={"head": 1}', "--include-dashboard=false"],
        [f"--address={NETWORK}.1:{PORT}", "--num-cpus=0", "--num-gpus=1"],
    )
    store = "--object-store-memory=100000000"

    def __init__(self):
        self.tag = str(os.getpid() % 100000)
        self.home = Path(tempfile.mkdtemp(prefix="hosts-"))
        self.processes = {}
        (self.home / "token").write_text("a" * 64)
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.home / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def __enter__(self):
        bridge = self.name("b")
        ip("link", "add", bridge, "type", "bridge")
        ip("link", "set", bridge, "up")
        for number in (1, 2):
            host, link = self.name("h", number), self.name("v", number)
            ip("netns", "add", host)
            ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", host)
            ip("link", "set", link, "master", bridge, "up")
            ip("-n", host, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")
            ip("-n", host, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_):
        for number in list(self.processes):
            self.stop(number)
        for number in (1, 2):
            ip("link", "del", self.name("v", number), check=False)
            ip("netns", "del", self.name("h", number), check=False)
        ip("link", "del", self.name("b"), check=False)
        shutil.rmtree(self.home)
        shutil.rmtree(f"/tmp/{self.name('r', 1)}", ignore_errors=True)

    def name(self, kind, number=""):
        return f"s{kind}{self.tag}{number}"

    def popen(self, number, *command, **options):
        """Start a program on a host, in a process group of its own."""
        command = ["ip", "netns", "exec", self.name("h", number), *command]
        return subprocess.Popen(command, env=self.environment, start_new_session=True, **options)

    def start(self, number):
        """Start Ray on a host; ``spare`` is a second node on host 1."""
        role = self.roles[number != 1]
        # Separate from other clusters on this machine; the other nodes use the head's directory.
        temporary = [f"--temp-dir=/tmp/{self.name('r', number)}/r"] if number == 1 else []
        Path(f"/tmp/{self.name('r', 1)}").mkdir(mode=0o700, exist_ok=True)  # Ray gives its own mode 0777
        log = (self.home / f"host{number}.log").open("a")
        host = 1 if number == "spare" else number
        address = f"--node-ip-address={NETWORK}.{host}"
        command = [*RAY, "start", *role, address, self.store, *temporary, "--block", "--disable-usage-stats"]
        self.processes[number] = self.popen(host, *command, stdout=log, stderr=log)

    def start_both(self):
        """Start Ray on host 1, wait until it responds, and start Ray on host 2."""
        self.start(1)
        health = [*RAY, "health-check", "--address", f"{NETWORK}.1:{PORT}"]
        deadline = time.monotonic() + 60
        while self.popen(1, *health, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait():
            assert time.monotonic() < deadline, (self.home / "host1.log").read_text()
            time.sleep(0.2)
        self.start(2)

    def stop(self, number):
        """Stop Ray on a host: ``ray start --block`` ends the processes that it has started."""
        process = self.processes.pop(number)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def set_link(self, state):
        """Cut (``down``) or restore (``up``) the link of host 2."""
        ip("link", "set", self.name("v", 2), state)


def a_spare_node():
    """Cut the link of the module's host while a node on the other host can hold the module."""
    scenario = Scenario("spare", LARGE, **ON_HEAD)

    def cut():
        scenario.await_update("gmm")
        scenario.fail(lambda: request("down"))

    scenario.run(
        ("commit", {"round": 1}, lambda: request("spare")), (*GMM_LEARNS, cut), ("lost", {}, lambda: request("up"))
    )
    return scenario.report()


def the_host_comes_back():
    """Cut and restore the link of the only host that can hold the module, and restart Ray there."""
    scenario = Scenario("back", LARGE, **ON_HEAD)

    def cut():
        scenario.await_update("gmm")
        scenario.fail(lambda: request("down"))

    scenario.run((*GMM_LEARNS, cut), ("lost", {}, lambda: request("up")), ("log", {}, lambda: request("restart")))
    return scenario.report()


SCENARIOS = {scenario.__name__: scenario for scenario in (a_spare_node, the_host_comes_back)}


def request(action):
    """Have the program in the root namespace perform an action, and wait until it is done."""
    print(json.dumps({"request": action}), flush=True)
    assert sys.stdin.readline().strip() == action


def drive(name):
    """Run one scenario, on host 1."""
    import ray

    ray.init(address=f"{NETWORK}.1:{PORT}", _node_ip_address=f"{NETWORK}.1", log_to_driver=False, logging_level="ERROR")
    deadline = time.monotonic() + 30
    while sum(node["Alive"] for node in ray.nodes()) != 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    run_and_print(SCENARIOS, [name])
    ray.shutdown()


def serve_driver(hosts, name):
    """Run one scenario's driver on host 1, and perform the actions that it requests."""

    def restart():
        hosts.stop(2)  # its Ray has ended by itself, or is about to
        hosts.start(2)

    actions = {
        "down": lambda: hosts.set_link("down"),
        "up": lambda: hosts.set_link("up"),
        "restart": restart,
        "spare": lambda: hosts.start("spare"),
    }
    driver = hosts.popen(
        1, sys.executable, "-m", "tests.faults.hosts", "--drive", name,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    hosts.processes["driver"] = driver
    for line in driver.stdout:
        requested = json.loads(line).get("request") if line.startswith("{") else None
        if requested is None:
            print(line, end="", flush=True)
            continue
        actions[requested]()
        driver.stdin.write(f"{requested}\n")
        driver.stdin.flush()
    hosts.stop("driver")


def main(names):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that context managers end the processes
    if not namespaces_allowed():
        print(json.dumps({"skip": "network namespaces are not allowed here"}))
        return
    for name in names or SCENARIOS:
        with Hosts() as hosts:
            hosts.start_both()
            serve_driver(hosts, name)


if __name__ == "__main__":
    shorten_health_checks()
    if sys.argv[1:2] == ["--drive"]:
        drive(sys.argv[2])
    else:
        main(sys.argv[1:])
