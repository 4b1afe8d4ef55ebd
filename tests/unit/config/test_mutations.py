"""Every way to get a recipe wrong that we know of: refused, at the right path, with a next step."""

import pathlib
import subprocess
import sys
import time

import pytest

from vitjax.config import default_config, evaluator, load_config, parse_recipe, source_config
from vitjax.config.checks.ignored import EVAL_USES, SOURCE_USES, USES, VIT_ONLY
from vitjax.config.knobs import walk
from vitjax.errors import ConfigError

RECIPE = str(pathlib.Path(__file__).parent / 'recipes' / 'pretrain.py')
HERE = str(pathlib.Path(__file__).parent)


def apply(config, edits):
  """Assigns {dotted path: value}, as a recipe file would."""
  for path, value in edits.items():
    path, _, name = path.rpartition('.')
    group = config[path] if path else config
    group.unlock()
    setattr(group, name, value)
  return config


def problems_of(edits, num_devices=8):
  with pytest.raises(ConfigError) as caught:
    parse_recipe(apply(load_config(RECIPE), edits), num_devices=num_devices)
  return caught.value.problems


# (edits, path of the problem, a part of its expectation or hint)
# Masked patch prediction as it should be set.
MASKED = {'objective.name': 'masked_patch', 'model.num_classes': 0, 'evals': {}}

