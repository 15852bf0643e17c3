"""Modules whose rows workers share: one hash for any number of workers, and what sharing costs.

``python -m tests.benchmarks.workers hash`` prints the SHA-256 of all states of each model for 1, 2, 3, 5 and 8 workers,
in this process and on Ray, with a worker killed, and resumed with fewer workers. ``speed`` prints the time of an update
of GMM and MM with 1 and 2 workers on Ray, and without workers; ``vae`` that of a VAE with 1 and 2, which exchange sums
over connections of their own or by calls of actors; ``steps`` the processor time of its steps in two processes without
Ray. ``cost`` prints the processor time of one worker in this process over that without workers, with one thread.
``memory`` runs GMM (vb) and MM with 2 workers each, and a driver that writes the run directory, and prints the largest
private memory of each process. Rows are made from a seed.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.coordination.session import RunSpec
from actors.graph.graph import Graph
from actors.graph.registry import make_module
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Sharing
from actors.messaging.codec import make_message
from actors.messaging.message import Header, Message
from actors.module import Context, Inbox
from actors.sharing.chunks import Extent, ShardRows
from actors.sharing.connected import ConnectedWorkers, Follower
from actors.sharing.connections import Listener, connect
from actors.sharing.driver import Worker, learn, open_group, repeat_passes, respond, start_on_sample
from actors.sharing.shard import Shard
from actors.storage.checkpoints import Checkpoints
from tests.benchmarks.harness import Case, measure

WORKERS = (1, 2, 3, 5, 8)
GMM = {"classes": 10, "iterations": 5, "prior_scale": "data", "start": "kmeans"}
AR = {"classes": 4, "order": 1, "iterations": 5, "start": "random", "calibrate": True}
MODELS = {
    "gmm (vb) + mm": {"gmm": ("gmm", {**GMM, "engine": "vb", "calibrate": True}), "mm": ("markov", {})},
    "gmm (blocked-gibbs) + mm": {"gmm": ("gmm", {**GMM, "engine": "blocked-gibbs"}), "mm": ("markov", {})},
    "ar_gmm (vb) + mm": {"gmm": ("ar_gmm", {**AR, "order": 3, "engine": "vb"}), "mm": ("markov", {})},
    "pca + gmm + mm": {
        "pca": ("pca", {"latent_dim": 6}),
        "gmm": ("gmm", {**GMM, "engine": "vb"}),
        "mm": ("markov", {"test_order": True}),
    },
    "vae + gmm + mm": {
        "vae": ("vae", {"latent_dim": 6, "epochs": 2, "batch_size": 500, "hidden": 32, "likelihood": "mse"}),
        "gmm": ("gmm", {**GMM, "engine": "vb"}),
        "mm": ("markov", {}),
    },
}


def made_rows(rows: int, dimensions: int = 18, classes: int = 10, seed: int = 0) -> np.ndarray:
    """Return rows (N, D) float32 of Gaussian classes in cyclic order, with one row in ten of a random class."""
    generator = np.random.default_rng(seed)
    centres = 3.0 * generator.normal(size=(classes, dimensions))
    labels = np.where(generator.random(rows) < 0.1, generator.integers(0, classes, rows), np.arange(rows) % classes)
    return (centres[labels] + generator.normal(size=(rows, dimensions))).astype(np.float32)


def made_motions(rows: int, dimensions: int = 6, classes: int = 4, lasting: int = 40, seed: int = 0) -> np.ndarray:
    """Return rows (N, D) float32 that turn by another matrix in each class, which lasts for some rows."""
    generator = np.random.default_rng(seed)
    turns = [0.98 * np.linalg.qr(generator.normal(size=(dimensions, dimensions)))[0] for _ in range(classes)]
    labels = np.repeat(generator.integers(0, classes, -(-rows // lasting)), lasting)[:rows]
    noise, out = generator.normal(size=(rows, dimensions)), np.zeros((rows, dimensions))
    for t in range(1, rows):
        out[t] = turns[labels[t]] @ out[t - 1] + noise[t]
    return out.astype(np.float32)


def made_lengths(rows: int, seed: int = 0) -> np.ndarray:
    """Return lengths of sequences, from one row to thousands."""
    generator, lengths = np.random.default_rng(seed), []
    while sum(lengths) < rows:
        lengths.append(min(int(10 ** generator.uniform(0, 3.7)), rows - sum(lengths)))
    return np.array(lengths)


def model(modules, workers: int | None, chunk: int, rounds: int = 2, exchanges: int = 2) -> Graph:
    """Return a model in which all modules have the same number of workers; None for none."""
    sharing = None if workers is None else Sharing(workers, chunk)
    specs = [ModuleSpec("data", "observation")]
    specs += [ModuleSpec(name, kind, given, sharing=sharing) for name, (kind, given) in modules.items()]
    names = [spec.name for spec in specs]
    block = Block((Step("gmm"), Step("mm")), repeat=exchanges)
    steps = (*(Step(name) for name in names[1:] if name not in ("gmm", "mm")), block)
    pairs = itertools.pairwise(names)
    return Graph(specs, [Connection(*pair) for pair in pairs], Schedule(rounds, steps))


def hash_of(checkpoints: Checkpoints) -> str:
    """Return the SHA-256 of the states in the last commit."""
    modules = checkpoints.manifest(checkpoints.names()[-1]).modules
    states = sorted((name, record.files["state"].digest) for name, record in modules.items() if name != "data")
    return hashlib.sha256(repr(states).encode()).hexdigest()


def run_here(graph: Graph, root: Path, data: dict, *, resume: bool = False) -> str:
    """Run a model in this process; return the hash of its last commit."""
    checkpoints = Checkpoints(root)
    coordinator = Coordinator(graph, InProcessBackend(), run="workers", checkpoints=checkpoints)
    if resume:
        coordinator.resume()
    else:
        coordinator.start({"data": data})
    coordinator.run_rounds()
    return hash_of(checkpoints)


def run_on_ray(graph: Graph, root: Path, data: dict, faults: tuple[str, ...] = ()) -> str:
    """Run a model on the cluster of this process, with injected faults; return the hash of its last commit."""
    from actors.backends.fault_injection import instrumentation
    from actors.coordination.session import Instrumentation
    from runner.runs.coordinator_client import CoordinatorClient

    injection = instrumentation(faults, str(root)) if faults else Instrumentation()
    client = CoordinatorClient.launch(RunSpec(graph, "workers", 0, str(root), instrumentation=injection), patience=30.0)
    try:
        for _ in client.begin({"data": data}):
            pass
    finally:
        client.stop()
    return hash_of(Checkpoints(root))


def print_hashes(rows: int, chunk: int, ray: bool) -> bool:
    """Print one line for each model and way of running it; return whether all hashes of a model are equal."""
    data = {"values": made_rows(rows), "lengths": made_lengths(rows)}
    equal = True
    for name, modules in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            found = {
                f"{w} in process": run_here(model(modules, w, chunk), root / f"{w}" / "commits", data) for w in WORKERS
            }
            run_here(model(modules, 3, chunk, rounds=1), root / "parts" / "commits", data)
            fewer = run_here(model(modules, 2, chunk), root / "parts" / "commits", data, resume=True)
            found["3, then 2 in process"] = fewer
            if ray:
                for w in (1, 2, 3):
                    found[f"{w} on Ray"] = run_on_ray(model(modules, w, chunk), root / f"ray-{w}" / "commits", data)
                killed = model(modules, 3, chunk)
                faults = ("gmm#1:inside:1", "mm:inside:2", f"{next(iter(modules))}#2:inside:2")
                found["3 on Ray, three killed"] = run_on_ray(killed, root / "killed" / "commits", data, faults)
        equal &= len(set(found.values())) == 1
        for way, digest in found.items():
            print(f"| {name} | {way} | {digest[:16]} |", flush=True)
    return equal


def _events_of(graph: Graph, data: dict, *, connected: bool = True):
    """Run a model on the cluster of this process, and yield its events."""
    from actors.coordination.session import Instrumentation
    from runner.runs.coordinator_client import CoordinatorClient
    from tests.support.sharded_modules import unconnected_host

    way = Instrumentation() if connected else Instrumentation(make_host=unconnected_host)
    client = CoordinatorClient.launch(RunSpec(graph, "workers", 0, None, instrumentation=way), patience=30.0)
    try:
        for events, _ in client.begin({"data": data}):
            yield from (timed.event for timed in events)
    finally:
        client.stop()


def _of_later_rounds(events, modules: tuple[str, ...]) -> float:
    """Return the seconds that modules spent in updates of the second round on."""
    updates = (e for e in events if e.event == "updated" and e.round > 1 and e.module in modules)
    return sum(event.seconds for event in updates)


def print_speed(rows: int, chunk: int, repeats: int) -> None:
    """Print the seconds of a round with and without workers, interleaved, and ratios."""
    data = {"values": made_rows(rows)}
    modules = MODELS["gmm (vb) + mm"]
    ways = {"no workers": None, "1 worker": 1, "2 workers": 2, "2 workers by calls of actors": 2}
    measured: dict[str, list[float]] = {label: [] for label in ways}

    for _ in range(repeats):
        for label, workers in ways.items():
            graph = model(modules, workers, chunk, rounds=2, exchanges=1)
            events = _events_of(graph, data, connected="calls" not in label)
            measured[label].append(_of_later_rounds(events, ("gmm", "mm")))
    for label, seconds in measured.items():
        print(f"| {rows} | {label} | {statistics.median(seconds):.2f} | {min(seconds):.2f} to {max(seconds):.2f} |")
    for over, under in (("1 worker", "no workers"), *(("1 worker", label) for label in list(ways)[2:])):
        ratios = [a / b for a, b in zip(measured[over], measured[under], strict=True)]
        print(f"{over} / {under}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print("load:", *(f"{load:.1f}" for load in os.getloadavg()))


def print_vae_speed(rows: int, repeats: int, batches: list[int]) -> None:
    """Print the seconds of an epoch of a VAE alone on Ray by batch size: one worker, two, and two by calls of actors.

    They are interleaved; the ratios are those of one worker to two.
    """
    data = {"values": np.random.default_rng(0).random((rows, 784), dtype=np.float32)}

    def seconds(workers: int, batch: int, *, connected: bool = True) -> float:
        given = {"latent_dim": 18, "epochs": 1, "batch_size": batch, "hidden": 128}
        specs = [ModuleSpec("data", "observation"), ModuleSpec("vae", "vae", given, sharing=Sharing(workers, 1000))]
        graph = Graph(specs, [Connection("data", "vae")], Schedule(5, (Step("vae"),)))
        return _of_later_rounds(_events_of(graph, data, connected=connected), ("vae",)) / 4

    for batch in batches:
        runs = [(seconds(1, batch), seconds(2, batch), seconds(2, batch, connected=False)) for _ in range(repeats)]
        middle = " | ".join(f"{statistics.median(each):.2f}" for each in zip(*runs, strict=True))
        for two in (1, 2):
            ratios = [run[0] / run[two] for run in runs]
            middle += f" | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {rows} | {batch} | {middle} |", flush=True)
    print("load:", *(f"{load:.1f}" for load in os.getloadavg()))


def print_step_times(rows: int, repeats: int, batches: list[int], epochs: int = 2) -> None:
    """Print the processor milliseconds of a step of a VAE: of one worker, and of each of two connected processes.

    The longest way is that of the first one, and the other's receipt of the weights: half of what it does not compute.
    """
    import torch

    torch.set_num_threads(1)
    pictures = np.random.default_rng(0).random((rows, 784), dtype=np.float32)
    observed = make_message(Header("observations", "data", "observations", "it"), {"values": pictures})
    for batch in batches:
        of_follower, into = os.pipe()
        equal, times = _two_vae_workers(observed, batch, epochs, repeats, into)
        os.close(into)
        with os.fdopen(of_follower) as lines:
            other = [tuple(map(float, line.split())) for line in lines][1:]
        one, first = (min(each) for each in zip(*times[1:], strict=True))
        total, computing = (min(each) for each in zip(*other, strict=True))
        path = first + (total - computing) / 2
        line = f"| {batch} | {one:.1f} | {first:.1f} | {total:.1f} | {path:.1f} | {one / path:.2f} |"
        print(line if equal else "the bits differ", flush=True)
    print("load:", *(f"{load:.1f}" for load in os.getloadavg()))


def _two_vae_workers(observed: Message, batch: int, epochs: int, repeats: int, into: int):
    """Repeat updates by one worker and by two processes in turn; return whether bits are equal, and milliseconds."""
    given = {"latent_dim": 18, "epochs": epochs, "batch_size": batch, "hidden": 128}
    whole, context = Extent(len(observed.arrays["values"]), 1000), Context("it")

    def worker(rank: int, workers: int) -> Worker:
        module = make_module("vae", given)
        module.prepare("cpu", 1)
        module.prepare_sharing()
        extents = [whole.part(number, workers) for number in range(workers)]
        return Worker(Shard(module, ShardRows([(observed, 0)], extents[rank], None), context), extents)

    alone, leading, secret = worker(0, 1), worker(0, 2), os.urandom(32)
    start = make_module("vae", given).start(Inbox([observed]), context)
    listener = Listener("127.0.0.1", secret, 2, 60.0)
    if (child := os.fork()) == 0:
        _follow_and_write(worker(1, 2), Follower(connect("127.0.0.1", listener.port, secret, 1)), repeats, into)
        os._exit(0)
    group, times, equal = ConnectedWorkers(leading.run, listener.wait()), [], True
    for _ in range(repeats + 1):
        begun = time.process_time()
        expected, passes = alone.learn(dict(start))
        between = time.process_time()
        learnt, _ = repeat_passes(group, dict(start))
        group.end()
        times.append((1e3 * (between - begun) / passes, 1e3 * (time.process_time() - between) / passes))
        equal &= all(np.array_equal(learnt[name], expected[name]) for name in expected)
    os.waitpid(child, 0)
    return equal, times


def _follow_and_write(worker: Worker, follower: Follower, repeats: int, into: int) -> None:
    """Follow updates; write the processor milliseconds of a step, and those of its computing, of each."""
    for _ in range(repeats + 1):
        steps, computing, begun = 0, 0.0, time.process_time()

        def run(method, *values):
            nonlocal steps, computing
            at = time.thread_time()
            answer = worker.run(method, *values)
            steps, computing = steps + 1, computing + time.thread_time() - at
            return answer

        follower.run(run)
        total = time.process_time() - begun
        os.write(into, f"{1e3 * total / steps} {1e3 * computing / steps}\n".encode())


class PrivateMemory:
    """Samples the private memory of this process and of all that descend from it, twice a second, in a thread.

    What counts is what no other process shares and no file or shared memory backs: anonymous pages. `uss` is the USS,
    in which pages of the object store count that a single process has mapped.
    """

    def __init__(self, seconds: float = 0.5) -> None:
        self.peaks: dict[int, tuple[float, float]] = {}
        self.names: dict[int, str] = {}
        self.total = (0.0, 0.0, 0.0)
        self._seconds, self._stop = seconds, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        import psutil

        own = psutil.Process()
        while not self._stop.wait(self._seconds):
            sums = [0.0, 0.0, 0.0]
            for process in (own, *own.children(recursive=True)):
                try:
                    title = (process.cmdline() or ["?"])[0].rpartition("/")[2]
                    (private, shared), uss = _pages(process.pid), float(process.memory_full_info().uss)
                except (psutil.Error, OSError):
                    continue
                if ":" in title or process.pid not in self.names:  # as ray::gmm#1:ModuleActor.__init__, with its name
                    keeps = self.names.get(process.pid, "").startswith("ray::") and ".__init__" not in title
                    self.names[process.pid] = self.names[process.pid] if keeps else title.removesuffix(".__init__")
                before = self.peaks.get(process.pid, (0.0, 0.0))
                self.peaks[process.pid] = max(before[0], private), max(before[1], uss)
                sums = [sums[0] + private, sums[1] + uss, sums[2] + shared]
            self.total = tuple(map(max, self.total, sums))


def _pages(pid: int) -> tuple[float, float]:
    """Return the bytes of anonymous pages that are a process's own, and its share of those of shared memory."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split()[:2]
        found[name] = 1024.0 * int(value)
    return found.get("Pss_Anon:", 0.0), found.get("Pss_Shmem:", 0.0)


