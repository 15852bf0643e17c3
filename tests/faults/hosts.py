"""Two hosts, of which one is cut off while a module learns on it: ``python -m tests.faults.hosts [SCENE …]``.

The hosts are network namespaces with addresses of their own on a bridge, and ask each other for a token. The program
itself lives in the root namespace, from where the link can be cut, and runs each scene in a driver on host 1.
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

from tests.faults.scenes import DISTURBED, LARGE, Scene, perform, quick_health_checks

NETWORK = "10.77.7"
PORT = 6399
HEAD = {"resources": {"head": 0.01}}
LEARNS = ("update", {"module": "gmm", "round": DISTURBED, "exchange": 0})
RAY = [str(Path(sys.executable).with_name("ray"))]


def ip(*arguments, check=True):
    subprocess.run(["ip", *arguments], check=check, capture_output=not check)


def allowed():
    """Whether namespaces may be made here."""
    probe = f"srk{os.getpid()}"
    with suppress(OSError):
        made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode == 0
        if made:
            ip("netns", "del", probe)
        return made
    return False


class Hosts:
    """Two hosts on a bridge, and Ray on them; host 1 is the head, the modules' GPUs are on either."""

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
            self.end(number)
        for number in (1, 2):
            ip("link", "del", self.name("v", number), check=False)
            ip("netns", "del", self.name("h", number), check=False)
        ip("link", "del", self.name("b"), check=False)
        shutil.rmtree(self.home)
        shutil.rmtree(f"/tmp/{self.name('r', 1)}", ignore_errors=True)

    def name(self, kind, number=""):
        return f"s{kind}{self.tag}{number}"

    def on(self, number, *command, **options):
        """Start a program on a host, in a process group of its own."""
        command = ["ip", "netns", "exec", self.name("h", number), *command]
        return subprocess.Popen(command, env=self.environment, start_new_session=True, **options)

    def start(self, number):
        """Start Ray on a host; ``spare`` is a second node on host 1."""
        role = ["--head", f"--port={PORT}", "--num-cpus=2", '--resources={"head": 1}', "--include-dashboard=false"]
        if number != 1:
            role = [f"--address={NETWORK}.1:{PORT}", "--num-cpus=0", "--num-gpus=1"]
        store = "--object-store-memory=100000000"
        # Apart from any other cluster of this machine; the other nodes do as the head does.
        temporary = [f"--temp-dir=/tmp/{self.name('r', number)}"] if number == 1 else []
        log = (self.home / f"host{number}.log").open("a")
        host = 1 if number == "spare" else number
        address = f"--node-ip-address={NETWORK}.{host}"
        command = [*RAY, "start", *role, address, store, *temporary, "--block", "--disable-usage-stats"]
        self.processes[number] = self.on(host, *command, stdout=log, stderr=log)

    def start_both(self):
        """Start Ray on host 1, wait until it answers, and start it on host 2."""
        self.start(1)
        health = [*RAY, "health-check", "--address", f"{NETWORK}.1:{PORT}"]
        until = time.monotonic() + 60
        while self.on(1, *health, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait():
            assert time.monotonic() < until, (self.home / "host1.log").read_text()
            time.sleep(0.2)
        self.start(2)

    def end(self, number):
        """End Ray on a host: ``ray start --block`` takes down what it has started."""
        process = self.processes.pop(number)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def link(self, state):
        """Cut (``down``) or mend (``up``) the link of host 2."""
        ip("link", "set", self.name("v", 2), state)


def a_spare_node():
    """The link of the module's host is cut, and a node on the other host can hold the module."""
    scene = Scene("spare", LARGE, **HEAD)

    def cut():
        scene.seen("gmm")
        scene.strike(lambda: please("down"))

    scene.learn(("commit", {"round": 1}, lambda: please("spare")), (*LEARNS, cut), ("lost", {}, lambda: please("up")))
    return scene.report()


def the_host_comes_back():
    """The link of the only host that can hold the module is cut and mended, and Ray is started there again."""
    scene = Scene("back", LARGE, **HEAD)

    def cut():
        scene.seen("gmm")
        scene.strike(lambda: please("down"))

    scene.learn((*LEARNS, cut), ("lost", {}, lambda: please("up")), ("log", {}, lambda: please("again")))
    return scene.report()


SCENES = {scene.__name__: scene for scene in (a_spare_node, the_host_comes_back)}


def please(what):
    """Have the program in the root namespace do something, and wait until it is done."""
    print(json.dumps({"please": what}), flush=True)
    assert sys.stdin.readline().strip() == what


def drive(name):
    """Perform one scene, on host 1."""
    import ray

    ray.init(address=f"{NETWORK}.1:{PORT}", _node_ip_address=f"{NETWORK}.1", log_to_driver=False, logging_level="ERROR")
    until = time.monotonic() + 30
    while sum(node["Alive"] for node in ray.nodes()) != 2 and time.monotonic() < until:
        time.sleep(0.05)
    perform(SCENES, [name])
    ray.shutdown()


def conduct(hosts, name):
    """Run one scene's driver on host 1, and do on the hosts what it asks for."""

    def again():
        hosts.end(2)  # it has ended its Ray by itself, or is about to
        hosts.start(2)

    deeds = {
        "down": lambda: hosts.link("down"),
        "up": lambda: hosts.link("up"),
        "again": again,
        "spare": lambda: hosts.start("spare"),
    }
    driver = hosts.on(
        1, sys.executable, "-m", "tests.faults.hosts", "--drive", name,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    hosts.processes["driver"] = driver
    for line in driver.stdout:
        asked = json.loads(line).get("please") if line.startswith("{") else None
        if asked is None:
            print(line, end="", flush=True)
            continue
        deeds[asked]()
        driver.stdin.write(f"{asked}\n")
        driver.stdin.flush()
    hosts.end("driver")


def main(names):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    if not allowed():
        print(json.dumps({"skip": "network namespaces are not allowed here"}))
        return
    for name in names or SCENES:
        with Hosts() as hosts:
            hosts.start_both()
            conduct(hosts, name)


if __name__ == "__main__":
    quick_health_checks()
    if sys.argv[1:2] == ["--drive"]:
        drive(sys.argv[2])
    else:
        main(sys.argv[1:])
