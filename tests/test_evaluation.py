"""Faults and laws of evaluation and audio that need another process, a failing disk or the two packages together."""

import errno
import io
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import PIL.Image
import pytest

from physmodjax.audio import read_sound, render, resample, sound_bytes, write_sound
from physmodjax.evaluation import RelativeError, partials, pitch_track, plots
from physmodjax.evaluation.report import Section, write_report
from physmodjax.solvers import MYLAR_MEMBRANE, draw_shape, modal_system, simulate


def string(rate=8000, n_steps=4000):
    "A damped string of six modes: displacement (T, X), m, and its continuous eigenvalues, 1/s."
    mu = np.arange(1, 7)
    s = -(1 + 0.3 * mu**2) + 2j * np.pi * 220 * mu * np.sqrt(1 + 1e-3 * mu**2)
    t = np.arange(n_steps)[:, None] / rate
    return np.real(0.003 * np.exp(s * t) / mu) @ np.sin(np.pi * np.outer(mu, np.linspace(0, 1, 31))), s


WRITERS = {
    "wav": lambda path, value: write_sound(path, np.full(100, value), 8000),
    "flac": lambda path, value: write_sound(path, np.full(100, value), 8000),
    "ogg": lambda path, value: write_sound(path, np.full(100, value), 8000),
    "report": lambda path, value: write_report(path, f"run {value}", [Section("Settings", code="a: 1")]),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failing_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, kind, call):
    path = tmp_path / "run" / f"out.{kind}"
    WRITERS[kind](path, 0.25)
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        WRITERS[kind](path, 0.5)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("data", [b"", b"RIFF", b"no sound", b"RIFF\x24\0\0\0WAVEfmt ", b"fLaC", b"OggS" + bytes(60)])
def test_foreign_sound_is_refused_by_name(tmp_path, data, kind):
    path = tmp_path / f"foreign.{kind}"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"foreign\.{kind}: got .+, expected a sound file") as caught:
        read_sound(path)
    assert "\n" not in str(caught.value) and "BytesIO" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        read_sound(tmp_path / "absent.wav")


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_a_sound_that_was_cut_short_is_never_passed_off_as_a_shorter_one(tmp_path, kind):
    "Wherever it is cut; a WAV written to a pipe, whose header states no length, is whole."
    path = write_sound(tmp_path / f"noise.{kind}", np.random.default_rng(0).uniform(-0.5, 0.5, 40000), 44100)
    data = path.read_bytes()
    for cut in np.linspace(1, len(data) - 100, 30).astype(int):
        path.write_bytes(data[:cut])
        with pytest.raises(ValueError, match="expected a"):
            read_sound(path)
    if kind == "wav":
        path.write_bytes(data[:4] + b"\xff" * 4 + data[8:40] + b"\xff" * 4 + data[44:])
        assert len(read_sound(path)[0]) == 40000


@pytest.mark.parametrize("n_samples", [1, 2, 3, 997, 44101])
@pytest.mark.parametrize("channels", [None, 1, 2, 5])
@pytest.mark.parametrize("rate", [8000, 44100, 96000])
def test_sounds_of_any_length_come_back_to_half_a_step(tmp_path, n_samples, channels, rate):
    "Odd lengths in 24 bits, which fill no whole number of words, included; the ends of the range are exact."
    shape = (n_samples,) if channels is None else (n_samples, channels)
    signal = np.random.default_rng(n_samples).uniform(-1, 1, shape)
    signal.flat[0] = -1.0
    for suffix, bits in ((".wav", 16), (".wav", 24), (".wav", 32), (".flac", 16), (".flac", 24)):
        back, back_rate = read_sound(write_sound(tmp_path / f"a{suffix}", signal, rate, bits))
        step = 2.0**-23 if bits == 32 else 2.0 ** (1 - bits)
        assert back_rate == rate and back.shape == (signal[:, 0] if channels == 1 else signal).shape
        worst = np.abs(back.reshape(signal.shape) - np.clip(signal, -1, 1 - (0 if bits == 32 else step))).max()
        assert worst <= 0.5 * step * (1 + 1e-9)


def test_resampling_is_what_the_sum_over_the_filter_says():
    "Against the double sum of its formula, at rates whose ratio is no small fraction, over many lengths."
    rng = np.random.default_rng(3)
    for rate, new_rate in ((1000, 1470), (1000, 730), (441, 480), (3, 7), (48000, 44100)):
        for size in (1, 2, 40, 700):
            signal = rng.normal(size=size)
            cutoff = 0.98 * min(1, new_rate / rate)
            reach = int(np.ceil(128 / cutoff))
            reflected = min(size - 1, reach)
            longer = np.pad(signal, reflected, "reflect", reflect_type="odd") if reflected else signal
            longer = np.pad(longer, reach - reflected, "edge")
            tau = np.arange(round(size * new_rate / rate))[:, None] * rate / new_rate - np.arange(-reach, size + reach)
            taps = cutoff * np.sinc(cutoff * tau) * np.i0(10 * np.sqrt(np.maximum(1 - (tau / reach) ** 2, 0)))
            taps = taps * (np.abs(tau) <= reach) / np.i0(10)
            expected = taps @ longer / taps.sum(1)
            np.testing.assert_allclose(resample(signal, rate, new_rate), expected, atol=1e-9 * np.abs(longer).max())


