"""Studies of inductive bias: receptive fields, shifts, shuffled patches."""

from __future__ import annotations

import numpy as np

from vitjax.analysis.layers import layer_names
from vitjax.analysis.probes import ProbeResult, shuffle_probe, shuffled, translation_probe
from vitjax.analysis.receptive_field import receptive_field
from vitjax.analysis.report import draw
from vitjax.analysis.report.section import LeftOut, Picture, Section, Subject
from vitjax.config.variants import ResNetVariant
from vitjax.loaded import Loaded
from vitjax.models import resolve_variant

_FIELD_IMAGES = 8


def field(subject: Subject) -> Section | LeftOut:
  """Which pixels the middle depends on."""
  models = [(subject.name, subject.loaded)]
  if subject.other is not None:
    models.append((subject.other_name, subject.other))
  chosen = (
    np.linspace(0, len(subject.pixels) - 1, min(_FIELD_IMAGES, len(subject.pixels))).round().astype(int)
  )
  pixels = [subject.paths[i] for i in chosen]
  results = [(name, receptive_field(m, pixels, layers=_three(m))) for name, m in models]
  height = 2.15 * len(results)
  figure, axes = draw.canvas(len(results), max(len(r.layers) for _, r in results), height=height)
  for axis in axes.ravel():
    axis.axis('off')
  rows = []
  for i, (name, found) in enumerate(results):
    for j, layer in enumerate(found.layers):
      values = np.sqrt(found.maps[j] / found.maps[j].max())
      axis = axes[i, j]
      drawn = draw.show(axis, values, cmap='inferno', vmin=0, vmax=1)
      y, x = found.centre[j] - 0.5
      for radius, style in ((found.radius_50[j], '-'), (found.radius_90[j], ':')):
        axis.add_patch(
          draw.plt.Circle((x, y), radius, fill=False, color='white', linewidth=1.1, linestyle=style)
        )
      text = f'50 %: {found.radius_50[j]:.0f} px, 90 %: {found.radius_90[j]:.0f} px'
      axis.set_title(f'{layer}\n{text}' if len(results) == 1 else f'{name[:20]}\n{layer}\n{text}', fontsize=8)
      rows.append((name, layer, float(found.radius_50[j]), float(found.radius_90[j])))
  draw.scale_bar(figure, drawn, axes, 'square root of share of maximum', shrink=0.6)
  own = results[0][1]
  headline = (
    f'Half of what moves the middle of {own.layers[0]} lies within {own.radius_50[0]:.0f} pixels, of '
    f'{own.layers[-1]} within {own.radius_50[-1]:.0f}.'
  )
  if len(results) > 1:
    other = results[1][1]
    headline += (
      f' For {results[1][0]} it is {other.radius_50[0]:.0f} ({other.layers[0]}) and {other.radius_50[-1]:.0f} '
      f'({other.layers[-1]}).'
    )
  return Section(
    'field',
    'Which pixels does the middle depend on?',
    headline,
    how=(
      'The derivative of all features of the central cell with respect to each pixel, root mean square over '
      f'{len(pixels)} images and random signs (arXiv 1701.04128). The solid circle holds half of it, the dotted one '
      '90 %; their radii stand above each map.'
    ),
    caveat=(
      'A derivative is local: it says what a small change of a pixel does, not what the pixel means. Normalisation '
      'over whole maps couples all pixels weakly, also in a ResNet.'
    ),
    pictures=(
      Picture(
        'field',
        draw.encoded(figure),
        'Effective receptive field of the central cell, early, midway and late.',
        'Heat maps of gradients around the centre of the image.',
      ),
    ),
    columns=('model', 'layer', 'radius_50_pixels', 'radius_90_pixels'),
    rows=rows,
    numbers={
      name: {'layers': list(r.layers), 'radius_50': r.radius_50.tolist(), 'radius_90': r.radius_90.tolist()}
      for name, r in results
    },
  )


