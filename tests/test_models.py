"Models against the data they were made for, and what every model promises."
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import shrink

from physmodjax.core.scan import rollout
from physmodjax.datasets.batch import Batch
from physmodjax.datasets.format import read_split
from physmodjax.datasets.generate import generate
from physmodjax.datasets.loader import load_normaliser
from physmodjax.experiments.build import build_model
from physmodjax.experiments.data import CONF, build_spec, read_group
from physmodjax.models.batching import batched
from physmodjax.models.dmd import DMDModel, fit_modes, linear_start
from physmodjax.models.fno import AutoregressiveFNO, FNOModel, field, spectrum
from physmodjax.models.model import Model, Scale, TrajectoryData, check_model
from physmodjax.solvers import MYLAR_MEMBRANE, NYLON_STRING, draw_shape, modal_system, simulate
from physmodjax.training.objective import Objective, evaluation_mode

fast_to_compile = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def drawn(model, x0):
    "Any numbers in place of the parameters of a model, in the precision of x0; nothing is compiled."
    rng, shapes = np.random.default_rng(0), jax.eval_shape(lambda: model.init(jax.random.key(0), x0, 2))
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), x0.dtype), shapes)


def linear_motion(n, seed, n_steps, grid=(31,)):
    "(n, n_steps, *grid, 1) plucks of a linear string or membrane."
    one = len(grid) == 1
    system = modal_system(*((NYLON_STRING, 6) if one else (MYLAR_MEMBRANE, (4, 3))), nonlinear=False)
    rng, rate = np.random.default_rng(seed), 8000 if one else 16000
    q0 = system.to_modal(np.stack([draw_shape("gaussian", rng, grid, widest=0.4).shape for _ in range(n)]))
    q, _ = simulate(system, q0, 0 * q0, rate=rate, n_steps=n_steps)
    return system.to_grid(q, grid[0] if one else grid)[..., None]


# Dynamic mode decomposition

@pytest.mark.parametrize("grid", [(31,), (11, 10)])
def test_dmd_is_exact_on_linear_motion(grid):
    "In float64, from one frame, twice as far as the training went, on a string and a membrane."
    train, unseen = linear_motion(30, 0, 120, grid), linear_motion(4, 1, 240, grid)
    mean, std = np.array([train.mean()]), np.array([train.std()])
    model = batched(DMDModel)(grid, n_modes=16)
    with jax.enable_x64(True):
        x0 = jnp.asarray((unseen[:, :1] - mean) / std)
        data = TrajectoryData((train - mean) / std, (unseen[:, :120] - mean) / std, Scale(mean, std))
        variables = {"params": model.from_data(drawn(model, x0)["params"], data)}
        prediction = np.asarray(jax.jit(lambda v, x0: model.apply(v, x0, 239))(variables, x0)) * std + mean
    error = np.sum((prediction - unseen[:, 1:]) ** 2) / np.sum(unseen[:, 1:] ** 2)
    assert error < 1e-8


def test_modes_do_not_depend_on_the_order_of_trajectories():
    u = linear_motion(12, 0, 80)[..., 0]
    once, again = fit_modes(u), fit_modes(u[::-1])
    np.testing.assert_allclose(once.lam, again.lam, atol=1e-8)


@pytest.mark.parametrize("n_delays", [1, 2, 4])
def test_no_mode_grows_and_none_is_lost_to_its_conjugate(n_delays):
    modes = fit_modes(linear_motion(12, 0, 80)[..., 0], n_delays=n_delays)
    assert np.iscomplexobj(modes.lam) and np.isfinite(np.log(modes.lam)).all()
    assert (np.abs(modes.lam) <= 1 + 1e-12).all() and (modes.lam.imag >= 0).all()


# Fourier neural operator

