"Sizes and arguments with which tests run the commands quickly."
from pathlib import Path

import hydra
from omegaconf import OmegaConf

from physmodjax.cli.config import CONF

QUICK = ["logger=none", "trainer.batch_size=2", "audio.duration=0.02", "progress=false"]
SMALL = {"d_model": 24, "d_hidden": 8, "n_layers": 2, "n_modes": 4}  # largest sizes of a network in these tests
WIDTHS = {"hidden_channels": 8}  # largest widths in lists
GRU = ["model=gru", "model.network.d_model=8", "model.network.n_layers=0"]  # compiles fast


def compose(name, *arguments):
    "The configuration of a command."
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(name, list(arguments))


def shrink(part) -> None:
    "Cuts the sizes of a network down to SMALL, in place."
    for name, value in part.items():
        if OmegaConf.is_dict(value):
            shrink(value)
        elif name in SMALL and isinstance(value, int):
            part[name] = min(value, SMALL[name])
        elif name in WIDTHS and OmegaConf.is_list(value):
            part[name] = [min(width, WIDTHS[name]) for width in value]


def leftovers(folder: Path) -> list[str]:
    "Half-written files below a folder."
    return [str(path) for path in folder.rglob("*") if "tmp" in path.suffix or "orbax-checkpoint-tmp" in path.name]
