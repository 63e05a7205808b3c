"""Faults and laws of evaluation and audio that need another process, a failing disk or the two packages together."""

import base64
import errno
import io
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import PIL.Image
import pytest

from physmodjax.audio import read_sound, render, resample, sound_bytes, write_sound
from physmodjax.core.spectra import stft_magnitude
from physmodjax.evaluation import (
    Known,
    RelativeError,
    error_curve,
    horizon_errors,
    measure_drift,
    partials,
    pitch_track,
    plots,
    trust_figures,
    trust_line,
)
from physmodjax.evaluation.report import Findings, Section, report_html, run_sections, write_report
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
        "waterfall": plots.waterfall(motion[:200], wrong[:200], 8000, plots.Labels(lengths=(0.65,))),
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


def decaying(rng, n_steps, rate, shape=()):
    "A random sum of damped partials, (T, *shape): at one point, on a line or on a plane."
    mu = np.arange(1, 7)
    s = -rng.uniform(0.5, 20) * (1 + 0.1 * mu**2) + 2j * np.pi * rng.uniform(90, 300) * mu
    t = np.arange(n_steps)[:, None] / rate
    modes = np.exp(s * t) * (rng.normal(size=6) + 1j * rng.normal(size=6)) / mu
    return np.real(np.tensordot(modes, rng.normal(size=(6, *shape)), 1))


@pytest.mark.parametrize("shape", [(), (1,), (11,), (5, 4)])
@pytest.mark.parametrize("seed", range(8))
def test_an_exact_decay_does_not_drift(seed, shape):
    "Over many strings, horizons and units; a truth that is the prediction is met to the last digit."
    rng = np.random.default_rng(seed)
    rate, n_train = 8000, int(rng.integers(50, 2000))
    motion = decaying(rng, 8000, rate, shape) * 10.0 ** rng.integers(-9, 6)
    split = RelativeError().add(0.9 * motion[None], motion[None])
    figures = trust_figures(motion, rate, n_train, Known(motion, split))
    assert figures["rise_db"] < 0.2 and figures["level_db"] < 0 and figures["offset"] < 0.01
    assert np.isnan(figures["cents"]) or abs(figures["cents"]) < 1
    assert figures["level_off_db"] == 0 and (np.isnan(figures["cents"]) or figures["cents_off"] == 0)
    assert figures["mse_rel_1x"] == pytest.approx(0.01) and ("mse_rel_4x" in figures) == (4 * n_train <= 8000)
    assert "level falls" in trust_line(figures)


@pytest.mark.parametrize("seed", range(8))
def test_growth_and_detuning_are_measured_as_they_were_made(seed):
    "g of exp(gt) as dB of level, a factor of the frequency as cents off the truth, a shift as a share of the rms."
    rng = np.random.default_rng(seed)
    rate, t = 8000, np.arange(12000) / 8000
    growth, frequency, cents = rng.uniform(0.2, 15), rng.uniform(100, 500), rng.uniform(-50, 50)
    swing = np.sin(2 * np.pi * frequency * t)
    drift = measure_drift(np.exp(growth * t) * swing, rate, 500)
    known = 20 * np.log10(np.e) * growth * (drift.times[-1] - drift.times[0])
    np.testing.assert_allclose([drift.rise_db, drift.level_db], known, atol=0.1)
    detuned = np.exp(-t) * np.sin(2 * np.pi * frequency * 2 ** (cents / 1200) * t)
    figures = trust_figures(2 * detuned, rate, 500, Known(np.exp(-t) * swing))
    assert abs(figures["cents_off"] - cents) < 0.5 and abs(figures["cents"]) < 0.5
    assert abs(figures["level_off_db"] - 20 * np.log10(2)) < 0.05
    shift = rng.uniform(0.1, 3)
    assert measure_drift(swing + shift * (t > 0.75), rate, 500).offset == pytest.approx(np.sqrt(2) * shift, rel=0.02)


