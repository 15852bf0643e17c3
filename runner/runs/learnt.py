"""What an earlier script has learnt: the state in a module's output directory, for ``load_dir``."""

from __future__ import annotations

import re
from pathlib import Path

from actors.errors import CheckpointError, ModuleError
from actors.graph.registry import add_code_directories, make_module
from actors.graph.spec import ModuleSpec
from actors.limits import MAX_OUTPUT_BYTES
from actors.storage.state_codec import unpack_state
from actors.types import State
from runner.runs.run_files import RunDirectoryError, RunFiles

MODEL_FILE = "model.safetensors"


def read_learnt(directory: Path) -> State:
    """Return the state that a script has left in the output directory of a module.

    Raises
    ------
    RunDirectoryError
        If there is none.
    """
    place = directory / MODEL_FILE
    if not place.is_file():
        # The toolkits make a directory for every update.
        above = directory.parent if re.fullmatch(r"\d{3}|recog", directory.name) else None
        hint = f"; give load_dir={str(above)!r}" if above is not None and (above / MODEL_FILE).is_file() else ""
        raise RunDirectoryError(
            f"load_dir {str(directory)!r}: there is no {MODEL_FILE}, which a script leaves in the directory of each "
            f"module (module001_vae, …){hint}"
        )
    try:
        state = unpack_state(RunFiles(directory).read_bounded(MODEL_FILE, MAX_OUTPUT_BYTES), str(place))
    except CheckpointError as error:
        raise RunDirectoryError(f"load_dir {str(directory)!r}: {error}") from error
    if not state:
        raise RunDirectoryError(f"load_dir {str(directory)!r}: the module there has learnt nothing")
    return state


def check_learnt(state: State, spec: ModuleSpec, directory: Path) -> None:
    """Check that a module can continue from a state that was read from `directory`.

    Raises
    ------
    RunDirectoryError
        If it is the state of another module.
    """
    add_code_directories(spec.code)
    try:
        module = make_module(spec.type, spec.parameters)
        module.prepare("cpu", 1)
        module.load_state(state)
        found = set(module.state())
    except ModuleError as error:
        raise RunDirectoryError(f"module {spec.name!r}, load_dir {str(directory)!r}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        found = set()
    if found != set(state):
        raise RunDirectoryError(
            f"module {spec.name!r}, load_dir {str(directory)!r}: what lies there was not learnt by a module of type "
            f"{spec.type!r}"
        )
