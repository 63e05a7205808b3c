"State-space stacks, every recurrence, norm and nonlinearity: the checks that are too slow for the notebooks."
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physmodjax.dynamics import (
    DiscreteModalDynamics,
    DiscreteModalDynamicsAngleMag,
    LRUDynamics,
    LRUDynamicsModulated,
    LRUDynamicsVarying,
    OscillatorDynamics,
    S5Dynamics,
)
from physmodjax.models.batching import batched
from physmodjax.models.mlp import MLP
from physmodjax.models.s5 import S5
from physmodjax.models.ssm import LRU, MIXERS, NORMS, SequenceLayer, SequenceModel
from physmodjax.training.losses import mse

RECURRENCES = {
    "lru": partial(LRU, d_hidden=6, dynamics=partial(LRUDynamics, r_min=0.5, r_max=0.99)),
    "s5": partial(S5, d_hidden=6, dynamics=partial(S5Dynamics, blocks=3, dt_min=0.02, dt_max=0.2)),
    "s5-bilinear": partial(
        S5, d_hidden=6, dynamics=partial(S5Dynamics, discretisation="bilinear", conj_sym=False, clip_eigs=True)
    ),
    "modal": partial(LRU, d_hidden=6, dynamics=partial(DiscreteModalDynamics, r_min=0.5, r_max=0.99)),
    "s5 of modal": partial(S5, d_hidden=6, dynamics=DiscreteModalDynamicsAngleMag),
    "oscillator": partial(LRU, d_hidden=6, dynamics=OscillatorDynamics),
    "varying": partial(LRU, d_hidden=6, dynamics=partial(LRUDynamicsVarying, model=MLP((5,), outputs_per_input=2))),
    "modulated": partial(LRU, d_hidden=6, dynamics=partial(LRUDynamicsModulated, model=MLP((5,), outputs_per_input=2))),
}