MUTATIONS = [
  # Names
  ({'optim.peek_lr': 1e-3}, 'optim.peek_lr', 'optim.peak_lr'),
  ({'batch_size': 32}, 'batch_size', 'data.batch_size'),
  ({'optim.lr': 0.1}, 'optim.lr', 'optim.peak_lr'),
  ({'model.Width': 64}, 'model.Width', 'model.width'),
  ({'evals.val.evry': '1 epochs'}, 'evals.val.evry', 'evals.val.every'),
  ({'evals.my-val': evaluator()}, 'evals.my-val', "'my_val'"),
  ({'evals.1st': evaluator()}, 'evals.1st', 'letters'),
  ({'model': 'B/16'}, 'model', 'model.variant'),
  ({'evals.val': 'val'}, 'evals.val', 'a group of knobs'),
  ({'evals': 3}, 'evals', 'evaluators'),
  ({'data': {'batch_size': 8}}, 'data', 'instead of replacing'),
  ({'data.source': {'kind': 'digits'}}, 'data.source', 'source_config'),
  # Types
  ({'data.batch_size': '64'}, 'data.batch_size', 'Write 64 without quotes'),
  ({'data.batch_size': 64.0}, 'data.batch_size', 'Write 64'),
  ({'data.batch_size': True}, 'data.batch_size', 'bool'),
  ({'data.batch_size': None}, 'data.batch_size', 'None'),
  ({'optim.peak_lr': '1e-3'}, 'optim.peak_lr', 'without quotes'),
  ({'optim.peak_lr': True}, 'optim.peak_lr', 'bool'),
  ({'data.mixup_alpha': True}, 'data.mixup_alpha', 'bool'),
  ({'optim.peak_lr': float('nan')}, 'optim.peak_lr', 'NaN'),
  ({'optim.weight_decay': float('inf')}, 'optim.weight_decay', 'infinity'),
  ({'optim.clip_norm': float('inf')}, 'optim.clip_norm', 'infinity'),
  ({'optim.peak_lr': 10**400}, 'optim.peak_lr', 'infinity'),
  ({'data.flip': 1}, 'data.flip', 'Write True'),
  ({'data.flip': 'yes'}, 'data.flip', 'True or False'),
  ({'data.image_size': (32,)}, 'data.image_size', 'two integers'),
  ({'data.image_size': (32, 32, 3)}, 'data.image_size', '3 given'),
  ({'data.image_size': (32.0, 32.0)}, 'data.image_size', 'Write 32'),
  ({'data.crop_area': 0.5}, 'data.crop_area', '(0.5, 0.5)'),
  ({'data.mean': 0.5}, 'data.mean', '(0.5, 0.5, 0.5)'),
  ({'optim.freeze': 'head/.*'}, 'optim.freeze', "('head/.*',)"),
  ({'optim.freeze': (1,)}, 'optim.freeze', 'a tuple of texts'),
  ({'parallel.rules': (('head/kernel',),)}, 'parallel.rules', 'pairs'),
  ({'model.variant': 16}, 'model.variant', 'a text'),
  ({'model.variant': None}, 'model.variant', 'needs a value'),
  ({'model.qk_norm': 'false'}, 'model.qk_norm', 'True or False'),
  ({'seed': 1.5}, 'seed', 'an integer'),
  # Durations
  ({'total': 90}, 'total', "'90 epochs'"),
  ({'total': '90'}, 'total', '90 epochs'),
  ({'total': '90 epocs'}, 'total', "'epochs'"),
  ({'total': '-5 epochs'}, 'total', 'duration'),
  ({'total': '1.5 steps'}, 'total', 'whole numbers'),
  ({'total': '1e999 epochs'}, 'total', 'too long'),
  ({'total': '0 steps'}, 'total', 'above 0'),
  ({'stop_after': '0 steps'}, 'stop_after', 'above 0'),
  ({'log.every': '0 steps'}, 'log.every', '1 steps'),
  ({'checkpoint.every': '0 epochs'}, 'checkpoint.every', '1 epochs'),
  ({'evals.val.every': '0 epochs'}, 'evals.val.every', '1 epochs'),
  ({'optim.warmup': '101 steps'}, 'optim.warmup', '100 steps'),
  ({'optim.warmup': '7000 examples'}, 'optim.warmup', '100 steps'),
  ({'optim.schedule': 'rsqrt', 'optim.cooldown': '101 steps'}, 'optim.cooldown', '100 steps'),
  ({'optim.schedule': 'constant', 'optim.cooldown': '91 steps'}, 'optim.cooldown', '10 steps leaves less'),
  ({'stop_after': '101 steps'}, 'stop_after', '100 steps'),
  ({'optim.schedule': 'staircase'}, 'optim.stairs', 'at least one'),
  ({'optim.schedule': 'staircase', 'optim.stairs': ('50 steps', '20 steps')}, 'optim.stairs', 'increasing'),
  (
    {'optim.schedule': 'staircase', 'optim.stairs': ('50 steps', '100 steps')},
    'optim.stairs',
    'never reached',
  ),
  ({'optim.schedule': 'staircase', 'optim.stairs': ('5 steps',)}, 'optim.stairs', 'inside it'),
  ({'optim.schedule': 'staircase', 'optim.stairs': ('50 stps',)}, 'optim.stairs', "'steps'"),
  ({'total': '1e300 steps', 'stop_after': '2e300 steps'}, 'stop_after', '1000000'),
  # Absurd sizes: refused soon, in a short message
  ({'data.image_size': 10**30 + 1}, 'data.image_size', 'Nearest sizes: 1000000'),
  ({'data.batch_size': 10**12 + 1}, 'data.batch_size', 'Nearest: 1000000000000'),
  ({'data.batch_size': 10**12, 'optim.accumulation_steps': 7}, 'optim.accumulation_steps', 'Nearest: 1'),
  ({'seed': 10**5000}, 'seed', '4294967295'),
  ({'data.source.split': 'train[' + '9' * 5000 + ':1]'}, 'data.source.split', 'ends before'),
  ({'data.source.kind': 'manifest', 'data.source.path': 'x' * 5000}, 'data.source.path', 'exist'),
  ({'data.source.kind': 'manifest', 'data.source.path': 'a\0b'}, 'data.source.path', 'exist'),
  (
    {'data.source.kind': 'manifest', 'data.source.path': '~nobody-here/x'},
    'data.source.path',
    'cannot exist',
  ),
  ({'model.variant': 'B/' + '9' * 5000}, 'model.variant', 'limit'),
  ({'optim.freeze': ('(' * 5000,)}, 'optim.freeze', 'regular expression'),
  # Choices and ranges
  ({'optim.name': 'adam'}, 'optim.name', "'adamw'"),
  ({'optim.schedule': 'Cosine'}, 'optim.schedule', "'cosine'"),
  ({'model.dtype': 'bf16'}, 'model.dtype', "'bfloat16'"),
  ({'model.pool': 'cls'}, 'model.pool', "'token', 'gap', 'map'"),
  ({'data.source.kind': 'mnist'}, 'data.source.kind', 'mnist'),
  ({'evals.val.kind': 'clasification'}, 'evals.val.kind', "'classification'"),
  ({'data.batch_size': 0}, 'data.batch_size', 'smallest allowed value is 1'),
  ({'optim.peak_lr': -1e-3}, 'optim.peak_lr', '>= 0'),
  ({'model.dropout_rate': 1.0}, 'model.dropout_rate', '0.99'),
  ({'objective.label_smoothing': 1.5}, 'objective.label_smoothing', '0.99'),
  ({'data.mean': (127.5, 127.5, 127.5)}, 'data.mean', 'share of 255'),
  ({'data.std': (0.5, 0.5, 0.0)}, 'data.std', '1e-06'),
  ({'data.image_size': (0, 32)}, 'data.image_size', '>= 1'),
  ({'seed': -1}, 'seed', '0'),
  ({'seed': 2**32}, 'seed', str(2**32 - 1)),
  ({'optim.b2': 1.0}, 'optim.b2', 'less than 1'),
  ({'optim.b1': 1.0}, 'optim.b1', 'less than 1'),
  ({'optim.ema_decay': 1.0}, 'optim.ema_decay', '0.9999'),
  ({'optim.end_lr': 0.01}, 'optim.end_lr', 'optim.peak_lr = 0.001'),
  ({'optim.layer_decay': 0.0}, 'optim.layer_decay', '0.01'),
  ({'checkpoint.keep_last': 0}, 'checkpoint.keep_last', '1'),
  # Model
  ({'model.variant': 'B16'}, 'model.variant', "'B/16'"),
  ({'model.variant': 'b/16'}, 'model.variant', "'B/16'"),
  ({'model.variant': 'R50+B/8'}, 'model.variant', 'R50+'),
  ({'model.variant': 'R51x1'}, 'model.variant', 'R50x1'),
  ({'model.variant': ''}, 'model.variant', 'is not'),
  ({'model.num_heads': 5}, 'model.num_heads', '4 or 6'),
  ({'model.width': 400}, 'model.width', '396 or 402'),
  ({'model.width': 390, 'model.position': 'sincos_2d'}, 'model.width', '388 or 392'),
  ({'model.width': 51, 'model.num_heads': 3, 'model.position': 'learned_2d'}, 'model.width', '50 or 52'),
  ({'data.image_size': 40}, 'data.image_size', '32 or 48'),
  ({'data.image_size': (32, 50)}, 'data.image_size', '48 or 64 wide'),
  ({'data.image_size': 10}, 'data.image_size', 'Nearest sizes: 16'),
  ({'model.variant': 'R50+S/32', 'data.image_size': 48}, 'data.image_size', 'stem'),
  ({'model.patch_size': 15}, 'model.patch_size', '8 or 16'),
  ({'model.variant': 'R26+S/32', 'model.patch_size': 2}, 'model.patch_size', 'Nearest patches: 1'),
  ({'model.num_classes': 5}, 'model.num_classes', 'at least 10'),
  ({'model.num_classes': 0}, 'model.num_classes', 'at least 2'),
  ({'model.num_classes': 1}, 'model.num_classes', 'softmax'),
  ({'model.position': 'none', 'model.position_at': 'every_layer'}, 'model.position_at', 'model.position'),
  ({'model.num_classes': 0, 'model.head_bias_init': -10.0}, 'model.head_bias_init', 'model.num_classes'),
  (
    {'model.position': 'sincos_2d', 'model.position_at': 'every_layer'},
    'model.position_at',
    'every_layer_shared',
  ),
  # Data
  ({'data.source.kind': 'tfds', 'data.source.num_classes': None}, 'data.source.name', 'cifar10'),
  ({'data.source.kind': 'tfds', 'data.source.name': 'cifar10:1'}, 'data.source.name', 'three parts'),
  ({'data.source.kind': 'image_folder'}, 'data.source.path', 'needs it'),
  ({'evals.val.source.kind': 'manifest'}, 'evals.val.source.path', 'needs it'),
  ({'data.source.kind': 'array_record'}, 'data.source.path', 'needs it'),
  ({'data.source.kind': 'tfrecord'}, 'data.source.path', 'needs it'),
  (
    {'data.source.kind': 'image_folder', 'data.source.path': HERE + '/recipe'},
    'data.source.path',
    HERE + '/recipes?',
  ),
  (
    {'data.source.kind': 'image_folder', 'data.source.path': HERE + '/xyz/train'},
    'data.source.path',
    "no 'xyz'",
  ),
  ({'data.source.kind': 'image_folder', 'data.source.path': RECIPE}, 'data.source.path', 'not a file'),
  ({'data.source.kind': 'manifest', 'data.source.path': HERE}, 'data.source.path', 'not a folder'),
  (
    {'data.source.kind': 'tfrecord', 'data.source.path': HERE + '/*.tfrecord'},
    'data.source.path',
    'does not exist',
  ),
  (
    {'data.source.kind': 'manifest', 'data.source.path': '~/no list.csv'},
    'data.source.path',
    'does not exist',
  ),
  ({'data.source.path': HERE}, 'data.source.path', 'data.source.kind'),
  ({'data.source.name': 'cifar10'}, 'data.source.name', "'tfds'"),
  ({'data.source.label': 'coarse_label'}, 'data.source.label', "'tfds'"),
  ({'data.source.kind': 'digits', 'data.source.num_examples': 9}, 'data.source.num_examples', "'synthetic'"),
  (
    {'data.source.kind': 'digits', 'data.source.num_classes': 9},
    'data.source.num_classes',
    '10, the classes',
  ),
  ({'data.source.kind': 'fashion_mnist'}, 'data.source.path', 'needs it'),
  ({'data.source.max_corrupt': 3}, 'data.source.max_corrupt', "'image_folder'"),
  ({'evals.val.source.subset_seed': 3}, 'evals.val.source.subset_seed', 'examples_per_class'),
  ({'data.source.split': 'train[90%]'}, 'data.source.split', "'train[from:to]'"),
  ({'data.source.split': 'train[:90'}, 'data.source.split', "'train"),
  ({'data.source.split': ''}, 'data.source.split', 'Name the split'),
  ({'data.source.split': 'train[:190%]'}, 'data.source.split', '100%'),
  ({'data.source.split': 'train[50:50]'}, 'data.source.split', 'ends before'),
  ({'data.source.split': 'train+'}, 'data.source.split', 'Name the split'),
  ({'data.source.split': 'train[1.5:]'}, 'data.source.split', "'train[from:to]'"),
  ({'evals.val.source.split': 'test[80%:20%]'}, 'evals.val.source.split', 'ends before'),
  ({'data.crop': 'resize', 'data.crop_area': (0.3, 1.0)}, 'data.crop_area', "'inception'"),
  ({'data.crop': 'shift', 'data.crop_ratio': (0.9, 1.1)}, 'data.crop_ratio', "'inception'"),
  ({'data.augment_on': 'device'}, 'data.augment_on', 'data.randaugment_layers'),
  ({'data.shift': 2}, 'data.shift', "'shift'"),
  ({'data.precrop_size': 36}, 'data.precrop_size', "'random'"),
  ({'data.crop': 'random'}, 'data.precrop_size', 'at least 32'),
  ({'data.crop': 'random', 'data.precrop_size': 31}, 'data.precrop_size', 'at least 32'),
  ({'data.crop': 'shift', 'data.shift': 32}, 'data.shift', '31'),
  ({'data.crop_area': (1.0, 0.05)}, 'data.crop_area', '(0.05, 1.0)'),
  ({'data.crop_area': (0.0, 1.0)}, 'data.crop_area', 'above 0'),
  ({'data.crop_ratio': (2.0, 0.5)}, 'data.crop_ratio', '(0.5, 2.0)'),
  ({'evals.val.resize_short': 28}, 'evals.val.resize_short', 'at least 32'),
  # Optimiser
  ({'optim.momentum': 0.8}, 'optim.momentum', "'sgd'"),
  ({'optim.nesterov': True}, 'optim.nesterov', "'sgd'"),
  ({'optim.name': 'sgd', 'optim.b1': 0.95}, 'optim.b1', "'adamw'"),
  ({'optim.name': 'sgd', 'optim.b2': 0.99}, 'optim.b2', "'adamw'"),
  ({'optim.name': 'sgd', 'optim.eps': 1e-6}, 'optim.eps', "'adamw'"),
  (
    {'optim.name': 'sgd', 'optim.momentum': 0, 'optim.nesterov': True},
    'optim.nesterov',
    'optim.momentum above 0',
  ),
  (
    {'optim.name': 'sgd', 'optim.momentum': 0.0, 'optim.momentum_dtype': 'bfloat16'},
    'optim.momentum_dtype',
    'optim.momentum above 0',
  ),
  ({'optim.schedule': 'rsqrt', 'optim.end_lr': 1e-5}, 'optim.end_lr', "'cosine' or 'linear'"),
  ({'optim.rsqrt_timescale': '5 steps'}, 'optim.rsqrt_timescale', "'rsqrt'"),
  ({'optim.cooldown': '5 steps'}, 'optim.cooldown', "'rsqrt' or 'constant'"),
  ({'optim.stairs': ('5 steps',)}, 'optim.stairs', "'staircase'"),
  ({'optim.stair_factor': 0.5}, 'optim.stair_factor', "'staircase'"),
  ({'optim.schedule': 'rsqrt', 'optim.rsqrt_timescale': '0 epochs'}, 'optim.rsqrt_timescale', 'above 0'),
  ({'optim.factor_min_dim': 8}, 'optim.factor_min_dim', "'adafactor'"),
  ({'optim.name': 'lion', 'optim.eps': 1e-6}, 'optim.eps', "'lamb'"),
  ({'optim.name': 'lamb', 'optim.momentum': 0.8}, 'optim.momentum', "'muon'"),
  ({'optim.name': 'lamb', 'optim.weight_decay_form': 'independent'}, 'optim.weight_decay_form', "'lion'"),
  ({'optim.name': 'adafactor', 'optim.b1': 0.8}, 'optim.b1', "'muon'"),
  ({'optim.name': 'lion', 'optim.b2': 1.0}, 'optim.b2', 'less than 1'),
  ({'optim.gsam_alpha': 0.5}, 'optim.gsam_alpha', 'optim.sam_rho above 0'),
  ({'optim.sam_rho_end': 0.5}, 'optim.sam_rho_end', 'optim.sam_rho above 0'),
  (
    {'optim.schedule': 'constant', 'optim.sam_rho': 0.1, 'optim.sam_rho_end': 0.1},
    'optim.sam_rho_end',
    'unless the rate falls',
  ),
  (
    {'resilience.spike_factor': None, 'resilience.spike_window': 9},
    'resilience.spike_window',
    'spike_factor set',
  ),
  (
    {'resilience.spike_factor': None, 'resilience.on_spike': 'rollback'},
    'resilience.on_spike',
    'spike_factor set',
  ),
  ({'report.num_mistakes': 5}, 'report.num_mistakes', 'report.evals'),
  ({'report.evals': ('vla',)}, 'report.evals', "'val'"),
  ({'data.source.empty_classes': 'leave_out'}, 'data.source.empty_classes', "'image_folder'"),
  ({'data.source.multi_label': True}, 'data.source.multi_label', "'manifest'"),
  ({'evals.val.kind': 'multilabel'}, 'evals.val.source.multi_label', 'True with'),
  ({'resilience.spike_skip': 2}, 'resilience.spike_skip', "'rollback'"),
  ({'resilience.replica_check_every': '0 steps'}, 'resilience.replica_check_every', 'above 0'),
  ({'optim.weight_decay': 0, 'optim.weight_decay_form': 'independent'}, 'optim.weight_decay_form', 'above 0'),
  ({'optim.weight_decay': 0, 'optim.weight_decay_on': '.*'}, 'optim.weight_decay_on', 'above 0'),
  ({'optim.weight_decay_on': '*kernel'}, 'optim.weight_decay_on', "'.*kernel'"),
  ({'optim.freeze': ('head/(.*',)}, 'optim.freeze', 'regular expression'),
  ({'optim.accumulation_steps': 3}, 'optim.accumulation_steps', '2 or 4'),
  (
    {'optim.peak_lr': 0, 'optim.weight_decay_form': 'independent'},
    'optim.peak_lr',
    'above 0',
  ),
  # Mesh
  ({'parallel.data': 0}, 'parallel.data', '-1'),
  ({'parallel.data': 4}, 'parallel.data', '-1 or 8'),
  ({'parallel.data': -2}, 'parallel.data', '-1'),
  ({'parallel.fsdp': 3}, 'parallel.fsdp', '2 or 4'),
  ({'parallel.model': 16}, 'parallel.model', 'Nearest: 8'),
  ({'parallel.model': 2, 'parallel.fsdp': 8}, 'parallel.fsdp', 'Nearest: 4'),
  ({'data.batch_size': 60}, 'data.batch_size', '56 or 64'),
  ({'data.batch_size': 4}, 'data.batch_size', 'Nearest: 8'),
  ({'optim.accumulation_steps': 16}, 'data.batch_size', 'a multiple of 128'),
  ({'evals.val.batch_size': 50}, 'evals.val.batch_size', '48 or 56'),
  ({'parallel.rules': (('head/(', 'fsdp'),)}, 'parallel.rules[0]', 'regular expression'),
  ({'parallel.rules': (('head/.*', 'fdsp'),)}, 'parallel.rules[0]', "'fsdp'"),
  ({'parallel.rules': (('head/.*', 'fsdp,fsdp'),)}, 'parallel.rules[0]', 'at most once'),
  # Checkpoints and initialisation
  ({'checkpoint.keep_best': 'accuracy'}, 'checkpoint.keep_best', 'val/accuracy_top1'),
  ({'checkpoint.keep_best': 'vall/accuracy_top1'}, 'checkpoint.keep_best', "'val/accuracy_top1'"),
  ({'checkpoint.keep_best': 'val/loss'}, 'checkpoint.keep_best', 'largest'),
  ({'evals': {}, 'checkpoint.keep_best': 'val/accuracy_top1'}, 'checkpoint.keep_best', 'no evaluators'),
  ({'init.head': 'keep'}, 'init.head', 'init.checkpoint'),
  ({'init.head': 'probe'}, 'init.head', 'init.checkpoint'),
  ({'init.checkpoint': HERE, 'init.head': 'probe', **MASKED}, 'init.head', 'logistic regression'),
  ({'init.checkpoint': HERE, 'init.head': 'probe', 'objective.loss': 'sigmoid'}, 'init.head', 'softmax'),
  ({'init.position_resize': 'bicubic'}, 'init.position_resize', 'init.checkpoint'),
  ({'init.checkpoint': HERE + '/recipez'}, 'init.checkpoint', HERE + '/recipes?'),
  (
    {'init.checkpoint': 'gs://b/run', 'init.position_resize': 'bicubic', 'model.position': 'sincos_2d'},
    'init.position_resize',
    "'learned_1d' or 'learned_2d'",
  ),
  (
    {'model.variant': 'R50x1', 'init.checkpoint': 'gs://b/run', 'init.position_resize': 'bicubic'},
    'init.position_resize',
    'a transformer variant',
  ),
  ({'model.variant': 'R50x1', 'optim.layer_decay': 0.8}, 'optim.layer_decay', 'a transformer variant'),
  ({'objective.corrupt_rate': 0.4}, 'objective.corrupt_rate', "objective.name = 'masked_patch'"),
  ({**MASKED, 'objective.loss': 'sigmoid'}, 'objective.loss', "objective.name = 'classification'"),
  ({**MASKED, 'objective.label_smoothing': 0.1}, 'objective.label_smoothing', "= 'classification'"),
  ({**MASKED, 'data.cutmix_alpha': 0.1}, 'data.cutmix_alpha', "objective.name = 'classification'"),
  ({'data.randaugment_magnitude': 5.0}, 'data.randaugment_magnitude', 'data.randaugment_layers above 0'),
  ({**MASKED, 'data.mixup_alpha': 0.1}, 'data.mixup_alpha', "objective.name = 'classification'"),
  ({**MASKED, 'model.num_classes': None}, 'model.num_classes', 'no head'),
  ({**MASKED, 'model.variant': 'R50x1'}, 'model.variant', 'no patches'),
]