@pytest.mark.parametrize("grid", [(8,), (9,), (6, 7), (7, 6)])
def test_kept_modes_are_those_of_numpy(grid):
    "spectrum and field agree with rfftn and irfftn, on odd and even grids."
    modes = tuple((n + 1) // 2 for n in grid)
    v, axes = np.random.default_rng(0).normal(size=(2, *grid)), range(1, 1 + len(grid))
    full = np.fft.rfftn(v, axes=axes, norm="forward")
    for axis, (m, n) in enumerate(zip(modes, grid, strict=True)):
        k = np.fft.fftfreq(n, 1 / n) if axis + 1 < len(grid) else np.arange(n // 2 + 1)
        full = np.where((np.abs(k) < m).reshape((-1,) + (1,) * (len(grid) - 1 - axis)), full, 0)
    expected = np.fft.irfftn(full, s=grid, axes=axes, norm="forward")
    with jax.enable_x64(True):
        np.testing.assert_allclose(field(spectrum(v, modes), grid), expected, atol=1e-12)


@pytest.mark.parametrize("Model", [FNOModel, AutoregressiveFNO])
@pytest.mark.parametrize("edges", ["fixed", "periodic"])
def test_an_operator_streams_what_it_rolls_out(Model, edges):
    model = Model((9,), channels=2, n_modes=4, n_layers=2, edges=edges)
    with jax.enable_x64(True):
        x0 = jnp.asarray(np.random.default_rng(0).normal(size=(1, 9, 2)))
        x0 = x0.at[:, ::8].set(0.0)
        variables = drawn(model, x0)

        @jax.jit
        def both(v, x0):
            start = model.apply(v, x0, method="init_state")
            return model.apply(v, x0, 6), rollout(lambda s, _: model.apply(v, s, method="step"), start, 6)[1]

        whole, streamed = both(variables, x0)
    np.testing.assert_allclose(streamed, whole, atol=1e-12)
    assert edges == "periodic" or np.abs(whole[:, ::8]).max() < 1e-12


# Every model of conf/model

MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml") if path.stem != "own")  # own: no class yet
SLOWER = ("lstm", "mgu", "rnn", "urlstm", "modal", "modal_varying")  # to compile, and of a kind with others
# what the optimiser of earlier runs moved slowly
RECURRENT = set("nu_log theta_log gamma_log stretch_log share_log real_imag angles magnitudes log_step "
                "Lambda_re Lambda_im B B_re B_im C C_re C_im".split())


def quick_first(mark):
    "The models, those that compile slowly behind a mark; `mark` is for those of a kind with others."
    marks = dict.fromkeys(("fno", "koopman_varying", "s5"), pytest.mark.training) | dict.fromkeys(SLOWER, mark)
    return [pytest.param(name, marks=marks.get(name, ())) for name in MODELS]


def configured(name, grid=(41,), context=1, small=False):
    "The batched model of conf/model/<name>.yaml for one field; few layers are traced faster."
    config = read_group("model", name)
    if "n_layers" in config["network"]:
        config["network"]["n_layers"] = min(config["network"]["n_layers"], 2)
    if small:
        shrink(config["network"])
    return build_model(config["network"], grid=grid, channels=1, context=context)


@pytest.mark.parametrize("name", quick_first(pytest.mark.training))
@pytest.mark.parametrize("context", [1, 3])
def test_every_configured_model_has_the_interface(name, context):
    "Shapes of a rollout, for one frame and for many, without computing any number; the leaves it calls recurrent."
    model = configured(name, context=context)
    check_model(model)
    x0 = jnp.zeros((3, context, 41, 1))
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(lambda: model.init(rngs, x0, 2))
    calm = evaluation_mode(model)
    for n_steps in (1, 7):
        out = jax.eval_shape(lambda v, n=n_steps: calm.apply(v, x0, n), variables)
        assert out.shape == (3, n_steps, *x0.shape[2:])
    state = jax.eval_shape(lambda v: calm.apply(v, x0, method="init_state"), variables)
    after, frame = jax.eval_shape(lambda v, s: calm.apply(v, s, method="step"), variables, state)
    assert frame.shape == (3, *x0.shape[2:])
    frames, far = jax.eval_shape(lambda v, s: calm.apply(v, s, 7, method="advance"), variables, state)
    assert frames.shape == (3, 7, *x0.shape[2:])
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), part) for part in (state, after, far)]
    assert shapes[0] == shapes[1] == shapes[2]
    if model.takes_mask:
        mask = jnp.ones((3, 7), bool)
        assert jax.eval_shape(lambda v: calm.apply(v, x0, 7, mask=mask), variables).shape == (3, 7, *x0.shape[2:])
    leaves = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])}
    assert set(model.recurrent_parameters) & leaves == RECURRENT & leaves
    assert set(model.recurrent_parameters) <= leaves


