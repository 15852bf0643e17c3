"""Start a cluster for one run: without the processes of Ray that no run needs, and without waiting for its agents.

``ray.init`` starts an autoscaler, a monitor of log files and an API server besides the control service and the raylet,
and waits for the API server and for the two agents of the raylet, each a Python process that imports Ray. A run on its
own cluster asks none of them for anything: its size is fixed, its logs stay in files, and there is no dashboard. Here
the first three are left out; each agent is replaced by a small process that becomes the agent when somebody connects to
its port (:mod:`actors.backends.ray.start_on_demand`), such as the raylet for a module whose code uses runtime
environments. Where Ray's metrics are installed (``ray[default]``), their agent is started as Ray does.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import services
from ray._private.node import Node
from ray._private.utils import get_dashboard_dependency_error
from ray._raylet import (  # type: ignore[attr-defined]
    DASHBOARD_AGENT_LISTEN_PORT_NAME,
    METRICS_AGENT_PORT_NAME,
    METRICS_EXPORT_PORT_NAME,
    RUNTIME_ENV_AGENT_PORT_NAME,
    persist_port,
)

_STAND_IN = Path(__file__).with_name("start_on_demand.py")
_METRICS_AGENT = "--dashboard_agent_command"
_ENVIRONMENT_AGENT = "--runtime_env_agent_command"
_LEFT_OUT = ("start_monitor", "start_log_monitor", "start_api_server")
_UNUSED_PORTS = (METRICS_AGENT_PORT_NAME, METRICS_EXPORT_PORT_NAME, DASHBOARD_AGENT_LISTEN_PORT_NAME)


@contextmanager
def lean_start() -> Iterator[None]:
    """Let ``ray.init`` start only the control service and the raylet, with agents that start on demand."""
    start, originals = services.start_ray_process, {name: getattr(Node, name) for name in _LEFT_OUT}

    def start_lean(command: Sequence[str], process_type: str, **options: Any) -> Any:
        if process_type == ray._private.ray_constants.PROCESS_TYPE_RAYLET:
            command = lean_command(command, metrics=get_dashboard_dependency_error() is None)
        return start(command, process_type, **options)

    services.start_ray_process = start_lean
    for name in _LEFT_OUT:
        setattr(Node, name, lambda _self, **_options: None)
    try:
        yield
    finally:
        services.start_ray_process = start
        for name, original in originals.items():
            setattr(Node, name, original)


def lean_command(command: Sequence[str], *, metrics: bool) -> list[str]:
    """Return the command of a raylet with agents that start on demand; tell the raylet the ports of these.

    Parameters
    ----------
    command : sequence of str
        As Ray has made it.
    metrics : bool
        Whether the agent that exports metrics is started at once.
    """
    given = dict(word.split("=", 1) for word in command if word.startswith("--") and "=" in word)
    host, place = given["--node_ip_address"], (given["--session_dir"], given["--node_id"])
    port = free_port(host)
    environment = shlex.split(given[_ENVIRONMENT_AGENT])
    environment = [f"--runtime-env-agent-port={port}" if "--runtime-env-agent-port" in w else w for w in environment]
    replaced = {_ENVIRONMENT_AGENT: _stand_in(host, port, environment)}
    persist_port(*place, RUNTIME_ENV_AGENT_PORT_NAME, port)
    if not metrics:
        replaced[_METRICS_AGENT] = _stand_in(host, 0, ())
        for name in _UNUSED_PORTS:  # as the agent itself would say without its dependencies
            persist_port(*place, name, -1)
    return [f"{name}={replaced[name]}" if (name := word.partition("=")[0]) in replaced else word for word in command]


def free_port(host: str) -> int:
    """Return a port of this machine on which nothing listens."""
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        return int(listener.getsockname()[1])


def _stand_in(host: str, port: int, command: Sequence[str]) -> str:
    return subprocess.list2cmdline([sys.executable, "-I", "-S", str(_STAND_IN), host, str(port), *command])
