"Koopman autoencoders from their configurations: every bank on every grid, started from data, streamed, trained."
from functools import partial

import hydra
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physmodjax.cli.config import CONF
from physmodjax.datasets.batch import Batch
from physmodjax.dynamics import (
    DiscreteModalDynamicsAngleMag,
    DiscreteModalDynamicsVarying,
    LRUDynamicsModulated,
    LRUDynamicsVarying,
    OscillatorDynamics,
)
from physmodjax.experiments.build import build_model
from physmodjax.models.autoencoder import KoopmanAutoencoder
from physmodjax.models.encoders import (
    ConvDecoder,
    ConvEncoder,
    DenseDecoder,
    DenseEncoder,
    FourierDecoder,
    FourierEncoder,
)
from physmodjax.models.mlp import MLP
from physmodjax.models.model import Scale, TrajectoryData
from physmodjax.training.losses import mse
from physmodjax.training.objective import Objective, make_step
from physmodjax.training.optim import make_optimizer
from physmodjax.training.state import create_state

NAMES = ["koopman", "koopman_varying", "modal", "modal_varying", "oscillator"]


def network(name, grid=(13,), channels=1, context=1, *overrides):
    "The batched model of conf/model/<name>.yaml, cut down."
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", [f"model={name}", "model.network.d_hidden=8", *overrides])
    return build_model(config.model.network, grid=grid, channels=channels, context=context)


def motions(grid, n=12, n_steps=30, seed=0):
    "Linear motion of four modes on a grid, (N, T, *grid, 1)."
    rng, mu = np.random.default_rng(seed), np.arange(1, 5)
    lam = np.exp(-0.01 * mu + 0.3j * mu)
    shapes = np.linalg.qr(rng.normal(size=(int(np.prod(grid)), 4)))[0]
    q = (rng.normal(size=(n, 1, 4)) * lam ** np.arange(n_steps)[:, None]).real
    return (q @ shapes.T).reshape(n, n_steps, *grid, 1).astype(np.float32)


def as_data(u, mean=0.0, std=1.0):
    "Normalised trajectories as a model takes them, the last two for validation."
    return TrajectoryData(u[:-2], u[-2:], Scale(np.atleast_1d(mean), np.atleast_1d(std)))


