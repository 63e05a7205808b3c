"Derivatives of the scans: forward, reverse and mixed, against finite differences in double precision."
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physmodjax.core.scan import (
    _associative,
    _pairs_associative,
    _pairs_loop,
    _sequential,
    affine_scan,
    affine_scan_p,
    affine_scan_pairs,
    pairs_scan_p,
    power_scan,
    powers,
)

H, T = 3, 7


def draw(shape, seed, complex_numbers=True):
    rng = np.random.default_rng(seed)
    real = rng.normal(size=shape)
    return real + 1j * rng.normal(size=shape) if complex_numbers else real


def eigenvalues(shape=(H,), seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.6, 0.99, shape) * np.exp(1j * rng.uniform(0.1, 3.0, shape))


SCANS = {  # function of arrays that is to be differentiated, and its arguments
    "pairs": (affine_scan_pairs, (eigenvalues(), draw((T, 2 * H), 1, False))),
    "affine_constant": (affine_scan, (eigenvalues(), draw((T, H), 2), draw((H,), 3))),
    "affine_varying": (affine_scan, (eigenvalues((T, H)), draw((T, H), 4), draw((H,), 5))),
    "affine_real": (affine_scan, (eigenvalues().real, draw((T, H), 6, False), draw((H,), 7, False))),
    "affine_from_rest": (affine_scan, (eigenvalues((T, H)), draw((T, H), 8))),
    "one_step": (affine_scan, (eigenvalues(), draw((1, H), 9), draw((H,), 10))),
    "powers": (partial(powers, n_steps=T, first=0), (eigenvalues(),)),
    "powers_from_one": (partial(power_scan, n_steps=T, first=1), (eigenvalues(), draw((H,), 11))),
    "backwards": (partial(affine_scan_p.bind, reverse=True), (eigenvalues((T, H)), draw((T, H), 12))),
    "pairs_backwards": (partial(pairs_scan_p.bind, reverse=True), (eigenvalues((1, H)), draw((T, 2 * H), 13, False))),
}

DIFFERENT = ("pairs", "affine_varying", "powers_from_one", "pairs_backwards")  # the others differ in their calls


def directions(arguments, seed=20):
    return tuple(draw(np.shape(a), seed + n, np.iscomplexobj(a)) for n, a in enumerate(arguments))


def moved(arguments, way, step):
    return tuple(a + step * d for a, d in zip(arguments, way, strict=True))


def flat(values):
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(values)])
    return np.concatenate([values.real, values.imag])


