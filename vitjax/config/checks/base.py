"""What cross-field checks share: a recipe, its knobs that were refused already, and the problems found."""

from __future__ import annotations

import dataclasses

from vitjax.config.eval_metrics import FEATURE_KINDS, HEAD_KINDS
from vitjax.config.knobs import read
from vitjax.config.schema import ModelConfig, Recipe, SourceConfig
from vitjax.config.values import shown
from vitjax.config.variants import ResNetVariant, ViTVariant, parse_variant
from vitjax.errors import Problem

# Classes of the sources whose labels need no file to be known.
KNOWN_CLASSES = {'mnist5k': 10, 'digits': 10, 'fashion_mnist': 10}


@dataclasses.dataclass
class Findings:
  """A recipe under examination.

  Attributes:
    recipe: complete; knobs in `bad` hold their defaults.
    bad: dotted paths of knobs and groups that were refused already, whose values mean nothing.
    num_devices: devices of the run, None if unknown.
    problems: what was found so far.
  """

  recipe: Recipe
  bad: set[str]
  num_devices: int | None = None
  problems: list[Problem] = dataclasses.field(default_factory=list)

  def good(self, *paths: str) -> bool:
    """Returns whether none of these knobs, nor a group that holds one, was refused before."""
    prefixes = {'.'.join(path.split('.')[:n]) for path in paths for n in range(1, path.count('.') + 2)}
    return not prefixes & self.bad

  def add(self, where: str, expected: str, hint: str = '', found: str | None = None) -> None:
    """Records a problem with one knob, unless that knob was refused before. `found` defaults to its value."""
    if self.good(where):
      text = shown(read(self.recipe, where)) if found is None else found
      self.problems.append(Problem(where, text, expected, hint))

  def sources(self) -> list[str]:
    """Returns the dotted paths of all sources that are read."""
    evals = self.recipe.evals
    support = [f'evals.{name}.train_source' for name in evals if evals[name].kind in FEATURE_KINDS]
    return ['data.source', *(f'evals.{name}.source' for name in evals), *support]

  def head_sources(self) -> list[str]:
    """Returns the dotted paths of the sources whose classes the model's head must hold."""
    evals = self.recipe.evals
    return ['data.source', *(f'evals.{n}.source' for n in evals if evals[n].kind in HEAD_KINDS)]

  def source(self, path: str) -> SourceConfig:
    """Returns the source at one of the paths of `sources`."""
    source = read(self.recipe, path)
    assert isinstance(source, SourceConfig), path
    return source

  def variant(self) -> ViTVariant | ResNetVariant | None:
    """Returns the parsed variant, None if it cannot be parsed."""
    if not self.good('model.variant'):
      return None
    try:
      return parse_variant(self.recipe.model.variant)
    except ValueError:
      return None


@dataclasses.dataclass(frozen=True)
class Sizes:
  """A transformer's sizes after overrides; `downsample` is input pixels per token side."""

  width: int
  num_heads: int
  patch_size: int
  downsample: int


def sizes(variant: ViTVariant, model: ModelConfig) -> Sizes:
  """Returns the sizes that `model` asks for: a knob that is not None overrides the variant's."""
  patch = variant.patch_size if model.patch_size is None else model.patch_size
  return Sizes(
    width=variant.size.width if model.width is None else model.width,
    num_heads=variant.size.num_heads if model.num_heads is None else model.num_heads,
    patch_size=patch,
    downsample=variant.downsample // variant.patch_size * patch,
  )
