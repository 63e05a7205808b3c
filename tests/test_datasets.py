"Faults of data sets: files that are cut, foreign or damaged, disks that fill up, generation that is killed."

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import yaml

from physmodjax.core import files
from physmodjax.datasets import format as fmt
from physmodjax.datasets import generate as generation
from physmodjax.datasets.format import (
    DatasetError,
    read_header,
    read_split,
    read_trajectories,
    split_headers,
    write_trajectories,
)
from physmodjax.datasets.loader import (
    Loader,
    Normaliser,
    TrajectoryFiles,
    load_normaliser,
    statistics,
    write_statistics,
)
from physmodjax.datasets.windows import window_starts
from physmodjax.solvers import modal_system, simulate
from physmodjax.solvers.excitation import EXCITATIONS


def _fields(n, n_steps=300, grid=(21,), seed=0, scale=1e-3):
    rng = np.random.default_rng(seed)
    shape = (n, n_steps, *grid)
    return {
        "displacement": (scale * rng.normal(size=shape)).astype(np.float32),
        "velocity": rng.normal(size=shape).astype(np.float32),
    }


def _write(path, fields, **options):
    n_steps, *grid = next(iter(fields.values())).shape[1:]
    axes = {name: np.linspace(0, 1, points) for name, points in zip("xy", grid, strict=False)}
    write_trajectories(path, fields, time=np.arange(n_steps) / 4000, axes=axes, name="test", **options)


@pytest.fixture
def one_file(tmp_path):
    path = tmp_path / "set.hdf5"
    fields = _fields(3)
    _write(path, fields, scalars={"amplitude": np.array([1.0, 2.0, 3.0])}, attributes={"rate": 4000.0})
    return path, fields


@pytest.fixture
def data_set(tmp_path):
    root = tmp_path / "small"
    for seed, (split, n) in enumerate({"train": 10, "valid": 2, "test": 2}.items()):
        fields = _fields(n, seed=seed, scale=1e-3 if split == "train" else 1.0)
        for k in range(0, n, 4):
            _write(root / f"data/{split}/{k:06d}.hdf5", {name: u[k : k + 4] for name, u in fields.items()})
    write_statistics(root)
    return root


def _one_line(info, *words):
    message = str(info.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


# ---- files


@pytest.mark.parametrize("grid", [(21,), (9, 7)])
def test_write_then_read_is_identity(tmp_path, grid):
    fields = _fields(3, grid=grid)
    _write(tmp_path / "a.hdf5", fields)
    read = read_trajectories(tmp_path / "a.hdf5", ("velocity", "displacement"))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.stack([fields["velocity"], fields["displacement"]], -1))


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_same_content_same_bytes(tmp_path, compression):
    fields = _fields(2)
    _write(tmp_path / "a.hdf5", fields, compression=compression)
    time.sleep(1.1)  # times are stored with a resolution of one second, if they are
    _write(tmp_path / "b.hdf5", fields, compression=compression)
    assert (tmp_path / "a.hdf5").read_bytes() == (tmp_path / "b.hdf5").read_bytes()


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.999])
def test_truncated_file_is_refused(one_file, fraction):
    path, _ = one_file
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(DatasetError) as info:
        read_trajectories(path)
    _one_line(info, str(path))


def test_foreign_hdf5_is_refused(tmp_path):
    path = tmp_path / "foreign.hdf5"
    with h5py.File(path, "w") as file:
        file.create_group("t0_fields")["displacement"] = np.zeros((2, 3, 4), np.float32)
    with pytest.raises(DatasetError) as info:
        read_header(path)
    _one_line(info, str(path), "missing")


def test_corrupted_byte_names_file_and_field(one_file):
    path, fields = one_file
    content = bytearray(path.read_bytes())
    content[content.find(fields["velocity"][1, 50].tobytes()[:32]) + 5] ^= 1
    path.write_bytes(content)
    assert read_trajectories(path, ("displacement",)).shape == (3, 300, 21, 1)
    with pytest.raises(DatasetError) as info:
        read_trajectories(path, ("velocity",))
    _one_line(info, str(path), "velocity", "checksum")


