"What may stand in a configuration: every key of every group against values of every kind, and what is told about them."
import json
import math
from dataclasses import fields

import numpy as np
import pytest
from commands import GRU, QUICK, compose
from omegaconf import OmegaConf
from pydantic import TypeAdapter

from physmodjax.datasets.generate import DatasetSpec
from physmodjax.datasets.scene import Scene
from physmodjax.experiments import options as schemas
from physmodjax.experiments.build import check_network
from physmodjax.experiments.data import CONF, build_spec, read_group
from physmodjax.experiments.options import check_command, check_loss, check_optimizer, checked, comments, spell
from physmodjax.experiments.run import RunOptions, describe_model
from physmodjax.training.optim import OPTIMIZERS

pytestmark = pytest.mark.training  # wrong input of every kind: many cases, none of them a law

# Values of every kind, and for each kind of key, independently of the schemas, which of them it takes.

VALUES = [
    None, True, False, 0, 1, 2, 3, 4, 5, 20, 99, 100, 44100, 768_000, 768_001, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
    10**12, 10**30, -1, -(10**12), 0.0, 0.5, 1.0, 1.5, 2.0, 3600.0, 3601.0, -0.5, 1e-300, 1e300, math.nan,
    math.inf, -math.inf,
    "", " ", "abc", "maybe", "null", "1", "best", "train", "displacement", "data", "a b", "弦 ☃", "a\0b", "my.package",
    [], [0], [1, 2], [0.5], [0.2, 0.3], [0.1, 0.2, 0.3], [2], [4, 8], [32, 128], [None], ["x"], ["x", "x"], ["x", "y"],
    [[1]], [math.nan], [True], {}, {"a": 1}, {"mse": 1.0}, {"mse": "abc"}, {"mse": -1}, {0: 1}, {"a": {"b": None}},
    b"bytes", object(), 1j,
]  # fmt: skip


def whole(low, high=2**31 - 1):
    return lambda v: type(v) is int and low <= v <= high


def number(low=-math.inf, high=math.inf, above=-math.inf):
    return lambda v: type(v) in (int, float) and math.isfinite(v) and low <= v <= high and v > above


def either(*kinds):
    return lambda v: any(kind(v) for kind in kinds)


def listed(kind, least=0, most=10**9):
    return lambda v: type(v) is list and least <= len(v) <= most and all(map(kind, v))


def null(v):
    return v is None


def truth(v):
    return type(v) is bool


def text(v):
    return type(v) is str and v != ""


def path(v):
    return text(v) and "\0" not in v


def package(v):
    return text(v) and all(part.isidentifier() for part in v.split("."))


def unique(v):
    return len(set(v)) == len(v)


def keys(v):
    return type(v) is dict


fraction = number(0, 1)
place = either(fraction, listed(fraction, 1, 2))
count, index = whole(1), whole(0)
names = lambda v: listed(text, 1)(v) and unique(v)  # noqa: E731
checkpoint = either(lambda v: v in ("best", "latest"), index)
TAKES = {
    "trainer": dict(
        max_steps=count, batch_size=count, window_length=either(null, whole(2)), eval_every=count,
        checkpoint_every=count, log_every=count, averaged=truth, recalibrate=index,
    ),
    "evaluation": dict(batch_size=count, example=index),
    "audio": dict(
        enabled=truth, duration=number(high=3600, above=0), pickup=place, audio_rate=whole(100, 768_000),
    ),
    "logger": dict(
        enabled=truth, mode=either(null, lambda v: type(v) is str), project=text, name=either(null, text),
        group=either(null, text), tags=listed(text),
    ),
    "model": dict(
        name=text, network=keys, initialise=lambda v: v in ("data", "random", "closed_form"), context=count,
        fields=either(null, names),
    ),
    "pluck": dict(position=place, amplitude=number(above=0, high=1e6), width=number(above=0, high=100)),
    "train": dict(
        seed=whole(0, 2**32 - 1), resume=either(null, path), progress=either(null, truth), data_dir=path,
        allow=listed(package), loss=keys, optimizer=keys, trainer=keys, evaluation=keys, audio=keys, dataset=keys,
    ),
    "generate": dict(
        data_dir=path, part=listed(index, 2, 2), verify=truth, progress=either(null, truth), dataset=keys,
        object=either(null, keys),
    ),
    "evaluate": dict(
        run=path, checkpoint=checkpoint, split=lambda v: v in ("train", "valid", "test"),
        n_steps=either(null, count), batch_size=either(null, count), example=index, data_dir=either(null, path),
        allow=listed(package), dataset=either(null, keys),
    ),
    "render": dict(
        run=path, checkpoint=checkpoint, allow=listed(package), example=either(null, index), pickup=place,
        quantity=lambda v: v in ("displacement", "velocity"), duration=number(high=3600, above=0),
        audio_rate=whole(100, 768_000), out=either(null, path), data_dir=either(null, path),
    ),
}  # fmt: skip
SCHEMAS = {
    "trainer": schemas.Trainer, "evaluation": schemas.Evaluation, "audio": schemas.Audio, "logger": schemas.Logger,
    "model": schemas.ModelDescription, "pluck": schemas.Pluck, **schemas.COMMANDS,
}  # fmt: skip


