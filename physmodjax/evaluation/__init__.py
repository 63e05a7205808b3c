"""Metrics, plots and reports. Plots and reports load matplotlib and are imported by their own names."""

from physmodjax.evaluation.metrics import (
    EnergyDrift,
    RelativeError,
    energy_drift,
    error_curve,
    frame_sums,
    log_spectral_distance,
    multi_resolution_error,
    partial_errors,
    partials,
    pitch_track,
    stft_magnitude,
)

__all__ = [
    "EnergyDrift",
    "RelativeError",
    "energy_drift",
    "error_curve",
    "frame_sums",
    "log_spectral_distance",
    "multi_resolution_error",
    "partial_errors",
    "partials",
    "pitch_track",
    "stft_magnitude",
]
