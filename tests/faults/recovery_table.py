"""The measured recovery times of docs/recovery.md, printed as a table after the tests."""

ROWS: list[tuple[str, str, float | None, float | None, bool]] = []
"""What died, in which phase, seconds until noticed, seconds until recovered, whether the results are bit-identical."""


def lines() -> list[str]:
    """Return the rows as a table in Markdown."""
    head = ["| dies | phase | noticed after s | back after s | bit-identical |", "| --- | --- | --- | --- | --- |"]
    return head + [
        f"| {target} | {phase} | {_seconds(noticed)} | {_seconds(back)} | {'yes' if identical else 'NO'} |"
        for target, phase, noticed, back, identical in ROWS
    ]


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