def example(group: str) -> dict:
    "Values that a group takes."
    if group in schemas.COMMANDS:
        config = compose(group, *(["run=somewhere"] if group in ("evaluate", "render") else []))
        return OmegaConf.to_container(config, resolve=True)
    if group == "pluck":
        return example("render")["pluck"]
    if group == "logger":
        return read_group("logger", "wandb") | {"mode": "offline"}
    return read_group(group, "lru" if group == "model" else "default")


def message(error) -> str:
    "What an error says, which is one line."
    said = str(error.value)
    assert said.strip() and len(said.splitlines()) == 1 and len(said) < 600, said
    return said


@pytest.mark.parametrize("group", TAKES)
def test_every_key_takes_its_kind_and_nothing_else(group):
    schema, good = SCHEMAS[group], example(group)
    checked(schema, good)
    for key, takes in TAKES[group].items():
        for value in VALUES:
            if takes(value):
                checked(schema, {**good, key: value})
            else:
                with pytest.raises(ValueError) as error:
                    checked(schema, {**good, key: value}, "" if group in schemas.COMMANDS else group)
                    pytest.fail(f"{group}.{key} takes {value!r}")
                start = key if group in schemas.COMMANDS else f"{group}.{key}"
                assert message(error).startswith(start) and "got" in str(error.value), str(error.value)


@pytest.mark.parametrize("group", TAKES)
def test_a_key_that_does_not_exist_is_told_the_nearest(group):
    good = example(group)
    for key in good:
        with pytest.raises(ValueError, match=f"got '{key}s', expected one of .*; did you mean") as error:
            checked(SCHEMAS[group], {**good, f"{key}s": good[key]}, group)
        message(error)


@pytest.mark.parametrize("group", TAKES)
@pytest.mark.parametrize("value", [None, 3, "abc", [], [1], True, math.nan], ids=repr)
def test_a_group_is_keys_and_values(group, value):
    with pytest.raises(ValueError, match="expected keys and values") as error:
        checked(SCHEMAS[group], value, group)
    message(error)


# What stands in conf

GROUPS = ("trainer", "evaluation", "audio")
FILES = [(folder, path.stem) for folder in GROUPS for path in (CONF / folder).glob("*.yaml")]


@pytest.mark.parametrize(("folder", "name"), FILES)
def test_files_and_schemas_have_the_same_keys(folder, name):
    assert set(read_group(folder, name)) == set(SCHEMAS[folder].model_fields)


@pytest.mark.parametrize("name", list(schemas.COMMANDS))
def test_commands_and_schemas_have_the_same_keys(name):
    assert set(example(name)) | {"dataset"} == set(schemas.COMMANDS[name].model_fields)
    check_command(name, example(name))


@pytest.mark.parametrize("name", [path.stem for path in (CONF / "loss").glob("*.yaml")])
def test_losses_of_conf_are_taken(name):
    check_loss(read_group("loss", name))


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_optimizers_of_conf_are_taken(name):
    described = read_group("optimizer", name)
    check_optimizer(described)
    assert set(described) - {"name"} == {field.name for field in fields(OPTIMIZERS[name])}


