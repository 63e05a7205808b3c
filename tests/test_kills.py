"Trainings and generations that are killed without warning at random moments, and on disks that fill up: same bytes."
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import GRU, QUICK
from recordings import GENERATE, bytes_of, small_disk
from training_problem import history, numbers, resume, start

from physmodjax.training.checkpoint import Checkpoints

SEED = int(os.environ.get("KILL_SEED", "0"))  # of the moments
N_KILLS = int(os.environ.get("KILLS", "20"))  # of trainings, and of generations

STEPS = ["trainer.max_steps=60", "trainer.eval_every=10", "trainer.checkpoint_every=4", "audio.enabled=false"]
PLAIN = [*[argument for argument in QUICK if not argument.startswith("logger")], *STEPS]
TRAININGS = {
    "dropout, batch statistics, an average of the parameters, spectra": [
        "model=lru", "model.initialise=random", "model.network.d_model=8", "model.network.n_layers=1",
        "model.network.recurrence.d_hidden=4", "model.network.norm=batch", "model.network.dropout=0.2",
        "trainer.averaged=true", "loss=mse_spectral", "logger=none",
    ],
    "Weights & Biases": [*GRU, "logger=wandb"],
    "lbfgs": [*GRU, "optimizer=lbfgs", "trainer.batch_size=6", "logger=none"],
    "read off the data": ["model=oscillator", "logger=none"],
    "fitted in closed form": ["model=dmd", "logger=none"],
}  # fmt: skip


class Killer:
    "Runs commands that it may kill after a random time, and counts the kills."

    def __init__(self, root: Path, place: Path, seed):
        self.root, self.place, self.random, self.n_kills = root, place, random.Random(seed), 0

    def start(self, name: str, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, str(self.root / "scripts" / f"{name}.py"), *arguments]
        with open(self.place / "stderr.txt", "wb") as err:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err)

    def finish(self, name: str, *arguments: str) -> float:  # s
        "Runs a command that nothing disturbs."
        began, child = time.monotonic(), self.start(name, *arguments)
        assert child.wait(timeout=300) == 0, (self.place / "stderr.txt").read_text()[-2000:]
        return time.monotonic() - began

    def kill(self, within: float, name: str, *arguments: str) -> bool:  # False: it ended before
        "Kills a command at a moment drawn uniformly from the duration of an undisturbed one."
        child = self.start(name, *arguments)
        try:
            status = child.wait(timeout=self.random.uniform(0, within))
            assert status == 0, (self.place / "stderr.txt").read_text()[-2000:]
            return False
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            self.n_kills += 1
            return True


def left_by(run: Path) -> dict:
    "All that a training decided: figures, and every checkpoint with parameters, optimiser, statistics and history."
    metrics = json.loads((run / "metrics.json").read_text())
    figures = {name: metrics[name] for name in ("best", "final", "steps", "best_step", "reason", "trust", "modes")}
    checkpoints, states = Checkpoints(run / "checkpoints", read_only=True), {}
    for step in checkpoints.steps:
        arrays, metadata = checkpoints.read(step)
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in metadata["history"]]
        arrays = {name: (array.shape, str(array.dtype), array.tobytes()) for name, array in arrays.items()}
        states[step] = (arrays, rows, metadata["data"], metadata.get("running_loss"))
    leftovers = [p.name for p in (run / "checkpoints").iterdir() if not p.name.isdecimal()]
    return {"figures": figures, "states": states, "leftovers": leftovers}


def resumed(folder: Path, arguments: list[str]) -> list[str]:
    "What one says after a kill: resume=, or the same again where the run had not claimed its folder yet."
    return [f"resume={folder}"] if (folder / "run.json").exists() else [*arguments, f"hydra.run.dir={folder}"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRAININGS)