def print_memory(rows: int, chunk: int) -> None:
    """Run GMM (vb) and MM for two rounds from .npy rows, with a run directory; print the peaks of private memory."""
    from runner.cli.app import app

    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        data, labels = Path(folder) / "rows.npy", Path(folder) / "labels.npy"
        write_rows(data, labels, rows)
        sharing = f"workers: 2, chunk: {chunk}"
        (Path(folder) / "model.yaml").write_text(
            f"name: memory\nseed: 0\ndata: {{source: files, observations: {data}, categories: {labels}}}\nmodules:\n"
            f"  gmm: {{type: gmm, classes: 10, engine: vb, iterations: 5, calibrate: true, start: kmeans, {sharing}}}\n"
            f"  mm: {{type: markov, {sharing}}}\n"
            "connections: [data -> gmm, gmm -> mm]\n"
            "schedule: {rounds: 2, steps: [{steps: [gmm, mm], repeat: 2}]}\n"
        )
        started = time.monotonic()
        with PrivateMemory() as memory:
            app(["run", f"{folder}/model.yaml", "--runs", f"{folder}/runs"], standalone_mode=False)
        seconds = time.monotonic() - started
    print(f"{rows} rows, {seconds:.0f} s; peaks in GB: private (anonymous) memory, USS")
    for pid, peak in sorted(memory.peaks.items(), key=lambda each: -each[1][0]):
        if peak[0] > 60e6:
            print(f"| {memory.names[pid]} | {peak[0] / 1e9:.2f} | {peak[1] / 1e9:.2f} |")
    print(f"| all processes at one time | {memory.total[0] / 1e9:.2f} | {memory.total[1] / 1e9:.2f} |")
    print(f"shared memory (the object store): {memory.total[2] / 1e9:.2f}")


