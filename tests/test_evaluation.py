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

from physmodjax.audio import read_wav, render, wav_bytes, write_wav
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
    "wav": lambda path, value: write_wav(path, np.full(100, value), 8000),
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


@pytest.mark.parametrize("data", [b"", b"RIFF", b"not a sound", b"RIFF\x24\0\0\0WAVEfmt "])
def test_foreign_wav_is_refused_by_name(tmp_path, data):
    path = tmp_path / "foreign.wav"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"foreign\.wav: got .+, expected a PCM WAV file") as caught:
        read_wav(path)
    assert "\n" not in str(caught.value)


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
    sections = [Section("Run", figures=figures, sounds={"true": wav_bytes(sound, 48000)}, table={"mse_rel": 0.01})]
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
