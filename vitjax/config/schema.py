"""Every knob of a recipe: its type, default, unit, allowed values and source.

The dataclasses below are the only place where a knob is defined. `default_config()` turns them into the
locked ConfigDict that a file in configs/ edits; `parse_recipe()` turns the edited ConfigDict back into a
frozen `Recipe`, with every problem reported at once. Nothing here imports jax.

Sources: "ViT" is arXiv 2010.11929, "AugReg" 2106.10270, "BiT" 1912.11370, "plain ViT" 2205.01580.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from vitjax.config.durations import Duration


@dataclasses.dataclass(frozen=True)
class KnobInfo:
  """What the schema knows of one knob besides its type and default.

  Attributes:
    doc: one sentence for `vitjax train --dry_run --explain` and for error messages.
    unit: 'pixels', 'layers', ... or ''.
    choices: the allowed values, when they can be listed.
    minimum: smallest allowed number (for tuples: of each element), inclusive.
    maximum: largest allowed number, inclusive.
    square: an int n stands for (n, n).
    source: where the default comes from.
  """

  doc: str
  unit: str = ''
  choices: tuple[Any, ...] = ()
  minimum: float | None = None
  maximum: float | None = None
  square: bool = False
  source: str = ''


def knob(default: Any, doc: str, **info: Any) -> Any:
  """Declares a dataclass field with its KnobInfo; `default` is an immutable value."""
  return dataclasses.field(default=default, metadata={'knob': KnobInfo(doc=doc, **info)})


INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'area', 'bilinear_antialias', 'bicubic_antialias')


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The network. `variant` sets the sizes; a size knob that is not None overrides it."""

  variant: str = knob('B/16', 'size and patch: "B/16", a hybrid "R50+B/16", or a BiT ResNet "R50x1"; see config/variants.py')
  num_classes: int | None = knob(None, "outputs of the head; None: the training source's classes; 0: no head", minimum=0)
  width: int | None = knob(None, 'token width', unit='features', minimum=1)
  depth: int | None = knob(None, 'encoder blocks', unit='layers', minimum=1)
  mlp_dim: int | None = knob(None, 'hidden width of the MLP', unit='features', minimum=1)
  num_heads: int | None = knob(None, 'attention heads; must divide width', minimum=1)
  patch_size: int | None = knob(None, 'side of a patch; must divide the image (for hybrids: of the feature map)', unit='pixels', minimum=1)
  patch_sizes: tuple[int, ...] = knob((), "sides of patches, of which every training step draws one; the kernel and positions, stored for the model's own patch size, are resized to it. (): its own alone", unit='pixels', minimum=1, source='FlexiViT 2212.08013')
  pool: str = knob('token', 'what the head sees: class token, mean of tokens, or attention pooling', choices=('token', 'gap', 'map'), source='ViT D.3')
  position: str = knob('learned_1d', 'position information', choices=('none', 'learned_1d', 'learned_2d', 'sincos_2d', 'relative'), source='ViT D.4')
  position_at: str = knob('stem', 'where positions are added', choices=('stem', 'every_layer', 'every_layer_shared'), source='ViT Table 8')
  representation_size: int | None = knob(None, 'width of the tanh hidden layer of the head, `pre_logits`; None: linear head', unit='features', minimum=1, source='ViT 3.1')
  num_registers: int = knob(0, 'learned extra tokens that the head ignores', minimum=0, source='arXiv 2309.16588')
  dropout_rate: float = knob(0.0, 'dropout after positions, attention output and in the MLP', minimum=0.0, maximum=0.99)
  attention_dropout_rate: float = knob(0.0, 'dropout on attention probabilities', minimum=0.0, maximum=0.99, source='ViT: 0')
  stochastic_depth_rate: float = knob(0.0, 'drop rate of the last residual branch, rising linearly from 0', minimum=0.0, maximum=0.99, source='AugReg')
  token_drop_rate: float = knob(0.0, 'share of the patches, drawn anew for every image, that training leaves out after positions are added; class token and registers stay', minimum=0.0, maximum=0.99, source='FLIP 2212.00794; PatchDropout 2208.07220')
  layer_scale_init: float | None = knob(None, 'initial LayerScale gain; None: no LayerScale', minimum=0.0, source='arXiv 2103.17239')
  qk_norm: bool | None = knob(None, "LayerNorm on queries and keys; None: the variant's own", source='ViT-22B 2302.05442')
  parallel_blocks: bool | None = knob(None, "attention and MLP side by side; None: the variant's own", source='ViT-22B 2302.05442')
  norm_eps: float = knob(1e-6, 'epsilon of every LayerNorm of the transformer', minimum=1e-12, maximum=1.0, source='1e-12: Hugging Face ViT and DeiT')
  final_norm: str = knob('tokens', "where the last LayerNorm stands: on all tokens, or on the pooled vector (timm's fc_norm)", choices=('tokens', 'pooled'))
  gelu: str = knob('tanh', 'GELU form: tanh approximation (Flax, official checkpoints) or exact erf (PyTorch)', choices=('tanh', 'exact'))
  head_bias_init: float = knob(0.0, "initial bias of the head's outputs", source='-10 for sigmoid on I21k/JFT, -6.9 on ImageNet (AugReg)')
  layers: str = knob('loop', 'encoder blocks as a Python loop (official names) or stacked by nn.scan (compiles faster)', choices=('loop', 'scan'))
  attention: str = knob('auto', "how attention is computed, a matter of speed alone: 'cudnn' is the fused kernel of NVIDIA GPUs, 'plain' runs anywhere, 'auto' is the fastest for the device; see parallel/tuning.py", choices=('auto', 'plain', 'cudnn'))
  remat: str = knob('none', 'what the backward pass recomputes: nothing, all but matmul outputs, or everything', choices=('none', 'dots', 'full'))
  dtype: str = knob('float32', 'compute dtype', choices=('float32', 'bfloat16'))
  param_dtype: str = knob('float32', 'parameter dtype', choices=('float32', 'bfloat16'))


