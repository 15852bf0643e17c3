"""Wave files as observations: a row for each frame of the sound, a sequence for each file.

Frames are windowed (Hann), and their power is summed in triangular bands on the mel scale
(:func:`runner.data.sound.mel_filters`), in decibels; their cosine transform gives the cepstral coefficients of Davis &
Mermelstein (1980). Power 100 dB below the loudest band of a file counts as silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.limits import MAX_SOUND_BYTES, MAX_SOUND_VALUES, MAX_STORED_FILES
from actors.messaging.stored_rows import is_url
from actors.types import Array, FloatArray
from runner.data.errors import DataError
from runner.data.intake import Rows
from runner.data.readers import find_file
from runner.data.shards import kind_of
from runner.report.printable import printable_reason

_BLOCK_FRAMES = 4096


@dataclass(frozen=True)
class WaveOptions:
    """How frames of a sound become rows.

    Parameters
    ----------
    feature : {"mfcc", "log_spectrum"}
        Cepstral coefficients, or decibels of the bands.
    frame, hop : float
        Length of a frame and distance of two frames, in seconds.
    bands, coefficients : int
        Number of bands, and of cepstral coefficients, at most as many.
    """

    feature: str = "mfcc"
    frame: float = 0.025
    hop: float = 0.01
    bands: int = 40
    coefficients: int = 13


def find_waves(given: str | Path | Sequence[str | Path], root: str | Path) -> list[Path]:
    """Return the wave files that are given, or lie in the directory that is given, by name; empty for other files.

    Raises
    ------
    DataError
        If wave files are mixed with others, or one is missing.
    """
    single = Path(root) / given if isinstance(given, str | Path) and not is_url(str(given)) else None
    names: list[str | Path] = [given] if isinstance(given, str | Path) else [*given]
    if any(is_url(str(name)) for name in names):
        return []
    try:
        if single is not None and (folder := single.expanduser()).is_dir():
            inside = sorted(folder.iterdir())
            known = bool(kind_of(folder, root)) or any(file.suffix.lower() == ".npy" for file in inside)
            names = [] if known else [file for file in inside if file.suffix.lower() == ".wav"]
    except (OSError, ValueError, RuntimeError):
        return []  # what it is instead is said by find_file
    sounds = [name for name in names if Path(name).suffix.lower() == ".wav"]
    if not sounds:
        return []
    if len(sounds) < len(names):
        raise DataError("data.observations: has wave files beside others; give one kind")
    if len(sounds) > MAX_STORED_FILES:
        raise DataError(f"data.observations: are {len(sounds):,} files, at most {MAX_STORED_FILES:,} are read")
    return [find_file(name, root) for name in sounds]


def read_waves(files: Sequence[Path], options: WaveOptions) -> Rows:
    """Return the frames of wave files, in their order, a sequence for each.

    Raises
    ------
    DataError
        If a file cannot be read or is too short for a frame, or files differ in their sampling rate.
    """
    parts: list[FloatArray] = []
    first, total = 0, 0
    for file in files:
        rate, samples = _read(file)
        first = first or rate
        if rate != first:
            raise DataError(f"{file}: has {rate:,} samples a second, {files[0]} has {first:,}; resample one of them")
        total += int(len(samples) / max(1, round(options.hop * rate))) * options.bands
        if total > MAX_SOUND_VALUES:
            raise DataError(f"{file}: the sounds have more than {MAX_SOUND_VALUES:,} values; use a longer hop, or less")
        parts.append(features(samples, rate, options, str(file)))
    count = f"{len(files):,} sounds" if len(files) > 1 else "1 sound"
    note = f"{count} in frames of {options.frame:g} s, every {options.hop:g} s ({options.feature})"
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    return Rows(np.concatenate(parts), None, (note,), lengths)


def features(samples: FloatArray, rate: int, options: WaveOptions, where: str) -> FloatArray:
    """Return the features (T, D) of the frames of a sound (samples,), of which none is cut off."""
    from scipy.fft import dct, rfft  # slow to import

    from runner.data.sound import FLOOR, mel_filters

    size, hop = round(options.frame * rate), max(1, round(options.hop * rate))
    if len(samples) < size or size < 2:
        raise DataError(f"{where}: has {len(samples):,} samples, fewer than a frame of {size:,}; use shorter frames")
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]
    window, filters = np.hanning(size + 1)[:-1], mel_filters(rate, size, options.bands).T
    blocks = (frames[start : start + _BLOCK_FRAMES] * window for start in range(0, len(frames), _BLOCK_FRAMES))
    bands = np.concatenate([np.abs(rfft(block, axis=1)) ** 2 @ filters for block in blocks])
    silence = FLOOR * max(float(bands.max()), np.finfo(np.float64).tiny)
    decibels: FloatArray = 10.0 * np.log10(np.maximum(bands, silence))
    if options.feature == "log_spectrum":
        return decibels
    coefficients: FloatArray = dct(decibels, type=2, norm="ortho", axis=1)[:, : options.coefficients]
    return coefficients


def _read(file: Path) -> tuple[int, FloatArray]:
    """Return the sampling rate of a wave file, and the mean of its channels."""
    from scipy.io import wavfile  # slow to import

    if file.stat().st_size > MAX_SOUND_BYTES:
        raise DataError(f"{file}: has more than {MAX_SOUND_BYTES >> 20} MB; cut it into shorter files")
    try:
        rate, samples = wavfile.read(file)
    except Exception as error:  # of a damaged file, any
        raise DataError(f"{file}: cannot be read as a wave file ({printable_reason(error)}); write it again") from error
    values: Array = np.asarray(samples, dtype=np.float64)
    values = values.mean(axis=1) if values.ndim == 2 else values
    if rate < 1 or len(values) == 0 or not np.isfinite(values).all():
        raise DataError(f"{file}: has no samples, or some that are not finite; write it again")
    return int(rate), values
