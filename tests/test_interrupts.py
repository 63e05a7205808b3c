"Runs that are asked to stop: they save, say so everywhere, and nothing goes on as if they had finished."
import json
import os
import signal
from pathlib import Path

import pytest
from commands import GRU, QUICK
from training_problem import history, numbers, resume, start

from physmodjax.datasets.loader import Loader
from physmodjax.training.checkpoint import Checkpoints


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_saves_and_ends_cleanly(whole, tmp_path, number):
    child = start(run=str(tmp_path), max_steps=30, pause=0.5, checkpoint_every=1000)
    while child.stdout.readline() != "step 10\n":
        assert child.poll() is None, child.stderr.read()
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    result = json.loads(out.splitlines()[-1])
    assert child.returncode == 0 and (result["reason"], result["signal"]) == ("interrupted", number), err
    assert f"interrupted by {number.name} after step" in result["message"]
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).steps[-1] == len(result["losses"])
    resumed = resume(tmp_path)
    assert numbers(resumed) == whole["parameters"] and history(resumed) == whole["history"]


@pytest.fixture
def stopping(monkeypatch):
    "A function that lets a training be told to stop while a step is under way, once."
    batch_at = Loader.batch_at

    def at(step, number):
        sent = []

        def batch_and_signal(self, n):
            if n == step and not sent:
                sent.append(os.kill(os.getpid(), number))
            return batch_at(self, n)

        monkeypatch.setattr(Loader, "batch_at", batch_and_signal)

    return at


STEPS = ["dataset=tiny", *QUICK, *GRU, "trainer.max_steps=6", "trainer.eval_every=3", "audio.enabled=false"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_says_so_everywhere(number, stopping, call, data_dir, tmp_path, undrawn):
    "Exit status, standard error, log, metrics.json; and it goes on to the end from there."
    stopping(4, number)
    status, out, err = call("train", *STEPS, f"data_dir={data_dir}")
    folder = tmp_path / "out"
    assert status == 128 + number
    message = f"interrupted by {number.name} after step 4"
    assert message in err[-1] and f"go on with resume={folder}" in err[-1]
    assert message in (folder / "train.log").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["reason"], metrics["steps"]) == ("interrupted", 4)
    status, out, err = call("train", f"resume={folder}")
    assert status == 0 and "finished before" not in out, err
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["reason"], metrics["steps"]) == ("finished", 6)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_a_sweep_that_is_stopped_begins_no_other_job(number, stopping, call, data_dir, tmp_path, undrawn):
    stopping(2, number)
    where = ["hydra.sweep.dir=sweep", "hydra.sweep.subdir=${hydra:job.num}"]
    status, _, err = call("train", "-m", *STEPS, f"data_dir={data_dir}", "seed=1,2", *where)
    assert status == 128 + number and f"interrupted by {number.name}" in err[-1]
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["0", "multirun.yaml"]
    assert json.loads((tmp_path / "sweep" / "0" / "metrics.json").read_text())["reason"] == "interrupted"


def test_an_interrupt_before_the_training_leaves_nothing_that_looks_finished(call, monkeypatch, tmp_path):
    "While data are made: the command ends at once, and made again they are the same."

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("physmodjax.datasets.generate.write_shards", interrupt)
    for name in ("train", "generate"):
        arguments = STEPS if name == "train" else ["dataset=tiny"]
        status, _, err = call(name, *arguments, "data_dir=data", folder=tmp_path / name)
        assert (status, err) == (130, ["interrupted"])
        assert not list(Path(tmp_path).rglob("manifest.json")) and not list(Path(tmp_path).rglob("metrics.json"))
    monkeypatch.undo()