@pytest.mark.parametrize("name", [path.stem for path in (CONF / "model").glob("*.yaml")])
def test_models_of_conf_are_taken(name):
    assert set(read_group("model", name)) == set(schemas.ModelDescription.model_fields)
    describe_model(read_group("model", name) if name != "own" else name)


@pytest.mark.parametrize(("folder", "name"), [
    ("trainer", "default"), ("evaluation", "default"), ("optimizer", "adamw"), ("optimizer", "lbfgs"), ("loss", "mse"),
    ("dataset", "measured"), ("dataset", "string"),
])  # fmt: skip
def test_every_key_is_explained_where_it_stands(folder, name):
    meaning = comments((CONF / folder / f"{name}.yaml").read_text(encoding="utf-8"))
    keys = set(read_group(folder, name)) - {"n_modes", "seed", "momentum", "learning_rate", "name", "parameters"}
    assert keys <= set(meaning) and all(meaning[key] for key in keys), [key for key in keys if not meaning.get(key)]


# Optimisers, losses and data sets, whose ranges stand in their classes

@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_an_optimizer_takes_numbers_and_nothing_else(name):
    described = read_group("optimizer", name)
    for key in set(described) - {"name"}:
        for value in VALUES:
            plain = type(value) in (int, float) or value is None or value in ("constant", "cosine", "warmup_cosine")
            if not plain:
                with pytest.raises(ValueError) as error:
                    check_optimizer({**described, key: value})
                    pytest.fail(f"{name}.{key} takes {value!r}")
                assert message(error).startswith("optimizer.")


@pytest.mark.parametrize(("change", "said"), [
    ({"warmup_steps": None}, "optimizer.warmup_steps: got None, expected an integer"),
    ({"warmup_steps": -1}, "optimizer.warmup_steps: got -1"),
    ({"warmup_steps": 1.5}, "optimizer.warmup_steps: got 1.5"),
    ({"schedule": None}, "optimizer.schedule: got None"),
    ({"schedule": "cosin"}, "did you mean cosine?"),
    ({"final_factor": 2}, "final_factor: got 2, expected a number of at least 0 and at most 1"),
    ({"final_factor": -0.1}, "final_factor: got -0.1"),
    ({"weight_decay": -1}, "weight_decay: got -1"),
    ({"learning_rate": 0}, "learning_rate: got 0"),
    ({"learning_rate": math.nan}, "learning_rate: got nan"),
    ({"learning_rate": "1e-3x"}, "learning_rate: got '1e-3x'"),
    ({"learning_rate": True}, "learning_rate: got True"),
    ({"clip_norm": 0}, "clip_norm: got 0"),
    ({"clip_norm": [1]}, "clip_norm: got [1]"),
    ({"foo": 1}, "option of optimizer: got 'foo', expected one of"),
    ({"learning_rates": 1}, "did you mean learning_rate?"),
    ({"name": None}, "optimizer.name: got None"),
    ({"name": ["adamw"]}, "optimizer.name: got ['adamw']"),
    ({"name": "adamm"}, "did you mean adamw?"),
])  # fmt: skip
def test_wrong_optimizers(change, said):
    with pytest.raises(ValueError) as error:
        RunOptions(optimizer=read_group("optimizer", "adamw") | change)
    assert said in message(error)


