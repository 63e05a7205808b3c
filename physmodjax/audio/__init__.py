"""Sound from motion."""

from physmodjax.audio.render import fade, normalise_peak, pickup, read_wav, render, resample, wav_bytes, write_wav

__all__ = ["fade", "normalise_peak", "pickup", "read_wav", "render", "resample", "wav_bytes", "write_wav"]
