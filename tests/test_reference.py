"Trajectories of the solver against independent solutions of the modal equations."
import os
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from physmodjax.core.splitting import integrate
from physmodjax.objects.presets import NYLON_STRING
from physmodjax.solvers import MembraneParameters, StringParameters, choose_substeps, modal_system, simulate

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("PHYSMODJAX_REFERENCE", ROOT.parent / "shared" / "reference"))
FILES = sorted(FOLDER.glob("*.npz"))
STRING = ("length", "area", "I", "rho", "E", "d1", "d3", "T0")
MEMBRANE = ("length_x", "aspect_ratio", "thickness", "rho", "E", "poisson", "d1", "d3", "T0")
TOLERANCE = 1e-6  # relative L2 error of a trajectory at the solver's default accuracy


def worst(found: np.ndarray, expected: np.ndarray) -> float:
    "Largest relative L2 error over trajectories, (B, T, M)."
    error = np.linalg.norm(found - expected, axis=(1, 2))
    return float(np.max(error / np.linalg.norm(expected, axis=(1, 2))))


def read(path: Path) -> tuple:
    "System, initial state and data of a file of reference trajectories."
    data = np.load(path)
    is_string = "length" in data.files
    kind, names = (StringParameters, STRING) if is_string else (MembraneParameters, MEMBRANE)
    parameters = kind(**{name: float(data[name]) for name in names})
    n_modes = int(data["n_modes"]) if is_string else (int(data["n_modes_x"]), int(data["n_modes_y"]))
    system = modal_system(parameters, n_modes, bool(data["nonlinear"]))
    if is_string:
        return system, system.to_modal(data["u0"]), system.to_modal(data["v0"]), data
    return system, data["q0"], data["qdot0"] if "qdot0" in data.files else np.zeros_like(data["q0"]), data


@pytest.mark.skipif(not FILES, reason=f"no reference trajectories in {FOLDER}; PHYSMODJAX_REFERENCE may name another")
@pytest.mark.parametrize("path", FILES or [FOLDER], ids=lambda path: path.stem)
def test_reference_trajectories(path):
    system, q0, qdot0, data = read(path)
    rate = float(data["rate"])
    keep = round(float(data["times"][1]) * rate)
    q, qdot = simulate(system, q0, qdot0, rate=rate, n_steps=(len(data["times"]) - 1) * keep + 1)
    assert worst(q[:, ::keep], data["q"]) <= TOLERANCE
    assert worst(qdot[:, ::keep], data["qdot"]) <= TOLERANCE


