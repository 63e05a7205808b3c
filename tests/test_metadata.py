"Files that say what other files hold: any entry of them replaced by something else is one line, and never a traceback."
import copy
import json
import shutil
import warnings

import numpy as np
import pytest
import yaml

from physmodjax.datasets import Dataset
from physmodjax.datasets.format import read_manifest
from physmodjax.datasets.generate import generate, is_complete, read_spec, verify
from physmodjax.experiments.data import named_spec, read_group
from physmodjax.experiments.record import Record
from physmodjax.experiments.trained import TrainedModel, check_metadata
from physmodjax.training.checkpoint import Checkpoints, load_variables

pytestmark = pytest.mark.training  # wrong input of every kind: many cases, none of them a law

WRONG = [None, [], [1], {}, {"a": 1}, "", "x", True, 0, -1, 10**12, 10**400, 1.5, 1e300, float("nan"), [[None]]]
FEW = [None, [1], "x", 10**400]


def places(value, path=()):
    "Where something stands: every key, and the first entries of every list."
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(value, path, wrong):
    "A copy with something else at a place."
    if not path:
        return wrong
    value = copy.copy(value)
    value[path[0]] = changed(value[path[0]], path[1:], wrong)
    return value


def without(value, path):
    "A copy without what stands at a place."
    value = copy.copy(value)
    if len(path) == 1:
        del value[path[0]]
    else:
        value[path[0]] = without(value[path[0]], path[1:])
    return value


def mutations(value, some=WRONG):
    "Every copy with one place changed or missing, and what was done."
    for path in places(value):
        for wrong in some:
            yield f"{'.'.join(map(str, path))} = {wrong!r:.20}", changed(value, path, wrong)
        if path:
            yield f"no {'.'.join(map(str, path))}", without(value, path)


def survive(what, read, name=""):
    "Reads something that may be wrong: it works, or says in one line, with the name of the file, why not."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read()
    except (ValueError, OSError) as error:
        said = str(error)
        assert len(said.splitlines()) == 1 and name in said, f"{what}: {said}"
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error


@pytest.fixture
def folder(data_dir, tmp_path):
    "A small finished data set of one's own."
    return shutil.copytree(data_dir / "tiny", tmp_path / "data" / "tiny")


@pytest.mark.parametrize("file", ["manifest.json", "spec.json", "stats.yaml"])
@pytest.mark.parametrize("some", [FEW, pytest.param(WRONG, marks=pytest.mark.slow)], ids=["few", "all"])
def test_a_data_set_whose_files_say_something_else(file, some, folder):
    spec = named_spec(read_group("dataset", "tiny"))
    path = folder / file
    load, dump = (yaml.safe_load, yaml.safe_dump) if file.endswith("yaml") else (json.loads, json.dumps)
    content = load(path.read_text())
    readers = {
        "manifest.json": [read_manifest, is_complete, verify, Dataset.open],
        "spec.json": [read_spec, Dataset.open, lambda folder: generate(spec, folder.parent, progress=False)],
        "stats.yaml": [is_complete, Dataset.open],
    }[file]
    for what, wrong in mutations(content, some):
        path.write_text(dump(wrong))
        for read in readers:
            survive(f"{file}: {what}", lambda read=read: read(folder), name="tiny")


@pytest.mark.parametrize("some", [FEW, pytest.param(WRONG, marks=pytest.mark.slow)], ids=["few", "all"])
def test_statistics_that_somebody_wrote_by_hand(some, folder):
    "Without a checksum of them, as in sets of earlier versions and of other people."
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(without(manifest, ("statistics",))))
    content = yaml.safe_load((folder / "stats.yaml").read_text())
    for what, wrong in mutations(content, some):
        (folder / "stats.yaml").write_text(yaml.safe_dump(wrong))
        survive(f"stats.yaml: {what}", lambda: Dataset.open(folder), name="stats.yaml")


@pytest.mark.parametrize("text", ["", "[", "null", "3", "{}", "\0", '{"a": 1', "NaN", "[" * 100_000, '"x"', "\ufeff{}"])
@pytest.mark.parametrize("file", ["manifest.json", "spec.json", "stats.yaml"])
def test_a_data_set_whose_files_are_no_data(file, text, folder):
    (folder / file).write_text(text, encoding="utf-8")
    for read in (is_complete, Dataset.open, read_spec, verify):
        survive(f"{file}: {text[:10]!r}", lambda read=read: read(folder))


def test_a_checkpoint_that_says_something_else(run_dir):
    "What is taken can be asked for frames and modes, or says in one line that its parameters do not fit."
    variables, metadata = load_variables(run_dir)
    for what, wrong in mutations({key: metadata[key] for key in metadata if key != "sha256"}):
        if isinstance(wrong, dict):
            survive(what, lambda wrong=wrong: check_metadata(wrong, run_dir), name="checkpoint of")
            survive(what, lambda wrong=wrong: TrainedModel.from_metadata(variables, wrong, run_dir))


@pytest.mark.parametrize(("path", "wrong"), [
    (("dataset", "grid", 0), 20), (("dataset", "grid"), [11, 10]), (("model", "context"), 2),
    (("model", "network", "d_model"), 7), (("model", "network", "n_layers"), 1), (("model", "network", "cell"), "lstm"),
    (("dataset", "fields"), [["displacement", "m"], ["velocity", "m/s"]]), (("normalisation", "std"), [1.0, 1.0]),
    (("model", "network", "_target_"), "physmodjax.models.fno.FNOModel"), (("dataset", "rate"), 1e14),
])  # fmt: skip
def test_parameters_that_do_not_fit_what_is_said_of_them(path, wrong, run_dir):
    variables, metadata = load_variables(run_dir)

    def ask():
        model = TrainedModel.from_metadata(variables, changed(metadata, path, wrong), run_dir)
        model.modes()
        return model.predict(np.zeros((model.context, *model.grid, len(model.fields)), np.float32), 3)

    survive(f"{path} = {wrong}", ask)


@pytest.mark.parametrize("content", [*WRONG, {"versions": []}, {"versions": None, "date": [1]}, {"command": {"a": 1}}])
def test_a_claim_that_says_something_else(content, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert isinstance(Record(tmp_path).read_claim(), dict)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: repr(value)[:12])
def test_ranking_survives_figures_of_any_kind(wrong, run_dir, tmp_path):
    "`best` is chosen by what each checkpoint says of its error."
    copied = shutil.copytree(run_dir / "checkpoints", tmp_path / "checkpoints")
    for path in copied.glob("*/metadata/metadata"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": wrong}))
    checkpoints = Checkpoints(copied, read_only=True)
    survive("metrics", lambda: checkpoints.best_step)
    survive("metrics", lambda: checkpoints.read("best"))
