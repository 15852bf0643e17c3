"""Stand-in for Slurm's ``srun``: runs a command on all nodes of a job in parallel, in this directory and environment.

The exit status is the largest of all nodes.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

command = sys.argv[1:]
while command and command[0].startswith("--"):
    command.pop(0)
prefix = (
    shlex.join(["cd", str(Path.cwd())])
    + " && exec "
    + shlex.join(["env", *(f"{k}={v}" for k, v in os.environ.items())])
)
ssh = ["ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
tasks = [
    subprocess.Popen([*ssh, node, f"{prefix} {shlex.join(command)}"], stdin=subprocess.DEVNULL)
    for node in os.environ["SLURM_JOB_NODELIST"].split(",")
]
sys.exit(max(task.wait() for task in tasks))
