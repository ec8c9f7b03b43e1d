"""The sections of a report that are pictures: best and worst images, regions, boxes of labels."""

import html
from collections.abc import Sequence

import numpy as np
from PIL import Image

from rkd_jax.models.detector.label_boxes import CHOICES, PSEUDO
from rkd_jax.ops.host import unit
from rkd_jax.pictures import charts, draw
from rkd_jax.pictures.page import figure, image, notes, section
from rkd_jax.records.sources import Record, open_image
from rkd_jax.report.projection import tsne
from rkd_jax.report.sections import Examined

HIT, FALSE, MISSED = "#2b8a3e", "#e03131", "#f08c00"
_IMAGES, _MOST_BOXES, _SIDE = 4, 30, 720
_CLASSES, _REGIONS, _WORDS = 12, 12, 5
# Of the choices of `loss.ils.boxes`, in their order.
LABEL_COLOURS = ("#2b8a3e", "#9c36b5", "#1f6fd6", "#f08c00", "#c2255c")
_MEANINGS = (
  "pseudo box, dashed",
  "whole image",
  "teacher's largest region",
  "detector's largest proposal",
  "detector's best proposal for the label",
)
_OF_EACH_LABEL = (PSEUDO, "best_proposal")  # others are shared by the labels of an image


def images(runs: Sequence[Examined]) -> str:
  """The images that the runs do best and worst on, each as every run sees it."""
  scores = np.nanmean(
    _nan_rows([own.diagnosis.f1_of_images(own.min_score) for own in runs]), axis=0
  )
  counts = np.array([(~record.is_crowd).sum() for record in runs[0].records])
  # One object is found by luck; among equals those with more objects say more.
  told = np.flatnonzero(np.isfinite(scores) & (counts >= min(2, counts.max())))
  order = told[np.lexsort((-counts[told], -scores[told]))]
  worst = told[np.lexsort((-counts[told], scores[told]))]
  best, worst = order[:_IMAGES], [i for i in worst[:_IMAGES] if i not in order[:_IMAGES]]
  dots = {"hit": "hit", "miss": "missed (dashed)", "false": "false"}
  legend = "".join(
    f'<span class="key"><span class="dot {kind}"></span>{text}</span>'
    for kind, text in dots.items()
  )
  parts = [f'<p class="legend">{legend}<span class="key">★ novel class</span></p>']
  for heading, chosen in (("Best", best), ("Worst", worst)):
    if not len(chosen):
      continue
    parts.append(f"<h3>{heading}</h3>")
    for number in chosen:
      pictures = [
        figure(outcome(own, int(number)), _caption(own, int(number), len(runs) > 1)) for own in runs
      ]
      # One run: the images themselves stand side by side.
      parts.append("".join(pictures) if len(runs) == 1 else _grid(pictures, len(runs)))
    if len(runs) == 1:
      own = parts[-len(chosen) :]
      parts[-len(chosen) :] = [_grid(own, min(len(own), _IMAGES))]
  summary = (
    "By F1 at each run's best score, the mean of the runs. A click enlarges a picture, and a "
    "second one more."
  )
  return section("Best and worst images", summary, "".join(parts))


def _nan_rows(rows: list[np.ndarray]) -> np.ndarray:
  """Rows in which images without a value for any run are 0 rather than warned of."""
  stacked = np.stack(rows)
  stacked[:, np.isnan(stacked).all(axis=0)] = 0
  return stacked


def _grid(pictures: Sequence[str], columns: int) -> str:
  return f'<div class="grid" style="--columns:{columns}">{"".join(pictures)}</div>'


def _caption(own: Examined, number: int, named: bool) -> str:
  found = own.diagnosis.of_image(number, own.min_score)
  counts = f"{len(found['hits'])} hit, {len(found['missed'])} missed, {len(found['false'])} false"
  return f"{own.name}: {counts}" if named else counts


