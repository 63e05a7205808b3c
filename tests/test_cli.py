"The four commands: every configuration, every mistake, every interruption."
import dataclasses
import json
import os
import warnings
from importlib import import_module

import hydra
import numpy as np
import pytest
from commands import GRU, QUICK, compose, leftovers, shrink
from omegaconf import OmegaConf

from physmodjax.cli.config import CONF, plain
from physmodjax.cli.evaluate import evaluate
from physmodjax.cli.render import make_sounds
from physmodjax.cli.train import train
from physmodjax.core.sound import read_sound
from physmodjax.experiments import TrainedModel
from physmodjax.experiments.build import build_model
from physmodjax.experiments.data import build_spec, named_spec, read_group
from physmodjax.objects import warn_if_aliased
from physmodjax.training.losses import weighted_loss

OPTIONS = sorted((path.parent.name, path.stem) for path in CONF.glob("*/*.yaml"))
MODELS = [name for group, name in OPTIONS if group == "model" and name != "own"]
DATASETS = [name for group, name in OPTIONS if group == "dataset" and name != "measured"]


# Configurations

def rows_of_options():
    "Options of all groups side by side, each of them in one row at least; the shorter groups repeat."
    groups = {group: [name for g, name in OPTIONS if g == group] for group, _ in OPTIONS if group != "experiment"}
    longest = max(map(len, groups.values()))
    rows = [{group: names[i % len(names)] for group, names in groups.items()} for i in range(longest)]
    return rows + [{"experiment": name} for group, name in OPTIONS if group == "experiment"]


@pytest.mark.parametrize("row", rows_of_options(), ids=lambda row: " ".join(row.values()))
def test_every_option_composes(row):
    arguments = [f"{group}={name}" for group, name in row.items()]
    try:
        config = compose("train", *arguments)
    except hydra.errors.ConfigCompositionException:
        config = compose("train", *(f"+{argument}" for argument in arguments))
    OmegaConf.to_container(config, resolve=True)
    weighted_loss(**plain(config.loss))
    grid = (21,) if row.get("dataset") == "measured" else build_spec(plain(config.dataset)).scene.grid
    if config.model.name != "own":
        shrink(config.model.network)
        build_model(plain(config.model.network), grid=grid, channels=1, context=config.model.context)


