"""A callback that writes what it is told into a file, one JSON value a line."""

import json
from pathlib import Path

from runner import Callback


class Spy(Callback):
    """Appends to the file `file`."""

    def __init__(self, file):
        self.file = file

    def run_started(self, run):
        self.write("run_started", run["resumed"])

    def update_finished(self, event):
        self.write("update", event["module"], event["round"], event["update"])

    def round_finished(self, event):
        self.write("round", event["round"])

    def run_finished(self, result):
        self.write("finished", result["rounds"])

    def run_stopped(self, event):
        self.write("stopped", event["failed"])

    def close(self):
        self.write("close")

    def write(self, *told):
        with Path(self.file).open("a") as file:
            print(json.dumps(told), file=file)