@pytest.mark.parametrize(("loss", "said"), [
    ({"weights": {"mse": "abc"}}, "loss.weights.mse: got 'abc', expected a finite number of at least 0"),
    ({"weights": {"mse": -1}}, "loss.weights.mse: got -1"),
    ({"weights": {"mse": math.inf}}, "loss.weights.mse: got inf"),
    ({"weights": {"mse": None}}, "loss.weights.mse: got None"),
    ({"weights": {"mse": True}}, "loss.weights.mse: got True"),
    ({"weights": {"mse": {"a": 1}}}, "loss.weights.mse: got {'a': 1}"),
    ({"weights": {"mes": 1}}, "did you mean mse?"),
    ({"weights": {"mse": 0}}, "at least one weight above 0"),
    ({"weights": {}}, "at least one weight above 0"),
    ({"weights": None}, "loss.weights: got None"),
    ({"weights": [1]}, "loss.weights: got [1]"),
    ({"spectral": {}}, "loss.weights: got nothing"),
    ({"weights": {"mse": 1}, "spectral": None}, "loss.spectral: got None"),
    ({"weights": {"mse": 1}, "spectral": {"sizes": [32, "a"]}}, "loss.spectral.sizes[1]: got 'a'"),
    ({"weights": {"mse": 1}, "spectral": {"sizes": [2]}}, "loss.spectral.sizes[0]: got 2"),
    ({"weights": {"mse": 1}, "spectral": {"sizes": []}}, "loss.spectral.sizes: got []"),
    ({"weights": {"mse": 1}, "spectral": {"points": [-1]}}, "loss.spectral.points[0]: got -1"),
    ({"weights": {"mse": 1}, "spectral": {"points": "all"}}, "loss.spectral.points: got 'all'"),
    ({"weights": {"mse": 1}, "spectral": {"point": 3}}, "did you mean points?"),
    ({"weights": {"mse": 1}, "spectrall": {}}, "did you mean spectral?"),
])  # fmt: skip
def test_wrong_losses(loss, said):
    with pytest.raises(ValueError) as error:
        RunOptions(loss=loss)
    assert said in message(error)


DATA_KEYS = [key for key in read_group("dataset", "tiny") if key not in ("name", "parameters")]


@pytest.mark.parametrize("key", DATA_KEYS)
def test_a_data_set_takes_its_kind_or_says_so(key):
    "Whatever is said of a data set gives a specification whose numbers are finite, or one line."
    described = read_group("dataset", "tiny")
    for value in VALUES:
        try:
            spec = build_spec({**described, key: value})
        except ValueError as error:
            assert len(str(error).splitlines()) == 1 and "got" in str(error), str(error)
            continue
        stored = getattr(spec.scene if key in Scene.__dataclass_fields__ else spec, key)
        plain = json.dumps(stored, allow_nan=False)
        assert plain == json.dumps(value) or value is None and stored is None, (key, value, stored)


@pytest.mark.parametrize(("change", "said"), [
    ({"rate": 1e-300}, "rate: got 1e-300"),
    ({"rate": "fast"}, "dataset.rate: got 'fast', expected a finite number"),
    ({"nonlinear": "maybe"}, "nonlinear: got 'maybe', expected true or false"),
    ({"nonlinear": 1}, "nonlinear: got 1"),
    ({"amplitude": [1, math.inf]}, "amplitude: got (1, inf)"),
    ({"amplitude": None}, "amplitude: got None"),
    ({"varied": 3}, "varied: got 3"),
    ({"varied": [["T0", 1]]}, "varied"),
    ({"varied": [["T0", "a", 2]]}, "varied"),
    ({"n_points": True}, "n_points: got True"),
    ({"n_points": 1e3}, "n_points: got 1000.0"),
    ({"splits": [0.5, 0.5]}, "splits: got (0.5, 0.5)"),
    ({"splits": {"train": 1}}, "splits: got"),
    ({"seed": -1}, "seed: got -1"),
    ({"seed": 1.0}, "seed: got 1.0"),
    ({"excitation": ["gaussian"]}, "excitation: got"),
    ({"excitation": "gausian"}, "did you mean gaussian?"),
    ({"excitation_options": 3}, "excitation_options: got 3"),
    ({"excitation_options": {"width": 3}}, "got 'width'"),
    ({"excitation": "single_mode", "excitation_options": {"mode": "first"}}, "single_mode.mode: got 'first'"),
    ({"parameters": 3}, "dataset.parameters: got 3"),
    ({"parameters": {}}, "preset of the object: got None"),
    ({"parameters": {"preset": "nylon_string", "rho": [1, 2]}}, "rho: got [1, 2]"),
    ({"parameters": {"preset": "nylon_string", "rho": math.nan}}, "rho: got nan"),
    ({"parameters": {"preset": "nylon_string", "rho": True}}, "rho: got True"),
    ({"parameters": {"preset": ["nylon_string"]}}, "preset: got ['nylon_string']"),
    ({"parameters": {"preset": "nylon_string", "t60": [[1, 2]]}}, "T60"),
    ({"name": None}, "name: got None"),
    ({"name": "../x"}, "name: got '../x'"),
    ({"rates": 8000}, "did you mean rate?"),
])  # fmt: skip
def test_wrong_data_sets(change, said):
    with pytest.raises(ValueError) as error:
        build_spec(read_group("dataset", "tiny") | change)
    assert said in message(error)


