"""How long a trajectory takes and how accurate it is: this solver, SciPy's DOP853 and jaxdiffmodal, in one run.

python benchmarks/solver.py [--quick] [--png FILE]; the last line is one JSON object. jaxdiffmodal takes part where it
is installed (bench_requirements in settings.ini; it pins NumPy, so give it an environment of its own). Times are the
best of several and still depend on what else the machine does: compare within one run, by ratios.
"""
import argparse
import json
import os
import resource
import time
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from numba import njit
from scipy.integrate import solve_ivp

from physmodjax.core.memory import keep_memory
from physmodjax.solvers import (
    NYLON_STRING,
    STEEL_GUITAR_STRING,
    Bow,
    Hammer,
    choose_substeps,
    gaussian_shape,
    modal_system,
    simulate,
    simulate_contact,
)

CASES = {"4 kHz, 10 modes, 1 s": (4000, 10, 1.0), "16 kHz, 25 modes, 1 s": (16000, 25, 1.0)}


def plucks(system, n):
    rng = np.random.default_rng(0)
    q0 = system.to_modal(np.stack([gaussian_shape(rng, (101,)).shape for _ in range(n)]))
    return q0, np.zeros_like(q0)


def best_of(repeats, function):
    "The shortest time in seconds, after one call that compiles, and the last result."
    times, result = [], function()
    for _ in range(repeats):
        result = None  # its memory serves again
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return min(times), result


def worst_error(q, truth):
    return float(np.max(np.linalg.norm(q - truth, axis=(1, 2)) / np.linalg.norm(truth, axis=(1, 2))))


@njit
def slope(_, y, minus_omega_sq, two_sigma, weights, strength):
    "Right-hand side for DOP853, compiled: this is how people run it."
    m, out, stretch = len(weights), np.empty_like(y), 0.0
    for k in range(m):
        stretch += weights[k] * y[k] * y[k]
    for k in range(m):
        out[k] = y[m + k]
        out[m + k] = (minus_omega_sq[k] - strength * stretch * weights[k]) * y[k] - two_sigma[k] * y[m + k]
    return out


def dop853(system, q0, rate, n_steps):
    "One trajectory at rtol 1e-12."
    numbers = [np.asarray(x) for x in (-system.bank.omega_sq, system.bank.two_sigma, system.coupling.weights)]
    numbers.append(float(system.coupling.strength))
    times, y0 = np.arange(n_steps) / rate, np.concatenate([q0, 0 * q0])
    exact = {"rtol": 1e-12, "atol": 1e-16, "args": tuple(numbers)}
    spent, y = best_of(1, lambda: solve_ivp(slope, (0, times[-1]), y0, "DOP853", times, **exact).y)
    return y[: system.size].T, spent


def peer(system, q0, rate, n_steps, oversampling):
    "jaxdiffmodal's transfer-function scheme on a grid of time finer by `oversampling`; None where it is missing."
    try:
        from jaxdiffmodal.time_integrators import solve_tf_ic
    except ImportError:
        return None
    with jax.enable_x64(True):
        bank, coupling = jax.tree.map(jnp.asarray, (system.bank, system.coupling))
        steps, dt = (n_steps - 1) * oversampling + 1, 1 / (rate * oversampling)
        force = lambda q: -coupling.force(q)  # noqa: E731
        one = lambda u, v: solve_tf_ic(bank.two_sigma, bank.omega_sq, u, v, dt, steps, force)[1][::oversampling]  # noqa: E731
        run, state = jax.jit(jax.vmap(one)), (jnp.asarray(q0), jnp.zeros_like(jnp.asarray(q0)))
        return best_of(2, lambda: np.asarray(run(*state)))


def measure(rate, n_modes, seconds, batches):
    "As a user calls it, the choice of sub-steps included."
    system, n_steps = modal_system(NYLON_STRING, n_modes), round(rate * seconds)
    q0, qdot0 = plucks(system, max(batches))
    truth, slow = dop853(system, q0[0], rate, n_steps)
    result = {"dop853_seconds_per_trajectory": slow, "batches": {}}
    for batch in batches:
        start = (q0[0], qdot0[0]) if batch == 1 else (q0[:batch], qdot0[:batch])
        repeats = 1 if batch >= 1000 else 3 if batch > 1 else 30
        choosing, chosen = best_of(repeats, lambda s=start: choose_substeps(system, *s, rate, n_steps))
        fast, (q, _) = best_of(repeats, lambda s=start: simulate(system, *s, rate, n_steps))
        result["batches"][batch] = {
            "seconds": fast, "seconds_per_trajectory": fast / batch, "share_of_choosing": choosing / fast,
            "mean_substeps": float(np.mean(chosen.count)), "most_substeps": int(np.max(chosen.count)),
            "worst_estimated_error": float(np.max(chosen.error)),
            "true_error_of_the_first": worst_error(q.reshape(batch, n_steps, -1)[:1], truth[None]),
            "times_faster_than_dop853": slow * batch / fast,
        }
    return result


