"""Frames per second of a training step, beside the matrix products alone and the published way of the layers.

python benchmarks/training.py --model lru --steps 400 --batch 10; without --model, every model in conf/model in its own
process. --published takes the sizes of arXiv 2408.16650 instead of those in conf/model, and beside our step runs one of
the same sizes as such layers are commonly written: complex numbers, associative scans, automatic gradients. Whatever is
compared runs interleaved in one process, the best of several repeats counts. The last line is one JSON object.

--loading asks instead whether reading keeps the devices busy: the time of a step of `fit` on whole trajectories of
16 kHz in memory, in files, and in files whose pages are dropped from memory before each read (as for a set that is
larger than memory), each over the time on one batch that is repeated. They take turns within one training.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial

import flax.linen as nn
import hydra
import jax
import jax.numpy as jnp
import numpy as np

from physmodjax.cli.config import CONF
from physmodjax.core.memory import keep_memory
from physmodjax.datasets.batch import Batch
from physmodjax.datasets.format import split_headers
from physmodjax.datasets.loader import Loader, TrajectoryFiles
from physmodjax.dynamics.lru import gamma_log_init, matrix_init, nu_init, theta_init
from physmodjax.experiments.build import build_model
from physmodjax.experiments.data import open_data, read_group
from physmodjax.models.batching import batched
from physmodjax.training.loop import FitOptions, fit
from physmodjax.training.objective import Objective, make_step
from physmodjax.training.optim import make_optimizer
from physmodjax.training.state import create_state

STACK = ["model.network.d_model=128", "model.network.recurrence.d_hidden=128"]
LINEAR = ["model.network.decoder.hidden_channels=[]", "model.network.decoder.shortcut=false"]
PUBLISHED = {  # sizes of arXiv 2408.16650 and the frames/s its code reached on two (other) cores with them
    "lru": ([*STACK, "model.network.n_layers=6", "model.network.norm=batch"], (10_000, 12_000)),
    "s5": ([*STACK, "model.network.n_layers=4", "model.network.norm=batch"], (28_000, 28_000)),
    "koopman": (["model.network.encoder.shortcut=false", "model.network.decoder.shortcut=false"], (79_000, 79_000)),
    "koopman_varying": (LINEAR, (52_000, 76_000)),
}


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


def plain_scan(lam, inputs):
    pairs = (jnp.broadcast_to(lam, inputs.shape), inputs)
    return jax.lax.associative_scan(lambda a, b: (b[0] * a[0], b[0] * a[1] + b[1]), pairs)[1]


def plain_matrix(module, name, shape, width):
    parts = (module.param(f"{name}_{part}", partial(matrix_init, normalization=width**0.5), shape) for part in "ri")
    return jax.lax.complex(*parts)


class PlainLRU(nn.Module):
    "Linear recurrent unit."

    d_model: int
    d_hidden: int

    @nn.compact
    def __call__(self, x):
        nu = self.param("nu_log", nu_init, (self.d_hidden,), 0.9, 0.999)
        theta = self.param("theta_log", theta_init, (self.d_hidden,), 3.14)
        gamma = jnp.exp(self.param("gamma_log", gamma_log_init, (nu, theta)))
        B = plain_matrix(self, "B", (self.d_hidden, self.d_model), 2 * self.d_model)
        C = plain_matrix(self, "C", (self.d_model, self.d_hidden), self.d_hidden)
        h = plain_scan(jnp.exp(-jnp.exp(nu) + 1j * jnp.exp(theta)), jax.vmap(lambda u: (B * gamma[:, None]) @ u)(x))
        return jax.vmap(lambda state: (C @ state).real)(h) + self.param("D", matrix_init, (self.d_model,)) * x


class PlainS5(nn.Module):
    "S5, one state for a conjugate pair, input held between samples."

    d_model: int
    d_hidden: int

    @nn.compact
    def __call__(self, x):
        rise = lambda key, shape: jnp.pi * jnp.arange(shape[0], dtype=jnp.float32)  # noqa: E731
        decay = self.param("Lambda_re", nn.initializers.constant(-0.5), (self.d_hidden,))
        Lambda = jax.lax.complex(decay, self.param("Lambda_im", rise, (self.d_hidden,)))
        step = jnp.exp(self.param("log_step", nn.initializers.constant(-4.6), (self.d_hidden,)))
        B = plain_matrix(self, "B", (self.d_hidden, self.d_model), self.d_model)
        C = plain_matrix(self, "C", (self.d_model, self.d_hidden), self.d_hidden)
        lam = jnp.exp(Lambda * step)
        h = plain_scan(lam, jax.vmap(lambda u: (((lam - 1) / Lambda)[:, None] * B) @ u)(x))
        return jax.vmap(lambda state: 2 * (C @ state).real)(h) + self.param("D", matrix_init, (self.d_model,)) * x


class Plain(nn.Module):
    "What the objective asks of a network."

    takes_mask, recurrent_parameters, loss_weights = False, (), {}


class PlainStack(Plain):
    "Driven layers: batch norm, recurrence, GELU, for some a gated linear unit, sum."

    layer: type
    d_model: int
    d_hidden: int
    n_layers: int
    size: int
    glu: bool

    @nn.compact
    def __call__(self, x0, n_steps, forcing=None):
        x = nn.Dense(self.d_model)(x0.reshape(-1))
        x = jnp.zeros((n_steps, self.d_model)).at[0].set(x)
        axis = None if self.is_initializing() else "batch"
        for _ in range(self.n_layers):
            y = nn.BatchNorm(use_running_average=False, momentum=0.95, axis_name=axis)(x)
            y = nn.gelu(self.layer(self.d_model, self.d_hidden)(y))
            x = x + (nn.Dense(self.d_model)(y) * nn.sigmoid(nn.Dense(self.d_model)(y)) if self.glu else y)
        return nn.Dense(self.size)(x).reshape(n_steps, *x0.shape[1:])


class PlainMLP(nn.Module):
    "Dense layers, SELU between them."

    widths: tuple

    @nn.compact
    def __call__(self, x):
        for layer, width in enumerate(self.widths):
            x = nn.Dense(width)(nn.selu(x) if layer else x)
        return x


class PlainKoopman(Plain):
    "Encode, take powers of the eigenvalues, multiply by a network of the squared moduli if there is one, decode."

    d_hidden: int
    encoder: tuple  # hidden widths
    modulation: tuple | None
    decoder: tuple
    size: int

    @nn.compact
    def __call__(self, x0, n_steps, forcing=None):
        z0 = PlainMLP((*self.encoder, 2 * self.d_hidden))(x0.reshape(-1))
        nu = self.param("nu_log", nu_init, (self.d_hidden,), 0.99, 0.999)
        theta = self.param("theta_log", theta_init, (self.d_hidden,), 3.14)
        power = jnp.exp(jnp.arange(1, n_steps + 1)[:, None] * (-jnp.exp(nu) + 1j * jnp.exp(theta)))
        z = power * jax.lax.complex(*jnp.split(z0, 2))
        if self.modulation is not None:
            factors = PlainMLP((*self.modulation, 2 * self.d_hidden))(jnp.abs(z) ** 2)
            z = z * jax.lax.complex(*jnp.split(factors, 2, axis=-1))
        y = PlainMLP((*self.decoder, self.size))(jnp.concatenate([z.real, z.imag], axis=-1))
        return y.reshape(n_steps, *x0.shape[1:])


def published_way(config, size):
    "The network of these sizes as it is commonly written; None where there is no such thing here."
    network = config.network
    if config.name in ("lru", "s5"):
        layer, sizes = PlainLRU if config.name == "lru" else PlainS5, (network.d_model, network.recurrence.d_hidden)
        return batched(PlainStack)(layer, *sizes, network.n_layers, size, network.mixer == "full_glu")
    if config.name in ("koopman", "koopman_varying"):
        hidden = (network.encoder, network.dynamics.get("model"), network.decoder)
        hidden = [part and tuple(part.hidden_channels) for part in hidden]
        return batched(PlainKoopman)(network.d_hidden, *hidden, size)
    return None


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
    optimizer = partial(make_optimizer, total_steps=1000, recurrent=network.recurrent_parameters)
    state, transform = create_state(network, optimizer, jax.random.key(0), batch.context)
    step, start = jax.jit(make_step(Objective(network), transform)), time.perf_counter()
    step = step.lower(state, batch).compile()
    return lambda: step(state, batch), state, time.perf_counter() - start


def measure(arguments):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        settings, frames_per_second = PUBLISHED.get(arguments.model, ([], None))
        settings = [*(settings if arguments.published else []), *arguments.override]
        config = hydra.compose("train", [f"model={arguments.model}", *settings]).model
    network = build_model(config.network, grid=(arguments.points,), channels=1, context=1)
    shape = (arguments.batch, arguments.steps + 1, arguments.points, 1)
    u = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    batch, n_frames = Batch(u[:, :1], u[:, 1:]), arguments.batch * arguments.steps
    ours, state, compile_seconds = training_step(network, batch)
    functions = {"step": ours}
    if config.name != "fno":  # its matrices meet points and modes, not frames
        functions["products_alone"] = products_alone(state.params, n_frames, jax.random.key(1))
    plain = published_way(config, arguments.points)
    if plain is not None:
        functions["published_way"] = training_step(plain, batch)[0]
    best = best_of(functions)
    result = {"model": arguments.model, "frames": n_frames, "frames_per_second": n_frames / best["step"][0]}
    result |= {"settings": settings, "compile_seconds": compile_seconds}
    if arguments.published:
        result["published_frames_per_second"] = frames_per_second
    for name, (wall, cpu) in best.items():
        result |= {f"{name}_seconds": wall, f"{name}_cpu_seconds": cpu}
    if "products_alone" in best:
        result["step_over_products"] = best["step"][0] / best["products_alone"][0]
    if "published_way" in best:
        result["published_way_over_step"] = best["published_way"][0] / best["step"][0]
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**result, "n_parameters": n_parameters, "peak_memory_mb": peak, "precision": str(u.dtype)}


class Dropped:
    "Trajectories in files that are read from the disk every time: no page of them stays in memory."

    def __init__(self, files):
        self.files, self.shape = files, files.shape

    def __len__(self):
        return len(self.files)

    def __getitem__(self, key):
        for header in self.files.headers:
            file = os.open(header.path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
        return self.files[key]


class Turns:
    "A loader that gives blocks of steps to several in turn, and a logger that writes down when each step ended."

    normaliser = validation = None

    def __init__(self, loaders, block=8):
        self.loaders, self.block, self.ends = loaders, block, {}

    def name_at(self, step):
        return list(self.loaders)[step // self.block % len(self.loaders)]

    def batch_at(self, step):
        return self.loaders[self.name_at(step)](step)

    def log(self, metrics, step):
        self.ends[step - 1] = time.perf_counter()

    def finish(self):
        "Nothing follows."

    def seconds(self):
        "Of the steps of each, those at the beginning of a block left out: what they read was not all their own."
        inside = [n for n in self.ends if n - 1 in self.ends and n % self.block > 3 and n >= self.block]
        spans = [(self.name_at(n), self.ends[n] - self.ends[n - 1]) for n in inside]
        return {name: [span for whose, span in spans if whose == name] for name in self.loaders}


def measure_loading(arguments):
    "Seconds of a step (the best counts) while batches come from memory and from the disk, and over those on one batch."
    described = read_group("dataset", "string_linear_gaussian_16k") | {"n_trajectories": 80, "name": "loading"}
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", [f"model={arguments.model}", *arguments.override]).model
    with tempfile.TemporaryDirectory(dir=arguments.data_dir) as folder:
        data = open_data(described, folder)
        files = TrajectoryFiles(split_headers(data.folder, "train"))
        length = None if arguments.steps >= data.n_steps - 1 else arguments.steps + 1
        words = dict(batch_size=arguments.batch, seed=0, normaliser=data.normaliser, window_length=length)
        sources = {"memory": data.splits["train"], "files": files, "disk": Dropped(files)}
        loaders = {name: Loader(source, **words).batch_at for name, source in sources.items()}
        first = loaders["memory"](0)
        turns = Turns({"repeated": lambda step: first, **loaders})
        network = build_model(config.network, grid=data.grid, channels=1, context=1)
        optimizer = partial(make_optimizer, total_steps=1000, recurrent=network.recurrent_parameters)
        state, transform = create_state(network, optimizer, jax.random.key(0), first.context)
        n_steps = arguments.rounds * turns.block * len(turns.loaders)
        options = FitOptions(transform, max_steps=n_steps, log_every=1, logger=turns, progress=False)
        fit(Objective(network), state, turns, options)
        seconds = {name: min(times) for name, times in turns.seconds().items()}
        alone = {}
        for name, load in loaders.items():
            began = time.perf_counter()
            [load(step) for step in range(100, 104)]
            alone[name] = (time.perf_counter() - began) / 4
    over = {name: seconds[name] / seconds["repeated"] for name in loaders}
    facts = {"model": arguments.model, "batch_mb": first.target.nbytes / 1e6, "frames": first.size * first.n_steps}
    return facts | {"step_seconds": seconds, "over_repeated": over, "loading_alone_seconds": alone}


def measure_all(names, options):
    "Each model in a process of its own, so that memory and compilation are its own."
    results = []
    for name in names:
        command = [sys.executable, __file__, "--model", name, *options]
        done = subprocess.run(command, capture_output=True, text=True)
        lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["no output"]
        results.append(json.loads(lines[-1]) if done.returncode == 0 else {"model": name, "error": lines[-1]})
        print(json.dumps(results[-1]), flush=True)
    return {"models": results}


if __name__ == "__main__":
    keep_memory()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a name in conf/model; all of them if left out")
    parser.add_argument("--steps", type=int, default=400, help="predicted frames of a sequence")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--points", type=int, default=101)
    parser.add_argument("--published", action="store_true", help="the sizes of arXiv 2408.16650")
    parser.add_argument("--loading", action="store_true", help="whether reading keeps the devices busy")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way to load")
    parser.add_argument("--data-dir", help="folder for the files of --loading; left out: that of temporary files")
    parser.add_argument("override", nargs="*", help="Hydra overrides, such as model.network.n_layers=6")
    arguments = parser.parse_args()
    if arguments.loading:
        arguments.model = arguments.model or "lru"
        print(json.dumps(measure_loading(arguments)))
    elif arguments.model:
        print(json.dumps(measure(arguments)))
    else:
        options = [f"--{name}={getattr(arguments, name)}" for name in ("steps", "batch", "points")]
        options += ["--published", *arguments.override] if arguments.published else arguments.override
        names = PUBLISHED if arguments.published else sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
        print(json.dumps(measure_all(names, options)))
