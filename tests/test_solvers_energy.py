"Energy of simulated motions over long times, and the finite-difference solver against the modal one."
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physmodjax.evaluation import energy_drift
from physmodjax.solvers import (
    MYLAR_MEMBRANE,
    NYLON_STRING,
    draw_shape,
    energy,
    gaussian_shape,
    grid_system,
    modal_system,
    simulate,
    simulate_finite_difference,
)

SECONDS = 10
QUIET_STRING = replace(NYLON_STRING, d1=0.0, d3=0.0)
QUIET_MEMBRANE = replace(MYLAR_MEMBRANE, d1=0.0, d3=0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "rate, n_modes, kind",
    [(4000, 10, "gaussian"), (4000, 10, "noise"), (16000, 25, "gaussian"), (16000, 25, "noise")],
)
def test_string_keeps_its_energy_for_ten_seconds(rate, n_modes, kind):
    "1e-9 relative at order 4 and the default accuracy, with plucks of 1 cm."
    system = modal_system(QUIET_STRING, n_modes)
    q0 = system.to_modal(draw_shape(kind, np.random.default_rng(0), (101,), peak=(0.01, 0.01)).shape)
    q, qdot = simulate(system, q0, 0 * q0, rate=rate, n_steps=SECONDS * rate)
    assert energy_drift(energy(system, q, qdot).total).worst < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("peak", [2.0, 20.0], ids=["soft", "hard"])
def test_membrane_keeps_its_energy_for_ten_seconds(peak):
    system = modal_system(QUIET_MEMBRANE, (4, 4))
    blow = gaussian_shape(np.random.default_rng(1), (41, 37), peak=(peak, peak), widest=0.3).shape
    qdot0 = system.to_modal(blow)
    q, qdot = simulate(system, 0 * qdot0, qdot0, rate=16000, n_steps=SECONDS * 16000)
    assert energy_drift(energy(system, q, qdot).total).worst < 1e-9


@pytest.mark.slow
def test_finite_differences_keep_their_energy_for_a_million_steps():
    "1e-10 relative, as hard as a pluck gets."
    u0 = np.zeros(31)
    u0[1:-1] = np.random.default_rng(2).uniform(0, 0.01, 29)
    motion = simulate_finite_difference(QUIET_STRING, u0, 0 * u0, rate=4000, n_steps=25_000, substeps=40)
    assert energy_drift(motion.energy).worst < 1e-10


def test_energy_takes_any_batch():
    "One state, one trajectory and any batch of them give the same numbers; without a rate the loss is left out."
    system = modal_system(NYLON_STRING, 5)
    q0 = np.random.default_rng(0).normal(size=(2, 3, 5)) * 1e-3 / np.arange(1, 6) ** 2
    q, qdot = simulate(system, q0, 0 * q0, rate=16000, n_steps=50, substeps=8)
    whole = energy(system, q, qdot, rate=16000)
    assert all(part.shape == (2, 3, 50) and part.dtype == np.float64 for part in whole)
    one = energy(system, q[1, 2], qdot[1, 2], rate=16000)
    for part, expected in zip(one, whole, strict=True):
        np.testing.assert_allclose(part, expected[1, 2], rtol=1e-12, atol=1e-18)
    state = energy(system, q[1, 2, 7], qdot[1, 2, 7])
    assert state.lost is None and state.total.shape == ()
    np.testing.assert_allclose(state.total, whole.total[1, 2, 7], rtol=1e-12)
    np.testing.assert_allclose(whole.total + whole.lost, whole.total[..., :1] * np.ones(50), rtol=1e-4)


def test_energy_of_predicted_frames():
    "Frames in float32, as a model makes them, go through the same call; noise on them shows as drift."
    system = modal_system(QUIET_STRING, 8)
    q0 = system.to_modal(gaussian_shape(np.random.default_rng(0), (101,), peak=(0.005, 0.005)).shape)
    q, qdot = simulate(system, q0, 0 * q0, rate=16000, n_steps=400)
    frames = [system.to_grid(x, 101).astype(np.float32) for x in (q, qdot)]
    total = energy(system, *(system.to_modal(x) for x in frames)).total
    np.testing.assert_allclose(total, energy(system, q, qdot).total, rtol=1e-5)
    louder = energy(system, *(system.to_modal(x * np.linspace(1, 1.1, 400)[:, None]) for x in frames)).total
    assert energy_drift(total).worst < 1e-5 and energy_drift(louder).worst > 0.2


def test_energy_is_differentiable():
    "The gradient of the energy is the force that the equation of motion has, times the mass."
    system = modal_system(QUIET_STRING, 4)
    with jax.enable_x64(True):
        q = jnp.asarray(np.array([3e-3, -1e-3, 5e-4, 2e-4]))
        slope = jax.grad(lambda q: energy(system, q, 0 * q).total)(q)
        force = -system.bank.omega_sq * q + system.coupling.force(q)
        np.testing.assert_allclose(slope, -2 * QUIET_STRING.rho * QUIET_STRING.area / QUIET_STRING.length * force)


