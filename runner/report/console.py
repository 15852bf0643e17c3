"""The console with which commands print: control characters are escaped, and texts are no markup."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from runner.report.printable import printable


class SafeConsole(Console):
    """A console that shows the control characters of texts as escapes, and interprets no markup in them.

    Colours come from :class:`rich.text.Text` and styles, so that a name such as ``[red]`` is printed as it is.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as :class:`rich.console.Console` does; what is no control code of rich itself is escaped."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable() or segment.text == "\n":
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)