# Knobs of evaluators' train_source, with a value that is no default.
TRAIN_SOURCE_VALUES = {
  'kind': 'digits', 'path': HERE, 'name': 'cifar10', 'label': 'x', 'split': 'test', 'examples_per_class': 5,
  'subset_seed': 1, 'num_examples': 32, 'num_classes': 3, 'max_corrupt': 1, 'split_seed': 1,
  'empty_classes': 'leave_out', 'multi_label': True,
}  # fmt: skip


def frozen(kind, **edits):
  """Returns edits that make evals.val an evaluator of frozen features, then change some of its knobs."""
  train_source = source_config(kind='synthetic', num_classes=10)
  edits = {f'evals.val.{name}': value for name, value in edits.items()}
  return {'evals.val.kind': kind, 'evals.val.train_source': train_source} | edits


MUTATIONS += [
  (
    frozen('classification', train_source=source_config(**{name: value})),
    f'evals.val.train_source.{name}',
    "'knn'",
  )
  for name, value in TRAIN_SOURCE_VALUES.items()
]
MUTATIONS += [
  ({'evals.val.shots': (5,)}, 'evals.val.shots', "evals.val.kind = 'fewshot'"),
  ({'evals.val.num_draws': 1}, 'evals.val.num_draws', "'fewshot'"),
  ({'evals.val.ridge_l2': (1.0,)}, 'evals.val.ridge_l2', "'fewshot'"),
  ({'evals.val.num_neighbours': (5,)}, 'evals.val.num_neighbours', "'knn'"),
  ({'evals.val.temperature': 0.1}, 'evals.val.temperature', "'knn'"),
  ({'evals.val.probe_l2': (1.0,)}, 'evals.val.probe_l2', "'linear_probe'"),
  ({'evals.val.held_out': 0.1}, 'evals.val.held_out', "'linear_probe'"),
  (frozen('linear_probe', probe_l2=(1.0,), held_out=0.1), 'evals.val.held_out', 'several values'),
  (frozen('knn', shots=(5,)), 'evals.val.shots', "'fewshot'"),
  (frozen('fewshot', shots=()), 'evals.val.shots', 'at least one value'),
  (frozen('fewshot', shots=(5, 1, 5)), 'evals.val.shots', '5 stands there twice'),
  (frozen('fewshot', shots=5), 'evals.val.shots', 'a tuple of integers'),
  (frozen('fewshot', shots=(0,)), 'evals.val.shots', '1'),
  (frozen('fewshot', ridge_l2=(1.0, 1.0000000001)), 'evals.val.ridge_l2', 'twice'),
  (frozen('fewshot', ridge_l2=(0.0,)), 'evals.val.ridge_l2', '1e-06'),
  (frozen('knn', num_neighbours=()), 'evals.val.num_neighbours', 'at least one value'),
  (frozen('knn', temperature=0.0), 'evals.val.temperature', '0.001'),
  (frozen('linear_probe', probe_l2=()), 'evals.val.probe_l2', 'at least one value'),
  (frozen('linear_probe', held_out=1.0), 'evals.val.held_out', '0.9'),
  ({'evals.val.kind': 'knn'}, 'evals.val.train_source.kind', 'nothing is set'),
  ({'evals.val.kind': 'kknn'}, 'evals.val.kind', "'knn'"),
  ({**frozen('knn'), 'evals.val.source.split': 'train'}, 'evals.val.train_source.split', 'the test'),
  (frozen('knn', train_source=source_config(kind='tfds')), 'evals.val.train_source.name', 'cifar10'),
  (
    {**frozen('knn'), 'checkpoint.keep_best': 'val/accuracy_top1'},
    'checkpoint.keep_best',
    'val/accuracy_20nn',
  ),
]

