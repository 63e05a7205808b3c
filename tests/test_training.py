"""Faults a training must survive: kill -9, a failing logger, a full disk, a damaged checkpoint, a loss that is NaN"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
import training_problem
from training_problem import Data, history, numbers, problem

from physmodjax.training.checkpoint import CheckpointError, Checkpoints, flatten_state, load_variables, restore
from physmodjax.training.loop import FitOptions, fit
from physmodjax.training.optim import learning_rate_of

HERE = Path(__file__).parent


def start(n_devices=1, **options):
    "Process that trains."
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(HERE.parent)}
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={n_devices}"
    command = [sys.executable, str(HERE / "training_problem.py"), json.dumps(options)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def train(n_devices=1, **options):
    "What a training in a process of its own prints last."
    child = start(n_devices, **options)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def resume(folder):
    "The rest of a training that another process began."
    return training_problem.train(seed=5, checkpoints=Checkpoints(folder / "checkpoints"), resume=True)


@pytest.fixture(scope="module")
def whole():
    "The training that nothing disturbs."
    return train(max_steps=30)


def test_same_seed_same_numbers(whole):
    again = training_problem.train()
    assert numbers(again) == whole["parameters"]
    assert again.losses == whole["losses"] and history(again) == whole["history"]
    assert whole["losses"][-1] < whole["losses"][0]


def test_two_devices_train_like_one(whole):
    two = train(n_devices=2, max_steps=30)
    assert two["devices"] == 2 and whole["devices"] == 1 and two["warnings"] == []
    np.testing.assert_allclose(two["losses"], whole["losses"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(two["parameters"], whole["parameters"], rtol=1e-4, atol=1e-5)


def test_two_hosts_train_like_one(whole, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hosts = [start(run=str(tmp_path), host=[address, 2, n], max_steps=30) for n in range(2)]
    outputs = [host.communicate(timeout=120) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], outputs
    for out, _ in outputs:
        result = json.loads(out.splitlines()[-1])
        assert result["devices"] == 2
        np.testing.assert_allclose(result["losses"], whole["losses"], rtol=1e-5, atol=1e-6)
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).steps[-1] == 30


def test_a_batch_that_does_not_split_uses_fewer_devices_and_says_so():
    three = train(n_devices=3, max_steps=2)
    assert three["warnings"] == ["2 of 3 devices are used: they must divide the batch size, 8"]


@pytest.mark.parametrize("delay", [0.0, 0.08])
def test_killed_run_resumes_to_the_same_numbers(whole, tmp_path, delay):
    child = start(run=str(tmp_path), max_steps=30, checkpoint_every=1)
    while child.stdout.readline() != "step 10\n":  # validated, about to save
        assert child.poll() is None, child.stderr.read()
    time.sleep(delay)
    child.kill()
    child.communicate()
    steps = Checkpoints(tmp_path / "checkpoints", read_only=True).steps
    assert steps and steps[-1] >= 9
    resumed = resume(tmp_path)
    assert numbers(resumed) == whole["parameters"] and history(resumed) == whole["history"]
    assert resumed.losses == whole["losses"][steps[-1] :]
    assert all(p.name.isdigit() for p in (tmp_path / "checkpoints").iterdir())


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


def test_full_disk_is_one_line_and_leaves_the_last_checkpoint(whole, tmp_path):
    child = start(run=str(tmp_path), max_steps=30, full_after=20, checkpoint_every=5)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert len(err.strip().splitlines()) == 1, err
    assert "not saved" in err and "step 15 can be restored" in err and "too large" in err
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10", "15"]
    assert numbers(resume(tmp_path)) == whole["parameters"]


class FailingLogger:
    def __init__(self):
        self.calls = 0

    def log(self, metrics, step):
        self.calls += 1
        raise ConnectionError("no network")


def test_failing_logger_warns_once_and_changes_nothing(whole):
    logger = FailingLogger()
    with pytest.warns(RuntimeWarning, match="FailingLogger.log failed.*no network") as caught:
        result = training_problem.train(logger=logger, log_every=1)
    assert logger.calls == 1 and len([w for w in caught if w.category is RuntimeWarning]) == 1
    np.testing.assert_allclose(result.losses, whole["losses"], rtol=1e-5)


class ListLogger:
    def __init__(self):
        self.rows, self.finished = [], False

    def log(self, metrics, step):
        self.rows.append((step, metrics))

    def finish(self):
        self.finished = True


def test_logger_gets_training_and_validation_and_the_last_partial_evaluation():
    logger = ListLogger()
    result = training_problem.train(max_steps=25, logger=logger, log_every=5)
    assert [step for step, metrics in logger.rows if "train/loss" in metrics] == [5, 10, 15, 20, 25]
    assert [step for step, metrics in logger.rows if "valid/mse_rel" in metrics] == [10, 20, 25]
    assert [row["step"] for row in result.history] == [10, 20, 25] and logger.finished
    assert result.seconds >= result.seconds_to_first_step > 0 and result.frames_per_second > 0


@pytest.mark.parametrize("name", ["adamw", "sgd", "lbfgs"])
def test_the_learning_rate_of_each_step_is_logged(name):
    "That of the step that is logged; nothing where a line search finds the length of a step."
    logger, rate = ListLogger(), learning_rate_of(name, total_steps=6)
    training_problem.train(max_steps=6, logger=logger, log_every=2, learning_rate=rate)
    logged = [metrics.get("train/learning_rate") for _, metrics in logger.rows if "train/loss" in metrics]
    expected = [None] * 3 if rate is None else [float(rate(step)) for step in (1, 3, 5)]
    assert logged == expected


def test_recalibrated_statistics_belong_to_the_parameters():
    lagging, measured = training_problem.train(max_steps=3), training_problem.train(max_steps=3, recalibrate=3)
    inputs = np.concatenate([Data().batch_at(n).context for n in range(3)])
    variance = np.mean([Data().batch_at(n).context.var() for n in range(3)])
    stats = measured.state.batch_stats["norm"]
    np.testing.assert_allclose(stats["mean"], inputs.mean(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(stats["var"], variance, rtol=1e-3)
    assert abs(lagging.state.batch_stats["norm"]["mean"][0]) < abs(inputs.mean())
    jax.tree.map(np.testing.assert_array_equal, measured.state.params, lagging.state.params)


class Spoilt(Data):
    "Data whose target is NaN at one step, or in validations after it."

    def __init__(self, step, in_validation=False):
        super().__init__()
        self.step, self.in_validation, self.n_validations = step, in_validation, 0

    def batch_at(self, step):
        batch = super().batch_at(step)
        spoilt = step == self.step and not self.in_validation
        return batch._replace(target=batch.target * np.nan) if spoilt else batch

    def validation(self):
        self.n_validations += 1
        batches = super().validation()
        spoilt = self.in_validation and self.n_validations == self.step
        return [b._replace(target=b.target * np.nan) for b in batches] if spoilt else batches


def test_divergence_keeps_the_best_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    result = training_problem.train(Spoilt(13), checkpoints=checkpoints, checkpoint_every=1000)
    assert result.reason == "diverged" and "step 14" in result.message and "\n" not in result.message
    assert checkpoints.steps == [10] and load_variables(tmp_path, "best")[1]["step"] == 10


@pytest.mark.parametrize("spoilt", [1, 2, 3])
def test_a_validation_that_is_nan_warns_and_is_never_the_best(tmp_path, spoilt):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.warns(RuntimeWarning, match=f"validation at step {10 * spoilt}: mse_rel is nan") as caught:
        result = training_problem.train(Spoilt(spoilt, in_validation=True), checkpoints=checkpoints)
    assert len(caught) == 1 and result.reason == "finished"
    assert result.best["step"] != 10 * spoilt
    assert load_variables(tmp_path, "best")[1]["step"] == result.best["step"]


def test_only_validations_that_are_nan_leave_no_best(tmp_path):
    data = Data()
    data.validation = lambda: [b._replace(target=b.target * np.nan) for b in Data().validation()]
    with pytest.warns(RuntimeWarning, match="does not count as the best"):
        result = training_problem.train(data, checkpoints=Checkpoints(tmp_path / "checkpoints"))
    assert result.best is None and load_variables(tmp_path, "best")[1]["step"] == 30  # the newest


def test_caller_keeps_its_state():
    objective, state, optimizer = problem()
    before = jax.tree.map(np.array, state.params)
    fit(objective, state, Data(), FitOptions(optimizer, max_steps=2, progress=False))
    jax.tree.map(np.testing.assert_array_equal, state.params, before)


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


def test_training_imports_neither_hydra_nor_wandb():
    program = "import sys, physmodjax.training.loop as l; print([m for m in ('hydra', 'wandb') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    out = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
