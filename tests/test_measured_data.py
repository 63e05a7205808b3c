"Data that others recorded: every format they come in, and one line for everything that is wrong with them."

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile

import h5py
import numpy as np
import pytest
import soundfile
import yaml

from physmodjax.datasets import Dataset, DatasetError, DatasetSpec, LoaderOptions, TrajectoryFiles, split_headers
from physmodjax.datasets import format as fmt
from physmodjax.datasets import generate as generation
from physmodjax.datasets import loader as loading
from physmodjax.datasets.format import SPLITS, read_header, read_trajectories, write_trajectories
from physmodjax.datasets.importers import divide, readings

RATE, N, T, X, Y = 2000.0, 10, 60, 7, 6


def motion(n=N, n_steps=T, grid=(X,), seed=0):
    "(n, T, *grid) float32, no two numbers alike."
    return (1e-3 * np.random.default_rng(seed).normal(size=(n, n_steps, *grid))).astype(np.float32)


def well(path, u, *, times=None, name="displacement", groups=(), dtype=None, **attributes):
    "A file in The Well's format as another program would write it: without scalars, boundaries or checksums."
    n, n_steps, *grid = u.shape
    axes = "xy"[: len(grid)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        facts = {"dataset_name": "lab", "grid_type": "cartesian", "n_spatial_dims": len(grid), "n_trajectories": n}
        file.attrs.update(facts | attributes)
        dims = file.create_group("dimensions")
        dims.attrs["spatial_dims"] = list(axes)
        dims["time"] = np.arange(n_steps, dtype=np.float32) / np.float32(RATE) if times is None else times
        for axis, points in zip(axes, grid, strict=True):
            dims[axis] = np.linspace(0, 1, points, dtype=np.float32)
        for order in range(3):
            file.create_group(f"t{order}_fields").attrs["field_names"] = [name] if order == 0 else []
        file["t0_fields"][name] = u if dtype is None else u.astype(dtype)
    return path


def refused(words, call):
    "Asserts that it is refused in one line that has these words, and quickly."
    began = time.perf_counter()
    with pytest.raises(ValueError) as info:
        call()
    message = str(info.value)
    assert "\n" not in message and time.perf_counter() - began < 5
    for word in words:
        assert re.search(word, message), message
    return message


def frames(data):
    return np.concatenate([np.asarray(data.splits[split]) for split in SPLITS])


# ---- formats


def _npz(path, u):
    np.savez(path / "a.npz", displacement=u, rate=RATE, x=np.linspace(0, 1, X))
    return "a.npz", {}


def _npz_time(path, u):
    np.savez_compressed(path / "a.npz", displacement=u.astype(np.float64), time=np.arange(T) / RATE, peak=np.arange(N))
    return "a.npz", {}


def _npz_channels(path, u):
    np.savez(path / "a.npz", u=u[..., None], fs=np.array([RATE]))
    return "a.npz", {"fields": ["displacement"], "axes": ["x"]}


def _npy(path, u):
    np.save(path / "a.npy", u)
    return "a.npy", {"rate": RATE, "fields": "displacement"}


def _fortran(path, u):
    np.save(path / "a.npy", np.asfortranarray(u))
    return "a.npy", {"rate": RATE}


def _well_file(path, u):
    well(path / "a.hdf5", u)
    return "a.hdf5", {}


def _well_float64(path, u):
    well(path / "a.h5", u, dtype=np.float64)
    return "a.h5", {}


def _plain_hdf5(path, u):
    with h5py.File(path / "a.h5", "w") as file:
        file["displacement"], file["time"] = u, np.arange(T) / RATE
        file["displacement"].attrs["units"] = "m"
    return "a.h5", {}


def _grouped_hdf5(path, u):
    with h5py.File(path / "a.hdf5", "w") as file:
        file.attrs["sample_rate"] = RATE
        file.create_dataset("lab/run/displacement", data=u, compression="gzip", chunks=(1, 20, X))
        file["lab/comment"] = "Tuesday"
    return "a.hdf5", {}


def _well_folder(path, u):
    for split, part in zip(SPLITS, (u[:8], u[8:9], u[9:]), strict=True):
        for k in range(0, len(part), 3):
            well(path / f"set/data/{split}/{k:03d}.hdf5", part[k : k + 3])
    return "set", {}


def _data_folder(path, u):
    _well_folder(path, u)
    return "set/data", {}


FORMATS = {f.__name__.lstrip("_"): f for f in (
    _npz, _npz_time, _npz_channels, _npy, _fortran, _well_file, _well_float64, _plain_hdf5, _grouped_hdf5, _well_folder,
    _data_folder,
)}  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_frames(tmp_path, kind):
    u = motion()
    name, facts = FORMATS[kind](tmp_path, u)
    data = Dataset.open(tmp_path / name, **facts)
    assert frames(data).dtype == np.float32 and data.rate == RATE and data.grid == (X,)
    np.testing.assert_array_equal(frames(data)[..., 0], u)
    assert [len(data.splits[split]) for split in SPLITS] == [8, 1, 1]
    assert data.scene is None and data.channels == 1
    train = u[:8].astype(np.float64)
    scale = [data.normaliser.mean[0], data.normaliser.std[0]]
    np.testing.assert_allclose(scale, [train.mean(), train.std()], rtol=1e-5)
    batch = data.loader(LoaderOptions(batch_size=4, context=2)).batch_at(0)
    assert batch.context.shape == (4, 2, X, 1) and batch.target.shape == (4, T - 2, X, 1)
    again = Dataset.open(tmp_path / name, **facts)
    np.testing.assert_array_equal(frames(again), frames(data))


@pytest.mark.parametrize("form, subtype", [("WAV", "FLOAT"), ("WAV", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS")])
@pytest.mark.parametrize("pickups", [1, 3])
def test_sounds(tmp_path, form, subtype, pickups):
    t = np.arange(8000) / 8000
    signal = 0.5 * np.exp(-4 * t)[:, None] * np.sin(2 * np.pi * 200 * t[:, None] + np.arange(pickups))
    path = tmp_path / f"pluck.{form.lower()}"
    soundfile.write(path, signal, 8000, format=form, subtype=subtype)
    data = Dataset.open(path)
    assert data.rate == 8000 and data.grid == (pickups,) and data.channels == 1 and data.names == ("signal",)
    joined = np.concatenate([data.splits[split][0] for split in SPLITS])[..., 0]
    assert np.abs(joined - signal).max() < (0.05 if form == "OGG" else 1e-4)
    assert data.splits["test"].shape[1] >= 2
    loader = data.loader(LoaderOptions(batch_size=8, context=16))
    assert len({tuple(map(int, loader.items_at(k))) for k in range(4)}) == 4  # enough windows for different batches
    if pickups > 1:
        named = Dataset.open(path, fields=["a", "b", "c"])
        assert named.grid == (1,) and named.channels == 3
        refused(["fields", "got", "expected"], lambda: Dataset.open(path, fields=["a", "b"]))


@pytest.mark.parametrize(
    "shape, facts, grid, channels, n",
    [
        ((60, 21), {}, (21,), 1, 1),
        ((9, 60, 21), {}, (21,), 1, 9),
        ((9, 60, 21, 19), {}, (21, 19), 1, 9),
        ((60, 21, 19), {"axes": ["x", "y"]}, (21, 19), 1, 1),
        ((9, 60, 21, 2), {"axes": ["x"]}, None, None, None),
        ((9, 60, 21, 2), {"axes": ["x"], "fields": ["u", "v"]}, (21,), 2, 9),
        ((9, 60, 21, 2), {"axes": ["x", "y"]}, (21, 2), 1, 9),
        ((9, 60, 21, 2), {}, None, None, None),
        ((60, 21, 3), {"fields": ["u", "v", "w"]}, (21,), 3, 1),
        ((9, 60, 21, 19, 2), {}, (21, 19), 2, 9),
        ((9, 60, 21, 19, 2), {"fields": ["u", "v"]}, (21, 19), 2, 9),
        ((9, 60), {"axes": []}, (1,), 1, 9),
        ((400,), {}, (1,), 1, 1),
        ((9, 60, 2), {"axes": [], "fields": ["u", "v"]}, (1,), 2, 9),
        ((9, 60, 21), {"axes": {"x": np.linspace(0, 0.65, 21)}}, (21,), 1, 9),
    ],
)
def test_axes_are_told_apart_or_asked_for(tmp_path, shape, facts, grid, channels, n):
    u = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.save(tmp_path / "a.npy", u)
    if grid is None:
        if "axes" in facts:
            facts = {"axes": ["x"], "fields": ["u", "v", "w"]}  # no axis has three entries
        words = ["shape", "got", "expected", "axes=", "fields="]
        refused(words, lambda: Dataset.open(tmp_path / "a.npy", rate=1e3, **facts))
        return
    data = Dataset.open(tmp_path / "a.npy", rate=1e3, **facts)
    assert data.grid == grid and data.channels == channels
    whole = [np.asarray(data.splits[split]) for split in SPLITS]
    joined = np.concatenate(whole, axis=0 if n >= 3 else 1)
    np.testing.assert_array_equal(joined.ravel(), u.ravel())
    assert len(data.axes) == len(grid)


def test_readings_are_the_usual_ones():
    assert [str(r) for r in readings((24, 200, 51))] == ["(N, T, X)"]
    assert [str(r) for r in readings((24, 200, 51, 2))] == ["(N, T, X, C)", "(N, T, X, Y)"]


def test_units_names_and_scalars():
    u = motion()
    plain = Dataset.from_arrays({"displacement": u, "velocity": 9 * u, "peak": np.arange(N)}, rate=RATE)
    assert plain.fields == (("displacement", "m"), ("velocity", "m/s"))
    np.testing.assert_array_equal(plain.scalars["train"]["peak"], np.arange(8))
    np.testing.assert_array_equal(frames(plain), np.stack([u, 9 * u], axis=-1))
    names, held = ["force", "pressure"], {"pressure": u, "force": 2 * u}
    said = Dataset.from_arrays(held, rate=RATE, unit={"pressure": "Pa"}, fields=names)
    assert said.fields == (("force", ""), ("pressure", "Pa"))
    np.testing.assert_array_equal(frames(said)[..., 0], 2 * u)
    assert Dataset.from_arrays(u, rate=RATE, unit="mm", name="lab").fields[0].unit == "mm"


def test_splits_given_as_arrays():
    u = motion()
    data = Dataset.from_arrays({"train": u[:6], "valid": u[6:8], "test": u[8:]}, rate=RATE, fields=["displacement"])
    assert [len(data.splits[split]) for split in SPLITS] == [6, 2, 2]
    refused(["grid", "splits"], lambda: Dataset.from_arrays({"train": u, "valid": u[..., :-1], "test": u}, rate=RATE))


def test_frames_of_the_well_that_vary_over_less(tmp_path):
    "A field the same for all trajectories, times or places, a vector, a constant scalar."
    path, u = well(tmp_path / "a.hdf5", motion(grid=(X, Y))), motion(grid=(X, Y))
    with h5py.File(path, "r+") as file:
        group = file["t0_fields"]
        group.attrs["field_names"] = ["displacement", "depth", "drive"]
        group["depth"] = u[0, 0]
        group["depth"].attrs.update(sample_varying=False, time_varying=False)
        group["drive"] = u[:, :, 0, 0]
        group["drive"].attrs["dim_varying"] = [False, False]
        file["t1_fields"].attrs["field_names"] = ["velocity"]
        file["t1_fields/velocity"] = np.stack([u, 2 * u], axis=-1)
        file.create_group("scalars").attrs["field_names"] = ["tension"]
        file["scalars/tension"] = 3.0
    header = read_header(path)
    assert header.fields == ("displacement", "depth", "drive", "velocity_x", "velocity_y")
    names = ("depth", "drive", "velocity_y")
    got = read_trajectories(path, names, slice(2, 5), slice(10, 30))
    expected = [np.broadcast_to(u[0, 0], got.shape[:-1]), np.broadcast_to(u[2:5, 10:30, :1, :1], got.shape[:-1])]
    np.testing.assert_array_equal(got, np.stack([*expected, 2 * u[2:5, 10:30]], axis=-1))
    np.testing.assert_array_equal(read_trajectories(path, names, 3, slice(10, 30)), got[1])
    data = Dataset.open(path, fields=["velocity_x"])
    np.testing.assert_array_equal(frames(data)[..., 0], u)
    assert (data.scalars["train"]["tension"] == 3).all()


def test_padding_is_masked_and_leaves_no_trace():
    u, lengths = motion(), np.array([60, 30, 60, 5, 60, 60, 60, 60, 40, 60])
    padded = u.copy()
    for index, length in enumerate(lengths):
        padded[index, length:] = 1e3
    data = Dataset.from_arrays({"displacement": padded}, rate=RATE, lengths=lengths)
    real = np.concatenate([u[k, :length].ravel() for k, length in enumerate(lengths[:8])])
    np.testing.assert_allclose(data.normaliser.std, real.std(), rtol=1e-4)
    batches = list(data.ordered("train", 4, context=2))
    masks = np.concatenate([batch.mask for batch in batches])
    np.testing.assert_array_equal(masks.sum(axis=1), lengths[:8] - 2)
    target = np.concatenate([batch.target for batch in batches])
    assert np.abs(target[masks == 1]).max() < 10
    loader = data.loader(LoaderOptions(batch_size=4, context=2, window_length=10))
    served = np.concatenate([loader.batch_at(k).mask.sum(axis=1) for k in range(loader.steps_per_epoch)])
    assert (served > 0).all()


def test_one_recording_is_divided_in_time_without_leakage():
    u = motion(n=1, n_steps=1000)
    data = Dataset.from_arrays({"displacement": u}, rate=RATE, splits=(0.6, 0.2, 0.2))
    assert [data.splits[split].shape[1] for split in SPLITS] == [600, 200, 200]
    joined = np.concatenate([data.splits[split] for split in SPLITS], axis=1)
    np.testing.assert_array_equal(joined[..., 0], u)


@pytest.mark.parametrize("n, n_steps", [(3, 10), (7, 10), (100, 10), (1, 20), (2, 6), (1000, 4)])
def test_divisions_lose_nothing(n, n_steps):
    parts = divide("x", n, n_steps, (0.8, 0.1, 0.1))
    pairs = [(i, k) for which, when in parts.values() for i in which for k in when]
    assert len(pairs) == len(set(pairs)) == n * n_steps
    assert all(len(which) and len(when) for which, when in parts.values())


def test_large_splits_are_read_window_by_window(tmp_path, monkeypatch):
    u = motion()
    name, _ = _well_folder(tmp_path, u)
    small = Dataset.open(tmp_path / name)
    monkeypatch.setattr("physmodjax.datasets.dataset._IN_MEMORY", 1.0)
    large = Dataset.open(tmp_path / name)
    assert isinstance(large.splits["train"], TrajectoryFiles)
    np.testing.assert_array_equal(large.normaliser.std, small.normaliser.std)
    np.testing.assert_array_equal(large.normalised("train", 3), small.normalised("train", 3))
    one = Dataset.open(well(tmp_path / "one.hdf5", u))
    np.testing.assert_array_equal(one.normalised("test"), one.normaliser.normalise(u[9:, ..., None]))


# ---- what is refused


def _nan(value):
    u = motion()
    u[3, 17, 2] = value
    return u


ARRAYS = {
    "no rate": (motion(), {}, ["rate: got none", "say rate="]),
    "negative rate": (motion(), {"rate": -1}, ["rate", "above 0"]),
    "text for a rate": (motion(), {"rate": "fast"}, ["rate", "fast"]),
    "complex rate": (motion(), {"rate": 1j}, ["rate"]),
    "NaN": (_nan(np.nan), {"rate": RATE}, ["a.npy", "trajectory 3", "sample 17"]),
    "infinity": (_nan(np.inf), {"rate": RATE}, ["a.npy", "trajectory 3", "sample 17"]),
    "beyond float32": (_nan(0).astype(np.float64) * 1e300 + 1e300, {"rate": RATE}, ["not finite"]),
    "empty": (np.zeros((0, 60, 7), np.float32), {"rate": RATE}, ["empty"]),
    "no frames": (np.zeros((10, 0, 7), np.float32), {"rate": RATE}, ["empty"]),
    "one frame": (motion(n_steps=1), {"rate": RATE}, ["frames", "at least 2"]),
    "text": (np.array(["a", "b"]), {"rate": RATE}, ["text", "real numbers"]),
    "complex": (motion().astype(complex), {"rate": RATE}, ["complex", "real part"]),
    "a number": (np.float32(3), {"rate": RATE}, ["expected"]),
    "six axes": (np.zeros((2,) * 6, np.float32), {"rate": RATE}, ["shape", "axes="]),
    "constant": (np.ones((10, 60, 7), np.float32), {"rate": RATE}, ["vary", "1 everywhere"]),
    "too short to divide": (motion(n=1, n_steps=5), {"rate": RATE}, ["at least 2 frames", "splits"]),
    "wrong coordinates": (motion(), {"rate": RATE, "axes": {"x": np.arange(5)}}, ["axes"]),
    "coordinates out of order": (motion(), {"rate": RATE, "axes": {"x": np.zeros(7)}}, ["axis x", "increasing"]),
    "three axes": (motion(), {"rate": RATE, "axes": ["x", "y", "z"]}, ["axes", "two"]),
    "unknown word": (motion(), {"rates": RATE}, ["did you mean rate"]),
    "doubled fields": (motion(), {"rate": RATE, "fields": ["u", "u"]}, ["fields", "once"]),
    "two units": (motion(), {"rate": RATE, "unit": ["m", "s"]}, ["unit"]),
    "splits": (motion(), {"rate": RATE, "splits": (0.5, 0.5, 0.5)}, ["splits", "add up to 1"]),
    "lengths": (motion(), {"rate": RATE, "lengths": [100] * N}, ["lengths", "1 to 60"]),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_bad_arrays_are_refused_in_one_line(tmp_path, case):
    array, facts, words = ARRAYS[case]
    np.save(tmp_path / "a.npy", array)
    refused(words, lambda: Dataset.open(tmp_path / "a.npy", **facts))


def _pickle(path):
    np.save(path / "a.npy", np.array([{}], object), allow_pickle=True)
    return "a.npy"


def _pickle_inside(path):
    with zipfile.ZipFile(path / "a.npz", "w") as archive:
        stream = io.BytesIO()
        np.save(stream, np.array([[{}]], object), allow_pickle=True)
        archive.writestr("displacement.npy", stream.getvalue())
    return "a.npz"


def _declared(path):
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 1000, 100)}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def _npy_declares(path):
    (path / "a.npy").write_bytes(_declared(path) + b"0" * 100)
    return "a.npy"


def _npz_declares(path):
    with zipfile.ZipFile(path / "a.npz", "w") as archive:
        archive.writestr("displacement.npy", _declared(path) + b"0" * 100)
    return "a.npz"


def _no_arrays(path):
    np.savez(path / "a.npz", name="Tuesday")
    return "a.npz"


def _nothing(path):
    np.savez(path / "a.npz")
    return "a.npz"


def _jitter(path):
    times = np.arange(T) / RATE
    times[20:] += 0.4 / RATE
    np.savez(path / "a.npz", displacement=motion(), time=times)
    return "a.npz"


def _backwards(path):
    np.savez(path / "a.npz", displacement=motion(), time=-np.arange(T) / RATE)
    return "a.npz"


def _fewer_times(path):
    np.savez(path / "a.npz", displacement=motion(), time=np.arange(T - 1) / RATE)
    return "a.npz"


def _unlike(path):
    np.savez(path / "a.npz", displacement=motion(), velocity=motion(n_steps=T - 1), rate=RATE)
    return "a.npz"


def _cut(path):
    np.savez(path / "a.npz", displacement=motion(), rate=RATE)
    (path / "a.npz").write_bytes((path / "a.npz").read_bytes()[:-300])
    return "a.npz"


def _flipped(path):
    np.savez(path / "a.npz", displacement=motion(), rate=RATE)
    content = bytearray((path / "a.npz").read_bytes())
    content[5000] ^= 1
    (path / "a.npz").write_bytes(content)
    return "a.npz"


def _text(suffix):
    def write(path):
        (path / f"a{suffix}").write_text("time,displacement\n0,0.001\n")
        return f"a{suffix}"

    return write


def _silence(path):
    soundfile.write(path / "a.wav", np.zeros((0, 1)), 8000)
    return "a.wav"


def _sound_with_nan(path):
    soundfile.write(path / "a.wav", np.full(1000, np.nan), 8000, subtype="FLOAT")
    return "a.wav"


def _well_jitter(path):
    return well(path / "a.hdf5", motion(), times=np.cumsum(1 + np.arange(T) % 3) / RATE).name


def _well_without_fields(path):
    well(path / "a.hdf5", motion())
    with h5py.File(path / "a.hdf5", "r+") as file:
        file["t0_fields"].attrs["field_names"] = []
    return "a.hdf5"


def _half_a_folder(path):
    well(path / "set/data/train/0.hdf5", motion())
    return "set"


def _other_grid(path):
    for split in SPLITS:
        well(path / f"set/data/{split}/0.hdf5", motion(grid=(X + (split == "test"),)))
    return "set"


def _nan_in_validation(path):
    for split in SPLITS:
        well(path / f"set/data/{split}/0.hdf5", motion() if split != "valid" else _nan(np.nan))
    return "set"


FILES = {
    "pickle": (_pickle, ["pickle"]),
    "pickle in an archive": (_pickle_inside, ["objects", "never loaded"]),
    "npy that declares too much": (_npy_declares, ["a.npy"]),
    "npz that declares too much": (_npz_declares, ["a.npz", "expected"]),
    "text alone": (_no_arrays, ["a.npz", "expected"]),
    "nothing": (_nothing, ["no arrays"]),
    "jitter": (_jitter, ["unequal steps", "resample"]),
    "time runs backwards": (_backwards, ["time", "increasing"]),
    "fewer times than frames": (_fewer_times, ["59 times", "expected 60"]),
    "fields of other shapes": (_unlike, ["displacement, velocity", "equal shapes"]),
    "cut archive": (_cut, ["a.npz", "damaged"]),
    "changed archive": (_flipped, ["a.npz", "unreadable"]),
    "text called npz": (_text(".npz"), ["a.npz", "damaged"]),
    "text called npy": (_text(".npy"), ["a.npy", "damaged"]),
    "text called hdf5": (_text(".hdf5"), ["a.hdf5", "not an HDF5"]),
    "text called wav": (_text(".wav"), ["a.wav", "not a sound"]),
    "text called flac": (_text(".flac"), ["a.flac", "not a sound"]),
    "table": (_text(".csv"), ["csv", "npz"]),
    "no ending": (_text(""), ["nothing", "npz"]),
    "sound of no samples": (_silence, ["empty"]),
    "sound of NaN": (_sound_with_nan, ["signal", "trajectory 0", "sample 0"]),
    "jitter in The Well": (_well_jitter, ["unequal steps"]),
    "The Well without fields": (_well_without_fields, ["no fields"]),
    "folder of one split": (_half_a_folder, ["valid", "no files"]),
    "folder of two grids": (_other_grid, ["grid", "8", "7"]),
    "NaN in validation": (_nan_in_validation, ["valid", "trajectory 3", "sample 17"]),
    "missing": (lambda path: "missing.npz", ["no such file"]),
    "empty folder": (lambda path: (path / "e").mkdir() or "e", ["no data set"]),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_files_are_refused_in_one_line(tmp_path, case):
    write, words = FILES[case]
    name = write(tmp_path)
    refused(words, lambda: Dataset.open(tmp_path / name))


# ---- HDF5 from strangers


def _external_link(file, path):
    del file["t0_fields/displacement"]
    file["t0_fields/displacement"] = h5py.ExternalLink(str(path / "secret.hdf5"), "/t0_fields/displacement")


def _external_group(file, path):
    file["extra"] = h5py.ExternalLink(str(path / "secret.hdf5"), "/")


def _soft_through_external(file, path):
    _external_group(file, path)
    del file["t0_fields/displacement"]
    file["t0_fields/displacement"] = h5py.SoftLink("/extra/t0_fields/displacement")


def _virtual(file, path):
    del file["t0_fields/displacement"]
    layout = h5py.VirtualLayout((N, T, X), np.float32)
    layout[:] = h5py.VirtualSource(str(path / "secret.hdf5"), "t0_fields/displacement", (N, T, X))
    file["t0_fields"].create_virtual_dataset("displacement", layout)


def _raw(file, path):
    (path / "secret.bin").write_bytes(bytes(4 * N * T * X))
    del file["t0_fields/displacement"]
    external = [(str(path / "secret.bin"), 0, h5py.h5f.UNLIMITED)]
    file["t0_fields"].create_dataset("displacement", (N, T, X), np.float32, external=external)


def _billion(file, path):
    del file["t0_fields/displacement"]
    file["t0_fields"].create_dataset("displacement", (10**9, T, X), np.float32, chunks=(1, T, X))
    file.attrs["n_trajectories"] = 10**9


def _billion_of_one_chunk(file, path):
    _billion(file, path)
    file["t0_fields/displacement"][0] = 1.0


def _unallocated(file, path):
    del file["t0_fields/displacement"]
    file["t0_fields"].create_dataset("displacement", (N, T, X), np.float32)


def _many_times(file, path):
    del file["dimensions/time"]
    file["dimensions"].create_dataset("time", (10**12,), np.float32, chunks=(1000,))


def attribute(name, value):
    def change(file, path):
        file.attrs[name] = value

    return change


def dimension(value):
    def change(file, path):
        file["dimensions"].attrs["spatial_dims"] = value

    return change


HOSTILE = {
    "external link": (_external_link, ["refers to another file", "secret"]),
    "external link beside": (_external_group, ["refers to another file", "secret"]),
    "soft link through an external one": (_soft_through_external, ["refers to another file"]),
    "virtual data set": (_virtual, ["refers to another file", "secret"]),
    "raw data elsewhere": (_raw, ["refers to another file", "secret"]),
    "a billion trajectories": (_billion, ["declares more than it holds"]),
    "a billion, one of them written": (_billion_of_one_chunk, ["declares more than it holds"]),
    "nothing written": (_unallocated, ["declares more than it holds"]),
    "many times": (_many_times, ["a.hdf5"]),
    "n_trajectories a list": (attribute("n_trajectories", [1, 2]), ["a.hdf5", "header"]),
    "n_trajectories null": (attribute("n_trajectories", h5py.Empty("i")), ["a.hdf5", "header"]),
    "n_trajectories text": (attribute("n_trajectories", "many"), ["a.hdf5", "header"]),
    "n_trajectories negative": (attribute("n_trajectories", -3), ["a.hdf5"]),
    "no trajectories": (attribute("n_trajectories", 0), ["a.hdf5", "empty"]),
    "no axes": (dimension(h5py.Empty("S1")), ["spatial_dims"]),
    "axes that are not there": (dimension(["q"]), ["dimension q is missing"]),
    "three axes": (dimension(["x", "x", "x"]), ["spatial_dims", "two"]),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_files_of_strangers_stand_alone_and_hold_what_they_declare(tmp_path, case):
    change, words = HOSTILE[case]
    well(tmp_path / "secret.hdf5", motion(seed=1))
    path = well(tmp_path / "a.hdf5", motion())
    with h5py.File(path, "r+") as file:
        change(file, tmp_path)
    refused(words, lambda: Dataset.open(path))
    refused(words, lambda: read_trajectories(path))


def test_soft_links_within_a_file_are_followed(tmp_path):
    path = well(tmp_path / "a.hdf5", motion())
    with h5py.File(path, "r+") as file:
        file.move("t0_fields/displacement", "raw")
        file["t0_fields/displacement"] = h5py.SoftLink("/raw")
        file["loop"] = file["/"]  # a hard link to the root: a circle
    np.testing.assert_array_equal(read_trajectories(path)[..., 0], motion())


@pytest.mark.parametrize(
    "number, words",
    [
        (errno.EACCES, ["permission denied"]),
        (errno.EAGAIN, ["locked"]),
        (errno.EMFILE, ["too many open files", "ulimit"]),
        (errno.EIO, ["input/output"]),
    ],
)
def test_what_the_system_refuses_is_not_called_damage(tmp_path, monkeypatch, number, words):
    path = well(tmp_path / "a.hdf5", motion())

    def fail(*args, **options):
        raise OSError(f"Unable to open file (unable to open file, errno = {number}, error message = 'x')")

    monkeypatch.setattr(fmt.h5py, "File", fail)
    message = refused(words, lambda: read_header(path))
    assert "damaged" not in message and "delete" not in message


def test_a_locked_file_is_said_to_be_locked(tmp_path):
    path = well(tmp_path / "a.hdf5", motion())
    with h5py.File(path, "r+"):
        code = f"from physmodjax.datasets.format import read_header; read_header({str(path)!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "locked" in done.stderr.splitlines()[-1], done.stderr


def test_few_files_are_open_at_a_time(tmp_path, monkeypatch):
    for split in SPLITS:
        for k in range(12):
            well(tmp_path / f"data/{split}/{k:02d}.hdf5", motion(n=1, n_steps=8, seed=k))
    monkeypatch.setattr(loading, "_MOST_OPEN", 3)
    files = TrajectoryFiles(split_headers(tmp_path, "train"))
    before = len(os.listdir("/proc/self/fd"))
    for index in [*range(12), *range(11, -1, -1), 0, 5, 0, 5]:
        np.testing.assert_array_equal(files[index, slice(2, 6)][..., 0], motion(n=1, n_steps=8, seed=index)[0, 2:6])
        assert len(files._files) <= 3 and len(os.listdir("/proc/self/fd")) <= before + 3


def test_times_are_as_fine_as_the_samples(tmp_path):
    "Ten seconds at 16 kHz: every step is the same to 1e-9 of it; files with times in float32 are still read."
    u = np.random.default_rng(0).normal(size=(1, 160_000, 1)).astype(np.float32)
    write_trajectories(tmp_path / "a.hdf5", {"u": u}, time=np.arange(160_000) / 16000, axes={"x": [0.0]}, name="a")
    times = fmt.read_axes(tmp_path / "a.hdf5")["time"]
    assert times.dtype == np.float64 and np.ptp(np.diff(times)) < 1e-9 / 16000 * 1e3
    old = well(tmp_path / "old.hdf5", motion(), rate=RATE)
    assert Dataset.open(old).rate == RATE
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        del file["dimensions/time"]
        file["dimensions/time"] = times.astype(np.float32)
    assert Dataset.open(tmp_path / "a.hdf5").rate == 16000


# ---- generated sets: what is read is the set


@pytest.fixture(scope="module")
def spec():
    return DatasetSpec.of(
        "small", rate=8000.0, n_modes=5, n_points=15, n_steps=30, n_trajectories=10, trajectories_per_file=3, width=0.2
    )


@pytest.fixture(scope="module")
def made(spec, tmp_path_factory):
    return generation.generate(spec, tmp_path_factory.mktemp("made"), progress=False)


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path / "small")
    return tmp_path / "small"


def test_a_generated_set_opens_with_its_scene(folder, spec):
    data = Dataset.open(folder, fields=["displacement", "velocity"])
    assert data.scene == spec.scene and data.rate == 8000.0 and data.n_steps == 30 and data.name == "small"
    longer = data.truth("test", 0, 45)
    scale = np.abs(longer).max(axis=(0, 1))
    np.testing.assert_allclose(longer[:30] / scale, data.splits["test"][0] / scale, atol=1e-5)
    np.testing.assert_allclose(data.axes["x"], spec.scene.axes["x"])


@pytest.mark.parametrize("name", ["._000000.hdf5", "999999.hdf5"])
def test_files_beside_the_set_are_not_read(folder, name, caplog):
    expected = Dataset.open(folder)
    shutil.copy(folder / "data/test/000009.hdf5", folder / "data/train" / name)
    data = Dataset.open(folder)
    np.testing.assert_array_equal(data.splits["train"], expected.splits["train"])
    assert name.startswith(".") or name in caplog.text
    assert generation.verify(folder) == len(generation.shards(DatasetSpec.of(
        "small", n_points=15, n_modes=5, n_trajectories=10, trajectories_per_file=3
    )))  # fmt: skip


def _shard_of_another_seed(folder, spec):
    other = generation.generate(spec.with_(seed=1), folder.parent / "other", progress=False)
    shutil.copy(other / "data/train/000000.hdf5", folder / "data/train/000000.hdf5")


def _shard_of_another_place(folder, spec):
    shutil.copy(folder / "data/train/000003.hdf5", folder / "data/train/000000.hdf5")


def _shard_of_another_object(folder, spec):
    harder = spec.with_(parameters=type(spec.scene.object)(**{**vars(spec.scene.object), "T0": 50.0}))
    other = generation.generate(harder, folder.parent / "other", progress=False)
    shutil.copy(other / "data/valid/000008.hdf5", folder / "data/valid/000008.hdf5")


def _statistics_times_ten(folder, spec):
    stats = yaml.safe_load((folder / "stats.yaml").read_text())
    stats["std"] = {name: 10 * value for name, value in stats["std"].items()}
    (folder / "stats.yaml").write_text(yaml.safe_dump(stats))


def _statistics_and_no_checksum(folder, spec):
    _statistics_times_ten(folder, spec)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["statistics"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def rewrite(file, text):
    def change(folder, spec):
        (folder / file).write_text(text)

    return change


def _shorter_manifest(folder, spec):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["data/train/000003.hdf5"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _outside(folder, spec):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["data/train/../../../secret.hdf5"] = {"bytes": 1}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _cut_short(folder, spec):
    path = folder / "data/train/000003.hdf5"
    path.write_bytes(path.read_bytes()[:-100])


NOT_THE_SET = {
    "a shard of another seed": (_shard_of_another_seed, ["000000.hdf5", "seed"], ["data/train/000000.hdf5"]),
    "a shard of another place": (
        _shard_of_another_place, ["000000.hdf5", "first_trajectory"], ["data/train/000000.hdf5"]
    ),
    "a shard of another object": (
        _shard_of_another_object, ["000008.hdf5", "specification"], ["data/valid/000008.hdf5"]
    ),
    "other statistics": (_statistics_times_ten, ["stats.yaml", "changed"], ["stats.yaml"]),
    "other statistics of an earlier version": (_statistics_and_no_checksum, ["stats.yaml"], ["stats.yaml"]),
    "empty statistics": (rewrite("stats.yaml", ""), ["stats.yaml"], ["stats.yaml"]),
    "empty manifest": (rewrite("manifest.json", ""), ["manifest.json"], ["manifest.json"]),
    "manifest of no files": (rewrite("manifest.json", '{"files": {}}'), ["manifest.json"], ["manifest.json"]),
    "manifest that is a list": (rewrite("manifest.json", "[1, 2]"), ["manifest.json"], ["manifest.json"]),
    "manifest of nulls": (rewrite("manifest.json", '{"files": null}'), ["manifest.json"], ["manifest.json"]),
    "manifest of fewer files": (_shorter_manifest, ["manifest.json", "000003"], ["manifest.json"]),
    "manifest that leads outside": (_outside, ["manifest.json"], ["manifest.json"]),
    "a file cut short": (_cut_short, ["000003.hdf5", "bytes"], ["data/train/000003.hdf5"]),
}


@pytest.mark.parametrize("case", NOT_THE_SET)
def test_what_is_not_the_set_is_refused_and_the_advice_works(folder, made, spec, case):
    change, words, to_delete = NOT_THE_SET[case]
    change(folder, spec)
    message = refused(words, lambda: Dataset.open(folder))
    assert "delete" in message
    for name in to_delete:
        (folder / name).unlink()
    generation.generate(spec, folder.parent, progress=False)
    for path in made.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (folder / path.relative_to(made)).read_bytes(), path
    Dataset.open(folder)


NO_SPECIFICATION = ["", "[]", "null", '{"name": 3}', '{"object": "StringParameters"}', '{"object": [1]}', "[" * 9999]


@pytest.mark.parametrize("text", NO_SPECIFICATION, ids=range(len(NO_SPECIFICATION)))
def test_a_specification_that_means_nothing_is_refused(folder, spec, text):
    (folder / "spec.json").write_text(text)
    refused(["spec.json"], lambda: Dataset.open(folder))
    refused(["spec.json"], lambda: generation.generate(spec, folder.parent, progress=False))


@pytest.mark.parametrize(
    "words",
    [{"n_trajectories": 10**12}, {"n_steps": 10**12}, {"n_points": 10**9},
     {"trajectories_per_file": 10**12, "n_trajectories": 10**9}],
)  # fmt: skip
def test_absurd_sizes_are_refused_at_once(spec, tmp_path, words):
    absurd = spec.with_(name="absurd", **words)
    refused(["GB|MB", "expected"], lambda: generation.generate(absurd, tmp_path, progress=False))
    assert not list(tmp_path.iterdir())


def test_data_of_the_same_name_are_not_passed_by(tmp_path, spec):
    well(tmp_path / "small/data/train/0.hdf5", motion())
    for name in ("small", "small-0123abcd"):
        wanted = spec.with_(name=name)
        refused(["small", "dataset.path"], lambda wanted=wanted: generation.generate(wanted, tmp_path, progress=False))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small"]


@pytest.mark.parametrize(
    "words",
    [{"nonlinear": "maybe"}, {"amplitude": (1, np.inf)}, {"rate": 1e-300}, {"rate": True}, {"n_steps": 2.5},
     {"seed": -1}, {"n_points": (9, 9)}, {"varied": (("T0", 1, 2), ("T0", 3, 4))}, {"position": ("a", "b")},
     {"n_modes": 0}],
)  # fmt: skip
def test_scenes_that_cannot_be_are_refused(words):
    refused(["got", "expected"], lambda: DatasetSpec.of("x", **words))


def test_a_dataset_error_names_the_file(tmp_path):
    with pytest.raises(DatasetError) as info:
        Dataset.open(tmp_path / "missing.hdf5")
    assert info.value.path == tmp_path / "missing.hdf5"
