"""How long the published data sets take to make, to write and to sum up, beside what the disk alone would take.

python benchmarks/generation.py [--sets NAME,NAME | strings | membranes] [--verify]; the last line is one
JSON object. Each set is made in an empty folder and deleted before the next. Without --sets: one string set.
"""
import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from physmodjax.core.memory import keep_memory
from physmodjax.datasets.generate import generate, verify
from physmodjax.experiments.data import CONF, named_spec, read_group

SETS = sorted(path.stem for path in (CONF / "dataset").glob("*linear_*.yaml"))
GROUPS = {f"{thing}s": [name for name in SETS if name.startswith(f"{thing}_")] for thing in ("string", "membrane")}


def disk_seconds(folder, n_bytes):
    "What writing so many bytes takes, made durable, in pieces of 64 MB."
    piece, path = os.urandom(1 << 20) * 64, folder / "plain"
    start = time.perf_counter()
    with open(path, "wb") as file:
        for _ in range(max(1, n_bytes // len(piece))):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    spent = time.perf_counter() - start
    path.unlink()
    return spent


def measure(name, root, check):
    spec = named_spec(read_group("dataset", name))
    start = time.perf_counter()
    folder = generate(spec, root, progress=None)
    result = {"seconds": time.perf_counter() - start}
    files = [path for path in folder.rglob("*.hdf5")]
    result |= {"gigabytes": sum(path.stat().st_size for path in files) / 1e9, "files": len(files)}
    if check:
        start = time.perf_counter()
        verify(folder)
        result["seconds_to_verify"] = time.perf_counter() - start
    shutil.rmtree(folder)
    return result | {"seconds_of_the_disk_alone": disk_seconds(root, int(1e9 * result["gigabytes"]))}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default="string_nonlinear_gaussian_16k", help="names, or strings, or membranes")
    parser.add_argument("--verify", action="store_true", help="recompute every checksum afterwards")
    arguments = parser.parse_args()
    keep_memory()
    results = {}
    with tempfile.TemporaryDirectory() as root:
        for name in GROUPS.get(arguments.sets) or arguments.sets.split(","):
            results[name] = measure(name, Path(root), arguments.verify)
            print(name, {key: round(value, 1) for key, value in results[name].items()}, flush=True)
    total = sum(result["seconds"] for result in results.values())
    print(json.dumps({"seconds": total, "sets": results}))


if __name__ == "__main__":
    main()