# Finite differences

def pluck(n_points: int, peak: float = 0.005) -> np.ndarray:
    "A smooth bell off the middle, zero at the ends."
    x = np.linspace(0, 1, n_points)
    return peak * np.exp(-(((x - 0.37) / 0.12) ** 2)) * np.sin(np.pi * x)


def test_batches_profiles_and_substeps():
    "A batch is its members; a constant profile is the plain string; more rate is the same as more sub-steps."
    u0 = np.stack([pluck(33), -0.3 * pluck(33)[::-1]])
    both = simulate_finite_difference(NYLON_STRING, u0, 9e2 * u0, rate=16000, n_steps=60, substeps=2)
    uniform = dict(density=np.full(33, NYLON_STRING.rho * NYLON_STRING.area), tension=lambda x: NYLON_STRING.T0 + 0 * x)
    one = simulate_finite_difference(NYLON_STRING, u0[1], 9e2 * u0[1], 16000, 60, substeps=2, **uniform)
    fast = simulate_finite_difference(NYLON_STRING, u0[1], 9e2 * u0[1], rate=32000, n_steps=120)
    for batch, single, often in zip(both, one, fast, strict=True):
        np.testing.assert_allclose(single, batch[1], rtol=1e-9, atol=1e-12 * abs(batch).max())
        np.testing.assert_allclose(often[::2], batch[1], rtol=1e-9, atol=1e-12 * abs(batch).max())
    assert both.u.shape == (2, 60, 33) and both.energy.shape == (2, 60)
    np.testing.assert_array_equal(both.u[:, 0, 1:-1], u0[:, 1:-1])
    np.testing.assert_allclose(both.v[:, 0], 9e2 * u0, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("theta", [0.25, 0.1, 0.0])
def test_discrete_power_balance(theta):
    "In every step the energy falls by what the losses take, k vᵀRv, with tension modulation and a varying density."
    lossy = replace(NYLON_STRING, d1=0.02, d3=1e-3)
    shape = dict(density=lambda x: NYLON_STRING.rho * NYLON_STRING.area * (1 + x))
    system, rate = grid_system(lossy, 33, **shape), 96000
    motion = simulate_finite_difference(system, pluck(33, 0.02), 0 * pluck(33), rate, 400, theta=theta)
    v = motion.v[1:, 1:-1]
    taken = np.einsum("ti,ij,tj->t", v, system.loss, v) / rate
    np.testing.assert_allclose(np.diff(motion.energy), -taken, atol=1e-12 * motion.energy[0])
    assert motion.energy[-1] < 0.9 * motion.energy[0]


def test_the_limit_of_stability_is_sharp():
    "Just inside the limit the motion stays bounded; what lies outside is refused, and names the limit."
    u0 = np.random.default_rng(0).uniform(-1e-3, 1e-3, 33)
    u0[[0, -1]] = 0
    with pytest.raises(ValueError, match="rate: got 1 Hz .* expected at least") as refused:
        simulate_finite_difference(QUIET_STRING, u0, 0 * u0, 1.0, 5, theta=0.1, nonlinear=False)
    limit = float(str(refused.value).split("at least ")[1].split()[0])
    motion = simulate_finite_difference(QUIET_STRING, u0, 0 * u0, 1.001 * limit, 20_000, theta=0.1, nonlinear=False)
    assert abs(motion.u).max() < 0.1 and "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="theta of at least 0.25"):
        simulate_finite_difference(QUIET_STRING, u0, 0 * u0, 0.999 * limit, 5, theta=0.1, nonlinear=False)


def test_overflow_names_trajectory_and_time():
    u0 = np.stack([pluck(33), pluck(33), 1e140 * pluck(33)])
    with pytest.raises(ValueError, match="trajectory 2 from 0.000125 s on"):
        simulate_finite_difference(NYLON_STRING, u0, 0 * u0, rate=8000, n_steps=20)


def test_hard_pluck_against_modes():
    "The losses and the tension modulation of both solvers, seen over 5 ms: Richardson's extrapolation of two grids."
    modal = modal_system(NYLON_STRING, 4)
    q0 = 0.01 * NYLON_STRING.length / 2 * np.array([1.0, -0.4, 0.3, 0.1])
    q, qdot = simulate(modal, q0, 0 * q0, rate=8000, n_steps=41, substeps=30)
    expected = modal.to_grid(q, 25)
    coarse, fine = (
        simulate_finite_difference(NYLON_STRING, modal.to_grid(q0, n), 0 * modal.to_grid(q0, n), 8000, 41, substeps=k)
        for n, k in ((49, 12), (97, 24))
    )
    coarse, fine = coarse.u[:, ::2], fine.u[:, ::4]
    extrapolated = (4 * fine - coarse) / 3
    error = lambda u: np.linalg.norm(u - expected) / np.linalg.norm(expected)  # noqa: E731
    assert error(fine) < 0.03 and error(extrapolated) < error(fine) / 20, (error(fine), error(extrapolated))
    assert energy(modal, q, qdot).nonlinear.max() > 1e-3
