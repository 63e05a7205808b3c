"One training from data to record, and the trained model that it leaves."

from physmodjax.experiments.run import FinishedRun, RunOptions, train
from physmodjax.experiments.trained import TrainedModel

__all__ = ["FinishedRun", "RunOptions", "TrainedModel", "train"]