@dataclasses.dataclass(frozen=True)
class SourceConfig:
  """Where labelled images come from."""

  kind: str = knob('mnist5k', 'reader', choices=('mnist5k', 'digits', 'fashion_mnist', 'image_folder', 'numbered_folders', 'manifest', 'huggingface', 'tfds', 'array_record', 'tfrecord', 'synthetic'))
  path: str | None = knob(None, 'folder or file that the reader opens (TFDS: its data_dir)')
  name: str | None = knob(None, 'TFDS data set, such as "cifar10" or "imagenet2012:5.1.0"')
  label: str | None = knob(None, 'TFDS feature that holds the class, such as "coarse_label", or a derived one of data/derived_labels.py, such as "clevr_count"; None: "label", or the only class feature')
  split: str = knob('train', 'split, with an optional slice: "train", "train[:90%]", "train[4000:]"; sources without splits slice "all"')
  examples_per_class: int | None = knob(None, 'keep this many examples of each class, drawn with subset_seed; None: all', minimum=1)
  subset_seed: int = knob(0, 'seed of the few-example subset', minimum=0)
  num_examples: int = knob(64, 'size of the synthetic source', unit='examples', minimum=1)
  num_classes: int | None = knob(None, 'classes of a synthetic source or of records without class names; checked against the labels', minimum=1)
  split_seed: int | None = knob(None, "deal each split out anew with this seed before the slice is taken, every class in equal shares; None: the reader's own order", minimum=0, maximum=2**32 - 1)
  empty_classes: str = knob('refuse', 'a class folder without any image: an error, or no class', choices=('refuse', 'leave_out'))
  multi_label: bool = knob(False, 'an image may have several classes, or none; needs objective.loss = sigmoid')
  max_corrupt: int = knob(0, 'unreadable records tolerated before the run stops; each is counted, listed and replaced by a neighbour', unit='examples', minimum=0)


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Training input. The batch size is global: over all hosts and devices, before accumulation splits it."""

  source: SourceConfig = dataclasses.field(default_factory=SourceConfig)
  batch_size: int = knob(4096, 'examples per optimiser step over all devices', unit='examples', minimum=1, source='ViT Table 3')
  image_size: tuple[int, int] = knob((224, 224), 'height and width fed to the model; n means (n, n)', unit='pixels', minimum=1, square=True)
  mean: tuple[float, float, float] = knob((0.5, 0.5, 0.5), 'subtracted from [0, 1] pixels per channel', unit='share of 255', minimum=0.0, maximum=1.0, source='[-1, 1]: ViT code')
  std: tuple[float, float, float] = knob((0.5, 0.5, 0.5), 'divides the shifted pixels per channel', unit='share of 255', minimum=1e-6, maximum=1.0)
  max_tokens: int | None = knob(None, "each image keeps its aspect ratio and becomes the largest grid of at most this many patches, padded to so many; positions, stored for image_size, are resized to each grid, and crop_ratio is relative to the image's own. None: all images become image_size", unit='patches', minimum=1, maximum=255**2, source='NaFlex: SigLIP 2 2502.14786; NaViT 2307.06304')
  crop: str = knob('inception', 'training crop: random area and aspect, as TensorFlow draws them or as torchvision does; a random place in the image resized to precrop_size; zero-padded random shift; or plain resize', choices=('inception', 'random_resized', 'random', 'shift', 'resize'))
  precrop_size: int | None = knob(None, "side to which crop='random' resizes an image before it takes image_size out of it", unit='pixels', minimum=1, source='BiT-HyperRule: 512 or 160')
  crop_area: tuple[float, float] = knob((0.05, 1.0), 'area range of a random crop', unit='share of the image', minimum=0.0, maximum=1.0, source='VT code')
  crop_ratio: tuple[float, float] = knob((0.75, 4 / 3), 'aspect-ratio range of a random crop', unit='width / height', minimum=0.01)
  shift: int = knob(4, "largest random shift of crop='shift', after the resize", unit='pixels', minimum=0)
  flip: bool = knob(True, 'mirror left-right with probability 1/2')
  interpolation: str = knob('bilinear', 'resize method of training and evaluation', choices=INTERPOLATIONS)
  randaugment_layers: int = knob(0, 'RandAugment operations on each training image; 0: off', minimum=0, source='arXiv 1909.13719; AugReg: 2')
  randaugment_magnitude: float = knob(10.0, 'level of each RandAugment operation', minimum=0.0, maximum=30.0, source='AugReg: 0, 10, 15 or 20')
  three_augment: bool = knob(False, 'grey, solarize or blur, then colour jitter of 0.3', source='DeiT-III 2204.07118')
  color_jitter: float = knob(0.0, 'brightness, contrast and saturation vary by this share; 0: off', minimum=0.0, maximum=1.0)
  erasing_rate: float = knob(0.0, 'probability of filling a random box with noise', minimum=0.0, maximum=1.0, source='arXiv 1708.04896')
  augment_on: str = knob('workers', "where RandAugment, 3-Augment, colour jitter and erasing are computed: image by image in the input workers, or by the batch on the device, for hosts with few cores", choices=('workers', 'device'))
  mixup_alpha: float = knob(0.0, 'Beta parameter of mixup; 0: off', minimum=0.0, source='arXiv 1710.09412')
  cutmix_alpha: float = knob(0.0, 'Beta parameter of cutmix; 0: off. With mixup, each batch takes one of the two', minimum=0.0, source='arXiv 1905.04899')
  shuffle: bool = knob(True, 'a new order each epoch, from the seed and the global example index')
  num_workers: int = knob(0, 'input worker processes; 0: threads only', minimum=0)
  num_threads: int | None = knob(None, 'input threads per process; None: one per core that it may use, 2 to 16', minimum=1)
  prefetch: int = knob(2, 'batches kept ready', unit='batches', minimum=1)


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
  """What is learned."""

  name: str = knob('classification', "labels, the mean colours of hidden patches (no labels read), or a teacher's probabilities, see distill", choices=('classification', 'masked_patch', 'distillation'), source='masked_patch: ViT B.1.2; distillation: arXiv 2106.05237')
  loss: str = knob('softmax', 'cross-entropy over classes, or one binary cross-entropy per class', choices=('softmax', 'sigmoid'))
  label_smoothing: float = knob(0.0, 'weight of the uniform distribution in the targets', minimum=0.0, maximum=0.99)
  corrupt_rate: float = knob(0.5, 'share of the patches that masked_patch corrupts and asks for', minimum=0.01, maximum=1.0, source='ViT B.1.2')


@dataclasses.dataclass(frozen=True)
class DistillConfig:
  """The teacher of objective.name = 'distillation'. Its weights are never trained and never saved with the student's."""

  checkpoint: str | None = knob(None, 'the teacher: whatever vitjax.load reads, of any architecture, with the classes of the student')
  temperature: float = knob(1.0, "divides both logits before the softmax; the loss is multiplied by its square", minimum=0.01, source='arXiv 2106.05237: 1 to 10; 1503.02531')


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """Optimiser, schedule, regularisation of the weights."""

  name: str = knob('adamw', 'optimiser; see optim/directions.py', choices=('adamw', 'sgd', 'adafactor', 'lamb', 'lion', 'muon'))
  peak_lr: float = knob(1e-3, 'learning rate after warm-up', minimum=0.0, source='ViT Table 3')
  schedule: str = knob('cosine', 'shape after warm-up', choices=('constant', 'cosine', 'linear', 'rsqrt', 'staircase'))
  warmup: Duration = knob(Duration(10_000, 'steps'), 'linear rise from 0 to peak_lr', source='ViT Table 3')
  end_lr: float = knob(0.0, 'final rate of cosine and linear', minimum=0.0, source='1e-5 with linear: VT code')
  rsqrt_timescale: Duration = knob(Duration(10_000, 'steps'), 'timescale of rsqrt', source='arXiv 2106.04560')
  cooldown: Duration = knob(Duration(0, 'steps'), 'linear fall to 0 at the end of rsqrt and constant')
  stairs: tuple[Duration, ...] = knob((), "when schedule='staircase' multiplies the rate by stair_factor")
  stair_factor: float = knob(0.1, 'factor per stair', minimum=0.0, maximum=1.0, source='BiT-HyperRule')
  weight_decay: float = knob(0.1, 'decoupled weight decay', minimum=0.0, source='ViT Table 3')
  weight_decay_form: str = knob('times_lr', 'decay multiplied by the rate, or by schedule/peak only (independent of peak_lr)', choices=('times_lr', 'independent'), source='arXiv 1711.05101')
  weight_decay_on: str = knob(r'.*kernel', 'regex that a decayed parameter path matches in full')
  b1: float = knob(0.9, 'first-moment decay of AdamW, LAMB and Lion, and of the AdamW that Muon leaves the rest to', minimum=0.0, maximum=1.0)
  b2: float = knob(0.999, "second-moment decay of the same; Adafactor's largest; Lion's momentum decay", minimum=0.0, maximum=1.0, source="0.99: Lion's paper")
  eps: float = knob(1e-8, 'AdamW epsilon', minimum=0.0, source="1e-6: LAMB's paper")
  momentum: float = knob(0.9, 'momentum of SGD, Adafactor and Muon', minimum=0.0, maximum=1.0, source='0.95: Muon')
  factor_min_dim: int = knob(32, 'Adafactor keeps row and column means where the two largest dimensions have at least this many entries', minimum=1, source='big_vision')
  nesterov: bool = knob(False, 'Nesterov momentum for SGD')
  momentum_dtype: str = knob('float32', 'dtype of the first moment', choices=('float32', 'bfloat16'), source='bfloat16: VT code')
  clip_norm: float | None = knob(1.0, 'largest global gradient norm; None: no clipping', minimum=1e-12, source='ViT Table 3')
  accumulation_steps: int = knob(1, 'micro-batches per step; must divide data.batch_size', minimum=1)
  ema_decay: float | None = knob(None, 'decay of the averaged weights that evaluation uses; None: off', minimum=0.0, maximum=1.0, source='0.9999: ViT Table 2')
  layer_decay: float = knob(1.0, "each block's rate is this times the rate of the block above it; 1: off", minimum=0.01, maximum=1.0, source='BEiT 2106.08254')
  freeze: tuple[str, ...] = knob((), 'regexes; parameters whose path matches one in full do not train')
  sam_rho: float = knob(0.0, 'SAM: gradients are taken this far up the slope, at twice the cost of a step; 0: off', minimum=0.0, source='SAM 2010.01412')
  sam_rho_end: float | None = knob(None, 'the distance when the rate is end_lr, in proportion to the rate before; None: sam_rho throughout', minimum=0.0, source='GSAM 2203.08065: 0.6 to 0.1')
  gsam_alpha: float = knob(0.0, 'GSAM: weight of the descent of the surrogate gap; 0: plain SAM', minimum=0.0, source='GSAM 2203.08065: 0.6')


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
  """Mesh and sharding. Batches are split over data and fsdp, parameters over fsdp and model."""

  data: int = knob(-1, 'mesh axis of pure data parallelism; -1: all devices that remain', minimum=-1)
  fsdp: int = knob(1, 'mesh axis that also shards parameters and optimiser state', minimum=1)
  model: int = knob(1, 'mesh axis of tensor parallelism over heads and MLP width', minimum=1)
  rules: tuple[tuple[str, str], ...] = knob((), "extra (path regex, spec) pairs tried before the built-in rules; spec is like 'fsdp,model' or 'replicated'")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """What is saved in WORKDIR/checkpoints."""

  directory: str | None = knob(None, 'folder or gs:// bucket that holds checkpoints/ instead of the workdir, where log, lock and stacks stay; gs:// needs the extra vitjax[gcs]')
  every: Duration = knob(Duration(1000, 'steps'), 'time between saves; the last step is always saved')
  keep_last: int = knob(2, 'newest steps kept', minimum=1)
  keep_best: str | None = knob(None, "metric such as 'val/accuracy_top1' whose best step is kept as well (largest wins)")
  save_async: bool = knob(True, 'write in the background while training goes on')
  retries: int = knob(3, 'times that a failed save is tried again, after 1, 4, 16 ... s of training, before the run ends; with several processes the launcher restarts instead', minimum=0, maximum=10)


