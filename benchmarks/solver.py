"""How long a trajectory takes, and how accurate it is: this solver beside SciPy's DOP853, in one run.

python benchmarks/solver.py [--quick]; the last line is one JSON object.
"""
import argparse
import json
import resource
import time

import numpy as np
from scipy.integrate import solve_ivp

from physmodjax.solvers import NYLON_STRING, choose_substeps, gaussian_shape, modal_system, simulate

CASES = {"4 kHz, 10 modes, 1 s": (4000, 10, 1.0), "16 kHz, 25 modes, 0.25 s": (16000, 25, 0.25)}


def plucks(system, n):
    rng = np.random.default_rng(0)
    q0 = system.to_modal(np.stack([gaussian_shape(rng, (101,)).shape for _ in range(n)]))
    return q0, np.zeros_like(q0)


def dop853(system, q0, rate, n_steps):
    "One trajectory at rtol 1e-12 in the plainest form: diagonal products only."
    omega_sq, two_sigma = np.asarray(system.bank.omega_sq), np.asarray(system.bank.two_sigma)
    c, weights, m = float(system.coupling.strength), np.asarray(system.coupling.weights), system.size

    def slope(_, y):
        q, v = y[:m], y[m:]
        weighted = weights * q
        return np.concatenate([v, -omega_sq * q - two_sigma * v - c * weighted * (weighted @ q)])

    times = np.arange(n_steps) / rate
    start = time.perf_counter()
    y = solve_ivp(slope, (0, times[-1]), np.concatenate([q0, 0 * q0]), "DOP853", times, rtol=1e-12, atol=1e-16).y
    return y[:m].T, time.perf_counter() - start


def measure(rate, n_modes, seconds, batches):
    system, n_steps = modal_system(NYLON_STRING, n_modes), round(rate * seconds)
    q0, qdot0 = plucks(system, max(batches))
    truth, slow = dop853(system, q0[0], rate, n_steps)
    result = {"dop853_seconds_per_trajectory": slow, "batches": {}}
    for batch in batches:
        chosen = choose_substeps(system, q0[:batch], qdot0[:batch], rate, n_steps)
        solve = lambda b=batch, c=chosen.count: simulate(system, q0[:b], qdot0[:b], rate, n_steps, substeps=c)  # noqa: E731
        solve()  # compiles
        start = time.perf_counter()
        q, _ = solve()
        fast = (time.perf_counter() - start) / batch
        error = float(np.linalg.norm(q[0] - truth) / np.linalg.norm(truth))
        result["batches"][batch] = {
            "seconds_per_trajectory": fast, "substeps": chosen.count, "relative_error": error,
            "times_faster_than_dop853": slow / fast,
        }
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small batches")
    batches = (1, 20) if parser.parse_args().quick else (1, 100, 1000)
    report = {name: measure(*case, batches=batches[: 2 if "16" in name else 3]) for name, case in CASES.items()}
    report["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(report))