def write_rows(data: Path, labels: Path, rows: int) -> None:
    """Write the rows of :func:`made_rows` and their labels as .npy, a million rows at a time."""
    step, centres = 1_000_000, 3.0 * np.random.default_rng(0).normal(size=(10, 18))
    values = np.lib.format.open_memmap(data, mode="w+", dtype=np.float32, shape=(rows, 18))
    truth = np.lib.format.open_memmap(labels, mode="w+", dtype=np.int64, shape=(rows,))
    for first in range(0, rows, step):
        generator, number = np.random.default_rng([1, first]), np.arange(first, min(first + step, rows))
        drawn = generator.integers(0, 10, len(number))
        truth[number] = np.where(generator.random(len(number)) < 0.1, drawn, number % 10)
        values[number] = centres[truth[number]] + generator.normal(size=(len(number), 18))
    values.flush()
    truth.flush()


def made_posteriors(rows: int, lengths: np.ndarray | None, classes: int = 10, seed: int = 0) -> Message:
    """Return class posteriors of rows in cyclic order, with one row in ten of a random class."""
    generator = np.random.default_rng(seed)
    labels = np.where(generator.random(rows) < 0.1, generator.integers(0, classes, rows), np.arange(rows) % classes)
    log_prob = -((generator.normal(size=(rows, classes)) + 3 * np.eye(classes)[labels] - 3) ** 2)
    log_prob -= np.logaddexp.reduce(log_prob, axis=1)[:, None]
    arrays = {"log_prob": log_prob, "log_norm": np.zeros(rows)}
    header = Header("class_posteriors", "gmm", "class_posteriors", "mm")
    return make_message(header, arrays if lengths is None else {**arrays, "lengths": lengths})


