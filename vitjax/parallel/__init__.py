"""Devices and processes: the mesh, the sharding of parameters, batches and activations, and start-up."""

from vitjax.parallel.constrain import constrain, on_mesh
from vitjax.parallel.distributed import hard_exit_on_exception, initialize, is_main
from vitjax.parallel.mesh import (
  AXES,
  BATCH_AXES,
  batch_sharding,
  local_rows,
  local_share,
  make_mesh,
  mesh_shape,
  replicated,
  to_global,
)
from vitjax.parallel.rules import (
  DEFAULT_RULES,
  ParamSharding,
  param_shardings,
  param_specs,
  sharding_table,
  shardings_like,
)

__all__ = [
  'AXES',
  'BATCH_AXES',
  'DEFAULT_RULES',
  'ParamSharding',
  'batch_sharding',
  'constrain',
  'hard_exit_on_exception',
  'initialize',
  'is_main',
  'local_rows',
  'local_share',
  'make_mesh',
  'mesh_shape',
  'on_mesh',
  'param_shardings',
  'param_specs',
  'replicated',
  'sharding_table',
  'shardings_like',
  'to_global',
]