def numbers(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


CENTRES = {
    "nu_log": -3.0, "magnitudes": 0.6, "real_imag": 0.4, "stretch_log": -3.0, "gamma_log": -1.0, "Lambda_re": -0.5,
    "log_step": -2.5, "scale": 1.0, "var": 1.0,
}


def started(model, *args):
    "Random numbers about suitable centres in the shapes of the variables: no initialiser is compiled."
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    shapes = jax.eval_shape(lambda: model.init(keys, *args))
    rng = np.random.default_rng(2)

    def draw(path, leaf):
        return jnp.asarray(CENTRES.get(path[-1].key, 0) + rng.uniform(-0.4, 0.4, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("options", [
    *({"norm": norm, "mixer": mixer} for norm, mixer in zip(NORMS, MIXERS, strict=True)),
    {"norm": "layer", "prenorm": False, "grid": (4, 3), "channels": 2, "context": 2},
], ids=str)
@pytest.mark.parametrize("name", ["lru", "s5", pytest.param("s5-bilinear", marks=pytest.mark.slow)])
def test_frames_one_by_one_are_the_rollout(name, options):
    model = SequenceModel(recurrence=RECURRENCES[name], **({"grid": (7,), "d_model": 5, "n_layers": 2} | options))
    x0, force = numbers(0, model.context, *model.grid, model.channels), numbers(1, 15, 2)
    variables = started(model, x0, 15, force)
    whole = jax.jit(model.apply, static_argnums=2)(variables, x0, 15, force)
    step = jax.jit(lambda state, force: model.apply(variables, state, force, method="step"))
    state = jax.jit(lambda: model.apply(variables, x0, method="init_state"))()
    for n in range(15):
        state, frame = step(state, force[n])
        np.testing.assert_allclose(frame, whole[n], atol=2e-5)


@pytest.mark.parametrize("name", RECURRENCES)
def test_every_recurrence_serves_the_stack(name):
    "Frame by frame, in two pieces and whole, driven by a force: the same numbers."
    model = SequenceModel((7,), recurrence=RECURRENCES[name], d_model=5, n_layers=2)
    x0, force = numbers(0, 1, 7, 1), numbers(1, 15, 2)
    variables = started(model, x0, 15, force)

    @jax.jit
    def uses(variables):
        use = partial(model.apply, variables)
        start = use(x0, method="init_state")
        streamed = jax.lax.scan(partial(use, method="step"), start, force)[1]
        head, middle = use(start, 6, force[:6], method="advance")
        tail, _ = use(middle, 9, force[6:], method="advance")
        return use(x0, 15, force), streamed, jnp.concatenate([head, tail])

    whole, streamed, pieces = uses(variables)
    assert np.ptp(whole) > 0.1
    np.testing.assert_allclose(streamed, whole, atol=2e-5)
    np.testing.assert_allclose(pieces, whole, atol=2e-5)



@pytest.mark.parametrize("dtype", [bool, np.float32])
@pytest.mark.parametrize("norm", ["batch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("layer", "none"))])
def test_padding_changes_nothing(norm, dtype):
    "Outputs, loss and gradient with a mask are those of the short sequence by itself; NaN behind it is not seen."
    model = batched(SequenceModel)((7,), recurrence=RECURRENCES["s5"], d_model=5, n_layers=2, norm=norm, training=True)
    x0, force, target = numbers(0, 2, 1, 7, 1), numbers(1, 2, 12, 2), numbers(2, 2, 12, 7, 1)
    variables = started(model, x0, 12, force)
    state = {name: value for name, value in variables.items() if name != "params"}

    @partial(jax.jit, static_argnums=0)
    def run(n_steps, params, force, mask):
        def loss(params):
            args = ({"params": params, **state}, x0, n_steps, force, mask)
            y, moved = model.apply(*args, mutable=["batch_stats"], rngs={"dropout": jax.random.key(3)})
            return mse(y, target[:, :n_steps], mask), (y, moved)

        return jax.value_and_grad(loss, has_aux=True)(params)

    short = run(8, variables["params"], force[:, :8], None)
    mask = jnp.tile(jnp.arange(12) < 8, (2, 1)).astype(dtype)
    padded = run(12, variables["params"], force.at[:, 8:].set(jnp.nan), mask)
    (loss, (y, moved)), gradient = padded
    assert not y[:, 8:].any()
    padded = (loss, (y[:, :8], moved)), gradient
    for a, b in zip(jax.tree.leaves(short), jax.tree.leaves(padded), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_of_a_layer(bidirectional):
    layer = SequenceLayer(partial(S5, d_hidden=6, bidirectional=bidirectional), 5)
    x = numbers(0, 12, 5)
    variables = started(layer, None, x)
    apply = jax.jit(lambda x, mask: layer.apply(variables, None, x, None, mask)[1])
    short = apply(x[:8], None)
    padded = apply(x.at[8:].set(1e3), jnp.arange(12) < 8)
    np.testing.assert_allclose(padded[:8], short, atol=2e-5)


def test_a_batch_over_two_devices_is_one_batch(run_python):
    "The product of frames keeps a batch that is spread over devices spread, and its gradient whole."
    code = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from physmodjax.models.dense import frame_product
x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32))
W = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32))
rows = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
product = jax.jit(jax.vmap(frame_product, (0, None)))
y = product(jax.device_put(x, rows), W)
assert y.sharding.is_equivalent_to(rows, 3), y.sharding
np.testing.assert_allclose(y, x @ W, rtol=1e-5, atol=1e-5)
slope = jax.jit(jax.grad(lambda W, x: jnp.sum(jnp.sin(jax.vmap(frame_product, (0, None))(x, W)))))
np.testing.assert_allclose(slope(W, jax.device_put(x, rows)), slope(W, x), rtol=1e-5, atol=1e-5)
"""
    done = run_python("-c", code, devices=2)
    assert done.returncode == 0, done.stderr[-2000:]
