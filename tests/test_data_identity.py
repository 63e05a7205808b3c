"What is read is the set: its files, its specification, its statistics, its seed, wherever one stands."
import dataclasses
import fcntl
import json
import os
import shutil
import threading

import h5py
import jax
import numpy as np
import pytest
import yaml
from recordings import bytes_of, motion, one_line, refused_with, well

from physmodjax.datasets import Dataset, DatasetError, DatasetSpec, TrajectoryFiles, split_headers
from physmodjax.datasets import generate as generation
from physmodjax.datasets.loader import write_statistics
from physmodjax.experiments import RunOptions, train

pytestmark = pytest.mark.training  # wrong input of every kind: many cases, none of them a law


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
    message = refused_with(words, lambda: Dataset.open(folder))
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
    refused_with(["spec.json"], lambda: Dataset.open(folder))
    refused_with(["spec.json"], lambda: generation.generate(spec, folder.parent, progress=False))


def test_data_of_the_same_name_are_not_passed_by(tmp_path, spec):
    well(tmp_path / "small/data/train/0.hdf5", motion())
    for name in ("small", "small-0123abcd"):
        wanted = spec.with_(name=name)
        make = lambda wanted=wanted: generation.generate(wanted, tmp_path, progress=False)  # noqa: E731
        refused_with(["small", "dataset.path"], make)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small"]


def test_another_specification_is_refused(finished, tiny):
    before = bytes_of(finished)
    for change in ({"seed": 1}, {"rate": 7000.0}, {"parameters": dataclasses.replace(tiny.scene.object, T0=50.0)}):
        with pytest.raises(DatasetError) as info:
            generation.generate(tiny.with_(**change), finished.parent, progress=False)
        one_line(info, "spec.json", "T0" if "parameters" in change else next(iter(change)))
    assert bytes_of(finished) == before