# Knobs of transformers, with a value that is no default.
VIT_VALUES = {
  'width': 64, 'depth': 2, 'mlp_dim': 64, 'num_heads': 4, 'patch_size': 8, 'patch_sizes': (8, 16), 'pool': 'gap',
  'position': 'none', 'position_at': 'every_layer', 'representation_size': 32, 'num_registers': 1, 'dropout_rate': 0.1,
  'attention_dropout_rate': 0.1, 'stochastic_depth_rate': 0.1, 'token_drop_rate': 0.5, 'layer_scale_init': 0.1,
  'qk_norm': True, 'parallel_blocks': False, 'norm_eps': 1e-5, 'final_norm': 'pooled', 'gelu': 'exact',
  'layers': 'scan', 'attention': 'plain',
}  # fmt: skip
MUTATIONS += [
  ({'model.variant': 'R50x1', f'model.{name}': value}, f'model.{name}', 'a transformer variant')
  for name, value in VIT_VALUES.items()
]


# The recipe has 32 pixels and patches of 16.
MUTATIONS += [
  ({**MASKED, 'model.patch_sizes': (8, 16)}, 'model.patch_sizes', "objective.name = 'classification'"),
  ({**MASKED, 'model.token_drop_rate': 0.5}, 'model.token_drop_rate', "objective.name = 'classification'"),
  ({'model.patch_sizes': (16,)}, 'model.patch_sizes', 'model.patch_size'),
  ({'model.patch_sizes': (8, 16, 8)}, 'model.patch_sizes', '8 stands there twice'),
  ({'model.patch_sizes': (8, 17)}, 'model.patch_sizes', 'Nearest to 17: 16 or 32'),
  ({'model.patch_sizes': 8}, 'model.patch_sizes', 'a tuple of integers'),
  ({'model.patch_sizes': (8, 16), 'model.variant': 'R50+B/16'}, 'model.patch_sizes', 'feature map'),
  ({'model.patch_sizes': (8, 16), 'model.position': 'relative'}, 'model.patch_sizes', 'raster'),
  ({'model.token_drop_rate': 0.5, 'model.position': 'relative'}, 'model.token_drop_rate', 'keys'),
  ({'model.token_drop_rate': 0.5, 'model.position_at': 'every_layer'}, 'model.token_drop_rate', "'stem'"),
  ({'model.token_drop_rate': 1.0}, 'model.token_drop_rate', '0.99'),
  ({'evals.val.patch_sizes': (8, 17)}, 'evals.val.patch_sizes', 'Nearest to 17: 16 or 32'),
  ({'evals.val.patch_sizes': (8,), 'model.variant': 'R50x1'}, 'evals.val.patch_sizes', 'image_sizes'),
  ({'evals.val.patch_sizes': (8,), 'evals.val.image_sizes': (36,)}, 'evals.val.patch_sizes', '36x36'),
  ({'evals.val.image_sizes': (32, 50)}, 'evals.val.image_sizes', '48 or 64'),
  ({'evals.val.image_sizes': (64, 64)}, 'evals.val.image_sizes', '64 stands there twice'),
  ({'evals.val.image_sizes': (256,), 'model.position': 'relative'}, 'evals.val.image_sizes', 'raster'),
  (frozen('knn', image_sizes=(64,)), 'evals.val.image_sizes', "'classification'"),
  (frozen('knn', real_labels=RECIPE), 'evals.val.real_labels', "'classification'"),
  ({'evals.val.real_labels': HERE + '/recipez'}, 'evals.val.real_labels', HERE + '/recipes?'),
  (frozen('knn', patch_sizes=(8,)), 'evals.val.patch_sizes', "'classification'"),
]

