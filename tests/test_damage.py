"Checkpoints, data files and disks that are damaged: one line that names what, and nothing else is lost."
import errno
import json
import os
import resource
import shutil
import signal
import warnings
from contextlib import contextmanager
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
import training_problem
from commands import GRU, QUICK, leftovers
from recordings import one_line, random_fields, small_disk, write
from training_problem import history, numbers, problem, resume, start

from physmodjax.core import files
from physmodjax.datasets import generate as generation
from physmodjax.datasets.format import DatasetError, read_header, read_trajectories
from physmodjax.training.checkpoint import CheckpointError, Checkpoints, flatten_state, restore

# Checkpoints


def cut(path, content):
    path.write_bytes(content[: len(content) // 2])


def flip(path, content):
    middle = 3 * len(content) // 4
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :])


def delete(path, content):
    path.unlink()


def zero(path, content):
    path.write_bytes(bytes(len(content)))


def garbage(path, content):
    path.write_bytes(np.random.default_rng(len(content)).bytes(len(content) + 7))


HARM = (cut, flip, delete, zero, garbage)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    "Run directory with the checkpoints 2 (the best) and 3, and the last state."
    folder = tmp_path_factory.mktemp("saved")
    checkpoints, (_, state, _) = Checkpoints(folder / "checkpoints"), problem()
    for step, error in ((1, 0.3), (2, 0.1), (3, 0.2)):
        state = state.replace(step=np.int32(step), batch_stats=jax.tree.map(lambda s: s + 1, state.batch_stats))
        checkpoints.save(state, {"config": {"a": step}, "history": [], "data": {}}, {"mse_rel": error})
    return folder, state


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # threads of the library below
@pytest.mark.parametrize("which", ["latest", "best"])
@pytest.mark.parametrize("harm", HARM)
def test_damage_to_any_file_falls_back_with_one_warning_or_does_no_harm(saved, tmp_path, harm, which):
    shutil.copytree(saved[0], tmp_path, dirs_exist_ok=True)
    step, other = (3, 2) if which == "latest" else (2, 3)
    intact = {n: Checkpoints(tmp_path / "checkpoints", read_only=True).read(n) for n in (step, other)}
    noticed = 0
    for path in [p for p in (tmp_path / "checkpoints" / str(step)).rglob("*") if p.is_file()]:
        content = path.read_bytes()
        harm(path, content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            state, metadata = restore(tmp_path, saved[1], which)
        caught = [str(w.message) for w in caught if w.category is RuntimeWarning]
        assert len(caught) <= 1 and all("\n" not in message and len(message) < 500 for message in caught)
        expected = intact[other if metadata["step"] == other else step]
        assert metadata == expected[1] and flatten_state(state).keys() == expected[0].keys()
        jax.tree.map(np.testing.assert_array_equal, flatten_state(state), dict(expected[0]))
        missing = harm is delete and path.name == "metadata"  # no longer a checkpoint at all
        assert missing or bool(caught) == (metadata["step"] == other)
        noticed += metadata["step"] == other
        path.write_bytes(content)
    assert noticed >= 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("harm", HARM)
def test_damage_to_the_only_checkpoint_is_one_line_or_does_no_harm(saved, tmp_path, harm):
    shutil.copytree(saved[0] / "checkpoints" / "3", tmp_path / "checkpoints" / "3")
    intact, noticed = Checkpoints(tmp_path / "checkpoints", read_only=True).read(3), 0
    for path in [p for p in (tmp_path / "checkpoints" / "3").rglob("*") if p.is_file()]:
        content = path.read_bytes()
        harm(path, content)
        try:
            state, metadata = restore(tmp_path, saved[1])
            jax.tree.map(np.testing.assert_array_equal, flatten_state(state), dict(intact[0]))
            assert metadata == intact[1]
        except CheckpointError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            noticed += 1
        path.write_bytes(content)
    assert noticed >= 3


def _file(path):
    path.write_bytes(b"x")


def _half(path):
    (path / "metadata").mkdir(parents=True)
    (path / "metadata" / "metadata").write_text("{}")


LEFTOVERS = {
    "an empty folder": ("9", Path.mkdir), "a file": ("9", _file), "half a checkpoint": ("9", _half),
    "a folder of another name": ("notes", Path.mkdir), "a hidden file": (".DS_Store", _file),
    "a temporary folder": ("9.orbax-checkpoint-tmp-7", Path.mkdir), "a negative step": ("-9", _half),
    "a name of digits that are none": ("\u0669", _half),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFTOVERS)
def test_what_is_no_checkpoint_stands_in_nobodys_way(saved, tmp_path, case):
    name, make = LEFTOVERS[case]
    shutil.copytree(saved[0], tmp_path, dirs_exist_ok=True)
    make(tmp_path / "checkpoints" / name)
    for read_only in (True, False):
        checkpoints = Checkpoints(tmp_path / "checkpoints", read_only=read_only)
        assert checkpoints.steps == [2, 3] and checkpoints.best_step == 2
        assert checkpoints.restore(saved[1])[1]["step"] == 3
    checkpoints.save(saved[1].replace(step=np.int32(4)), {}, {"mse_rel": 0.05})
    assert checkpoints.steps[-1] == checkpoints.best_step == 4


METADATA = ["", "{", '{"mse_rel": 0.1, "mae_rel": 0.2}', "[]", "null", "\0" * 31, '{"metrics": {}']


@pytest.mark.parametrize("text", METADATA, ids=range(len(METADATA)))
@pytest.mark.parametrize("step", [2, 3])
def test_metrics_that_are_damaged_block_no_other_checkpoint(saved, tmp_path, text, step):
    shutil.copytree(saved[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoints" / str(step) / "metadata" / "metadata").write_text(text)
    for which in ("latest", "best"):
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            metadata = restore(tmp_path, saved[1], which)[1]
        assert metadata["step"] == 5 - step or (which == "latest" and step == 2)
    Checkpoints(tmp_path / "checkpoints").save(saved[1].replace(step=np.int32(4)), {}, {"mse_rel": 0.05})


REFUSED = [errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.EIO]


@pytest.mark.parametrize("number", REFUSED, ids=errno.errorcode.get)
def test_a_checkpoint_that_cannot_be_opened_is_not_called_damaged(saved, monkeypatch, number):
    "Nor is another one taken in its place."

    def refuse(path, flags):
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr("physmodjax.training.checkpoint.os.open", refuse)
    with pytest.raises(CheckpointError) as info:
        restore(*saved)
    monkeypatch.undo()
    one_line(info, os.strerror(number), "not known to be damaged")
    assert "falls" not in str(info.value) and restore(*saved)[1]["step"] == 3


@pytest.mark.parametrize("harm", [cut, garbage])
def test_a_run_whose_newest_checkpoint_is_damaged_ends_with_the_same_numbers(whole, tmp_path, harm):
    "It goes on from the one before, and replaces the damaged one when it comes to that step again."
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    training_problem.train(max_steps=20, checkpoints=checkpoints, checkpoint_every=7)
    assert checkpoints.steps[-2:] == [14, 20]
    path = checkpoints.directory / "20" / "metadata" / "metadata"
    harm(path, path.read_bytes())
    (checkpoints.directory / "25").mkdir()  # an empty folder that something left behind
    with pytest.warns(RuntimeWarning, match="step 14 is read instead of the latest, step 20") as caught:
        resumed = training_problem.train(checkpoints=checkpoints, checkpoint_every=20, resume=True)
    assert len(caught) == 1 and history(resumed) == whole["history"]
    assert resumed.losses == whole["losses"][14:] and set(checkpoints.steps) >= {20, 30}
    assert restore(tmp_path, resumed.state, 20)[1]["step"] == 20


def test_a_truncated_checkpoint_is_named(refused, run_dir, tmp_path):
    copy = shutil.copytree(run_dir, tmp_path / "run")
    files = [path for path in (copy / "checkpoints").rglob("*") if path.is_file() and path.parent.name == "d"]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for name in ("evaluate", "render"):
        assert "damaged" in refused(name, f"run={copy}", *(["pluck.width=0.2"] if name == "render" else []))


# Data files


def spoil(source: Path, data_dir: Path, change) -> Path:
    "A copy of the tiny set of which one file was changed, and that file."
    shutil.copytree(source / "tiny", data_dir / "tiny")
    victim = next((data_dir / "tiny" / "data" / "train").glob("*.hdf5"))
    change(victim)
    manifest = data_dir / "tiny" / "manifest.json"
    entries = json.loads(manifest.read_text())
    if victim.exists():  # as if the set had come with such a file
        entries["files"][str(victim.relative_to(data_dir / "tiny"))]["bytes"] = victim.stat().st_size
    manifest.write_text(json.dumps(entries))
    return victim


def retype(dtype):
    "A change of the type in which the displacement is stored."

    def change(path):
        with h5py.File(path, "r+") as file:
            group = file["t0_fields"]
            values = group["displacement"][()]
            del group["displacement"]
            group["displacement"] = values.astype(dtype)

    return change


def other_file(path):
    with h5py.File(path, "w") as file:
        file["notes"] = [1, 2, 3]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


DAMAGE = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "not an HDF5 file"),
    "foreign": (other_file, "missing"),
    "text": (lambda path: path.write_text("u = 0"), "not an HDF5 file"),
    "float64": (retype(np.float64), "got float64, expected float32"),
    "integers": (retype(np.int32), "got int32, expected float32"),
    "a byte": (flip, ""),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_data_are_named(case, refused, data_dir, tmp_path):
    change, message = DAMAGE[case]
    victim = spoil(data_dir, tmp_path / "data", change)
    line = refused("train", "dataset=tiny", *QUICK, *GRU, "trainer.max_steps=1", "data_dir=data")
    assert victim.name in line and message in line, line
    line = refused("generate", "dataset=tiny", "data_dir=data", "verify=true")
    assert victim.name in line
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_a_missing_file_is_made_again(call, refused, data_dir, tmp_path):
    victim = spoil(data_dir, tmp_path / "data", lambda path: path.unlink())
    assert victim.name in refused("generate", "dataset=tiny", "data_dir=data", "verify=true")
    assert call("generate", "dataset=tiny", "data_dir=data")[0] == 0
    status, out, err = call("generate", "dataset=tiny", "data_dir=data", "--verify")
    assert (status, err) == (0, []) and "3 files verified" in out


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.999])
def test_truncated_file_is_refused(one_file, fraction):
    path, _ = one_file
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(DatasetError) as info:
        read_trajectories(path)
    one_line(info, str(path))


