"Files from strangers are data: they run no code, read no secret and choose no place to write."
import json
import shutil
from pathlib import Path

import pytest
from commands import GRU, QUICK, compose

from physmodjax.cli.config import leave_environment_out, plain
from physmodjax.datasets.generate import DatasetSpec
from physmodjax.experiments.build import build_model, instantiate, resolve_target
from physmodjax.training.checkpoint import Checkpoints, _sha256

OURS = [
    "physmodjax.models.ssm.SequenceModel", "physmodjax.models.ssm.LRU", "physmodjax.models.mlp.MLP",
    "physmodjax.dynamics.LRUDynamics", "physmodjax.dynamics.lru.LRUDynamics", "physmodjax.models.rnn.RNNModel",
]  # fmt: skip

FOREIGN = [
    # walks from our modules into others
    "physmodjax.models.s5.np.load", "physmodjax.models.s5.np.lib.npyio.np.load", "physmodjax.models.ssm.jax.jit",
    "physmodjax.models.ssm.nn.Dense", "physmodjax.models.dmd.math.prod", "physmodjax.models.batching.inspect.os.system",
    "physmodjax.dynamics.rnn.nn.LayerNorm", "physmodjax.models.autoencoder.functools.partial",
    # what our modules only import
    "physmodjax.models.ssm.partial", "physmodjax.models.s5.np", "physmodjax.models.s5.S5Dynamics.__init__",
    "physmodjax.models.ssm.check_integer", "physmodjax.models.rnn.rollout", "physmodjax.models.ssm.Callable",
    # what every module and object carries
    "physmodjax.models.__loader__.set_data", "physmodjax.models.__loader__", "physmodjax.models.ssm.__builtins__",
    "physmodjax.models.__spec__.loader.set_data", "physmodjax.models.ssm.__dict__", "physmodjax.models.ssm.__class__",
    "physmodjax.models.ssm.LRU.setup", "physmodjax.models.ssm.LRU.__class__", "physmodjax.models.ssm._standardise",
    # other parts of the package, which touch files
    "physmodjax.datasets.generate.generate", "physmodjax.core.files.atomic_write", "physmodjax.cli.train.main",
    "physmodjax.experiments.build.resolve_target", "physmodjax.training.checkpoint.Checkpoints", "physmodjax.cli",
    # other packages
    "os.system", "builtins.eval", "builtins.exec", "subprocess.Popen", "numpy.load", "flax.linen.Dense", "pickle.loads",
    "hydra.utils.instantiate", "importlib.import_module", "eval", "os", "antigravity.fly", "this.s",
    # what is no name
    "", ".", "physmodjax", "physmodjax.models", "physmodjax.models.", ".physmodjax.models.ssm.LRU",
    "physmodjax.models.ssm..LRU", "physmodjax.models.ssm.LRU ", "physmodjax.models.ssm.LRU\n",
    "physmodjax.models/ssm.LRU", "physmodjax.modelsx.LRU", "physmodjax.models.nothing.LRU",
    "physmodjax.models.ssm.Nothing", "../models.ssm.LRU",
    None, 3, ["physmodjax.models.ssm.LRU"], {"a": 1}, b"physmodjax.models.ssm.LRU",
]  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_classes_of_this_package_can_be_named(name):
    assert resolve_target(name).__module__.startswith("physmodjax.")


@pytest.mark.parametrize("name", FOREIGN, ids=repr)
@pytest.mark.parametrize("depth", ["itself", "inside"])
def test_nothing_else_can_be_named(name, depth):
    "Neither as the model nor anywhere inside it; the refusal is one line."
    description = {"_target_": name, "allow_pickle": True, "file": "/dev/null"}
    if depth == "inside":
        description = {"_target_": "physmodjax.models.mlp.MLP", "hidden_channels": [4], "activation": [[description]]}
    with pytest.raises(ValueError, match="_target_: got") as refused:
        instantiate(description)
    assert "\n" not in str(refused.value)


