"The doors: measured data, objects, recurrences, options, each through the commands, from a folder of one's own."
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile
from commands import GRU, QUICK, compose

from physmodjax.cli.train import train
from physmodjax.datasets import Dataset
from physmodjax.datasets.format import write_trajectories
from physmodjax.datasets.scene import Scene
from physmodjax.experiments import RunOptions, TrainedModel
from physmodjax.experiments import train as train_model
from physmodjax.experiments.data import read_group

STEPS = [*QUICK, *GRU, "trainer.max_steps=2"]
SCENE = Scene(rate=8000.0, n_steps=40, n_points=21, n_modes=6, width=0.2)


@pytest.fixture(scope="session")
def film() -> np.ndarray:
    "(12, 40, 21): plucks of which nobody says what they are of."
    return np.stack([SCENE.trajectory(k)[..., 0] for k in range(12)])


def write_npz(path, film):
    np.savez(path.with_suffix(".npz"), displacement=film, rate=8000.0, x=np.linspace(0, 0.65, 21))
    return path.with_suffix(".npz"), []


def write_npz_with_times(path, film):
    np.savez(path.with_suffix(".npz"), velocity=film, time=np.arange(40) / 8000)
    return path.with_suffix(".npz"), []


def write_npy(path, film):
    np.save(path.with_suffix(".npy"), film)
    return path.with_suffix(".npy"), ["dataset.rate=8000"]


def write_npy_with_its_channel(path, film):
    np.save(path.with_suffix(".npy"), film[..., None])
    return path.with_suffix(".npy"), ["dataset.rate=8000"]


def write_npy_of_one(path, film):
    np.save(path.with_suffix(".npy"), np.concatenate(film[:3]))
    return path.with_suffix(".npy"), ["dataset.rate=8000", "trainer.window_length=20"]


def write_channels(path, film):
    np.save(path.with_suffix(".npy"), np.stack([film, 2 * film], axis=-1))
    return path.with_suffix(".npy"), ["dataset.rate=8000", "dataset.axes=[x]", "dataset.fields=[left,right]"]


def write_plain_hdf5(path, film):
    with h5py.File(path.with_suffix(".hdf5"), "w") as file:
        file["displacement"] = film
    return path.with_suffix(".hdf5"), ["dataset.rate=8000", "dataset.unit=m"]


def write_well_file(path, film):
    axes = {"x": np.linspace(0, 0.65, 21)}
    time = np.arange(40) / 8000
    write_trajectories(path.with_suffix(".hdf5"), {"displacement": film}, time=time, axes=axes, name="film")
    return path.with_suffix(".hdf5"), []


def write_well_folder(path, film):
    axes, time = {"x": np.linspace(0, 0.65, 21)}, np.arange(40) / 8000
    for split, part in {"train": film[:8], "valid": film[8:10], "test": film[10:]}.items():
        file = path / "data" / split / "first.hdf5"
        write_trajectories(file, {"displacement": part}, time=time, axes=axes, name="film")
    return path, []


def write_sound(path, film):
    t = np.arange(2400) / 8000
    soundfile.write(path.with_suffix(".wav"), 0.5 * np.exp(-8 * t) * np.sin(2 * np.pi * 247 * t), 8000, "PCM_24")
    return path.with_suffix(".wav"), ["model.context=3", "trainer.window_length=40"]


SOURCES = [
    write_npz, write_npz_with_times, write_npy, write_npy_with_its_channel, write_npy_of_one, write_channels,
    write_plain_hdf5, write_well_file, write_well_folder, write_sound,
]  # fmt: skip