DISTILL = {'objective.name': 'distillation', 'distill.checkpoint': HERE}
MUTATIONS += [
  ({'objective.name': 'distillation'}, 'distill.checkpoint', 'vitjax.load'),
  ({**DISTILL, 'distill.checkpoint': HERE + '/recipez'}, 'distill.checkpoint', HERE + '/recipes?'),
  ({**DISTILL, 'distill.temperature': 0.0}, 'distill.temperature', '0.01'),
  ({'distill.temperature': 2.0}, 'distill.temperature', "objective.name = 'distillation'"),
  ({'distill.checkpoint': HERE}, 'distill.checkpoint', "objective.name = 'distillation'"),
  ({**DISTILL, 'objective.loss': 'sigmoid'}, 'objective.loss', "objective.name = 'classification'"),
  ({**DISTILL, 'objective.label_smoothing': 0.1}, 'objective.label_smoothing', "= 'classification'"),
]

NATIVE = {'data.max_tokens': 4, 'evals.val.resize_short': None}
MUTATIONS += [
  ({'data.max_tokens': 0}, 'data.max_tokens', '1'),
  ({'data.max_tokens': 70_000}, 'data.max_tokens', '65025'),
  ({**NATIVE, 'model.variant': 'R50x1'}, 'data.max_tokens', 'no tokens'),
  ({**NATIVE, 'model.variant': 'R50+B/16'}, 'data.max_tokens', 'hybrid'),
  ({**NATIVE, **MASKED}, 'data.max_tokens', "objective.name = 'classification'"),
  ({**NATIVE, **DISTILL}, 'data.max_tokens', "objective.name = 'classification'"),
  ({**NATIVE, 'model.position': 'relative'}, 'model.position', "other than 'relative'"),
  ({**NATIVE, 'model.position_at': 'every_layer'}, 'model.position_at', "'every_layer_shared'"),
  ({**NATIVE, 'model.token_drop_rate': 0.5}, 'model.token_drop_rate', 'with data.max_tokens'),
  ({**NATIVE, 'model.patch_sizes': (8, 16)}, 'model.patch_sizes', 'with data.max_tokens'),
  ({**NATIVE, 'data.crop': 'random', 'data.precrop_size': 40}, 'data.crop', "'inception'"),
  ({**NATIVE, 'data.mixup_alpha': 0.2}, 'data.mixup_alpha', 'two images'),
  ({**NATIVE, 'data.cutmix_alpha': 0.2}, 'data.cutmix_alpha', 'two images'),
  ({**NATIVE, 'data.augment_on': 'device', 'data.color_jitter': 0.3}, 'data.augment_on', "'workers'"),
  ({**NATIVE, 'evals.val.resize_short': 40}, 'evals.val.resize_short', 'None with data.max_tokens'),
  ({**NATIVE, 'evals.val.image_sizes': (32,)}, 'evals.val.image_sizes', '() with data.max_tokens'),
  ({**NATIVE, 'evals.val.patch_sizes': (8,)}, 'evals.val.patch_sizes', '() with data.max_tokens'),
  ({**NATIVE, 'evals.val.kind': 'attention'}, 'evals.val.kind', 'a grid of its own'),
]

