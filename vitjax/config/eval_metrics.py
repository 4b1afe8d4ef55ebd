"""What each kind of evaluator reads and reports: its own knobs, and the names of its metrics."""

from __future__ import annotations

from vitjax.config.schema import EvalConfig

# Evaluators of the model's own head, whose classes must be those of the training source.
HEAD_KINDS = ('classification', 'multilabel')
# Evaluators of frozen features: they read train_source, and no head.
FEATURE_KINDS = ('fewshot', 'knn', 'linear_probe')
# Knobs of EvalConfig that one kind alone reads. The linear probe reads held_out where there is a choice of probe_l2.
KIND_KNOBS = {
  'classification': ('image_sizes', 'patch_sizes', 'real_labels'),
  'fewshot': ('shots', 'num_draws', 'ridge_l2'),
  'knn': ('num_neighbours', 'temperature'),
  'linear_probe': ('probe_l2', 'held_out'),
}


def fewshot_metric(config: EvalConfig, shots: int, l2: float) -> str:
  """Returns 'accuracy_5shot', or 'accuracy_5shot_l2_1024' where several penalties are tried."""
  return f'accuracy_{shots}shot' + (f'_l2_{l2:g}' if len(config.ridge_l2) > 1 else '')


def knn_metric(num_neighbours: int) -> str:
  """Returns 'accuracy_20nn'."""
  return f'accuracy_{num_neighbours}nn'


def size_suffixes(config: EvalConfig) -> dict[tuple[int | None, int | None], str]:
  """Returns {(image size, patch size): end of its metrics' names}; None stands for the model's own size.

  '_64px', '_patch8' or '_64px_patch8' where several sizes are judged, else ''.
  """
  found = {}
  for image_size in config.image_sizes or (None,):
    for patch_size in config.patch_sizes or (None,):
      image = f'_{image_size}px' if len(config.image_sizes) > 1 else ''
      found[image_size, patch_size] = image + (f'_patch{patch_size}' if len(config.patch_sizes) > 1 else '')
  return found


def best_metrics(config: EvalConfig) -> tuple[str, ...]:
  """Returns the metrics of an evaluator of which the largest value is the best."""
  if config.kind == 'fewshot':
    return tuple(fewshot_metric(config, shots, l2) for shots in config.shots for l2 in config.ridge_l2)
  if config.kind == 'attention':
    return ()
  if config.kind == 'knn':
    return tuple(knn_metric(num) for num in config.num_neighbours)
  if config.kind == 'multilabel':
    return ('mean_average_precision',)
  if config.kind == 'linear_probe':
    return ('accuracy_top1',)
  suffixes = size_suffixes(config).values()
  metrics = ['accuracy_top1', 'accuracy_top5', 'accuracy_per_class']
  metrics += [] if config.real_labels is None else ['accuracy_real']
  return tuple(f'{metric}{end}' for end in suffixes for metric in metrics)