def test_foreign_hdf5_is_refused(tmp_path):
    path = tmp_path / "foreign.hdf5"
    with h5py.File(path, "w") as file:
        file.create_group("t0_fields")["displacement"] = np.zeros((2, 3, 4), np.float32)
    with pytest.raises(DatasetError) as info:
        read_header(path)
    one_line(info, str(path), "missing")


def test_corrupted_byte_names_file_and_field(one_file):
    path, fields = one_file
    content = bytearray(path.read_bytes())
    content[content.find(fields["velocity"][1, 50].tobytes()[:32]) + 5] ^= 1
    path.write_bytes(content)
    assert read_trajectories(path, ("displacement",)).shape == (3, 300, 21, 1)
    with pytest.raises(DatasetError) as info:
        read_trajectories(path, ("velocity",))
    one_line(info, str(path), "velocity", "checksum")


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
    one_line(info, str(path), "displacement" if change in ("n_trajectories", "time") else "velocity")


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


# Disks


def test_a_folder_below_a_file_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("")
    for arguments in (["data_dir=file/data"], ["hydra.run.dir=file/run", "data_dir=data"]):
        line = refused("generate", "dataset=tiny", *arguments)
        assert "file" in line and "Not a directory" in line
    assert (tmp_path / "file").read_text() == ""


