"""Checkpoints: a run's Store, reading one anywhere (restore_params, read_meta), starting from old weights."""

from vitjax.checkpoint.manifest import DamagedCheckpoint
from vitjax.checkpoint.reading import StepDir, has_checkpoints, open_checkpoint, read_meta, restore_params
from vitjax.checkpoint.saver import Saver
from vitjax.checkpoint.store import Restored, Store
from vitjax.checkpoint.transfer import TransferReport, explain_differences, initialize_from

__all__ = [
  'DamagedCheckpoint',
  'Restored',
  'Saver',
  'StepDir',
  'Store',
  'TransferReport',
  'explain_differences',
  'has_checkpoints',
  'initialize_from',
  'open_checkpoint',
  'read_meta',
  'restore_params',
]
