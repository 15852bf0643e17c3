"""Stand-in for rsync as Ray calls it: ``rsync --rsh SSH -avz [--exclude PATTERN]… SOURCE USER@HOST:TARGET``."""

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
options = parser.parse_args()

source, (host, _, target) = Path(options.source), options.target.partition(":")
if ":" in options.source or not host:
    sys.exit("this stand-in copies to another machine only")
if source.is_dir():
    if not options.source.endswith("/"):
        sys.exit("rsync would create a directory in the target")
    parent, member, target_parent, name = source, ".", target, ""
else:
    parent, member, target_parent, name = source.parent, source.name, str(Path(target).parent), Path(target).name
pack = ["tar", "-C", str(parent), *(f"--exclude={pattern}" for pattern in options.exclude), "-czf", "-", "--", member]
rename = f"--transform={shlex.quote(f's|^{member}$|{name}|')}" if name else ""
# As with rsync, the other machine expands ~ in the target.
unpack = f"mkdir -p {target_parent} && tar -C {target_parent} {rename} -xzpf -"
with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
    status = subprocess.run([*shlex.split(options.rsh), host, unpack], stdin=packing.stdout, check=False).returncode
sys.exit(status or packing.returncode)
