"""One HTML file that holds the whole report: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import cv2
import numpy as np

from vitjax.analysis.report.section import LeftOut, Section, Subject

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f5f1; color: #22242a; font: 17px/1.55 Georgia, 'Times New Roman', serif; }
main { max-width: 46rem; margin: 0 auto; padding: 1.2rem 1rem 4rem; }
h1, h2, nav, th, td, .small, figcaption { font-family: system-ui, -apple-system, 'Segoe UI', sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.6rem 0 0.3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 0.5rem; }
section { background: #fff; border: 1px solid #e3e0d8; border-radius: 10px; padding: 1.1rem; margin: 1.3rem 0; }
figure { margin: 0.9rem 0 0; }
figure img { width: 100%; height: auto; display: block; }
figcaption, .small { font-size: 0.84rem; line-height: 1.45; color: #555b66; }
figcaption { margin-top: 0.35rem; }
.strip { display: flex; gap: 4px; margin: 1rem 0; }
.strip img { flex: 1 1 0; min-width: 0; width: 100%; border-radius: 4px; }
nav ul { list-style: none; padding: 0; margin: 0; }
nav li { padding: 0.45rem 0; border-top: 1px solid #e3e0d8; font-size: 0.95rem; line-height: 1.4; }
nav a { color: #2563a8; font-weight: 600; text-decoration: none; }
.headline { margin: 0 0 0.3rem; }
.small p { margin: 0.6rem 0 0; }
.small b { color: #22242a; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.84rem; }
@media (max-width: 30rem) {
  main { padding: 0.8rem 0.5rem 3rem; }
  section { padding: 0.8rem; }
  figure { margin-left: -0.5rem; margin-right: -0.5rem; }
  figcaption { margin-left: 0.5rem; }
}
td, th { text-align: left; padding: 0.2rem 0.9rem 0.2rem 0; vertical-align: top; }
"""


def page(
  subject: Subject, sections: Sequence[Section], left_out: Sequence[LeftOut], facts: Sequence[tuple[str, str]]
) -> str:
  """Returns the report as one HTML document.

  Args:
    subject: the model and its images.
    sections: in reading order.
    left_out: studies that do not apply.
    facts: (name, value) rows about the model and the run, for the end.
  """
  title = f'What {subject.name} does'
  text = html.escape
  with_other = f', compared with {subject.other_name}' if subject.other_name else ''
  parts = [
    '<!doctype html><html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    f'<title>{text(title)}</title><style>{_STYLE}</style></head><body><main>',
    f'<h1>{text(title)}</h1>',
    f'<p class="headline">{len(subject.paths)} images, {len(sections)} analyses{text(with_other)}. Every number below '
    'was measured on this model and these images; they are also in <code>report.json</code> and the CSV files.</p>',
    _strip(subject),
    '<nav><ul>',
    *(f'<li><a href="#{s.key}">{text(s.title)}</a> {text(s.headline)}</li>' for s in sections),
    '</ul></nav>',
    *(_section(s) for s in sections),
  ]
  if left_out:
    rows = ''.join(f'<p><b>{text(x.title)}</b> Left out: {text(x.reason)}.</p>' for x in left_out)
    parts.append(f'<section><h2>What does not apply</h2><div class="small">{rows}</div></section>')
  rows = ''.join(f'<tr><th>{text(name)}</th><td>{text(value)}</td></tr>' for name, value in facts)
  parts.append(
    f'<section><h2>The model and the run</h2><div class="scroll"><table>{rows}</table></div></section>'
  )
  return '\n'.join([*parts, '</main></body></html>\n'])


def _section(section: Section) -> str:
  text = html.escape
  figures = ''.join(
    f'<figure><img alt="{text(p.alt)}" src="{_inlined(p.png)}"><figcaption>{text(p.caption)}</figcaption></figure>'
    for p in section.pictures
  )
  return (
    f'<section id="{section.key}"><h2>{text(section.title)}</h2><p class="headline">{text(section.headline)}</p>'
    f'{figures}<div class="small"><p><b>How.</b> {text(section.how)}</p>'
    f'<p><b>Caveat.</b> {text(section.caveat)}</p></div></section>'
  )


def _strip(subject: Subject) -> str:
  """Returns a row of the images that figures show."""
  images = []
  for i, pixels in zip(subject.shown_index, subject.shown, strict=True):
    _, data = cv2.imencode('.png', np.ascontiguousarray(pixels[..., ::-1]))
    images.append(f'<img alt="{html.escape(subject.paths[i].name)}" src="{_inlined(data.tobytes())}">')
  return f'<div class="strip">{"".join(images)}</div>'


def _inlined(png: bytes) -> str:
  """Returns a data address of the picture as WebP, a fraction of its size as PNG."""
  pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
  _, data = cv2.imencode('.webp', pixels, [cv2.IMWRITE_WEBP_QUALITY, 90])
  return f'data:image/webp;base64,{base64.b64encode(data.tobytes()).decode("ascii")}'
