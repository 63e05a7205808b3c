"Faults of data sets: files that are cut, foreign or damaged, disks that fill up, generation that is killed."

import dataclasses
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from recordings import GENERATE, bytes_of, one_line, random_fields, write

from physmodjax.datasets import format as fmt
from physmodjax.datasets import generate as generation
from physmodjax.datasets.format import (
    DatasetError,
    read_header,
    read_split,
    read_trajectories,
    split_headers,
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


@pytest.fixture
def data_set(tmp_path):
    root = tmp_path / "small"
    for seed, (split, n) in enumerate({"train": 10, "valid": 2, "test": 2}.items()):
        fields = random_fields(n, seed=seed, scale=1e-3 if split == "train" else 1.0)
        for k in range(0, n, 4):
            write(root / f"data/{split}/{k:06d}.hdf5", {name: u[k : k + 4] for name, u in fields.items()})
    write_statistics(root)
    return root


# ---- files


@pytest.mark.parametrize("grid", [(21,), (9, 7)])
def test_write_then_read_is_identity(tmp_path, grid):
    fields = random_fields(3, grid=grid)
    write(tmp_path / "a.hdf5", fields)
    read = read_trajectories(tmp_path / "a.hdf5", ("velocity", "displacement"))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, np.stack([fields["velocity"], fields["displacement"]], -1))


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_same_content_same_bytes(tmp_path, compression):
    fields = random_fields(2)
    write(tmp_path / "a.hdf5", fields, compression=compression)
    time.sleep(1.1)  # times are stored with a resolution of one second, if they are
    write(tmp_path / "b.hdf5", fields, compression=compression)
    assert (tmp_path / "a.hdf5").read_bytes() == (tmp_path / "b.hdf5").read_bytes()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_is_never_written(tmp_path, value):
    fields = random_fields(3)
    fields["velocity"][2, 120, 7] = value
    with pytest.raises(DatasetError) as info:
        write(tmp_path / "a.hdf5", fields)
    one_line(info, "velocity", "trajectory 2", "120", "0.03 s")
    assert list(tmp_path.iterdir()) == []


def test_files_that_differ_are_not_one_split(tmp_path):
    write(tmp_path / "data/train/0.hdf5", random_fields(2))
    write(tmp_path / "data/train/1.hdf5", random_fields(2, grid=(22,)))
    with pytest.raises(DatasetError) as info:
        read_split(tmp_path, "train")
    one_line(info, "1.hdf5", "22", "21")


@pytest.mark.parametrize("grid", [(21,), (9, 7)])
def test_the_well_opens_the_files(tmp_path, grid):
    pytest.importorskip("torch", reason="the_well needs torch, which is an optional extra")
    data = pytest.importorskip("the_well.data", reason="the_well is an optional extra")
    for split in ("train", "valid", "test"):
        write(tmp_path / f"data/{split}/0.hdf5", random_fields(2, grid=grid), scalars={"amplitude": np.ones(2)})
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

def test_trajectories_do_not_depend_on_the_sharding(finished, tiny, tmp_path):
    other = generation.generate(tiny.with_(trajectories_per_file=7), tmp_path, progress=False)
    for split in fmt.SPLITS:
        a, b = read_split(finished, split), read_split(other, split)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_overflow_names_trajectory_and_time_and_writes_nothing(tiny, tmp_path, monkeypatch):
    original = generation.simulate

    def overflowing(*args, **options):
        q, qdot = (np.array(x) for x in original(*args, **options))
        q[1, 40:] = np.nan
        return q, qdot

    monkeypatch.setattr(generation, "simulate", overflowing)
    with pytest.raises(DatasetError) as info:
        generation.generate(tiny, tmp_path, progress=False)
    one_line(info, "trajectory 1 ", "0.005 s")
    assert not list(tmp_path.rglob("*.hdf5"))


@pytest.mark.parametrize("peak", [1e30, 1e3])
def test_absurd_amplitude_names_a_trajectory_and_writes_nothing(tiny, tmp_path, peak):
    with pytest.raises(DatasetError) as info:
        generation.generate(tiny.with_(amplitude=(peak, peak)), tmp_path, progress=False)
    one_line(info, "trajectory", "lower the amplitude", *(["at t = "] if peak > 1e9 else []))
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("wrong", [{"n_modes": 24}, {"width": 0.01}])
def test_what_cannot_be_made_makes_no_folder(tiny, tmp_path, wrong):
    with pytest.raises(ValueError) as info:
        generation.generate(tiny.with_(**wrong), tmp_path, progress=False)
    one_line(info, "expected")
    assert not list(tmp_path.iterdir())


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
    assert bytes_of(folder) == bytes_of(tmp_path / "b" / folder.name)


@pytest.mark.training
def test_two_commands_at_once_do_the_work_once(finished, tmp_path):
    commands = [subprocess.Popen([sys.executable, "-c", GENERATE, str(tmp_path)]) for _ in range(2)]
    assert [c.wait(timeout=180) for c in commands] == [0, 0]
    assert bytes_of(tmp_path / "tiny") == bytes_of(finished)


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
    one_line(info, "expected")
