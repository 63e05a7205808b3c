"A folder is one run: who claims it has it, its neighbours are left alone, and it means the same from anywhere."
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import hydra
import numpy as np
import pytest
from commands import GRU, QUICK, compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from recordings import bytes_of

from physmodjax.cli.config import CONF, job_label
from physmodjax.cli.render import make_sounds
from physmodjax.cli.train import train
from physmodjax.experiments.record import Record

STEP = ["dataset=tiny", *QUICK, *GRU, "trainer.max_steps=1", "audio.enabled=false"]


# A used folder

WRITTEN = ["run.json", "metrics.json", "evaluation.json", "report.html", "checkpoints/3", "media/model.wav"]
NAMED = ["hydra.run.dir={}", "hydra.run.dir='{}'", 'hydra.run.dir="{}"', "++hydra.run.dir={}", "hydra.run.dir={}/"]
COMMANDS = {
    "train": STEP, "generate": ["dataset=tiny", "data_dir=data"], "evaluate": ["run=somewhere"],
    "render": ["run=somewhere"],
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("written", WRITTEN)
def test_a_folder_of_another_run_is_refused_before_anything_is_written(name, written, refused, tmp_path):
    path = tmp_path / "used" / written
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    before = bytes_of(tmp_path / "used")
    option = NAMED[WRITTEN.index(written) % len(NAMED)].format(tmp_path / "used")
    line = refused(name, *COMMANDS[name], option)
    assert "of another run, expected no run in it; choose another folder with hydra.run.dir=" in line
    assert bytes_of(tmp_path / "used") == before and not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["train", "generate"])
def test_a_folder_of_another_sweep_or_run_is_not_swept_into(name, refused, tmp_path):
    for file in ("multirun.yaml", "run.json"):
        folder = tmp_path / file.split(".")[0]
        folder.mkdir()
        (folder / file).write_text("{}")
        line = refused(name, "-m", *COMMANDS[name], "dataset.seed=1,2", f"hydra.sweep.dir={folder}")
        assert file in line and "hydra.sweep.dir=" in line and os.listdir(folder) == [file]


def test_evaluate_and_render_claim_their_folders(call, refused, run_dir, tmp_path, undrawn):
    choices = {"evaluate": [], "render": ["pluck.width=0.2", "duration=0.01"]}
    for name, arguments in choices.items():
        folder = tmp_path / name
        assert call(name, f"run={run_dir}", *arguments, folder=folder)[0] == 0
        before = bytes_of(folder)
        assert "run.json" in before
        assert "of another run" in refused(name, f"run={run_dir}", *arguments, folder=folder)
        assert bytes_of(folder) == before


@pytest.mark.parametrize("out", ["pluck.wav", "media/model.wav", "../run/pluck.ogg"])
def test_sounds_are_not_written_over_those_of_a_run(out, run_dir, tmp_path):
    (tmp_path / "run" / "media").mkdir(parents=True)
    (tmp_path / "run" / "metrics.json").write_text("{}")
    config = compose("render", f"run={run_dir}", f"out={tmp_path / 'run' / out}", "duration=0.01", "pluck.width=0.2")
    with pytest.raises(ValueError, match="of another run.*out="):
        make_sounds(config, tmp_path / "new")


@pytest.mark.slow
def test_what_was_begun_without_a_claim_can_be_begun_again(call, refused, data_dir, tmp_path, undrawn):
    "A mistake leaves nothing that stands in the way of the same command without it."
    folder = tmp_path / "run"
    assert "max_steps" in refused("train", *STEP, "trainer.max_steps=0", f"data_dir={data_dir}", folder=folder)
    assert call("train", *STEP, f"data_dir={data_dir}", folder=folder)[0] == 0


# Two at once


@pytest.mark.parametrize("n", [2, 16])
def test_of_all_who_claim_a_folder_at_once_one_has_it(tmp_path, n):
    barrier, won, lost = threading.Barrier(n), [], []

    def claim(number):
        barrier.wait()
        try:
            won.append(Record(tmp_path / "run").claim(number=number)["number"])
        except ValueError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and len(lost) == n - 1 and all("run.json of another run" in message for message in lost)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["number"] == won[0]


