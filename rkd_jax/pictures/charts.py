"""Charts as SVG and HTML that follow the colours of the page, dark or light: see page.html.

Each is about as wide as a phone, so that its text is as large there as on a desk; a page sets
several side by side.  Series have the page's colours s0, s1, ... in the order in which they are
given.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_WIDTH, _HEIGHT = 340, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 26, 34
SERIES = 7  # colours of the page

Points = tuple[Sequence[float], Sequence[float]]  # x and y


def legend(names: Sequence[str]) -> str:
  """The names of series beside their colours."""
  items = (
    f'<span class="key"><i class="b{i % SERIES}"></i>{html.escape(name)}</span>'
    for i, name in enumerate(names)
  )
  return f'<p class="legend">{"".join(items)}</p>'


def lines(
  title: str,
  series: Mapping[str, Points],
  x_label: str,
  y_range: tuple[float, float] | None = None,
  smooth: bool = False,
  diagonal: bool = False,
) -> str:
  """Curves in one frame, with `diagonal` that from (0, 0) to (1, 1) behind them.

  With `smooth` a series of over 20 points is faint, below its running mean; one of up to 20 has
  dots.
  """
  xs = np.concatenate([np.asarray(x, float) for x, _ in series.values()])
  ys = np.concatenate([np.asarray(y, float) for _, y in series.values()])
  if diagonal:
    xs, ys = np.append(xs, (0, 1)), np.append(ys, (0, 1))
  x_ticks = _ticks(xs.min(), xs.max())
  y_ticks = _ticks(*(y_range or (ys.min(), ys.max())))
  x_low, x_high = min(xs.min(), x_ticks[0]), max(xs.max(), x_ticks[-1])
  y_low, y_high = min(y_ticks[0], ys.min()), max(y_ticks[-1], ys.max())

  def place(x, y):
    across = (np.asarray(x, float) - x_low) / max(x_high - x_low, 1e-12)
    up = (np.asarray(y, float) - y_low) / max(y_high - y_low, 1e-12)
    return (
      _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
      _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
    )

  parts = []
  for tick in y_ticks:
    (y,) = place([x_low], [tick])[1]
    parts.append(
      f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    )
    parts.append(_text(_LEFT - 5, y + 4, _number(tick), "end"))
  for tick in x_ticks:
    (x,) = place([tick], [y_low])[0]
    parts.append(_text(x, _HEIGHT - _BOTTOM + 15, _number(tick), "middle"))
  if diagonal:
    (x1, x2), (y1, y2) = place([0, 1], [0, 1])
    ends = f'x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"'
    parts.append(f'<line class="rule" {ends} stroke-dasharray="4 3"/>')
  for number, (name, (x, y)) in enumerate(series.items()):
    colour, (x, y) = f"s{number % SERIES}", (np.asarray(x, float), np.asarray(y, float))
    label = f"<title>{html.escape(name)}</title>"
    faint = smooth and len(x) > 20
    parts.append(
      f'<path class="{colour}{" faint" * faint}" d="{_path(*place(x, y))}">{label}</path>'
    )
    if faint:
      parts.append(
        f'<path class="{colour}" d="{_path(*place(x, _running_mean(y)))}">{label}</path>'
      )
    elif len(x) <= 20:
      parts += [
        f'<circle class="f{number % SERIES}" cx="{a:.1f}" cy="{b:.1f}" r="2.5">{label}</circle>'
        for a, b in zip(*place(x, y))
      ]
  parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 3, x_label, "middle"))
  parts.append(_text(0, 14, title, "start", "title"))
  return _svg(parts, title)


def scatter(title: str, points: np.ndarray, groups: Sequence[int], names: Sequence[str]) -> str:
  """Points [n, 2] in the colour and with the letter of their group, without axes.

  `groups` indexes `names`; the legend is below the picture.
  """
  points = np.asarray(points, float)
  low, high = points.min(axis=0), points.max(axis=0)
  scaled = (points - low) / np.maximum(high - low, 1e-12)
  size = _WIDTH - 16
  parts = [_text(0, 14, title, "start", "title")]
  for (x, y), group in zip(scaled, groups):
    hue = 360 * group / max(len(names), 1)
    shade = ("68% 45%", "75% 60%", "45% 38%")[group % 3]
    place = f'cx="{8 + x * size:.1f}" cy="{28 + (1 - y) * size:.1f}" r="3.4"'
    name = html.escape(names[group])
    parts.append(f'<circle {place} fill="hsl({hue:.0f} {shade})"><title>{name}</title></circle>')
  for group in sorted(set(groups)):
    # The name where the group is, if it is in one place.
    x, y = np.median(scaled[np.asarray(groups) == group], axis=0)
    text = names[group] if len(names[group]) <= 18 else names[group][:17] + "…"
    at = min(max(8 + x * size, 40), _WIDTH - 40)
    parts.append(_text(at, 24 + (1 - y) * size, text, "middle", "halo"))
  return _svg(parts, title, _WIDTH + 20)


def bars(rows: Sequence[tuple[str, float, str]], highest: float, kind: str = "b0") -> str:
  """Horizontal bars: (name, value, text), each as long as its part of `highest`."""
  items = (
    f"<div><span>{html.escape(name)}</span>"
    f'<span class="track"><i class="{kind}" style="width:{100 * value / max(highest, 1e-9):.1f}%">'
    f"</i></span><span>{html.escape(text)}</span></div>"
    for name, value, text in rows
  )
  return f'<div class="bars">{"".join(items)}</div>'


def table(
  head: Sequence[str], rows: Sequence[Sequence[Any]], sortable: bool = False, kind: str = ""
) -> str:
  """A table of cells that are HTML already; the first of a row is its heading.

  A cell may be (HTML, what it is sorted by).  Cells with a `bar` are equally wide.
  """
  body = []
  for first, *cells in rows:
    own = "".join(
      f'<td data-v="{html.escape(str(cell[1]))}">{cell[0]}</td>'
      if isinstance(cell, tuple)
      else f"<td>{cell}</td>"
      for cell in cells
    )
    body.append(f'<tr><th scope="row">{first}</th>{own}</tr>')
  headings = "".join(f'<th scope="col">{cell}</th>' for cell in head)
  kinds = f"{kind} sortable" if sortable else kind
  own = f' class="{kinds}" style="--cells:{len(head)}"'
  return (
    f'<div class="scroll"><table{own}><thead><tr>{headings}</tr></thead>'
    f"<tbody>{''.join(body)}</tbody></table></div>"
  )


def bar_cell(text: str, percent: float | None, kind: str) -> str:
  """What is in a cell of a table: a text, HTML already, above its bar; no bar of None."""
  own = "" if percent is None else f'<span class="bar {kind}" style="width:{percent:.1f}%"></span>'
  return f"{text}{own}"


def heat(matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> str:
  """A matrix of parts of 1 as a table of shaded percents; zeros are empty."""

  def cell(value: float) -> str:
    if not value >= 0.005:
      return ""
    return f'<span class="heat" style="--a:{value:.2f}">{100 * value:.0f}</span>'

  # Names of columns stand on end.
  head = ["", *(f'<span class="up">{html.escape(name)}</span>' for name in columns)]
  body = [[html.escape(name), *map(cell, row)] for name, row in zip(rows, matrix)]
  return table(head, body, kind="matrix")


def _svg(parts: Sequence[str], title: str, height: int = _HEIGHT) -> str:
  label = f'role="img" aria-label="{html.escape(title)}"'
  return f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" {label}>{"".join(parts)}</svg>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
  own = f' class="{kind}"' if kind else ""
  return f'<text{own} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _path(x: np.ndarray, y: np.ndarray) -> str:
  return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y))


def _ticks(low: float, high: float) -> list[float]:
  """Three to seven round numbers from at most `low` on, the last of them near `high`."""
  high = high if high > low else low + max(abs(low), 1.0)
  span = high - low
  power = 10 ** math.floor(math.log10(span / 4))
  step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(span / s - 4.5))
  first = math.floor(low / step + 1e-9)
  return [step * (first + i) for i in range(math.ceil((high - step * first) / step - 1e-9) + 1)]


def _number(value: float) -> str:
  if abs(value) >= 10_000:
    return f"{value / 1000:g}k"
  return f"{value:.6g}"


def _running_mean(values: np.ndarray) -> np.ndarray:
  """Mean over a window of a 30th of the curve on each side, shorter at its ends."""
  window = np.ones(1 + 2 * max(1, len(values) // 30))
  counts = np.convolve(np.ones(len(values)), window, "same")
  return np.convolve(values, window, "same") / counts
