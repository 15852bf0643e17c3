"""Labels only ever measure: without them a run is the same, bit for bit."""

from pathlib import Path

import numpy as np

from actors.storage.checkpoints import Checkpoints
from actors.coordination.coordinator import Coordinator
from actors.backends.in_process import InProcess
from runner.config.run_config import load_config
from runner.data.datasets import load
from runner.data.sources import source_states

HMM = Path(__file__).parents[3] / "configs" / "hmm.yaml"


def digests(folder: Path, data: str) -> dict[str, dict[str, str]]:
    config = load_config(HMM, [f"data={data}"])
    checkpoints = Checkpoints(folder)
    coordinator = Coordinator(config.graph(), InProcess(), seed=config.seed, checkpoints=checkpoints)
    coordinator.start(source_states(config.graph(), config.load_data()))
    coordinator.run_rounds()
    manifest = checkpoints.latest()
    assert manifest is not None
    return {
        module: {label: file.digest for label, file in record.files.items()}
        for module, record in manifest.modules.items()
    }


def test_a_run_without_categories_finds_the_same_classes_bit_for_bit(tmp_path: Path) -> None:
    points = load("cycle", order="cyclic")
    np.save(tmp_path / "rows.npy", points.observations)
    np.save(tmp_path / "right.npy", points.categories)
    np.save(tmp_path / "wrong.npy", np.zeros(len(points.observations), np.int64))
    rows = f"source: files, observations: {tmp_path}/rows.npy"
    blind = digests(tmp_path / "blind", f"{{{rows}}}")
    assert blind == digests(tmp_path / "right", f"{{{rows}, categories: {tmp_path}/right.npy}}")
    assert blind == digests(tmp_path / "wrong", f"{{{rows}, categories: {tmp_path}/wrong.npy}}")