def updates(kind: str, parameters: dict, message: Message, rows: int, chunk: int) -> tuple[Callable, Callable]:
    """Return functions that update a new module without workers, and with one in this process."""
    context = Context("it", receivers={"transition_prior": ("gmm",)})

    def alone() -> None:
        make_module(kind, parameters).update(Inbox([message]), context)

    def shared() -> None:
        module = make_module(kind, parameters)
        workers, shards = open_group([module], Inbox([message]), [Extent(rows, chunk).part(0, 1)], context)
        respond(workers, *learn(workers, start_on_sample(module, shards, context, 20_000)))

    return alone, shared


def print_costs(repeats: int) -> None:
    """Print the processor time of first updates by one worker over that without workers, interleaved.

    The GMM's worker starts from 20,000 of the rows, the other from all.
    """
    import torch

    torch.set_num_threads(1)
    rows, pictures = 65_536, np.random.default_rng(0).random((3000, 784), dtype=np.float32)
    observed = make_message(Header("observations", "data", "observations", "it"), {"values": pictures})
    vae = {"latent_dim": 10, "epochs": 5, "batch_size": 500, "hidden": 128, "likelihood": "mse"}
    lengths = np.array([100] * (rows // 100) + [rows % 100])
    observed_rows = make_message(Header("observations", "data", "observations", "it"), {"values": made_rows(rows)})
    motions = {"values": made_motions(rows)}
    observed_motions = make_message(Header("observations", "data", "observations", "it"), motions)
    cases = {
        **{
            f"GMM ({engine})": updates("gmm", {**GMM, "engine": engine, "calibrate": True}, observed_rows, rows, 4096)
            for engine in ("vb", "blocked-gibbs")
        },
        **{
            f"AR-GMM ({engine})": updates("ar_gmm", {**AR, "engine": engine}, observed_motions, rows, 4096)
            for engine in ("vb", "blocked-gibbs")
        },
        "VAE": updates("vae", vae, observed, 3000, 1500),
        "MM, one sequence": updates("markov", {}, made_posteriors(rows, None), rows, 4096),
        "MM, sequences of 100": updates("markov", {}, made_posteriors(rows, lengths), rows, 4096),
    }
    for name, (alone, shared) in cases.items():
        measured = measure(Case(name, shared, alone), repeats=(repeats, repeats), clock="processor")
        print(f"| {name} | {measured.ratio:.2f} ({measured.low:.2f} to {measured.high:.2f}) |", flush=True)
    print("load:", *(f"{load:.1f}" for load in os.getloadavg()))


def main() -> None:
    """Parse the arguments and run a part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=["hash", "speed", "vae", "steps", "cost", "memory"])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--chunk", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--batches", type=int, nargs="*", default=[500, 1000, 2000, 4000, 8000])
    parser.add_argument("--models", nargs="*", help="beginnings of names")
    given = parser.parse_args()
    for name in list(MODELS):
        if given.models and not any(name.startswith(each) for each in given.models):
            del MODELS[name]
    if given.part == "memory":
        print_memory(given.rows, given.chunk)
        return
    if given.part == "steps":
        print_step_times(given.rows, given.repeats, given.batches)
        return
    if given.part == "cost":
        print_costs(given.repeats)
        return
    if given.no_ray:
        raise SystemExit(not print_hashes(given.rows, given.chunk, ray=False))
    import ray

    from actors.backends.ray.temporary import ray_directory
    from runner.cluster.connection import worker_environment

    os.environ.update(worker_environment())
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=ray_directory())
    try:
        if given.part == "hash":
            raise SystemExit(not print_hashes(given.rows, given.chunk, ray=True))
        elif given.part == "vae":
            print_vae_speed(given.rows, given.repeats, given.batches)
        else:
            print_speed(given.rows, given.chunk, given.repeats)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