BF16 = {'model.dtype': 'bfloat16', 'model.attention': 'cudnn'}
MUTATIONS += [
  ({'model.attention': 'cudnn'}, 'model.attention', "model.dtype = 'bfloat16'"),
  ({**BF16, 'model.position': 'relative'}, 'model.attention', "other than 'relative'"),
  ({**BF16, 'model.attention_dropout_rate': 0.1}, 'model.attention', 'model.attention_dropout_rate = 0'),
  ({**BF16, 'model.width': 768, 'model.num_heads': 4}, 'model.attention', 'a head dim (here 192)'),
]


IDS = [f'{i}-{where}' for i, (_, where, _) in enumerate(MUTATIONS)]


@pytest.mark.parametrize(('edits', 'where', 'part'), MUTATIONS, ids=IDS)
def test_mutation_is_refused_at_its_path_with_a_next_step(edits, where, part):
  problems = problems_of(edits)
  at = [p for p in problems if p.where == where]
  assert at, [str(p) for p in problems]
  assert all(p.expected and p.hint for p in at), at
  assert any(part in f'{p.expected}. {p.hint}' for p in at), [str(p) for p in at]
  assert all(len(str(p)) < 900 for p in at)


def test_table_is_large_and_covers_every_rule_about_ignored_settings():
  assert len(MUTATIONS) >= 60
  wheres = {where for _, where, _ in MUTATIONS}
  assert {path for use in USES for path in use.knobs} <= wheres
  assert {f'model.{name}' for name in VIT_ONLY} <= wheres
  leaves = {where.rpartition('.')[2] for where in wheres if '.source.' in where}
  assert {knob for use in SOURCE_USES for knob in use.knobs} <= leaves
  assert {f'evals.val.{knob}' for use in EVAL_USES for knob in use.knobs} <= wheres


