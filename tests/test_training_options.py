"Losses and optimisers by configuration: every file trains on data of the default size, and bad options are one line."
from functools import partial

import flax.linen as nn
import hydra
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import training_problem
from omegaconf import OmegaConf

from physmodjax.datasets.batch import Batch
from physmodjax.experiments.data import CONF, build_spec
from physmodjax.models.batching import batched
from physmodjax.models.model import Model
from physmodjax.training.checkpoint import Checkpoints
from physmodjax.training.loop import FitOptions, fit
from physmodjax.training.losses import grid_points, spectral, weighted_loss, window_sizes
from physmodjax.training.objective import Objective
from physmodjax.training.optim import OPTIMIZERS, make_optimizer, make_schedule
from physmodjax.training.state import create_state


def compose(*overrides):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", list(overrides))


class Ring(Model):
    "Two coupled fields that turn into each other: a frame times the powers of a learned rotation."

    grid: tuple[int, ...] = (9,)
    training: bool = True

    @nn.compact
    def __call__(self, x0, n_steps, forcing=None):
        theta, kernel = self.param("theta_log", nn.initializers.zeros, ()), nn.Dense(x0.shape[-2])
        turn = jnp.cos(0.1 * jnp.exp(theta) * jnp.arange(1, n_steps + 1))[:, None, None]
        return turn * kernel(x0[-1, :, 0])[:, None]


class Strings(training_problem.Data):
    "Random smooth trajectories of the size of the default data set."

    def __init__(self, n_steps, n_points, batch_size=3):
        super().__init__(batch_size)
        self.n_steps, self.n_points = n_steps, n_points

    def batch_at(self, step):
        rng = np.random.default_rng(step % 2)
        shape = np.sin(np.pi * np.linspace(0, 1, self.n_points)) * rng.normal(size=(self.batch_size, 1, 1))
        u = (shape * np.cos(0.13 * np.arange(self.n_steps))[:, None])[..., None].astype(np.float32)
        return Batch(u[:, :1], u[:, 1:])

    def validation(self):
        return [self.batch_at(1)]


def files(group):
    return [f"{group}={path.stem}" for path in sorted((CONF / group).glob("*.yaml"))]


@pytest.mark.training
@pytest.mark.parametrize("choice", [*files("loss"), *files("optimizer"), *files("trainer")])
def test_every_file_trains_on_data_of_the_default_size(choice):
    config = compose(choice)
    scene, trainer = build_spec(OmegaConf.to_container(config.dataset)).scene, config.trainer
    data = Strings(scene.n_steps, scene.n_points)
    build = partial(make_optimizer, total_steps=trainer.max_steps, **config.optimizer)
    context = data.batch_at(0).context
    state, optimizer = create_state(batched(Ring)(), build, jax.random.key(0), context, averaged=trainer.averaged)
    objective = Objective(batched(Ring)(), weighted_loss(**OmegaConf.to_container(config.loss)))
    every = {name: trainer[name] for name in ("eval_every", "checkpoint_every", "log_every", "recalibrate")}
    result = fit(objective, state, data, FitOptions(optimizer, max_steps=3, progress=False, **every))
    assert result.reason == "finished" and np.all(np.isfinite(result.losses)) and result.losses[2] < result.losses[0]


@pytest.mark.parametrize("sizes", ["[32,64]", "[255]"])
def test_options_of_losses_are_set_without_a_plus_sign(sizes):
    config = compose("loss=mse", "loss.weights.spectral=1", "loss.weights.mse=0", f"loss.spectral.sizes={sizes}",
                     "loss.spectral.points=[3,5]")
    loss, batch = weighted_loss(**OmegaConf.to_container(config.loss)), Strings(256, 31).batch_at(0)
    other = 0.9 * batch.target
    chosen = tuple(config.loss.spectral.sizes)
    np.testing.assert_allclose(loss(other, batch.target), spectral(other, batch.target, sizes=chosen, points=(3, 5)))
    louder = other.copy()
    louder[:, :, 7] *= 3  # no one listens there
    assert loss(louder, batch.target) == loss(other, batch.target)


@pytest.mark.parametrize("n_frames", [4, 5, 7, 31, 32, 100, 127, 128, 255, 256, 4000])
def test_default_windows_fit_any_prediction(n_frames):
    sizes = window_sizes(n_frames)
    assert sizes and all(4 <= size <= n_frames for size in sizes) and (n_frames < 256 or sizes == (32, 128, 256))
    signal = np.random.default_rng(0).normal(size=(1, n_frames, 2, 1)).astype(np.float32)
    assert spectral(signal, signal) < 1e-6 and np.isfinite(spectral(2 * signal, signal))