HOLD = """
import sys
from physmodjax.experiments.record import Record
with Record(sys.argv[1]).held():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_in_work_is_not_resumed_by_another_process(refused, call, run_dir, tmp_path, undrawn):
    "The folder is free again as soon as its holder ends, however it ends."
    before = bytes_of(run_dir)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        line = refused("train", f"resume={run_dir}", "trainer.max_steps=3")
        assert "got a run in work" in line and bytes_of(run_dir) == before
    finally:
        holder.kill()
        holder.communicate()
    with Record(run_dir).held():
        pass


@pytest.mark.parametrize("name", ["train", "generate", "evaluate", "render"])
def test_folders_differ_by_the_microsecond(name):
    config = hydra_of(name)
    assert re.fullmatch(rf"outputs/\d{{4}}-\d\d-\d\d/\d\d-\d\d-\d\d-\d{{6}}_{name}", config.sweep.dir)
    assert "%f" in OmegaConf.to_container(config, resolve=False)["run"]["dir"]


# Sweeps


def hydra_of(name):
    "Hydra's own configuration of a command."
    GlobalHydra.instance().clear()
    arguments = ["run=somewhere"] if name in ("evaluate", "render") else []
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(name, arguments, return_hydra_config=True).hydra
        return config


@pytest.mark.parametrize("name", ["train", "generate", "evaluate", "render"])
def test_folder_of_a_sweep_is_known_before_its_jobs(name):
    "A launcher reads it when no job is configured yet."
    folder = hydra_of(name).sweep.dir
    assert folder.startswith("outputs/") and folder.endswith(f"_{name}")


LABELS = [
    "seed-1", "a/b-c/d", "../../etc", "/", "", ".", "..", "x" * 5000, "name-" + "ü" * 300, "path-C:\\data\\x",
    "model.network._target_-my.Model_allow-[my]", "dataset.path-/data/film.npz", " ", "~", "-rf", "a,b=c", "日本" * 200,
    "a\nb", "a\0b", "\U00020000" * 100,
]  # fmt: skip


@pytest.mark.parametrize("label", LABELS, ids=range(len(LABELS)))
def test_every_label_of_a_job_is_a_folder(label, tmp_path):
    "One folder, whatever its name is made of; the number of the job stands before it."
    folder = tmp_path / f"0_{job_label(label)}"
    folder.mkdir()
    assert folder.parent == tmp_path and [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert not re.search(r"[/\\\s]", folder.name)


@pytest.mark.slow
def test_jobs_of_a_sweep_lie_side_by_side(call, data_dir, tmp_path, undrawn):
    "Options whose values hold slashes, and names that are longer than a file system takes."
    own = [f"dataset.parameters.{name}={value}" for name, value in (("E", "5.1e9"), ("d1", 8e-5), ("d3", 1.3e-5))]
    arguments = [*STEP, *own, "seed=1,2", f"data_dir={data_dir},{data_dir}/", "hydra.sweep.dir=sweep"]
    assert call("train", "-m", *arguments)[0] == 0
    folders = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert [folder.name.partition("_")[0] for folder in folders] == ["0", "1", "2", "3"]
    assert all((folder / "metrics.json").exists() for folder in folders)


# Paths


@pytest.fixture
def moved(data_dir, tmp_path, monkeypatch, undrawn):
    "Runs of relative paths, trained in one folder, looked at from another."
    (tmp_path / "here" / "sets").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    os.symlink(data_dir / "tiny", tmp_path / "here" / "sets" / "tiny")
    film = np.random.default_rng(0).normal(size=(10, 30, 7)).astype(np.float32)
    np.savez(tmp_path / "here" / "film.npz", displacement=film, rate=2000.0)
    monkeypatch.chdir(tmp_path / "here")
    train(compose("train", *STEP, "data_dir=sets"), Path("simulated"))
    train(compose("train", *STEP[1:], "dataset=measured", "dataset.path=film.npz"), Path("measured"))
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


def test_relative_paths_of_a_run_mean_the_same_from_anywhere(moved, call, monkeypatch):
    monkeypatch.chdir(moved)  # `call` has its own
    for kind in ("simulated", "measured"):
        for number, (name, arguments) in enumerate((
            ("evaluate", [f"run=../here/{kind}"]),
            ("render", [f"run=../here/{kind}", "duration=0.003", *["pluck.width=0.2"] * (kind == "simulated")]),
            ("train", [f"resume=../here/{kind}", "trainer.max_steps=2"]),
        )):  # fmt: skip
            status, _, err = call(name, *arguments, folder=moved / f"{kind}{number}")
            assert status == 0, err
    assert not (moved / "data").exists() and not (moved / "sets").exists()
