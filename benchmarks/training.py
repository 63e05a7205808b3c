"""Frames per second of a training step, beside the matrix products alone.

python benchmarks/training.py --model lru --steps 400 --batch 10; the last line is one JSON object.
"""
import argparse
import json
import resource
import time
from functools import partial

import hydra
import jax
import numpy as np

from physmodjax.cli.config import CONF, build_model
from physmodjax.training.loop import make_train_step
from physmodjax.training.optim import make_optimizer
from physmodjax.training.state import create_state


def best_of(function, repeats=5):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return min(times)


def products_alone(params, n_frames, key):
    "Seconds of every matrix product of a step: forward, and twice as much backward."
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
    frames = [jax.random.normal(key, (n_frames, kernel.shape[0])) for kernel in kernels]
    run = jax.jit(lambda xs, ws: [[x @ w, (x @ w) @ w.T, x.T @ (x @ w)] for x, w in zip(xs, ws, strict=True)])
    jax.block_until_ready(run(frames, kernels))
    return best_of(lambda: run(frames, kernels))


def measure(arguments):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", [f"model={arguments.model}", *arguments.override])
    network = build_model(config.model.network, grid=(arguments.points,), channels=1, n_given=1)
    u = np.random.default_rng(0).normal(size=(arguments.batch, arguments.steps + 1, arguments.points, 1))
    u = u.astype(np.float32)
    batch = {"x0": u[:, :1], "target": u[:, 1:]}
    optimizer = partial(make_optimizer, total_steps=1000)
    state, transform = create_state(network, optimizer, jax.random.key(0), batch["x0"])
    step = jax.jit(make_train_step(network, transform))
    start = time.perf_counter()
    jax.block_until_ready(step(state, batch))
    compile_seconds = time.perf_counter() - start
    seconds, n_frames = best_of(lambda: step(state, batch)), arguments.batch * arguments.steps
    bound = products_alone(state.params, n_frames, jax.random.key(1))
    return {
        "model": arguments.model, "frames": n_frames, "frames_per_second": n_frames / seconds,
        "compile_seconds": compile_seconds - seconds, "step_seconds": seconds, "products_alone_seconds": bound,
        "step_over_products": seconds / bound, "n_parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "precision": str(u.dtype),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="lru")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--points", type=int, default=101)
    parser.add_argument("override", nargs="*", help="Hydra overrides, such as model.network.n_layers=6")
    print(json.dumps(measure(parser.parse_args())))