@pytest.mark.parametrize(("n_points", "points"), [(31, 1), (31, 8), (31, 31), (4, 3)])
def test_a_number_of_points_is_spread_over_the_grid(n_points, points):
    indices = grid_points(n_points, points)
    assert len(set(indices)) == points == len(indices) and 0 <= indices.min() and indices.max() < n_points
    np.testing.assert_allclose(indices, n_points - 1 - indices[::-1], atol=1)


REFUSED_LOSSES = [
    ({"weights": {"mse": -1.0}}, "weight of mse: got -1.0, expected a finite number of at least 0"),
    ({"weights": {"mse": "abc"}}, "weight of mse: got 'abc'"),
    ({"weights": {"mse": None}}, "weight of mse: got None"),
    ({"weights": {"mse": True}}, "weight of mse: got True"),
    ({"weights": {"mse": float("nan")}}, "weight of mse: got nan"),
    ({"weights": {"mse": float("inf")}}, "weight of mse: got inf"),
    ({"weights": None}, "loss.weights: got None"),
    ({"weights": ["mse"]}, "loss.weights: got"),
    ({"weights": {}}, "at least one weight above 0"),
    ({"weights": {"mes": 1.0}}, "did you mean mse"),
    ({"weights": {"mse": 1.0}, "spectral": {"sizes": [32]}}, "loss with options: got 'spectral'"),
    ({"weights": {"spectral": 1.0}, "spectral": {"size": [32]}}, "did you mean sizes"),
    ({"weights": {"spectral": 1.0}, "spectral": 3}, "options of spectral: got 3"),
    ({"weights": {"mse": 1.0}, "mse": {"sizes": [32]}}, "option of mse: got 'sizes'"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED_LOSSES)
def test_bad_options_of_losses_are_one_line(options, message):
    with pytest.raises(ValueError) as caught:
        weighted_loss(**options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": [256]}, "STFT window: got 256, expected at most 255"),
        ({"sizes": [3]}, "STFT window: got 3, expected an integer of at least 4"),
        ({"sizes": ["abc"]}, "STFT window: got 'abc'"),
        ({"sizes": "abc"}, "STFT window: got 'abc'"),
        ({"sizes": []}, "sizes of the spectral loss: got none"),
        ({"sizes": 32.5}, "STFT window: got 32.5"),
        ({"points": 0}, "points of the spectral loss: got 0"),
        ({"points": 32}, "points of the spectral loss: got 32, expected at most 31"),
        ({"points": [31]}, "index in points of the spectral loss: got 31, expected at most 30"),
        ({"points": [-1]}, "index in points of the spectral loss: got -1"),
        ({"points": []}, "points of the spectral loss: got none"),
        ({"points": "middle"}, "points of the spectral loss: got 'middle'"),
    ],
)
def test_bad_windows_and_points_are_one_line(options, message):
    batch = Strings(256, 31).batch_at(0)
    with pytest.raises(ValueError) as caught:
        weighted_loss({"spectral": 1.0}, spectral=options)(batch.target, batch.target)
    assert message in str(caught.value) and "\n" not in str(caught.value)


WRONG = (None, "abc", True, -1, float("nan"), float("inf"), [1], {"a": 1})
NUMBERS = ("learning_rate", "weight_decay", "recurrent_learning_rate_factor", "final_factor", "momentum", "clip_norm")
REFUSED = [
    (name, option, value)
    for name, Options in OPTIMIZERS.items()
    for option in Options.__dataclass_fields__
    for value in WRONG
    if not (option == "clip_norm" and value is None)
]
REFUSED += [("adamw", "final_factor", 2), ("adamw", "learning_rate", 0), ("adamw", "clip_norm", 0)]
REFUSED += [("sgd", "momentum", 1.0), ("adamw", "warmup_steps", 2.5), ("lbfgs", "memory_size", 0)]
REFUSED += [("adamw", "scedule", "cosine"), ("lbfgs", "learning_rate", 1.0), ("adamv", "learning_rate", 1.0)]


@pytest.mark.parametrize(("name", "option", "value"), REFUSED)
def test_bad_options_of_optimisers_are_one_line(name, option, value):
    with pytest.raises(ValueError) as caught:
        make_optimizer({"kernel": jnp.ones((2, 2))}, name, total_steps=100, **{option: value})
    message = str(caught.value)
    assert "\n" not in message and (option in message or name in message) and "expected" in message