@pytest.mark.parametrize("n_frames", [1, 2, 15, 16, 17, 100, 4000])
@pytest.mark.parametrize("kind", ["silence", "constant", "noise", "huge", "broken", "all nan", "tiny"])
def test_any_motion_gets_a_line_and_plain_numbers(n_frames, kind):
    rng = np.random.default_rng(n_frames)
    motion = {"silence": 0.0, "constant": 3.0, "tiny": 1e-300, "huge": 1e300, "all nan": np.nan}.get(kind, 1.0)
    motion = motion * (np.ones((n_frames, 3)) if kind in ("silence", "constant") else rng.normal(size=(n_frames, 3)))
    if kind == "broken":
        motion[n_frames // 2, 1] = np.inf
    with np.errstate(all="raise", under="ignore"):
        for n_train in (1, 16, 300, 10_000):
            figures = trust_figures(motion.astype(np.float64), 8000, n_train)
            assert all(type(value) is float for value in figures.values())
            assert "\n" not in trust_line(figures) and "the training horizon" in trust_line(figures)
            assert figures["finite_seconds"] == (0 if kind == "all nan" else (n_frames // 2 if kind == "broken" else
                                                                          n_frames)) / 8000


@pytest.mark.parametrize("kind", ["silence", "noise", "step", "other tone"])
def test_what_cannot_be_measured_is_left_out_of_the_line(kind):
    "A level is set against the truth wherever there are two, a pitch only where both sound."
    t = np.arange(2000) / 8000
    truth = np.exp(-2 * t) * np.sin(2 * np.pi * 200 * t)
    noise = np.random.default_rng(0).normal(size=2000)
    other = np.sin(2 * np.pi * 330 * t)
    motion = {"silence": 0 * t, "noise": noise, "step": 1.0 + (t > 0.1), "other tone": other}[kind]
    figures = trust_figures(motion, 8000, 200, Known(truth))
    assert "nan" not in trust_line(figures)
    one = figures | {"level_db": -1.0, "rise_db": 0.0, "level_off_db": 3.0, "cents_off": np.nan}
    assert "at the end +3 dB off the truth" in trust_line(one)
    assert "at the end +3 dB and -12 cents off the truth" in trust_line(one | {"cents_off": -12.0})


def test_horizon_errors_are_those_of_the_first_frames():
    rng = np.random.default_rng(0)
    target, prediction = rng.normal(size=(2, 5, 90, 3))
    mask = rng.random((5, 90)) < 0.7
    figures = horizon_errors(RelativeError().add(prediction, target, mask), 20, (1, 2, 4, 8))
    assert list(figures) == ["mse_rel_1x", "mse_rel_2x", "mse_rel_4x"]
    for k, value in zip((1, 2, 4), figures.values(), strict=True):
        seen = mask[:, : 20 * k, None]
        error, size = (np.where(seen, x[:, : 20 * k], 0) for x in (prediction - target, target))
        np.testing.assert_allclose(value, (error**2).sum() / (size**2).sum(), rtol=1e-12)


def test_the_spectrum_is_the_one_that_the_transform_says():
    "Against the sum over samples, window by window, for odd and even windows."
    signal = np.random.default_rng(0).normal(size=(2, 50))
    for n_fft, hop in ((8, 3), (9, 2), (50, 7)):
        n = np.arange(n_fft)
        window = np.sin(np.pi * n / n_fft) ** 2
        kernel = window * np.exp(-2j * np.pi * np.outer(np.arange(n_fft // 2 + 1), n) / n_fft) * 2 / window.sum()
        expected = [np.abs(kernel @ signal[:, j : j + n_fft].T).T for j in range(0, 50 - n_fft + 1, hop)]
        np.testing.assert_allclose(stft_magnitude(signal, n_fft, hop), np.stack(expected, 1), atol=1e-12)


@pytest.mark.parametrize("field, unit, size, shown, factor", [
    ("displacement", "m", 4e-3, "displacement (mm)", 1e3), ("displacement", "m", 7e-5, "displacement (µm)", 1e6),
    ("velocity", "m/s", 4.0, "velocity (m/s)", 1.0), ("velocity", "m/s", 0.4, "velocity (mm/s)", 1e3),
    ("pressure", "Pa", 2500.0, "pressure (kPa)", 1e-3), ("recording", "", 0.5, "recording", 1.0),
])
@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 12), (40, 6, 5), (40, 1, 1)])
def test_pictures_show_the_field_in_its_unit(field, unit, size, shown, factor, shape):
    "The numbers on the axis are the values times the prefix, with a truth and without."
    predicted = np.random.default_rng(0).uniform(-1, 1, shape)
    predicted *= size / np.abs(predicted).max()
    for true in (predicted, None):
        figure = plots.motion(true, predicted, 8000, plots.Labels(field, unit))
        axis = figure.axes[0] if np.prod(shape[1:]) == 1 else figure.axes[-1]
        assert axis.get_ylabel() == shown
        low, high = axis.get_ylim()
        assert 0.999 * size * factor <= high <= 1.15 * size * factor and low == -high
        panels = {1: 1, 12: 3, 30: 10}[int(np.prod(shape[1:]))] if true is not None else None
        assert panels is None or len(figure.axes) == panels + (np.prod(shape[1:]) > 1)


def test_axes_count_points_or_metres_and_compared_panels_share_them():
    motion = np.random.default_rng(0).normal(size=(30, 9))
    for lengths, label, end in (((), "position (point)", 8), ((0.65,), "position (m)", 0.65)):
        axes = plots.waterfall(motion, motion, 8000, plots.Labels(lengths=lengths)).axes[:3]
        assert axes[0].get_ylabel() == label and {ax.get_ylim() for ax in axes} == {(0.0, end)}
        assert len({ax.get_xlim() for ax in axes}) == 1 and axes[0].get_xlabel() == "time (ms)"
    figure = plots.spectrogram({"a": motion[:, 0].repeat(50), "b": motion[:, 1].repeat(50)}, 8000)
    assert len({ax.get_xlim() + ax.get_ylim() for ax in figure.axes[:2]}) == 1


def test_a_spectrogram_ends_where_the_sound_does():
    "A tone of the data's rate, resampled to audio rate: no band above the data's Nyquist, no time after its end."
    rng = np.random.default_rng(0)
    for rate, seconds in ((4000, 0.4), (8000, 0.25), (16000, 0.1)):
        n = round(seconds * rate)
        noise = rng.normal(size=n) * np.hanning(n)  # no jump: it would sound everywhere
        sound = np.concatenate([resample(noise, rate, 48000), np.zeros(12000)])
        ax = plots.spectrogram(sound, 48000).axes[0]
        assert 0.9 * rate / 2e3 < ax.get_ylim()[1] < 1.15 * rate / 2e3 and ax.get_xlim()[1] < seconds + 0.05


def test_every_picture_is_in_the_same_hand():
    "Width, resolution, type size and spines; and style() leaves no trace in the settings."
    before = dict(matplotlib.rcParams)
    motion, s = string(n_steps=600)
    lam = np.exp(s / 8000)
    figures = [plots.motion(motion, motion, 8000), plots.motion(None, motion[:, 3], 8000), plots.eigenvalues(lam, 8000),
               plots.spectrogram(motion[:, 3], 8000), plots.error_over_time(np.ones(9), 8000, 4),
               plots.learning_curve([{"step": 1, "loss": 0.1}]), plots.pitch_glide(motion[:, 3], 8000, 220.0),
               plots.mode_shapes(motion[:3]), plots.snapshots(None, motion.reshape(600, 31, 1).repeat(4, 2), 8000)]
    for figure in figures:
        assert figure.get_figwidth() == 7 and figure.dpi == 100
        for ax in figure.axes:
            texts = [ax.xaxis.label, ax.yaxis.label, ax.title, *ax.get_xticklabels(), *ax.get_yticklabels()]
            assert {text.get_fontsize() for text in texts} == {9.0}
    with plots.style():
        assert matplotlib.rcParams["figure.figsize"] == [7.0, 2.6] and matplotlib.rcParams["font.size"] == 9
    assert dict(matplotlib.rcParams) == before


def test_error_curves_leave_out_what_is_masked():
    "A frame that no trajectory counts has no error, NaN; any other has that of the trajectories that do."
    rng = np.random.default_rng(0)
    target, prediction = rng.normal(size=(2, 4, 50, 3))
    mask = rng.random((4, 50)) < 0.5
    mask[:, 20:23] = False
    prediction[~mask] = np.nan
    curve = error_curve(RelativeError().add(prediction, target, mask))["mse_rel"]
    assert np.array_equal(np.isnan(curve), ~mask.any(0))
    for frame in np.flatnonzero(mask.any(0)):
        p, y = prediction[mask[:, frame], frame], target[mask[:, frame], frame]
        np.testing.assert_allclose(curve[frame], ((p - y) ** 2).sum() / (y**2).sum(), rtol=1e-12)
    plots.error_over_time(curve, 8000)


@pytest.mark.parametrize("subject", ["string", "membrane", "bar", "recording"])
def test_a_report_speaks_of_its_own_object_and_of_what_there_is(subject):
    "Sounds of every kind are embedded byte for byte; a part that is missing leaves no heading."
    noise = np.random.default_rng(0).uniform(-1, 1, 800)
    sounds = {kind: sound_bytes(noise, 8000, kind) for kind in ("wav", "flac", "ogg")}
    page = report_html("run", run_sections(Findings(subject, {"mse_rel": 0.1}, sounds=sounds)))
    tree = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    assert [heading.text for heading in tree.findall(".//h2")] == ["Errors and speed", "Sound"]
    for (kind, data), element in zip(sounds.items(), tree.findall(".//figure"), strict=True):
        start, _, encoded = element.find("audio").get("src").partition(";base64,")
        assert start == f"data:audio/{kind}" and base64.b64decode(encoded) == data
        assert element.find("figcaption").text == f"{kind} {subject}"
    words = " ".join(tree.find("body").itertext())
    assert not any(other in words for other in {"string", "membrane", "bar", "recording"} - {subject})