def _three(loaded: Loaded) -> tuple[str, ...]:
  """Returns the first, a middle and the last layer before the final norm."""
  names = layer_names(loaded)[:-1]
  return tuple(dict.fromkeys((names[0], names[(len(names) - 1) // 2], names[-1])))


def shift(subject: Subject) -> Section | LeftOut:
  """What a shift changes."""
  side = min(subject.loaded.preprocess.image_size)
  stride = _stride(subject.loaded)
  fine = sorted({s for s in (1, 2, 4, 8, stride // 2, stride, 2 * stride) if 0 < s <= side // 4})
  results = [(subject.name, translation_probe(subject.loaded, subject.paths, fine, labels=subject.labels))]
  if subject.other is not None:
    results.append(
      (subject.other_name, translation_probe(subject.other, subject.paths, fine, labels=subject.other_labels))
    )
  own = results[0][1]
  pictures = (
    Picture(
      'shift',
      _curves(results, 'shift in pixels', marks=(stride, 'one patch')),
      f'What changes when the window over the photograph moves right, mean of {own.num_images} images.',
      'Curves against the shift in pixels.',
    ),
  )
  headline = f'A shift of {own.strengths[-1]} pixels leaves a cosine of {own.cosine[-1]:.3f} between features'
  if own.agreement is not None:
    headline += f', and the same class for {own.agreement[-1]:.0%} of the images'
  return Section(
    'shift',
    'What does a shift change?',
    headline + '.',
    how=(
      "Each photograph is prepared larger, and two windows of the model's size are compared, one moved to the "
      'right: what enters at the border are real pixels. A window shows '
      f'{side / (side + 2 * own.strengths[-1]):.0%} of the side, so that 0 is not the usual view of the '
      'image. Cosine of the pooled features'
      + (
        ', share of unchanged classes, and total variation between probabilities.'
        if own.agreement is not None
        else '.'
      )
    ),
    caveat=(
      'The window also loses and gains content at its borders, so that even a perfectly shift-invariant network would '
      'not stay at 1. Photographers centre their subjects: invariance can be learned from data as well.'
    ),
    pictures=pictures,
    columns=('model', 'shift_pixels', 'feature_cosine', 'same_class', 'total_variation', 'accuracy'),
    rows=[row for name, found in results for row in _rows(name, found)],
    numbers={name: _numbers(found) for name, found in results},
  )


def shuffle(subject: Subject) -> Section | LeftOut:
  """What is left when patches are shuffled."""
  title = 'Does the order of patches matter?'
  h, w = subject.loaded.preprocess.image_size
  stride = _stride(subject.loaded)
  counts = [
    t for t in range(2, min(h, w) // 2 + 1) if h % t == 0 and w % t == 0 and min(h, w) // t >= min(stride, 4)
  ]
  if not counts:
    return LeftOut('shuffle', title, f'no number of tiles divides {h}x{w} pixels')
  tiles = sorted(
    {*(t for t in (2, 4, 8) if t in counts), *(t for t in (h // stride,) if t in counts), counts[0]}
  )
  results = [(subject.name, shuffle_probe(subject.loaded, subject.paths, tiles, labels=subject.labels))]
  if subject.other is not None and subject.other.preprocess.image_size == (h, w):
    results.append(
      (subject.other_name, shuffle_probe(subject.other, subject.paths, tiles, labels=subject.other_labels))
    )
  own = results[0][1]
  figure, axes = draw.canvas(1, min(len(own.strengths), 4), height=1.6)
  for axis, count in zip(axes[0], own.strengths, strict=False):
    view = shuffled(subject.shown[0], count, np.random.default_rng(0))
    draw.show(axis, view, 'as it is' if count == 1 else f'{count}x{count} tiles')
  pictures = (
    Picture(
      'shuffle-example',
      draw.encoded(figure),
      'The first photograph, shuffled.',
      'A photograph cut into tiles.',
    ),
    Picture(
      'shuffle',
      _curves(results, 'tiles per side (1: as it is)', marks=None),
      f'What is left when tiles are put in random order, mean of {own.num_images} images.',
      'Curves against the number of tiles per side.',
    ),
  )
  headline = (
    f'{own.strengths[-1]}x{own.strengths[-1]} shuffled tiles leave a feature cosine of {own.cosine[-1]:.2f}'
  )
  if own.accuracy is not None:
    headline += f', and an accuracy of {own.accuracy[-1]:.0%} instead of {own.accuracy[0]:.0%}'
  elif own.agreement is not None:
    headline += f', and the same class for {own.agreement[-1]:.0%} of the images'
  return Section(
    'shuffle',
    title,
    headline + '.',
    how=(
      'The image is cut into equal tiles, which are put in a random order (another one for each image). A ViT without '
      'positions does not notice tiles of the size of its patches at all.'
    ),
    caveat=(
      'Tiles have new, sharp borders, which a network may react to apart from the order. '
      + (
        '' if own.accuracy is not None else 'There is no accuracy, since folder names do not say the classes.'
      )
    ),
    pictures=pictures,
    columns=('model', 'tiles_per_side', 'feature_cosine', 'same_class', 'total_variation', 'accuracy'),
    rows=[row for name, found in results for row in _rows(name, found)],
    numbers={name: _numbers(found) for name, found in results},
  )


def _stride(loaded: Loaded) -> int:
  """Returns pixels per token, or per cell of a ResNet's last map."""
  variant = resolve_variant(loaded.config)
  if isinstance(variant, ResNetVariant):
    return 2 ** len(variant.units) * (1 if variant.small_root else 2)
  return variant.downsample


def _curves(results: list[tuple[str, ProbeResult]], label: str, marks: tuple[int, str] | None) -> bytes:
  figure, axes = draw.canvas(height=3.2)
  plot = axes[0, 0]
  colours = (draw.BLUE, draw.ORANGE)
  for (name, found), colour in zip(results, colours, strict=False):
    prefix = '' if len(results) == 1 else f'{name[:24]}: '
    plot.plot(found.strengths, found.cosine, 'o-', color=colour, label=f'{prefix}feature cosine')
    if found.agreement is not None:
      plot.plot(found.strengths, found.agreement, 's--', color=colour, alpha=0.8, label=f'{prefix}same class')
    if found.accuracy is not None:
      plot.plot(found.strengths, found.accuracy, '^:', color=colour, alpha=0.8, label=f'{prefix}accuracy')
  if marks is not None and marks[0] <= results[0][1].strengths[-1]:
    plot.axvline(marks[0], color=draw.GREY, linewidth=0.8, linestyle=':')
    plot.text(
      marks[0], 0.02, f' {marks[1]}', color=draw.GREY, fontsize=8, transform=plot.get_xaxis_transform()
    )
  plot.set_xlabel(label)
  if marks is None:
    plot.set_xticks(results[0][1].strengths)
  plot.set_ylabel('1 = unchanged')
  values = np.concatenate(
    [v for _, r in results for v in (r.cosine, r.agreement, r.accuracy) if v is not None]
  )
  plot.set_ylim(
    min(0.0, float(values.min())) if values.min() < 0.5 else np.floor(values.min() * 20) / 20 - 0.02, 1.02
  )
  plot.legend(frameon=False, loc='lower center', bbox_to_anchor=(0.5, 1.0), ncols=len(results))
  return draw.encoded(figure)


def _rows(name: str, found: ProbeResult) -> list[tuple]:
  columns = (found.cosine, found.agreement, found.movement, found.accuracy)
  return [
    (name, strength, *('' if column is None else float(column[i]) for column in columns))
    for i, strength in enumerate(found.strengths)
  ]


def _numbers(found: ProbeResult) -> dict[str, object]:
  named = {
    'cosine': found.cosine,
    'same_class': found.agreement,
    'total_variation': found.movement,
    'accuracy': found.accuracy,
  }
  return {
    'strengths': list(found.strengths),
    **{key: None if value is None else value.tolist() for key, value in named.items()},
  }