@pytest.mark.parametrize("words", [{"amplitude": (1, math.inf)}, {"amplitude": (math.nan, 1)}, {"rate": math.inf}])
def test_a_specification_from_python_is_finite(words):
    with pytest.raises(ValueError, match="got"):
        DatasetSpec.of("x", **words)


# Networks

NETWORKS = [
    ("lru", "d_model", 0), ("lru", "d_model", -1), ("lru", "d_model", "wide"), ("lru", "d_model", 10**9),
    ("lru", "d_model", 10**30), ("lru", "d_model", None), ("lru", "d_model", 8.0), ("lru", "n_layers", -1),
    ("lru", "n_layers", 0), ("lru", "n_layers", 10**6), ("lru", "dropout", 2), ("lru", "dropout", -0.1),
    ("lru", "dropout", "some"), ("lru", "mixer", "glu"), ("lru", "mixer", 3), ("lru", "norm", None),
    ("lru", "prenorm", "maybe"), ("lru", "recurrence", 3), ("lru", "recurrence", {"a": 1}), ("lru", "training", True),
    ("lru", "recurrence.d_hidden", 0), ("lru", "recurrence.d_hidden", "x"), ("lru", "recurrence.d_hidden", 10**12),
    ("lru", "recurrence.dynamics", None), ("lru", "recurrence.dynamics.r_min", 5),
    ("lru", "recurrence.dynamics.r_min", "x"), ("lru", "recurrence.dynamics.r_max", math.nan),
    ("lru", "recurrence.dynamics.max_phase", -1), ("lru", "recurrence.dynamics.max_phase", math.inf),
    ("lru", "recurrence.dynamics.clip_eigs", "maybe"), ("lru", "recurrence.dynamics._partial_", "maybe"),
    ("lru", "recurrence.dynamics._partial_", False), ("lru", "recurrence._target_", None),
    ("lru", "recurrence._target_", "physmodjax.models.mlp.MLP"), ("lru", "grid", [21]), ("lru", "foo", 1),
    ("s5", "recurrence.dynamics.blocks", 3), ("s5", "recurrence.dynamics.blocks", 0),
    ("s5", "recurrence.d_hidden", 10**5), ("s5", "recurrence.dynamics.dt_min", 0),
    ("s5", "recurrence.dynamics.dt_max", -1),
    ("s5", "recurrence.dynamics.discretisation", "z"), ("s5", "recurrence.dynamics.step_rescale", 0),
    ("gru", "cell", "grue"), ("gru", "cell", 3), ("gru", "cell", None), ("gru", "feedback", 1),
    ("gru", "initial", "x"),
    ("gru", "n_layers", 10**6), ("gru", "d_model", 10**9), ("gru", "norm", "batch"),
    ("koopman", "encoder", None), ("koopman", "encoder.hidden_channels", [0]),
    ("koopman", "encoder.hidden_channels", 3),
    ("koopman", "encoder.hidden_channels", [10**9, 10**9]), ("koopman", "encoder.kernel_init", "x"),
    ("koopman", "encoder.kernel_init", None), ("koopman", "encoder.shortcut", "yes"), ("koopman", "encoder.width", 3.5),
    ("koopman", "loss_weights", 3), ("koopman", "loss_weights.prediction", -1), ("koopman", "loss_weights.foo", 1),
    ("koopman", "loss_weights.prediction", "x"), ("koopman_varying", "dynamics.model", None),
    ("koopman_varying", "dynamics.model", 3), ("koopman_varying", "dynamics.model.hidden_channels", "x"),
    ("koopman_varying", "dynamics.model.outputs_per_input", -2),
    ("koopman_varying", "dynamics.model.outputs_per_input", 3),
    ("modal", "dynamics.clip", 3), ("modal", "dynamics.max_phase", "x"), ("modal", "dynamics.min_phase", 9.0),
    ("oscillator", "dynamics.substeps", 0), ("oscillator", "dynamics.substeps", 1.5),
    ("oscillator", "dynamics.substeps", 10**9), ("oscillator", "dynamics.stretch", -1),
    ("oscillator", "dynamics.max_stretch", math.inf), ("fno", "n_modes", 99), ("fno", "n_modes", 0),
    ("fno", "n_modes", [3, 3]), ("fno", "n_modes", "x"), ("fno", "d_model", 10**9), ("fno", "n_layers", 10**6),
    ("fno", "edges", "open"), ("fno", "r_max", 2), ("fno", "max_phase", 0), ("fno", "max_phase", "x"),
    ("dmd", "n_delays", 0), ("dmd", "n_modes", 0), ("dmd", "n_modes", "x"), ("dmd", "n_modes", -3),
]  # fmt: skip


