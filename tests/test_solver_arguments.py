"What the solvers are asked for from Python: numbers of the wrong kind are refused in one line, and none is bent."
import math

import numpy as np
import pytest

from physmodjax.objects import NYLON_STRING
from physmodjax.solvers import (
    Bow,
    Hammer,
    bridge_force,
    choose_substeps,
    energy,
    force_signal,
    grid_system,
    pickup,
    point_forcing,
    simulate,
    simulate_contact,
    simulate_finite_difference,
)

pytestmark = pytest.mark.training  # wrong input of every kind: many cases, none of them a law

STRING, STRAIGHT = NYLON_STRING.modal(6), NYLON_STRING.modal(6, nonlinear=False)
Q = np.eye(6)[0] * 1e-3
U = np.eye(21)[10] * 1e-3
NO_COUNT = [-1, 0, 1.5, 2.0, "a", True, math.nan, None, 1j, [1], 2**70]
NO_TIME = [-1, 0, "a", True, math.nan, math.inf, None, 1j, [8000.0], 10**400, 1e-320]
NO_NUMBERS = [Q + 1j * Q, Q > 0, Q * math.nan, Q.astype(object), list("abcdef"), None, "a", {}, [[1, 2], [3]], Q[:3], 1]
NO_QUANTITY = ["a", 1j, math.nan, math.inf, [1, "a"], {}, 10**400]


def refused(call):
    "One line."
    with pytest.raises(ValueError) as error:
        call()
    assert len(str(error.value).splitlines()) == 1, str(error.value)


@pytest.mark.parametrize("system", [STRING, STRAIGHT], ids=["nonlinear", "linear"])
@pytest.mark.parametrize(("name", "values"), [
    ("substeps", [-1, 0, 1.5, 2.0, "a", True, math.nan, 1j, [1, 2.5], np.array([1.0]), {}, []]),
    ("order", [-1, 0, 3, 1.5, "a", None, [4], math.nan]),
    ("rtol", [-1, 0, "a", True, math.nan, None, 1e-20, [1e-6], 2, 1j, math.inf]),
    ("n_steps", NO_COUNT),
    ("rate", NO_TIME),
    ("q0", NO_NUMBERS),
    ("qdot0", NO_NUMBERS),
    ("forcing", [np.zeros((15, 6)) + 0j, np.zeros((15, 6)) * math.nan, np.zeros((14, 6)), "a", np.ones((15, 6)) > 0]),
    ("progress", [3, True, ["a"]]),
])  # fmt: skip
def test_a_simulation_refuses(system, name, values):
    asked = {"q0": Q, "qdot0": 0 * Q, "rate": 8000.0, "n_steps": 16}
    for value in values:
        refused(lambda value=value: simulate(system, **{**asked, name: value}))
    if name == "rtol":
        for value in values:
            refused(lambda value=value: choose_substeps(system, Q, 0 * Q, 8000.0, 16, rtol=value))


@pytest.mark.parametrize("count", [3, np.int32(3), np.array(3), np.full(5, 3)], ids=repr)
def test_whole_substeps_of_any_kind_are_taken(count):
    q0 = Q * np.arange(1, 6)[:, None]
    expected = simulate(STRING, q0, 0 * q0, 8000.0, 16, substeps=3)[0]
    np.testing.assert_array_equal(simulate(STRING, q0, 0 * q0, 8000.0, 16, substeps=count)[0], expected)


@pytest.mark.parametrize(("body", "good"), [
    (Hammer, {"position": 0.3, "mass": 0.01, "speed": 1.0, "stiffness": 1e5, "exponent": 2.5, "loss": 0.1, "gap": 0.0}),
    (Bow, {"position": 0.3, "speed": 0.1, "force": 1.0, "sharpness": 100.0}),
])  # fmt: skip
def test_a_body_refuses(body, good):
    body(**good)
    for name in good:
        for value in NO_QUANTITY:
            refused(lambda name=name, value=value: body(**{**good, name: value}))


@pytest.mark.parametrize(("name", "values"), [
    ("substeps", [-1, 0, 1.5, "a", True, math.nan]),
    ("n_steps", NO_COUNT),
    ("rate", NO_TIME),
    ("q0", [Q + 1j * Q, Q * math.nan, "a"]),
    ("forcing", [np.zeros((7, 6)) + 0j, np.zeros((7, 6)) * math.nan, "a"]),
    ("order", [1, 6, "a", None]),
])  # fmt: skip
def test_a_contact_refuses(name, values):
    hammer = Hammer(position=0.3, mass=0.01, speed=1.0, stiffness=1e5)
    asked = {"q0": 0 * Q, "qdot0": 0 * Q, "contact": hammer, "rate": 8000.0, "n_steps": 8}
    for value in values:
        refused(lambda value=value: simulate_contact(STRING, **{**asked, name: value}))


@pytest.mark.parametrize(("name", "values"), [
    ("u0", [U + 0j, U > 0, U * math.nan, "a", None]),
    ("v0", [U + 0j, U > 0, U * math.nan, "a", None]),
    ("rate", NO_TIME),
    ("n_steps", NO_COUNT),
    ("substeps", NO_COUNT),
    ("theta", [-1, 2, "a", True, math.nan, None, 1j]),
    ("nonlinear", [-1, "a", 1, 1j, None, []]),
    ("density", [0, -1, "a", 1j, math.nan, {}, U + 0j]),
    ("tension", [0, -1, "a", 1j, math.nan, {}]),
    ("boundary", ["a", 3, ("fixed",)]),
    ("foo", [1]),
])  # fmt: skip
def test_finite_differences_refuse(name, values):
    asked = {"u0": U, "v0": 0 * U, "rate": 8000.0, "n_steps": 8}
    for value in values:
        refused(lambda value=value: simulate_finite_difference(NYLON_STRING, **{**asked, name: value}))


@pytest.mark.parametrize("call", [
    lambda: pickup(STRING, np.zeros((7, 6)) + 1j, 0.3),
    lambda: pickup(STRING, np.zeros((7, 6)), 1j),
    lambda: pickup(STRING, np.zeros((7, 6)), 0.3, width="a"),
    lambda: bridge_force(STRING, np.zeros((7, 6)) + 1j),
    lambda: energy(STRING, np.zeros((7, 6)) + 1j, np.zeros((7, 6))),
    lambda: energy(STRING, np.zeros((7, 6)), np.zeros((7, 6), bool)),
    lambda: point_forcing(STRING, np.zeros(7) + 1j, 0.3),
    lambda: point_forcing(STRING, np.zeros(7), {}),
    lambda: force_signal("impulse", 8000.0, 8, amplitude=1j),
    lambda: force_signal("impulse", 8000.0, 8, start="a"),
    lambda: force_signal("impulse", 8000.0, 8, start=-1),
    lambda: force_signal(np.zeros(3) + 1j, 8000.0, 8),
    lambda: NYLON_STRING.modal(6, nonlinear="maybe"),
    lambda: NYLON_STRING.modal(6, nonlinear=1),
    lambda: NYLON_STRING.modal(1.5),
    lambda: NYLON_STRING.modal(True),
    lambda: grid_system(NYLON_STRING, 21, nonlinear="no"),
])  # fmt: skip
def test_others_refuse(call):
    refused(call)
