"""Frames per second of a training step, beside the matrix products alone and, for lru, the published way of the layers.

python benchmarks/training.py --model lru --steps 400 --batch 10; without --model, every model in conf/model in its own
process. Whatever is compared runs interleaved in one process, the best of several repeats counts. The last line is one
JSON object.
"""
import argparse
import json
import resource
import subprocess
import sys
import time
from functools import partial

import flax.linen as nn
import hydra
import jax
import jax.numpy as jnp
import numpy as np

from physmodjax.cli.config import CONF, build_model
from physmodjax.dynamics.lru import gamma_log_init, matrix_init, nu_init, theta_init
from physmodjax.models.batching import batched
from physmodjax.training.loop import make_train_step
from physmodjax.training.optim import make_optimizer
from physmodjax.training.state import create_state

# frames/s that arXiv 2408.16650's code reaches on two cores: 400 steps, batch 10, 128 states, 101 points
PUBLISHED = {"lru": (10_000, 12_000), "s5": (28_000, 28_000), "koopman": (79_000, 79_000),
             "koopman_varying": (52_000, 76_000)}


def best_of(functions, repeats=6):
    "Least wall and processor seconds of each function, all of them taking turns."
    seconds = {name: [] for name in functions}
    for n in range(repeats + 1):
        for name, function in functions.items():
            wall, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(function())
            if n:  # the first call warms up
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: tuple(map(min, zip(*pairs, strict=True))) for name, pairs in seconds.items()}


class PlainLRU(nn.Module):
    "Linear recurrent unit: complex matrices, an associative scan, automatic gradients."

    d_model: int
    d_hidden: int

    @nn.compact
    def __call__(self, x):
        into, out = (partial(matrix_init, normalization=n**0.5) for n in (2 * self.d_model, self.d_hidden))
        nu = self.param("nu_log", nu_init, (self.d_hidden,), 0.9, 0.999)
        theta = self.param("theta_log", theta_init, (self.d_hidden,), 3.14)
        gamma = jnp.exp(self.param("gamma_log", gamma_log_init, (nu, theta)))
        drawn = (("B", into, (self.d_hidden, self.d_model)), ("C", out, (self.d_model, self.d_hidden)))
        B, C = (self.param(f"{n}_re", *how) + 1j * self.param(f"{n}_im", *how) for n, *how in drawn)
        lam = jnp.exp(-jnp.exp(nu) + 1j * jnp.exp(theta))
        inputs = jax.vmap(lambda frame: (B * gamma[:, None]) @ frame)(x)
        pairs = (jnp.broadcast_to(lam, inputs.shape), inputs)
        h = jax.lax.associative_scan(lambda a, b: (b[0] * a[0], b[0] * a[1] + b[1]), pairs)[1]
        return jax.vmap(lambda state: (C @ state).real)(h) + self.param("D", matrix_init, (self.d_model,)) * x


class PlainStack(nn.Module):
    "Driven layers as they are commonly published: batch norm, recurrence, GELU, gated linear unit, sum."

    d_model: int
    d_hidden: int
    n_layers: int
    size: int

    @nn.compact
    def __call__(self, x0, n_steps, forcing=None):
        x = nn.Dense(self.d_model)(x0.reshape(-1))
        x = jnp.zeros((n_steps, self.d_model)).at[0].set(x)
        axis = None if self.is_initializing() else "batch"
        for _ in range(self.n_layers):
            y = nn.BatchNorm(use_running_average=False, momentum=0.95, axis_name=axis)(x)
            y = nn.gelu(PlainLRU(self.d_model, self.d_hidden)(y))
            x = x + nn.Dense(self.d_model)(y) * nn.sigmoid(nn.Dense(self.d_model)(y))
        return nn.Dense(self.size)(x).reshape(n_steps, *x0.shape[1:])


def products_alone(params, n_frames, key):
    "Every matrix product of a step, forward and backward, on frames of random numbers."
    sizes = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if leaf.ndim == 2 or (leaf.ndim == 3 and leaf.shape[-1] == 2):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            once = "layers_0/linear/B" in name or name.startswith(("encoder", "force_encoder"))  # one frame only
            sizes += [] if once else [(leaf.shape[0], leaf[0].size)]
    kernels = [jax.random.normal(key, size) for size in sizes]
    frames = [jax.random.normal(key, (n_frames, size[0])) for size in sizes]
    run = jax.jit(lambda xs, ws: [[x @ w, (x @ w) @ w.T, x.T @ (x @ w)] for x, w in zip(xs, ws, strict=True)])
    return lambda: run(frames, kernels)


def training_step(network, batch):
    "One step of training as a function of nothing, its state and the seconds its compilation took."
    optimizer = partial(make_optimizer, total_steps=1000)
    state, transform = create_state(network, optimizer, jax.random.key(0), batch["x0"])
    step, start = jax.jit(make_train_step(network, transform)), time.perf_counter()
    step = step.lower(state, batch).compile()
    return lambda: step(state, batch), state, time.perf_counter() - start


def measure(arguments):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", [f"model={arguments.model}", *arguments.override]).model
    network = build_model(config.network, grid=(arguments.points,), channels=1, n_given=1)
    shape = (arguments.batch, arguments.steps + 1, arguments.points, 1)
    u = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    batch, n_frames = {"x0": u[:, :1], "target": u[:, 1:]}, arguments.batch * arguments.steps
    ours, state, compile_seconds = training_step(network, batch)
    functions = {"step": ours, "products_alone": products_alone(state.params, n_frames, jax.random.key(1))}
    if arguments.model == "lru":
        sizes = config.network.d_model, config.network.recurrence.d_hidden, config.network.n_layers, arguments.points
        functions["published_way"] = training_step(batched(PlainStack)(*sizes), batch)[0]
    best = best_of(functions)
    result = {"model": arguments.model, "frames": n_frames, "frames_per_second": n_frames / best["step"][0]}
    result |= {"published_frames_per_second": PUBLISHED.get(arguments.model), "compile_seconds": compile_seconds}
    for name, (wall, cpu) in best.items():
        result |= {f"{name}_seconds": wall, f"{name}_cpu_seconds": cpu}
    result["step_over_products"] = best["step"][0] / best["products_alone"][0]
    if "published_way" in best:
        result["published_way_over_step"] = best["published_way"][0] / best["step"][0]
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**result, "n_parameters": n_parameters, "peak_memory_mb": peak, "precision": str(u.dtype)}


def measure_all(options):
    "Each model of conf/model in a process of its own, so that memory and compilation are its own."
    results = []
    for name in sorted(path.stem for path in (CONF / "model").glob("*.yaml")):
        command = [sys.executable, __file__, "--model", name, *options]
        done = subprocess.run(command, capture_output=True, text=True)
        lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["no output"]
        results.append(json.loads(lines[-1]) if done.returncode == 0 else {"model": name, "error": lines[-1]})
        print(json.dumps(results[-1]), flush=True)
    return {"models": results}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a name in conf/model; all of them if left out")
    parser.add_argument("--steps", type=int, default=400, help="predicted frames of a sequence")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--points", type=int, default=101)
    parser.add_argument("override", nargs="*", help="Hydra overrides, such as model.network.n_layers=6")
    arguments = parser.parse_args()
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("steps", "batch", "points")]
    print(json.dumps(measure(arguments) if arguments.model else measure_all([*sizes, *arguments.override])))
