"Strings, membranes and bars: laws that hold for all of them, and what bad input gets."
import math
from dataclasses import fields, replace

import jax
import numpy as np
import pytest

from physmodjax.objects import (
    NYLON_STRING,
    PRESETS,
    STEEL_BAR,
    StringParameters,
    modal_system,
    nearest_note,
    note_frequency,
    object_from_words,
)
from physmodjax.solvers import (
    Hammer,
    Problem,
    Substeps,
    bridge_force,
    choose_substeps,
    energy,
    pickup,
    simulate,
    simulate_contact,
)

EACH = pytest.mark.parametrize("vibrating", PRESETS.values(), ids=PRESETS)


def few_modes(vibrating):
    "Nine modes, as many numbers as there are axes."
    return 9 if vibrating.ndim == 1 else (3, 3)


def grid(vibrating):
    return 41 if vibrating.ndim == 1 else (21, 19)


# Every object

@EACH
def test_each_quantity_has_a_unit_and_each_word_fixes_quantities(vibrating):
    names = [field.name for field in fields(vibrating)]
    assert sorted(vibrating.units) == sorted(names)
    assert all(set(fixed) <= set(names) for fixed in vibrating.words.values())
    assert not set(vibrating.words) & set(names)


@EACH
def test_axes_are_those_of_the_grid(vibrating):
    "The first mode, sampled on the axes, projects to itself."
    axes = vibrating.axes(grid(vibrating))
    assert list(axes) == ["x", "y"][: vibrating.ndim]
    assert [x[-1] for x in axes.values()] == pytest.approx(list(vibrating.lengths))
    waves = [np.sin(np.pi * x / x[-1]) for x in axes.values()]
    q = vibrating.modal(few_modes(vibrating)).to_modal(waves[0] if vibrating.ndim == 1 else np.outer(*waves))
    expected = np.zeros(9)
    expected[0] = math.prod(ell / 2 for ell in vibrating.lengths)
    np.testing.assert_allclose(q, expected, atol=1e-12)


@EACH
def test_each_mode_obeys_its_equation(vibrating):
    "A mode by itself, softly: q'' + 2σ q' + ω² q = 0 with the frequency and the T60 that the object states."
    system = vibrating.modal(few_modes(vibrating), nonlinear=False)
    modes = np.arange(1, 10) if vibrating.ndim == 1 else np.indices((3, 3)).reshape(2, -1) + 1
    np.testing.assert_allclose(system.frequencies(), vibrating.frequency(modes), rtol=1e-12)
    rate, n_steps = 20 * system.frequencies().max(), 500
    q, _ = simulate(system, np.full(9, 1e-6), np.zeros(9), rate, n_steps)
    t = np.arange(n_steps)[:, None] / rate
    sigma, omega = 3 * np.log(10) / vibrating.t60(modes), 2 * np.pi * vibrating.frequency(modes)
    exact = 1e-6 * np.exp(-sigma * t) * (np.cos(omega * t) + sigma / omega * np.sin(omega * t))
    np.testing.assert_allclose(q, exact, atol=1e-16)


@EACH
def test_energy_is_kept_without_losses_and_balanced_with_them(vibrating):
    for losses in ({"d1": 0.0, "d3": 0.0}, {}):
        system = replace(vibrating, **losses).modal(few_modes(vibrating))
        rate = 10 * system.frequencies().max()
        qdot0 = 0.01 * system.basis.norms * np.random.default_rng(1).normal(size=9)
        q, qdot = simulate(system, 0 * qdot0, qdot0, rate, 400)
        balance = energy(system, q, qdot, rate)
        np.testing.assert_allclose(balance.total + balance.lost, balance.total[0], rtol=1e-6)
        lost = balance.lost[-1] / balance.total[0]
        assert abs(lost) < 1e-12 if losses else lost > 1e-9


@EACH
def test_a_hammer_gives_what_it_loses(vibrating):
    "Work on the object and energy left in the felt come from the hammer; the pickup hears the blow."
    system = vibrating.modal(few_modes(vibrating))
    place = 0.31 if vibrating.ndim == 1 else [0.31, 0.42]
    hammer = Hammer(position=place, mass=1e-3, speed=1.0, stiffness=1e6, exponent=2.0)
    rest, rate = np.zeros(9), 16 * system.frequencies().max()
    q, qdot, history = simulate_contact(system, rest, rest, hammer, rate, 200)
    depth = np.maximum(history.height - pickup(system, q, place), 0)
    held = 0.5 * hammer.mass * history.velocity**2 + hammer.stiffness * depth**3 / 3
    np.testing.assert_allclose(held + history.work, 0.5 * hammer.mass, rtol=1e-5)
    assert history.work.max() > 0.01 * 0.5 * hammer.mass and abs(pickup(system, q, place)).max() > 0


