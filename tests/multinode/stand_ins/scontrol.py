"""Stand-in for Slurm's ``scontrol show hostnames LIST``, where LIST contains whole names, separated by commas."""

import sys

if sys.argv[1:3] != ["show", "hostnames"]:
    sys.exit("this stand-in implements `show hostnames` only")
print(*sys.argv[3].split(","), sep="\n")
