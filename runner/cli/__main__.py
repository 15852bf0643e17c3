"""Run the command line: ``python -m runner.cli``."""

import sys

try:
    from runner.cli.app import main
except KeyboardInterrupt:  # the imports take some tenths of a second
    sys.exit("serket: interrupted")

if __name__ == "__main__":
    main()
