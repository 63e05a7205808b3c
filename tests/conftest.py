"What every test runs under: the processor, no network, one compilation cache for the whole repository."
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Set before anything imports jax, wandb or matplotlib; subprocesses of tests inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache/jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.update(WANDB_MODE="offline", WANDB_ERROR_REPORTING="false", WANDB_SILENT="true", MPLBACKEND="Agg")
os.environ.pop("HYDRA_FULL_ERROR", None)


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
