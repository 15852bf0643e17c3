"""Run the command line: ``python -m runner.cli``."""

from runner.cli.app import main

if __name__ == "__main__":
    main()