def test_no_display_no_pyplot_no_scipy():
    code = (
        "import sys, numpy as np\n"
        "import physmodjax.audio, physmodjax.evaluation.report\n"
        "from physmodjax.evaluation import plots\n"
        "plots.figure_png(plots.spectrogram(np.random.default_rng(0).normal(size=4000), 8000))\n"
        "bad = {'matplotlib.pyplot', 'scipy', 'wandb', 'hydra'} & set(sys.modules)\n"
        "sys.exit(f'imported {bad}' if bad else 0)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_sums_keep_float64_precision_from_float32_data():
    "A float32 running sum would stall near 2**24 equal terms; here the relative error stays below 1e-12."
    rng = np.random.default_rng(0)
    target = rng.normal(size=(8, 500, 101, 1)).astype(np.float32)
    prediction = target + np.float32(1e-3) * rng.normal(size=target.shape).astype(np.float32)
    error = RelativeError()
    for i in range(8):
        error = error.add(prediction[i : i + 1], target[i : i + 1])
    y, p = target.astype(np.longdouble), prediction.astype(np.longdouble)
    np.testing.assert_allclose(error.result()["mse_rel"], float(((p - y) ** 2).sum() / (y**2).sum()), rtol=1e-12)


def test_infinite_predictions_are_reported_not_hidden():
    target = np.random.default_rng(1).normal(size=(2, 10, 5, 1))
    prediction = target.copy()
    prediction[0, 3, 2, 0] = np.inf
    result = RelativeError().add(prediction, target).result()
    assert not np.isfinite(result["mse_rel"]) and not np.isfinite(result["mae_rel"])


def test_rendered_string_keeps_its_eigenvalues():
    "Frequencies within half a cent and decays within 2 % survive pickup, resampling and a 16-bit file."
    motion, s = string()
    sound = render(motion, 8000, 0.13, audio_rate=44100)
    measured = partials(sound[500:-500], 44100, s.imag / (2 * np.pi))
    assert np.max(np.abs(1200 * np.log2(measured.imag / s.imag))) < 0.5
    np.testing.assert_allclose(measured.real, s.real, rtol=0.02)


def test_report_of_a_run_is_small_and_well_formed(tmp_path):
    motion, s = string()
    wrong = 0.9 * motion
    sound = render(motion, 8000, 0.13)
    figures = {
        "waterfall": plots.waterfall(motion[:200], wrong[:200], 8000, 0.65),
        "eigenvalues": plots.eigenvalues(np.exp(s / 8000), 8000),
        "spectrogram": plots.spectrogram(sound, 48000, s.imag / (2 * np.pi)),
        "glide": plots.pitch_glide({"true": motion[:, 4], "predicted": wrong[:, 4]}, 8000, 220.0),
    }
    sections = [Section("Run", figures=figures, sounds={"true": sound_bytes(sound, 48000)}, table={"mse_rel": 0.01})]
    page = write_report(tmp_path / "report.html", "string", sections).read_text(encoding="utf-8")
    assert len(page) < 2e6
    tree = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    assert len(tree.findall(".//img")) == 4 and len(tree.findall(".//audio")) == 1


@pytest.mark.parametrize("height, sharp, tolerance", [(0.002, 6.7, 0.03), (0.004, 26.7, 0.1)])
def test_a_hard_struck_membrane_is_as_sharp_as_its_averaged_tension_says(height, sharp, tolerance):
    "Pitch of the lowest of sixteen coupled modes, tracked in the signal, in cents."
    system = modal_system(MYLAR_MEMBRANE, (4, 4))
    options = dict(peak=(height, height), centre=(0.4, 0.4), narrowest=0.3, widest=0.3, aspect_ratio=0.9)
    q = system.to_modal(draw_shape("raised_cosine", np.random.default_rng(0), (25, 25), **options).shape)
    q, qdot = simulate(system, q, 0 * q, rate=8000, n_steps=2000)
    f1 = system.frequencies()[0]
    when, measured = pitch_track(q[:, 0], 8000, f1)
    window = np.hanning(int(np.ceil(8 * 8000 / f1)))
    expected = plots.expected_pitch(system.bank, system.coupling, q, qdot)
    expected = np.interp(when, np.arange(len(q)) / 8000, np.convolve(expected, window / window.sum(), "same"))
    inner = (when > 0.06) & (when < 0.19)
    assert abs(1200 * np.log2(measured[inner] / f1).mean() - sharp) < 0.3
    assert np.abs(1200 * np.log2(measured / expected))[inner].max() < tolerance


def test_any_motion_of_any_shape_becomes_an_animation_of_the_size_asked_for():
    "Random fields are the worst case for compression; frames that repeat must not be merged."
    rng = np.random.default_rng(2)
    for shape in ((12, 5), (7, 200), (9, 3, 3), (6, 50, 20)):
        for motion in (rng.normal(size=shape), np.zeros(shape), np.full(shape, np.nan)):
            data = plots.animation(motion, motion[::-1], width=200, aspect_ratio=0.5, max_bytes=100_000)
            assert len(data) <= 100_000 and PIL.Image.open(io.BytesIO(data)).n_frames == shape[0]
