"What vibrates: strings, membranes, bars, and their modal form."

from physmodjax.objects.bar import BarParameters
from physmodjax.objects.basis import Basis, SineBasis
from physmodjax.objects.coupling import Coupling, TensionCoupling, Uncoupled
from physmodjax.objects.membrane import MembraneParameters
from physmodjax.objects.modes import ModalSystem, modal_system, warn_if_aliased
from physmodjax.objects.notes import nearest_note, note_frequency
from physmodjax.objects.object import UniformObject, VibratingObject
from physmodjax.objects.presets import (
    BASS_STRING,
    MYLAR_HEAD,
    MYLAR_MEMBRANE,
    NYLON_STRING,
    PRESETS,
    STEEL_BAR,
    STEEL_GUITAR_STRING,
    STEEL_STRING,
    object_from_words,
)
from physmodjax.objects.string import StringParameters

__all__ = [
    "BASS_STRING",
    "MYLAR_HEAD",
    "MYLAR_MEMBRANE",
    "NYLON_STRING",
    "PRESETS",
    "STEEL_BAR",
    "STEEL_GUITAR_STRING",
    "STEEL_STRING",
    "BarParameters",
    "Basis",
    "Coupling",
    "MembraneParameters",
    "ModalSystem",
    "SineBasis",
    "StringParameters",
    "TensionCoupling",
    "Uncoupled",
    "UniformObject",
    "VibratingObject",
    "modal_system",
    "nearest_note",
    "note_frequency",
    "object_from_words",
    "warn_if_aliased",
]
