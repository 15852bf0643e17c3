"""Histograms of acoustic co-occurrences (HAC) of sound files.

H. Van hamme, "HAC-models: a novel approach to continuous speech recognition", Interspeech 2008. Frames of the sound are
described by mel-frequency cepstral coefficients, their first and their second differences over time. Each of these
three streams is quantised by a codebook (k-means over the frames of all files), and the histogram counts how often
codeword a is followed by codeword b after a lag.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.cluster.vq import vq
from scipy.fft import dct, rfft
from scipy.io import wavfile

from actors.limits import MAX_SOUND_BYTES
from actors.types import FloatArray, IntArray
from runner.data.errors import DataError

FLOOR = 1e-10
"""Share of the loudest power of a file below which power counts as silence (100 dB)."""


class SpectrumOptions(NamedTuple):
    """Options of :func:`cepstrum`, as the toolkits and librosa name them.

    Attributes
    ----------
    n_mfcc : int
        Number of coefficients.
    n_fft, hop_length : int
        Length of a frame and distance of two frames, in samples.
    n_mels : int
        Number of bands of the mel scale.
    """

    n_mfcc: int = 13
    n_fft: int = 2048
    hop_length: int = 512
    n_mels: int = 128


def sound_histograms(
    files: Sequence[str | Path],
    codewords: Sequence[int],
    lags: Sequence[int] = (5, 2),
    options: SpectrumOptions | None = None,
    seed: int = 0,
) -> FloatArray:
    """Return the histogram of acoustic co-occurrences of each sound file.

    Parameters
    ----------
    files : sequence of str or Path
        Wave files.
    codewords : sequence of int, length 3
        Size of the codebook of each stream.
    lags : sequence of int
        Numbers of frames, at least 1; the histograms of all lags are concatenated.
    options : SpectrumOptions, optional
    seed : int
        Seed of the codebooks.

    Returns
    -------
    ndarray of float64, shape (len(files), len(lags) Σ codewords²)

    Raises
    ------
    DataError
        If a file cannot be read, or is too short for the lags.
    """
    options = options or SpectrumOptions()
    _check_options(files, codewords, lags, options)
    streams = [_streams(Path(file), options) for file in files]
    short = next((file for file, own in zip(files, streams, strict=True) if len(own[0]) <= max(lags)), None)
    if short is not None:
        raise DataError(
            f"{short}: is too short for a lag of {max(lags)} frames of {options.hop_length} samples; give shorter lags "
            "or a smaller hop_length"
        )
    columns = []
    for index, count in enumerate(codewords):
        codebook = _codebook(np.concatenate([own[index] for own in streams]), count, seed + index)
        codes = [vq(own[index], codebook)[0] for own in streams]
        columns += [np.stack([co_occurrences(own, count, lag) for own in codes]) for lag in lags]
    histograms: FloatArray = np.concatenate(columns, axis=1).astype(np.float64)
    return histograms


def co_occurrences(codes: IntArray, count: int, lag: int) -> IntArray:
    """Count how often codeword b follows a after `lag` frames: entry a · count + b of (count²,)."""
    counts: IntArray = np.bincount(codes[:-lag].astype(np.int64) * count + codes[lag:], minlength=count**2)
    return counts


def cepstrum(samples: FloatArray, rate: int, options: SpectrumOptions) -> FloatArray:
    """Return the mel-frequency cepstral coefficients (frames, n_mfcc) of `samples` (T,).

    The cosine transform (orthonormal, type II) of the decibels of the mel bands' power, of Hann-windowed frames
    (S. Davis, P. Mermelstein, "Comparison of parametric representations for monosyllabic word recognition", 1980).
    """
    padded = np.pad(samples, options.n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, options.n_fft)[:: options.hop_length]
    window = np.hanning(options.n_fft + 1)[:-1]
    power = np.abs(rfft(frames * window, axis=1)) ** 2
    bands = power @ mel_filters(rate, options.n_fft, options.n_mels).T
    decibels = 10.0 * np.log10(np.maximum(bands, FLOOR * max(float(bands.max()), np.finfo(np.float64).tiny)))
    coefficients: FloatArray = dct(decibels, type=2, norm="ortho", axis=1)[:, : options.n_mfcc]
    return coefficients


def mel_filters(rate: int, n_fft: int, n_mels: int) -> FloatArray:
    """Return triangular filters (n_mels, n_fft // 2 + 1), equally spaced on the mel scale, each of area one.

    mel(f) = 2595 log10(1 + f / 700) (D. O'Shaughnessy, "Speech Communication", 1987).
    """
    top = 2595.0 * np.log10(1.0 + rate / 2.0 / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(0.0, top, n_mels + 2) / 2595.0) - 1.0)
    frequencies = np.arange(n_fft // 2 + 1) * rate / n_fft
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    filters: FloatArray = np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (high - low)
    return filters


def _streams(file: Path, options: SpectrumOptions) -> list[FloatArray]:
    """Return the cepstral coefficients of a file, and their first and second differences over time."""
    try:
        if file.stat().st_size > MAX_SOUND_BYTES:
            raise DataError(f"{file}: has more than {MAX_SOUND_BYTES >> 20} MB; cut it into shorter files")
        rate, samples = wavfile.read(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{file}: cannot be read as a wave file ({error})") from error
    values = np.asarray(samples, dtype=np.float64)
    values = values.mean(axis=1) if values.ndim == 2 else values
    if len(values) == 0 or not np.isfinite(values).all():
        raise DataError(f"{file}: has no samples, or some that are not finite")
    static = cepstrum(values, rate, options)
    first = np.gradient(static, axis=0) if len(static) > 1 else np.zeros_like(static)
    second = np.gradient(first, axis=0) if len(static) > 1 else np.zeros_like(static)
    return [static, first, second]


def _codebook(frames: FloatArray, count: int, seed: int) -> FloatArray:
    """Return `count` centres (count, D) of the frames (M, D), by k-means."""
    from sklearn.cluster import KMeans  # slow to import, and only needed for sound

    if len(np.unique(frames, axis=0)) < count:
        raise DataError(f"the sounds have fewer different frames than the {count} codewords; give smaller codebooks")
    centres: FloatArray = KMeans(count, n_init=4, random_state=seed).fit(frames).cluster_centers_
    return centres


def _check_options(
    files: Sequence[str | Path], codewords: Sequence[int], lags: Sequence[int], options: SpectrumOptions
) -> None:
    if isinstance(files, str | Path) or len(files) == 0:
        raise DataError("sound files: give a list of at least one file")
    for what, values in (("ks", codewords), ("lags", lags), ("the spectrum's options", options)):
        if len(values) == 0 or not all(isinstance(v, int | np.integer) and v >= 1 for v in values):
            raise DataError(f"{what} {values!r}: give positive integers")
    if len(codewords) != 3:
        raise DataError(f"ks {list(codewords)!r}: give three codebook sizes, of the coefficients and their differences")
