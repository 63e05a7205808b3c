"Data sets on disk: their format, their generation (physmodjax.datasets.generate), and the batches drawn from them."

from physmodjax.datasets.format import (
    SPLITS,
    DatasetError,
    read_axes,
    read_header,
    read_scalars,
    read_split,
    read_trajectories,
    split_files,
    write_trajectories,
)
from physmodjax.datasets.generate import DatasetSpec, is_complete, spec_digest, verify
from physmodjax.datasets.loader import (
    Loader,
    Normaliser,
    TrajectoryFiles,
    load_normaliser,
    ordered_batches,
    write_statistics,
)
from physmodjax.datasets.windows import split_window, window_starts

__all__ = [
    "SPLITS",
    "DatasetError",
    "DatasetSpec",
    "Loader",
    "Normaliser",
    "TrajectoryFiles",
    "is_complete",
    "load_normaliser",
    "ordered_batches",
    "read_axes",
    "read_header",
    "read_scalars",
    "read_split",
    "read_trajectories",
    "spec_digest",
    "split_files",
    "split_window",
    "verify",
    "window_starts",
    "write_statistics",
    "write_trajectories",
]