@pytest.mark.training
@pytest.mark.parametrize("write", SOURCES, ids=lambda write: write.__name__.removeprefix("write_"))
def test_measured_data_go_through_every_command(write, film, call, tmp_path, undrawn):
    "Train, evaluate, render a continuation, resume; no object is needed, and what needs a truth is left out."
    path, said = write(tmp_path / "film", film)
    arguments = [f"dataset.path={path.relative_to(tmp_path)}", *said, *STEPS]
    status, out, err = call("train", *arguments, folder=tmp_path / "run")
    assert status == 0, err
    stored = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert np.isfinite(stored["best"]["test"]["mse_rel"]) and "training horizon" in out
    assert TrainedModel.open(tmp_path / "run").scene is None
    assert "ecording" in (tmp_path / "run" / "report.html").read_text()
    status, out, err = call("evaluate", "run=run", "n_steps=5")
    assert status == 0 and "mse_rel" in out, err
    pickup = "pickup=0.2" if "wav" not in path.suffix else "pickup=0"
    status, out, err = call("render", "run=run", "duration=0.05", pickup, "example=0", "out=on.wav")
    assert status == 0 and (tmp_path / "on.wav").exists(), err
    status, out, err = call("train", *arguments, "trainer.max_steps=3", "resume=run")
    assert status == 0, err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["steps"] == 3


@pytest.mark.training
def test_what_nobody_knows_is_refused(film, call, refused, tmp_path, undrawn):
    "A longer truth, a pluck, an object: one line each."
    np.save(tmp_path / "film.npy", film)
    assert call("train", "dataset.path=film.npy", "dataset.rate=8000", *STEPS, folder=tmp_path / "run")[0] == 0
    assert "measured" in refused("evaluate", "run=run", "n_steps=500")
    assert "object" in refused("train", "dataset.path=film.npy", "dataset.rate=8000", "object.note=A2", *STEPS)
    assert "film.npy" in refused("train", "dataset.path=film.npy", *STEPS)
    assert "nowhere.npy" in refused("train", "dataset.path=nowhere.npy", *STEPS)


def test_a_folder_of_the_asked_for_name_is_not_passed_by(film, refused, tmp_path):
    "Somebody's data under the name of a set that is about to be simulated: they are told how to train on them."
    write_well_folder(tmp_path / "mine" / "my_string", film)
    line = refused("train", "dataset.name=my_string", "data_dir=mine", *STEPS)
    assert "dataset.path=mine/my_string" in line and "not generated here" in line
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["my_string"]


def test_no_field_is_taken_for_another(film, refused, tmp_path):
    path, _ = write_npz_with_times(tmp_path / "film", film)
    line = refused("train", f"dataset.path={path.name}", "model.fields=[displacement]", *STEPS)
    assert "got 'displacement', expected one of velocity" in line


@pytest.mark.training
def test_the_same_from_python(film, tmp_path):
    data = Dataset.from_arrays({"displacement": film}, rate=8000.0)
    small = {"trainer": {"max_steps": 2, "batch_size": 4}, "audio": {"enabled": False}, "progress": False}
    described = read_group("model", "gru")
    described["network"] |= {"d_model": 8, "n_layers": 0}
    run = train_model(data, described, tmp_path / "run", RunOptions(**small))
    context = data.splits["test"][0, :1]
    frames = TrainedModel.open(tmp_path / "run").predict(context, 30)
    np.testing.assert_array_equal(frames, run.model.predict(context, 30))
    assert frames.shape == (31, 21, 1)


# Objects

@pytest.mark.training
def test_a_bar_is_an_object_like_any_other(call, data_dir, tmp_path, undrawn):
    "It simulates, makes a data set, trains and plays; nothing outside objects/ and conf/ knows of it."
    arguments = ["dataset=tiny_bar", *STEPS, f"data_dir={data_dir}"]
    status, out, err = call("train", *arguments, folder=tmp_path / "run")
    assert status == 0, err
    status, out, err = call("render", "run=run", "pluck.width=0.2", "pluck.amplitude=0.5", "duration=0.05")
    assert status == 0, err
    assert TrainedModel.open(tmp_path / "run").noun == "bar"
    outside = [p for p in (Path(__file__).parents[1] / "physmodjax").rglob("*.py") if "objects" not in p.parts]
    assert not [p.name for p in outside if "BarParameters" in p.read_text() and not p.name.startswith("_")]


