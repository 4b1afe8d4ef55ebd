"""Fine-tune a pretrained checkpoint on images that keep their aspect ratio (NaFlex), at the cost of fixed ones.

Purpose: photographs are seldom square. Each becomes the largest grid of patches that `tokens` holds, instead of being
squashed to a square of as many; positions, stored for `size`, are resized to every grid. Parameters are those of the
model of one size: any checkpoint starts here, and what comes out runs as either.

  vitjax train --config=configs/naflex.py:data=pets,checkpoint=runs/b16 --workdir=DIR --config.data.source.path=TFDS
  vitjax train --config=configs/naflex.py:data=flowers,checkpoint=runs/b16,tokens=256 --workdir=DIR
  vitjax train --config=configs/naflex.py:smoke --workdir=DIR                 four steps, no download

Your own folder: --config=configs/transfer.py:data=FOLDER,checkpoint=... with --config.data.max_tokens=576
--config.data.crop=inception --config.data.precrop_size=None.
Everything but the images is configs/finetune.py with the paper's Table 4: data, rates, steps, splits. Crops take
30 % to all of the image at 3/4 to 4/3 of its own ratio; evaluation sees whole images.
Hardware and cost: as configs/finetune.py at size=384, whose images have as many tokens (576): B/16 0.17 exaFLOP per
1,000 steps, computed. Lengths are static, so nothing compiles anew; padding is what a grid leaves of `tokens`, on
average 1.4 % of 576 over ratios from 1:2 to 2:1 (computed).
Expected: no published number of this exact form; NaViT (arXiv 2307.06304) and SigLIP 2 (2502.14786) report gains over
squashed images, the latter most where the ratio carries the content, as in documents.
Arguments: tokens=0 (0: as many as `size` has); data, model, checkpoint, lr=0, size=384, final, smoke as in
configs/finetune.py.
"""

import pathlib

from vitjax.config import load_config, parse_args

FINETUNE = pathlib.Path(__file__).with_name('finetune.py')


def get_config(arg: str = ''):
  args = parse_args(
    arg, data=('pets', 'flowers', 'imagenet'), model='B/16', checkpoint='', lr=0.0, size=384, tokens=0,
    final=False, smoke=False,
  )  # fmt: skip
  flags = ',final' * args.final + ',smoke' * args.smoke
  checkpoint = f',checkpoint={args.checkpoint}' * bool(args.checkpoint)
  spec = f'data={args.data},model={args.model},lr={args.lr},size={args.size}{checkpoint}{flags}'
  config = load_config(f'{FINETUNE}:{spec}')
  patch = int(args.model.partition('/')[2])
  config.data.max_tokens = 6 if args.smoke else args.tokens or (args.size // patch) ** 2
  config.data.crop_area = (0.3, 1.0)
  return config
