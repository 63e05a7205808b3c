"""Faults a training must survive: kill -9, a failing logger, a full disk, a damaged checkpoint, a loss that is NaN"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import training_problem
from training_problem import Data, history, numbers, problem, start, train_apart

from physmodjax.training.checkpoint import Checkpoints, load_variables
from physmodjax.training.loop import FitOptions, fit
from physmodjax.training.optim import learning_rate_of

HERE = Path(__file__).parent


def test_same_seed_same_numbers(whole):
    again = training_problem.train()
    assert numbers(again) == whole["parameters"]
    assert again.losses == whole["losses"] and history(again) == whole["history"]
    assert whole["losses"][-1] < whole["losses"][0]


def test_two_devices_train_like_one(whole):
    two = train_apart(n_devices=2, max_steps=30)
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
    three = train_apart(n_devices=3, max_steps=2)
    assert three["warnings"] == ["2 of 3 devices are used: they must divide the batch size, 8"]


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
    assert "its batch is not finite either: look at the data" in result.message
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


def test_training_imports_neither_hydra_nor_wandb():
    program = "import sys, physmodjax.training.loop as l; print([m for m in ('hydra', 'wandb') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    out = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
