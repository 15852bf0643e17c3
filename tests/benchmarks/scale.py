"""Runs of many rows on this machine, from files on disk to result: seconds and memory as the rows grow.

``python -m tests.benchmarks.scale vectors --rows 10000 100000`` runs GMM (``vb``) and MM on made rows × 18;
``pictures --rows 1000000`` runs VAE, GMM and MM on packaged digits, shifted and rotated from a seed, in cyclic order.
Both start ``serket run`` as a person would, with two workers for each module, and sample the memory of all of the run's
processes twice a second: what is theirs alone and in no file (anonymous pages; the USS would count what lies in shared
memory, too, where one process has it open), and what lies in shared memory. The exponents are those
of seconds in the rounds and of bytes as a power of the rows.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import psutil

BLOCK = 1 << 16
SIDE = 28


def write_vectors(path: Path, rows: int, dimensions: int = 18, classes: int = 10) -> None:
    """Write rows (N, D) float32 of Gaussian classes in cyclic order, one row in ten of a random class."""
    out = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dimensions))
    centres = 3.0 * np.random.default_rng(0).normal(size=(classes, dimensions))
    labels = np.lib.format.open_memmap(path.with_name("categories.npy"), "w+", np.uint8, (rows,))
    for start in range(0, rows, BLOCK):
        generator = np.random.default_rng([1, start])
        number = np.arange(start, min(start + BLOCK, rows))
        odd = generator.random(len(number)) < 0.1
        own = np.where(odd, generator.integers(0, classes, len(number)), number % classes)
        labels[number] = own
        out[number] = centres[own] + generator.normal(size=(len(number), dimensions))


def write_pictures(path: Path, rows: int) -> None:
    """Write pictures (N, 784) uint8: packaged digits, each shifted by up to 2 pixels and rotated by up to 10 degrees.

    Their order is 0..9,0..9,…; which digit of a class, and how it is moved, is drawn from a seed.
    """
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    from runner.data.builtin import LABELLED

    digits, labels = LABELLED["mnist"]()
    images = torch.from_numpy(np.asarray(digits, np.float32).reshape(-1, 1, SIDE, SIDE))
    of_class = [np.flatnonzero(labels == digit) for digit in range(10)]
    out = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, SIDE * SIDE))
    categories = np.lib.format.open_memmap(path.with_name("categories.npy"), "w+", np.uint8, (rows,))
    for start in range(0, rows, 8192):
        generator = np.random.default_rng([2, start])
        number = np.arange(start, min(start + 8192, rows))
        own = number % 10
        drawn = generator.random(len(number))
        chosen = np.array([of_class[digit][int(u * len(of_class[digit]))] for digit, u in zip(own, drawn, strict=True)])
        angle = np.deg2rad(generator.uniform(-10, 10, len(number)))
        shift = generator.uniform(-2, 2, (len(number), 2)) * 2 / SIDE
        cosine, sine = np.cos(angle), np.sin(angle)
        moves = np.stack([cosine, -sine, shift[:, 0], sine, cosine, shift[:, 1]], axis=1).reshape(-1, 2, 3)
        grid = affine_grid(
            torch.from_numpy(moves.astype(np.float32)), [len(number), 1, SIDE, SIDE], align_corners=False
        )
        moved = grid_sample(images[chosen], grid, align_corners=False)
        out[number] = np.rint(255 * moved.numpy().reshape(len(number), -1)).clip(0, 255).astype(np.uint8)
        categories[number] = own


def vectors_model(workers: int | None, iterations: int, exchanges: int) -> dict:
    """Return the model of GMM (vb) and MM."""
    shared = {} if workers is None else {"workers": workers}
    gmm = {"type": "gmm", "classes": 10, "engine": "vb", "iterations": iterations, "prior_scale": "data"}
    return {
        "data": {"source": "files", "observations": "rows.npy", "categories": "categories.npy", "on_disk": True},
        "modules": {"gmm": {**gmm, **shared}, "mm": {"type": "markov", **shared}},
        "connections": ["data -> gmm", "gmm -> mm"],
        "schedule": {"rounds": 1, "steps": [{"steps": ["gmm", "mm"], "repeat": exchanges}]},
    }


def pictures_model(workers: int | None, epochs: int, exchanges: int, batch: int) -> dict:
    """Return the model of VAE, GMM (vb) and MM."""
    shared = {} if workers is None else {"workers": workers}
    gmm = {"type": "gmm", "classes": 10, "engine": "vb", "iterations": 5, "start": "sequence", "calibrate": True}
    return {
        "data": {
            "source": "files",
            "observations": "rows.npy",
            "categories": "categories.npy",
            "divide_by": 255,
            "on_disk": True,
        },
        "modules": {
            "vae": {"type": "vae", "latent_dim": 18, "epochs": epochs, "batch_size": batch, **shared},
            "gmm": {**gmm, **shared},
            "mm": {"type": "markov", **shared},
        },
        "connections": ["data -> vae", "vae -> gmm", "gmm -> mm"],
        "schedule": {"rounds": 1, "steps": ["vae", {"steps": ["gmm", "mm"], "repeat": exchanges}]},
    }


class Memory:
    """Samples the memory of a process and all of its descendants until it is stopped."""

    def __init__(self, root: psutil.Process) -> None:
        self._root, self._stopped = root, threading.Event()
        self.total, self.shared, self.at_peak = 0, 0, dict[str, int]()
        self._before = shutil.disk_usage("/dev/shm").used
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the sampling."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(0.5):
            sizes = defaultdict[str, int](int)
            try:
                processes = [self._root, *self._root.children(recursive=True)]
            except psutil.Error:
                break
            for process in processes:
                try:
                    sizes[_name_of(process)] += _anonymous(process.pid)
                except (psutil.Error, OSError):
                    continue
            self.shared = max(self.shared, shutil.disk_usage("/dev/shm").used - self._before)
            if sum(sizes.values()) > self.total:
                self.total, self.at_peak = sum(sizes.values()), dict(sizes)


def _anonymous(pid: int) -> int:
    """Return the bytes of a process's own pages that no file or shared memory backs."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))