def test_refused_names_import_nothing(run_python):
    "The module antigravity opens a browser when imported."
    code = """
import sys
from physmodjax.experiments.build import resolve_target
for name in ("antigravity.fly", "physmodjax.cli.train.main", "ftplib.FTP", "physmodjax.models.antigravity"):
    try:
        resolve_target(name)
    except ValueError as error:
        assert "_target_" in str(error)
    else:
        raise SystemExit(f"{name} was resolved")
print(sorted({"antigravity", "ftplib", "physmodjax.cli.train"} & set(sys.modules)))
"""
    done = run_python("-c", code)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    "A user's package: a model, and things that are not the package's own."
    (tmp_path / "mymodel.py").write_text(
        "import os\nimport flax.linen as nn\nfrom flax.linen import Dense\nfrom os import system\n"
        "from physmodjax.models.model import Model\n\n\n"
        "class MyModel(Model):\n    width: int = 8\n    def init_state(self, x0):\n        return x0[-1]\n"
        "    def step(self, state, forcing=None):\n        return state, state\n\n\n"
        "def build():\n    return MyModel()\n\n\nmodel = MyModel((5,))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "mymodel"


def test_a_package_of_ones_own_has_to_be_allowed(own_package):
    description = {"_target_": "mymodel.MyModel", "width": 4}
    with pytest.raises(ValueError, match="a class of your own is used after \"allow=\\[mymodel\\]\""):
        build_model(description, grid=(5,))
    with pytest.raises(ValueError, match="_target_: got mymodel.MyModel"):
        build_model(description, ["mymode", "mymodel.MyModel", "my", ""], grid=(5,))
    model = build_model(description, [own_package], grid=(5,), channels=1)
    assert (model.width, model.grid) == (4, (5,))


NOT_ITS_OWN = ["os.system", "system", "Dense", "nn.Dense", "build", "model", "MyModel.__init__", "os", "__loader__"]


@pytest.mark.parametrize("name", NOT_ITS_OWN)
def test_an_allowed_package_lends_only_its_own_classes(name, own_package):
    with pytest.raises(ValueError, match=r"_target_: got|allow: got"):
        instantiate({"_target_": f"mymodel.{name}"}, [own_package])


# Run directories

def forge(run: Path, place: Path, change) -> Path:
    "A copy of a run whose newest checkpoint holds changed metadata, with the right checksum."
    shutil.copytree(run, place)
    checkpoints = Checkpoints(place / "checkpoints", read_only=True)
    arrays, metadata = checkpoints.read("latest")
    change(metadata)
    metadata["sha256"] = _sha256(arrays, metadata)
    file = place / "checkpoints" / str(checkpoints.steps[-1]) / "metadata" / "metadata"
    file.write_text(json.dumps(metadata))
    return place


def target(name: str, **options):
    "A change that makes the network of a configuration name something else."

    def change(metadata):
        metadata["model"]["network"] = {"_target_": name, **options}

    return change


def inside(name: str, **options):
    "The same at an option of the network."

    def change(metadata):
        metadata["model"]["network"]["cell"] = {"_target_": name, **options}

    return change


def at(path: str, value):
    "A change of one entry of the configuration."

    def change(metadata):
        *groups, last = path.split(".")
        part = metadata
        for group in groups:
            part = part[group]
        part[last] = value

    return change


FORGED = {
    "a pickle": (target("physmodjax.models.s5.np.load", file="evil.npy", allow_pickle=True), "_target_: got"),
    "a loader": (target("physmodjax.models.__loader__.set_data", path="written", data="x"), "_target_: got"),
    "a pickle inside": (inside("physmodjax.models.s5.np.load", file="evil.npy", allow_pickle=True), "_target_: got"),
    "a command": (inside("os.system", command="touch written"), "_target_: got os.system"),
    "a function of ours that writes": (inside("physmodjax.core.files.atomic_write", path="written"), "_target_: got"),
    "a package that allows itself": (
        lambda metadata: (at("allow", ["mymodel"])(metadata), target("mymodel.MyModel")(metadata)),
        "_target_: got mymodel.MyModel",
    ),
    "an interpolation": (at("model.name", "${oc.env:SECRET}"), "got an interpolation, expected plain values"),
    "an interpolated key": (
        lambda metadata: metadata["model"].update({"${oc.env:SECRET}": 1}), "got an interpolation",
    ),
    "an interpolated list": (at("dataset.fields", [["${oc.env:SECRET}", "m"]]), "got an interpolation"),
    "a resolver": (at("dataset.name", "${oc.create:x}"), "got an interpolation"),
    "no sizes": (at("dataset.grid", None), "dataset.grid: got None, expected a list"),
    "a size of text": (at("model.context", "1; touch written"), "model.context: got '1; touch written'"),
    "an absurd grid": (at("dataset.grid", [10**12]), "dataset.grid[0]: got 1000000000000"),
    "a rate that is none": (at("dataset.rate", "fast"), "dataset.rate: got 'fast'"),
    "a scene of another kind": (at("dataset.scene.object", "os.system"), "object: got 'os.system'"),
    "no scene at all": (at("dataset.scene", [1, 2]), "dataset.scene: got [1, 2], expected keys and values"),
    "no model": (at("model", None), "got no model.name"),
}


@pytest.mark.parametrize("case", FORGED)
@pytest.mark.parametrize("name", ["evaluate", "render"])
def test_a_run_of_a_strangers_runs_no_code(case, name, run_dir, refused, own_package, tmp_path, monkeypatch):
    "One line, no file but those of the command itself, no secret in it."
    change, message = FORGED[case]
    monkeypatch.setenv("SECRET", "hunter2")
    run = forge(run_dir, tmp_path / "run", change)
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    line = refused(name, f"run={run}", *(["pluck.width=0.2", "duration=0.01"] if name == "render" else []))
    assert message in line and "hunter2" not in line
    after = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    assert {path for path in after - before if path.name != "__pycache__" and path.suffix != ".pyc"} == set()
    assert "hunter2" not in "".join(p.read_text(errors="replace") for p in (tmp_path / "out").rglob("*") if p.is_file())


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", ".hidden", "a/b"])
def test_a_run_does_not_choose_a_folder_by_its_name(name, run_dir, refused, tmp_path):
    run = forge(run_dir, tmp_path / "run", at("settings.data.dataset.name", name))
    assert "expected a plain name" in refused("evaluate", f"run={run}")
    assert not (tmp_path / "escaped").exists() and not (tmp_path / "data").exists()


def test_a_run_does_not_choose_where_data_go(run_dir, call, tmp_path):
    "The data set of a run is looked for where the run had it; where it is not, it is made in this user's folder."
    run = forge(run_dir, tmp_path / "run", at("settings.data.data_dir", str(tmp_path / "elsewhere")))
    status, _, err = call("evaluate", f"run={run}")
    assert status == 0, err
    assert not (tmp_path / "elsewhere").exists() and (tmp_path / "data" / "tiny" / "manifest.json").exists()


def test_stored_configurations_allow_nothing(run_dir):
    "What a user allowed on a command line goes for nobody who opens the run."
    metadata = Checkpoints(run_dir / "checkpoints", read_only=True).read("latest")[1]
    assert "allow" not in json.dumps(metadata) and Path(metadata["settings"]["data"]["data_dir"]).is_absolute()


PATHS = ["", ".", "..", "a/b", "../a", "/a", "a\\b", "a\n", "~", "a b", "${x}", "a\0", "-a", "x" * 300, 3, None]


@pytest.mark.parametrize("name", PATHS, ids=repr)
def test_names_of_data_sets_are_plain(name):
    with pytest.raises(ValueError, match="name: got"):
        DatasetSpec(name=name)


@pytest.mark.parametrize("name", ["string", "string-1a2b3c4d", "my_string.v2", "Saite+1", "弦"])
def test_plain_names_are_taken(name):
    assert DatasetSpec(name=name).name == name


def test_a_class_of_ones_own_is_refused_without_a_word_on_the_command_line(refused):
    message = refused("train", "dataset=tiny", *QUICK, "model.network._target_=mymodel.MyModel")
    assert "allow=[mymodel]" in message


# What comes from the environment

SAID = [
    "model.name=${oc.env:%s}", "logger.name=${oc.env:%s}", "logger.group=x-${oc.env:%s}", "logger.project=${oc.env:%s}",
    "logger.tags=[a,'${oc.env:%s}']",
]  # fmt: skip


@pytest.mark.training
@pytest.mark.parametrize("argument", [
    *SAID, "seed=${oc.env:%s}", "dataset.name=${oc.env:%s}", "audio.pickup='${oc.decode:${oc.env:%s}}'",
    "data_dir=${oc.env:%s}/x", "optimizer.schedule=${oc.env:%s,cosine}", "trainer.max_steps='${oc.env: %s }'",
])  # fmt: skip
@pytest.mark.parametrize("variable", ["SECRET", "MY_API_KEY", "DB_PASSWORD", "GITHUB_TOKEN"])
def test_a_variable_that_names_a_secret_is_refused(argument, variable, monkeypatch):
    monkeypatch.setenv(variable, "hunter2")
    config = compose("train", argument % variable)
    with pytest.raises(ValueError, match=rf"got \${{oc.env:{variable}}}, expected no variable of that name") as refused:
        leave_environment_out(config)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("argument", SAID)
def test_a_description_from_the_environment_is_not_written(argument, monkeypatch):
    monkeypatch.setenv("LAB", "hunter2")
    config = compose("train", argument % "LAB", "data_dir=${oc.env:LAB}")
    leave_environment_out(config)
    assert config.data_dir == "hunter2"
    assert "hunter2" not in json.dumps({name: plain(config[name]) for name in ("model", "logger")})


def test_secrets_of_the_environment_reach_no_file(call, data_dir, tmp_path, undrawn, monkeypatch):
    monkeypatch.setenv("LAB", "hunter2hunter2")
    said = [argument % "LAB" for argument in SAID]
    quick = [word for word in QUICK if not word.startswith("logger")]
    status, out, err = call("train", "dataset=tiny", f"data_dir={data_dir}", *GRU, *quick, "trainer.max_steps=1", *said)
    assert status == 0, err
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hunter2" not in written and "hunter2" not in out + "".join(err)
    status, out, err = call("train", "dataset=tiny", *GRU, *quick, "model.name=${oc.env:WANDB_API_KEY}")
    assert status == 1 and len(err) == 1 and "model.name: got ${oc.env:WANDB_API_KEY}" in err[0]