@pytest.mark.parametrize('path', [path.replace('<name>', 'val') for path, _ in walk()])
def test_every_knob_refuses_a_value_of_a_foreign_type(path):
  problems = problems_of({path: object()})
  assert [p.where for p in problems] == [path], [str(p) for p in problems]
  assert problems[0].expected
  assert problems[0].hint


def test_all_problems_are_reported_in_one_error():
  edits = {
    'optim.peek_lr': 1.0, 'data.batch_size': '64', 'model.variant': 'B16', 'model.dropout_rate': 2.0,
    'total': 90, 'optim.momentum': 0.5, 'evals.val.batch_size': 50, 'optim.freeze': ('(',), 'seed': None,
  }  # fmt: skip
  assert {p.where for p in problems_of(edits)} == {*edits}


def test_a_knob_that_is_refused_is_not_reported_again_by_checks_that_read_it():
  wheres = [
    p.where for p in problems_of({'optim.schedule': 'cos', 'optim.end_lr': 0.5, 'data.batch_size': 'x'})
  ]
  assert wheres == ['data.batch_size', 'optim.schedule']


@pytest.mark.parametrize(
  'edits',
  [
    {},
    {'data.image_size': [32, 48]},
    {'optim.peak_lr': 1},
    {'model.num_classes': 10},
    {'model.num_classes': 21},
    {'optim.clip_norm': None},
    {'optim.schedule': 'rsqrt', 'optim.cooldown': '90 steps', 'optim.rsqrt_timescale': '0.5 epochs'},
    {'optim.warmup': '1 epochs'},
    {'optim.schedule': 'staircase', 'optim.stairs': ['10 steps', '3200 examples', '2 epochs']},
    {'optim.name': 'sgd', 'optim.momentum': 0.95, 'optim.nesterov': True, 'optim.weight_decay': 0},
    {'model.variant': 'R50+S/16', 'data.image_size': 48},
    {'model.variant': 'R50+S/16', 'data.image_size': 32, 'model.patch_size': 2},
    {'model.variant': 'R50x1', 'data.image_size': 33, 'model.remat': 'full'},
    {'model.variant': 'R-tiny', 'data.image_size': 28, 'evals.val.resize_short': None},
    {'parallel.data': 2, 'parallel.fsdp': 2, 'parallel.model': 2},
    {'parallel.rules': [('head/kernel', 'none, data+fsdp'), ('.*/scale', 'replicated')]},
    {'checkpoint.keep_best': 'val/accuracy_top5'},
    {'init.checkpoint': HERE, 'init.head': 'keep', 'init.position_resize': 'bilinear'},
    {'init.checkpoint': HERE, 'init.head': 'probe'},
    {'data.source.split': 'train[-100:]'},
    {'data.source.split': 'train[10%:12.5%] + val[-5:]'},
    {'model.position': 'relative', 'model.position_at': 'every_layer_shared'},
    {'data.source.kind': 'digits'},
    {'data.source.kind': 'tfds', 'data.source.name': 'imagenet2012:5.1.0', 'data.source.num_classes': None},
    {'evals': {}},
    {'data.max_tokens': 9, 'data.crop': 'random_resized', 'data.randaugment_layers': 2, 'evals.val.resize_short': None},
    {**frozen('knn', num_neighbours=[5, 10]), 'checkpoint.keep_best': 'val/accuracy_10nn'},
    {**frozen('fewshot', shots=(5,)), 'checkpoint.keep_best': 'val/accuracy_5shot'},
    {**frozen('fewshot', ridge_l2=[1, 1024]), 'checkpoint.keep_best': 'val/accuracy_25shot_l2_1024'},
    {**frozen('linear_probe', held_out=0.5), 'checkpoint.keep_best': 'val/accuracy_top1'},
    # The head need not hold the classes of an evaluator of features.
    {**frozen('knn'), 'model.num_classes': 10, 'evals.val.source.num_classes': 99},
  ],
  ids=str,
)  # fmt: skip
def test_sound_recipes_pass(edits):
  parse_recipe(apply(load_config(RECIPE), edits), num_devices=8)


