"Models against the data they were made for, and what every model promises."
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from omegaconf import OmegaConf

from physmodjax.cli.config import CONF, build_model
from physmodjax.core.scan import rollout
from physmodjax.models.batching import batched
from physmodjax.models.dmd import DMDModel, fit_modes
from physmodjax.models.fno import AutoregressiveFNO, FNOModel, field, spectrum
from physmodjax.solvers import MYLAR_MEMBRANE, NYLON_STRING, draw_shape, modal_system, simulate


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
        variables = {"params": model.parameters_from_data(drawn(model, x0)["params"], (train - mean) / std, mean, std)}
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

MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


@pytest.mark.parametrize("name", MODELS)
def test_every_configured_model_has_the_interface(name):
    "Shapes of a rollout, for one frame and for many, without computing any number."
    config = OmegaConf.load(CONF / "model" / f"{name}.yaml")
    if "n_layers" in config.network:
        config.network.n_layers = min(config.network.n_layers, 2)  # traced faster
    channels, n_given = len(config.fields), config.n_given
    model = build_model(config.network, grid=(41,), channels=channels, n_given=n_given)
    x0 = jnp.zeros((3, n_given, 41, channels))
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(lambda: model.init(rngs, x0, 2))
    calm = model.clone(training=False) if hasattr(model, "training") else model
    for n_steps in (1, 7):
        out = jax.eval_shape(lambda v, n=n_steps: calm.apply(v, x0, n), variables)
        assert out.shape == (3, n_steps, 41, channels)
    state = jax.eval_shape(lambda v: calm.apply(v, x0, method="init_state"), variables)
    after, frame = jax.eval_shape(lambda v, s: calm.apply(v, s, method="step"), variables, state)
    assert frame.shape == (3, 41, channels)
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), part) for part in (state, after)]
    assert shapes[0] == shapes[1]
