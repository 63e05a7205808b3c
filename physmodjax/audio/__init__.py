"""Sound from motion."""

from physmodjax.audio.render import fade, field_at, normalise_peak, remove_offset, render, resample
from physmodjax.core.sound import read_sound, sound_bytes, write_sound

__all__ = ["fade", "field_at", "normalise_peak", "read_sound", "remove_offset", "render", "resample", "sound_bytes",
           "write_sound"]