@pytest.mark.parametrize("total_steps", [1, 2, 3, 19, 20, 1000])
def test_a_short_training_has_a_short_warm_up(total_steps):
    "The rate rises to its largest value and falls, whatever the length; the options are those of the default."
    params = {"kernel": jnp.ones(())}
    optimizer = make_optimizer(params, total_steps=total_steps, **compose().optimizer)
    state, sizes = optimizer.init(params), []
    for _ in range(min(total_steps, 30)):
        updates, state = optimizer.update({"kernel": jnp.ones(())}, state, params)
        sizes.append(-float(updates["kernel"]))
    assert 0 < max(sizes) <= 3.0e-3 * 1.001 and (total_steps > 40 or max(sizes) > 2.5e-3)


def test_the_schedule_of_a_configuration_is_that_of_the_formula():
    rate = make_schedule(3e-3, "warmup_cosine", total_steps=600, warmup_steps=20, final_factor=0.01)
    np.testing.assert_allclose([rate(0), rate(20), rate(600)], [3e-3 / 21, 3e-3, 3e-5], rtol=1e-5)


class FullBatch(training_problem.Data):
    "The same batch at every step."

    def batch_at(self, step):
        return super().batch_at(0)


class Plain(Model):
    "A linear map, without dropout or batch statistics: a deterministic objective."

    grid: tuple[int, ...] = (9,)

    @nn.compact
    def __call__(self, x0, n_steps, forcing=None):
        frame, frames, dense = x0[-1, :, 0], [], nn.Dense(9, use_bias=False)
        for _ in range(n_steps):
            frame = dense(frame)
            frames.append(frame)
        return jnp.stack(frames)[..., None]


def fit_plain(max_steps=30, seed=0, optimizer=None, **options):
    build = partial(make_optimizer, total_steps=max_steps, **(optimizer or {"name": "lbfgs"}))
    data, model = FullBatch(), batched(Plain)()
    state, optimizer = create_state(model, build, jax.random.key(seed), data.batch_at(0).context)
    return fit(Objective(model), state, data, FitOptions(optimizer, max_steps, progress=False, **options))


def test_lbfgs_trains_a_model_and_resumes_exactly(tmp_path):
    whole = fit_plain()
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in zip(whole.losses, whole.losses[1:], strict=False))
    adam = fit_plain(optimizer={"learning_rate": 3e-2})
    assert whole.losses[-1] < min(0.05 * whole.losses[0], 0.5 * adam.losses[-1])
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    first = fit_plain(max_steps=12, checkpoints=checkpoints)
    rest = fit_plain(seed=4, checkpoints=checkpoints, resume=True)
    assert first.losses + rest.losses == whole.losses


@pytest.mark.parametrize("optimizer", [optax.adam(1e-2), optax.polyak_sgd(), optax.scale_by_backtracking_linesearch(5)])
def test_any_optax_optimiser_gets_what_it_asks_for(optimizer):
    if "backtracking" in repr(optimizer):
        optimizer = optax.chain(optax.sgd(1.0), optimizer)
    objective, state, _ = training_problem.problem()
    state = state.replace(opt_state=optimizer.init(state.params))
    result = fit(objective, state, FullBatch(), FitOptions(optimizer, max_steps=20, progress=False))
    assert result.reason == "finished" and result.losses[-1] < result.losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "max_steps: got 0"),
        ({"max_steps": "abc"}, "max_steps: got 'abc'"),
        ({"eval_every": None}, "eval_every: got None"),
        ({"log_every": 1.5}, "log_every: got 1.5"),
        ({"checkpoint_every": True}, "checkpoint_every: got True"),
        ({"recalibrate": -1}, "recalibrate: got -1"),
        ({"average_decay": 1.0}, "average_decay: got 1.0"),
        ({"average_decay": "slow"}, "average_decay: got 'slow'"),
        ({"resume": True}, "resume: got no checkpoints"),
        ({"resume": "maybe"}, "resume: got 'maybe'"),
        ({"progress": "maybe"}, "progress: got 'maybe'"),
    ],
)
def test_bad_options_of_a_training_are_one_line(options, message):
    with pytest.raises(ValueError) as caught:
        FitOptions(optax.adam(1e-3), **{"max_steps": 1, **options})
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("averaged", ["maybe", None, 1])
def test_averaged_is_true_or_false(averaged):
    context = FullBatch().batch_at(0).context
    with pytest.raises(ValueError, match="averaged: got .*, expected true or false"):
        create_state(batched(Plain)(), lambda params: optax.adam(1e-3), jax.random.key(0), context, averaged=averaged)
