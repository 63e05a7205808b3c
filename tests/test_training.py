"""Faults a training must survive: kill -9, a failing logger, a full disk, a damaged checkpoint, a loss that is NaN"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from training_problem import SETTINGS, Data, problem

from physmodjax.training.checkpoint import CheckpointError, Checkpoints, flatten_state, load_variables, restore
from physmodjax.training.loop import fit

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


@pytest.fixture(scope="module")
def whole():
    "The training that nothing disturbs."
    return train(max_steps=30)


def test_same_seed_same_numbers(whole):
    assert train(max_steps=30) == whole
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
    resumed = train(run=str(tmp_path), max_steps=30, resume=True)
    assert resumed["parameters"] == whole["parameters"]
    assert resumed["losses"] == whole["losses"][steps[-1] :]
    assert all(p.name.isdigit() for p in (tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_saves_and_ends_cleanly(whole, tmp_path, number):
    child = start(run=str(tmp_path), max_steps=30, pause=0.5, checkpoint_every=1000)
    while child.stdout.readline() != "step 10\n":
        assert child.poll() is None, child.stderr.read()
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    result = json.loads(out.splitlines()[-1])
    assert child.returncode == 0 and result["reason"] == "interrupted", err
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).steps[-1] == len(result["losses"])
    assert train(run=str(tmp_path), max_steps=30, resume=True)["parameters"] == whole["parameters"]


def test_full_disk_is_one_line_and_leaves_the_last_checkpoint(whole, tmp_path):
    child = start(run=str(tmp_path), max_steps=30, full_after=20, checkpoint_every=5)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert len(err.strip().splitlines()) == 1, err
    assert "not saved" in err and "step 15 can be restored" in err and "too large" in err
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10", "15"]
    assert train(run=str(tmp_path), max_steps=30, resume=True)["parameters"] == whole["parameters"]


class FailingLogger:
    def __init__(self):
        self.calls = 0

    def log(self, metrics, step):
        self.calls += 1
        raise ConnectionError("no network")


def test_failing_logger_warns_once_and_changes_nothing(whole):
    logger = FailingLogger()
    with pytest.warns(RuntimeWarning, match="FailingLogger.log failed.*no network") as caught:
        result = fit(*problem(), Data(), max_steps=30, logger=logger, log_every=1, **SETTINGS)
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
    result = fit(*problem(), Data(), max_steps=25, logger=logger, log_every=5, **SETTINGS)
    assert [step for step, metrics in logger.rows if "train/loss" in metrics] == [5, 10, 15, 20, 25]
    assert [step for step, metrics in logger.rows if "valid/mse_rel" in metrics] == [10, 20, 25]
    assert [row["step"] for row in result.history] == [10, 20, 25] and logger.finished
    assert result.seconds >= result.seconds_to_first_step > 0 and result.frames_per_second > 0


def test_recalibrated_statistics_belong_to_the_parameters():
    lagging = fit(*problem(), Data(), max_steps=3, **SETTINGS)
    measured = fit(*problem(), Data(), max_steps=3, recalibrate=3, **SETTINGS)
    inputs = np.concatenate([Data().batch_at(n)[0] for n in range(3)])
    variance = np.mean([Data().batch_at(n)[0].var() for n in range(3)])
    stats = measured.state.batch_stats["norm"]
    np.testing.assert_allclose(stats["mean"], inputs.mean(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(stats["var"], variance, rtol=1e-3)
    assert abs(lagging.state.batch_stats["norm"]["mean"][0]) < abs(inputs.mean())
    jax.tree.map(np.testing.assert_array_equal, measured.state.params, lagging.state.params)


def test_divergence_keeps_the_best_checkpoint(tmp_path):
    class Spoilt(Data):
        def batch_at(self, step):
            x0, target = super().batch_at(step)
            return (x0, target * np.nan) if step == 13 else (x0, target)

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    result = fit(*problem(), Spoilt(), max_steps=30, checkpoints=checkpoints, checkpoint_every=1000, **SETTINGS)
    assert result.reason == "diverged" and "step 14" in result.message and "\n" not in result.message
    assert checkpoints.steps == [10] and load_variables(tmp_path, "best")[1]["step"] == 10


def test_caller_keeps_its_state():
    model, state, optimizer = problem()
    before = jax.tree.map(np.array, state.params)
    fit(model, state, optimizer, Data(), max_steps=2, **SETTINGS)
    jax.tree.map(np.testing.assert_array_equal, state.params, before)


def test_resume_without_a_checkpoint_starts_and_at_the_end_ends(whole, tmp_path):
    settings = {**SETTINGS, "checkpoints": Checkpoints(tmp_path / "checkpoints"), "resume": True}
    first = fit(*problem(), Data(), max_steps=30, **settings)
    again = fit(*problem(seed=3), Data(), max_steps=30, **settings)
    assert len(first.losses) == 30 and again.losses == []
    jax.tree.map(np.testing.assert_array_equal, first.state.params, again.state.params)


def cut(path, content):
    path.write_bytes(content[: len(content) // 2])


def flip(path, content):
    middle = 3 * len(content) // 4
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # threads of the library below
@pytest.mark.parametrize("harm", [cut, flip])
def test_damage_to_any_file_is_one_line_or_does_no_harm(tmp_path, harm):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    result = fit(*problem(), Data(), max_steps=3, checkpoints=checkpoints, metadata={"config": {"a": 1}}, **SETTINGS)
    saved, metadata = flatten_state(result.state), restore(tmp_path, result.state)[1]
    noticed = 0
    for path in [p for p in (tmp_path / "checkpoints" / "3").rglob("*") if p.is_file()]:
        content = path.read_bytes()
        harm(path, content)
        try:
            state, found = restore(tmp_path, result.state)
            jax.tree.map(np.testing.assert_array_equal, flatten_state(state), saved)
            assert found == metadata
        except CheckpointError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            noticed += 1
        path.write_bytes(content)
    assert noticed >= 3


def test_training_imports_neither_hydra_nor_wandb():
    program = "import sys, physmodjax.training.loop as l; print([m for m in ('hydra', 'wandb') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    out = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