@pytest.mark.parametrize(("model", "key", "value"), NETWORKS, ids=lambda part: str(part)[:30])
def test_networks_that_cannot_be_built(model, key, value):
    "Shapes alone are looked at: no gigabytes, no seconds."
    network = json.loads(json.dumps(read_group("model", model)["network"]))
    holder, *rest = network, *key.split(".")
    for name in rest[:-1]:
        holder = holder[name]
    holder[rest[-1]] = value
    with pytest.raises(ValueError) as error:
        check_network(network, grid=(21,))
        pytest.fail(f"{model}.{key} takes {value!r}")
    assert "got" in message(error) and "Traceback" not in str(error.value)


@pytest.mark.parametrize("name", [path.stem for path in (CONF / "model").glob("*.yaml") if path.stem != "own"])
@pytest.mark.parametrize("grid", [(51,), (11, 10)], ids=str)
def test_networks_of_conf_are_built(name, grid):
    network = read_group("model", name)["network"]
    if name == "fno" and len(grid) == 2:
        network["n_modes"] = 4
    model = check_network(network, grid=grid, channels=2, context=2)
    assert (model.grid, model.channels, model.context) == (grid, 2, 2)


# What is taken from Python, and what is told in words

def test_numbers_of_numpy_and_tuples_are_taken():
    trainer = {"max_steps": np.int64(3), "batch_size": np.int32(2)}
    options = RunOptions(seed=np.uint32(5), trainer=trainer, audio={"pickup": (0.2, 0.3), "duration": np.float32(0.5)})
    assert options.trainer["max_steps"] == 3 and options.audio["duration"] == 0.5


@pytest.mark.parametrize(("options", "said"), [
    ({"seed": -1}, "seed: got -1"), ({"seed": 2**32}, "seed: got 4294967296"), ({"seed": 1.0}, "seed: got 1.0"),
    ({"seed": None}, "seed: got None"), ({"resume": "yes"}, "resume: got 'yes', expected true or false"),
    ({"progress": 1}, "progress: got 1"), ({"allow": "mymodel"}, "allow: got 'mymodel'"),
    ({"allow": [3]}, "allow[0]: got 3"),
    ({"trainer": None}, "trainer: got None"), ({"trainer": [1]}, "trainer: got [1]"), ({"data": 3}, "data: got 3"),
    ({"trainer": {"max_step": 500}}, "key of trainer: got 'max_step'"),
    ({"audio": {"pickup": []}}, "audio.pickup: got []"),
    ({"trainer": {"averaged": "maybe"}}, "trainer.averaged: got 'maybe', expected true or false"),
    ({"trainer": {"window_length": "abc"}}, "trainer.window_length: got 'abc', expected an integer of at least 2"),
    ({"audio": {"audio_rate": 10**8}}, "audio.audio_rate: got 100000000, expected an integer from 100 to 768000"),
    ({"audio": {"duration": 1e9}}, "audio.duration: got 1000000000.0"),
])  # fmt: skip
def test_wrong_options_from_python(options, said):
    with pytest.raises(ValueError) as error:
        RunOptions(**options)
    assert said in message(error)


