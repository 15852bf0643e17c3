"""Slurm's, as far as a job asks it for its nodes: ``scontrol show hostnames LIST``; the list is written out here."""

import sys

if sys.argv[1:3] != ["show", "hostnames"]:
    sys.exit("only show hostnames is known here")
print(*sys.argv[3].split(","), sep="\n")