WORDS = [
    (["object.note=B3"], 246.94, "tiny"), (["object.note=110"], 110.0, "tiny"), (["object.length=0.8"], None, "tiny"),
    (["object=steel_string", "object.note=A2", "object.t60=2.0"], 110.0, "tiny"),
    (["object=steel_guitar_string", "object.note=E4", "object.diameter=0.0003"], 329.63, "tiny"),
    (["object.note=A2"], 110.0, "tiny_membrane"), (["object.note=A2"], 110.0, "tiny_bar"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "frequency", "dataset"), WORDS, ids=lambda value: str(value))
def test_objects_are_asked_for_in_words(arguments, frequency, dataset, call, tmp_path):
    "Without a plus sign; the fundamental is the note."
    status, out, err = call("generate", f"dataset={dataset}", *arguments, "data_dir=data")
    assert status == 0, err
    scene = Dataset.open(Path(out.splitlines()[0])).scene
    if frequency is None:
        assert scene.object.length == 0.8
    else:
        assert scene.system.frequencies()[0] == pytest.approx(frequency, rel=1e-4)


# Recurrences

RECURRENCES = ["DiscreteModalDynamics", "DiscreteModalDynamicsAngleMag", "OscillatorDynamics"]


@pytest.mark.training
@pytest.mark.parametrize("name", RECURRENCES)
def test_another_recurrence_in_the_same_stack_by_configuration(name, data_dir, tmp_path, undrawn):
    sizes = [f"model.network.{key}" for key in ("d_model=24", "n_layers=2", "recurrence.d_hidden=8")]
    few = [*QUICK, "trainer.max_steps=1", "audio.enabled=false", "model.initialise=random"]
    config = compose("train", "model=lru", "dataset=tiny", *sizes, *few, f"data_dir={data_dir}")
    config.model.network.recurrence.dynamics = {"_target_": f"physmodjax.dynamics.{name}", "_partial_": True}
    done = train(config, tmp_path / "run")
    assert np.isfinite(done.metrics["final"]["test"]["mse_rel"])
    assert done.model.network.recurrence.keywords["dynamics"].func.__name__ == name


# Fields and losses

@pytest.mark.training
def test_a_model_of_velocities_shows_and_plays_velocities(data_dir, tmp_path):
    "In its own unit, and the truth beside it is a velocity too."
    few = [*STEPS, "model.fields=[velocity]", f"data_dir={data_dir}"]
    done = train(compose("train", "dataset=tiny", *few), tmp_path / "run")
    assert [(field.name, field.unit) for field in done.model.fields] == [("velocity", "m/s")]
    truth = Dataset.open(data_dir / "tiny", fields=("velocity",)).splits["test"][0, :]
    played = done.model.predict(truth[:1], 39)
    assert 0.1 < np.abs(truth).max() < 1e3 and played.shape == truth.shape


LOSSES = [path.stem for path in (Path(__file__).parents[1] / "conf" / "loss").glob("*.yaml")]
OPTIMIZERS = [path.stem for path in (Path(__file__).parents[1] / "conf" / "optimizer").glob("*.yaml")]


@pytest.mark.slow
@pytest.mark.parametrize(("group", "name"), [*(("loss", n) for n in LOSSES), *(("optimizer", n) for n in OPTIMIZERS)])
def test_every_file_of_every_group_runs_on_the_default_data(group, name, tmp_path, undrawn):
    few = [*GRU, "trainer.max_steps=1", "logger=none", "progress=false", "audio.enabled=false", f"data_dir={tmp_path}"]
    done = train(compose("train", f"{group}={name}", *few), tmp_path / "run")
    assert np.isfinite(done.metrics["final"]["valid"]["mse_rel"])
