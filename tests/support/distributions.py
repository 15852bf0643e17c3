"""Distributions with module types, installed into a directory of a test."""

from pathlib import Path

from actors.graph.registry import GROUP

MODULE = '''
from dataclasses import dataclass
from actors.module import Module, Outbox, Port

class Own(Module):
    """Counts."""

    ports = (Port("observations", "in", "forward", "observations"),)

    @dataclass(frozen=True)
    class Parameters:
        size: int = 3

    def update(self, inbox, context):
        return Outbox()

    recognize = update

    def state(self):
        return {}

    def load_state(self, state):
        pass
'''


class Site:
    """A directory of installed distributions at the start of ``sys.path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def install(self, distribution: str, entries: dict[str, str], version: str = "1.2", **files: str) -> None:
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = [f"{name} = {target}" for name, target in entries.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))
        for name, source in files.items():
            (self.path / f"{name}.py").write_text(source)