def test_batches_are_checked_against_explicit_axes_when_the_devices_are_unknown():
  problems = problems_of({'parallel.data': 5}, num_devices=None)
  assert {p.where for p in problems} == {'data.batch_size', 'evals.val.batch_size', 'evals.train.batch_size'}
  parse_recipe(apply(load_config(RECIPE), {'data.batch_size': 7}), num_devices=None)


def test_a_required_placeholder_without_value_is_a_problem():
  from ml_collections import config_dict

  config = default_config()
  config.data.batch_size = config_dict.FieldReference(None, field_type=int, required=True)
  with pytest.raises(ConfigError, match='data.batch_size = an unset required placeholder'):
    parse_recipe(config)


def test_loading_and_refusing_is_fast_and_imports_no_jax():
  program = f"""
import sys
from vitjax.config import expected_devices, load_config, parse_recipe
from vitjax.errors import ConfigError
try:
  parse_recipe(load_config({RECIPE!r}, [('data.batch_size', '60')]), num_devices=expected_devices())
except ConfigError as error:
  print(error)
print('heavy:', sorted({{'jax', 'flax', 'optax', 'numpy', 'tensorflow'}} & set(sys.modules)))
"""
  start = time.monotonic()
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, timeout=60, check=True
  )
  assert time.monotonic() - start < 3.0
  assert 'data.batch_size = 60: expected a multiple of 8' in done.stdout, done.stdout
  assert 'heavy: []' in done.stdout, done.stdout