def outcome(own: Examined, number: int) -> draw.Picture:
  """An image with its hits green, missed objects dashed, false detections red."""
  record, found = own.records[number], own.own.found[number]
  rows = own.diagnosis.of_image(number, own.min_score)
  names, novel = own.run.source.class_names, own.marked

  def label(number: int, score: float | None = None) -> str:
    mark = draw.NOVEL_MARK if names[number] in novel else ""
    return f"{mark}{names[number]}" + ("" if score is None else f" {score:.2f}")

  boxes, labels, colours, dashed = [], [], [], []
  # The first is on top: through the gaps of its line a detection of another class is seen.
  for row in rows["missed"][:_MOST_BOXES]:
    boxes.append(record.boxes[row])
    labels.append(label(int(record.classes[row])))
    colours.append(MISSED)
    dashed.append(True)
  for kind, colour in (("false", FALSE), ("hits", HIT)):
    for row in rows[kind][:_MOST_BOXES]:
      boxes.append(found["boxes"][row])
      labels.append(label(int(found["classes"][row]), float(found["scores"][row])))
      colours.append(colour)
      dashed.append(False)
  picture, scale = _reduced(record)
  corners = np.array(boxes, np.float32).reshape(-1, 4) * scale
  return draw.draw_boxes(picture, corners, labels, colours, dashed=dashed)


def _reduced(record: Record) -> tuple[draw.Picture, float]:
  """The image with no side over `_SIDE`, so that the page stays small, and its scale."""
  picture = open_image(record)
  scale = min(1.0, _SIDE / max(picture.size))
  if scale < 1:
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize(size, Image.Resampling.LANCZOS)
  return np.asarray(picture.convert("RGB")), scale


def _shown_classes(own: Examined) -> tuple[list[int], str]:
  """The classes with the most regions, of the novel ones where there are two; and their kind."""
  numbers = own.own.region_classes
  novel = [i for i, name in enumerate(own.run.source.class_names) if name in own.marked]
  kind = "novel" if len(set(numbers.tolist()) & set(novel)) > 1 else ""
  members = numbers[np.isin(numbers, novel)] if kind else numbers
  values, counts = np.unique(members, return_counts=True)
  return values[np.argsort(-counts, kind="stable")][:_CLASSES].tolist(), kind


def embeddings(runs: Sequence[Examined]) -> str:
  """A map (t-SNE) of the embeddings of annotated regions for each run."""
  drawn, kind = [], ""
  for own in runs:
    shown, kind = _shown_classes(own)
    rows = np.flatnonzero(np.isin(own.own.region_classes, shown))
    if len(rows) < 3 or len(shown) < 2:
      continue
    groups = [shown.index(number) for number in own.own.region_classes[rows].tolist()]
    names = [own.run.source.class_names[number] for number in shown]
    points = tsne(own.own.embeddings[rows].astype(np.float32))
    drawn.append(charts.scatter(own.name, points, groups, names))
  if not drawn:
    return section(
      "Region embeddings", "Left out: there are too few annotated regions of two classes."
    )
  summary = (
    f"Embeddings of annotated regions of {f'{kind} ' if kind else ''}classes, the most frequent "
    f"{_CLASSES} at most, as t-SNE maps them: regions whose embeddings have a small angle lie "
    "together. The better classes are apart, the better names can tell them apart."
  )
  return section("Region embeddings", summary, f'<div class="charts">{"".join(drawn)}</div>')


def words(runs: Sequence[Examined]) -> str:
  """Some regions with the names whose text embeddings are nearest to theirs, for each run."""
  parts = []
  for own in runs:
    shown, _ = _shown_classes(own)
    rows = [np.flatnonzero(own.own.region_classes == number)[:1] for number in shown]
    chosen = np.concatenate([np.zeros(0, int), *rows])[:_REGIONS]
    if not len(chosen):
      continue
    cosines = unit(own.own.embeddings[chosen].astype(np.float32)) @ unit(own.own.rows).T
    names, items = own.run.source.class_names, []
    for row, similar in zip(chosen, cosines):
      index, place = own.own.regions[row].tolist()
      record, right = own.run.source[index], int(own.own.region_classes[row])
      picture = _crop(record, record.boxes[place])
      lines = "".join(
        f"<li{' class=right' if k == right else ''}>{html.escape(names[k])} {similar[k]:.2f}</li>"
        for k in np.argsort(-similar, kind="stable")[:_WORDS].tolist()
      )
      tag = f"{image(picture, names[right])}<figcaption>{html.escape(names[right])}</figcaption>"
      items.append(f"<figure>{tag}<ol>{lines}</ol></figure>")
    parts.append(f"<h3>{html.escape(own.name)}</h3>")
    parts.append(f'<div class="words">{"".join(items)}</div>')
  if not parts:
    return section("Nearest words", "Left out: there are no annotated regions.")
  summary = (
    "Annotated regions, what they are, and the names of the vocabulary whose text embeddings have "
    "the highest cosine with the region's."
  )
  return section("Nearest words of a region", summary, "".join(parts))