def drawn(model, x0, force=None):
    "Random parameters in the sizes that the model asks for, slowly decaying; drawn by NumPy, which compiles nothing."
    wanted = jax.eval_shape(lambda: model.init(jax.random.key(0), x0, 3, None if force is None else force[:3]))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        centre = {"nu_log": -3.0, "magnitudes": 0.9, "stretch_log": -30.0}.get(path[-1].key, 0.0)
        return jnp.asarray(centre + 0.2 * rng.normal(size=leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, wanted)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid", [(13,), (5, 4)], ids=["string", "membrane"])
def test_starts_from_data_and_streams(name, grid):
    "What the configurations build is exact on linear motion before training, and streams the same numbers."
    model, u = network(name, grid), motions(grid)
    params = model.from_data(drawn(model, u[:, :1])["params"], as_data(u))

    def ways(params, x0):
        def one(state, _):
            return model.apply({"params": params}, state, method="step")

        state = model.apply({"params": params}, x0, method="init_state")
        streamed = jax.lax.scan(one, state, None, length=29)[1]
        return model.apply({"params": params}, x0, 29), jnp.moveaxis(streamed, 0, 1)

    whole, streamed = jax.jit(ways)(params, u[:, :1])
    np.testing.assert_allclose(streamed, whole, atol=1e-5)
    assert np.sum((whole - u[:, 1:]) ** 2) / np.sum(u[:, 1:] ** 2) < 1e-6


def test_start_takes_the_scale_and_the_whole_context():
    "Data with a mean, two channels and two context frames: the same exactness, in normalised units."
    v = motions((13,))
    u = np.concatenate([3 + 2 * v, 0.5 * np.roll(v, -1, axis=1)], axis=-1)[:, :-1]
    mean, std = u.mean((0, 1, 2)), u.std((0, 1, 2))
    normal = ((u - mean) / std).astype(np.float32)
    model = network("koopman", (13,), 2, 2)
    params = model.from_data(drawn(model, normal[:, :2])["params"], as_data(normal, mean, std))
    found = jax.jit(lambda x0: model.apply({"params": params}, x0, 27))(normal[:, :2])
    assert np.sum((found - normal[:, 2:]) ** 2) / np.sum(normal[:, 2:] ** 2) < 1e-5


def test_start_wants_linear_parts():
    model, u = network("koopman", (13,), 1, 1, "model.network.decoder.shortcut=false"), motions((13,))
    with pytest.raises(ValueError, match="decoder: got .* expected a linear part") as caught:
        model.from_data(drawn(model, u[:, :1])["params"], as_data(u))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("bank", "maps", "grid"),
    [
        (LRUDynamicsModulated, (DenseEncoder, DenseDecoder), (7,)),
        (OscillatorDynamics, (DenseEncoder, DenseDecoder), (4, 5)),
        (DiscreteModalDynamicsVarying, (DenseEncoder, DenseDecoder), (3, 4)),
        (DiscreteModalDynamicsAngleMag, (ConvEncoder, ConvDecoder), (5, 4)),
        (LRUDynamicsVarying, (FourierEncoder, FourierDecoder), (6, 7)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_any_bank_and_maps_stream_under_force(bank, maps, grid):
    "The same numbers frame by frame, on strings and membranes, with two channels and two context frames."
    known = bank.__dataclass_fields__
    dynamics = partial(bank, model=MLP((6,), outputs_per_input=2)) if "model" in known else bank
    small = {"features": (3,)} if maps[0] is ConvEncoder else {"n_modes": 2} if maps[0] is FourierEncoder else {}
    encoder, decoder = (partial(Map, **small) for Map in maps)
    model = KoopmanAutoencoder(
        grid, encoder=encoder, dynamics=dynamics, decoder=decoder, channels=2, context=2, d_hidden=4
    )
    rng = np.random.default_rng(0)
    x0, force = rng.normal(size=(2, *grid, 2)).astype(np.float32), rng.normal(size=(9, 2)).astype(np.float32)
    variables = drawn(model, x0, force)

    def ways(variables):
        state = model.apply(variables, x0, method="init_state")
        step = partial(model.apply, variables, method="step")
        head, middle = model.apply(variables, state, 4, force[:4], method="advance")
        tail, _ = model.apply(variables, middle, 5, force[4:], method="advance")
        return model.apply(variables, x0, 9, force), jax.lax.scan(step, state, force)[1], jnp.concatenate([head, tail])

    whole, streamed, pieces = jax.jit(ways)(variables)
    np.testing.assert_allclose(pieces, whole, atol=1e-5)
    assert whole.shape == (9, *grid, 2) and np.ptp(whole) > 0
    np.testing.assert_allclose(streamed, whole, atol=1e-5)


def test_terms_reach_the_optimiser_and_the_mask_reaches_them():
    "The loss of a step is the weighted sum of the terms it reports; masked frames change nothing."
    weights = {"prediction": 0.5, "reconstruction": 2.0, "linearity": 0.25}
    overrides = [f"model.network.loss_weights.{name}={value}" for name, value in weights.items()]
    overrides += [f"model.network.{part}.hidden_channels=[]" for part in ("encoder", "decoder")]
    overrides += [f"model.network.{part}.kernel_init=lecun_normal" for part in ("encoder", "decoder")]
    model, u = network("koopman", (13,), 1, 2, *overrides), motions((13,))
    batch = Batch(u[:, :2], u[:, 2:])
    state, optimizer = create_state(
        model,
        partial(make_optimizer, total_steps=10, recurrent=model.recurrent_parameters),
        jax.random.key(0),
        batch.context,
    )
    step = jax.jit(make_step(Objective(model, mse), optimizer))
    _, out = step(state, batch)
    assert set(out["terms"]) == set(weights) and min(out["terms"].values()) > 0
    expected = sum(weights[name] * float(value) for name, value in out["terms"].items())
    np.testing.assert_allclose(out["loss"], expected, rtol=1e-5)
    mask = np.ones(batch.target.shape[:2], np.float32)
    mask[:, 20:] = 0
    spoilt = batch._replace(target=batch.target + 5 * (1 - mask)[..., None, None])
    clean, changed = (step(state, part._replace(mask=mask))[1]["terms"] for part in (batch, spoilt))
    for name in weights:
        np.testing.assert_allclose(changed[name], clean[name], rtol=1e-5)


def test_weights_without_terms_are_not_computed():
    model, u = network("koopman", (13,)), motions((13,))
    terms = model.apply(drawn(model, u[:, :1]), u[:, :1], u[:, 1:], method="loss_terms")
    assert set(terms) == {"reconstruction"} and terms["reconstruction"].shape == (12,)
