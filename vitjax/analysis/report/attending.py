"""Studies of attention and positions: how far heads look, where, and what position tables hold."""

from __future__ import annotations

import numpy as np

from vitjax.analysis.attention import (
  attention_distance,
  attention_with_gradient,
  conv_layers_needed,
  conv_receptive_field,
)
from vitjax.analysis.layers import is_transformer, token_layout
from vitjax.analysis.maps import gradient_weighted, head_maps, rollout
from vitjax.analysis.positions import position_similarity, position_structure, position_tables, resampled
from vitjax.analysis.report import draw
from vitjax.analysis.report.section import LeftOut, Picture, Section, Subject

_MAX_PANELS = 8  # per side of a grid of grids


def distance(subject: Subject) -> Section | LeftOut:
  """How far each head looks."""
  title = 'How far does each head look?'
  if not is_transformer(subject.loaded):
    return LeftOut('distance', title, 'a ResNet has no attention; see its effective receptive field instead')
  found = attention_distance(subject.loaded, subject.inputs)
  depth, num_heads = found.mean.shape
  block = np.arange(1, depth + 1)
  figure, axes = draw.canvas(height=3.5)
  plot = axes[0, 0]
  for head in range(num_heads):
    shift = (head - (num_heads - 1) / 2) * 0.5 / max(num_heads, 1)
    plot.plot(
      block + shift, found.mean[:, head], 'o', color=draw.BLUE, markersize=4.5, alpha=0.75,
      label='one head' if head == 0 else None,
    )  # fmt: skip
    plot.vlines(
      block + shift, found.mean[:, head] - found.spread[:, head], found.mean[:, head] + found.spread[:, head],
      color=draw.BLUE, alpha=0.18, linewidth=2,
    )  # fmt: skip
  plot.plot(block, found.mean.mean(axis=1), color='black', linewidth=1.2, label='mean of heads')
  plot.axhline(found.uniform, color=draw.GREY, linestyle=':', label='a head that looks everywhere alike')
  fields = [conv_receptive_field(int(b)) for b in block]
  plot.plot(block, fields, '--', color=draw.ORANGE, label='field of as many 3x3 convolutions')
  plot.set_xlabel('block')
  plot.set_xticks(block if depth <= 16 else block[::4])
  plot.set_ylabel('attention distance in pixels')
  plot.set_ylim(0, max(found.uniform, (found.mean + found.spread).max()) * 1.05)
  side = plot.secondary_yaxis('right', functions=(lambda y: y / found.width, lambda y: y * found.width))
  side.set_ylabel('as a share of the width', fontsize=9)
  side.tick_params(labelsize=8)
  plot.legend(loc='lower center', bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
  last, first = found.mean[-1].mean(), found.mean[0]
  furthest = float(found.mean.max())
  headline = (
    f'Heads of block 1 look between {first.min():.0f} and {first.max():.0f} pixels far, those of block {depth} '
    f'{last:.0f} on average ({last / found.width:.0%} of the width); a stack of 3x3 convolutions needs '
    f"{conv_layers_needed(furthest)} layers for a field as wide as the furthest head's {furthest:.0f} pixels."
  )
  rows = [
    (int(b), h, float(found.mean[b - 1, h]), float(found.share[b - 1, h]), float(found.spread[b - 1, h]))
    for b in block
    for h in range(num_heads)
  ]
  return Section(
    'distance',
    title,
    headline,
    how=(
      'For each query patch the distances to all patches are averaged with its attention as weights, then over '
      f'queries and {len(subject.inputs)} images; bars: standard deviation over these. What goes to the class '
      'token and registers is left out and each row divided by the rest (arXiv 2010.11929, D.7). The dashed '
      'line is 1 + 2 L pixels for L convolutions.'
    ),
    caveat=(
      'A field of 121 pixels (60 layers) reaches 60 pixels to each side; its effective part is smaller still. '
      'Renormalising hides how much a head idles on the class token. The paper averages 128 images.'
    ),
    pictures=(
      Picture(
        'distance',
        draw.encoded(figure),
        'Mean attention distance of every head, block by block.',
        'Scatter plot of attention distance against block, one dot per head.',
      ),
    ),
    columns=('block', 'head', 'distance_pixels', 'share_of_width', 'spread_pixels'),
    rows=rows,
    numbers={
      'mean_pixels': found.mean.tolist(),
      'spread_pixels': found.spread.tolist(),
      'width_pixels': found.width,
      'uniform_pixels': found.uniform,
      'renormalized': found.renormalized,
      'conv_layers_for_furthest': conv_layers_needed(furthest),
    },
  )


def attention(subject: Subject) -> Section | LeftOut:
  """Where the model looks."""
  title = 'Where does it look?'
  if not is_transformer(subject.loaded):
    return LeftOut('attention', title, 'a ResNet has no attention')
  loaded, layout = subject.loaded, token_layout(subject.loaded)
  found = attention_with_gradient(loaded, subject.inputs[subject.shown_index])
  heads = head_maps(found.attention, layout)
  maps = {
    'last block, mean of heads': heads[:, -1].mean(axis=1),
    'rollout': rollout(found.attention, layout),
    'gradient-weighted': gradient_weighted(found, layout),
  }
  pictures = (
    Picture(
      'attention',
      _overlays(subject, maps, found.classes),
      f'{_row_of(layout.has_class_token)}, over the photograph: the last block, all blocks multiplied (rollout), and '
      f'weighted by what moves {_score_of(loaded.num_classes)}. Each map has its own scale.',
      'Photographs with three attention maps laid over each.',
    ),
    Picture(
      'heads',
      _poster(subject.shown[0], heads[0]),
      'Every head of every block on the first photograph, each on its own scale.',
      'Grid of attention maps, one row per block and one column per head.',
    ),
  )
  names = [subject.paths[i].name for i in subject.shown_index]
  shares = {name: [_concentration(m) for m in values] for name, values in maps.items()}
  headline = (
    f"Half of the last block's attention to the image falls on {np.mean(shares['last block, mean of heads']):.0%} of "
    f'the patches, half of the rollout on {np.mean(shares["rollout"]):.0%}, half of the gradient-weighted relevance on '
    f'{np.mean(shares["gradient-weighted"]):.0%} (50 % would be an even spread).'
  )
  return Section(
    'attention',
    title,
    headline,
    how=(
      'Rollout: per block the mean over heads plus the identity, rows normalised, multiplied through the blocks '
      '(arXiv 2005.00928). Gradient-weighted: per block the mean over heads of the positive part of attention times '
      f'its gradient, accumulated (2103.15679); the gradient is of {_score_of(loaded.num_classes)}. Maps are enlarged '
      'smoothly from the grid of patches. Capturing attention changes no number of the model.'
    ),
    caveat=(
      'Attention is not an explanation: it says where values are read, not what is made of them. Rollout ignores '
      'values and MLPs, and a single outlier patch can dominate it.'
    ),
    pictures=pictures,
    columns=('image', *(f'half_mass_share_{name.split(",")[0].replace(" ", "_")}' for name in maps)),
    rows=[(name, *(float(shares[kind][i]) for kind in maps)) for i, name in enumerate(names)],
    numbers={'half_mass_share': shares, 'images': names},
  )


def _row_of(has_class_token: bool) -> str:
  return "The class token's attention" if has_class_token else "The patches' mean attention"


def _score_of(num_classes: int) -> str:
  return 'the highest logit' if num_classes else 'the squared norm of the features (the model has no head)'


def _concentration(heat: np.ndarray) -> float:
  """Returns the smallest share of cells that holds half of a map's mass."""
  held = np.cumsum(np.sort(heat.ravel())[::-1])
  return float((np.searchsorted(held, 0.5 * held[-1]) + 1) / heat.size)


def _overlays(subject: Subject, maps: dict[str, np.ndarray], classes: np.ndarray | None) -> bytes:
  count = len(subject.shown)
  figure, axes = draw.canvas(count, 1 + len(maps), height=1.4 * count + 0.9)
  for i, pixels in enumerate(subject.shown):
    draw.show(axes[i, 0], pixels, 'image' if i == 0 else '')
    if classes is not None:
      axes[i, 0].set_xlabel(_short(subject.loaded.class_names[int(classes[i])]), fontsize=8)
    for j, (name, values) in enumerate(maps.items()):
      title = name.replace(', ', ',\n').replace('-', '-\n') if i == 0 else ''
      draw.show(axes[i, 1 + j], draw.overlay(pixels, values[i]), title)
  draw.heat_bar(figure, axes)
  return draw.encoded(figure)


def _short(name: str) -> str:
  return name if len(name) <= 22 else name[:21] + '…'


def _poster(pixels: np.ndarray, heads: np.ndarray) -> bytes:
  """Returns small overlays, a row per block and a column per head."""
  depth, num_heads = heads.shape[:2]
  side = min(draw.WIDTH / (num_heads + 0.4), 1.0)
  figure, axes = draw.canvas(depth, num_heads, height=depth * side * 1.04 + 0.5)
  for b in range(depth):
    for h in range(num_heads):
      draw.show(axes[b, h], draw.overlay(pixels, heads[b, h]), f'head {h + 1}' if b == 0 else '')
    axes[b, 0].set_ylabel(f'block {b + 1}', fontsize=8)
  return draw.encoded(figure)


def positions(subject: Subject) -> Section | LeftOut:
  """What position tables hold."""
  title = 'What did it learn about places?'
  loaded = subject.loaded
  if not is_transformer(loaded):
    return LeftOut('positions', title, 'a ResNet has no position embedding')
  tables = position_tables(loaded)
  if not tables:
    reason = 'its positions are relative, so no table says where a patch lies'
    return LeftOut(
      'positions', title, reason if loaded.config.position == 'relative' else 'it has no positions'
    )
  place, table = next(iter(tables.items()))
  h, w, _ = table.shape
  grid = (max(round(h * 1.5), 2), max(round(w * 1.5), 2))
  larger = resampled(table, grid)
  figure, axes = draw.canvas(1, 2, height=3.15)
  for axis, values, name in ((axes[0, 0], table, 'as loaded'), (axes[0, 1], larger, 'resampled')):
    rows, columns = values.shape[:2]
    drawn = draw.show(
      axis,
      _grid_of_grids(values),
      f'{name}, {rows}x{columns}',
      cmap='viridis',
      vmin=-1,
      vmax=1,
      interpolation='nearest',
    )
    axis.set_xlabel('column of the patch')
  axes[0, 0].set_ylabel('row of the patch')
  draw.scale_bar(figure, drawn, axes, 'cosine', orientation='horizontal', ticks=[-1, -0.5, 0, 0.5, 1])
  found = {name: position_structure(values) for name, values in tables.items()}
  found[f'{place}, resampled to {grid[0]}x{grid[1]}'] = position_structure(larger)
  first = found[place]
  headline = (
    f'Rows explain {first.rows:.0%} and columns {first.columns:.0%} of the variance of the {h}x{w} table; for random '
    f'vectors the two together would explain {first.chance:.0%}.'
  )
  return Section(
    'positions',
    title,
    headline,
    how=(
      f'Each small square belongs to one patch and shows the cosine of its position embedding ({place}) with those of '
      f"all others{_panels_text(h, w)}, as in the paper's Figure 7; right: the same table resampled, as transfer to "
      'larger images does. The shares are a two-way analysis of variance of the vectors over rows and columns.'
    ),
    caveat=(
      f'{_kind_text(loaded.config.position)} Similar embeddings need not be used alike. A cosine counts what all '
      'embeddings have in common; the shares of variance do not.'
    ),
    pictures=(
      Picture(
        'positions',
        draw.encoded(figure),
        "Each patch's position against all others: a grid of grids.",
        'Grid of small heat maps of cosine similarity.',
      ),
    ),
    columns=('table', 'rows', 'columns', 'rest', 'chance'),
    rows=[(name, s.rows, s.columns, s.rest, s.chance) for name, s in found.items()],
    numbers={
      name: {'rows': s.rows, 'columns': s.columns, 'rest': s.rest, 'chance': s.chance}
      for name, s in found.items()
    },
  )


def _kind_text(kind: str) -> str:
  if kind == 'learned_1d':
    return 'Nothing told these embeddings that patches lie on a grid.'
  return 'This kind of table is built from rows and columns, so that its structure is no discovery.'


def _panels(size: int) -> np.ndarray:
  return np.linspace(0, size - 1, min(size, _MAX_PANELS)).round().astype(int)


def _panels_text(h: int, w: int) -> str:
  return '' if max(h, w) <= _MAX_PANELS else f' (at most {_MAX_PANELS} rows and columns of squares are drawn)'


def _grid_of_grids(table: np.ndarray) -> np.ndarray:
  similarity = position_similarity(table)
  h, w = table.shape[:2]
  return draw.tiled(similarity[np.ix_(_panels(h), _panels(w))], gap=max(max(h, w) // 8, 1))
