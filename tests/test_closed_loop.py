"A controller in the loop: what the notebooks do not try, and the two that use it agree with themselves."
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physmodjax.core.splitting import integrate
from physmodjax.dynamics.cells import CELLS
from physmodjax.dynamics.control import Controller, closed_loop, score_function
from physmodjax.solvers import NYLON_STRING, modal_system

RNG = np.random.default_rng(0)


def draw(module, *inputs):
    "Variables of a module, drawn by NumPy: random initialisers take seconds to compile."
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda a: (0.5 * RNG.normal(size=a.shape)).astype(a.dtype), shapes)


def shift(state, action, given):
    "A plant with two measurements: the state moves by the action and by what is given."
    state = 0.9 * state + action + (0 if given is None else given)
    return state, jnp.concatenate([state, state**2]), state


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_closes_the_loop(cell):
    "Whole and in two parts, the second from where the first ended: the same states for every cell (1e-6)."
    controller = Controller(n_actions=1, n_measured=2, width=5, cell=cell)
    carry, state, seen = controller.initial_carry(), np.full(1, 0.4, np.float32), np.zeros(2, np.float32)
    params = draw(controller, carry, seen)
    given = RNG.normal(size=(8, 1)).astype(np.float32)
    run = jax.jit(lambda p: closed_loop(partial(controller.apply, p), shift, carry, state, seen, 8, given))
    last, records = run(params)
    np.testing.assert_allclose(last, records[-1], atol=1e-6)
    step, rows = jax.jit(controller.apply), []
    for row in given:
        carry, action = step(params, carry, seen)
        state, seen, record = shift(state, action, row)
        rows.append(record)
    np.testing.assert_allclose(records, rows, atol=1e-6)
    assert np.ptp(records) > 0.1


def test_inputs_of_another_length_are_refused():
    "The number of given rows must be the number of steps."
    with pytest.raises(ValueError, match=r"shape of inputs: got \(3, 1\), expected \(4, 1\)"):
        closed_loop(lambda carry, m: (carry, m[:1]), shift, (), jnp.zeros(1), jnp.zeros(2), 4, jnp.zeros((3, 1)))


def test_score_function_keeps_the_value_and_ignores_the_baseline_in_the_mean():
    "The value is the loss; over all outcomes the baseline drops out of the gradient (1e-6), the score does not."
    logits, losses = RNG.normal(size=6).astype(np.float32), RNG.normal(size=6).astype(np.float32)

    def mean(logits, baseline, scored=True):
        log_p = jax.nn.log_softmax(logits)
        loss = losses * jnp.cos(logits)
        terms = score_function(loss, log_p, baseline) if scored else loss
        return jax.lax.stop_gradient(jnp.exp(log_p)) @ terms

    value, exact = jax.value_and_grad(lambda x: jax.nn.softmax(x) @ (losses * jnp.cos(x)))(logits)
    for baseline in (0.0, 2.5):
        np.testing.assert_allclose(mean(logits, baseline), value, atol=1e-6)
        np.testing.assert_allclose(jax.grad(mean)(logits, baseline), exact, atol=1e-6)
    assert np.abs(jax.grad(mean)(logits, 0.0, scored=False) - exact).max() > 0.05


def test_measurements_keep_a_density_matrix():
    "Five measurements of a mixed state with coherences: unit trace, Hermitian, no negative eigenvalue (1e-5)."
    levels = np.arange(30)
    raw = RNG.normal(size=(30, 3)) + 1j * RNG.normal(size=(30, 3))
    rho = (raw @ raw.conj().T / np.sum(np.abs(raw) ** 2)).astype(np.complex64)

    def cavity(rho, action, u):
        angle = action[0] * levels + action[1] / 2
        operators = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        after = operators[:, :, None] * rho * operators[:, None, :]
        probability = jnp.trace(after, axis1=1, axis2=2).real
        outcome = (u >= probability[0]).astype(int)
        rho = after[outcome] / probability[outcome]
        return rho, 1.0 - 2.0 * outcome[None], (rho, probability)

    controller = Controller(n_actions=2, width=8)
    carry, seen = controller.initial_carry(), np.zeros(1, np.float32)
    params = draw(controller, carry, seen)
    u = RNG.uniform(size=5).astype(np.float32)
    control = partial(controller.apply, params)
    _, (states, probabilities) = jax.jit(lambda: closed_loop(control, cavity, carry, rho, seen, 5, u))()
    np.testing.assert_allclose(np.sum(probabilities, 1), 1, atol=1e-5)
    np.testing.assert_allclose(np.trace(states, axis1=1, axis2=2), 1, atol=1e-5)
    np.testing.assert_allclose(states, np.conj(np.swapaxes(states, 1, 2)), atol=1e-6)
    assert np.linalg.eigvalsh(states).min() > -1e-5
    assert np.ptp(np.sum(np.abs(states) ** 2, (1, 2))) > 1e-2


@pytest.mark.parametrize(("gain", "passive"), [(0.0, True), (1.0, True), (2.0, True), (2.2, False)])
def test_velocity_feedback_is_passive_up_to_a_gain_of_two(gain, passive):
    "An impulse -g v/a at one point of a nonlinear string, in float64: energy falls if and only if 0 <= g <= 2."
    string, rate = modal_system(NYLON_STRING, 6), 16000
    mass, length = NYLON_STRING.rho * NYLON_STRING.area, NYLON_STRING.length
    phi = np.sin(np.arange(1, 7) * np.pi * 0.23)
    a = 2 / (length * mass) * np.sum(phi**2)

    def plant(state, impulse, _):
        q, qdot = state[0], state[1] + impulse / mass * phi
        state = tuple(x[1] for x in integrate(string.bank, string.coupling.kick, q, qdot, 1 / rate, 1))
        energy = string.bank.energy(*state) + string.coupling.potential(state[0])
        return state, 2 / length * phi @ state[1], energy

    with jax.enable_x64(True):
        qdot = 1e-2 * RNG.normal(size=6)
        start = (np.zeros(6), qdot)
        brake = lambda carry, v: (carry, -gain / a * v)  # noqa: E731
        loop = jax.jit(lambda v: closed_loop(brake, plant, (), start, v, 200)[1])
        energy = np.r_[string.bank.energy(*start), loop(2 / length * phi @ qdot)]
        assert energy.dtype == np.float64
    assert bool(np.diff(energy).max() < 1e-6 * energy[0]) == passive
