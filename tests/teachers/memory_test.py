"""Memory does not grow with the number of images."""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rkd_jax.records.results import TeacherReader
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.teachers.pipeline import precompute
from tests import colours

IMAGES, SETTLED = 10_000, 2_000
# Ids and positions of what is done are kept, about 200 bytes for each image; not the images
# (27 kB each when decoded), crops (15 kB) and records (4 kB), 370 MB together.
BOUND = 24e6


class Corners:
  """The same five boxes for every image."""

  in_workers = True

  def propose(self, image):
    boxes = np.array([[4 * i, 4 * i, 4 * i + 40, 4 * i + 40] for i in range(5)], np.float32)
    return boxes, np.linspace(0.9, 0.5, 5, dtype=np.float32)


class WideEncoder(colours.ColourEncoder):
  def embed(self, crops):
    return np.repeat(super().embed(crops), 64, axis=1)


class Generated(colours.MemorySource):
  """One photograph under many ids, and a look at the memory now and then."""

  def __init__(self):
    super().__init__([colours.record(0)])
    self.resident = {}

  def __len__(self):
    return IMAGES

  def __getitem__(self, index):
    if index % 1000 == 0:
      pages = int(Path("/proc/self/statm").read_text().split()[1])
      self.resident[index] = pages * os.sysconf("SC_PAGE_SIZE")
    return dataclasses.replace(self.records[0], image_id=index)


@pytest.mark.faults
def test_memory_stays_flat(tmp_path):
  source = Generated()
  classes = np.repeat(colours.CLASS_EMBEDDINGS, 64, axis=1)
  options = dataclasses.replace(colours.OPTIONS, regions=5)
  writer = TeacherWriter(tmp_path, "train", 192, {})
  with ThreadPoolExecutor(2) as executor:
    precompute(source, Corners(), WideEncoder(), classes, writer, options, executor)
  assert len(TeacherReader(tmp_path, "train")) == IMAGES
  growth = {i: (size - source.resident[SETTLED]) / 1e6 for i, size in source.resident.items()}
  assert max(size for i, size in growth.items() if i > SETTLED) < BOUND / 1e6, growth