def test_a_killed_training_ends_as_one_that_was_not(kind, root, data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["dataset=tiny", *PLAIN, *TRAININGS[kind], f"data_dir={data_dir}"]
    killer = Killer(root, tmp_path, f"{SEED} {kind}")
    killer.finish("train", *arguments, f"hydra.run.dir={tmp_path / 'first'}")  # compiles
    duration = killer.finish("train", *arguments, f"hydra.run.dir={tmp_path / 'whole'}")
    expected, n_runs = left_by(tmp_path / "whole"), 0
    assert left_by(tmp_path / "first") == expected
    while killer.n_kills < N_KILLS / len(TRAININGS):
        folder = tmp_path / f"cut{n_runs}"
        while not (folder / "metrics.json").exists() and killer.n_kills < N_KILLS / len(TRAININGS):
            killer.kill(duration, "train", *resumed(folder, arguments))
        if not (folder / "metrics.json").exists():
            killer.finish("train", *resumed(folder, arguments))
        assert left_by(folder) == expected
        n_runs += 1
    print(f"{kind}: {killer.n_kills} kills in {n_runs} trainings of {duration:.1f} s, seed {SEED}")


@pytest.mark.slow
def test_a_killed_generation_ends_as_one_that_was_not(root, tmp_path):
    arguments = ["dataset=tiny", "dataset.n_trajectories=120", "dataset.trajectories_per_file=2", "progress=false"]
    at = lambda place: [*arguments, f"data_dir={place}", f"hydra.run.dir={place}.log"]  # noqa: E731
    killer = Killer(root, tmp_path, f"{SEED} generation")
    killer.finish("generate", *at(tmp_path / "first"))
    duration = killer.finish("generate", *at(tmp_path / "whole"))
    expected, n_sets = bytes_of(tmp_path / "whole"), 0
    assert bytes_of(tmp_path / "first") == expected and len(expected) > 60
    while killer.n_kills < N_KILLS:
        place, in_turn = tmp_path / f"cut{n_sets}", 0
        while in_turn < 4 and killer.n_kills < N_KILLS and killer.kill(duration, "generate", *at(place)):
            in_turn += 1
        killer.finish("generate", *at(place))
        assert bytes_of(place) == expected
        shutil.rmtree(place)
        n_sets += 1
    print(f"generation: {killer.n_kills} kills in {n_sets} sets of {duration:.1f} s, seed {SEED}")


# Disks that fill up


def pages(share: float, folder: Path) -> str:
    "A part of what a folder takes on a disk, in pages of 4 kB."
    used = sum(-(-path.stat().st_size // 4096) for path in folder.rglob("*") if path.is_file())
    return f"{int(share * 4 * used)}k"


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.35, 0.6, 0.85])
def test_a_training_goes_on_when_the_full_disk_has_room_again(share, root, data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["dataset=tiny", *PLAIN, *GRU, "logger=none", f"data_dir={data_dir}"]
    killer = Killer(root, tmp_path, SEED)
    killer.finish("train", *arguments, f"hydra.run.dir={tmp_path / 'whole'}")
    with small_disk(tmp_path / "disk", pages(share, tmp_path / "whole")) as grow:
        folder = tmp_path / "disk" / "run"
        status = killer.start("train", *arguments, f"hydra.run.dir={folder}").wait(timeout=300)
        message = (tmp_path / "stderr.txt").read_text()
        assert status == 1 and len(message.splitlines()) == 1 and not (folder / "metrics.json").exists(), message
        grow("20m")
        killer.finish("train", *resumed(folder, arguments))
        assert left_by(folder) == left_by(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_generation_goes_on_when_the_full_disk_has_room_again(share, root, tmp_path):
    arguments = ["dataset=tiny", "dataset.trajectories_per_file=1", "dataset.n_trajectories=20", "progress=false"]
    killer = Killer(root, tmp_path, SEED)
    killer.finish("generate", *arguments, f"data_dir={tmp_path / 'whole'}", f"hydra.run.dir={tmp_path / 'a'}")
    expected = bytes_of(tmp_path / "whole")
    with small_disk(tmp_path / "disk", pages(share, tmp_path / "whole")) as grow:
        at = [*arguments, f"data_dir={tmp_path / 'disk'}"]
        status = killer.start("generate", *at, f"hydra.run.dir={tmp_path / 'b'}").wait(timeout=300)
        message = (tmp_path / "stderr.txt").read_text()
        assert status == 1 and len(message.splitlines()) == 1, message
        grow("20m")
        killer.finish("generate", *at, f"hydra.run.dir={tmp_path / 'c'}")
        assert bytes_of(tmp_path / "disk") == expected


# The same in a second, for every run of the tests


@pytest.mark.parametrize("delay", [0.0, 0.08])
def test_killed_run_resumes_to_the_same_numbers(whole, tmp_path, delay):
    child = start(run=str(tmp_path), max_steps=30, checkpoint_every=1)
    while child.stdout.readline() != "step 10\n":  # validated, about to save
        assert child.poll() is None
    time.sleep(delay)
    child.kill()
    child.communicate()
    steps = Checkpoints(tmp_path / "checkpoints", read_only=True).steps
    assert steps and steps[-1] >= 9
    resumed = resume(tmp_path)
    assert numbers(resumed) == whole["parameters"] and history(resumed) == whole["history"]
    assert resumed.losses == whole["losses"][steps[-1] :]
    assert all(p.name.isdigit() for p in (tmp_path / "checkpoints").iterdir())


KILL = """
import os, signal
calls, fsync = [], os.fsync
def die(fd):  # in the middle of the fifth write: the specification and two files are done, the third perhaps
    calls.append(fd)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(fd)
os.fsync = die
"""


@pytest.mark.training
def test_killed_generation_resumes_to_the_same_bytes(finished, tmp_path):
    folder = tmp_path / "tiny"
    killed = subprocess.run([sys.executable, "-c", KILL + GENERATE, str(tmp_path)], stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    before = bytes_of(folder)
    done = [name for name in before if name.endswith(".hdf5")]
    assert 2 <= len(done) <= 3 and "manifest.json" not in before  # two are written at a time
    assert any(name.endswith(".tmp") for name in before)  # the file that was being written
    subprocess.run([sys.executable, "-c", GENERATE, str(tmp_path)], check=True, stderr=subprocess.DEVNULL)
    after = bytes_of(folder)
    assert all(after[name] == before[name] for name in done)
    assert after == bytes_of(finished)
