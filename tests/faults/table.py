"""What was seen of each death, for the table in the README; printed when the tests have run."""

ROWS: list[tuple[str, str, float | None, float | None, bool]] = []
"""Who, phase, seconds until it was noticed, seconds until the run went on, whether the bits are the same."""


def lines() -> list[str]:
    """Return the rows as a table in Markdown."""
    head = ["| who | dies | noticed after s | back after s | bit-identical |", "| --- | --- | --- | --- | --- |"]
    return head + [
        f"| {who} | {phase} | {_seconds(noticed)} | {_seconds(back)} | {'yes' if same else 'NO'} |"
        for who, phase, noticed, back, same in ROWS
    ]


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
