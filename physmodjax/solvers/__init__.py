"Strings and membranes: parameters, modes, excitations and the simulation itself."

from physmodjax.solvers.excitation import Excitation, draw_shape, gaussian_shape, noise_shape
from physmodjax.solvers.modes import ModalSystem, modal_system, warn_if_aliased
from physmodjax.solvers.parameters import (
    MYLAR_MEMBRANE,
    NYLON_STRING,
    PRESETS,
    STEEL_STRING,
    MembraneParameters,
    StringParameters,
)
from physmodjax.solvers.simulate import Substeps, choose_substeps, simulate

__all__ = [
    "MYLAR_MEMBRANE",
    "NYLON_STRING",
    "PRESETS",
    "STEEL_STRING",
    "Excitation",
    "MembraneParameters",
    "ModalSystem",
    "StringParameters",
    "Substeps",
    "choose_substeps",
    "draw_shape",
    "gaussian_shape",
    "modal_system",
    "noise_shape",
    "simulate",
    "warn_if_aliased",
]