@pytest.mark.parametrize("name", ["train", "generate", "evaluate", "render"])
def test_every_command_composes(name):
    OmegaConf.to_container(compose(name, *(["run=x"] if name in ("evaluate", "render") else [])), resolve=True)


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_can_be_made(name):
    "Its name is that of its file, its grid carries its modes, and only the sets published so alias."
    spec = named_spec(read_group("dataset", name))
    scene = spec.scene
    assert spec.name == name
    shape, _ = scene.draw(0)
    assert np.isfinite(scene.system.to_modal(shape)).all()
    highest = {quantity: high for quantity, _, high in scene.varied}  # of those varied, tension moves the modes upwards
    system = dataclasses.replace(scene.object, **highest).modal(scene.n_modes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        aliased = warn_if_aliased(system, scene.rate).tolist()
    assert aliased == ([9, 10] if name.endswith("4k") else [])
    assert len(caught) == bool(aliased)


def test_published_sets():
    for kind in ("linear", "nonlinear"):
        for shape in ("gaussian", "noise"):
            for short, rate, n_modes in (("4k", 4000.0, 10), ("16k", 16000.0, 25)):
                spec = build_spec(read_group("dataset", f"string_{kind}_{shape}_{short}"))
                s = spec.scene
                assert (s.rate, s.n_modes, s.n_points, s.n_steps) == (rate, n_modes, 101, 4000)
                assert (s.nonlinear, s.excitation, spec.n_trajectories) == (kind == "nonlinear", shape, 1000)
                assert spec.splits == (0.8, 0.1, 0.1) and s.amplitude == (0.001, 0.01) and s.release == "pluck"
            spec = build_spec(read_group("dataset", f"membrane_{kind}_{shape}_16k"))
            s = spec.scene
            assert (s.rate, s.n_modes, s.n_points) == (16000.0, (15, 15), (41, 37))
            assert (s.n_steps, spec.n_trajectories, s.nonlinear) == (8000, 100, kind == "nonlinear")


QUICKLY = {"lru", "gru", "dmd"}  # the others are as many times the same seconds


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICKLY else pytest.mark.slow) for n in MODELS])
def test_every_model_runs_a_step(name, trained, tmp_path):
    "Errors, report, pictures, sounds and a checkpoint are there, which can be evaluated and played."
    folder = trained(name)
    stored = json.loads((folder / "metrics.json").read_text())
    steps = 0 if read_group("model", name)["initialise"] == "closed_form" else 1
    assert stored["steps"] == steps == TrainedModel.open(folder).step and set(stored["best"]) == {"valid", "test"}
    assert np.isfinite(stored["final"]["test"]["mse_rel"]) and stored["frames_per_second"] >= 0
    assert "<html" in (folder / "report.html").read_text()
    media = {path.name for path in (folder / "media").iterdir()}
    assert {"waterfall.png", "error_over_time.png", "model.wav", "true.wav"} <= media
    result = evaluate(compose("evaluate", f"run={folder}", "n_steps=12"), tmp_path / "evaluation")
    assert result["model"] == name and np.isfinite(result["mse_rel"])
    played = make_sounds(compose("render", f"run={folder}", "pluck.width=0.2", "duration=0.01"), tmp_path)
    assert all(path.exists() for path in played.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_runs_on_a_membrane(name, trained):
    folder = trained(name, "tiny_membrane")
    assert json.loads((folder / "metrics.json").read_text())["steps"] in (0, 1)
    assert (folder / "media" / "snapshots.png").exists()


def test_a_closed_form_is_exact_on_a_linear_string(data_dir, tmp_path, undrawn):
    "No optimiser step, no loss of accuracy but that of float32; fitting again gives the same numbers."
    arguments = ["model=dmd", "dataset=tiny_linear", "dataset.n_trajectories=20", "dataset.n_steps=80"]
    arguments += [*QUICK, "audio.enabled=false", f"data_dir={data_dir}"]
    metrics = train(compose("train", *arguments), tmp_path / "run").metrics
    assert metrics["steps"] == 0 and metrics["best"] == metrics["final"]
    assert metrics["best"]["test"]["mse_rel"] < 1e-8
    assert train(compose("train", *arguments), tmp_path / "again").metrics["best"] == metrics["best"]


def test_same_seed_same_numbers(data_dir, tmp_path, undrawn):
    results = []
    for number, seed in enumerate((5, 5, 6)):
        folder = tmp_path / str(number)
        folder.mkdir()
        arguments = ["dataset=tiny", *QUICK, *GRU, "trainer.max_steps=4", "audio.enabled=false", f"seed={seed}"]
        train(compose("train", *arguments, f"data_dir={data_dir}"), folder)
        metrics = json.loads((folder / "metrics.json").read_text())
        results.append((metrics["best"], metrics["final"], metrics["best_step"]))
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_steps_told_to_the_logger_do_not_go_back(data_dir, tmp_path, undrawn, monkeypatch):
    "Pictures are those of the best parameters, which may be older than the last numbers logged."
    told = []

    class Logger:
        def __init__(self, *args, **kwargs):
            self.log = self.figures = self.audio = lambda values, step, **kwargs: told.append(step)
            self.summary = self.finish = lambda *args: None

    monkeypatch.setattr(import_module("physmodjax.cli.train"), "WandbLogger", Logger)
    arguments = ["dataset=tiny", *QUICK[1:], *GRU, "trainer.max_steps=4", "trainer.eval_every=1"]
    astray = ["optimizer.learning_rate=10", "optimizer.schedule=constant", f"data_dir={data_dir}"]
    metrics = train(compose("train", *arguments, *astray), tmp_path / "run").metrics
    assert metrics["best_step"] < 4 and told == sorted(told) and told[-1] == 4


# Mistakes

MISTAKES = {
    "unknown model": (["model=lur"], "did you mean lru?"),
    "unknown data set": (["dataset=tinny"], "did you mean tiny?"),
    "unknown key": (["trainer.max_step=3"], "trainer.max_step"),
    "unknown option of a model": (["model.network.n_layer=3"], "did you mean n_layers?"),
    "foreign class": (["model.network._target_=os.system"], "got os.system"),
    "text for a number": (["trainer.max_steps=many"], "trainer.max_steps: got 'many'"),
    "text for the rate": (["dataset.rate=fast"], "rate: got 'fast'"),
    "text for a density": (["dataset.parameters.rho=heavy"], "rho: got 'heavy'"),
    "text for a learning rate": (["optimizer.learning_rate=fast"], "learning_rate"),
    "text for a range": (["dataset.amplitude=[soft,hard]"], "amplitude: got ('soft', 'hard')"),
    "one number for a range": (["dataset.position=0.5"], "position: got 0.5"),
    "text for fractions": (["dataset.splits=[most,some,few]"], "splits: got ('most', 'some', 'few')"),
    "negative steps": (["dataset.n_steps=-5"], "n_steps: got -5"),
    "negative length": (["dataset.parameters.length=-0.65"], "length: got -0.65"),
    "negative density": (["dataset.parameters.rho=-1140"], "rho: got -1140"),
    "unknown quantity": (["dataset.parameters.tension=60"], "word for a nylon_string: got 'tension'"),
    "too many modes": (["dataset.n_modes=30", "dataset.rate=32000"], "got 30, expected at most 19"),
    "too large a batch": (["trainer.batch_size=1000"], "batch_size: got 1000"),
    "no step": (["trainer.max_steps=0"], "trainer.max_steps: got 0"),
    "negative seed": (["seed=-1"], "seed: got -1"),
    "unknown field": (["model.fields=[pressure]"], "got 'pressure'"),
    "no context frame": (["model.context=0"], "context: got 0"),
    "a context as long as the data": (["model.context=40"], "model.context: got 40, expected fewer than the 40 frames"),
    "a context beyond them": (["model=dmd", "model.context=100000"], "expected fewer than the 40 frames"),
    "a context as long as a window": (
        ["model.context=20", "trainer.window_length=20"],
        "model.context: got 20, expected fewer than the 20 frames of a training example; lower it or raise",
    ),
    "unknown loss": (["loss.weights.mes=1"], "mes"),
    "no such example": (["evaluation.example=9"], "evaluation.example: got 9"),
    "pickup off the string": (["audio.pickup=2"], "audio.pickup: got 2"),
    "negative duration": (["audio.duration=-1"], "audio.duration: got -1"),
    "no closed form": (["model=gru", "model.initialise=closed_form"], "got closed_form, expected random or data"),
    "a start only": (
        ["model=fno", "model.network.n_layers=1", "model.initialise=closed_form"],
        "got closed_form, expected random or data",
    ),
    "no start from data": (["model=gru", "model.initialise=data"], "got data for gru, expected random"),
    "nothing to resume": (["resume=nowhere"], "resume: got nowhere"),
    "two data sets": (["dataset=tiny", "dataset.path=film.npz"], "got dataset=tiny and dataset.path="),
    "a word no string has": (["object.colour=red"], "word for a nylon_string: got 'colour'"),
    "an unknown preset": (["object.preset=nylon"], "did you mean nylon_string?"),
    "a note that is none": (["object.note=H9"], "note: got 'H9'"),
    "a membrane where a string was": (["object=mylar_membrane"], "n_points: got 21"),
    "text for a truth value": (["dataset.nonlinear=maybe"], "nonlinear: got 'maybe'"),
    "an average that is neither": (["trainer.averaged=maybe"], "trainer.averaged: got 'maybe'"),
    "a window of text": (["trainer.window_length=abc"], "trainer.window_length: got 'abc'"),
    "a window longer than the data": (["trainer.window_length=900"], "window_length"),
    "a sound at an absurd rate": (["audio.audio_rate=100000000"], "audio.audio_rate: got 100000000"),
    "an absurd number of trajectories": (["dataset.n_trajectories=1000000000000"], "got"),
    "an absurd number of steps": (["dataset.n_steps=1000000000000"], "got"),
    "a seed beyond 32 bits": (["seed=4294967296"], "seed: got 4294967296"),
    "an unknown optimizer": (["optimizer.name=adamm"], "did you mean adamw?"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(case, refused, data_dir, tmp_path):
    arguments, message = MISTAKES[case]
    chosen = ["dataset=tiny"] if "data set" not in case else []
    sizes = [a for a in GRU if a.split("=")[0] not in "".join(arguments)]
    quick = [a for a in QUICK if a.split("=")[0] not in "".join(arguments)]
    line = refused("train", *chosen, *quick, *sizes, *arguments, f"data_dir={data_dir}")
    assert message in line, line
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert not leftovers(data_dir)


def test_data_need_a_folder(refused):
    assert "data_dir: got None" in refused("train", "dataset=tiny", *QUICK, *GRU, "data_dir=null")


def test_an_aliasing_rate_is_a_warning(call, tmp_path, undrawn):
    "It names the modes on stderr and in the log, and the run goes on."
    steps = ["dataset.rate=2000", "trainer.max_steps=1", "audio.enabled=false", "data_dir=data"]
    status, out, err = call("train", "dataset=tiny", *QUICK, *GRU, *steps)
    assert status == 0, err
    message = "rate 2000 Hz aliases mode 5 (1239 Hz), 6 (1490 Hz): raise the rate or lower n_modes"
    assert err == [f"WARNING: {message}"]
    assert message in (tmp_path / "out" / "train.log").read_text()
    assert (tmp_path / "out" / "metrics.json").exists() and "report.html" in out


# Data

# Disks

# Evaluate and render

def test_evaluate_gives_the_numbers_of_the_training(call, run_dir, tmp_path):
    status, out, err = call("evaluate", f"run={run_dir}")
    assert (status, err) == (0, [])
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    trained = json.loads((run_dir / "metrics.json").read_text())["best"]["test"]
    for name in ("mse_rel", "mae_rel"):
        assert result[name] == pytest.approx(trained[name], rel=1e-5)
    assert f"mse_rel {result['mse_rel']:.4g}" in out
    assert (tmp_path / "out" / "media" / "waterfall.png").stat().st_size > 0


@pytest.mark.parametrize("n_steps", [10, 39, 90])
def test_evaluate_over_any_horizon(n_steps, run_dir, tmp_path, undrawn):
    "Shorter than the set, as long as it, and longer, where the truth is simulated on."
    result = evaluate(compose("evaluate", f"run={run_dir}", f"n_steps={n_steps}"), tmp_path / "evaluation")
    assert (result["n_steps"], result["n_trajectories"]) == (n_steps, 2)
    assert np.isfinite(result["mse_rel"])


def test_evaluate_on_another_set(run_dir, tmp_path, data_dir, undrawn):
    arguments = [f"run={run_dir}", "dataset=tiny_linear", "split=valid", f"data_dir={data_dir}"]
    result = evaluate(compose("evaluate", *arguments), tmp_path / "evaluation")
    assert (result["dataset"], result["split"]) == ("tiny_linear", "valid")


@pytest.mark.parametrize(("arguments", "message"), [
    (["run=nowhere"], "nowhere"),
    ([], "run"),
    (["dataset=string"], "grid of the data set string: got (51,), expected (21,)"),
    (["dataset=tiny_membrane"], "got (11, 10), expected (21,)"),
    (["dataset=tiny", "dataset.rate=9000"], "got 9000 Hz, expected 8000 Hz"),
    (["n_steps=-1"], "n_steps: got -1"),
    (["n_steps=far"], "n_steps: got 'far'"),
    (["split=tset"], "did you mean test?"),
    (["checkpoint=7"], "checkpoint 7"),
    (["batch_size=0"], "batch_size: got 0"),
])  # fmt: skip
def test_evaluate_refuses(arguments, message, refused, run_dir, tmp_path):
    own = [] if not arguments or arguments[0].startswith("run=") else [f"run={run_dir}"]
    assert message in refused("evaluate", *own, *arguments)
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_render_writes_both_sounds(call, run_dir, tmp_path):
    arguments = ["pluck.position=0.3", "pluck.width=0.15", "pluck.amplitude=0.05", "pickup=0.8", "duration=0.2"]
    status, out, err = call("render", f"run={run_dir}", *arguments, "out=sounds/pluck.wav")
    assert status == 0, err
    assert err == ["WARNING: outside the range of the training: amplitude 0.05 (0.001 to 0.01)"]
    for name in ("pluck.wav", "pluck_true.wav"):
        sound, rate = read_sound(tmp_path / "sounds" / name)
        assert (len(sound), rate) == (round(0.2 * 44100), 44100) and np.abs(sound).max() > 0.5
        assert name in out


RENDER_MISTAKES = [
    (["duration=-1"], "duration: got -1"),
    (["duration=long"], "duration: got 'long'"),
    (["pluck.position=1.2"], "pluck.position: got 1.2"),
    (["pluck.position=[0.2,0.3]"], "expected a number from 0 to 1"),
    (["pickup=-0.1"], "pickup: got -0.1"),
    (["pluck.amplitude=0"], "pluck.amplitude: got 0"),
    (["out=pluck.mp3"], "expected one of .wav, .flac, .ogg"),
    (["out=file/pluck.wav"], "file"),
]


@pytest.mark.parametrize(("arguments", "message"), RENDER_MISTAKES, ids=[case[0][0] for case in RENDER_MISTAKES])
def test_render_refuses(arguments, message, refused, run_dir, tmp_path):
    (tmp_path / "file").write_text("")
    assert message in refused("render", f"run={run_dir}", "pluck.width=0.2", "duration=0.05", *arguments)
    assert not list(tmp_path.rglob("*.wav"))


@pytest.mark.slow
def test_a_membrane_is_played_at_two_positions(data_dir, tmp_path, undrawn):
    arguments = ["dataset=tiny_membrane", *QUICK, *GRU, "trainer.max_steps=1", "audio.enabled=false"]
    train(compose("train", *arguments, f"data_dir={data_dir}"), tmp_path / "run")
    choices = [f"run={tmp_path / 'run'}", "duration=0.05", "pluck.width=0.3"]
    places = ["pluck.position=[0.4,0.6]", "pickup=[0.2,0.3]"]
    assert all(path.exists() for path in make_sounds(compose("render", *choices, *places), tmp_path / "a").values())
    for one in places:
        with pytest.raises(ValueError, match="expected two numbers"):
            make_sounds(compose("render", *choices, one), tmp_path / "b")


# Programs of their own

def test_scripts_work_from_anywhere(run_python, root, data_dir, tmp_path):
    "Online without a key and without a terminal, W&B warns and the run goes on; what it leaves can be evaluated."
    steps = ["trainer.max_steps=2", "logger=wandb", "audio.enabled=false", f"data_dir={data_dir}", "hydra.run.dir=run"]
    arguments = [a for a in QUICK if "logger" not in a] + steps
    key = {"WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "WANDB_MODE": "online"}
    done = run_python("scripts/train.py", "dataset=tiny", *GRU, *arguments, **key, WANDB_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "W&B" in done.stderr and "Traceback" not in done.stderr
    assert "W&B" in (tmp_path / "run" / "train.log").read_text()
    expected = {"metrics.json", "report.html", "media", "checkpoints", "wandb", ".hydra"}
    assert expected <= set(os.listdir(tmp_path / "run"))
    # the other three one after another in one interpreter, whose start takes longest
    runs = [["evaluate", "run=run", "n_steps=10"], ["generate", "dataset=tiny", f"data_dir={data_dir}", "--verify"],
            ["render", "run=run", "duration=-1"]]  # fmt: skip
    code = f"""
import os, runpy, sys
for name, *arguments in {runs!r}:
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = [name, *arguments], "0"  # a command leaves it at 1
    runpy.run_path(f"{root / 'scripts'}/{{name}}.py", run_name="__main__")
"""
    done = run_python("-c", code)
    assert "mse_rel" in done.stdout and "3 files verified" in done.stdout, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert (done.returncode, last) == (1, "error: duration: got -1, expected a finite number above 0 and at most 3600")


