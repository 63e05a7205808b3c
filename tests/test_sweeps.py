"Sweeps: jobs side by side, studies, SLURM; what fails is named, what is told to end ends."
import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import hydra
import pytest
import yaml
from commands import GRU, QUICK
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from physmodjax.cli.config import CONF, threads_of_a_job

ROOT = Path(__file__).resolve().parents[1]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
SMALL = ["dataset=tiny", *QUICK, *GRU, "audio.enabled=false", "trainer.max_steps=2"]


def metrics_of(folder):
    "metrics.json of every job, in the order of the jobs."
    found = sorted(folder.glob("*/metrics.json"), key=lambda path: int(path.parent.name.split("_")[0]))
    return [json.loads(path.read_text()) for path in found]


@pytest.fixture
def sweep(run_python, data_dir, tmp_path):
    "A function that runs a sweep as a user does: status, stdout, stderr, metrics of the jobs, folder of the sweep."
    def run(*arguments, **options):
        words = [*SMALL, f"data_dir={data_dir}", f"hydra.sweep.dir={tmp_path}/sweep", *arguments]
        done = run_python("scripts/train.py", "-m", *words, **options)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr, metrics_of(tmp_path / "sweep"), tmp_path / "sweep"

    return run


@pytest.mark.slow
def test_jobs_side_by_side_give_the_numbers_of_jobs_in_a_row(sweep, tmp_path):
    "Each says with which command it was made, and has a folder named by what it changes."
    status, _, err, side_by_side, folder = sweep(*JOBLIB, "seed=1,2")
    assert status == 0, err
    assert [path.name.split("_", 1)[0] for path in sorted(folder.glob("[0-9]*"))] == ["0", "1"]
    for seed, metrics in zip((1, 2), side_by_side, strict=True):
        assert metrics["seed"] == seed
        command = metrics["made_with"]["command"]
        assert command.startswith("train.py ") and command.endswith(f"seed={seed}")
    folder.rename(tmp_path / "joblib")
    status, _, err, in_a_row, _ = sweep("seed=1,2")
    assert status == 0, err
    assert [metrics["final"] for metrics in in_a_row] == [metrics["final"] for metrics in side_by_side]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], JOBLIB], ids=["row", "joblib"])
def test_a_job_that_fails_is_named_and_the_others_go_on(sweep, launcher):
    secret = "optimizer.my_token=hunter2000"
    status, _, err, metrics, folder = sweep(*launcher, "evaluation.example=0,99")
    assert status == 1 and len(metrics) == 1
    lines = err.splitlines()
    assert any(line.startswith("job 1 (") and "evaluation.example=99): evaluation.example: got 99" in line
               for line in lines), err
    assert lines[-1].startswith("error: evaluation.example: got 99")
    status, _, err, _, _ = sweep(*launcher, secret, f"hydra.sweep.dir={folder}-secret")
    written = "".join(path.read_text() for path in Path(f"{folder}-secret").rglob("*.yaml"))
    written += "".join(str(path) for path in Path(f"{folder}-secret").rglob("*"))
    assert status == 1 and "hunter2000" not in written + err


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], [*JOBLIB, "hydra.sweeper.n_jobs=2"]], ids=["row", "joblib"])
def test_a_study_minimises_what_train_returns(sweep, launcher):
    "A value that no training takes is a failed trial and no end."
    ranges = ["optimizer.learning_rate=choice(0.003,-1.0)", "optimizer.warmup_steps=range(0,3)"]
    words = ["hydra/sweeper=study", "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler.seed=1", *launcher, *ranges]
    status, _, err, metrics, folder = sweep(*words)
    best = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    errors = [entry["best"]["valid"]["mse_rel"] for entry in metrics]
    assert status == 0 and 1 <= len(metrics) <= 4, err
    assert best["best_value"] == pytest.approx(min(errors), rel=1e-12)