def dop853(q0: np.ndarray, qdot0: np.ndarray, rate: float, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    "q, qdot (T, M) of the nylon string from its equation of motion, written out once more."
    p, M = NYLON_STRING, len(q0)
    eta_sq = (np.arange(1, M + 1) * np.pi / p.length) ** 2
    mass = p.rho * p.area
    two_sigma = (p.d1 + p.d3 * eta_sq) / mass
    omega_sq = (p.E * p.I * eta_sq**2 + p.T0 * eta_sq) / mass
    c = p.E * p.area / (p.length**2 * mass)

    def motion(_, state):
        q, v = state[:M], state[M:]
        return np.concatenate([v, -two_sigma * v - omega_sq * q - c * eta_sq * q * (eta_sq @ q**2)])

    times = np.arange(n_steps) / rate
    start = np.concatenate([q0, qdot0])
    found = solve_ivp(motion, (0, times[-1]), start, method="DOP853", t_eval=times, rtol=1e-12, atol=1e-16)
    assert found.success, found.message
    return found.y[:M].T, found.y[M:].T


@pytest.mark.parametrize("release", ["pluck", "strike"])
@pytest.mark.parametrize("peak", [1e-3, 1e-2], ids=["soft", "hard"])
def test_string_matches_dop853(peak, release):
    "Six modes, 400 samples at 8 kHz, a bell off the middle."
    system = modal_system(NYLON_STRING, 6)
    x = np.linspace(0, 1, 101)
    bell = np.exp(-(((x - 0.37) / 0.08) ** 2)) * (x > 0) * (x < 1)
    scale = peak if release == "pluck" else 2e3 * peak  # m, or m/s that lead to about as wide a motion
    shape = system.to_modal(scale * bell)
    start = (shape, 0 * shape) if release == "pluck" else (0 * shape, shape)
    q, qdot = simulate(system, *start, rate=8000.0, n_steps=400)
    expected = dop853(*start, 8000.0, 400)
    assert worst(q[None], expected[0][None]) <= TOLERANCE
    assert worst(qdot[None], expected[1][None]) <= TOLERANCE


def test_soft_and_hard_plucks_in_one_batch():
    "Each has the accuracy asked for, with sub-steps of its own."
    system = modal_system(NYLON_STRING, 6)
    x = np.linspace(0, 1, 101)
    bells = [np.exp(-(((x - m) / s) ** 2)) * (x > 0) * (x < 1) for m, s in ((0.37, 0.08), (0.5, 0.03), (0.6, 0.1))]
    q0 = system.to_modal(np.array([peak * bell for peak in (1e-3, 1e-2) for bell in bells]))
    chosen = choose_substeps(system, q0, 0 * q0, 8000.0, 400)
    q, _ = simulate(system, q0, 0 * q0, rate=8000.0, n_steps=400)
    expected = np.stack([dop853(start, 0 * start, 8000.0, 400)[0] for start in q0])
    error = np.linalg.norm(q - expected, axis=(1, 2)) / np.linalg.norm(expected, axis=(1, 2))
    assert np.all(error <= chosen.error) and chosen.error.max() <= TOLERANCE
    assert chosen.count[:3].max() < chosen.count[3:].max()


@pytest.mark.slow
@pytest.mark.parametrize("order", [2, 4, 6])
@pytest.mark.parametrize("forced", [False, True], ids=["free", "forced"])
def test_the_fast_loop_is_the_plain_integrator(order, forced):
    "A mode past critical damping among the others, and a force from outside."
    system, rng = modal_system(NYLON_STRING, 6), np.random.default_rng(2)
    two_sigma = np.where(np.arange(6) == 3, 1e4, system.bank.two_sigma)
    system = replace(system, bank=replace(system.bank, two_sigma=two_sigma))
    q0, qdot0 = 1e-4 * rng.normal(size=(3, 6)), rng.normal(size=(3, 6))
    forcing = 100 * rng.normal(size=(3, 99, 6)) if forced else None
    found = simulate(system, q0, qdot0, 8000.0, 100, forcing, order=order, substeps=4)
    with jax.enable_x64(True):
        bank, coupling = jax.tree.map(jnp.asarray, (system.bank, system.coupling))
        force = None if forcing is None else jnp.asarray(forcing.transpose(1, 2, 0))
        run = jax.jit(lambda q, v: integrate(bank, coupling.kick, q, v, 1 / 8000, 99, 4, order, force))
        expected = [np.asarray(x).transpose(2, 0, 1) for x in run(q0.T, qdot0.T)]
    for ours, values in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, values, atol=1e-11 * np.abs(values).max())


def test_the_hard_pluck_is_nonlinear():
    "The comparison above would miss nothing: without its cubic force the same string goes elsewhere."
    x = np.linspace(0, 1, 101)
    shape = 1e-2 * np.exp(-(((x - 0.37) / 0.08) ** 2)) * (x > 0) * (x < 1)
    runs = []
    for nonlinear in (True, False):
        system = modal_system(NYLON_STRING, 6, nonlinear)
        q0 = system.to_modal(shape)
        runs.append(simulate(system, q0, 0 * q0, rate=8000.0, n_steps=400)[0][None])
    assert worst(runs[1], runs[0]) > 0.1
