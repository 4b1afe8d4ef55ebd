"""ResNets with group normalisation and weight standardisation: the stem of the hybrids, and the BiT baseline.

Two forms that differ in small ways which matter when published weights are loaded:

                        hybrid stem (`apply_hybrid_stem`)       BiT (`BiTResNet`)
  residual unit         post-activation, v1 (1512.03385)        pre-activation, v2 (1603.05027)
  kernel standardised   (w - mean) / (std + 1e-5)               (w - mean) / sqrt(var + 1e-10)
  group norm epsilon    1e-6                                    1e-5
  padding               SAME (more on the bottom and right)     symmetric, as if zeros were put around first
  max-pool padding      never wins (-inf)                       zeros, which win over negative values
  last norm of a unit   scale starts at 0                       scale starts at 1

Axis letters: n batch, h w grid, c channels, v classes; images NHWC, kernels HWIO.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.config.variants import ResNetVariant
from vitjax.parallel.constrain import constrain
from vitjax.parallel.mesh import BATCH_AXES

Array = jax.Array
DType = Any

EXPANSION = 4  # output channels of a bottleneck unit per channel of its 3x3 convolution


def standardize_by_std(kernel: Array) -> Array:
  """Returns (kernel - mean) / (std + 1e-5) per output channel, in float32: the hybrid stem's form.

  Args:
    kernel: [h, w, c_in, c_out]; mean and (population) std run over h, w and c_in.

  Source: weight standardisation, arXiv 1903.10520; the place of epsilon is that of the released hybrids.
  """
  kernel = kernel.astype(jnp.float32)
  centred = kernel - jnp.mean(kernel, axis=(0, 1, 2), keepdims=True)
  return centred / (jnp.std(kernel, axis=(0, 1, 2), keepdims=True) + 1e-5)


def standardize_by_variance(kernel: Array) -> Array:
  """Returns (kernel - mean) / sqrt(var + 1e-10) per output channel, in float32: BiT's form.

  Args:
    kernel: [h, w, c_in, c_out]; mean and (population) variance run over h, w and c_in.

  Source: weight standardisation, arXiv 1903.10520; the place of epsilon is that of the released BiT models.
  """
  kernel = kernel.astype(jnp.float32)
  centred = kernel - jnp.mean(kernel, axis=(0, 1, 2), keepdims=True)
  return centred * jax.lax.rsqrt(jnp.var(kernel, axis=(0, 1, 2), keepdims=True) + 1e-10)


class StdConv(nn.Module):
  """2-D convolution without bias whose kernel is standardised at each use; parameter: `kernel`.

  Attributes:
    features: output channels.
    kernel_size: side of the kernel.
    stride: step in both directions.
    standardize: the form of standardisation; statistics are float32 whatever `dtype` is.
    padding: 'SAME', or the number of zeros on each side.
    dtype: compute dtype of the convolution.
    param_dtype: dtype of the kernel.
  """

  features: int
  kernel_size: int
  stride: int = 1
  standardize: Callable[[Array], Array] = standardize_by_std
  padding: str | int = 'SAME'
  dtype: DType = jnp.float32
  param_dtype: DType = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape, self.param_dtype)
    padding = self.padding if isinstance(self.padding, str) else [(self.padding, self.padding)] * 2
    y = jax.lax.conv_general_dilated(
      x.astype(self.dtype),
      self.standardize(kernel).astype(self.dtype),
      (self.stride, self.stride),
      padding,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return constrain(y, BATCH_AXES)


class PostActUnit(nn.Module):
  """Bottleneck unit of the hybrid stem: y = relu(shortcut(x) + gn3(conv3(...)))."""

  mid: int
  stride: int
  groups: int
  dtype: DType
  param_dtype: DType

  @nn.compact
  def __call__(self, x: Array) -> Array:
    out = EXPANSION * self.mid
    conv = functools.partial(StdConv, dtype=self.dtype, param_dtype=self.param_dtype)
    norm = functools.partial(
      nn.GroupNorm, num_groups=self.groups, epsilon=1e-6, dtype=self.dtype, param_dtype=self.param_dtype
    )
    y = nn.relu(norm(name='gn1')(conv(self.mid, 1, name='conv1')(x)))
    y = nn.relu(norm(name='gn2')(conv(self.mid, 3, self.stride, name='conv2')(y)))
    y = norm(name='gn3', scale_init=nn.initializers.zeros)(conv(out, 1, name='conv3')(y))
    if x.shape[-1] != out or self.stride != 1:
      x = norm(name='gn_proj')(conv(out, 1, self.stride, name='conv_proj')(x))
    return nn.relu(x + y)


class PostActStage(nn.Module):
  """Units `unit1`, `unit2`, ... of one resolution; the first one takes the stride."""

  num_units: int
  mid: int
  stride: int
  groups: int
  dtype: DType
  param_dtype: DType

  @nn.compact
  def __call__(self, x: Array) -> Array:
    for i in range(self.num_units):
      unit = PostActUnit(
        self.mid, self.stride if i == 0 else 1, self.groups, self.dtype, self.param_dtype, name=f'unit{i + 1}'
      )
      x = unit(x)
    return x


def apply_hybrid_stem(
  x: Array,
  units: tuple[int, ...],
  *,
  dtype: DType = jnp.float32,
  param_dtype: DType = jnp.float32,
  width: int = 64,
  groups: int = 32,
) -> Array:
  """Returns the feature map of a hybrid's ResNet trunk; call it inside an @nn.compact method.

  A function and not a module, because the released hybrids keep its parameters at the top level of the tree:
  conv_root/kernel, gn_root/{scale,bias}, block{b}/unit{u}/{conv1,gn1,conv2,gn2,conv3,gn3,conv_proj,gn_proj}.

  Args:
    x: images, float [n, h, w, 3].
    units: residual units per stage: (3, 4, 9) for R50 at 1/16, (3, 4, 6, 3) for R50 at 1/32.
    dtype: compute dtype. Norm and kernel statistics are float32 all the same.
    param_dtype: dtype of the parameters.
    width: channels of the root; stage b has bottlenecks of width * 2^(b-1), outputs four times that.
    groups: groups of each GroupNorm.

  Returns:
    [n, h', w', c] of `dtype`, with h' = h / (4 * 2^(stages-1)) rounded up at each halving, c = 4 * width *
    2^(stages-1): 1024 channels at stride 16 for three stages. Not negative: the last thing is a relu.

  Source: ViT (arXiv 2010.11929) 3.1 and 4.1, where BatchNorm is replaced by GroupNorm and standardised
    convolutions are used; the details are those of the released weights.
  """
  conv = functools.partial(StdConv, dtype=dtype, param_dtype=param_dtype)
  x = conv(width, 7, 2, name='conv_root')(x)
  x = nn.GroupNorm(num_groups=groups, epsilon=1e-6, dtype=dtype, param_dtype=param_dtype, name='gn_root')(x)
  x = nn.max_pool(nn.relu(x), (3, 3), strides=(2, 2), padding='SAME')
  for i, num_units in enumerate(units):
    stage = PostActStage(
      num_units, width * 2**i, 1 if i == 0 else 2, groups, dtype, param_dtype, name=f'block{i + 1}'
    )
    x = stage(x)
  return x


class PreActUnit(nn.Module):
  """Bottleneck unit of BiT: y = shortcut + conv3(relu(gn3(...))), both branches fed by relu(gn1(x))."""

  mid: int
  stride: int
  groups: int
  dtype: DType
  param_dtype: DType

  @nn.compact
  def __call__(self, x: Array) -> Array:
    out = EXPANSION * self.mid
    conv = functools.partial(
      StdConv,
      standardize=standardize_by_variance,
      padding=0,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )
    norm = functools.partial(
      nn.GroupNorm, num_groups=self.groups, epsilon=1e-5, dtype=self.dtype, param_dtype=self.param_dtype
    )
    y = nn.relu(norm(name='gn1')(x))
    if x.shape[-1] != out or self.stride != 1:
      x = conv(out, 1, self.stride, name='conv_proj')(y)
    y = conv(self.mid, 1, name='conv1')(y)
    y = nn.relu(norm(name='gn2')(y))
    y = conv(self.mid, 3, self.stride, padding=1, name='conv2')(y)
    y = nn.relu(norm(name='gn3')(y))
    return x + conv(out, 1, name='conv3')(y)


class RootBlock(nn.Module):
  """The first layers of BiT: 7x7 stride 2 and max-pool, or one 3x3 of stride 2 for small images.

  No norm and no relu: the first unit begins with them.
  """

  width: int
  small_root: bool
  dtype: DType
  param_dtype: DType

  @nn.compact
  def __call__(self, x: Array) -> Array:
    conv = functools.partial(
      StdConv, standardize=standardize_by_variance, dtype=self.dtype, param_dtype=self.param_dtype
    )
    if self.small_root:
      return conv(self.width, 3, 2, padding=1, name='conv_root')(x)
    x = conv(self.width, 7, 2, padding=3, name='conv_root')(x)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # zeros, unlike nn.max_pool's own padding
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding='VALID')


def _save_convolutions(primitive: Any, *_: Any, **__: Any) -> bool:
  """Checkpoint policy: keep what convolutions and matmuls put out, recompute norms and relus."""
  return primitive in (jax.lax.conv_general_dilated_p, jax.lax.dot_general_p)


def _unit_class(remat: str) -> type[nn.Module]:
  """Returns PreActUnit, wrapped so that its backward pass recomputes what `remat` says."""
  if remat == 'none':
    return PreActUnit
  policies = {'dots': _save_convolutions, 'full': None}
  return nn.remat(PreActUnit, policy=policies[remat])


class PreActStage(nn.Module):
  """Units `unit01`, `unit02`, ... of one resolution; the first one takes the stride."""

  num_units: int
  mid: int
  stride: int
  groups: int
  remat: str
  dtype: DType
  param_dtype: DType

  @nn.compact
  def __call__(self, x: Array) -> Array:
    unit_class: Callable[..., Any] = _unit_class(self.remat)
    for i in range(self.num_units):
      stride = self.stride if i == 0 else 1
      unit = unit_class(self.mid, stride, self.groups, self.dtype, self.param_dtype, name=f'unit{i + 1:02d}')
      x = unit(x)
    return x


class BiTResNet(nn.Module):
  """ResNet-v2 with GroupNorm and standardised convolutions: the paper's convolutional baseline.

  Parameters, by the names of the Flax BiT models: root_block/conv_root/kernel, block{b}/unit{NN}/{gn1, conv1,
  gn2, conv2, gn3, conv3, conv_proj}, norm-pre-head/{scale, bias}, head/{kernel, bias}. The head is a dense
  layer on the pooled features; the TensorFlow files hold the same numbers as a 1x1 convolution (1, 1, d, v)
  named resnet/head/conv2d. The shortcut is projected (conv_proj) in the first unit of each stage.

  Attributes:
    variant: units per stage, width of the root, groups, and the form of the root.
    num_classes: outputs; 0: no head, and the pooled features take the place of the logits.
    head_bias_init: initial bias of the head, whose kernel starts at zero.
    remat: what the backward pass recomputes, unit by unit: 'none'; 'dots': all but the outputs of
      convolutions; 'full': everything.
    dtype: compute dtype. Statistics of norms and kernels, pooling and the head are float32 all the same.
    param_dtype: dtype of the parameters.

  Source: BiT, arXiv 1912.11370, section 3 and appendix A.
  """

  variant: ResNetVariant
  num_classes: int
  head_bias_init: float = 0.0
  remat: str = 'none'
  dtype: DType = jnp.float32
  param_dtype: DType = jnp.float32

  @nn.compact
  def __call__(
    self, images: Array, *, train: bool = False, return_features: bool = False
  ) -> Array | tuple[Array, dict[str, Array]]:
    """Returns the logits of normalised images.

    Args:
      images: float [n, h, w, 3].
      train: accepted so that all models are called alike; a ResNet has no dropout and no running statistics.
      return_features: return (logits, out) instead.

    Returns:
      float32 [n, v], or [n, d] pooled features when num_classes is 0. `out` holds 'tokens' [n, h'*w', d], the
      last feature map after norm and relu, row by row, in `dtype`; 'pooled' [n, d], its float32 mean;
      'pre_logits', the same, since there is no hidden layer in the head; and 'stage1', 'stage2' ...
      [n, h, w, c], what each stage puts out.
    """
    del train
    v = self.variant
    stages = {}
    x = RootBlock(v.width, v.small_root, self.dtype, self.param_dtype, name='root_block')(images)
    for i, num_units in enumerate(v.units):
      stage = PreActStage(
        num_units,
        v.width * 2**i,
        1 if i == 0 else 2,
        v.groups,
        self.remat,
        self.dtype,
        self.param_dtype,
        name=f'block{i + 1}',
      )
      x = stages[f'stage{i + 1}'] = stage(x)
    norm = nn.GroupNorm(
      num_groups=v.groups, epsilon=1e-5, dtype=self.dtype, param_dtype=self.param_dtype, name='norm-pre-head'
    )
    x = nn.relu(norm(x))
    tokens = x.reshape(x.shape[0], -1, x.shape[-1])
    pooled = logits = jnp.mean(tokens, axis=1, dtype=jnp.float32)
    if self.num_classes:
      head = nn.Dense(
        self.num_classes,
        kernel_init=nn.initializers.zeros,
        bias_init=nn.initializers.constant(self.head_bias_init),
        dtype=jnp.float32,
        param_dtype=self.param_dtype,
        name='head',
      )
      logits = head(pooled)
    if return_features:
      return logits, {**stages, 'tokens': tokens, 'pooled': pooled, 'pre_logits': pooled}
    return logits
