"""Stand-in for Python 3.11: this machine's Python, whose virtual environments contain the project's dependencies.

pip would download them from an index. The project itself is not among them, so a machine has to install it.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

BASE = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
if sys.argv[1:3] != ["-m", "venv"]:
    os.execv(BASE, [BASE, *sys.argv[1:]])
subprocess.run([BASE, "-m", "venv", "--without-pip", *sys.argv[3:]], check=True)
home = Path(sys.argv[-1]).absolute()
(packages,) = home.glob("lib/python*/site-packages")
(packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
programs = {
    "ray": "from ray.scripts.scripts import main\nmain()\n",
    "pip": "from pip._internal.cli.main import main\nraise SystemExit(main())\n",
}
for name, program in programs.items():
    (home / "bin" / name).write_text(f"#!{home}/bin/python\n{program}")
    (home / "bin" / name).chmod(0o755)