@pytest.mark.slow
def test_a_study_in_a_file_goes_on(sweep, tmp_path):
    words = ["hydra/sweeper=study", f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db", "hydra.sweeper.n_trials=1"]
    for number in range(2):
        words[1:1] = [f"hydra.sweep.dir={tmp_path}/sweep{number}"]
        status, _, err, _, _ = sweep(*words, "optimizer.learning_rate=tag(log,interval(1e-4,1e-2))")
        assert status == 0, err
    study = import_module("optuna").load_study("train", f"sqlite:///{tmp_path}/study.db")
    assert len(study.trials) == 2


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_sweep_that_is_told_to_end_ends_its_jobs(data_dir, tmp_path, number, status):
    words = [*SMALL, f"data_dir={data_dir}", f"hydra.sweep.dir={tmp_path}/sweep", "trainer.max_steps=1000000"]
    command = [sys.executable, ROOT / "scripts/train.py", "-m", *words, "hydra/launcher=joblib", "seed=1,2"]
    with open(tmp_path / "err", "w") as err:
        child = subprocess.Popen(command, cwd=tmp_path, stdout=err, stderr=err, stdin=subprocess.DEVNULL)
    until, logs = time.monotonic() + 120, []
    while len(logs) < 1 or "step" not in logs[0].read_text():
        assert time.monotonic() < until and child.poll() is None, (tmp_path / "err").read_text()
        time.sleep(0.2)
        logs = sorted(tmp_path.glob("sweep/*/train.log"))
    child.send_signal(number)
    assert child.wait(60) == status, (tmp_path / "err").read_text()
    time.sleep(1)
    mark = str(tmp_path).encode()
    alive = [p for p in Path("/proc").glob("[0-9]*/environ") if p.parent.name != str(os.getpid()) and _holds(p, mark)]
    assert not alive, "jobs go on"


def _holds(path, mark):
    "Whether a process was started in a folder, by the PWD in its environment."
    try:
        return mark in path.read_bytes()
    except OSError:
        return False


@pytest.mark.slow
def test_submitit_runs_a_sweep_on_this_machine(sweep):
    "The way to SLURM without SLURM: each job in a process that submitit starts from files."
    status, _, err, metrics, folder = sweep("hydra/launcher=submitit_local", "seed=1,2", timeout=600)
    assert status == 0, err
    assert [entry["seed"] for entry in metrics] == [1, 2] and (folder / ".submitit").is_dir()


# What needs no job

def composed(*arguments):
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", list(arguments), return_hydra_config=True).hydra


@pytest.mark.parametrize("name", ["joblib", "submitit_slurm", "submitit_local", "slurm"])
def test_every_launcher_composes(name):
    launcher = composed(f"hydra/launcher={name}").launcher
    assert "Launcher" in launcher._target_
    OmegaConf.to_container(launcher, resolve=False)


def test_the_job_of_slurm_is_what_is_asked_for():
    "The script that submitit would hand to sbatch, without a cluster to take it."
    from submitit.slurm.slurm import _make_sbatch_string

    words = composed("hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.tasks_per_node=4").launcher
    words = OmegaConf.to_container(words, resolve=False)
    names = ("nodes", "gpus_per_node", "cpus_per_task", "partition")
    options = {name: words[name] for name in names} | {"ntasks_per_node": words["tasks_per_node"]}
    script = _make_sbatch_string(command="train", folder="logs", time=words["timeout_min"], mem="32GB", **options)
    for line in ("time=240", "nodes=1", "ntasks-per-node=4", "gpus-per-node=1", "cpus-per-task=8", "partition=gpu"):
        assert f"#SBATCH --{line}\n" in script, script


@pytest.mark.parametrize("name", ["optuna", "study"])
def test_every_sweeper_composes(name):
    sweeper = composed(f"hydra/sweeper={name}").sweeper
    assert sweeper._target_.endswith("OptunaSweeper") and sweeper.sampler._target_.endswith("TPESampler")
    assert OmegaConf.to_container(sweeper, enum_to_str=True)["direction"] == "minimize"


@pytest.mark.parametrize("n_jobs", [1, 2, 4, -1, 1000])
def test_jobs_at_once_share_the_cores(n_jobs, monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert threads_of_a_job(n_jobs) == {1: "8", 2: "4", 4: "2", -1: "1", 1000: "1"}[n_jobs]
    monkeypatch.setenv("NPROC", "3")
    assert threads_of_a_job(n_jobs) == "3"


@pytest.mark.parametrize("given", [None, "mine"])
def test_the_runs_of_a_sweep_are_one_group(call, data_dir, tmp_path, monkeypatch, undrawn, given):
    "Named by the folder of the sweep, or as the user says; a run alone has none."
    groups = []

    class Logger:
        def __init__(self, folder, group=None, **options):
            groups.append(group)
            self.log = self.figures = self.audio = lambda values, step, **kwargs: None
            self.summary = self.finish = lambda *args: None

    monkeypatch.setattr(import_module("physmodjax.cli.train"), "WandbLogger", Logger)
    words = [*SMALL, "logger=wandb", f"data_dir={data_dir}", "trainer.max_steps=1"]
    words += [f"logger.group={given}"] if given else []
    status, out, err = call("train", "-m", *words, f"hydra.sweep.dir={tmp_path}/tonight", "seed=1,2")
    assert status == 0, err
    assert groups == [given or "tonight"] * 2
    if given is None:
        assert call("train", *words)[0] == 0 and groups[2:] == [None]


def test_a_launcher_that_is_not_there_says_how_to_get_one(refused):
    line = refused("train", "-m", "hydra/launcher=jobli", "seed=1,2")
    assert "did you mean joblib?" in line and '[cluster]' in line


def test_metrics_and_report_say_with_what_a_run_was_made(run_dir):
    made = json.loads((run_dir / "metrics.json").read_text())["made_with"]
    report = (run_dir / "report.html").read_text()
    assert set(made) >= {"date", "versions", "commit", "command", "dataset"}
    for word in (made["date"], made["versions"]["jax"], made["dataset"]["manifest_sha256"], made["commit"] or ""):
        assert word in report


@pytest.mark.parametrize("name", ["slurm", "submitit_slurm"])
def test_a_sweep_for_slurm_without_slurm_is_refused(refused, monkeypatch, tmp_path, name):
    monkeypatch.setenv("PATH", str(tmp_path))
    line = refused("train", "-m", f"hydra/launcher={name}", f"hydra.sweep.dir={tmp_path}/sweep", "seed=1,2")
    assert "got no command srun, expected a machine with SLURM" in line and not (tmp_path / "sweep").exists()
