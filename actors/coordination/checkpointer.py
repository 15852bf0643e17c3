"""A run's commits as its coordinator makes and reads them: each module's part by its own process, then the manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from actors.coordination.backend import Task, Transport
from actors.coordination.router import Held, Letter, Router
from actors.errors import CheckpointError
from actors.messaging.codec import pack_header, unpack_header
from actors.storage.checkpoints import Checkpoints
from actors.storage.manifest import FileRecord, Manifest, ModuleRecord
from actors.storage.module_files import LoadRequest, SaveRequest


@dataclass
class _Ledger:
    """What is committed of one module: its record, and what is being written or was written of it last."""

    record: ModuleRecord = field(default_factory=lambda: ModuleRecord(0, {}))
    written: Held | None = None
    saving: Task = None


class Commits:
    """Writes what a router holds, and gives it back.

    Parameters
    ----------
    checkpoints : Checkpoints
    transport : Transport
    router : Router
    """

    def __init__(self, checkpoints: Checkpoints, transport: Transport, router: Router) -> None:
        self._checkpoints = checkpoints
        self._transport = transport
        self._router = router
        self._ledgers = {name: _Ledger() for name in router.graph.modules}

    def begin(self, module: str, name: str) -> None:
        """Begin to write what `module` gave last into the commit `name`."""
        ledger, held = self._ledgers[module], self._router.held[module]
        ledger.written = held
        request = SaveRequest(
            root=str(self._checkpoints.root),
            directory=name,
            module=module,
            slots=tuple(held.letters),
            headers=tuple(pack_header(letter.header) for letter in held.letters.values()),
        )
        objects = [held.state, held.outputs, *(letter.arrays for letter in held.letters.values())]
        ledger.saving = self._transport.save(module, request, objects)

    def write(self, manifest: Manifest) -> None:
        """Write what changed since the last commit, then the manifest, completed by what the modules' parts are.

        Raises
        ------
        CheckpointError
            If something cannot be written.
        """
        router = self._router
        try:
            for module, ledger in self._ledgers.items():
                held = router.held[module]
                if held is not ledger.written and held.outputs is not None:
                    self.begin(module, manifest.name)
            for module, ledger in self._ledgers.items():
                if ledger.saving is not None and ledger.written is not None:
                    wait = partial(self._saved, module, manifest.name)
                    files = router.insist(module, wait, "writing what it had learnt")
                    ledger.record = ModuleRecord(manifest.round, dict(files), dict(ledger.written.metrics))
                    ledger.saving = None
            records = {module: ledger.record for module, ledger in self._ledgers.items() if ledger.record.files}
            self._checkpoints.commit(replace(manifest, modules=records))
        except OSError as error:
            raise CheckpointError(
                f"commit {manifest.name} could not be written: {error}; what was committed before is whole. "
                f"Mend that, then go on with serket resume {router.run}"
            ) from error

    def _saved(self, module: str, name: str) -> Mapping[str, FileRecord]:
        """Wait until a module's part is written; where it is asked for again, have it written again."""
        ledger = self._ledgers[module]
        if ledger.saving is None:
            self.begin(module, name)
        task, ledger.saving = ledger.saving, None
        return self._transport.saved(task)

    def newest(self, tell: Callable[[str], None]) -> Manifest:
        """Return the newest whole commit; tell a sentence on each newer one that is damaged.

        Raises
        ------
        CheckpointError
            If there is none.
        """
        manifest = self._checkpoints.newest_whole(tell)
        if manifest is None:
            raise CheckpointError(f"run {self._router.run}: nothing is committed yet")
        return manifest

    def restore(self, manifest: Manifest) -> None:
        """Let the router hold what was committed, and the modules take it over; the others stand at their beginning."""
        router = self._router
        router.sequence = manifest.sequence
        router.seconds = {**dict.fromkeys(router.graph.modules, 0.0), **manifest.module_seconds}
        router.held = {name: Held() for name in router.graph.modules}  # what was held may be gone
        self._ledgers = {name: _Ledger() for name in router.graph.modules}
        for name in router.graph.modules:
            router.await_ready(name)
            record = manifest.modules.get(name)
            if record is not None:
                router.held[name] = self._read(name, record)
                self._ledgers[name] = _Ledger(record, router.held[name])
            router.hand_over(name)

    def _read(self, module: str, record: ModuleRecord) -> Held:
        """Return what was committed of a module, as it was held then."""
        request = LoadRequest(str(self._checkpoints.root), module, record)
        read = partial(self._transport.read, module, request)
        part = self._router.insist(module, read, "reading what was committed of it")
        sent = zip(part.heads.items(), part.messages, strict=True)
        letters = {slot: Letter(unpack_header(head), arrays) for (slot, head), arrays in sent}
        return Held(part.state, part.outputs, letters, dict(record.metrics))