@EACH
@pytest.mark.parametrize("note", ["A1", "F#3 +20", 150.0])
def test_tuning_is_exact_and_differentiable(vibrating, note):
    frequency = note_frequency(note) if isinstance(note, str) else note
    made = vibrating.tuned(note)
    assert abs(made.modal(few_modes(vibrating)).frequencies()[0] / frequency - 1) < 1e-12
    (fixed,) = vibrating.words["note"]
    with jax.enable_x64(True):
        slope = jax.grad(lambda f: getattr(vibrating.tuned(f), fixed))(frequency)
    step = 1e-4 * frequency
    finite = (getattr(vibrating.tuned(frequency + step), fixed) - getattr(vibrating.tuned(frequency - step), fixed))
    np.testing.assert_allclose(slope, finite / (2 * step), rtol=1e-6)


@EACH
def test_impossible_quantities_are_refused(vibrating):
    for name in vibrating.units:
        for wrong in (-1.0, float("nan"), float("inf"), "0.5"):
            with pytest.raises(ValueError, match=rf"^{name}: got [^\n]*$"):
                replace(vibrating, **{name: wrong})
    with pytest.raises(ValueError, match="^n_modes: got "):
        vibrating.modal((3,) * (3 - vibrating.ndim))
    with pytest.raises(ValueError, match="n_modes"):
        vibrating.modal(0 if vibrating.ndim == 1 else (3, 0))


# The bar

def test_a_bar_is_a_string_without_tension():
    "The limit of a string whose tension goes to nothing, in frequency, decay and the force on its supports."
    shared = {field.name: getattr(STEEL_BAR, field.name) for field in fields(STEEL_BAR)}
    slack = StringParameters(**shared, T0=1e-9)
    bar, string = STEEL_BAR.modal(12), slack.modal(12, nonlinear=False)
    np.testing.assert_allclose(bar.frequencies(), string.frequencies(), rtol=1e-10)
    np.testing.assert_array_equal(bar.bank.two_sigma, string.bank.two_sigma)
    q = np.random.default_rng(0).normal(size=12)
    np.testing.assert_allclose(bridge_force(bar, q), bridge_force(string, q), rtol=1e-9)


def test_nonlinear_makes_no_difference_to_a_bar():
    q0 = 1e-3 * np.random.default_rng(0).normal(size=5)
    runs = [simulate(modal_system(STEEL_BAR, 5, nonlinear), q0, 0 * q0, 16000.0, 200)[0] for nonlinear in (True, False)]
    np.testing.assert_array_equal(*runs)


# Words

def test_words_that_do_not_fit_are_one_line():
    cases = [
        (("steel_strin", {}), "did you mean steel_string?"),
        (("steel_string", {"lenght": 0.8}), "did you mean length?"),
        (("steel_string", {"inharmoncity": 1e-4}), "did you mean inharmonicity?"),
        (("steel_string", {"note": "H2"}), "note: got 'H2'"),
        (("steel_string", {"note": "A2", "T0": 90.0}), "note of a steel_string: got T0 besides"),
        (("steel_string", {"t60": 2.0, "d3": 0.0}), "t60 of a steel_string: got d3 besides"),
        (("steel_string", {"t60": -1.0}), "T60: got -1.0"),
        (("steel_string", {"t60": ((100, 1.0),)}), "second T60"),
        (("steel_string", {"t60": ((100, 1.0), (1000, 3.0))}), "T60 has to fall with frequency"),
        (("steel_string", {"diameter": 0.0}), "diameter: got 0.0"),
        (("steel_string", {"inharmonicity": -1e-3}), "inharmonicity: got -0.001"),
        (("nylon_string", {"diameter": 0.05, "note": "E2"}), "tension for E2: got -"),
        (("mylar_head", {"diameter": 0.3}), "word for a mylar_head: got 'diameter'"),
        (("steel_bar", {"note": "A2", "length": 0.5}), "note of a steel_bar: got length besides"),
    ]
    for (preset, words), message in cases:
        with pytest.raises(ValueError, match="^[^\n]*$") as caught:
            object_from_words(preset, **words)
        assert message in str(caught.value), (preset, words)


