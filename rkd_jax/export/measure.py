"""Size and latency of exported detectors, side by side with the detector itself, on one image."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rkd_jax.detect.detector import OpenVocabularyDetector
from rkd_jax.detect.result import Result
from rkd_jax.export.programs import params
from rkd_jax.export.standalone import Exported, Words
from rkd_jax.records import decoding
from rkd_jax.vocabulary.class_embeddings import ClassEmbeddings

# Runs after the first: so many, or those that begin within some seconds, but three at least.
_RUNS, _SECONDS = 10, 20.0


class Measured(NamedTuple):
  """One way to run a detector.

  `first` and `latency` are seconds: of the first image, with what is compiled for it, and the
  median of those after it, from the decoded image to its boxes.  `boxes` are all that it finds, and
  `apart` how far, in pixels, the furthest is from the detector's own.
  """

  name: str
  megabytes: float
  first: float
  latency: float
  boxes: int
  apart: float


def measure(
  detector: OpenVocabularyDetector,
  vocabulary: ClassEmbeddings,
  folders: Sequence[str | os.PathLike],
  image: str | os.PathLike,
) -> list[Measured]:
  """The detector itself, then each of the folders that `export` wrote of it."""
  picture = decoding.open_file(image)
  words = Words(vocabulary.names or (), vocabulary.embeddings)
  size = sum(x.nbytes for x in params(detector).values()) / 1e6
  first, latency, found = _timed(lambda: _own(detector, picture, vocabulary))
  rows = [Measured("rkd_jax", size, first, latency, len(found["boxes"]), 0.0)]
  for folder in map(Path, folders):
    exported = Exported(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    first, latency, boxes = _timed(lambda exported=exported: exported(picture, words, 0.0))
    apart = furthest(found["boxes"], found["classes"], boxes["boxes"], boxes["classes"])
    name = exported.about["kind"]
    rows.append(Measured(name, size, first, latency, len(boxes["boxes"]), apart))
  return rows


def table(rows: Sequence[Measured]) -> str:
  """The rows as text."""
  title = f"{'form':10}{'MB':>9}{'first, s':>10}{'then, ms':>10}{'boxes':>7}{'apart, px':>11}"
  lines = [
    f"{r.name:10}{r.megabytes:9.1f}{r.first:10.2f}{1e3 * r.latency:10.1f}{r.boxes:7}{r.apart:11.5f}"
    for r in rows
  ]
  return "\n".join([title, *lines])


def furthest(
  boxes: np.ndarray, classes: np.ndarray, others: np.ndarray, other_classes: np.ndarray
) -> float:
  """The largest distance of one of the boxes to the nearest of its class among the others, or inf.

  Equal scores may have come in another order.
  """
  if len(boxes) != len(others):
    return float("inf")
  apart = np.abs(boxes[:, None] - others[None]).max(2, initial=0)
  apart = np.where(classes[:, None] == other_classes[None], apart, np.inf)
  return float(apart.min(1).max()) if len(boxes) else 0.0


def _own(
  detector: OpenVocabularyDetector, picture: Image.Image, vocabulary: ClassEmbeddings
) -> dict[str, Any]:
  result: Result = detector(picture, vocabulary, min_score=0.0)
  return {"boxes": result.boxes, "classes": result.classes}


def _timed(call: Callable[[], dict[str, Any]]) -> tuple[float, float, dict[str, Any]]:
  seconds = []
  found: dict[str, Any] = {}
  while len(seconds) < 4 or (len(seconds) <= _RUNS and sum(seconds[1:]) < _SECONDS):
    start = time.perf_counter()
    found = call()
    seconds.append(time.perf_counter() - start)
  return seconds[0], float(np.median(seconds[1:])), found
