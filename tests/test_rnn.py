"""Recurrent networks, every cell on every grid: the checks that are too slow for the notebooks."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physmodjax.dynamics.cells import CELLS
from physmodjax.dynamics.rnn import BatchedDeepRNN, DeepRNN, RNNLayer, masked_mean, sequence_mask
from physmodjax.models.batching import batched
from physmodjax.models.rnn import RNNModel

GRIDS = [((11,), 1), ((4, 3), 2)]
EVERY_CELL = [pytest.param(name, marks=() if name in ("gru", "lstm") else pytest.mark.training) for name in CELLS]


def numbers(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def random_variables(model, *args):
    "Random numbers in the shapes of the parameters: no initialiser is compiled, and no bias is zero."
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *args))
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.3, leaf.dtype), shapes)


def close(a, b, atol):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), a, b)


@pytest.mark.parametrize("grid, channels", GRIDS)
@pytest.mark.parametrize("cell", [*EVERY_CELL, nn.OptimizedLSTMCell])
def test_deep_rnn_batch_tokens_and_padding(cell, grid, channels):
    x0, x = numbers(0, 3, *grid, channels), numbers(1, 3, 6, *grid, channels)
    fields = dict(d_model=8, d_vars=channels, n_layers=1, cell=cell, initial="learned")
    single, many = DeepRNN(**fields), BatchedDeepRNN(**fields)
    variables = random_variables(many, x0, x)
    run = jax.jit(many.apply)
    y = run(variables, x0, x, jnp.array([6, 6, 6]))
    assert y.shape == x.shape and np.abs(y).min(axis=(1, 2)).max() > 0
    carry = single.apply(variables, x0[1], method="initial_carry")
    step = jax.jit(lambda carry, x: single.apply(variables, carry, x, method="step"))
    for n in range(6):
        carry, y_n = step(carry, x[1, n])
        close(y_n, y[1, n], 1e-5)
    cut = run(variables, x0, x.at[1, 4:].set(jnp.nan), jnp.array([6, 4, 6]))
    close(cut[1, :4], y[1, :4], 1e-5)
    assert not cut[1, 4:].any()


@pytest.mark.parametrize("cell", CELLS)
def test_gradient_ignores_padding(cell):
    x, lengths = numbers(0, 4, 9, 3), jnp.array([9, 5, 1, 0])
    mask = sequence_mask(lengths, 9)
    layer = RNNLayer(CELLS[cell](6), "learned", "learned", nn.initializers.normal(0.5))
    variables = random_variables(layer, x)

    def loss(variables, x):
        return masked_mean((layer.apply(variables, x, None, lengths)[1] - 0.3) ** 2, mask)

    gradient = jax.jit(jax.grad(loss))
    expected = gradient(variables, x)
    assert max(float(np.abs(g).max()) for g in jax.tree.leaves(expected)) > 1e-3
    for padding in (jnp.nan, jnp.inf, 1e6):
        close(gradient(variables, jnp.where(mask[..., None], x, padding)), expected, 1e-7)


@pytest.mark.parametrize("grid, channels, feedback", [(*GRIDS[0], True), (*GRIDS[1], False)])
@pytest.mark.parametrize("cell", EVERY_CELL)
def test_rnn_model_streams(cell, feedback, grid, channels):
    fields = dict(d_model=8, n_layers=1, cell=cell, feedback=feedback, initial="learned")
    model, many = (kind(grid, channels, context=2, **fields) for kind in (RNNModel, batched(RNNModel)))
    x0 = numbers(0, 3, 2, *grid, channels)
    variables = random_variables(many, x0, 7)
    y = jax.jit(many.apply, static_argnums=2)(variables, x0, 7)
    state = model.apply(variables, x0[1], method="init_state")
    step = jax.jit(lambda state: model.apply(variables, state, method="step"))
    for n in range(7):
        state, y_n = step(state)
        close(y_n, y[1, n], 1e-5)
    start = model.apply(variables, x0[1], method="init_state")
    head, middle = model.apply(variables, start, 3, method="advance")
    tail, _ = model.apply(variables, middle, 4, method="advance")
    close(np.concatenate([head, tail]), y[1], 1e-5)


@pytest.mark.parametrize("feedback", [True, False])
def test_padding_of_a_rollout(feedback):
    "Outputs and gradient with a mask are those of the shorter rollouts; NaN force behind it is not seen."
    model = batched(RNNModel)((11,), d_model=8, d_forcing=1, feedback=feedback, initial="learned")
    x0, force = numbers(0, 2, 1, 11, 1), numbers(1, 2, 9, 11, 1)
    variables, mask = random_variables(model, x0, 9, force), np.arange(9) < np.array([9, 5])[:, None]

    @partial(jax.jit, static_argnums=2)
    def run(variables, force, n_steps, mask):
        def loss(variables):
            y = model.apply(variables, x0, n_steps, force, mask)
            return jnp.sum(y[0] ** 2) + jnp.sum(y[1, :5] ** 2), y

        return jax.value_and_grad(loss, has_aux=True)(variables)

    (_, whole), gradient = run(variables, force, 9, None)
    (_, padded), padded_gradient = run(variables, force.at[1, 5:].set(jnp.nan), 9, mask)
    assert not padded[~mask].any()
    close(padded[mask], whole[mask], 1e-5)
    close(padded_gradient, gradient, 1e-4)


def test_float64_throughout():
    with jax.enable_x64(True):
        x = jnp.asarray(numbers(0, 5, 3), jnp.float64)
        for kind in CELLS.values():
            layer = RNNLayer(kind(4, param_dtype=jnp.float64), initial_h="learned")
            variables = random_variables(layer, x)
            carry, y = layer.apply(variables, x)
            assert {leaf.dtype for leaf in jax.tree.leaves((carry, y, variables))} == {np.dtype("float64")}


@pytest.mark.parametrize("kind", CELLS.values())
def test_wrong_width_before_parameters(kind):
    cell = kind(4, in_features=3)
    carry = cell.initialize_carry(jax.random.key(0), (3,))
    with pytest.raises(ValueError, match=r"got \(7,\), expected \(\.\.\., 3\)"):
        cell.init(jax.random.key(0), carry, jnp.zeros(7))
