"""Copies as Ray's launcher asks rsync to: ``rsync --rsh SSH -avz [--exclude PATTERN]… SOURCE USER@HOST:TARGET``."""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--rsh", required=True)
parser.add_argument("-avz", action="store_true", required=True)
parser.add_argument("--exclude", action="append", default=[])
parser.add_argument("source")
parser.add_argument("target")
given = parser.parse_args()

source, (host, _, target) = Path(given.source), given.target.partition(":")
if ":" in given.source or not host:
    sys.exit("only copies to another machine are known here")
if source.is_dir():
    if not given.source.endswith("/"):
        sys.exit("rsync would make a directory in the target")
    where, what, into, name = source, ".", target, ""
else:
    where, what, into, name = source.parent, source.name, str(Path(target).parent), Path(target).name
pack = ["tar", "-C", str(where), *(f"--exclude={pattern}" for pattern in given.exclude), "-czf", "-", "--", what]
rename = f"--transform={shlex.quote(f's|^{what}$|{name}|')}" if name else ""
# As in rsync, the target's ~ is the other machine's.
unpack = f"mkdir -p {into} && tar -C {into} {rename} -xzpf -"
with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
    status = subprocess.run([*shlex.split(given.rsh), host, unpack], stdin=packing.stdout, check=False).returncode
sys.exit(status or packing.returncode)
