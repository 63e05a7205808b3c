"""A training small enough to be killed many times: imported by test_training.py, and run by it as a process"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from physmodjax.datasets.batch import Batch
from physmodjax.models.batching import batched
from physmodjax.models.model import Model
from physmodjax.training.checkpoint import CheckpointError, Checkpoints
from physmodjax.training.loop import FitOptions, fit
from physmodjax.training.objective import Objective
from physmodjax.training.optim import make_optimizer
from physmodjax.training.state import create_state


class Network(Model):
    "Batch normalisation, dropout and a dense layer that drives the frame: all that makes a state hard to restore."

    grid: tuple[int, ...] = (9,)
    training: bool = True

    def setup(self):
        self.norm = nn.BatchNorm(use_running_average=not self.training, axis_name="batch", momentum=0.9)
        self.dropout = nn.Dropout(0.1, deterministic=not self.training)
        self.dense = nn.Dense(9)

    def __call__(self, x0, n_steps, forcing=None):
        drive, frame, frames = self.dropout(self.dense(self.norm(x0[-1])[:, 0])), x0[-1, :, 0], []
        for _ in range(n_steps):
            frame = 0.9 * frame + 0.1 * drive
            frames.append(frame)
        return jnp.stack(frames)[..., None]


class Data:
    "Batches that follow from the seed and the step alone, as a loader gives them."

    normaliser = None  # the batches are in physical units

    def __init__(self, batch_size=8, seed=0, part=(0, 1)):
        self.batch_size, self.seed, self.part = batch_size, seed, part

    def batch_at(self, step):
        rng = np.random.default_rng([self.seed, step])
        context = rng.normal(size=(self.batch_size, 1, 9, 1)).astype(np.float32)
        context = np.split(context, self.part[1])[self.part[0]]
        decay = 0.95 ** np.arange(1, 6, dtype=np.float32)
        return Batch(context, context * decay[None, :, None, None])

    def validation(self):
        return [Data(seed=7, part=self.part).batch_at(n) for n in range(2)]

    def state_dict(self):
        return {"seed": self.seed, "batch_size": self.batch_size}

    def load_state_dict(self, position):
        assert {name: position[name] for name in self.state_dict()} == self.state_dict()


def problem(seed=0, learning_rate=1e-2, batch_size=8):
    "Objective, state and optimiser."
    model = batched(Network)()
    build = partial(make_optimizer, learning_rate=learning_rate, total_steps=200)
    context = Data(batch_size).batch_at(0).context
    return Objective(model), *create_state(model, build, jax.random.key(seed), context, averaged=True)


def train(data=None, hooks=(), seed=0, batch_size=8, **options):
    "One training of the problem; options as in FitOptions."
    objective, state, optimizer = problem(seed, batch_size=batch_size)
    options = FitOptions(optimizer, **{"max_steps": 30, "eval_every": 10, "progress": False, **options})
    return fit(objective, state, Data(batch_size) if data is None else data, options, hooks)


def history(result):
    "Rows of the history, seconds apart."
    return [{name: value for name, value in row.items() if name != "seconds"} for row in result.history]


def numbers(result):
    "All parameters, averages and statistics, one after the other."
    leaves = jax.tree.leaves((result.state.params, result.state.average, result.state.batch_stats))
    return [float(x) for leaf in leaves for x in np.ravel(leaf)]


def start(n_devices=1, **options):
    "Process that trains."
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1])}
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={n_devices}"
    command = [sys.executable, __file__, json.dumps(options)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def train_apart(n_devices=1, **options):
    "What a training in a process of its own prints last."
    child = start(n_devices, **options)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def resume(folder):
    "The rest of a training that another process began."
    return train(seed=5, checkpoints=Checkpoints(folder / "checkpoints"), resume=True)


def main(run=None, max_steps=30, resume=False, full_after=None, pause=0.0, batch_size=8, checkpoint_every=5, host=None):
    "One training; prints a line a validation and a JSON object last. host: address, number of hosts, which one."
    if host is not None:
        jax.distributed.initialize(*host)

    def hook(row, state):
        print("step", row["step"], flush=True)
        time.sleep(pause)
        if full_after == row["step"]:  # from here on every file that would exceed 1 kB fails, as on a full disk
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

    options = dict(max_steps=max_steps, checkpoint_every=checkpoint_every, resume=resume, batch_size=batch_size)
    options["data"] = Data(batch_size, part=(0, 1) if host is None else (host[2], host[1]))
    if run is not None:
        options["checkpoints"] = Checkpoints(Path(run) / "checkpoints")
    try:
        with warnings.catch_warnings(record=True) as caught:
            result = train(hooks=[hook], **options)
    except CheckpointError as error:
        sys.exit(str(error))
    said = {name: getattr(result, name) for name in ("reason", "signal", "message", "losses")}
    said |= {"parameters": numbers(result), "history": history(result), "warnings": [str(w.message) for w in caught]}
    print(json.dumps({**said, "devices": jax.device_count()}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