@contextmanager
def file_size_limit(n_bytes: int):
    "Every write beyond so many bytes of a file fails, as on a disk that is full."
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


def test_data_that_cannot_be_written(refused, call, tmp_path):
    with file_size_limit(20_000):
        line = refused("generate", "dataset=tiny", "data_dir=data")
    assert "could not be written: File too large" in line and ".hdf5" in line
    assert not leftovers(tmp_path / "data")
    assert call("generate", "dataset=tiny", "data_dir=data")[0] == 0


def test_data_on_a_full_disk(refused, tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, "64k"):
        line = refused("generate", "dataset=tiny", f"data_dir={disk}")
        assert "disk space for tiny: got" in line or "No space left on device" in line and ".hdf5" in line
        assert not leftovers(disk)


def test_checkpoints_on_a_full_disk(refused, data_dir, tmp_path, undrawn):
    "One line, and nothing that looks like a finished run."
    disk = tmp_path / "disk"
    with small_disk(disk, "128k"):
        sizes = ["model=gru", "model.network.d_model=64", "model.network.n_layers=0"]
        steps = ["trainer.max_steps=2", "audio.enabled=false"]
        line = refused(
            "train", "dataset=tiny", *QUICK, *sizes, *steps, f"data_dir={data_dir}", folder=disk / "run"
        )
        assert "checkpoints" in line and "not saved" in line
        assert not (disk / "run" / "metrics.json").exists()
        assert not leftovers(disk)


def test_full_disk_is_one_line_and_leaves_the_last_checkpoint(whole, tmp_path):
    child = start(run=str(tmp_path), max_steps=30, full_after=20, checkpoint_every=5)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert len(err.strip().splitlines()) == 1, err
    assert "not saved" in err and "step 15 can be restored" in err and "too large" in err
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10", "15"]
    assert numbers(resume(tmp_path)) == whole["parameters"]


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
        write(tmp_path / "data" / "a.hdf5", random_fields(2))
    one_line(info, "a.hdf5", "No space left")
    assert list((tmp_path / "data").iterdir()) == []


def test_failed_write_keeps_the_old_file(one_file, monkeypatch):
    path, fields = one_file
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="set.hdf5"):
        write(path, random_fields(2, seed=9))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_full_disk_during_generation_names_the_file(tiny, tmp_path, monkeypatch):
    calls = []

    def full(fd):
        calls.append(fd)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as info:
        generation.generate(tiny, tmp_path, progress=False)
    one_line(info, "000004.hdf5", "No space left")
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    assert generation.is_complete(generation.generate(tiny, tmp_path, progress=False))
