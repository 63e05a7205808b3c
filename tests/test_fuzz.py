"""Random overrides of known keys with wrong values: each is taken, or refused in one line, within seconds.

An accepted training stops before its first step, a data set of more than LARGEST samples before it is simulated, and a
motion of more than a hundredth of that likewise: what these cost is for those who ask for it.
PHYSMODJAX_FUZZ_SEED=7 repeats a sequence, PHYSMODJAX_FUZZ_N sets its length, and PHYSMODJAX_FUZZ_LOG names a file that
tells what became of each.
"""
import os
import random
import signal
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import yaml
from commands import SMALL, WIDTHS

from physmodjax.datasets import generate, scene
from physmodjax.experiments import run as experiment
from physmodjax.experiments.data import CONF, read_group

SECONDS, BYTES, LARGEST = 20, 2e9, 1e6
N = int(os.environ.get("PHYSMODJAX_FUZZ_N", 500))
LOG = os.environ.get("PHYSMODJAX_FUZZ_LOG")
SEED = int(os.environ.get("PHYSMODJAX_FUZZ_SEED", random.SystemRandom().randrange(2**31)))

NUMBERS = [
    "0", "-1", "2", "3", "1.5", "-0.5", "1e300", "-1e300", "1e-300", "nan", "inf", "-inf", "1e9", "1000000000000",
    "100000000", "-100000000", "18446744073709551616", "0.1", "0x10", "1_000",
]  # fmt: skip
WORDS = [
    "null", "true", "false", "abc", "maybe", "''", "' '", "'Saite ☃ 弦'", "'../elsewhere'", "'a/b'", "'${nothing}'",
    "'${oc.env:HOME}'", "'???'", "'\\n'", "os.system", "'null'", "'1'", "'[1]'", "-", "'%s'", "'{}'",
]  # fmt: skip
NESTS = [
    "[]", "[0]", "[1,2]", "[-1,0.5]", "[null]", "[abc,1]", "[[1,2],[3]]", "[1e300,1e300]", "[nan,nan]", "[1,2,3,4]",
    "[x,x]", "[true,false]", "{}", "{a:1}", "{mse:abc}", "{a:{b:[1]}}", "{0:1}", "{_target_:os.system}", "{name:null}",
]  # fmt: skip

BROKEN = ["[1", "{a:1", "'x", "a=b", "$x", "${", "\\", "*", "?", "choice(1,2)", "range(1,3)", "glob(*)", "1,2", ""]


def paths(part: dict, before: str = "") -> list[str]:
    "Dotted names of every entry of a configuration, groups included."
    found = []
    for name, value in part.items():
        found += [before + name, *(paths(value, f"{before}{name}.") if isinstance(value, dict) else [])]
    return found


def small(network: dict, before: str = "model.network.") -> list[str]:
    "Arguments that cut a network down to the sizes of these tests."
    cut = []
    for name, value in network.items():
        if isinstance(value, dict):
            cut += small(value, f"{before}{name}.")
        elif name in SMALL and isinstance(value, int):
            cut.append(f"{before}{name}={min(value, SMALL[name])}")
        elif name in WIDTHS and isinstance(value, list):
            cut.append(f"{before}{name}=[{','.join(str(min(width, WIDTHS[name])) for width in value)}]")
    return cut


@cache
def top(name: str) -> dict:
    "What stands in the file of a command, and in the groups that it always has."
    content = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    groups = {"object": {"preset": None, "length": 1}, "dataset": {}}
    if name == "train":
        groups |= {group: read_group(group, "default") for group in ("trainer", "evaluation", "audio")}
    return groups | {key: value for key, value in content.items() if key not in ("defaults", "hydra")}


def stems(group: str) -> list[str]:
    "Names of the files of a group."
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def situation(rng: random.Random, run: Path) -> tuple[str, list[str], list[str]]:
    "A command, arguments that it takes, on small data, and the keys it knows then."
    name = rng.choices(["train", "generate", "evaluate", "render"], [6, 2, 1, 1])[0]
    if name in ("evaluate", "render"):
        more = ["pluck.width=0.2", "duration=0.05"] if name == "render" else []
        return name, [f"run={run}", *more], paths(top(name))
    choice = {"dataset": rng.choice(["tiny", "tiny", "tiny_linear", "tiny_bar", "tiny_membrane"])}
    if name == "train":
        choice |= {group: rng.choice(stems(group)) for group in ("optimizer", "loss", "logger")}
        choice["model"] = rng.choice([name for name in stems("model") if name != "own"])
    groups = {group: read_group(group, file) for group, file in choice.items()}
    arguments = [f"{group}={file}" for group, file in choice.items()]
    if name == "train":
        arguments += [*small(groups["model"]["network"]), "trainer.batch_size=2", "audio.duration=0.02"]
        arguments += ["model.initialise=random"] if groups["model"]["initialise"] == "data" else []
    return name, arguments, paths(top(name) | groups)


