"""Files of pictures as rows: one row for each picture, of the same size and mode."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import ModuleError
from actors.messaging.stored_rows import is_url, open_url
from actors.types import Array
from runner.data.errors import DataError
from runner.report.printable import printable_reason

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
_MODES = ("1", "L", "LA", "RGB", "RGBA", "I;16", "I", "F")
_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class ImageOptions:
    """How pictures are read.

    Parameters
    ----------
    size : tuple of int, optional
        Height and width to which each is scaled.
    grey : bool
        Whether colours become shades of grey.
    """

    size: tuple[int, int] | None = None
    grey: bool = False


def read_image(location: str, options: ImageOptions) -> tuple[Array, str]:
    """Return the values of a picture, (h, w) or (h, w, c), and its mode.

    A picture with a palette has the colours of the palette.

    Raises
    ------
    DataError
        If it cannot be read, or is no picture.
    """
    from PIL import Image, UnidentifiedImageError

    Image.init()
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what it logs, it also raises
    try:
        with ExitStack() as stack, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tags beside the pixels
            if is_url(location):
                files, path = open_url(location)
                stream: Any = stack.enter_context(files.open(path, "rb"))
            else:
                stream = stack.enter_context(Path(location).open("rb"))
            image: Any = stack.enter_context(Image.open(stream, formats=_FORMATS))
            count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a camera's preview is no other one
            image.load()
            mode = image.mode
            if mode == "P":
                mode = "RGBA" if "transparency" in image.info else "RGB"
                image = image.convert(mode)
            if options.grey and mode not in ("L", "I;16", "I", "F"):
                image, mode = image.convert("L"), "L"
            if options.size is not None and image.size != options.size[::-1]:
                image = image.resize(options.size[::-1], Image.Resampling.BILINEAR)
            values = np.asarray(image)
    except ModuleError as error:
        raise DataError(str(error)) from None
    except FileNotFoundError:
        raise DataError(f"{location}: there is no such file any more; run the command again") from None
    except PermissionError:
        raise DataError(f"{location}: cannot be read (permission denied); correct the permissions") from None
    except Exception as error:  # of any package
        reason = printable_reason(error)
        if isinstance(error, UnidentifiedImageError):
            reason = f"none of {', '.join(_FORMATS)}"
        raise DataError(
            f"{location}: is damaged or no picture ({reason}); write it again, or take it out of the directory"
        ) from None
    if count > 1:
        raise DataError(f"{location}: holds {count} pictures; write each into a file of its own")
    if mode not in _MODES:
        raise DataError(f"{location}: is a picture of mode {mode}; save it as RGB, or set data.grey: true")
    return values, mode


def image_blocks(
    locations: Sequence[str], options: ImageOptions, *, dtype: str, row_shape: tuple[int, ...], mode: str, first: str
) -> Iterator[Array]:
    """Yield pictures in blocks (n, h, w, …), all of the dtype, shape and mode of the `first` file.

    Raises
    ------
    DataError
        For the first one that is damaged or differs.
    """
    size = max(1, _BLOCK_BYTES // (int(np.prod(row_shape)) * np.dtype(dtype).itemsize))
    for start in range(0, len(locations), size):
        taken = locations[start : start + size]
        block = np.empty((len(taken), *row_shape), dtype)
        for number, location in enumerate(taken):
            values, own = read_image(location, options)
            if (values.shape, own) != (row_shape, mode):
                raise DataError(
                    f"{location}: is {_describe(values.shape, own)}, but {first} is {_describe(row_shape, mode)}; give "
                    "pictures that are alike, or set data.image_size: [height, width] and data.grey: true"
                )
            block[number] = values
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise DataError(f"{location}: holds NaN or an infinity; write it again")
        yield block


def _describe(shape: tuple[int, ...], mode: str) -> str:
    return f"{shape[0]}×{shape[1]} of mode {mode}"