def cost(scan):
    "A real function of the states that is not quadratic."

    def value(*arguments):
        h = scan(*arguments)
        return jnp.sum(jnp.sin(h.real) + jnp.cos(h.imag) * h.real)

    return value


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", SCANS)
def test_forward_mode_is_the_finite_difference(name):
    scan, arguments = SCANS[name]
    way = directions(arguments)
    tangent = jax.jvp(scan, arguments, way)[1]
    scan = jax.jit(scan)
    np.testing.assert_allclose(jax.jvp(scan, arguments, way)[1], tangent, rtol=1e-12, atol=1e-12)
    difference = (scan(*moved(arguments, way, 1e-6)) - scan(*moved(arguments, way, -1e-6))) / 2e-6
    np.testing.assert_allclose(tangent, difference, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", DIFFERENT)
def test_one_argument_at_a_time_adds_up(name):
    scan, arguments = SCANS[name]
    way = directions(arguments)
    whole = jax.jvp(scan, arguments, way)[1]
    parts = 0
    for n, direction in enumerate(way):
        one = lambda a, n=n: scan(*arguments[:n], a, *arguments[n + 1 :])  # noqa: E731
        parts = parts + jax.jvp(one, (arguments[n],), (direction,))[1]
    np.testing.assert_allclose(parts, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SCANS)
def test_reverse_mode_is_the_finite_difference(name):
    scan, arguments = SCANS[name]
    value, way = jax.jit(cost(scan)), directions(arguments)
    slope = jax.jit(jax.grad(cost(scan), argnums=range(len(arguments))))(*arguments)
    along = sum(np.sum(np.asarray(g) * d).real for g, d in zip(slope, way, strict=True))
    difference = (value(*moved(arguments, way, 1e-6)) - value(*moved(arguments, way, -1e-6))) / 2e-6
    np.testing.assert_allclose(along, difference, rtol=1e-7)


@pytest.mark.parametrize("name", DIFFERENT)
def test_forward_over_reverse_and_reverse_over_reverse(name):
    scan, arguments = SCANS[name]
    slope, way = jax.jit(jax.grad(cost(scan), argnums=range(len(arguments)))), directions(arguments)
    difference = (flat(slope(*moved(arguments, way, 1e-6))) - flat(slope(*moved(arguments, way, -1e-6)))) / 2e-6
    forward = jax.jvp(slope, arguments, way)[1]
    np.testing.assert_allclose(flat(forward), difference, rtol=1e-6, atol=1e-6)

    def along(*arguments):
        return sum(jnp.sum(g * d).real for g, d in zip(slope(*arguments), way, strict=True))

    backward = jax.grad(along, argnums=range(len(arguments)))(*arguments)
    np.testing.assert_allclose(flat(backward), flat(forward), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", DIFFERENT)
def test_every_derivative_under_vmap_is_that_of_one_example(name):
    scan, arguments = SCANS[name]
    batch = tuple(np.stack([a, 0.5 * a, 0.7 * a]) for a in arguments)
    way = directions(batch)
    tangent_of = jax.jit(lambda a, d: jax.jvp(scan, a, d)[1])
    slope_of = jax.jit(jax.grad(cost(scan), argnums=range(len(arguments))))
    tangents, slopes = jax.vmap(tangent_of)(batch, way), jax.vmap(slope_of)(*batch)
    for n in range(3):
        one, own = tuple(a[n] for a in batch), tuple(d[n] for d in way)
        np.testing.assert_allclose(tangents[n], tangent_of(one, own), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(flat([s[n] for s in slopes]), flat(slope_of(*one)), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["pairs", "affine_varying", "affine_constant"])
def test_shared_eigenvalues_gather_the_gradients_of_all_examples(name):
    scan, (lam, x, *_) = SCANS[name]
    batch = np.stack([x, -x, 2 * x])
    value = lambda lam: jnp.sum(jax.vmap(cost(scan), (None, 0))(lam, batch))  # noqa: E731
    each = sum(jax.grad(cost(scan))(lam, x) for x in batch)
    np.testing.assert_allclose(jax.grad(value)(lam), each, rtol=1e-11)
    tangent = jax.jvp(value, (lam,), (draw(lam.shape, 5),))[1]
    np.testing.assert_allclose(tangent, np.sum(each * draw(lam.shape, 5)).real, rtol=1e-11)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("leading", [(), (2,), (2, 4)])
def test_both_forms_are_the_plain_loop(leading, reverse):
    "The forms for a processor and for an accelerator, with and without leading axes, against a loop in NumPy."
    lam, x = eigenvalues((*leading, T, H)), draw((*leading, T, H), 1)
    constant, pairs = lam[..., :1, :], draw((*leading, T, 2 * H), 2, False)
    for form in (_sequential, _associative):
        np.testing.assert_allclose(form(lam, x, reverse=reverse), loop(lam, x, reverse), rtol=1e-12)
    inputs = pairs[..., :H] + 1j * pairs[..., H:]
    for form in (_pairs_loop, _pairs_associative):
        h = np.asarray(form(jnp.asarray(constant), jnp.asarray(pairs), reverse=reverse))
        np.testing.assert_allclose(h[..., :H] + 1j * h[..., H:], loop(constant, inputs, reverse), rtol=1e-12)


def loop(lam, x, reverse):
    lam, h, states = np.broadcast_to(lam, x.shape), np.zeros_like(x[..., 0, :]), np.zeros_like(x)
    order = range(x.shape[-2])
    for n in reversed(order) if reverse else order:
        h = lam[..., n, :] * h + x[..., n, :]
        states[..., n, :] = h
    return states


def test_the_jacobian_by_columns_is_the_jacobian_by_rows():
    "jacfwd and jacrev, which use vmap of the tangent and of the transpose."
    scan, arguments = SCANS["pairs"]
    by_columns = jax.jacfwd(scan, argnums=1)(*arguments)
    by_rows = jax.jacrev(scan, argnums=1)(*arguments)
    np.testing.assert_allclose(by_columns, by_rows, rtol=1e-12, atol=1e-14)


def test_rematerialised_and_linearised_scans_have_the_same_derivatives():
    scan, arguments = SCANS["affine_varying"]
    way = directions(arguments)
    tangent = jax.jvp(scan, arguments, way)[1]
    np.testing.assert_allclose(jax.linearize(scan, *arguments)[1](*way), tangent, rtol=1e-12)
    slope = jax.grad(cost(jax.checkpoint(scan)), argnums=(0, 1, 2))(*arguments)
    np.testing.assert_allclose(flat(slope), flat(jax.grad(cost(scan), argnums=(0, 1, 2))(*arguments)), rtol=1e-12)