@pytest.mark.parametrize("change", ["n_trajectories", "time", "dtype", "field"])
def test_inconsistent_file_names_the_field(one_file, change):
    path, fields = one_file
    with h5py.File(path, "r+") as file:
        if change == "n_trajectories":
            file.attrs["n_trajectories"] = 4
        elif change == "time":
            del file["dimensions/time"]
            file["dimensions/time"] = np.arange(299, dtype=np.float32)
        else:
            del file["t0_fields/velocity"]
            if change == "dtype":
                file["t0_fields/velocity"] = fields["velocity"].astype(np.complex64)
    with pytest.raises(DatasetError) as info:
        read_header(path)
    _one_line(info, str(path), "displacement" if change in ("n_trajectories", "time") else "velocity")


@pytest.mark.parametrize("step", ["fsync", "replace", "write"])
def test_full_disk_leaves_nothing(tmp_path, monkeypatch, step):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "write":
        original = open

        class Full:
            def __init__(self, *args):
                self.file = original(*args)

            def __enter__(self):
                return self

            def __exit__(self, *args):
                self.file.close()

            write = fail

        monkeypatch.setattr(files, "open", Full, raising=False)
    else:
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError) as info:
        _write(tmp_path / "data" / "a.hdf5", _fields(2))
    _one_line(info, "a.hdf5", "No space left")
    assert list((tmp_path / "data").iterdir()) == []


def test_failed_write_keeps_the_old_file(one_file, monkeypatch):
    path, fields = one_file
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="set.hdf5"):
        _write(path, _fields(2, seed=9))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_is_never_written(tmp_path, value):
    fields = _fields(3)
    fields["velocity"][2, 120, 7] = value
    with pytest.raises(DatasetError) as info:
        _write(tmp_path / "a.hdf5", fields)
    _one_line(info, "velocity", "trajectory 2", "120", "0.03 s")
    assert list(tmp_path.iterdir()) == []


def test_files_that_differ_are_not_one_split(tmp_path):
    _write(tmp_path / "data/train/0.hdf5", _fields(2))
    _write(tmp_path / "data/train/1.hdf5", _fields(2, grid=(22,)))
    with pytest.raises(DatasetError) as info:
        read_split(tmp_path, "train")
    _one_line(info, "1.hdf5", "22", "21")


@pytest.mark.parametrize("grid", [(21,), (9, 7)])
def test_the_well_opens_the_files(tmp_path, grid):
    pytest.importorskip("torch", reason="the_well needs torch, which is an optional extra")
    data = pytest.importorskip("the_well.data", reason="the_well is an optional extra")
    for split in ("train", "valid", "test"):
        _write(tmp_path / f"data/{split}/0.hdf5", _fields(2, grid=grid), scalars={"amplitude": np.ones(2)})
    write_statistics(tmp_path)
    well = data.WellDataset(
        path=str(tmp_path), well_split_name="train", n_steps_input=1, n_steps_output=4, use_normalization=False
    )
    sample = well[0]
    assert sample["input_fields"].shape == (1, *grid, 2)
    assert sample["output_fields"].shape == (4, *grid, 2)
    assert sample["boundary_conditions"].shape == (len(grid), 2)
    assert (sample["boundary_conditions"] == 0).all()  # 0 is a wall
    np.testing.assert_array_equal(sample["output_fields"][..., 0], read_split(tmp_path, "train")[0, 1:5, ..., 0])


# ---- statistics and batches


