"A model of one's own: trained, evaluated, played and resumed by the scripts, from another folder, once it is allowed."
import json
import textwrap

import pytest

MODEL = '''
import flax.linen as nn
import jax.numpy as jnp

from physmodjax.models.model import Model


class MyModel(Model):
    "A linear recurrence from one frame to the next."

    width: int = 16

    def setup(self):
        self.lift, self.turn = nn.Dense(self.width), nn.Dense(self.width, use_bias=False)
        self.read = nn.Dense(self.channels * self.grid[0])

    def init_state(self, x0):
        return self.lift(x0.reshape(-1))

    def step(self, state, forcing=None):
        state = self.turn(state)
        return state, self.read(state).reshape(*self.grid, self.channels)
'''
QUICK = ["trainer.batch_size=2", "trainer.max_steps=2", "audio.duration=0.02", "logger=none", "progress=false"]
CHOICE = ["model=own", "model.network._target_=mymodel.MyModel", "model.network.width=8"]


@pytest.fixture
def own(tmp_path):
    "The folder in which a user works, with a module in it."
    (tmp_path / "mymodel.py").write_text(MODEL)
    return tmp_path


def test_a_model_of_ones_own_goes_through_every_command(own, run_python):
    train = run_python("scripts/train.py", *CHOICE, "allow=[mymodel]", "dataset=tiny", *QUICK, "hydra.run.dir=run")
    assert train.returncode == 0, train.stderr
    stored = json.loads((own / "run" / "metrics.json").read_text())
    assert stored["steps"] == 2 and stored["n_parameters"] == (21 * 8 + 8) + 8 * 8 + (8 * 21 + 21)
    for name, *arguments in (["evaluate", "n_steps=60"], ["render", "duration=0.02", "pluck.width=0.2"]):
        done = run_python(f"scripts/{name}.py", "run=run", *arguments)
        assert done.returncode == 1 and "allow=[mymodel]" in done.stderr and "Traceback" not in done.stderr
        done = run_python(f"scripts/{name}.py", "run=run", *arguments, "allow=[mymodel]")
        assert done.returncode == 0, done.stderr
    again = [*CHOICE, "allow=[mymodel]", "dataset=tiny", *QUICK, "trainer.max_steps=3", "resume=run"]
    done = run_python("scripts/train.py", *again)
    assert done.returncode == 0, done.stderr
    assert json.loads((own / "run" / "metrics.json").read_text())["steps"] == 3


def test_a_configuration_of_ones_own_is_found(own, run_python):
    "A YAML file beside the module, through Hydra's search path."
    (own / "mine" / "model").mkdir(parents=True)
    (own / "mine" / "model" / "mine.yaml").write_text(textwrap.dedent("""
        name: mine
        network: {_target_: mymodel.MyModel, width: 8}
        initialise: random
        fields: null
        context: 1
    """))
    path = f"hydra.searchpath=[file://{own / 'mine'}]"
    done = run_python("scripts/train.py", path, "model=mine", "allow=[mymodel]", "dataset=tiny", *QUICK)
    assert done.returncode == 0 and "mse_rel" in done.stdout, done.stderr


WRONG = {
    "no methods": "class MyModel(nn.Module):\n    width: int = 8\n",
    "no module": "class MyModel:\n    pass\n",
    "another signature": "class MyModel(Model):\n    width: int = 8\n    def __call__(self, u):\n        return u\n",
    "no step": "class MyModel(Model):\n    width: int = 8\n    def init_state(self, x0):\n        return x0\n",
    "a module that does not import": "import nothing_of_that_name\n",
    "a name that is not there": "class Other(Model):\n    pass\n",
}


SAID = ("mymodel", "__call__(self, x0, n_steps, forcing=None)", "expected a subclass of Model")


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_model_is_one_line(case, own, run_python):
    head = "import flax.linen as nn\n\nfrom physmodjax.models.model import Model\n\n\n"
    (own / "mymodel.py").write_text(head + WRONG[case])
    done = run_python("scripts/train.py", *CHOICE, "allow=[mymodel]", "dataset=tiny", *QUICK)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert any(words in lines[0] for words in SAID)


def test_options_of_ones_own_model_need_no_plus_sign(own, run_python):
    done = run_python("scripts/train.py", *CHOICE, "model.network.widht=8", "allow=[mymodel]", "dataset=tiny", *QUICK)
    assert "option of MyModel: got 'widht'" in done.stderr and "did you mean width?" in done.stderr