@pytest.mark.parametrize("semitone", range(-40, 40, 7))
def test_words_together(semitone):
    "Pitch, diameter, inharmonicity and two reverberation times at once, over the range of instruments."
    frequency = 440 * 2 ** (semitone / 12)
    note = nearest_note(frequency)
    made = object_from_words("steel_string", note=note, length=0.7, diameter=4e-4, inharmonicity=2e-4,
                             t60=((frequency, 4.0), (12 * frequency, 0.8)))
    np.testing.assert_allclose(made.frequency(), frequency, rtol=1e-10)
    np.testing.assert_allclose([made.inharmonicity, made.area], [2e-4, np.pi * 4e-8], rtol=1e-10)
    np.testing.assert_allclose(made.t60(), 4.0, rtol=1e-6)
    assert made.t60(13) < 0.8 < made.t60(11)


# What solvers refuse

def test_starts_that_are_not_real_and_finite_are_refused():
    system, q0 = NYLON_STRING.modal(4), np.full((2, 4), 1e-5)
    cases = [
        ({"q0": q0 * (1 + 1j)}, "kind of q0: got complex numbers, expected real numbers"),
        ({"qdot0": q0 + 0j}, "kind of qdot0: got complex numbers"),
        ({"forcing": np.zeros((2, 99, 4), complex)}, "kind of forcing: got complex numbers"),
        ({"q0": q0.astype(str)}, "kind of q0: got text"),
        ({"qdot0": q0[0]}, "shape of qdot0"),
        ({"q0": q0 * np.inf}, "non-finite"),
        ({"n_steps": 100.0}, "n_steps: got 100.0"),
        ({"rate": -1.0}, "rate: got -1.0"),
    ]
    for wrong, message in cases:
        arguments = {"q0": q0, "qdot0": 0 * q0, "rate": 8000.0, "n_steps": 100} | wrong
        for make in (simulate, Problem, choose_substeps):
            with pytest.raises(ValueError, match="^[^\n]*$") as caught:
                make(system, **arguments)
            assert message in str(caught.value)
    with pytest.raises(ValueError, match="complex"):
        jax.jit(lambda q: simulate(system, q, q, 8000.0, 10, substeps=1))(q0 + 0j)


@pytest.mark.parametrize("nonlinear", [False, True])
def test_substeps_are_whole_numbers(nonlinear):
    system, q0 = NYLON_STRING.modal(4, nonlinear), np.full((2, 4), 1e-5)
    for substeps in (1.5, 2.0, 0, -3, [1, 0], True, np.nan, "2", Substeps(0, 1e-6)):
        with pytest.raises(ValueError, match="substeps: got [^\n]*, expected whole numbers of at least 1"):
            simulate(system, q0, 0 * q0, 8000.0, 20, substeps=substeps)


def test_substeps_are_passed_on_as_they_are():
    "What choose_substeps returns goes into simulate, plainly, compiled and differentiated, for one and for a batch."
    system, q0 = NYLON_STRING.modal(4), np.array([[2e-4, 1e-4, 0, 0], [1e-2, 5e-3, 2e-3, 0]])
    chosen = choose_substeps(system, q0, 0 * q0, 8000.0, 60)
    assert isinstance(chosen, Substeps) and chosen.count[0] < chosen.count[1]
    run = lambda q, n: simulate(system, q, 0 * q, 8000.0, 60, substeps=n)[0]  # noqa: E731
    plain = run(q0, chosen)
    np.testing.assert_array_equal(plain, run(q0, chosen.count))
    with jax.enable_x64(True):
        compiled = jax.jit(lambda q: run(q, chosen))(q0)
        np.testing.assert_allclose(compiled, plain, atol=2e-6 * abs(plain).max())
        single = choose_substeps(system, q0[1], 0 * q0[1], 8000.0, 60)
        ending = lambda s: run(s * q0[1], single)[-1, 0]  # noqa: E731
        slopes = [jax.jit(make(ending))(1.0) for make in (jax.grad, jax.jacfwd)]
        finite = (jax.jit(ending)(1 + 1e-5) - jax.jit(ending)(1 - 1e-5)) / 2e-5
    np.testing.assert_allclose(slopes, finite, rtol=1e-6)


@EACH
@pytest.mark.parametrize("large", [2**53 + 1, 2**63, 2**64, 10**30])
def test_integers_of_any_size_are_numbers(vibrating, large):
    "From 2^64 on they are objects to NumPy: the motion is that of the same number with a point."
    for name in set(vibrating.units) - {"poisson"}:  # which is below 0.5
        whole, real = (replace(vibrating, **{name: kind(large)}) for kind in (int, float))
        n_modes = (2,) * vibrating.ndim
        whole, real = (np.asarray(x.modal(n_modes, nonlinear=False).bank.omega_sq) for x in (whole, real))
        assert whole.dtype == float
        np.testing.assert_array_equal(whole, real)
