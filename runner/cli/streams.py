"""Standard streams that survive their reader: output without a reader is dropped, and the command goes on."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import TextIO

_GONE = frozenset({errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET})
"""Errors of a pipe without a reader, of a terminal that was closed, and of a closed descriptor."""


class _DroppingFile(io.FileIO):
    """A file descriptor whose writes succeed without an effect after its reader has gone."""

    def __init__(self, descriptor: int, *, any_error: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._any_error = any_error

    def write(self, data: object, /) -> int:
        """Write bytes, or drop them."""
        try:
            return super().write(data) or 0  # type: ignore[arg-type]
        except OSError as error:
            if not self._any_error and error.errno not in _GONE:
                raise
            return memoryview(data).nbytes  # type: ignore[arg-type]


def protect_streams() -> None:
    """Replace stdout and stderr by streams that drop what cannot be written, and open those that are closed.

    Results that do not fit on a full disk are reported (stdout); messages are dropped whatever the reason (stderr).
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # otherwise the next file that is opened would become a standard stream
            with suppress(OSError):
                opened = os.open(os.devnull, os.O_RDWR)
                if opened != descriptor:
                    os.dup2(opened, descriptor)
                    os.close(opened)
    sys.stdout = _protected(sys.stdout, 1)
    sys.stderr = _protected(sys.stderr, 2)


def _protected(stream: TextIO | None, descriptor: int) -> TextIO:
    """Return a line-buffered text stream for a descriptor, with the encoding of the former one."""
    if stream is not None:
        with suppress(OSError, ValueError):
            stream.flush()
    encoding = getattr(stream, "encoding", None) or "utf-8"
    errors = "backslashreplace" if descriptor == 2 else getattr(stream, "errors", None) or "strict"
    raw = _DroppingFile(descriptor, any_error=descriptor == 2)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=True)
