"What every test runs under: the processor, no network, one compilation cache for the whole repository."
import logging
import os
import subprocess
import sys
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# fixtures that run a command or train a model
COMMANDS = {"call", "refused", "run_python", "trained", "run_dir", "undrawn", "few_plucks"}

# Set before anything imports jax, wandb or matplotlib; subprocesses of tests inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache/jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.update(WANDB_MODE="offline", WANDB_ERROR_REPORTING="false", WANDB_SILENT="true", MPLBACKEND="Agg")
os.environ.pop("HYDRA_FULL_ERROR", None)

import numpy as np  # noqa: E402
import training_problem  # noqa: E402
from commands import QUICK, compose, shrink  # noqa: E402
from recordings import random_fields, write  # noqa: E402

from physmodjax.cli.train import train  # noqa: E402
from physmodjax.datasets.generate import DatasetSpec, generate  # noqa: E402
from physmodjax.experiments import record, run  # noqa: E402
from physmodjax.experiments.data import named_spec, read_group  # noqa: E402


def pytest_collection_modifyitems(items):
    "Tests that run commands or train the common problem are marked as trainings: `make test-fast` leaves them out."
    for item in items:
        if COMMANDS & set(item.fixturenames) or "training_problem" in vars(item.module):
            item.add_marker(pytest.mark.training)


@pytest.fixture(scope="session")
def root() -> Path:
    "The root of the repository."
    return ROOT


@pytest.fixture
def run_python(tmp_path):
    "A function that runs code or a script in a fresh interpreter, on a chosen number of virtual devices."

    def run(
        *args: str,  # what follows `python`: "-c", code, or a script (relative to the root) and its arguments
        devices: int = 1,  # virtual devices that jax shall see
        cwd: Path = tmp_path,  # where it runs
        timeout: float = 300,  # s
        **env: str,  # environment variables on top of the present ones
    ) -> subprocess.CompletedProcess:  # with text in stdout and stderr; the caller looks at returncode
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        if args[0].endswith(".py"):
            args = (str(ROOT / args[0]), *args[1:])
        return subprocess.run(
            [sys.executable, *args], cwd=cwd, env={**os.environ, "XLA_FLAGS": flags.strip(), **env},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
        )

    return run


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    "Folder of the small data sets, made once."
    folder = tmp_path_factory.mktemp("data")
    for name in ("tiny", "tiny_linear", "tiny_membrane", "tiny_bar"):
        generate(named_spec(read_group("dataset", name)), folder, progress=False)
    return folder


@pytest.fixture(scope="session")
def trained(data_dir, tmp_path_factory):
    "A function that gives the run directory of a model after one step on a tiny set; each is trained once."

    @cache
    def run(model: str, dataset: str = "tiny") -> Path:
        folder = tmp_path_factory.mktemp(model)
        audio = [] if dataset == "tiny" else ["audio.enabled=false"]
        arguments = [f"model={model}", f"dataset={dataset}", *QUICK, *audio, "trainer.max_steps=1"]
        config = compose("train", *arguments, f"data_dir={data_dir}")
        shrink(config.model.network)
        train(config, folder)
        return folder

    return run


@pytest.fixture(scope="session")
def run_dir(trained):
    "A run of one step on the tiny string."
    return trained("gru")


@pytest.fixture
def one_file(tmp_path):
    path = tmp_path / "set.hdf5"
    fields = random_fields(3)
    write(path, fields, scalars={"amplitude": np.array([1.0, 2.0, 3.0])}, attributes={"rate": 4000.0})
    return path, fields


@pytest.fixture(scope="session")
def tiny():
    return DatasetSpec.of(
        "tiny", rate=8000.0, n_modes=6, n_points=25, n_steps=60, n_trajectories=30, trajectories_per_file=2
    )


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory):
    return generate(tiny, tmp_path_factory.mktemp("data"), progress=False)


@pytest.fixture(scope="session")
def whole():
    "The training that nothing disturbs."
    return training_problem.train_apart(max_steps=30)


@pytest.fixture
def undrawn(monkeypatch):
    "Pictures are made but not drawn, which takes longer than all else in a run of few steps."
    for module in (run, record):
        monkeypatch.setattr(module, "figure_png", lambda figure: b"\x89PNG\r\n\x1a\n")


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    "A function that runs a command as its script does, in this process: exit status, stdout, lines of stderr."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    # Hydra closes all it finds there, and one of them, absl's, closes the stderr of pytest
    monkeypatch.setattr(logging, "_handlerList", [])
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    folders = (tmp_path / f"out{number or ''}" for number in range(100))  # a folder is one run

    def run(name, *arguments, folder=None):
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        folder = folder or next(folders)
        given = [] if any(a.startswith("hydra.run.dir") for a in arguments) else [f"hydra.run.dir={folder}"]
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments, *given])
        status = 0
        try:
            import_module(f"physmodjax.cli.{name}").main()
        except SystemExit as exit_:
            status = exit_.code
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    yield run
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


@pytest.fixture
def refused(call):
    "A function that runs a command and returns the one line with which it was refused."

    def run(name, *arguments, **options):
        status, out, err = call(name, *arguments, **options)
        assert status == 1, (out, err)
        assert len(err) == 1 and err[0].startswith("error: "), err
        assert "Traceback" not in out
        return err[0]

    return run
