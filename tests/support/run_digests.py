"""Record or compare the digests of four small runs, in process and on Ray: ``python -m tests.support.run_digests``.

The digests depend on the processor and on the versions of numpy, numba and torch. This is therefore a script and not a
test: run it on one machine before and after a change that must not change any result.

``record`` writes the digests to tests/data/run_digests.json; ``compare`` (the default) compares with that file and
exits with status 1 if a digest differs.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.storage.checkpoints import Checkpoints
from runner.config.run_config import load_config
from runner.data.sources import source_states

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "tests" / "data" / "run_digests.json"

RUNS = {
    "hmm": [],
    "digits": [],
    "dp_hmm": ["schedule.rounds=2"],
    "vae_gmm_mlda": ["schedule.rounds=1"],
}
"""Model files, with the settings of each run."""


def run_digests(name: str, on_ray: bool) -> dict[str, str]:
    """Run the model `name` and return the SHA-256 of each committed file of states, outputs and messages, by path."""
    settings = [*RUNS[name], "seed=0"]
    model_file = ROOT / "configs" / f"{name}.yaml"
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / name / "checkpoints"
        if on_ray:
            options = [argument for setting in settings for argument in ("--set", setting)]
            command = [sys.executable, "-m", "runner.cli", "run", str(model_file), *options]
            subprocess.run(
                [*command, "--runs", directory, "--name", name], check=True, capture_output=True, cwd=directory
            )
        else:
            config = load_config(model_file, settings)
            graph = config.graph
            coordinator = Coordinator(graph, InProcessBackend(), run=name, seed=0, checkpoints=Checkpoints(root))
            coordinator.start(source_states(graph, config.load_data()))
            coordinator.run_rounds()
        files = sorted(path for path in root.rglob("*") if path.suffix in (".safetensors", ".message"))
        return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main(mode: str = "compare") -> int:
    """Record or compare the digests of all runs; return the exit status."""
    actual = {
        name: {backend: run_digests(name, backend == "ray") for backend in ("in-process", "ray")} for name in RUNS
    }
    if mode == "record":
        RECORDED.write_text(json.dumps(actual, indent=1) + "\n", encoding="utf-8")
        return 0
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    status = 0
    for name, backends in recorded.items():
        for backend, files in backends.items():
            current = actual[name][backend]
            differing = sorted(path for path in {*files, *current} if files.get(path) != current.get(path))
            print(f"{name}, {backend}: {len(files)} files, {len(differing)} differ {' '.join(differing)}")
            status |= bool(differing)
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
