"W&B stays offline unless told, never asks, never waits long, never raises; what it stores can be read back."
import http.server
import io
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from matplotlib.figure import Figure

from physmodjax.cli.wandb_logger import WandbLogger
from physmodjax.core.sound import sound_bytes
from physmodjax.evaluation.plots import figure_png
from physmodjax.experiments.record import without_secrets

pytestmark = pytest.mark.training  # most start the process of W&B, or wait for one
KEY = "k3" * 20  # has the form of a key
REFUSING = "http://127.0.0.1:9"  # nobody listens there
PRELUDE = "import time; began = time.perf_counter(); from physmodjax.cli.wandb_logger import WandbLogger\n"


def picture() -> Figure:
    "A small figure."
    figure = Figure(figsize=(2, 1), dpi=50)
    figure.subplots().plot([0, 1, 4])
    return figure


def run_folder(folder: Path) -> Path:
    "The one run below a folder."
    (path,) = [p for p in (folder / "wandb").glob("*run-*") if p.is_dir() and not p.is_symlink()]
    return path


def records(folder: Path) -> list:
    "What W&B's own reader finds in the run below a folder."
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run_folder(folder))]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def rows(folder: Path) -> list:
    "The rows of the run below a folder."
    return [r["history"]["item"] for r in records(folder) if r["type"] == "history"]


@pytest.fixture(autouse=True)
def own_helper(monkeypatch):
    "Processes that a test starts do not share the helper process of this one."
    monkeypatch.delenv("WANDB_SERVICE", raising=False)


@pytest.fixture
def told():
    "Messages of the warnings so far."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield lambda: [str(w.message) for w in caught if "W&B" in str(w.message)]


