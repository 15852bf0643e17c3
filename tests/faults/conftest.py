"""Prints what was seen of the deaths."""

from tests.faults import table


def pytest_terminal_summary(terminalreporter):
    if table.ROWS:
        terminalreporter.section("deaths")
        for line in table.lines():
            terminalreporter.write_line(line)
