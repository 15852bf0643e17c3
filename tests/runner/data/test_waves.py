"""Wave files as rows: a frame each, a sequence for each file."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile
from scipy.signal import stft

from runner.config.sections import DataConfig
from runner.data.datasets import load
from runner.data.errors import DataError
from runner.data.sound import mel_filters
from runner.data.sources import load_new_rows
from runner.data.waves import WaveOptions, features

RATE = 8000


def _tone(path: Path, hertz: float, seconds: float = 0.5, rate: int = RATE, channels: int = 1) -> np.ndarray:
    samples = (12000 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.int16)
    wavfile.write(path, rate, samples if channels == 1 else np.stack([samples] * channels, axis=1))
    return samples


def test_frames_are_rows_and_files_are_sequences(tmp_path: Path) -> None:
    samples = _tone(tmp_path / "b.wav", 1000.0, 0.5)
    _tone(tmp_path / "a.wav", 300.0, 0.2, channels=2)
    data = load("files", observations=tmp_path)
    assert data.lengths.tolist() == [1 + (1600 - 200) // 80, 1 + (4000 - 200) // 80]  # in the order of their names
    assert data.observations.shape == (sum(data.lengths), 13)
    assert data.notes == ("2 sounds in frames of 0.025 s, every 0.01 s (mfcc)",)
    again = load("files", observations=[tmp_path / "b.wav"])
    assert np.array_equal(again.observations, data.observations[data.lengths[0] :])
    assert np.array_equal(again.observations, features(samples.astype(float), RATE, WaveOptions(), "b.wav"))


def test_the_log_spectrum_is_loudest_in_the_band_of_a_tone(tmp_path: Path) -> None:
    _tone(tmp_path / "x.wav", 1000.0)
    data = load("files", observations=tmp_path / "x.wav", waves=WaveOptions("log_spectrum"))
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 42) / 2595) - 1)
    loudest = data.observations.argmax(axis=1)
    assert ((edges[loudest] < 1000) & (edges[loudest + 2] > 1000)).all()


def test_the_log_spectrum_is_that_of_scipy_up_to_a_factor(tmp_path: Path) -> None:
    samples = _tone(tmp_path / "x.wav", 440.0) + np.random.default_rng(0).normal(scale=50.0, size=4000)
    power = np.abs(stft(samples, RATE, "hann", 200, 120, padded=False, boundary=None, scaling="spectrum")[2]) ** 2
    bands = 10 * np.log10(mel_filters(RATE, 200, 40) @ power)
    measured = features(samples, RATE, WaveOptions("log_spectrum"), "x")
    difference = measured - bands.T
    np.testing.assert_allclose(difference, np.broadcast_to(difference[0, 0], difference.shape), atol=1e-6)


def test_new_sounds_are_read_as_those_that_were_learnt_from(tmp_path: Path) -> None:
    _tone(tmp_path / "x.wav", 440.0)
    section = DataConfig.model_validate(
        {"source": "files", "observations": "y.wav", "sound": {"feature": "log_spectrum", "bands": 20, "hop": 0.02}}
    )
    data = load_new_rows({"data": section}, [str(tmp_path / "x.wav")])["data"]
    assert data.observations.shape == (1 + 3800 // 160, 20)


def test_sounds_that_cannot_be_rows_are_refused(tmp_path: Path) -> None:
    _tone(tmp_path / "x.wav", 440.0)
    _tone(tmp_path / "fast.wav", 440.0, rate=16000)
    _tone(tmp_path / "short.wav", 440.0, 0.01)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "x.wav").read_bytes()[:30])
    (tmp_path / "y.txt").write_text("1 2\n")
    for names, message in (
        (["x.wav", "fast.wav"], "fast.wav: has 16,000 samples a second"),
        (["short.wav"], "has 80 samples, fewer than a frame of 200"),
        (["cut.wav"], "cannot be read as a wave file"),
        (["x.wav", "y.txt"], "has wave files beside others"),
        (["gone.wav"], "there is no such file"),
    ):
        with pytest.raises(DataError, match=message):
            load("files", observations=[tmp_path / name for name in names])


def test_the_cepstrum_is_that_of_the_published_equations() -> None:
    """S. Davis and P. Mermelstein, 1980: spectrum, triangles on the mel scale, logarithm, cosines; each as written."""
    sound = np.random.default_rng(3).normal(size=500) * 1000.0
    size, hop, bands, kept = 200, 80, 12, 5
    measured = features(sound, RATE, WaveOptions("mfcc", 0.025, 0.01, bands, kept), "x")
    mel = [m * 2595 * np.log10(1 + RATE / 2 / 700) / (bands + 1) for m in range(bands + 2)]
    edge = [700 * (10 ** (m / 2595) - 1) for m in mel]
    assert measured.shape == (1 + (500 - size) // hop, kept)
    for t, cepstrum in enumerate(measured):
        window = [0.5 - 0.5 * np.cos(2 * np.pi * n / size) for n in range(size)]
        frame = sound[t * hop : t * hop + size] * window
        power = [
            abs(np.sum(frame * np.exp(-2j * np.pi * f * np.arange(size) / size))) ** 2 for f in range(size // 2 + 1)
        ]
        decibels = []
        for low, middle, high in zip(edge, edge[1:], edge[2:], strict=False):
            total = 0.0
            for f, value in enumerate(power):
                hertz = f * RATE / size
                if low < hertz < high:
                    side = (hertz - low) / (middle - low) if hertz <= middle else (high - hertz) / (high - middle)
                    total += value * side * 2 / (high - low)  # each triangle has the area one
            decibels.append(10 * np.log10(total))
        for c in range(kept):
            cosines = [np.cos(np.pi * c * (b + 0.5) / bands) for b in range(bands)]
            norm = np.sqrt((1.0 if c == 0 else 2.0) / bands)
            np.testing.assert_allclose(cepstrum[c], norm * np.dot(decibels, cosines), rtol=1e-9, atol=1e-9)