@pytest.mark.parametrize(("kind", "said"), [
    (schemas.Count, "an integer of at least 1 and below 2^31"),
    (schemas.SoundRate, "an integer from 100 to 768000"),
    (schemas.Fraction, "a finite number from 0 to 1"),
    (schemas.Positive, "a finite number above 0"),
    (schemas.Checkpoint, "one of best, latest or an integer of at least 0 and below 2^31"),
    (bool | None, "true or false or null"),
    (list[int], "a list, each an integer"),
    (tuple[float, float], "a list of 2, each a finite number"),
    (schemas.Folder, "the path of a folder"),
    (dict[str, int], "keys and values"),
])  # fmt: skip
def test_types_in_words(kind, said):
    assert spell(TypeAdapter(kind).json_schema()) == said


# Through the commands: the same line, and nothing made

LINES = [
    (["trainer.window_length=abc"], "trainer.window_length: got 'abc', expected an integer of at least 2"),
    (["optimizer.warmup_steps=null"], "optimizer.warmup_steps: got None"),
    (["+optimizer.foo=1"], "option of optimizer: got 'foo'"),
    (["model.network=null"], "model.network: got None"),
    (["loss.weights={mse:abc}"], "loss.weights.mse: got 'abc'"),
    (["data_dir=null"], "data_dir: got None, expected the path of a folder"),
    (["data_dir=3"], "data_dir: got 3"),
    (["resume=true"], "resume: got True, expected the path of a folder or null"),
    (["resume=[a]"], "resume: got ['a']"),
    (["dataset.rate=1e-300"], "rate: got 1e-300"),
    (["dataset.n_steps=1000000000000"], "got"),
    (["trainer.averaged=maybe"], "trainer.averaged: got 'maybe'"),
    (["dataset.nonlinear=maybe"], "nonlinear: got 'maybe'"),
    (["optimizer.final_factor=2"], "final_factor: got 2"),
    (["loss.weights.mae=-1"], "loss.weights.mae: got -1"),
    (["model.fields=[displacement,displacement]"], "model.fields: got ['displacement', 'displacement'], expected each"),
    (["+trainer.max_step=500"], "key of trainer: got 'max_step'"),
    (["audio.audio_rate=100000000"], "audio.audio_rate: got 100000000"),
    (["dataset.n_trajectories=1000000000000"], "got"),
    (["+foo=1"], "key: got 'foo'"),
    (["allow=mymodel"], "allow: got 'mymodel'"),
    (["seed=abc"], "seed: got 'abc'"),
    (["~seed"], "seed: got nothing"),
    (["progress=abc"], "progress: got 'abc'"),
    (["model=null"], "model: got 'null', expected one of dmd, fno"),
    (["optimizer=3"], "optimizer: got '3', expected one of adamw"),
    (["loss="], "loss: got '', expected one of mse"),
    (["logger.tags=abc"], "logger.tags: got 'abc'"),
    (["logger.enabled=perhaps"], "logger.enabled: got 'perhaps'"),
    (["model.network.d_model=1000000000"], "memory for training"),
    (["model.network.n_layers=-1"], "n_layers: got -1"),
    (["object.length=long"], "length: got 'long'"),
    (["object.length=[1]"], "length: got [1]"),
    (["audio.pickup=[0.1,0.2]"], "audio.pickup: got [0.1, 0.2]"),
    (["audio.duration=3000", "dataset.rate=1e9"], "memory for 3000 s of motion"),
]  # fmt: skip


QUICK_LINES = {
    "trainer.window_length=abc", "optimizer.warmup_steps=null", "+optimizer.foo=1", "model.network=null", "~seed",
    "loss.weights={mse:abc}", "data_dir=null", "resume=true", "dataset.rate=1e-300", "dataset.n_steps=1000000000000",
    "audio.audio_rate=100000000", "dataset.n_trajectories=1000000000000", "+trainer.max_step=500", "model=null",
    "model.network.d_model=1000000000", "object.length=long", "audio.pickup=[0.1,0.2]",
}  # fmt: skip


