"HDF5 files from strangers stand alone and hold what they declare; what the system refuses is not called damage."
import contextlib
import errno
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
import soundfile
from recordings import N, T, X, motion, refused_with, well

from physmodjax.datasets import Dataset, DatasetSpec, TrajectoryFiles, split_headers
from physmodjax.datasets import format as fmt
from physmodjax.datasets import loader as loading
from physmodjax.datasets.format import SPLITS, read_header, read_trajectories
from physmodjax.datasets.generate import generate, verify

pytestmark = pytest.mark.training  # wrong input of every kind: many cases, none of them a law


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


def _external_times(file, path):
    del file["dimensions/time"]
    file["dimensions/time"] = h5py.ExternalLink(str(path / "secret.hdf5"), "/dimensions/time")


def _external_scalar(file, path):
    file.create_group("scalars").attrs["field_names"] = ["tension"]
    file["scalars/tension"] = h5py.ExternalLink(str(path / "secret.hdf5"), "/dimensions/x")


def _external_deep_inside(file, path):
    file["a/b/c/d"] = h5py.ExternalLink("secret.hdf5", "/")


def _virtual_axis(file, path):
    del file["dimensions/x"]
    layout = h5py.VirtualLayout((X,), np.float32)
    layout[:] = h5py.VirtualSource("secret.hdf5", "dimensions/x", (X,))
    file["dimensions"].create_virtual_dataset("x", layout)


def _raw_times(file, path):
    (path / "secret.bin").write_bytes(bytes(4 * T))
    del file["dimensions/time"]
    file["dimensions"].create_dataset("time", (T,), np.float32, external=[("secret.bin", 0, 4 * T)])


def _link_to_nothing(file, path):
    del file["t0_fields/displacement"]
    file["t0_fields/displacement"] = h5py.SoftLink("/nowhere")


def _billion_points(file, path):
    del file["dimensions/x"]
    file["dimensions"].create_dataset("x", (10**9,), np.float32, chunks=(1000,))


def _billion_scalars(file, path):
    file.create_group("scalars").attrs["field_names"] = ["tension"]
    file["scalars"].create_dataset("tension", (10**9,), np.float32, chunks=(1000,))


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
    "external times": (_external_times, ["refers to another file", "secret"]),
    "external scalar": (_external_scalar, ["refers to another file", "secret"]),
    "external link deep inside": (_external_deep_inside, ["/a/b/c/d refers to another file", "secret"]),
    "virtual axis": (_virtual_axis, ["refers to another file", "secret"]),
    "raw times elsewhere": (_raw_times, ["refers to another file", "secret"]),
    "link to nothing": (_link_to_nothing, ["a.hdf5"]),
    "a billion points": (_billion_points, ["a.hdf5"]),
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
    refused_with(words, lambda: Dataset.open(path))
    refused_with(words, lambda: read_trajectories(path))


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
    message = refused_with(words, lambda: read_header(path))
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


def test_declared_scalars_are_not_believed(tmp_path):
    path = well(tmp_path / "a.hdf5", motion())
    with h5py.File(path, "r+") as file:
        _billion_scalars(file, tmp_path)
    refused_with(["tension", "declares more than it holds"], lambda: Dataset.open(path))


@pytest.mark.parametrize("change", [_billion, _virtual, _raw, _external_link], ids=lambda change: change.__name__)
def test_a_set_with_such_a_file_is_neither_read_nor_verified(change, data_dir, tmp_path):
    "Not even where the manifest has been written for it."
    folder = shutil.copytree(data_dir / "tiny", tmp_path / "tiny")
    well(tmp_path / "secret.hdf5", motion(seed=1))
    path = folder / "data/train/000000.hdf5"
    with h5py.File(path, "r+") as file:
        change(file, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest["files"]["data/train/000000.hdf5"] |= {"bytes": path.stat().st_size, "sha256": sha256}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused_with(["000000.hdf5"], lambda: Dataset.open(folder))
    refused_with(["000000.hdf5"], lambda: verify(folder))


# Too many open files


def _npz(path):
    np.savez(path / "a.npz", displacement=motion(), rate=2000.0)
    return path / "a.npz"


def _npy(path):
    np.save(path / "a.npy", motion())
    return path / "a.npy"


def _sound(path):
    soundfile.write(path / "a.wav", np.sin(np.arange(400)), 8000)
    return path / "a.wav"


def _well(path):
    return well(path / "a.hdf5", motion())


def _plain_hdf5(path):
    with h5py.File(path / "b.hdf5", "w") as file:
        file["displacement"], file["rate"] = motion(), 2000.0
    return path / "b.hdf5"


def _generated(path):
    spec = DatasetSpec.of("small", n_trajectories=3, n_steps=8, n_points=9, n_modes=3, rate=4000.0, width=0.3)
    return generate(spec, path, progress=False)


@pytest.mark.parametrize("make", [_npz, _npy, _sound, _well, _plain_hdf5, _generated], ids=lambda make: make.__name__)
def test_a_process_without_a_free_descriptor_calls_nothing_damaged(make, tmp_path):
    path, options = make(tmp_path), {"rate": 2000.0} if make is _npy else {}
    Dataset.open(path, **options)  # whatever is imported late, is
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    highest = max(spare)
    for handle in spare[:-1]:
        os.close(handle)
    occupied = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                occupied.append(os.open("/dev/null", os.O_RDONLY))
        with pytest.raises((ValueError, OSError)) as info:
            Dataset.open(path, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for handle in (*occupied, spare[-1]):
            os.close(handle)
    message = str(info.value).lower()
    assert "too many open files" in message and "damaged" not in message and "delete" not in message
    assert "\n" not in message and Dataset.open(path, **options).rate > 0
