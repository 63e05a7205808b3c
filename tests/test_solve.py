"Machine code and JAX solve the same problems; where the one is missing the other serves."
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from physmodjax.core.oscillators import OscillatorBank
from physmodjax.objects import (
    BASS_STRING,
    MYLAR_MEMBRANE,
    NYLON_STRING,
    STEEL_BAR,
    STEEL_GUITAR_STRING,
    STEEL_STRING,
)
from physmodjax.solvers import Bow, Hammer, Problem, choose_substeps, contact, simulate, stack_systems, substeps
from physmodjax.solvers.excitation import gaussian_shape, noise_shape
from physmodjax.solvers.solve import CompiledSolver, JaxSolver, solver_for


def drawn(seed):
    "A problem, sub-steps and an order, drawn: any object, a stack or one, forced or not, modes overdamped or floppy."
    rng = np.random.default_rng(seed)
    thing, size = [(NYLON_STRING, int(rng.integers(1, 20))), (MYLAR_MEMBRANE, (3, 4)), (STEEL_BAR, 6)][seed % 3]
    system, n = thing.modal(size, nonlinear=seed % 4 != 3), int(rng.integers(1, 4))
    if seed % 5 == 4:
        two_sigma = np.where(rng.random(system.size) < 0.3, 1e5, system.bank.two_sigma)
        omega_sq = np.where(rng.random(system.size) < 0.2, 0.0, system.bank.omega_sq)
        system = replace(system, bank=OscillatorBank(omega_sq, two_sigma))
    if seed % 2:
        words = [replace(thing, rho=thing.rho * factor) for factor in rng.uniform(0.8, 1.2, n)]
        system = stack_systems([word.modal(size, nonlinear=seed % 4 != 3) for word in words])
    shape = (n, system.size)
    q0, qdot0 = (scale * rng.normal(size=shape) / np.arange(1, system.size + 1) for scale in (3e-4, 0.1))
    forcing = 100 * rng.normal(size=(n, 299, system.size)) if rng.random() < 0.5 else None
    return Problem(system, q0, qdot0, 16000.0, 300, forcing), rng.integers(1, 6, n), int(rng.choice([2, 4, 6]))


@pytest.mark.parametrize("seed", range(12))
def test_machine_code_computes_what_jax_computes(seed):
    problem, counts, order = drawn(seed)
    rows = np.arange(len(counts))
    ours, theirs = (kind(problem, order).run(rows, counts, 300) for kind in (CompiledSolver, JaxSolver))
    for a, b in zip(ours, theirs, strict=True):
        assert np.all(np.linalg.norm(a - b, axis=(1, 2)) <= 1e-13 * np.linalg.norm(b, axis=(1, 2)))
    near, far = (kind(problem, order).compare(rows, counts, [100, 300]) for kind in (CompiledSolver, JaxSolver))
    np.testing.assert_allclose(near, far, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 255, 256, 257, 1000])
@pytest.mark.parametrize("nonlinear", [False, True])
def test_the_beginning_of_a_run_does_not_depend_on_its_length(nonlinear, n_steps):
    system = NYLON_STRING.modal(7, nonlinear)
    q0 = 1e-3 / np.arange(1, 8) ** 2
    whole = simulate(system, q0, 0 * q0, 16000.0, 1000, substeps=3)
    part = simulate(system, q0, 0 * q0, 16000.0, n_steps, substeps=3)
    for a, b in zip(part, whole, strict=True):
        np.testing.assert_allclose(a, b[:n_steps], rtol=0, atol=1e-14 * abs(b).max())


@pytest.mark.parametrize("batch", [(), (1,), (40,), (2, 3), (0,)])
def test_any_batch_is_solved_as_its_members(batch):
    system, rng = NYLON_STRING.modal(5), np.random.default_rng(0)
    q0 = 1e-3 * rng.normal(size=(*batch, 5))
    q, qdot = simulate(system, q0, 0 * q0, 16000.0, 50, substeps=2)
    assert q.shape == qdot.shape == (*batch, 50, 5)
    for index in list(np.ndindex(batch))[:3]:
        np.testing.assert_array_equal(q[index], simulate(system, q0[index], 0 * q0[index], 16000.0, 50, substeps=2)[0])


@jax.tree_util.register_static
class Cubic:
    "A spring of its own under each mode, which no compiled step knows."

    linear = False

    def force(self, q):
        return -1e12 * q**3

    def potential(self, q):
        return 2.5e11 * (q**4).sum(axis=0)

    def kick(self, q, first, second):
        return first * self.force(q) + second * 3e24 * q**5

    def columns(self):
        return self

    def tension(self):
        return None


def test_a_coupling_of_ones_own_is_solved_by_jax():
    system = replace(NYLON_STRING.modal(3), coupling=Cubic())
    q0 = np.array([1e-3, 2e-4, 1e-4])
    assert isinstance(solver_for(Problem(system, q0[None], 0 * q0[None], 16000.0, 100)), JaxSolver)
    chosen = choose_substeps(system, q0, 0 * q0, 16000.0, 100)
    q, qdot = simulate(system, q0, 0 * q0, 16000.0, 100, substeps=chosen)
    finer, _ = simulate(system, q0, 0 * q0, 16000.0, 100, substeps=4 * chosen.count, order=6)
    assert np.linalg.norm(q - finer) <= 1e-6 * np.linalg.norm(finer)


