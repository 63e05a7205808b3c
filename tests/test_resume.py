"Going on with a run: it ends as if nothing had been, and nothing of it is lost on the way."
import json
import os
import shutil
import signal
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
import training_problem
from commands import QUICK
from training_problem import Data, history, problem

from physmodjax.datasets import Dataset
from physmodjax.experiments import RunOptions, train
from physmodjax.experiments.record import Record, check_resumable, warn_of_consequences
from physmodjax.training.checkpoint import CheckpointError, Checkpoints, restore


def contents(folder):
    "Bytes and times of all files of a folder."
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_resume_without_a_checkpoint_starts_and_at_the_end_touches_nothing(tmp_path):
    settings = {"checkpoints": Checkpoints(tmp_path / "checkpoints"), "resume": True}
    first = training_problem.train(**settings)
    before = contents(tmp_path)
    again = training_problem.train(seed=3, **settings)
    assert len(first.losses) == 30 and again.losses == [] and contents(tmp_path) == before
    assert again.reason == "finished" and "finished before" in again.message and again.history == first.history
    jax.tree.map(np.testing.assert_array_equal, first.state.params, again.state.params)


@pytest.mark.parametrize("stopped_at", [7, 10, 13, 29])
def test_history_after_a_resume_is_that_of_the_whole_run(whole, tmp_path, stopped_at):
    "Checkpoints between two validations, at one, and just before the end."

    class Stopping(Data):
        def batch_at(self, step):  # asked for when the step before is under way
            if step == stopped_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch_at(step)

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    first = training_problem.train(Stopping(), checkpoints=checkpoints)
    assert (first.reason, first.signal, len(first.losses)) == ("interrupted", signal.SIGTERM, stopped_at)
    resumed = training_problem.train(seed=5, checkpoints=checkpoints, resume=True)
    assert history(resumed) == whole["history"] and first.losses + resumed.losses == whole["losses"]


def test_a_step_saved_again_replaces_the_former_only_when_it_is_whole(tmp_path, monkeypatch):
    checkpoints, (_, state, _) = Checkpoints(tmp_path / "checkpoints"), problem()
    state = state.replace(step=np.int32(4))
    checkpoints.save(state, {"try": 1})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._files, "save", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(CheckpointError, match="step 4 not saved, step 4 can be restored"):
            checkpoints.save(state, {"try": 2})
    assert restore(tmp_path, state)[1]["try"] == 1
    checkpoints.save(state, {"try": 3})
    assert restore(tmp_path, state)[1]["try"] == 3 and [p.name for p in checkpoints.directory.iterdir()] == ["4"]


@pytest.mark.parametrize("left", [("4", "4.new"), ("4.new", "4.old"), ("4.new",), ("4", "4.old"), ("4", "4.tmp")])
def test_whatever_a_kill_leaves_of_a_replacement_the_step_is_there(tmp_path, left):
    checkpoints, (_, state, _) = Checkpoints(tmp_path / "checkpoints"), problem()
    checkpoints.save(state.replace(step=np.int32(4)), {})
    place = checkpoints.directory / "4"
    for name in left:
        if name.endswith(".tmp"):
            (checkpoints.directory / "4.new.orbax-checkpoint-tmp-1").mkdir()
        elif name != "4":
            shutil.copytree(place, place.with_name(name))
    if "4" not in left:
        shutil.rmtree(place)
    assert Checkpoints(checkpoints.directory).steps == [4]
    assert [p.name for p in checkpoints.directory.iterdir()] == ["4"] and restore(tmp_path, state)[1]["step"] == 4


# The commands


@pytest.fixture
def run(run_dir, tmp_path) -> Path:
    "A finished run of one step, to be gone on with."
    return shutil.copytree(run_dir, tmp_path / "run")


def figures(folder):
    "What a training decided, as metrics.json has it."
    metrics = json.loads((folder / "metrics.json").read_text())
    return {name: metrics[name] for name in ("best", "final", "steps", "best_step", "reason", "n_parameters", "trust")}


@pytest.mark.parametrize("arguments", [[], ["trainer.max_steps=1"], ["trainer.log_every=3", "evaluation.example=1"]])
def test_a_finished_run_is_said_to_be_finished_and_stays_as_it_is(arguments, run, call):
    before = contents(run)
    status, out, err = call("train", f"resume={run}", *arguments)
    assert (status, err) == (0, []) and out.startswith("finished before, after 1 steps: nothing to do")
    assert contents(run) == before and json.loads((run / "metrics.json").read_text())["frames_per_second"] >= 0


@pytest.mark.slow
def test_a_run_fitted_in_closed_form_stays_as_it_is(trained, call, tmp_path):
    run = shutil.copytree(trained("dmd"), tmp_path / "run")
    before = contents(run)
    status, out, err = call("train", f"resume={run}")
    assert (status, err) == (0, []) and "finished before, after 0 steps" in out and contents(run) == before


