"Strings and membranes: parameters, modes, excitations and the simulation itself."

from physmodjax.solvers.contact import (
    Bow,
    ContactHistory,
    Hammer,
    choose_contact_substeps,
    simulate_contact,
)
from physmodjax.solvers.energy import Energy, energy, modal_mass
from physmodjax.solvers.excitation import (
    EXCITATIONS,
    Excitation,
    draw_shape,
    gaussian_shape,
    noise_burst_shape,
    noise_shape,
    raised_cosine_shape,
    single_mode_shape,
    triangular_shape,
)
from physmodjax.solvers.finite_difference import GridMotion, GridSystem, grid_system, simulate_finite_difference
from physmodjax.solvers.forcing import force_signal, point_forcing
from physmodjax.solvers.modes import ModalSystem, modal_system, warn_if_aliased
from physmodjax.solvers.parameters import (
    BASS_STRING,
    MYLAR_HEAD,
    MYLAR_MEMBRANE,
    NYLON_STRING,
    PRESETS,
    STEEL_STRING,
    MembraneParameters,
    StringParameters,
    nearest_note,
    note_frequency,
)
from physmodjax.solvers.pickup import bridge_force, pickup
from physmodjax.solvers.simulate import Substeps, choose_substeps, simulate

__all__ = [
    "BASS_STRING",
    "EXCITATIONS",
    "MYLAR_HEAD",
    "MYLAR_MEMBRANE",
    "NYLON_STRING",
    "PRESETS",
    "STEEL_STRING",
    "Bow",
    "ContactHistory",
    "Energy",
    "Excitation",
    "GridMotion",
    "GridSystem",
    "Hammer",
    "MembraneParameters",
    "ModalSystem",
    "StringParameters",
    "Substeps",
    "bridge_force",
    "choose_contact_substeps",
    "choose_substeps",
    "draw_shape",
    "energy",
    "force_signal",
    "gaussian_shape",
    "grid_system",
    "modal_mass",
    "modal_system",
    "nearest_note",
    "noise_burst_shape",
    "noise_shape",
    "note_frequency",
    "pickup",
    "point_forcing",
    "raised_cosine_shape",
    "simulate",
    "simulate_contact",
    "simulate_finite_difference",
    "single_mode_shape",
    "triangular_shape",
    "warn_if_aliased",
]
