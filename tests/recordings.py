"Trajectories, files of them, and refusals, for the tests of data."
import re
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from physmodjax.datasets.format import write_trajectories

RATE, N, T, X, Y = 2000.0, 10, 60, 7, 6  # Hz, trajectories, frames, points


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


def refused_with(words, call):
    "Asserts that it is refused in one line that has these words, and quickly."
    began = time.perf_counter()
    with pytest.raises(ValueError) as info:
        call()
    message = str(info.value)
    assert "\n" not in message and time.perf_counter() - began < 5
    for word in words:
        assert re.search(word, message), message
    return message


def spoilt_motion(value):
    u = motion()
    u[3, 17, 2] = value
    return u


def random_fields(n, n_steps=300, grid=(21,), seed=0, scale=1e-3):
    rng = np.random.default_rng(seed)
    shape = (n, n_steps, *grid)
    return {
        "displacement": (scale * rng.normal(size=shape)).astype(np.float32),
        "velocity": rng.normal(size=shape).astype(np.float32),
    }


def write(path, values, **options):
    n_steps, *grid = next(iter(values.values())).shape[1:]
    axes = {name: np.linspace(0, 1, points) for name, points in zip("xy", grid, strict=False)}
    write_trajectories(path, values, time=np.arange(n_steps) / 4000, axes=axes, name="test", **options)


def one_line(info, *words):
    message = str(info.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def bytes_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@contextmanager
def small_disk(folder: Path, size: str):
    "A disk of that size, which can grow; the test is skipped where none can be mounted."
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        yield lambda larger: subprocess.run(["mount", "-o", f"remount,size={larger}", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a log file may still be open


# A small set, to be made by a process of its own
GENERATE = """
import sys
from physmodjax.datasets.generate import DatasetSpec, generate
spec = DatasetSpec.of("tiny", rate=8000.0, n_modes=6, n_points=25, n_steps=60, n_trajectories=30,
                      trajectories_per_file=2)
generate(spec, sys.argv[1], progress=False)
"""
