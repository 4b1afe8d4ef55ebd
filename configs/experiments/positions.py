"""Which position information does a ViT need? The paper's Table 8, small: kinds x places, three seeds.

  vitjax experiment --config=configs/experiments/positions.py --workdir=runs/positions

Cost: 21 minutes of one core (benchmarks/experiments/positions/results.md). Expected: none below all others (Table 8:
.614 against .640 to .643 on ImageNet 5-shot).
Arguments: position, placement, seed, smoke.
"""

import pathlib

from vitjax.config import Cell, Claim, Experiment, grid, load_config, parse_args

SMALL = pathlib.Path(__file__).with_name('small.py')
KINDS = ('none', 'learned_1d', 'learned_2d', 'relative')
PLACES = ('stem', 'every_layer', 'every_layer_shared')


def get_config(arg: str = ''):
  args = parse_args(arg, position=KINDS, placement=PLACES, seed=0, smoke=False)
  config = load_config(f'{SMALL}:size=28,num_train=10000,steps=800,seed={args.seed}' + ',smoke' * args.smoke)
  config.model.variant = 'Ti/7'
  # Only positions tell a shirt's collar from its hem: no shift, so that a place means something.
  config.data.crop = 'resize'
  config.data.shift = 4
  config.model.position = args.position
  config.model.position_at = args.placement
  return config


def get_experiment(smoke: bool) -> Experiment:
  cells = []
  places = PLACES[:1] if smoke else PLACES
  for labels in grid(position=KINDS, placement=places, seed=(0,) if smoke else (0, 1, 2)):
    alone = labels['position'] in ('none', 'relative')
    if not alone or labels['placement'] == 'stem':
      cells.append(Cell(labels, {**labels, **({'smoke': True} if smoke else {})}))
  return Experiment(
    title='Position information (after Table 8 of the paper)',
    question='How much does a ViT lose without position information, and does its form or place matter?',
    method=(
      'A ViT of 4 blocks, width 64, patch 7 (16 tokens), trained for 800 steps of 100 on 10,000 images of '
      'Fashion-MNIST, scored on all 10,000 test images. Relative positions act in every layer and stand in one column, '
      'as in the paper.'
    ),
    limits=(
      'Ten classes of small grey images, 16 tokens, one training length and one learning rate. The paper measures '
      'five-shot ImageNet accuracy of B/16 after pretraining, with 196 tokens: its differences between kinds, below '
      '0.003, are smaller than what this experiment could tell apart.'
    ),
    metric='test/accuracy_top1',
    metric_name='accuracy on Fashion-MNIST',
    cells=tuple(cells),
    rows=('position',),
    column='placement',
    claims=_claims(smoke),
  )


def _claims(smoke: bool) -> tuple[Claim, ...]:
  def at(position: str, placement: str = 'stem') -> dict[str, str]:
    return {'position': position, 'placement': placement}

  claims = [Claim(f'{kind} beats none', at(kind), at('none'), 'Table 8') for kind in KINDS[1:]]
  claims.append(Claim('2-D beats 1-D at the stem', at('learned_2d'), at('learned_1d'), 'Table 8: no'))
  if not smoke:
    for labels in grid(position=KINDS[1:3], placement=PLACES[1:]):
      text = f'{labels["position"]}, {labels["placement"]}, beats none'
      claims.append(Claim(text, labels, at('none'), 'Table 8'))
    text = 'a table per layer beats one at the stem (1-D)'
    claims.append(Claim(text, at('learned_1d', 'every_layer'), at('learned_1d'), 'Table 8: no'))
  return tuple(claims)