@dataclasses.dataclass(frozen=True)
class InitConfig:
  """Where the weights of a new run come from. A workdir that already holds a checkpoint always wins."""

  checkpoint: str | None = knob(None, 'vitjax workdir or checkpoint step, or any released file or folder that vitjax.load reads, to start from; None: random')
  head: str = knob('reset', "replace the head by a zero-initialised one and drop pre_logits; replace it likewise by the linear probe of the training images; or keep both", choices=('reset', 'probe', 'keep'), source='ViT B.1.1; probe: LP-FT 2202.10054')
  position_resize: str = knob('zoom', "resampling of learned positions to another grid: scipy's corner-aligned zoom, or half-pixel bilinear / bicubic", choices=('zoom', 'bilinear', 'bicubic'), source='ViT 3.2')


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """One evaluator; every example of its split counts exactly once.

  'classification' judges the head, 'multilabel' too, of images with several classes; 'fewshot', 'knn' and 'linear_probe' judge frozen features, by a small classifier
  that is made of the features of `train_source` and needs no head. Their classes may differ from those of
  data.source. 'attention' judges nothing: it reports how far each block looks, and the structure of positions.
  """

  kind: str = knob('classification', "the evaluator: the model's own head, or its frozen features with closed-form ridge regression, nearest neighbours or logistic regression; or attention distance and position structure", choices=('classification', 'multilabel', 'fewshot', 'knn', 'linear_probe', 'attention'))
  source: SourceConfig = dataclasses.field(default_factory=SourceConfig)
  train_source: SourceConfig = dataclasses.field(default_factory=SourceConfig)
  batch_size: int = knob(512, 'examples per evaluation step over all devices; the last batch is padded with a mask', unit='examples', minimum=1)
  resize_short: int | None = knob(None, 'resize the short side to this, then take the centre; None: plain resize to data.image_size', unit='pixels', minimum=1, source='None: ViT fine-tuning')
  image_sizes: tuple[int, ...] = knob((), "image sizes that the head is judged at, one after the other, with positions resized and resize_short in proportion; (): data.image_size", unit='pixels', minimum=1, source='arXiv 1906.06423')
  patch_sizes: tuple[int, ...] = knob((), "patch sizes that the head is judged at, with the patch embedding's kernel and positions resized; (): the model's own", unit='pixels', minimum=1, source='FlexiViT 2212.08013')
  real_labels: str | None = knob(None, "real.json of ReaL: the head is judged by its labels, too, as accuracy_real; source then holds ImageNet validation images", source='arXiv 2006.07159')
  every: Duration = knob(Duration(1, 'epochs'), 'time between evaluations; the last step is always evaluated')
  shots: tuple[int, ...] = knob((1, 5, 10, 25), 'examples per class of each few-shot support set', unit='examples', minimum=1, source='ViT 4.1 and Table 8: 5')
  num_draws: int = knob(3, 'support sets drawn from train_source, with seeds 0, 1, ...; their mean is reported', minimum=1, source='ViT code')
  ridge_l2: tuple[float, ...] = knob((1024.0,), 'L2 penalties of the few-shot ridge regression, one result each', minimum=1e-6, source='ViT code: 2^10')
  num_neighbours: tuple[int, ...] = knob((20,), 'nearest neighbours that vote, one result each', minimum=1, source='DINO 2104.14294: 20')
  temperature: float = knob(0.07, "of the neighbours' votes, exp(cosine / temperature)", minimum=1e-3, source='DINO 2104.14294')
  probe_l2: tuple[float, ...] = knob((1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), "L2 penalties that the linear probe chooses from: mean loss + l2/2 |kernel|^2 on standardised features", minimum=1e-12)
  held_out: float = knob(0.2, 'part of each class of train_source on which the linear probe chooses its penalty', unit='share', minimum=0.01, maximum=0.9)


