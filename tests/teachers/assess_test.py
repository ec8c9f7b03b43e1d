"""The report on a run whose results are known."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from rkd_jax.records.results import TeacherReader
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.teachers.assess import assess
from rkd_jax.teachers.pipeline import precompute
from rkd_jax.teachers.region_growing import RegionGrowing
from tests.colours import CLASS_EMBEDDINGS, OPTIONS, ColourEncoder, MemorySource, record


def _run(folder, source):
  writer = TeacherWriter(folder, "train", 3, {})
  with ThreadPoolExecutor(2) as executor:
    precompute(
      source, RegionGrowing(), ColourEncoder(), CLASS_EMBEDDINGS, writer, OPTIONS, executor
    )
  return TeacherReader(folder, "train")


def test_assessment_by_hand(tmp_path):
  """Two of three boxes are among the two regions kept; labels that are not there are not judged."""
  source = MemorySource([record(0, labels=(2, 0)), record(1, classes=(0, 1), labels=(2,))])
  report = assess(source, _run(tmp_path, source))
  assert report == {
    "images": 2,
    "assessed": 2,
    "regions": 4,
    "pseudo_boxes": 3,
    "unreadable": {},
    "dropped_boxes": {},
    "box_recall": pytest.approx(4 / 5),
    "pseudo_box_precision": 1.0,
  }


def test_a_limit_takes_evenly_spaced_images(tmp_path, monkeypatch):
  source = MemorySource([record(i) for i in range(5)])
  monkeypatch.setattr("rkd_jax.teachers.assess.LIMIT", 2)
  report = assess(source, _run(tmp_path, source))
  assert (report["images"], report["assessed"], report["regions"]) == (5, 2, 4)
