"""Studies of features: filters, patch features as colours, token norms, likeness of layers."""

from __future__ import annotations

import matplotlib.ticker
import numpy as np

from vitjax.analysis.filters import filter_components
from vitjax.analysis.layers import is_transformer, layer_names, mapped
from vitjax.analysis.report import draw
from vitjax.analysis.report.section import LeftOut, Picture, Section, Subject
from vitjax.analysis.similarity import layer_similarity
from vitjax.analysis.tokens import feature_pca, token_norms

_THRESHOLD = 0.5
_MIN_EXAMPLES = 4


def filters(subject: Subject) -> Section | LeftOut:
  """What the first layer looks for."""
  found = filter_components(subject.loaded)
  count = len(found.components)
  columns = min(7, count)
  rows = -(-count // columns)
  figure, axes = draw.canvas(rows, columns, height=0.86 * rows + 0.1)
  for axis in axes.ravel():
    axis.axis('off')
  for i, component in enumerate(found.components):
    low, high = component.min(), component.max()
    axis = axes[i // columns, i % columns]
    draw.show(axis, (component - low) / max(high - low, 1e-12), interpolation='nearest')
    axis.set_title(f'{found.explained[i]:.1%}', fontsize=8, pad=2)
    axis.axis('off')
  total = float(found.explained.sum())
  return Section(
    'filters',
    'What does the first layer look for?',
    headline=(
      f'The first {count} principal components hold {total:.0%} of the variance of its {found.num_filters} filters; '
      f'the first alone {found.explained[0]:.0%}.'
    ),
    how=(
      f'Principal components of {found.path} (one filter per output channel, mean subtracted), each scaled to the full '
      "range of colours; above each its share of the variance (the paper's Figure 7, left)."
    ),
    caveat='Smooth, wave-like components are usual for well-trained supervised stems, but no proof of anything; '
    'noise without any structure hints at little training. Signs and scales are arbitrary.',
    pictures=(
      Picture(
        'filters',
        draw.encoded(figure),
        'Principal components of the filters that meet the pixels.',
        'Grid of small colour patterns.',
      ),
    ),
    columns=('component', 'explained'),
    rows=[(i + 1, float(share)) for i, share in enumerate(found.explained)],
    numbers={'path': found.path, 'explained': found.explained.tolist(), 'num_filters': found.num_filters},
  )


def features(subject: Subject) -> Section | LeftOut:
  """Patch features as colours."""
  title = 'What belongs together?'
  shown = subject.inputs[subject.shown_index]
  last = np.concatenate([maps['final norm'] for maps in mapped(subject.loaded, shown)])
  if min(last.shape[1:3]) < 2:
    return LeftOut('features', title, f'the last layer has a grid of {last.shape[1]}x{last.shape[2]} cells')
  plain = feature_pca(last, joint=False)
  joint = feature_pca(last)
  subjects = feature_pca(last, threshold=_THRESHOLD, joint=False)
  count = len(shown)
  figure, axes = draw.canvas(count, 4, height=1.4 * count + 0.4)
  for i, pixels in enumerate(subject.shown):
    size = pixels.shape[:2]
    draw.show(axes[i, 0], pixels, 'image' if i == 0 else '')
    draw.show(axes[i, 1], _colours(plain.rgb[i], size), 'each image\nby itself' if i == 0 else '')
    draw.show(axes[i, 2], _colours(joint.rgb[i], size), 'all images\ntogether' if i == 0 else '')
    draw.show(axes[i, 3], _cut_out(subjects, i, size), 'foreground\nalone' if i == 0 else '')
  share = subjects.foreground.mean(axis=(1, 2))
  explained = plain.explained.sum(axis=1)
  names = [subject.paths[i].name for i in subject.shown_index]
  return Section(
    'features',
    title,
    headline=(
      f"Three components hold {explained.mean():.0%} of the variance of an image's {last.shape[1]}x{last.shape[2]} "
      f"features; the first one's threshold calls {share.mean():.0%} of the cells foreground."
    ),
    how=(
      "Principal components of the last layer's features, cell by cell, shown as red, green and blue: like colours, "
      'like features. For the last column the first component is cut at '
      f'{_THRESHOLD:g} of its range, turned so that the border of the image is background, and new components are '
      'taken of what is left (arXiv 2304.07193).'
    ),
    caveat=(
      "Colours of one column cannot be compared with another's, nor between images in the second and the last column. "
      'The foreground is a rule of thumb: it fails where the subject reaches the border or fills the image.'
    ),
    pictures=(
      Picture(
        'features',
        draw.encoded(figure),
        'Patch features as colours, by three principal components.',
        'Photographs beside false-colour maps of their features.',
      ),
    ),
    columns=('image', 'explained_by_three', 'foreground_share'),
    rows=[(name, float(explained[i]), float(share[i])) for i, name in enumerate(names)],
    numbers={'explained_by_three': explained.tolist(), 'foreground_share': share.tolist(), 'images': names},
  )


def _colours(rgb: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
  return np.clip(draw.enlarged(rgb, size, smooth=False), 0, 1)


def _cut_out(found, i: int, size: tuple[int, ...]) -> np.ndarray:
  """Returns the foreground's colours on black."""
  lifted = np.where(found.foreground[i][..., None], 0.15 + 0.85 * found.rgb[i], 0)
  return _colours(lifted, size)


def norms(subject: Subject) -> Section | LeftOut:
  """Token norms and outliers."""
  title = 'Do some patches shout?'
  if not is_transformer(subject.loaded):
    return LeftOut('norms', title, 'a ResNet has no tokens, and its stages differ in scale and size')
  names = layer_names(subject.loaded)[:-1]
  parts = [[maps[name] for name in names] for maps in mapped(subject.loaded, subject.inputs)]
  found = token_norms(names, [np.concatenate(layer) for layer in zip(*parts, strict=True)])
  figure, axes = draw.canvas(1, 2, height=2.6)
  block = np.arange(1, len(names) + 1)
  flat = found.norms.reshape(len(names), -1)
  low, middle, high, top = (np.percentile(flat, q, axis=1) for q in (5, 50, 95, 100))
  axes[0, 0].fill_between(block, low, high, color=draw.BLUE, alpha=0.25, label='5 % to 95 %')
  axes[0, 0].plot(block, middle, color=draw.BLUE, label='median')
  axes[0, 0].plot(block, top, ':', color=draw.RED, label='largest')
  axes[0, 0].set_yscale('log')
  draw.readable_log(axes[0, 0].yaxis)
  axes[0, 0].set_xlabel('block')
  axes[0, 0].set_ylabel('norm of a patch token')
  axes[0, 0].legend(
    frameon=False, loc='lower center', bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=7, handlelength=1,
    columnspacing=1,
  )  # fmt: skip
  axes[0, 1].bar(block, 100 * found.share, color=draw.RED)
  axes[0, 1].set_xlabel('block')
  axes[0, 1].set_ylabel('outliers in % of patches')
  for axis in axes[0]:
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
  axes[0, 1].set_ylim(0, max(100 * found.share.max() * 1.15, 1))
  last = found.norms[-1][subject.shown_index]
  count = len(last)
  columns = min(count, 3)
  rows = -(-count // columns)
  places, place_axes = draw.canvas(rows, columns, height=1.75 * rows + 0.3)
  for axis in place_axes.ravel():
    axis.axis('off')
  for i, values in enumerate(last):
    axis = place_axes[i // columns, i % columns]
    drawn = draw.show(axis, values, cmap='cividis', vmin=float(last.min()), vmax=float(last.max()))
    marks = np.argwhere(found.outliers[-1][subject.shown_index[i]])
    axis.scatter(marks[:, 1], marks[:, 0], s=22, facecolors='none', edgecolors='red', linewidths=1.1)
    axis.set_title(subject.paths[subject.shown_index[i]].stem[:22], fontsize=8)
  draw.scale_bar(places, drawn, place_axes, 'norm after the last block')
  worst = int(found.share.argmax())
  headline = f'{found.share[-1]:.1%} of the patch tokens are outliers after the last block' + (
    f'; most, {found.share[worst]:.1%}, after block {worst + 1}.'
    if found.share.any()
    else ', and none anywhere.'
  )
  return Section(
    'norms',
    title,
    headline,
    how=(
      f'Euclidean norms of patch tokens after each block. An outlier lies {found.factor:g} scaled median absolute '
      'deviations above the median of its layer, over all images.'
    ),
    caveat=(
      'Large ViTs recycle patches of dull background for global information; registers give them another place '
      '(arXiv 2309.16588). Small models rarely do. A wide spread of norms is not that; nor does every outlier carry '
      'global information.'
    ),
    pictures=(
      Picture('norms', draw.encoded(figure), 'Norms and outliers by block.', 'Line and bar charts by block.'),
      Picture(
        'norm-maps',
        draw.encoded(places),
        'Norms after the last block on the image grid; outliers are ringed.',
        'Heat maps of token norms.',
      ),
    ),
    columns=('layer', 'median', 'p95', 'largest', 'outlier_share'),
    rows=[
      (name, float(middle[i]), float(high[i]), float(top[i]), float(found.share[i]))
      for i, name in enumerate(names)
    ],
    numbers={'outlier_share': found.share.tolist(), 'factor': found.factor, 'layers': list(names)},
  )


def similarity(subject: Subject) -> Section | LeftOut:
  """Which layers are alike."""
  title = 'Which layers say the same?'
  if len(subject.inputs) < _MIN_EXAMPLES:
    return LeftOut('similarity', title, f'it needs at least {_MIN_EXAMPLES} images')
  pairs = [(subject.name, subject.name, layer_similarity(subject.loaded, subject.loaded, subject.inputs))]
  if subject.other is not None:
    pairs.append(
      (subject.name, subject.other_name, layer_similarity(subject.loaded, subject.other, list(subject.paths)))
    )
  pictures, rows = [], []
  for i, (first, second, found) in enumerate(pairs):
    figure, axes = draw.canvas(height=4.2, width=4.9)
    drawn = draw.show(axes[0, 0], found.cka, cmap='magma', vmin=0, vmax=1, origin='lower')
    for place, labels in ((axes[0, 0].set_xticks, found.second), (axes[0, 0].set_yticks, found.first)):
      step = max(len(labels) // 13, 1)
      place(range(0, len(labels), step), [_tick(label) for label in labels[::step]])
    axes[0, 0].tick_params(axis='x', rotation=90)
    axes[0, 0].set_ylabel(_axis(first, found.first))
    axes[0, 0].set_xlabel(_axis(second, found.second))
    draw.scale_bar(figure, drawn, axes, 'CKA')
    kind = 'with itself' if i == 0 else f'with {second}'
    pictures.append(
      Picture(
        f'similarity-{i + 1}',
        draw.encoded(figure),
        f'Likeness of every layer {kind}: 1 is the same up to rotation and scale, 0 nothing in common.',
        'Heat map of CKA between layers.',
      )
    )
    rows += [
      (first, a, second, b, float(found.cka[y, x]))
      for y, a in enumerate(found.first)
      for x, b in enumerate(found.second)
    ]
  own = pairs[0][2]
  steps = np.diag(own.cka, 1)
  jump = int(steps.argmin())
  headline = (
    f'The first and the last layer have a CKA of {own.cka[0, -1]:.2f}; the largest change is from {own.first[jump]} to '
    f'{own.first[jump + 1]} ({steps[jump]:.2f}).'
  )
  if len(pairs) > 1:
    best = np.unravel_index(pairs[1][2].cka.argmax(), pairs[1][2].cka.shape)
    headline += (
      f' Closest between the models: {pairs[1][2].first[best[0]]} and {pairs[1][2].second[best[1]]} '
      f'({pairs[1][2].cka.max():.2f}).'
    )
  return Section(
    'similarity',
    title,
    headline,
    how=(
      f'Linear centred kernel alignment, unbiased and summed over minibatches (arXiv 1905.00414, 2010.15327). Each '
      f'map is averaged over a 4x4 grid of cells, and each of the {own.num_examples} cells is one example, so that '
      'layers and models of any resolution compare.'
    ),
    caveat=(
      'Cells of one image are not independent, and few images make the values uncertain: compare the pattern rather '
      'than digits. CKA is dominated by the directions of largest variance.'
    ),
    pictures=tuple(pictures),
    columns=('model_1', 'layer_1', 'model_2', 'layer_2', 'cka'),
    rows=rows,
    numbers={f'{a} / {b}': found.cka.tolist() for a, b, found in pairs},
  )


def _axis(name: str, layers: tuple[str, ...]) -> str:
  return f'{name[:32]}, by block' if layers[0].startswith('block') else name[:40]


def _tick(label: str) -> str:
  return label.removeprefix('block ') if label.startswith('block') else label