@dataclasses.dataclass(frozen=True)
class LogConfig:
  """Progress and metrics."""

  every: Duration = knob(Duration(50, 'steps'), 'time between rows of metrics.jsonl')
  tensorboard: bool = knob(True, 'write TensorBoard events to WORKDIR/tensorboard')
  progress: bool = knob(True, 'show a progress bar on process 0')


@dataclasses.dataclass(frozen=True)
class ReportConfig:
  """What is written up for people beside the metrics, in WORKDIR/report."""

  data: bool = knob(False, 'before the first step, look at the images of data.source and of the evaluators: unreadable files, duplicates, balance of classes')
  evals: tuple[str, ...] = knob((), 'evaluators whose predictions are written up after training: confusion matrix and worst mistakes as pictures, a table per class')
  num_mistakes: int = knob(24, 'worst mistakes shown as pictures', unit='examples', minimum=1)


@dataclasses.dataclass(frozen=True)
class ResilienceConfig:
  """When a run stops, waits or goes on: faults of machines and of numbers."""

  start_timeout_s: int = knob(300, 'longest wait for all processes of a run to come up', unit='seconds', minimum=1)
  heartbeat_timeout_s: int = knob(100, 'silence after which a process counts as dead', unit='seconds', minimum=2)
  step_timeout_s: float | None = knob(600.0, 'longest time without a finished step before the watchdog ends the run, to be started again; None: no watchdog', unit='seconds', minimum=1.0)
  slow_timeout_s: float | None = knob(3600.0, 'the same for compilation, restore, saving and each batch of an evaluation', unit='seconds', minimum=1.0)
  max_skipped_in_a_row: int = knob(10, 'steps in a row whose loss or gradients are not finite, and whose update is skipped, before the run stops', unit='steps', minimum=0)
  max_skipped: int = knob(100, 'the same over the whole run, batches passed over by on_spike included', unit='steps', minimum=0)
  spike_factor: float | None = knob(10.0, 'a loss this many times the median of the last spike_window accepted steps is a spike; None: no look', minimum=1.01)
  spike_window: int = knob(50, 'steps whose losses make the median; the first look comes when there are half of them', unit='steps', minimum=2)
  on_spike: str = knob('report', 'what a spike does: a line in the log, or also a return to the newest checkpoint, from where the batches up to the spike are passed over', choices=('report', 'rollback'), source='PaLM 2204.02311, 5.1')
  spike_skip: int = knob(8, "batches that on_spike='rollback' passes over, the last of them that of the spike, as far as they come after the checkpoint", unit='steps', minimum=1)
  replica_check_every: Duration | None = knob(Duration(1000, 'steps'), 'time between comparisons of the copies that devices hold of the same array; None: never')
  max_starts_without_progress: int | None = knob(5, 'starts in a row that end, without being told to, before a new checkpoint; the next one is refused. None: any number', minimum=1)


@dataclasses.dataclass(frozen=True)
class Recipe:
  """One training run, complete."""

  model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
  data: DataConfig = dataclasses.field(default_factory=DataConfig)
  objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
  distill: DistillConfig = dataclasses.field(default_factory=DistillConfig)
  optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
  parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)
  checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
  init: InitConfig = dataclasses.field(default_factory=InitConfig)
  evals: dict[str, EvalConfig] = dataclasses.field(default_factory=dict)
  log: LogConfig = dataclasses.field(default_factory=LogConfig)
  resilience: ResilienceConfig = dataclasses.field(default_factory=ResilienceConfig)
  report: ReportConfig = dataclasses.field(default_factory=ReportConfig)
  seed: int = knob(0, 'seed of initialisation, order, augmentation and dropout', minimum=0, maximum=2**32 - 1)
  total: Duration = knob(Duration(90, 'epochs'), 'length of the run and of the learning-rate schedule')
  stop_after: Duration | None = knob(None, 'end early at this point of the unchanged schedule; None: run to the end')
  derivation: tuple[str, ...] = knob((), 'how a recipe file came to values that it took from the data or a checkpoint, a line each: shown before training, kept in checkpoints')