def test_statistics_come_from_training_alone(data_set):
    train = read_split(data_set, "train", ("displacement", "velocity")).astype(np.float64)
    normaliser = load_normaliser(data_set, ("displacement", "velocity"))
    np.testing.assert_allclose(normaliser.mean, train.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(normaliser.std, train.std((0, 1, 2)), rtol=1e-6)
    stats = yaml.safe_load((data_set / "stats.yaml").read_text())
    assert {"mean", "std", "rms", "mean_delta", "std_delta", "rms_delta"} == set(stats)


def test_normaliser_survives_plain_data():
    normaliser = Normaliser(np.array([1e-7, -3.3]), np.array([2e-3, 1.7]))
    again = Normaliser.from_dict(yaml.safe_load(yaml.safe_dump(normaliser.to_dict())))
    np.testing.assert_array_equal(again.mean, normaliser.mean)
    np.testing.assert_array_equal(again.std, normaliser.std)


@pytest.mark.parametrize("window_length, stride", [(300, None), (77, None), (77, 5)])
def test_an_epoch_serves_every_window_and_the_last_frame(data_set, window_length, stride):
    data = read_split(data_set, "train")
    options = {"window_length": window_length, "stride": stride, "normaliser": load_normaliser(data_set)}
    loader = Loader(data, batch_size=4, seed=1, **options)
    batches = [loader.batch_at(step) for step in range(loader.steps_per_epoch)]
    assert {batch.context.shape for batch in batches} == {(4, 1, 21, 1)}
    ends = {target[-1].tobytes() for batch in batches for target in batch.target}
    starts = {context[0].tobytes() for batch in batches for context in batch.context}
    normalised = loader.normaliser.normalise(data)
    for index in range(len(data)):
        assert normalised[index, -1].tobytes() in ends
        for start in window_starts(300, window_length, stride or window_length - 1):
            assert normalised[index, start].tobytes() in starts


def test_order_follows_the_seed_alone(data_set):
    data, normaliser = read_split(data_set, "train"), load_normaliser(data_set)
    a, b, c = (Loader(data, batch_size=3, seed=s, window_length=50, normaliser=normaliser) for s in (5, 5, 6))
    order_a, order_b, order_c = (np.concatenate([x.items_at(k) for k in range(60)]) for x in (a, b, c))
    np.testing.assert_array_equal(order_a, order_b)
    assert (order_a != order_c).mean() > 0.9
    per_epoch = 3 * a.steps_per_epoch
    assert (order_a[:per_epoch] != order_a[per_epoch : 2 * per_epoch]).mean() > 0.9
    n_windows = len(a.windows.starts)
    assert len(set(a.items_at(0) // n_windows) | set(a.items_at(1) // n_windows)) > 1  # not all from one trajectory


def test_resumed_loader_is_bit_exact(data_set):
    normaliser = load_normaliser(data_set)
    options = {"batch_size": 3, "seed": 2, "window_length": 40, "normaliser": normaliser}
    whole = Loader(read_split(data_set, "train"), **options)
    for _ in range(17):
        next(whole)
    resumed = Loader(TrajectoryFiles(split_headers(data_set, "train")), **options)
    resumed.load_state_dict(whole.state_dict())
    for _ in range(25):
        expected, batch = next(whole), next(resumed)
        np.testing.assert_array_equal(batch.context, expected.context)
        np.testing.assert_array_equal(batch.target, expected.target)


def test_data_that_do_not_fit_the_model_are_refused(data_set):
    data, normaliser = read_split(data_set, "train"), load_normaliser(data_set)
    with pytest.raises(ValueError, match="expected .*101"):
        Loader(data, batch_size=3, seed=0, normaliser=normaliser, grid=(101,))
    with pytest.raises(ValueError, match=r"expected .*2\)"):
        Loader(data, batch_size=3, seed=0, normaliser=load_normaliser(data_set, ("displacement", "velocity")))
    with pytest.raises(DatasetError, match="pressure"):
        TrajectoryFiles(split_headers(data_set, "train"), ("pressure",))


# ---- generation

SCRIPT = """
import sys
from physmodjax.datasets.generate import DatasetSpec, generate
spec = DatasetSpec.of("tiny", rate=8000.0, n_modes=6, n_points=25, n_steps=60, n_trajectories=30,
                      trajectories_per_file=2)
generate(spec, sys.argv[1], progress=False)
"""


@pytest.fixture(scope="module")
def tiny():
    return generation.DatasetSpec.of(
        "tiny", rate=8000.0, n_modes=6, n_points=25, n_steps=60, n_trajectories=30, trajectories_per_file=2
    )


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    return generation.generate(tiny, tmp_path_factory.mktemp("data"), progress=False)


def _bytes(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


KILL = """
import os, signal
calls, fsync = [], os.fsync
def die(fd):  # in the middle of the fifth write: the specification and three files are done
    calls.append(fd)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(fd)
os.fsync = die
"""


@pytest.mark.training
def test_killed_generation_resumes_to_the_same_bytes(finished, tmp_path):
    folder = tmp_path / "tiny"
    killed = subprocess.run([sys.executable, "-c", KILL + SCRIPT, str(tmp_path)], stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    before = _bytes(folder)
    done = [name for name in before if name.endswith(".hdf5")]
    assert len(done) == 3 and "manifest.json" not in before
    assert any(name.endswith(".tmp") for name in before)  # the file that was being written
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], check=True, stderr=subprocess.DEVNULL)
    after = _bytes(folder)
    assert all(after[name] == before[name] for name in done)
    assert after == _bytes(finished)


def test_finished_set_is_left_alone(finished, tiny):
    times = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    generation.generate(tiny, finished.parent, progress=False)
    assert times == {p: p.stat().st_mtime_ns for p in finished.rglob("*")}


def test_trajectories_do_not_depend_on_the_sharding(finished, tiny, tmp_path):
    other = generation.generate(tiny.with_(trajectories_per_file=7), tmp_path, progress=False)
    for split in fmt.SPLITS:
        a, b = read_split(finished, split), read_split(other, split)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_another_specification_is_refused(finished, tiny):
    before = _bytes(finished)
    for change in ({"seed": 1}, {"rate": 7000.0}, {"parameters": dataclasses.replace(tiny.scene.object, T0=50.0)}):
        with pytest.raises(DatasetError) as info:
            generation.generate(tiny.with_(**change), finished.parent, progress=False)
        _one_line(info, "spec.json", "T0" if "parameters" in change else next(iter(change)))
    assert _bytes(finished) == before


def test_a_folder_of_something_else_is_left_alone(tiny, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/thesis.tex").write_text("precious")
    with pytest.raises(DatasetError, match="thesis.tex"):
        generation.generate(tiny, tmp_path, progress=False)
    assert os.listdir(tmp_path / "tiny") == ["thesis.tex"]


def test_overflow_names_trajectory_and_time_and_writes_nothing(tiny, tmp_path, monkeypatch):
    original = generation.simulate

    def overflowing(*args, **options):
        q, qdot = (np.array(x) for x in original(*args, **options))
        q[1, 40:] = np.nan
        return q, qdot

    monkeypatch.setattr(generation, "simulate", overflowing)
    with pytest.raises(DatasetError) as info:
        generation.generate(tiny, tmp_path, progress=False)
    _one_line(info, "trajectory 1 ", "0.005 s")
    assert not list(tmp_path.rglob("*.hdf5"))


@pytest.mark.parametrize("peak", [1e30, 1e3])
def test_absurd_amplitude_names_a_trajectory_and_writes_nothing(tiny, tmp_path, peak):
    with pytest.raises(DatasetError) as info:
        generation.generate(tiny.with_(amplitude=(peak, peak)), tmp_path, progress=False)
    _one_line(info, "trajectory", "lower the amplitude", *(["at t = "] if peak > 1e9 else []))
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("wrong", [{"n_modes": 24}, {"width": 0.01}])
def test_what_cannot_be_made_makes_no_folder(tiny, tmp_path, wrong):
    with pytest.raises(ValueError) as info:
        generation.generate(tiny.with_(**wrong), tmp_path, progress=False)
    _one_line(info, "expected")
    assert not list(tmp_path.iterdir())


def test_full_disk_during_generation_names_the_file(tiny, tmp_path, monkeypatch):
    calls = []

    def full(fd):
        calls.append(fd)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as info:
        generation.generate(tiny, tmp_path, progress=False)
    _one_line(info, "000004.hdf5", "No space left")
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    assert generation.is_complete(generation.generate(tiny, tmp_path, progress=False))


def test_verify_finds_every_kind_of_damage(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    victim = folder / "data/train/000006.hdf5"
    content = victim.read_bytes()
    assert generation.verify(folder) == 16
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 40):
        victim.write_bytes(content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :])
        with pytest.raises(DatasetError, match="000006.hdf5"):
            generation.verify(folder)
    victim.write_bytes(content[:-1])
    with pytest.raises(DatasetError, match="000006.hdf5"):
        generation.is_complete(folder)
    victim.unlink()
    with pytest.raises(DatasetError, match="no such file"):
        generation.verify(folder)


@pytest.mark.parametrize("kind", sorted(EXCITATIONS))
def test_every_excitation_makes_a_data_set(tiny, tmp_path, kind):
    spec = tiny.with_(name=kind, excitation=kind, n_trajectories=3, n_steps=10, width=0.25)
    u = read_split(generation.generate(spec, tmp_path, progress=False), "train")
    low, high = spec.scene.amplitude
    assert 0 < np.abs(u[:, 0]).max() <= 1.3 * high  # six modes overshoot a little
    header = read_header(next((tmp_path / kind).rglob("000000.hdf5")))
    assert ("position" in header.scalars) == (kind not in ("noise", "single_mode"))


def test_options_of_an_excitation_are_part_of_the_specification(tiny):
    third = tiny.with_(excitation="single_mode", excitation_options={"mode": 3})
    assert generation.spec_digest(third) != generation.spec_digest(third.with_(excitation_options=()))
    assert "excitation_options" not in generation.spec_to_dict(tiny)  # older sets keep their digests
    again = third.with_(excitation_options=third.scene.options)
    assert again == third
    with pytest.raises(ValueError, match="option of single_mode: got 'centre'"):
        third.with_(excitation_options={"centre": (0.1, 0.2)})


def test_varied_objects_come_out_as_they_would_alone(tiny, tmp_path):
    varied = (("T0", 40.0, 80.0), ("E", 4e9, 6e9), ("d3", 7e-6, 3e-5))
    spec = tiny.with_(name="varied", varied=varied, n_trajectories=10, amplitude=(0.01, 0.01))
    u = read_split(generation.generate(spec, tmp_path, progress=False), "train")
    for k in (0, 5):
        shape, drawn = spec.scene.draw(k)
        parameters = dataclasses.replace(spec.scene.object, **{name: drawn[name] for name, _, _ in varied})
        system = modal_system(parameters, spec.scene.n_modes)
        q0 = system.to_modal(shape)
        q, _ = simulate(system, q0, 0 * q0, spec.scene.rate, spec.scene.n_steps, rtol=1e-9, order=6)
        expected = system.to_grid(q, spec.scene.n_points)
        np.testing.assert_allclose(u[k, ..., 0], expected, atol=1e-6 * np.abs(expected).max())


def test_substeps_belong_to_the_trajectory(tiny):
    found = generation.trajectory_substeps(tiny)
    assert len(set(found.count.tolist())) > 1 and found.error.max() <= tiny.scene.rtol
    other = generation.trajectory_substeps(tiny.with_(trajectories_per_file=7))
    np.testing.assert_array_equal(found.count, other.count)
    assert generation.set_substeps(tiny) == found.worst()


def test_statistics_are_those_of_the_files(finished):
    stored, read = yaml.safe_load((finished / "stats.yaml").read_text()), statistics(finished)
    assert stored.keys() == read.keys()
    for key, values in read.items():
        for field, value in values.items():
            scale = read[key.replace("mean", "rms")][field]
            np.testing.assert_allclose(stored[key][field], value, rtol=1e-6, atol=1e-7 * scale)


MANY = """
import sys, jax, numpy as np
from physmodjax.datasets.generate import DatasetSpec, generate
from physmodjax.datasets.format import read_split
assert jax.local_device_count() == int(sys.argv[2])
spec = DatasetSpec.of("tiny", rate=8000.0, n_modes=6, n_points=25, n_steps=60, n_trajectories=30,
                      trajectories_per_file=2, varied=(("T0", 40.0, 80.0),) if sys.argv[3] == "varied" else ())
np.save(sys.argv[1] + ".npy", read_split(generate(spec, sys.argv[1], progress=False), "train"))
"""


@pytest.mark.parametrize("kind", ["same", pytest.param("varied", marks=pytest.mark.slow)])
def test_devices_share_the_batch_and_change_nothing(run_python, tmp_path, kind):
    found = []
    for devices in (1, 3):
        done = run_python("-c", MANY, str(tmp_path / f"{devices}"), str(devices), kind, devices=devices)
        assert done.returncode == 0, done.stderr
        found.append(np.load(tmp_path / f"{devices}.npy"))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6 * np.abs(found[0]).max())


@pytest.mark.slow
def test_a_launcher_makes_the_parts(run_python, tmp_path):
    arguments = ["dataset=tiny", f"data_dir={tmp_path}/a", "dataset.trajectories_per_file=2"]
    done = run_python("scripts/generate.py", "-m", *arguments, "part=[0,2],[1,2]")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "a").iterdir()
    assert generation.is_complete(folder)
    arguments[1] = f"data_dir={tmp_path}/b"
    for extra in ([], ["--verify"]):
        done = run_python("scripts/generate.py", *arguments, *extra)
        assert done.returncode == 0, done.stderr
    assert "5 files verified" in done.stdout
    assert _bytes(folder) == _bytes(tmp_path / "b" / folder.name)


@pytest.mark.training
def test_two_commands_at_once_do_the_work_once(finished, tmp_path):
    commands = [subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)]) for _ in range(2)]
    assert [c.wait(timeout=180) for c in commands] == [0, 0]
    assert _bytes(tmp_path / "tiny") == _bytes(finished)


