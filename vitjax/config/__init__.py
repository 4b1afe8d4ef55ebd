"""Recipes: what a run is, checked before anything is computed. Nothing here imports jax.

A recipe file is Python that edits the defaults. Run it as `vitjax train --config=configs/x.py:lr=3e-4,smoke`:

  from vitjax.config import default_config, evaluator, evaluators, parse_args, source_config

  def get_config(arg: str = ''):
    args = parse_args(arg, lr=1e-3, smoke=False)          # typed by the defaults; `:smoke` means smoke=True
    config = default_config()                             # every knob, locked: a typo raises in this file
    config.model.variant = 'S/16'
    config.optim.peak_lr = args.lr
    config.data.source = source_config(kind='image_folder', path='/data/flowers')
    config.evals = evaluators(
      val=evaluator(source=source_config(config.data.source, split='all[90%:]'), every='1 epochs'),
    )
    config.total = '2 epochs' if args.smoke else '90 epochs'
    return config

What happens to it:

1. `load_config(spec, overrides)` runs the file and applies `--config.optim.peak_lr=1e-3` style overrides,
   read by the type of the knob: 224 for a pair of pixels, (1, 2), None, '90 epochs'. Errors name file and
   line.
2. `parse_recipe(config, num_devices=...)` checks everything and returns a frozen `Recipe`, or raises one
   ConfigError that lists every problem: wrong types and ranges, unknown names, settings that nothing would
   read, knobs that contradict one another, missing files, batches that do not divide over the devices.
3. `render(recipe)` prints it; `recipe_to_json` and `recipe_from_json` store it beside checkpoints.

Durations are texts: '1000 steps', '90 epochs', '5e6 examples'. A knob that is set while another one makes it
meaningless is an error; setting a knob to its default never is. `describe_knobs()` lists every knob with
type, default, unit and source.

A group assigned to two places is one object, and an edit of one edits the other; `load_config` refuses that.
`source_config(config.data.source, split='test')` makes a copy.
"""

from __future__ import annotations

from vitjax.config.defaults import default_config, evaluator, evaluators, source_config
from vitjax.config.devices import expected_devices
from vitjax.config.durations import Duration
from vitjax.config.experiment import Cell, Claim, Course, Experiment, Measure, grid, load_experiment
from vitjax.config.knobs import KnobDoc, describe_knobs
from vitjax.config.load import apply_overrides, load_config, load_recipe, parse_args, recipe_to_config
from vitjax.config.parse import parse_recipe
from vitjax.config.processes import Launch, read_launch
from vitjax.config.render import (
  knobs_filled,
  recipe_facts,
  recipe_from_json,
  recipe_to_json,
  render,
  render_derivation,
)
from vitjax.config.schema import Recipe

__all__ = [
  'Cell',
  'Claim',
  'Course',
  'Duration',
  'Experiment',
  'KnobDoc',
  'Launch',
  'Measure',
  'Recipe',
  'apply_overrides',
  'default_config',
  'describe_knobs',
  'evaluator',
  'evaluators',
  'expected_devices',
  'grid',
  'knobs_filled',
  'load_config',
  'load_experiment',
  'load_recipe',
  'parse_args',
  'parse_recipe',
  'read_launch',
  'recipe_facts',
  'recipe_from_json',
  'recipe_to_config',
  'recipe_to_json',
  'render',
  'render_derivation',
  'source_config',
]