def test_a_folder_of_something_else_is_left_alone(tiny, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/thesis.tex").write_text("precious")
    with pytest.raises(DatasetError, match="thesis.tex"):
        generation.generate(tiny, tmp_path, progress=False)
    assert os.listdir(tmp_path / "tiny") == ["thesis.tex"]


def test_finished_set_is_left_alone(finished, tiny):
    times = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    generation.generate(tiny, finished.parent, progress=False)
    assert times == {p: p.stat().st_mtime_ns for p in finished.rglob("*")}


# Samples


def _one_sample(value, *, of="data/train/000003.hdf5", field="displacement"):
    "A change that HDF5 makes itself, checksums of the chunks included: the file is whole, and another one."

    def change(folder, spec):
        with h5py.File(folder / of, "r+") as file:
            file[f"t0_fields/{field}"][-1, 17, 4] += value

    return change


SAMPLES = {
    "one of training": _one_sample(1e-3),
    "one of validation": _one_sample(1e-3, of="data/valid/000008.hdf5"),
    "one of test, of a field that nobody asked for": _one_sample(1.0, of="data/test/000009.hdf5", field="velocity"),
    "one that is not a number": _one_sample(np.nan),
    "one of validation that is infinite": _one_sample(np.inf, of="data/valid/000008.hdf5"),
}


@pytest.mark.parametrize("case", SAMPLES)
def test_samples_that_have_changed_are_noticed(case, spec, tmp_path, made):
    "By whoever reads or verifies the set; and a manifest that is made again does not cover it."
    folder = shutil.copytree(made, tmp_path / "small")
    SAMPLES[case](folder, spec)
    for call in (lambda: Dataset.open(folder), lambda: generation.verify(folder)):
        refused_with(["hdf5", "manifest|not finite"], call)
    (folder / "manifest.json").unlink()
    message = refused_with(["hdf5"], lambda: generation.generate(spec, tmp_path, progress=False))
    assert ("not finite" in message) == ("number" in case or "infinite" in case)


def test_a_set_that_is_not_finished_is_not_read(folder, spec):
    "While it is being made, or after that was cut short."
    (folder / "manifest.json").unlink()
    (folder / "data/train/000003.hdf5").unlink()
    refused_with(["small", "not finished", "generate the set again"], lambda: Dataset.open(folder))
    generation.generate(spec, folder.parent, progress=False)
    Dataset.open(folder)


def test_a_training_waits_for_the_process_that_makes_its_set(folder, spec):
    "The folder is held while files are made; who asks for the set gets it whole."
    (folder / "manifest.json").unlink()
    handle, done = os.open(folder, os.O_RDONLY), []
    fcntl.flock(handle, fcntl.LOCK_EX)
    waiting = threading.Thread(target=lambda: done.append(generation.generate(spec, folder.parent, progress=False)))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive() and not (folder / "manifest.json").exists()
    os.close(handle)
    waiting.join(60)
    assert done == [folder] and (folder / "manifest.json").exists()


# Folders of others


@pytest.fixture
def large(tmp_path, monkeypatch):
    "A folder in The Well's format whose splits are too large for memory, with its statistics."
    monkeypatch.setattr("physmodjax.datasets.dataset._IN_MEMORY", 1.0)
    for k, split in enumerate(("train", "valid", "test")):
        well(tmp_path / f"set/data/{split}/0.hdf5", motion(seed=k))
    write_statistics(tmp_path / "set")
    return tmp_path / "set"


def test_statistics_of_others_are_used_where_they_fit(large):
    stored = yaml.safe_load((large / "stats.yaml").read_text())
    np.testing.assert_allclose(Dataset.open(large).normaliser.std, stored["std"]["displacement"])


@pytest.mark.parametrize("change", [{"std": 10}, {"std": 0.1}, {"std": 1e-12}, {"mean": 1e6}, {"std": 4, "mean": -3}])
def test_statistics_of_other_files_are_refused(large, change):
    stats = yaml.safe_load((large / "stats.yaml").read_text())
    for key, factor in change.items():
        stats[key]["displacement"] *= factor
    (large / "stats.yaml").write_text(yaml.safe_dump(stats))
    refused_with(["stats.yaml", "training trajectories have"], lambda: Dataset.open(large))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_what_is_read_window_by_window_is_finite_or_named(large, value, split):
    "File, field, trajectory and time sample, also where the window begins elsewhere."
    with h5py.File(large / f"data/{split}/0.hdf5", "r+") as file:
        file["t0_fields/displacement"][6, 31, 2] = value
    files = TrajectoryFiles(split_headers(large, split))
    assert files[6, slice(0, 31)].shape == (31, 7, 1) and np.isfinite(files[6, slice(32, 60)]).all()
    for window in (slice(None), slice(20, 40), slice(31, 32)):
        refused_with([f"{split}/0.hdf5", "trajectory 6 at time sample 31"], lambda w=window: files[6, w])


# Seeds


@pytest.mark.parametrize("seed", [-1, 2**32, 2**32 + 1, 2**63, 2**64, 10**30, 1.0, 1.5, True, "1", None, np.nan])
def test_seeds_that_would_be_another_are_refused(seed):
    refused_with(["seed: got", "expected"], lambda: RunOptions(seed=seed))


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, 10**30, 1.0, 1.5, True, "1", None])
def test_seeds_of_data_that_no_file_can_hold_are_refused(spec, seed):
    refused_with(["seed: got", "expected"], lambda: spec.with_(seed=seed))


def test_every_seed_that_is_taken_is_a_seed_of_its_own(spec):
    seeds = [0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1]
    keys = {jax.random.key_data(jax.random.key(RunOptions(seed=seed).seed)).tobytes() for seed in seeds}
    assert len(keys) == len(seeds)
    seeds += [2**32, 2**32 + 1, 2**63 - 1]
    assert len({spec.with_(seed=seed).scene.draw(0)[0].tobytes() for seed in seeds}) == len(seeds)


# Validations that are not finite


def test_without_a_finite_validation_there_is_no_best(tmp_path, undrawn):
    "A model that leaves the range of numbers: each validation is a warning, and metrics.json names no best step."
    film = np.random.default_rng(0).normal(size=(10, 12, 5)).astype(np.float32)
    model = {"network": {"_target_": "physmodjax.models.rnn.RNNModel", "d_model": 4, "n_layers": 0}}
    options = {"trainer": {"batch_size": 2, "max_steps": 2, "eval_every": 1}, "audio": {"enabled": False}}
    data = Dataset.from_arrays(film, rate=1e3)
    data.splits["valid"][0, 3, 2] = np.nan  # as no importer lets it through
    with pytest.warns(RuntimeWarning, match="mse_rel is nan, it does not count as the best"):
        done = train(data, model, tmp_path / "run", RunOptions(**options, progress=False))
    assert done.metrics["best_step"] is None and done.metrics["steps"] == 2