@pytest.fixture
def server():
    "A function that starts a W&B server on this machine: it accepts runs, until told to hang up; (address, requests)."
    servers = []

    def start(status: int = 200, hang_up_after_start: bool = False):
        requests = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
                dead = hang_up_after_start and any("upsertBucket" in text for text in requests)
                requests.append(body)
                if dead:
                    return
                entity = {"id": "e", "name": "entity"}
                name = re.search(r'"name": ?"([0-9a-f]{8})"', body)
                bucket = {"id": "b", "name": name[1] if name else "run", "displayName": "run", "config": "{}",
                          "historyLineCount": 0, "project": {"id": "p", "name": "project", "entity": entity}}
                answer = {"errors": [{"message": "this key is refused"}]} if status != 200 else {"data": {
                    "upsertBucket": {"bucket": bucket, "inserted": True}, "serverInfo": {"features": []},
                    "createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}}
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}", requests

    yield start
    for one in servers:
        one.shutdown()
        one.server_close()


@pytest.fixture
def online(run_python, tmp_path):
    "A function that logs a run in mode online in a fresh process: (what it printed, the process)."

    def run(code: str = "", address: str = REFUSING, key: str = KEY, netrc: str = os.devnull, **options):
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        body = (f"logger = WandbLogger('run', mode='online', {given}); start = time.perf_counter() - began\n{code}\n"
                "logger.log({'loss': 0.5}, step=1)\nbegan = time.perf_counter(); logger.finish(); logger.finish()\n"
                "import json; print(json.dumps([logger.mode, start, time.perf_counter() - began, logger.sync_hint]))")
        env = {"WANDB_BASE_URL": address, "NETRC": netrc, "WANDB_API_KEY": key, "WANDB_SILENT": "false"}
        done = run_python("-c", PRELUDE + body, timeout=120, **env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done

    return run


# What is logged can be read

def test_all_that_is_logged_offline_is_read_back(tmp_path, told):
    "Rows, config, summary, a picture and a sound; numbers exactly, files byte for byte."
    figure, noise = picture(), np.random.default_rng(0).uniform(-1, 1, 400)
    config = {"seed": 3, "optimizer": {"rate": 1e-3, "token": "0123secret"}, "tags": ("a", "b")}
    logger = WandbLogger(tmp_path, name="first", group="pairs", tags=["x"], config=config)
    logger.log({"train/loss": np.float32(0.1), "bad": np.nan}, 1)
    logger.log({"valid/mse_rel": 0.25, "up": np.inf, "down": -np.inf, "n": np.int64(7)}, 1)
    logger.log({"train/loss": 0.05}, step=20)
    logger.figures({"media/figure": figure, "media/bytes": figure_png(figure)})
    logger.audio({"media/pair": (noise, 8000), "media/wav": sound_bytes(noise, 8000)})
    logger.figures({"late": figure}, step=30)
    logger.summary({"mse_rel": 0.2, "reason": "finished", "api_key": "0123secret"})
    logger.finish(exit_code=3)
    assert told() == [] and logger.mode == "offline"

    found, lines = records(tmp_path), rows(tmp_path)
    assert [row["_step"] for row in lines] == [1, 20, 30]
    expected = {"train/loss": float(np.float32(0.1)), "valid/mse_rel": 0.25, "n": 7}
    assert {name: lines[0][name] for name in expected} == expected
    assert [lines[0][name] for name in ("bad", "up", "down")] == ["NaN", "Infinity", "-Infinity"]
    files = run_folder(tmp_path) / "files"
    for name, data in {"figure": figure_png(figure), "bytes": figure_png(figure), "pair": sound_bytes(noise, 8000),
                       "wav": sound_bytes(noise, 8000)}.items():
        assert (files / lines[1][f"media/{name}.path"]).read_bytes() == data, name
    assert PIL.Image.open(io.BytesIO((files / lines[2]["late.path"]).read_bytes())).size == (200, 100)

    (start,) = [record["run"] for record in found if record["type"] == "run"]
    assert start["project"] == "physmodjax" and start["run_group"] == "pairs" and start["display_name"] == "first"
    stored = start["config"]["update"]
    assert {k: v for k, v in stored.items() if k != "_wandb"} == {
        "seed": 3, "optimizer": {"rate": 1e-3}, "tags": ["a", "b"]}
    summary = {k: v for r in found if r["type"] == "summary" for k, v in r["summary"]["update"].items()}
    assert summary["mse_rel"] == 0.2 and summary["reason"] == "finished"
    assert found[-1]["exit"]["exit_code"] == 3
    everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"0123secret" not in everything


def test_the_hint_names_the_run(tmp_path):
    "Both commands name paths that exist, spaces or not; it stays after the end."
    folder = tmp_path / "two words"
    logger = WandbLogger(folder)
    logger.finish()
    view, sync = logger.sync_hint.split("; ")
    assert view == f"wandb leet '{folder}/wandb'" and sync == f"wandb sync '{run_folder(folder)}'"


def test_two_runs_at_once_stay_apart(tmp_path):
    "A run that was never ended does not receive the rows of the next one."
    first, second = WandbLogger(tmp_path / "1"), WandbLogger(tmp_path / "2")
    first.log({"loss": 1.0}, 1)
    second.log({"loss": 2.0}, 1)
    second.finish()
    first.finish()
    assert [rows(tmp_path / name)[0]["loss"] for name in "12"] == [1.0, 2.0]


# Secrets

@pytest.mark.parametrize("name", [
    "api_key", "apiKey", "API-KEY", "wandb_api_key", "token", "hf_token", "accessToken", "password", "db_passwd",
    "client_secret", "credentials", "private_key", "Authorization", "secret_access_key", "auth",
    "proxy_auth", "basicAuth", "db.pwd"])
def test_secrets_are_left_out(name):
    "At any depth, in any spelling."
    config = {name: "x", "a": [{name: "x", "b": 1}], "c": {"d": {name: {"e": "x"}}}}
    assert without_secrets(config) == {"a": [{"b": 1}], "c": {"d": {}}}


def test_other_names_stay():
    "Names of this house's configuration are kept, and the argument is not changed."
    config = {"seed": 1, "key": 2, "keyframe": 3, "path": Path("a/b"), "pass": 4, "monkey": None, "author": "ann"}
    config["array"] = np.arange(2)
    kept = without_secrets(config)
    assert kept == {**config, "path": "a/b", "array": [0, 1]} and isinstance(config["path"], Path)
    assert without_secrets({"object": threading.Lock()}) == {"object": "lock"}


@pytest.mark.parametrize("text", ["https://ann:word@host/x", "mirror is ftp://ann:word@host", "s3://word@bucket/key"])
def test_addresses_lose_their_logins(text):
    assert "word" not in json.dumps(without_secrets({"mirror": [text]}))


# Offline means offline

def test_offline_never_connects(run_python, tmp_path):
    "With server and proxy set to a port of this machine, nobody comes, and nothing is printed."
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        proxies = {name: address for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY")}
        code = PRELUDE + ("logger = WandbLogger('run'); logger.log({'loss': 1.0}, 1)\n"
                          "logger.audio({'tone': ([0.0, 0.5], 8000)}); logger.finish()")
        env = {"WANDB_BASE_URL": address, "WANDB_API_KEY": KEY, "WANDB_SILENT": "false", "NO_PROXY": "", "no_proxy": "",
               "WANDB_ERROR_REPORTING": "true"}
        done = run_python("-c", code, **proxies, **env)
        assert done.returncode == 0 and done.stdout == "" and done.stderr == ""
        assert select.select([listener], [], [], 0)[0] == []
    assert rows(tmp_path / "run")[0]["loss"] == 1.0
    assert KEY.encode() not in b"".join(p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file())


@pytest.mark.slow
def test_disabled_imports_nothing(run_python, tmp_path):
    "W&B is not even imported, and no folder is made."
    code = PRELUDE + ("import sys; logger = WandbLogger('run', mode='disabled'); logger.log({'a': 1}, 0); "
                      "logger.figures({}); logger.audio({'a': 3}); logger.summary({}); logger.finish(); "
                      "assert 'wandb' not in sys.modules and logger.sync_hint == ''")
    done = run_python("-c", code)
    assert (done.returncode, done.stderr) == (0, "") and not (tmp_path / "run").exists()


@pytest.mark.parametrize("options, message", [
    ({"init_timeout": 0}, "init_timeout"), ({"finish_timeout": -1}, "finish_timeout")])
def test_wrong_settings_are_told_at_once(tmp_path, options, message):
    "The only errors there are come before the training."
    with pytest.raises(ValueError, match=message):
        WandbLogger(tmp_path, **options)


MODES = [("", 0), (None, 0), ("dryrun", 0), (" Offline", 0), ("shared", 1), ("onlin", 1), (3, 1)]


@pytest.mark.parametrize("mode, warns", MODES)
def test_no_mode_stops_a_training(tmp_path, mode, warns):
    "WANDB_MODE may hold anything; what is not known is offline."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logger = WandbLogger(tmp_path, mode=mode)
    logger.finish()
    assert logger.mode == "offline" and len(caught) == warns


HOMELESS = PRELUDE + """
import os
os.environ.pop('HOME', None) if HOME is None else os.environ.update(HOME=HOME and os.path.abspath(HOME))
os.environ.pop('XDG_CACHE_HOME', None)
logger = WandbLogger('run', mode=os.environ['WANDB_MODE']); logger.log({'loss': 1.0}, 1); logger.finish()
assert logger.mode == 'offline'
"""


@pytest.mark.parametrize(("mode", "home"), [
    ("", None),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in [
        ("  ", "."), ("offline", None), ("dryrun", None), ("offline", ""), ("offline", "/proc"),
        ("offline", "/etc/hostname"),
    ]),
])  # fmt: skip
def test_what_the_environment_lacks_is_neither_told_nor_missed(mode, home, run_python, tmp_path):
    "W&B itself stumbles over an empty mode, and its helper prints a page where there is no home."
    done = run_python("-c", f"HOME = {home!r}\n{HOMELESS}", WANDB_MODE=mode)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert rows(tmp_path / "run")[0]["loss"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["shared", "run", "onlin", "3"])
def test_a_mode_of_somebody_elses_is_one_warning(mode, run_python, tmp_path):
    done = run_python("-c", f"HOME = '.'\n{HOMELESS}", WANDB_MODE=mode)
    told = [line for line in done.stderr.splitlines() if "RuntimeWarning" in line]
    assert done.returncode == 0 and len(told) == 1 and "the run is logged offline" in told[0], done.stderr
    assert rows(tmp_path / "run")[0]["loss"] == 1.0


# Faults of the start

def check_fallback(done, result, tmp_path, message):
    "One warning, an offline run that can be read, in time."
    mode, start, finish, hint = result
    assert mode == "offline" and start < 40 and finish < 5, (start, finish)  # idle: under 15 s
    told = [line for line in done.stderr.splitlines() if "RuntimeWarning" in line]
    assert len(told) == 1 and "W&B: the run is logged offline" in told[0] and re.search(message, told[0]), done.stderr
    assert len(done.stderr.splitlines()) <= 2 and KEY not in done.stderr  # the second line is the source line
    assert rows(tmp_path / "run")[0]["loss"] == 0.5
    assert "offline-run-" in hint and run_folder(tmp_path / "run").name in hint


def test_online_without_a_key(online, tmp_path):
    "Falls to offline at once."
    result, done = online(key="")
    check_fallback(done, result, tmp_path, "No API key")


@pytest.mark.slow
def test_online_with_half_a_key(online, tmp_path):
    "A key of the wrong form is like none."
    result, done = online(key="abc")
    check_fallback(done, result, tmp_path, "API key must have")


def test_online_without_a_network(online, tmp_path):
    "A port that refuses costs init_timeout, not more."
    result, done = online(init_timeout=1.0)
    check_fallback(done, result, tmp_path, "connection refused")


@pytest.mark.slow
def test_online_with_a_silent_server(online, tmp_path):
    "A server that accepts and never answers costs init_timeout, not more."
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result, done = online(address=f"http://127.0.0.1:{listener.getsockname()[1]}", init_timeout=1.0)
    check_fallback(done, result, tmp_path, "Timed out|deadline")


@pytest.mark.slow
def test_online_with_a_key_that_is_refused(online, server, tmp_path):
    "A server that says no."
    address, _ = server(status=401)
    result, done = online(address=address)
    check_fallback(done, result, tmp_path, "this key is refused")


@pytest.mark.slow
def test_a_terminal_is_not_asked(run_python, tmp_path):
    "With a terminal that nobody types on, online without a key ends as it does without one."
    ours, theirs = pty.openpty()
    code = PRELUDE + "logger = WandbLogger('run', mode='online'); logger.finish(); print(logger.mode)"
    env = {**os.environ, "WANDB_BASE_URL": REFUSING, "NETRC": os.devnull, "TERM": "xterm", "WANDB_SILENT": "false"}
    env.pop("WANDB_API_KEY", None)
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env, stdin=theirs, stdout=theirs,
                          stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        try:
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
        text = os.read(ours, 65536).decode()
        os.close(ours)
    assert "offline" in text.split() and "paste" not in text.lower() and "choice" not in text.lower()


@pytest.mark.parametrize("where", ["below a file", "read-only"])
def test_a_folder_that_cannot_be_written(tmp_path, told, monkeypatch, where):
    "One warning, nothing is logged, and nothing is written elsewhere."
    if where == "below a file":
        (tmp_path / "file").write_text("")
        folder = tmp_path / "file/run"
    else:
        folder = tmp_path / "run"
        (folder / "wandb").mkdir(parents=True)
        (folder / "wandb").chmod(0o500)
        if os.geteuid() == 0:  # for whom every folder can be written
            import physmodjax.cli.wandb_logger as module

            def refuse(dir):
                raise PermissionError(13, "Permission denied", str(dir))

            monkeypatch.setattr(module.tempfile, "TemporaryFile", refuse)
    logger = WandbLogger(folder)
    logger.log({"loss": 1.0}, 1)
    logger.finish()
    assert logger.mode == "disabled" and logger.sync_hint == ""
    (message,) = told()
    assert message.startswith("W&B: nothing is logged: ") and "\n" not in message
    assert not list(tmp_path.rglob("*run-*"))


def test_wandb_that_cannot_be_imported(tmp_path, told, monkeypatch):
    "Missing or broken: one warning, nothing is logged."
    monkeypatch.setitem(sys.modules, "wandb", None)
    logger = WandbLogger(tmp_path, mode="online")
    logger.log({"loss": 1.0}, 1)
    logger.figures({"a": picture()})
    logger.finish()
    (message,) = told()
    assert logger.mode == "disabled" and message.startswith("W&B: nothing is logged: ") and "wandb" in message


# Faults on the way

def test_a_run_that_raises_is_survived(tmp_path, told):
    "One warning for each kind of call; finish and what follows still work."
    logger = WandbLogger(tmp_path)
    run, log = logger._run, logger._run.log
    calls = iter(range(100))

    def fail_twice(values, step):
        if next(calls) < 2:
            raise OSError(28, "No space left on device")
        log(values, step=step)

    run.log = fail_twice
    for step in range(4):
        logger.log({"loss": float(step)}, step)
    assert len(told()) == 1 and "No space left" in told()[0]
    logger.figures({"wrong": 3, "right": picture()})
    logger.audio({"loud": ([2.0, 0.0], 8000), "empty": b""})
    logger.log({"loss": 0.0}, 1)
    logger.finish()
    logger.finish()
    assert sorted(message.split()[1] for message in told()) == ["audio", "figures", "log"]
    lines = rows(tmp_path)
    assert [row["loss"] for row in lines] == [2.0, 3.0] and "right.path" in lines[1]
    logger.summary({"a": 1})
    assert "finished" in told()[-1]


@pytest.mark.slow
def test_a_helper_process_that_dies_is_survived(run_python, tmp_path):
    "W&B writes through a process of its own; without it calls fail, quickly."
    code = PRELUDE + """
import os, signal, subprocess
logger = WandbLogger('run'); logger.log({'loss': 1.0}, 0)
children = subprocess.run(['ps', '-o', 'pid=,comm=', '--ppid', str(os.getpid())],
                          capture_output=True, text=True).stdout
pids = [int(line.split()[0]) for line in children.splitlines() if 'wandb-core' in line]
for pid in pids: os.kill(pid, signal.SIGKILL)
time.sleep(0.5); began = time.perf_counter()
for step in range(1, 20): logger.log({'loss': 1.0}, step)
logger.figures({'a': b'no picture'}); logger.summary({'b': 1}); logger.finish(); logger.finish()
print(len(pids), time.perf_counter() - began)
"""
    done = run_python("-c", code, timeout=60)
    assert done.returncode == 0, done.stderr
    n_killed, seconds = done.stdout.split()
    assert int(n_killed) == 1 and float(seconds) < 10
    assert "W&B: log failed" in done.stderr


@pytest.mark.slow
def test_online_run_is_sent(online, server, tmp_path):
    "A server that answers receives the run, and no fallback happens."
    address, requests = server()
    result, done = online(address=address, config={"model": "lru", "password": "0123secret"}, finish_timeout=10.0)
    assert result[0] == "online" and max(result[1:3]) < 15, done.stderr
    assert any("UpsertBucket" in text and "lru" in text for text in requests)
    assert not any("0123secret" in text for text in requests)


@pytest.mark.slow
def test_a_network_that_fails_on_the_way(online, server, tmp_path):
    "The end waits finish_timeout, warns, and the run is on the disk."
    address, _ = server(hang_up_after_start=True)
    (mode, _, finish, hint), done = online(address=address, finish_timeout=2.0)
    assert mode == "online" and finish < 10
    assert "W&B: finish failed: TimeoutError" in done.stderr
    assert rows(tmp_path / "run")[0]["loss"] == 0.5 and run_folder(tmp_path / "run").name in hint


def test_an_interrupt_passes(tmp_path, told):
    "Ctrl-C in the middle of a call is no failure of W&B."
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    logger = WandbLogger(tmp_path)

    def interrupt(values, step):
        signal.raise_signal(signal.SIGINT)
        time.sleep(1)

    log, logger._run.log = logger._run.log, interrupt
    try:
        with pytest.raises(KeyboardInterrupt):
            logger.log({"loss": 1.0}, 0)
    finally:
        signal.signal(signal.SIGINT, before)
    logger._run.log = log
    logger.finish()
    assert told() == []