def change(rng: random.Random, known: list[str]) -> str:
    "A wrong value for a known key, or a key deleted or added."
    key = rng.choice(known)
    value = rng.choice(rng.choices([NUMBERS, WORDS, NESTS, BROKEN], [5, 4, 3, 1])[0])
    kind = rng.random()
    if kind < 0.08:
        return f"~{key}"
    if kind < 0.14:
        return f"+{key}.{rng.choice(['foo', 'name', 'x_y', '0'])}={value}"
    if kind < 0.2:
        return f"+{key}{rng.choice('sx')}={value}"
    return f"{rng.choice(['', '', '', '++'])}{key}={value}"


class TooSlow(BaseException):
    "A command that says nothing for too long."


@contextmanager
def limited(seconds: float):
    "Ends what takes longer."

    def stop(number, frame):
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def resident(name: str) -> int:
    "Bytes of memory of this process now (VmRSS), or the most since `forget_peak` (VmHWM)."
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


@pytest.fixture
def brief(monkeypatch):
    "Ends accepted commands where their work begins."

    def accepted(*_, **__):
        raise SystemExit(0)

    substeps = generate.trajectory_substeps
    size = lambda spec: spec.n_trajectories * spec.scene.n_steps  # noqa: E731
    few = lambda spec: substeps(spec) if size(spec) < LARGEST else accepted()  # noqa: E731
    simulate, short = scene.simulate, lambda n_steps: n_steps < LARGEST / 100
    play = lambda *a, n_steps, **k: simulate(*a, n_steps=n_steps, **k) if short(n_steps) else accepted()  # noqa: E731
    monkeypatch.setattr(scene, "simulate", play)
    monkeypatch.setattr(experiment, "_trained", accepted)
    monkeypatch.setattr(generate, "trajectory_substeps", few)


def fuzz(seed: int, n: int, call, run_dir: Path, tmp_path: Path) -> tuple[list[str], str]:
    "What went wrong, one line for each command; and how many there were."
    rng, wrong, refused = random.Random(seed), [], 0
    for number in range(n):
        name, arguments, known = situation(rng, run_dir)
        own = [f"data_dir={tmp_path / 'data'}", "progress=false"] if name in ("train", "generate") else []
        line = [*arguments, *own, change(rng, known)]
        status, err = None, []
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        try:
            with limited(SECONDS):
                status, out, err = call(name, *line, folder=tmp_path / f"out{number}")
            errors = [text for text in err if text.startswith("error: ")]
            fine = status == 0 and not errors or status == 1 and len(errors) == 1
            fine = fine and "Traceback" not in out + "".join(err)
            told = "" if fine else f"status {status}, {err[-3:]}"
            refused += status == 1
        except BaseException as error:  # noqa: BLE001
            if isinstance(error, KeyboardInterrupt):
                raise
            told = f"{type(error).__name__}: {str(error)[:300]}"
        grown = resident("VmHWM") - before
        told += f" took {grown / 1e9:.1f} GB" if grown > BYTES else ""
        if told:
            wrong.append(f"{name} {' '.join(line)}: {told}")
        if LOG:
            with open(LOG, "a", encoding="utf-8") as log:
                log.write(f"{number} {name} {line[-1]} -> {told or status} {' '.join(err)}\n")
    return wrong, f"fuzz, seed {seed}: {n} overrides, {refused} refused, {len(wrong)} wrong"


def test_some_wrong_values_are_one_line(call, brief, run_dir, tmp_path):
    wrong, _ = fuzz(1, 40, call, run_dir, tmp_path)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_random_wrong_values_are_one_line(call, brief, run_dir, tmp_path, capsys):
    wrong, figures = fuzz(SEED, N, call, run_dir, tmp_path)
    with capsys.disabled():
        print(f"\n{figures}")
    assert not wrong, f"PHYSMODJAX_FUZZ_SEED={SEED}\n" + "\n".join(wrong)