@pytest.mark.parametrize("name", quick_first(pytest.mark.slow))
def test_two_advances_are_one(name):
    "From a carried state, single steps among them, for every configured model as it is drawn."
    model = evaluation_mode(configured(name))
    x0 = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 41, 1)).astype(np.float32))

    def uses(key):
        variables = model.init({"params": key, "dropout": key}, x0, 2)
        use = lambda *args, method=None: model.apply(variables, *args, method=method)  # noqa: E731
        start = use(x0, method="init_state")
        head, state = use(start, 5, method="advance")
        state, frame = use(state, method="step")
        tail, _ = use(state, 140, method="advance")
        return use(x0, 146), jnp.concatenate([head, frame[:, None], tail], axis=1)

    whole, pieces = fast_to_compile(uses)(jax.random.key(0))
    np.testing.assert_allclose(pieces, whole, atol=1e-4 * max(1.0, float(np.abs(whole).max())))


CENTRES = {"Lambda_re": -1.0, "nu_log": -2.0, "real_imag": 0.4, "log_step": -2.0, "stretch_log": -2.0}


@pytest.mark.parametrize("name", quick_first(pytest.mark.slow))
def test_the_residual_has_both_derivatives(name):
    "Forward mode is the central difference, and reverse mode its transpose: <w, J v> = <J'w, v>. In float64."
    model = configured(name, grid=(9,), small=True)
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        batch = Batch(jnp.asarray(rng.normal(size=(2, 1, 9, 1))), jnp.asarray(rng.normal(size=(2, 12, 9, 1))))
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: CENTRES[path[-1].key] + leaf / 3 if path[-1].key in CENTRES else leaf,
            drawn(model, batch.context)["params"],
        )
        v = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
        w = jnp.asarray(rng.normal(size=batch.target.size))
        residual = lambda params: Objective(model).residual(params, batch)  # noqa: E731

        @fast_to_compile
        def derivatives(params, v, w, h):
            near = lambda h: residual(jax.tree.map(lambda p, d: p + h * d, params, v))  # noqa: E731
            pulled = jax.vjp(residual, params)[1](w)[0]
            return jax.jvp(residual, (params,), (v,))[1], (near(h) - near(-h)) / (2 * h), pulled

        forward, difference, pulled = derivatives(params, v, w, 1e-6)
        paired = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(pulled), jax.tree.leaves(v), strict=True))
        across = jnp.vdot(w, forward)
    size = np.abs(forward).max()
    assert forward.dtype == np.float64 and size > 1e-3
    np.testing.assert_allclose(forward, difference, atol=1e-7 * size)
    np.testing.assert_allclose(across, paired, rtol=1e-9, atol=1e-10 * size)


def test_the_recurrence_of_a_layer_is_a_choice_of_the_configuration():
    "The modal recurrence in the stack of the LRU, by keys alone; its parameters are those of that class."
    network = read_group("model", "lru")["network"]
    dynamics = network["recurrence"]["dynamics"]
    dynamics["_target_"] = "physmodjax.dynamics.DiscreteModalDynamics"
    del dynamics["clip_eigs"]
    model = build_model(network, grid=(9,), channels=1, context=1)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((2, 1, 9, 1)), 2))["params"]
    assert set(shapes["layers_1"]["linear"]["dynamics"]) == {"real_imag"}
    assert set(model.recurrent_parameters) == {"real_imag", "gamma_log", "B_re", "B_im", "C_re", "C_im"}


# The contract

def signature(**methods):
    return type("Mine", (Model,), methods)


@pytest.mark.parametrize("methods, words", [
    ({"__call__": lambda self, x0, n_steps: x0}, "expected __call__(self, x0, n_steps, forcing=None)"),
    ({"__call__": lambda self, x0, n_steps, forcing: x0}, "expected __call__(self, x0, n_steps, forcing=None)"),
    ({"step": lambda self, state, forcing=None: state}, "got step, expected __call__"),
    ({"init_state": lambda self, x0, y: x0, "step": lambda self, s, forcing=None: s}, "init_state(self, x0)"),
    ({}, "got none, expected __call__"),
], ids=["no force", "no default", "step alone", "more arguments", "nothing"])
def test_another_signature_is_refused_in_one_line(methods, words):
    with pytest.raises(ValueError) as caught:
        check_model(signature(**methods))
    assert words in str(caught.value) and "\n" not in str(caught.value)


# Starts from few trajectories

