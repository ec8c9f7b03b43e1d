"""Results of an invented teacher, for tests of what is stored of it."""

import numpy as np

from rkd_jax.records.results import FIELDS
from rkd_jax.records.results_writer import TeacherWriter

DIM = 6


def results(image_id, regions=3, labels=2, dim=DIM):
  rng = np.random.default_rng(image_id)
  return {
    "regions/boxes": rng.random((regions, 4)).astype(np.float32),
    "regions/scores": rng.random(regions).astype(np.float32),
    "regions/clip_embeddings": rng.normal(size=(regions, dim)).astype(np.float32),
    "pseudo_boxes/boxes": rng.random((labels, 4)).astype(np.float32),
    "pseudo_boxes/labels": rng.integers(0, 3, labels),
    "pseudo_boxes/scores": rng.random(labels).astype(np.float32),
  }


def write(folder, ids, metadata=None, stop_at=None, split="train"):
  """Writes what is missing of these images, in parts of four; stops with an error at one."""
  with TeacherWriter(
    folder, split, DIM, metadata or {"clip": "abc"}, records_per_shard=4
  ) as writer:
    for position, image_id in enumerate(ids):
      if image_id == stop_at:
        raise RuntimeError("stopped")
      if image_id not in writer:
        writer.write(image_id, results(image_id), position)


def assert_holds(reader, ids):
  """The reader has the results of these images and of no others."""
  assert len(reader) == len(ids)
  for image_id in ids:
    record, expected = reader[image_id], results(image_id)
    assert set(record) == set(FIELDS)
    for key, (dtype, _) in FIELDS.items():
      assert record[key].dtype == dtype
      np.testing.assert_array_equal(record[key], expected[key])
