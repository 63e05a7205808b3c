"Boundaries, forces, contacts and pickups against independent solutions."
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from physmodjax.solvers import (
    MYLAR_MEMBRANE,
    NYLON_STRING,
    STEEL_STRING,
    Bow,
    Hammer,
    bridge_force,
    choose_contact_substeps,
    force_signal,
    modal_system,
    pickup,
    point_forcing,
    simulate,
    simulate_contact,
)

IDEAL = replace(NYLON_STRING, I=0.0, d1=0.0, d3=0.0)
ENDS = ["fixed", "free", ("fixed", "free"), ("free", "fixed")]


def relative(found, expected) -> float:
    "L2 distance over L2 size."
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# Boundaries

def reflected(shape, boundary, x):
    "A shape on [0, ℓ] continued beyond its ends: odd about a fixed one, even about a free one."
    left, right = (-1.0 if end == "fixed" else 1.0 for end in boundary)
    period = np.floor(x / IDEAL.length).astype(int)
    inside = x - period * IDEAL.length
    at_right = np.where(period > 0, (period + 1) // 2, -period // 2)
    at_left = np.where(period > 0, period // 2, (1 - period) // 2)
    return right**at_right * left**at_left * shape(np.where(period % 2 == 0, inside, IDEAL.length - inside))


@pytest.mark.parametrize("boundary", ENDS, ids=str)
def test_pluck_and_strike_follow_dalembert(boundary):
    "A bell, released or struck, on an ideal string; several reflections at both ends."
    system = modal_system(IDEAL, 90, nonlinear=False, boundary=boundary)
    speed = np.sqrt(IDEAL.T0 / (IDEAL.rho * IDEAL.area))
    x, t = np.linspace(0, IDEAL.length, 101), np.arange(150)[:, None] / 8000
    bell = lambda x: 1e-3 * np.exp(-(((x - 0.2) / 0.05) ** 2))  # noqa: E731
    q0 = system.to_modal(bell(x))
    plucked = system.to_grid(simulate(system, q0, 0 * q0, rate=8000, n_steps=150)[0], 101)
    ahead, behind = (reflected(bell, system.basis.boundary, x + sign * speed * t) for sign in (1, -1))
    np.testing.assert_allclose(plucked, (ahead + behind) / 2, atol=1e-7)
    # the velocity after a blow of the same shape moves as the pluck does
    struck = system.to_grid(simulate(system, 0 * q0, q0, rate=8000, n_steps=150)[1], 101)
    np.testing.assert_allclose(struck, (ahead + behind) / 2, atol=1e-7)


@pytest.mark.parametrize("boundary", ENDS, ids=str)
def test_added_tension_is_that_of_the_grid(boundary):
    "The cubic force against EA/2ℓ ∫u'² taken on a fine grid; it stretches nothing when the string moves as a whole."
    system = modal_system(IDEAL, 6, boundary=boundary)
    q = 1e-3 * np.random.default_rng(0).normal(size=6)
    slope = np.gradient(system.to_grid(q, 4001), IDEAL.length / 4000, edge_order=2)
    tension = IDEAL.E * IDEAL.area / (2 * IDEAL.length) * np.trapezoid(slope**2, dx=IDEAL.length / 4000)
    eta_sq = (system.basis.numbers[0] * np.pi / IDEAL.length) ** 2
    with jax.enable_x64(True):
        force = system.coupling.force(jnp.asarray(q))
    np.testing.assert_allclose(force, -tension * eta_sq * q / system.mass, rtol=1e-5)


def test_free_string_drifts():
    "A blow on a string with free ends sets it moving as a whole, at constant speed, tension modulation or not."
    for nonlinear in (False, True):
        system = modal_system(IDEAL, 5, nonlinear, boundary="free")
        qdot0 = np.array([0.3, 0.2, 0.0, -0.1, 0.05])
        q, qdot = simulate(system, np.zeros(5), qdot0, rate=8000, n_steps=400)
        np.testing.assert_allclose(q[:, 0], 0.3 * np.arange(400) / 8000, atol=1e-12)
        np.testing.assert_allclose(qdot[:, 0], 0.3, atol=1e-12)
        np.testing.assert_allclose(system.frequencies(), IDEAL.f0 * np.arange(5), rtol=1e-6)


@pytest.mark.parametrize(("arguments", "message"), [
    ((NYLON_STRING, 5, True, "free"), "stiffness of an object with a free end: got 0.000761, expected 0; free ends"),
    ((IDEAL, 5, True, "fixd"), "did you mean fixed?"),
    ((IDEAL, 5, True, ("free",)), "a word or a pair"),
    ((MYLAR_MEMBRANE, (3, 3), True, "free"), "boundary of an object with two axes: got free, expected fixed"),
])
def test_contradictory_boundaries_are_refused(arguments, message):
    with pytest.raises(ValueError, match="^[^\n]*$") as caught:
        modal_system(*arguments)
    assert message in str(caught.value)


# Forces over time

@pytest.mark.parametrize("nonlinear", [False, True])
def test_forced_motion_matches_dop853(nonlinear):
    "A raised cosine on a string, solved interval by interval."
    system = modal_system(NYLON_STRING, 4, nonlinear)
    signal = force_signal("raised_cosine", 8000, 41, amplitude=4.0, start=0.0003, duration=0.003)
    forcing = point_forcing(system, signal, 0.3, width=0.1)
    q, _ = simulate(system, np.zeros(4), np.zeros(4), rate=8000, n_steps=41, forcing=forcing, rtol=1e-8)
    eta_sq = system.basis.numbers[0] ** 2 * (np.pi / NYLON_STRING.length) ** 2
    c = NYLON_STRING.E / (NYLON_STRING.length**2 * NYLON_STRING.rho) if nonlinear else 0.0
    state, expected = np.zeros(8), [np.zeros(4)]
    for f in forcing:
        def motion(_, y, f=f):
            q, v = y[:4], y[4:]
            bend = system.bank.omega_sq * q + system.bank.two_sigma * v + c * eta_sq * q * (eta_sq @ q**2)
            return np.concatenate([v, f - bend])

        state = solve_ivp(motion, (0, 1 / 8000), state, "DOP853", rtol=1e-11, atol=1e-16).y[:, -1]
        expected.append(state[:4])
    assert relative(q, np.array(expected)) < 1e-7


def test_forcing_broadcasts_over_signals_and_places():
    drum = modal_system(MYLAR_MEMBRANE, (3, 4))
    signals = force_signal("ramp", 4000, 21, amplitude=np.arange(1.0, 4.0), duration=0.002)
    places = np.array([[0.2, 0.3], [0.5, 0.5], [0.7, 0.4]])
    forcing = point_forcing(drum, signals, places, width=0.1)
    assert forcing.shape == (3, 20, 12)
    for signal, place, force in zip(signals, places, forcing, strict=True):
        np.testing.assert_array_equal(point_forcing(drum, signal, place, width=0.1), force)


def test_forcing_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="forcing longer than the run: got 0.03 s, expected at most 0.02 s; raise"):
        force_signal("step", 1000, 21, start=0.01, duration=0.02)
    with pytest.raises(ValueError, match="raise n_steps to 26 or shorten it"):
        force_signal(np.ones(25), 1000, 21)


# Contacts

def bow_reference(system, bow, rate, n_steps):
    "q (T, M) by DOP853."
    M, shape = system.size, system.at(bow.position)
    weights = system.coupling.weights

    def motion(_, y):
        q, v = y[:M], y[M:]
        slip = bow.speed - shape @ (v / system.basis.norms)
        force = bow.force * np.sqrt(2 * bow.sharpness) * slip * np.exp(0.5 - bow.sharpness * slip**2)
        stretch = system.coupling.strength * weights * q * (weights @ q**2)
        return np.concatenate([
            v, shape * force / system.mass - stretch - system.bank.omega_sq * q - system.bank.two_sigma * v
        ])

    times = np.arange(n_steps) / rate
    return solve_ivp(motion, (0, times[-1]), np.zeros(2 * M), "DOP853", times, rtol=1e-11, atol=1e-14).y[:M].T


def test_bow_matches_dop853():
    "Sticking and slipping, with losses and tension modulation; the requested accuracy is reached."
    system, rest = modal_system(STEEL_STRING, 6), np.zeros(6)
    bow = Bow(position=0.15, speed=0.15, force=1.0)
    q, qdot, _ = simulate_contact(system, rest, rest, bow, 16000, 300, rtol=1e-6)
    slip = 0.15 - pickup(system, qdot, 0.15)
    assert (slip < 0.05).any() and (slip > 0.3).any()
    assert relative(q, bow_reference(system, bow, 16000, 300)) < 1e-6


def test_hammer_on_a_free_string_keeps_all_momentum():
    "Nothing holds the string: what the hammer loses, the string has, with losses in the felt too."
    system, rest = modal_system(IDEAL, 10, boundary="free"), np.zeros((2, 10))
    hammer = Hammer(position=0.3, mass=1e-3, speed=np.array([1.0, 2.0]), stiffness=1e8, loss=0.3, width=0.05)
    _, qdot, history = simulate_contact(system, rest, rest, hammer, 16000, 120, substeps=8, order=2)
    together = system.mass * qdot[..., 0] + hammer.mass * history.velocity
    np.testing.assert_allclose(together, np.array([[1e-3], [2e-3]]) * np.ones(120), rtol=1e-12)
    assert history.force.min() >= 0 and history.force.max() > 0.5


def test_hammer_on_a_membrane():
    "Three blows of one batch, places and masses apart, are the three alone; energy goes only into felt and heat."
    drum = modal_system(MYLAR_MEMBRANE, (4, 4))
    hammer = Hammer(
        position=np.array([[0.3, 0.3], [0.5, 0.4], [0.7, 0.2]]), mass=np.array([0.01, 0.02, 0.03]), speed=3.0,
        stiffness=1e6, exponent=2.0, gap=np.array([0.0, 1e-4, 0.0]), width=0.2,
    )
    rest = np.zeros(16)
    q, qdot, history = simulate_contact(drum, rest, rest, hammer, 8000, 80, substeps=8, order=2)
    assert q.shape == qdot.shape == (3, 80, 16) and history.force.shape == (3, 80)
    alone = replace(hammer, position=[0.5, 0.4], mass=0.02, gap=1e-4)
    q1, _, history1 = simulate_contact(drum, rest, rest, alone, 8000, 80, substeps=8, order=2)
    np.testing.assert_allclose(q[1], q1, atol=1e-12 * abs(q1).max())
    np.testing.assert_allclose(history.height[1], history1.height, atol=1e-12)
    assert history.height[1, 0] == -1e-4 and history.force[1, 0] == 0 and history.force[:, 1:].max() > 10
    given = 0.5 * hammer.mass[:, None] * (9 - history.velocity**2)
    assert (history.work <= given + 1e-4 * given.max()).all()


def test_contact_without_touching_is_simulate():
    "A hammer that moves away changes nothing, whatever the order."
    system = modal_system(NYLON_STRING, 5)
    q0 = 1e-3 / np.arange(1, 6) ** 2
    away = Hammer(position=0.3, mass=1e-3, speed=-20.0, stiffness=1e8, gap=0.01)
    expected, _ = simulate(system, q0, 0 * q0, rate=16000, n_steps=100, rtol=1e-9)
    q, _, history = simulate_contact(system, q0, 0 * q0, away, 16000, 100, substeps=16)
    assert relative(q, expected) < 1e-8 and history.force.max() == 0


@pytest.mark.slow
def test_contact_is_differentiable():
    "Gradient of the last displacement by the speed and place of the hammer, against finite differences."
    system, rest = modal_system(STEEL_STRING, 4), np.zeros(4)

    def ending(speed, position):
        hammer = Hammer(position=position, mass=0.003, speed=speed, stiffness=1e7)
        q, _, _ = simulate_contact(system, rest, rest, hammer, 16000, 12, substeps=2)
        return 1e6 * q[-1, 0]

    with jax.enable_x64(True):
        found = jax.jit(jax.grad(ending, argnums=(0, 1)))(2.0, 0.2)
        np.testing.assert_allclose(found[0], (ending(2.001, 0.2) - ending(1.999, 0.2)) / 0.002, rtol=1e-5)
        np.testing.assert_allclose(found[1], (ending(2.0, 0.2001) - ending(2.0, 0.1999)) / 0.0002, rtol=1e-5)


def test_contact_refusals():
    "One line each; overflow says which trajectory and when."
    system, rest = modal_system(STEEL_STRING, 4), np.zeros((2, 4))
    hammer = Hammer(position=0.2, mass=0.003, speed=np.array([1.0, 1e250]), stiffness=1e8)
    with pytest.raises(ValueError, match="non-finite values in trajectory 1 from 6.25e-05 s on"):
        simulate_contact(system, rest, rest, hammer, 16000, 20, substeps=2)
    with pytest.raises(ValueError, match="got an estimated error of inf"):
        choose_contact_substeps(system, rest, rest, hammer, 16000, 20)
    with pytest.raises(ValueError, match="stiffness: got -1.0, expected above 0"):
        replace(hammer, stiffness=-1.0)
    with pytest.raises(ValueError, match="n_steps: got 1"):
        simulate_contact(system, rest, rest, hammer, 16000, 1)


# Pickups

@pytest.mark.parametrize("boundary", ENDS, ids=str)
def test_bridge_forces_change_the_momentum(boundary):
    "The static force on the two supports of a string pushed at one place carries the push; a free end carries nothing."
    system = modal_system(IDEAL, 4000, nonlinear=False, boundary=boundary)
    if boundary == "free":
        assert abs(bridge_force(system, np.ones(4000), "left")) == 0
        return
    q = 0.5 * system.at(0.3) / (system.mass * system.bank.omega_sq)
    forces = {end: float(bridge_force(system, q, end)) for end in ("left", "right")}
    shares = {("fixed", "fixed"): (0.35, 0.15), ("fixed", "free"): (0.5, 0.0), ("free", "fixed"): (0.0, 0.5)}
    np.testing.assert_allclose(list(forces.values()), shares[system.basis.boundary], atol=1e-3)