def supervised(runs: Sequence[Examined]) -> str:
  """The boxes that the labels of some images would supervise, by each of `loss.ils.boxes`."""
  heading, parts, without = "Which box a label supervises", [], []
  for own in runs:
    source, labels = own.run.labelled, own.own.labels
    if source is None or labels is None:
      without.append(f"{own.name}: {own.run.no_labels}")
      continue
    pictures = []
    for row in range(len(labels.indices)):
      shown = labels.classes[row][labels.valid[row].any(axis=0)]
      names = ", ".join(source.class_names[number] for number in shown.tolist())
      pictures.append(figure(of_labels(own, row), names))
    parts.append(f"<h3>{html.escape(own.name)}</h3>{_grid(pictures, 3)}")
  if not parts:
    return section(heading, f"Left out. {' '.join(without)}")
  keys = (
    f'<span class="key"><span class="dot" style="background:{colour}"></span>{meaning} '
    f"<small>({choice})</small></span>"
    for choice, colour, meaning in zip(CHOICES, LABEL_COLOURS, _MEANINGS, strict=True)
  )
  summary = (
    "Images with labels as image-level supervision sees them, and the box of each label by each "
    "choice of loss.ils.boxes. Boxes without a name are shared by all labels of the image. The "
    "teacher's boxes are those that the run trained with, the detector's are made by the weights "
    "of its checkpoint."
  )
  content = f'<p class="legend">{"".join(keys)}</p>{"".join(parts)}'
  return section(heading, summary, content + (notes(without) if without else ""))


def of_labels(own: Examined, row: int) -> draw.Picture:
  """An image with the boxes of its labels by each choice."""
  source, labels = own.run.labelled, own.own.labels
  record = source[int(labels.indices[row])]
  boxes, names, colours, dashed = [], [], [], []
  # The first is on top: the teacher's largest region is often a pseudo box, too.
  for number, choice in enumerate(CHOICES):
    places, apart = np.flatnonzero(labels.valid[row, number]), choice in _OF_EACH_LABEL
    for place in places if apart else places[:1]:
      boxes.append(labels.boxes[row, number, place])
      names.append(source.class_names[int(labels.classes[row, place])] if apart else "")
      colours.append(LABEL_COLOURS[number])
      dashed.append(choice == PSEUDO)
  picture, scale = _reduced(record)
  corners = np.array(boxes, np.float32).reshape(-1, 4) * scale
  return draw.draw_boxes(picture, corners, names, colours, dashed=dashed)


def _crop(record: Record, box: np.ndarray) -> draw.Picture:
  """A region with a tenth of its size around it, at least 64 pixels high."""
  picture = open_image(record)
  x1, y1, x2, y2 = box.tolist()
  margin = 0.1 * max(x2 - x1, y2 - y1) + 2
  corners = (max(x1 - margin, 0), max(y1 - margin, 0), x2 + margin, y2 + margin)
  left, top, right, bottom = (int(value) for value in corners)
  crop = picture.crop((left, top, min(right + 1, picture.width), min(bottom + 1, picture.height)))
  scale = 160 / max(crop.size)
  size = tuple(max(1, round(side * scale)) for side in crop.size)
  return np.asarray(crop.resize(size, Image.Resampling.BICUBIC).convert("RGB"))


PICTURES = (images, embeddings, words, supervised)


def left_out(problem: str) -> str:
  """Notes on what could not be shown."""
  return notes([problem])