def test_published_split_is_in_order():
    spec = generation.DatasetSpec("published")
    assert generation.split_sizes(spec) == {"train": 800, "valid": 100, "test": 100}
    order = [(s.split, k) for s in generation.shards(spec) for k in range(s.first, s.first + s.count)]
    assert order == [(("train", "valid", "test")[(k >= 800) + (k >= 900)], k) for k in range(1000)]


def test_aliased_modes_are_named(tiny, tmp_path):
    with pytest.warns(UserWarning, match=r"6 \("):
        generation.generate(tiny.with_(rate=2900.0, n_trajectories=3), tmp_path, progress=False)


@pytest.mark.parametrize(
    "wrong, word",
    [
        ({"n_points": (9, 9)}, "n_points"),
        ({"trajectories_per_file": 0}, "trajectories_per_file"),
        ({"splits": (0.5, 0.5, 0.5)}, "splits"),
        ({"amplitude": (0.01, 0.001)}, "amplitude"),
        ({"varied": (("length", 0.5, 0.7),)}, "varied"),
        ({"release": "bow"}, "release"),
    ],
)
def test_impossible_specifications_are_refused(wrong, word):
    with pytest.raises(ValueError, match=word) as info:
        generation.DatasetSpec.of("wrong", **wrong)
    _one_line(info, "expected")