def touched(seconds):
    "A hammer and a bow on a guitar string of 40 modes at 48 kHz, in machine code and by JAX, the choice included."
    system, n_steps, result = modal_system(STEEL_GUITAR_STRING, 40), round(48000 * seconds), {}
    bodies = {
        "hammer": Hammer(position=0.12, mass=0.005, speed=2.0, stiffness=1e8, loss=0.1),
        "bow": Bow(position=0.15, speed=0.2, force=0.05),
    }
    for name, body in bodies.items():
        run = lambda b=body: simulate_contact(system, np.zeros(40), np.zeros(40), b, 48000, n_steps)  # noqa: E731
        ours, _ = best_of(3, run)
        with mock.patch("physmodjax.solvers.contact.kernel_for", lambda problem: None):
            by_jax, _ = best_of(1, run)
        result[name] = {"seconds": ours, "seconds_by_jax": by_jax, "times_faster": by_jax / ours}
    return result


def work_precision(rate, n_modes, seconds, batch, peer_steps):
    "Seconds per trajectory over worst relative error, for orders 2, 4, 6 and jaxdiffmodal."
    system, n_steps = modal_system(NYLON_STRING, n_modes), round(rate * seconds)
    q0, qdot0 = plucks(system, batch)
    truth, _ = simulate(system, q0, qdot0, rate, n_steps, substeps=64, order=6)
    curves = {}
    for order, counts in ((2, (16, 64, 256)), (4, (4, 8, 16, 32)), (6, (3, 4, 6, 8, 12))):
        for count in counts:
            run = lambda n=count, p=order: simulate(system, q0, qdot0, rate, n_steps, substeps=n, order=p)  # noqa: E731
            spent, (q, _) = best_of(2, run)
            point = {"steps": count, "error": worst_error(q, truth), "seconds": spent / batch}
            curves.setdefault(f"order {order}", []).append(point)
    for count in peer_steps:
        found = peer(system, q0, rate, n_steps, count)
        if found is not None:
            error = worst_error(found[1], truth)  # a step that is too long makes the peer unstable
            point = {"steps": count, "error": error if np.isfinite(error) else None, "seconds": found[0] / batch}
            curves.setdefault("jaxdiffmodal", []).append(point)
    return curves


def seconds_at(curve, error):
    "Time at which a curve reaches an error, by log-log interpolation; beyond its ends along the last or first segment."
    curve = [point for point in curve if point["error"] is not None]
    x, y = (np.log([point[name] for point in curve]) for name in ("error", "seconds"))
    k = int(np.clip(np.searchsorted(-x, -np.log(error)), 1, len(x) - 1))
    return float(np.exp(y[k] + (np.log(error) - x[k]) * (y[k] - y[k - 1]) / (x[k] - x[k - 1])))


def draw(curves, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.figure(figsize=(5, 3.5), dpi=120)
    for name, curve in curves.items():
        curve = [point for point in curve if point["error"] is not None]
        plt.loglog([p["error"] for p in curve], [p["seconds"] for p in curve], "o-", label=name)
    plt.xlabel("worst relative error"), plt.ylabel("seconds per trajectory"), plt.legend()
    plt.tight_layout()
    plt.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small batches, short runs: half a minute")
    parser.add_argument("--png", metavar="FILE", help="draw work over precision")
    arguments = parser.parse_args()
    batches = (1, 20) if arguments.quick else (1, 100, 1000)
    report = {"cpus": os.cpu_count(), "load_at_start": os.getloadavg()[0]}
    for name, (rate, n_modes, seconds) in CASES.items():
        short, sizes = (0.1, batches) if arguments.quick else (seconds, batches[: 3 if n_modes == 10 else 2])
        report[name.replace("1 s", f"{short:g} s")] = measure(rate, n_modes, short, sizes)
    report["hammer and bow, 40 modes, 48 kHz"] = touched(0.05 if arguments.quick else 1.0)
    small, fine = (8, (8, 32)) if arguments.quick else (32, (1, 8, 16, 64))
    curves = work_precision(4000, 10, 0.1 if arguments.quick else 1.0, small, fine)
    report["work_precision, 4 kHz, 10 modes"] = curves
    at = {name: seconds_at(curve, 1e-5) for name, curve in curves.items()}
    report["seconds_per_trajectory_at_error_1e-5"] = at
    if "jaxdiffmodal" in at:
        report["times_faster_than_jaxdiffmodal_at_error_1e-5"] = at["jaxdiffmodal"] / at["order 4"]
    if arguments.png:
        draw(curves, arguments.png)
    report["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(report))


if __name__ == "__main__":
    keep_memory()
    main()
