"""Recipe -> Run -> trained weights: `build(recipe, workdir)` makes a Run, `train(run)` is the loop."""

from vitjax.training.build import Run, build
from vitjax.training.loop import train
from vitjax.training.state import TrainState

__all__ = ['Run', 'TrainState', 'build', 'train']