def _name_of(process: psutil.Process) -> str:
    line = process.cmdline()
    first = Path(line[0]).name if line else process.name()
    if first.startswith("ray::"):
        return re.sub(r"\W.*", "", first.removeprefix("ray::")) or first
    return first if not first.startswith("python") else Path(line[1]).name if len(line) > 1 else first


def run(folder: Path, model: dict, rows: int) -> dict:
    """Run a model on the rows of a folder; return what was measured."""
    path = folder / "model.yaml"
    path.write_text(json.dumps({"name": "scale", "seed": 0, **model}))
    shutil.rmtree(folder / "runs", ignore_errors=True)
    started = time.perf_counter()
    command = [str(Path(sys.executable).with_name("serket")), "run", str(path), "--runs", str(folder / "runs")]
    with (folder / "log.txt").open("w") as log:
        process = psutil.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        memory = Memory(process)
        code = process.wait()
        memory.stop()
    seconds = time.perf_counter() - started
    if code:
        raise SystemExit((folder / "log.txt").read_text()[-4000:])
    result = json.loads((folder / "runs" / "scale" / "result.json").read_text())
    events = [json.loads(line) for line in (folder / "runs" / "scale" / "events.jsonl").read_text().splitlines()]
    updates = defaultdict[str, float](float)
    for event in events:
        if event.get("event") == "updated":
            updates[event["module"]] += event["seconds"]
    return {
        "rows": rows,
        "seconds": round(seconds, 1),
        "rounds": round(result.get("phases", {}).get("rounds", float("nan")), 1),
        "updates": {name: round(value, 2) for name, value in updates.items()},
        "accuracy": result.get("accuracy"),
        "private GB": round(memory.total / 1e9, 2),
        "shared GB": round(memory.shared / 1e9, 2),
        "at the peak": {
            name: round(size / 1e9, 2) for name, size in sorted(memory.at_peak.items(), key=lambda e: -e[1])
        },
    }


def print_exponents(measured: list[dict]) -> None:
    """Print by which power of the rows seconds and bytes grow between neighbouring sizes, and over all."""
    rows = np.log([each["rows"] for each in measured])
    for what, value in (
        ("seconds in updates", lambda each: sum(each["updates"].values())),
        ("seconds", lambda each: each["seconds"]),
        ("private bytes", lambda each: each["private GB"]),
        ("shared bytes", lambda each: max(each["shared GB"], 0.01)),
    ):
        logs = np.log([value(each) for each in measured])
        steps = ", ".join(f"{b:.2f}" for b in np.diff(logs) / np.diff(rows))
        print(f"{what}: exponent {np.polyfit(rows, logs, 1)[0]:.2f} ({steps})")


def main() -> None:
    """Parse the arguments and run a part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=["vectors", "pictures"])
    parser.add_argument("--rows", type=int, nargs="+", required=True)
    parser.add_argument("--workers", type=int, default=2, help="of each module; 0 for none")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--exchanges", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/serket-scale"))
    given = parser.parse_args()
    workers, measured = given.workers or None, []
    for rows in given.rows:
        folder = given.folder / f"{given.part}-{rows}"
        if not (folder / "done").exists():
            folder.mkdir(parents=True, exist_ok=True)
            (write_vectors if given.part == "vectors" else write_pictures)(folder / "rows.npy", rows)
            (folder / "done").touch()
        own = workers and min(workers, -(-rows // 4096))
        if given.part == "vectors":
            model = vectors_model(own, given.iterations, given.exchanges)
        else:
            model = pictures_model(own, given.epochs, given.exchanges, given.batch)
        measured.append(run(folder, model, rows))
        print(json.dumps(measured[-1]), flush=True)
    if len(measured) > 1:
        print_exponents(measured)


if __name__ == "__main__":
    main()
