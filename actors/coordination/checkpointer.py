"""The checkpointer: writes the results of a router as commits, and restores them.

Each module's part of a commit is written by the process that hosts the module; the manifest, which makes the commit
valid, is written last.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial

from actors.coordination.backend import Backend, ModuleResult, ResultRef, Task
from actors.coordination.router import Router
from actors.errors import CheckpointError
from actors.storage.checkpoints import Checkpoints
from actors.storage.manifest import FileRecord, Manifest, ModuleRecord
from actors.storage.module_files import LoadRequest, SaveRequest
from actors.storage.status_files import SavedEvent


@dataclass
class _ModuleProgress:
    """The committed part of one module: its record, and the result that is being written or was written last.

    The result is not kept: its messages and outputs would stay in memory until the next commit.
    """

    record: ModuleRecord = field(default_factory=lambda: ModuleRecord(0, {}))
    written: weakref.ReferenceType[ResultRef] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    saving: Task[Mapping[str, FileRecord]] | None = None


class Checkpointer:
    """Writes a router's results as commits, and restores them.

    Parameters
    ----------
    checkpoints : Checkpoints
    backend : Backend
    router : Router
    """

    def __init__(self, checkpoints: Checkpoints, backend: Backend, router: Router) -> None:
        self._checkpoints = checkpoints
        self._backend = backend
        self._router = router
        self._progress = {name: _ModuleProgress() for name in router.graph.modules}

    def begin(self, module: str, name: str) -> None:
        """Start writing a module's latest result into the commit `name`."""
        progress, result = self._progress[module], self._router.results[module]
        progress.written, progress.metrics = weakref.ref(result), dict(result.metrics)
        request = SaveRequest(
            root=str(self._checkpoints.root),
            directory=name,
            module=module,
            slots=tuple(result.messages),
            headers=tuple(message.packed_header for message in result.messages.values()),
        )
        assert result.state is not None  # it has been updated
        assert result.outputs is not None
        objects = [result.state, result.outputs, *(message.arrays for message in result.messages.values())]
        progress.saving = self._backend.submit_save(module, request, objects)

    def write(
        self, manifest: Manifest, events_of: Callable[[Manifest], AbstractContextManager[tuple[SavedEvent, ...]]]
    ) -> Manifest:
        """Write the results that changed since the last commit, then the manifest with the modules' records.

        Parameters
        ----------
        manifest : Manifest
            Without records.
        events_of : callable
            Returns the events that are written with the manifest, given the latter with records; a context, in which it
            is written.

        Returns
        -------
        Manifest
            With the records.

        Raises
        ------
        CheckpointError
            If a file cannot be written.
        """
        router = self._router
        try:
            for module, progress in self._progress.items():
                result = router.results[module]
                if (progress.written is None or progress.written() is not result) and result.outputs is not None:
                    self.begin(module, manifest.name)
            for module, progress in self._progress.items():
                if progress.saving is not None:
                    wait = partial(self._saved, module, manifest.name)
                    files = router.supervisor.call_with_recovery(module, wait, "the writing of its part of the commit")
                    progress.record = ModuleRecord(manifest.round, dict(files), progress.metrics)
                    progress.saving = None
            records = {module: progress.record for module, progress in self._progress.items() if progress.record.files}
            written = replace(manifest, modules=records)
            with events_of(written) as events:
                self._checkpoints.commit(replace(written, events=events))
            return written
        except OSError as error:
            raise CheckpointError(
                f"commit {manifest.name} could not be written: {error}; earlier commits are complete. "
                f"Correct the cause, then continue with serket resume {router.run}"
            ) from error

    def _saved(self, module: str, name: str) -> Mapping[str, FileRecord]:
        """Wait until a module's part is written; when called again after a failure, write it again."""
        progress = self._progress[module]
        if progress.saving is None:
            self.begin(module, name)
        assert progress.saving is not None
        task, progress.saving = progress.saving, None
        return self._backend.collect(task)

    def newest(self, log: Callable[[str], None]) -> Manifest:
        """Return the newest complete commit; log a sentence for each newer one that is damaged.

        Raises
        ------
        CheckpointError
            If there is none.
        """
        manifest = self._checkpoints.newest_whole(log)
        if manifest is None:
            raise CheckpointError(f"run {self._router.run}: nothing is committed yet")
        return manifest

    def restore(self, manifest: Manifest) -> None:
        """Restore the results and the modules' states of a commit; modules that are not in it are reset."""
        router = self._router
        router.restore(manifest.sequence, manifest.module_seconds)
        self._progress = {name: _ModuleProgress() for name in router.graph.modules}
        for name in router.graph.modules:
            router.supervisor.await_prepared(name)
            record = manifest.modules.get(name)
            if record is not None:
                result = self._read(name, record)
                router.store(name, result)
                self._progress[name] = _ModuleProgress(record, weakref.ref(result), record.metrics)
            router.supervisor.push_state(name)

    def _read(self, module: str, record: ModuleRecord) -> ResultRef:
        """Read a module's part of a commit."""
        request = LoadRequest(str(self._checkpoints.root), module, record)

        def read() -> ResultRef:
            return self._backend.collect(self._backend.submit_read(module, request))

        result = self._router.supervisor.call_with_recovery(module, read, "the reading of its part of a commit")
        return ModuleResult(result.state, result.outputs, result.messages, dict(record.metrics))
