"""Test that labels have no effect on the bits of a run."""

from pathlib import Path

import numpy as np

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.storage.checkpoints import Checkpoints
from runner.config.run_config import load_config
from runner.data.datasets import load
from runner.data.sources import source_states

HMM = Path(__file__).parents[3] / "configs" / "hmm.yaml"


def digests(folder: Path, data: str) -> dict[str, dict[str, str]]:
    config = load_config(HMM, [f"data={data}"])
    checkpoints = Checkpoints(folder)
    coordinator = Coordinator(config.graph, InProcessBackend(), seed=config.seed, checkpoints=checkpoints)
    coordinator.start(source_states(config.graph, config.load_data()))
    coordinator.run_rounds()
    manifest = checkpoints.latest()
    assert manifest is not None
    return {
        module: {label: file.digest for label, file in record.files.items()}
        for module, record in manifest.modules.items()
    }


def test_a_run_has_the_same_bits_without_categories_and_with_wrong_ones(tmp_path: Path) -> None:
    points = load("cycle", order="cyclic")
    np.save(tmp_path / "rows.npy", points.observations)
    np.save(tmp_path / "right.npy", points.categories)
    np.save(tmp_path / "wrong.npy", np.zeros(len(points.observations), np.int64))
    rows = f"source: files, observations: {tmp_path}/rows.npy"
    unlabelled = digests(tmp_path / "unlabelled", f"{{{rows}}}")
    assert unlabelled == digests(tmp_path / "right", f"{{{rows}, categories: {tmp_path}/right.npy}}")
    assert unlabelled == digests(tmp_path / "wrong", f"{{{rows}, categories: {tmp_path}/wrong.npy}}")
