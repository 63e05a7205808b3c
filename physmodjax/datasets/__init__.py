"Trajectories to learn from, simulated or measured: where they come from, how they are stored, how batches are drawn."

from physmodjax.datasets.batch import Batch, check_batch
from physmodjax.datasets.dataset import Dataset, LoaderOptions
from physmodjax.datasets.format import (
    SPLITS,
    DatasetError,
    read_axes,
    read_header,
    read_manifest,
    read_scalars,
    read_split,
    read_trajectories,
    split_files,
    split_headers,
    write_trajectories,
)
from physmodjax.datasets.generate import DatasetSpec, is_complete, read_spec, spec_digest, verify
from physmodjax.datasets.importers import Facts, Field
from physmodjax.datasets.loader import (
    Loader,
    Normaliser,
    Stretch,
    TrajectoryFiles,
    load_normaliser,
    ordered_batches,
    write_statistics,
)
from physmodjax.datasets.scene import Scene
from physmodjax.datasets.windows import split_window, window_starts

__all__ = [
    "SPLITS",
    "Batch",
    "Dataset",
    "DatasetError",
    "DatasetSpec",
    "Facts",
    "Field",
    "Loader",
    "LoaderOptions",
    "Normaliser",
    "Scene",
    "Stretch",
    "TrajectoryFiles",
    "check_batch",
    "is_complete",
    "load_normaliser",
    "ordered_batches",
    "read_axes",
    "read_header",
    "read_manifest",
    "read_scalars",
    "read_spec",
    "read_split",
    "read_trajectories",
    "spec_digest",
    "split_files",
    "split_headers",
    "split_window",
    "verify",
    "window_starts",
    "write_statistics",
    "write_trajectories",
]