def told(arguments, said):
    "One command line of the list; those of a kind that is there already are slow ones."
    slow = [] if arguments[0] in QUICK_LINES else [pytest.mark.slow]
    return pytest.param(arguments, said, marks=slow, id=" ".join(arguments))


@pytest.mark.parametrize(("arguments", "said"), [told(*line) for line in LINES])
def test_a_training_says_no_before_anything_is_made(arguments, said, refused, tmp_path):
    keys = [argument.split("=")[0] for argument in arguments]
    own = [argument for argument in [*QUICK, *GRU] if argument.split("=")[0] not in keys]
    own = [argument for argument in own if "network" not in argument or not {"model", "model.network"} & set(keys)]
    data = [] if any(a.startswith("data_dir") for a in arguments) else ["data_dir=made"]
    assert said in refused("train", "dataset=tiny", *own, *data, *arguments)
    made = [path for path in tmp_path.glob("*") if path.name != "out"]
    late = any(a.startswith(("audio.pickup", "audio.duration")) for a in arguments)  # need the data
    assert late or not made, made


def test_a_schedule_that_is_deleted_is_that_of_the_class(call, monkeypatch, data_dir):
    "`~optimizer.schedule` leaves the default of the optimiser."
    seen = []
    monkeypatch.setattr("physmodjax.experiments.run._trained", lambda setup, *_: seen.append(setup) or exit(0))
    assert call("train", "dataset=tiny", *QUICK, *GRU, "~optimizer.schedule", f"data_dir={data_dir}")[0] == 0
    assert "schedule" not in seen[0].options.optimizer


OTHERS = [
    ("generate", ["data_dir=null"], "data_dir: got None"),
    ("generate", ["part=3"], "part: got 3"),
    ("generate", ["part=[0,1,2]"], "part: got [0, 1, 2]"),
    ("generate", ["part=[0,0]"], "number of parts: got 0"),
    ("generate", ["part=[-1,2]"], "part[0]: got -1"),
    ("generate", ["part=[1,1]"], "part: got (1, 1)"),
    ("generate", ["verify=abc"], "verify: got 'abc'"),
    ("generate", ["progress=2"], "progress: got 2"),
    ("generate", ["dataset.n_steps=1000000000000"], "got"),
    ("generate", ["dataset.n_modes=100000000", "dataset.n_points=100000003"], "got"),
    ("generate", ["+dataset.foo=1"], "got 'foo'"),
    ("evaluate", ["run=null"], "run: got None"),
    ("evaluate", ["run=true"], "run: got True"),
    ("evaluate", ["run=here", "n_steps=1.5"], "n_steps: got 1.5"),
    ("evaluate", ["run=here", "checkpoint=[1]"], "checkpoint: got [1]"),
    ("evaluate", ["run=here", "checkpoint=lates"], "did you mean latest?"),
    ("evaluate", ["run=here", "object.note=A2"], "object: got note, expected nothing without a data set"),
    ("evaluate", ["run=here", "batch_size=-1"], "batch_size: got -1"),
    ("render", ["run=here", "pluck=null"], "pluck: got None"),
    ("render", ["run=here", "pluck.width=nan"], "pluck.width: got nan"),
    ("render", ["run=here", "audio_rate=0"], "audio_rate: got 0"),
    ("render", ["run=here", "duration=1e9"], "duration: got 1000000000.0"),
    ("render", ["run=here", "out=[a]"], "out: got ['a']"),
    ("render", ["run=here", "quantity=speed"], "quantity: got 'speed'"),
    ("render", ["run=here", "~pickup"], "pickup: got nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "said"), [
    pytest.param(*case, marks=[pytest.mark.slow] if number % 2 else [], id=f"{case[0]} {' '.join(case[1])}")
    for number, case in enumerate(OTHERS)
])  # fmt: skip
def test_other_commands_say_no_before_anything_is_made(name, arguments, said, refused, tmp_path):
    assert said in refused(name, *(["dataset=tiny", "data_dir=made"] if name == "generate" else []), *arguments)
    assert not [path for path in tmp_path.glob("*") if path.name != "out"]