def test_without_numba_jax_takes_the_steps_and_it_is_said_once():
    program = """
import sys
sys.modules["numba"] = None
import numpy as np
from physmodjax.solvers import NYLON_STRING, simulate
system, q0 = NYLON_STRING.modal(5), 1e-3 / np.arange(1, 6) ** 2
for _ in range(2):
    q, _ = simulate(system, q0, 0 * q0, 16000.0, 200)
print(repr(float(np.linalg.norm(q))))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    system, q0 = NYLON_STRING.modal(5), 1e-3 / np.arange(1, 6) ** 2
    expected = np.linalg.norm(simulate(system, q0, 0 * q0, 16000.0, 200)[0])
    np.testing.assert_allclose(float(done.stdout), expected, rtol=1e-6)
    lines = [line for line in done.stderr.splitlines() if "compiled" in line]
    assert len(lines) == 1 and lines[0].startswith("no compiled solver, JAX takes the steps"), done.stderr


@pytest.mark.parametrize("seed", range(8))
def test_a_contact_in_machine_code_is_that_of_jax(seed):
    "Hammers with and without loss, and bows, on strings, drums and bars, in both orders, with another force or none."
    rng = np.random.default_rng(seed)
    thing, size = [(NYLON_STRING, 11), (MYLAR_MEMBRANE, (3, 4)), (STEEL_BAR, 6)][seed % 3]
    system, n, order = thing.modal(size, nonlinear=seed != 4), int(rng.integers(1, 4)), (2, 4)[seed // 2 % 2]
    position = rng.uniform(0.2, 0.8, (n, 2) if thing.ndim == 2 else n)
    if seed % 2:
        body = Bow(position=position, speed=rng.uniform(0.1, 0.3, n), force=0.2)
    else:
        words = dict(mass=0.003, speed=rng.uniform(0.5, 3.0, n), stiffness=1e8, loss=(seed % 4) * 0.2)
        body = Hammer(position=position, exponent=2.5, **words)
    q0 = 1e-6 * rng.normal(size=(n, system.size))
    forcing = 10 * rng.normal(size=(n, 149, system.size)) if seed % 3 == 1 else None
    with jax.enable_x64(True):
        _, touched = contact._touch(Problem(system, q0, 0 * q0, 16000.0, 150), body, forcing)
        theirs = jax.tree.map(np.asarray, contact._solve(touched, 1 / 16000.0, 48, order))
        ours = contact._solve_known(touched, 1 / 16000.0, 48, order)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape and np.linalg.norm(a - b) <= 1e-12 * np.linalg.norm(b)
    assert np.abs(ours[2].force).max() > 1e-3


@pytest.mark.parametrize("growth", [1e9, 1e300, np.inf])
def test_errors_that_grow_beyond_bounds_are_refused(growth):
    pilot = substeps._Pilot(np.array([4.0, 8.0]), np.array([1e-9, 1e-7]), np.array([4.0, 4.0]))
    with pytest.raises(ValueError, match="expected at most 512"):
        pilot.settle(1e-6, growth * 1e3, 4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_accuracy_asked_for_is_reached(seed):
    "Objects, rates, lengths, amplitudes, batches and accuracies drawn at random, against order 6 with finer sub-steps."
    rng = np.random.default_rng(seed)
    for _ in range(40):
        thing = [NYLON_STRING, STEEL_STRING, BASS_STRING, STEEL_GUITAR_STRING, MYLAR_MEMBRANE][rng.integers(5)]
        flat = thing.ndim == 2
        system = thing.modal((int(rng.integers(3, 7)),) * 2 if flat else int(rng.integers(4, 30)))
        rate = max(float(rng.choice([4000, 8000, 16000, 44100])), 2.2 * float(system.frequencies().max()))
        n_steps, n = int(10 ** rng.uniform(2, 4)), int(rng.choice([1, 1, 5, 40]))
        peak = 10 ** rng.uniform(-4, -2.5 if flat else -1.8)  # harder membranes become chaotic late
        grid = (31, 31) if flat else (101,)
        draw = [gaussian_shape, noise_shape][rng.integers(2)]
        q0 = system.to_modal(np.stack([draw(rng, grid, peak=(peak / 5, peak)).shape for _ in range(n)]))
        rtol = float(10 ** rng.uniform(-9, -3))
        try:
            chosen = choose_substeps(system, q0, 0 * q0, rate, n_steps, rtol)
        except ValueError as error:  # refused, not wrong
            assert "sub-steps for the requested accuracy" in str(error)
            continue
        found = simulate(system, q0, 0 * q0, rate, n_steps, substeps=chosen)
        truth = simulate(system, q0, 0 * q0, rate, n_steps, substeps=np.maximum(4 * chosen.count, 8), order=6)
        norm = lambda x: np.linalg.norm(x, axis=(1, 2))  # noqa: E731
        error = np.max([norm(x - y) / norm(y) for x, y in zip(found, truth, strict=True)], axis=0)
        assert np.all(error <= rtol), (type(thing).__name__, rate, n_steps, rtol, error.max())
