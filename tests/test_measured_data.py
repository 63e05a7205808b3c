"Data that others recorded: every format they come in, and one line for everything that is wrong with them."

import io
import zipfile

import h5py
import numpy as np
import pytest
import soundfile
from recordings import RATE, N, T, X, Y, motion, refused_with, spoilt_motion, well

from physmodjax.datasets import Dataset, DatasetError, DatasetSpec, LoaderOptions, TrajectoryFiles
from physmodjax.datasets import format as fmt
from physmodjax.datasets import generate as generation
from physmodjax.datasets.format import SPLITS, read_header, read_trajectories, write_trajectories
from physmodjax.datasets.importers import divide, readings


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
        refused_with(["fields", "got", "expected"], lambda: Dataset.open(path, fields=["a", "b"]))


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
        refused_with(words, lambda: Dataset.open(tmp_path / "a.npy", rate=1e3, **facts))
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
    unlike = {"train": u, "valid": u[..., :-1], "test": u}
    refused_with(["grid", "splits"], lambda: Dataset.from_arrays(unlike, rate=RATE))


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


ARRAYS = {
    "no rate": (motion(), {}, ["rate: got none", "say rate="]),
    "negative rate": (motion(), {"rate": -1}, ["rate", "above 0"]),
    "text for a rate": (motion(), {"rate": "fast"}, ["rate", "fast"]),
    "complex rate": (motion(), {"rate": 1j}, ["rate"]),
    "NaN": (spoilt_motion(np.nan), {"rate": RATE}, ["a.npy", "trajectory 3", "sample 17"]),
    "infinity": (spoilt_motion(np.inf), {"rate": RATE}, ["a.npy", "trajectory 3", "sample 17"]),
    "beyond float32": (spoilt_motion(0).astype(np.float64) * 1e300 + 1e300, {"rate": RATE}, ["not finite"]),
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
def test_bad_arrays_are_refused_with(tmp_path, case):
    array, facts, words = ARRAYS[case]
    np.save(tmp_path / "a.npy", array)
    refused_with(words, lambda: Dataset.open(tmp_path / "a.npy", **facts))


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
        well(path / f"set/data/{split}/0.hdf5", motion() if split != "valid" else spoilt_motion(np.nan))
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
def test_bad_files_are_refused_with(tmp_path, case):
    write, words = FILES[case]
    name = write(tmp_path)
    refused_with(words, lambda: Dataset.open(tmp_path / name))


# ---- HDF5 from strangers


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


@pytest.mark.parametrize(
    "words",
    [{"n_trajectories": 2 * 10**9}, {"n_steps": 2 * 10**9}, {"n_points": 10**9},
     {"trajectories_per_file": 2 * 10**9, "n_trajectories": 10**9}],
)  # fmt: skip
def test_absurd_sizes_are_refused_at_once(tmp_path, words):
    absurd = DatasetSpec.of("absurd", rate=8000.0, n_modes=5, n_points=15, n_steps=30).with_(**words)
    refused_with(["GB|MB", "expected"], lambda: generation.generate(absurd, tmp_path, progress=False))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [{"nonlinear": "maybe"}, {"amplitude": (1, np.inf)}, {"rate": 1e-300}, {"rate": True}, {"n_steps": 2.5},
     {"seed": -1}, {"n_points": (9, 9)}, {"varied": (("T0", 1, 2), ("T0", 3, 4))}, {"position": ("a", "b")},
     {"n_modes": 0}],
)  # fmt: skip
def test_scenes_that_cannot_be_are_refused(words):
    refused_with(["got", "expected"], lambda: DatasetSpec.of("x", **words))


def test_a_dataset_error_names_the_file(tmp_path):
    with pytest.raises(DatasetError) as info:
        Dataset.open(tmp_path / "missing.hdf5")
    assert info.value.path == tmp_path / "missing.hdf5"
