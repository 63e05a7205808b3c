"One training in several processes on loopback: the numbers of one device, one folder, one voice, one end."
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import GRU, QUICK

from physmodjax.core.processes import Address
from physmodjax.datasets.dataset import Dataset, LoaderOptions
from physmodjax.datasets.loader import Loader, Normaliser, ordered_batches
from physmodjax.training.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["dataset=tiny", "dataset.n_trajectories=40", *QUICK, *GRU, "audio.enabled=false", "trainer.eval_every=1"]
SMALL += ["optimizer.schedule=constant", "optimizer.warmup_steps=0"]  # a step does not depend on how many there will be


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Run:
    "A training by the command line in `processes` processes of `devices` virtual devices each."

    def __init__(self, cwd, *arguments, processes=1, devices=1, of_each=(), slurm=False, timeout=60):
        port, self.children = free_port(), []
        for number in range(processes):
            env = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
            where = f"{{coordinator:'127.0.0.1:{port}',process_id:{number},n_processes:{processes},timeout:{timeout}}}"
            if slurm:
                env |= {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": str(processes)}
                env |= {"SLURM_PROCID": str(number), "SLURM_LOCALID": "0", "JAX_COORDINATOR_PORT": str(port)}
                where = "auto"
            words = [] if processes == 1 and not slurm else [f"trainer.distributed={where}"]
            words += of_each[number] if of_each else []
            command = [sys.executable, ROOT / "scripts/train.py", *SMALL, *arguments, *words]
            pipes = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self.children.append(subprocess.Popen(command, cwd=cwd, env=env, **pipes))

    def end(self):
        "Exit status, stdout, stderr of each."
        said = [child.communicate(timeout=240) for child in self.children]
        return [(child.returncode, *texts) for child, texts in zip(self.children, said, strict=True)]

    def losses(self, folder):
        "Ends well; training and validation losses of the run in `folder`."
        ended = self.end()
        assert all(status == 0 for status, _, _ in ended), ended
        return losses(folder)


def _own(out):
    "Lines of stdout but those of the library that carries sums between processors."
    return [line for line in out.splitlines() if not line.startswith("[Gloo]")]


def losses(folder):
    "(steps, 2): training loss and validation mse_rel of every step."
    rows = Checkpoints(folder / "checkpoints", read_only=True).read("latest")[1]["history"]
    return np.array([[row["loss"], row["mse_rel"]] for row in rows])


@pytest.fixture(scope="module")
def place(tmp_path_factory, data_dir):
    "Folder of the runs of this file, with the arguments that name its data."
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def alone(place):
    "The folder of four steps on one device."
    Run(place, "trainer.max_steps=4", "trainer.batch_size=8", "hydra.run.dir=alone").losses(place / "alone")
    return place / "alone"


def test_two_processes_give_the_losses_of_one(place, alone):
    "Each has one device. One run folder, named by process 0, one report, and process 1 says nothing."
    before = {path for path in (place / "outputs").glob("*/*")}
    run = Run(place, "trainer.max_steps=4", "trainer.batch_size=8", processes=2)
    (status, out, err), second = run.end()
    assert status == 0 and second[0] == 0, (err, second)
    (folder,) = {path for path in (place / "outputs").glob("*/*")} - before
    np.testing.assert_allclose(losses(folder), losses(alone), rtol=1e-6)
    assert _own(out)[0] == "2 processes train together" and out.count("\nreport ") == 1
    assert _own(second[1]) == [] and "error" not in second[2]
    log = (folder / "train.log").read_text()
    assert log.count("step 4:") == 1 and "learning_rate" in log
    assert json.loads((folder / "metrics.json").read_text())["steps"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("processes, devices", [(1, 8), (2, 4)])
def test_eight_devices_give_the_losses_of_one(place, processes, devices):
    arguments = ("trainer.max_steps=20", "trainer.batch_size=16", "trainer.distributed=none")
    if not (place / "one").exists():
        Run(place, *arguments, "hydra.run.dir=one").losses(place / "one")
    name = f"{processes}x{devices}"
    got = Run(place, *arguments[:2], f"hydra.run.dir={name}", processes=processes, devices=devices).losses(place / name)
    np.testing.assert_allclose(got, losses(place / "one"), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("first, then", [((1, 8), (1, 1)), ((1, 1), (1, 8)), ((2, 4), (1, 1)), ((1, 1), (2, 2))])
def test_a_checkpoint_goes_on_with_another_number_of_devices(place, alone, tmp_path, first, then):
    "Two steps here and two more elsewhere: the losses are those of one device that never stopped."
    arguments = ("trainer.batch_size=8", "trainer.max_steps=2", f"hydra.run.dir={tmp_path}/run")
    Run(place, *arguments, processes=first[0], devices=first[1]).losses(tmp_path / "run")
    arguments = ("trainer.batch_size=8", "trainer.max_steps=4", f"resume={tmp_path}/run")
    resumed = Run(place, *arguments, processes=then[0], devices=then[1]).losses(tmp_path / "run")
    np.testing.assert_allclose(resumed, losses(alone), rtol=1e-6)


@pytest.mark.slow
def test_slurm_is_found_by_itself(place, alone):
    "As srun starts two tasks; the coordinator follows from the list of nodes."
    arguments = ("trainer.max_steps=4", "trainer.batch_size=8", "hydra.run.dir=slurm")
    got = Run(place, *arguments, processes=2, slurm=True).losses(place / "slurm")
    np.testing.assert_allclose(got, losses(alone), rtol=1e-6)


@pytest.mark.slow
def test_auto_outside_of_a_cluster_goes_on_alone(place, tmp_path):
    where = [["trainer.distributed=auto"]]
    ((status, out, err),) = Run(place, "trainer.max_steps=1", f"hydra.run.dir={tmp_path}/run", of_each=where).end()
    assert status == 0, err
    assert out.startswith("trainer.distributed=auto: no other process here")


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_a_mistake_in_one_process_ends_both(place, tmp_path, failing):
    wrong = [[], []]
    wrong[failing] = ["evaluation.example=99"]
    ended = Run(place, "trainer.max_steps=100000", f"hydra.run.dir={tmp_path}/run", processes=2, of_each=wrong).end()
    assert [status for status, _, _ in ended] == [1, 1], ended
    assert ended[failing][2].startswith("error: evaluation.example: got 99")
    other = ended[1 - failing][2].splitlines()[-1]
    assert other.startswith(f"process {1 - failing} ends, as process {failing} failed: evaluation.example: got 99")


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_a_request_to_one_process_stops_both_after_the_same_step(place, tmp_path, asked):
    arguments = ("trainer.max_steps=100000", "trainer.checkpoint_every=1", f"hydra.run.dir={tmp_path}/run")
    run = Run(place, *arguments, processes=2)
    log, until = tmp_path / "run/train.log", time.monotonic() + 120
    while not (log.exists() and "step 3:" in log.read_text()):
        assert time.monotonic() < until and run.children[0].poll() is None, run.end()
        time.sleep(0.1)
    run.children[asked].send_signal(signal.SIGTERM)
    (status, _, err), second = run.end()
    assert (status, second[0]) == (143, 143), (err, second)
    assert "interrupted by SIGTERM after step" in err and "interrupted" not in second[2]
    assert (tmp_path / "run/metrics.json").exists()


@pytest.mark.slow
def test_a_process_that_never_comes_is_one_line(place, tmp_path):
    where = f"{{coordinator:'127.0.0.1:{free_port()}',process_id:1,n_processes:2,timeout:3}}"
    run = Run(place, f"hydra.run.dir={tmp_path}/run", f"trainer.distributed={where}")
    ((status, _, err),) = run.end()
    assert status == 1 and err.splitlines()[-1].startswith("error: distributed: got "), err
    assert not (tmp_path / "run").exists()


# What needs no second process

WRONG = {
    "slurm": "distributed: got 'slurm', expected auto, none or {coordinator, process_id, n_processes}",
    "{coordinator:node,process_id:0,n_processes:2}": "distributed.coordinator: got node, expected host:port",
    "{process_id:0,n_processes:2}": "distributed: got no coordinator",
    "{coordinator:'a:1',process_id:2,n_processes:2}": "distributed.process_id: got 2, expected at most 1",
    "{coordinator:'a:1',process_id:0,n_process:2}": "did you mean n_processes?",
    "3": "distributed: got 3",
}


@pytest.mark.parametrize("value", WRONG)
def test_what_cannot_be_joined_is_refused(refused, tmp_path, value):
    line = refused("train", f"trainer.distributed={value}")
    assert WRONG[value] in line
    assert not (tmp_path / "out").exists()


def test_an_address_reads_its_words():
    address = Address.read({"coordinator": "node7:1234", "process_id": 1, "n_processes": 3, "timeout": 5})
    assert (address.process_id, address.timeout) == (1, 5)


class Counted:
    "A source that says which trajectories were read."

    def __init__(self, frames):
        self.frames, self.shape, self.read = frames, frames.shape, []

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, key):
        self.read.append(key[0])
        return self.frames[key]


@pytest.mark.parametrize("n_parts", [1, 2, 4])
def test_each_process_reads_its_examples_alone(n_parts):
    "The parts of a batch, one after the other, are the batch; no other trajectory is touched. Validation likewise."
    frames = np.random.default_rng(0).normal(size=(10, 6, 5, 1)).astype(np.float32)
    words = dict(batch_size=8, seed=3, normaliser=Normaliser([0.0], [1.0]))
    whole, batches, held = Loader(frames, **words).batch_at(5), [], []
    for part in range(n_parts):
        source = Counted(frames)
        loader = Loader(source, **words, part=(part, n_parts))
        batches.append(loader.batch_at(5))
        assert len(source.read) == 8 // n_parts == batches[-1].size
        assert loader.state_dict() == Loader(frames, **words).state_dict()
        source.read.clear()
        list(ordered_batches(source, words["normaliser"], 3, part=(part, n_parts)))
        held += source.read
    np.testing.assert_array_equal(np.concatenate([batch.target for batch in batches]), whole.target)
    assert held == list(range(10))


def test_a_batch_that_the_processes_cannot_share_is_refused():
    data = Dataset.from_arrays(np.random.default_rng(0).normal(size=(20, 8, 5)), rate=100.0)
    with pytest.raises(ValueError, match="batch_size: got 5, expected a multiple of 2, one part for each process"):
        data.loader(LoaderOptions(batch_size=5, part=(1, 2)))