@pytest.fixture(scope="module")
def few_plucks(tmp_path_factory):
    "24 plucks of 200 samples for training, as a model takes them, and the test split."
    spec = build_spec(read_group("dataset", "string") | {"n_trajectories": 30, "n_steps": 200})
    folder = generate(spec, tmp_path_factory.mktemp("few"), progress=False)
    scale = load_normaliser(folder, ("displacement",))
    train, valid, test = (read_split(folder, split, ("displacement",)) for split in ("train", "valid", "test"))
    return TrajectoryData(scale.normalise(train), scale.normalise(valid), Scale(scale.mean, scale.std)), test


@pytest.mark.parametrize("name, context", [
    *((name, 1) for name in ("dmd", "oscillator", "lru", "koopman", "s5")), ("dmd", 3), ("oscillator", 2),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (("lru", 2), ("koopman", 3), ("s5", 3))),
])
def test_a_start_from_few_trajectories_is_better_than_silence(name, context, few_plucks):
    data, test = few_plucks
    model = configured(name, grid=(51,), context=context)
    x0 = (test[:, :context] - data.normaliser.mean) / data.normaliser.std
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = model.from_data(fast_to_compile(lambda: model.init(rngs, x0, 2))()["params"], data)
    calm = evaluation_mode(model)
    n_steps = test.shape[1] - context
    y = fast_to_compile(lambda params: calm.apply({"params": params}, x0, n_steps))(params)
    truth = test[:, context:]
    error = np.sum((np.asarray(y) * data.normaliser.std + data.normaliser.mean - truth) ** 2) / np.sum(truth**2)
    assert error < 1.0


def test_a_start_worse_than_silence_is_left_out(caplog):
    "Noise has no modes that continue it: the parameters stay as drawn, and one line of the log says so."
    noise = np.random.default_rng(0).normal(size=(14, 40, 13, 1)).astype(np.float32)
    silence = np.zeros_like(noise[10:])
    silence[:, 0] = noise[10:, 0]  # what follows is nothing, and nothing can be better than that
    data = TrajectoryData(noise[:10], silence, Scale(np.zeros(1), np.ones(1)))
    model = DMDModel((13,), n_modes=4)
    params = drawn(model, jnp.asarray(noise[0, :1]))["params"]
    assert model.from_data(params, data) is params
    assert len(caplog.records) == 1 and "no better than silence" in caplog.text


def of_kind(kind, n=10, n_steps=60, n_points=13):
    "(N, T, X, 1) motion of one mode of a string, spoilt."
    rng, times = np.random.default_rng(3), np.arange(n_steps)[:, None]
    ringing = {"at rest": np.sin(0.3 * times), "alternating": (-1.0) ** times, "constant": 1.0 + 0 * times}
    u = rng.normal(size=(n, 1, 1)) * ringing.get(kind, np.cos(0.3 * times)) * np.sin(np.linspace(0, np.pi, n_points))
    spoil = {
        "zero": lambda: 0 * u, "huge": lambda: 1e18 * u, "tiny": lambda: 1e-18 * u,
        "identical": lambda: np.repeat(u[:1], n, 0), "noise": lambda: rng.normal(size=u.shape),
        "first frame only": lambda: u * (times == 0), "last frame only": lambda: u * (times == n_steps - 1),
        "one point": lambda: u * (np.arange(n_points) == 6),
    }  # fmt: skip
    return spoil.get(kind, lambda: u)()[..., None].astype(np.float32)


NOTHING_TO_CONTINUE = ("zero", "first frame only", "last frame only")
RINGING = ("plain", "at rest", "alternating", "constant", "huge", "tiny", "identical", "one point")


@pytest.mark.parametrize("kind", ["noise", *NOTHING_TO_CONTINUE, *RINGING])
@pytest.mark.parametrize("context", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 2, 10])
def test_a_start_from_any_data_is_right_or_left_out(kind, context, n):
    "One mode is continued to rounding from what shows its phase; nothing else may raise, or warn in numbers."
    data = TrajectoryData(of_kind(kind, n), of_kind(kind, 3), Scale(np.zeros(1), np.ones(1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        starts = [linear_start(data, context, 8, n_delays) for n_delays in (2, None)]
    blind = kind == "at rest" and context == 1  # its first frame is zero
    for start in starts:
        if kind in NOTHING_TO_CONTINUE or blind:
            assert start is None
        elif kind == "noise":
            assert start is None or start.error > 0.9
        else:
            assert start.error < (1e-2 if context == n == 1 else 1e-9)