CHANGES = {
    "seed": ["seed=3"],
    "optimizer": ["optimizer=sgd"],
    "optimizer.learning_rate": ["optimizer.learning_rate=0.1"],
    "optimizer.schedule": ["optimizer.schedule=constant"],
    "optimizer.clip_norm": ["optimizer.clip_norm=null"],
    "loss.weights.mae": ["loss.weights.mae=1"],
    "loss.weights.spectral": ["loss=mse_spectral"],
    "trainer.batch_size": ["trainer.batch_size=3"],
    "trainer.window_length": ["trainer.window_length=20"],
    "trainer.averaged": ["trainer.averaged=true"],
    "trainer.recalibrate": ["trainer.recalibrate=2"],
    "model.context": ["model.context=2"],
    "model.name": ["model=lstm"],
    "model.network.d_model": ["model.network.d_model=16"],
    "model.initialise": ["model.initialise=data"],
    "dataset.seed": ["dataset.seed=3"],
    "dataset.n_trajectories": ["dataset.n_trajectories=20"],
    "dataset.name": ["dataset=tiny_linear"],
    "dataset": ["dataset.path=film.npz"],
    "object.note": ["object.note=A2"],
}


@pytest.mark.parametrize("key", CHANGES)
def test_what_decides_the_numbers_cannot_change(key, run, refused):
    before = contents(run)
    line = refused("train", f"resume={run}", "trainer.max_steps=3", *CHANGES[key])
    assert key in line and "of a resumed run: got" in line and "start a new run for that" in line
    assert contents(run) == before


def test_the_same_command_line_again_is_no_change(run, call, data_dir):
    "All that it names is as it was."
    arguments = ["dataset=tiny", "model=gru", "model.network.d_model=24", "model.network.n_layers=2"]
    status, out, err = call("train", f"resume={run}", *arguments, *QUICK, f"data_dir={data_dir}")
    assert status == 0 and "finished before" in out, err


def test_going_on_for_longer_says_what_that_means(run, call, undrawn):
    status, _, err = call("train", f"resume={run}", "trainer.max_steps=3", "audio.enabled=false")
    assert status == 0 and len(err) == 1, err
    assert "trainer.max_steps of a resumed run was 1, is 3" in err[0] and "warmup_cosine" in err[0]
    assert figures(run)["steps"] == 3


CONSEQUENCES = [
    ({"trainer.max_steps": (1, 2)}, "cosine", ["cosine of that many steps"]),
    ({"trainer.max_steps": (1, 2)}, "constant", []),
    ({"trainer.max_steps": (1, 2)}, None, []),
    ({"trainer.eval_every": (60, 7)}, None, ["was 60, is 7", "best"]),
    ({"trainer.checkpoint_every": (60, 7), "trainer.log_every": (1, 2), "audio.duration": (1, 2)}, "cosine", []),
]


@pytest.mark.parametrize(("changes", "schedule", "words"), CONSEQUENCES, ids=range(len(CONSEQUENCES)))
def test_what_follows_from_a_change_is_said(changes, schedule, words):
    check_resumable(changes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_consequences(changes, schedule)
    assert len(caught) == bool(words) and all(word in str(caught[0].message) for word in words)


def test_a_run_killed_before_its_first_checkpoint_needs_its_folder_alone(run, call, tmp_path, undrawn):
    "The claim holds what was asked for."
    expected = figures(run)
    for left in ("metrics.json", "report.html"):
        (run / left).unlink()
    for left in ("checkpoints", "media"):
        shutil.rmtree(run / left)
    assert [p.name for p in run.iterdir() if p.name[0] != "."] == ["run.json"]
    status, _, err = call("train", f"resume={run}")
    assert (status, err) == (0, []) and figures(run) == expected


NO_RUNS = {
    "an empty name": (lambda run: "", "resume: got ''"),
    "nowhere": (lambda run: "nowhere", "resume: got nowhere"),
    "its checkpoints": (lambda run: run / "checkpoints", "expected a run directory"),
    "an empty folder": (lambda run: (run / "empty").mkdir() or run / "empty", "expected a run directory"),
    "a file": (lambda run: run / "metrics.json", "expected a run directory"),
    "a claim alone": (lambda run: Record(run / "x").claim() and run / "x", "expected a run directory"),
    "a claim that interpolates": (
        lambda run: Record(run / "x").claim(settings=dict.fromkeys(GROUPS, "${oc.env:HOME}")) and run / "x",
        "got an interpolation",
    ),
}
GROUPS = ("seed", "model", "trainer", "optimizer", "loss", "evaluation", "audio")


@pytest.mark.parametrize("case", NO_RUNS)
def test_what_is_no_run_cannot_be_resumed(case, run, refused):
    make, message = NO_RUNS[case]
    assert message in refused("train", f"resume={make(run)}")


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_data_that_have_changed_are_refused(part, tmp_path, undrawn):
    "Even where the scale of the training split is the same."
    film = np.random.default_rng(0).normal(size=(10, 12, 5)).astype(np.float32)
    model = {"network": {"_target_": "physmodjax.models.rnn.RNNModel", "d_model": 4, "n_layers": 0}}
    options = {"trainer": {"batch_size": 2, "max_steps": 1}, "audio": {"enabled": False}, "progress": False}
    run = tmp_path / "run"
    train(Dataset.from_arrays(film, rate=1e3), model, run, RunOptions(**options))
    index = {"train": 0, "valid": 8, "test": 9}[part]
    film[index, [3, 4]] = film[index, [4, 3]]
    options["trainer"]["max_steps"] = 2
    with pytest.raises(ValueError, match="checksum of the data: got .* the data differ from those of the run"):
        train(Dataset.from_arrays(film, rate=1e3), model, run, RunOptions(**options, resume=True))
    with pytest.raises(ValueError, match="model.network.d_model of a resumed run: got 8, expected 4"):
        model["network"]["d_model"] = 8
        train(Dataset.from_arrays(film, rate=1e3), model, run, RunOptions(**options, resume=True))
