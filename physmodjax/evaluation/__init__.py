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
)
from physmodjax.evaluation.trust import Drift, Known, horizon_errors, measure_drift, trust_figures, trust_line

__all__ = [
    "Drift",
    "EnergyDrift",
    "Known",
    "RelativeError",
    "energy_drift",
    "error_curve",
    "frame_sums",
    "horizon_errors",
    "log_spectral_distance",
    "measure_drift",
    "multi_resolution_error",
    "partial_errors",
    "partials",
    "pitch_track",
    "trust_figures",
    "trust_line",
]
