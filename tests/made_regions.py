"""Splits of a few images with results of an invented teacher, in memory."""

import dataclasses
from types import SimpleNamespace

import numpy as np

from rkd_jax.pseudo_labels.candidates import Candidates
from tests import made_records

DIM = 5
NAMES = ("cat", "dog", "red kite", "zebra")


@dataclasses.dataclass
class MadeSplit:
  """What `Joined` has for who reads results alone."""

  image_ids: np.ndarray
  made: list[dict[str, np.ndarray]]
  split: str = "train"
  class_names: tuple[str, ...] = NAMES

  @property
  def index(self):
    return SimpleNamespace(image_ids=self.image_ids)

  def __len__(self):
    return len(self.made)

  def result(self, index):
    return self.made[index]


def make_split(seed, images=40, most=4, split="train", ids=None):
  """Images with 0 to `most` regions of random boxes, scores and embeddings."""
  rng = np.random.default_rng(seed)
  ids = rng.permutation(images) + 100 if ids is None else np.asarray(ids)
  made = []
  for _ in range(images):
    count = rng.integers(most + 1)
    made.append(
      {
        "regions/boxes": rng.random((count, 4)).astype(np.float32),
        "regions/scores": rng.random(count).astype(np.float32),
        "regions/clip_embeddings": rng.normal(size=(count, DIM)).astype(np.float32),
      }
    )
  return MadeSplit(ids, made, split)


def make_candidates(seed, count=60, classes=3, images=8, keys=6, width=2):
  """Candidates with few different keys, so that many are equal; none twice."""
  rng = np.random.default_rng(seed)
  places = rng.permutation(images * 2 * 10)[:count]
  return Candidates(
    keys=rng.integers(keys, size=count).astype(np.float32),
    image_ids=places // 20,
    splits=places // 10 % 2,
    regions=places % 10,
    labels=rng.integers(classes, size=count),
    similarities=rng.random(count).astype(np.float32),
    boxes=rng.random((count, 4)).astype(np.float32),
    embeddings=rng.random((count, width)).astype(np.float32),
  )


class RecordSplit(made_records.FakeSource):
  """Records 100, 101 ..., each with a box of class 3 and one of class 2 that is no crowd."""

  name, split, has_all_boxes = "made/train", "train", False

  def __init__(self, records, **changes):
    super().__init__(records)
    self.index = SimpleNamespace(image_ids=np.array([record.image_id for record in records]))
    vars(self).update(changes)


def boxes_found(*rows, label=3):
  """Rows of (split, image id, box), the best first."""
  splits, image_ids, boxes = zip(*rows)
  return Candidates(
    keys=np.linspace(1, 0.5, len(rows)).astype(np.float32),
    image_ids=np.array(image_ids),
    splits=np.array(splits),
    regions=np.zeros(len(rows), np.int64),
    labels=np.full(len(rows), label),
    similarities=np.linspace(0.4, 0.2, len(rows)).astype(np.float32),
    boxes=np.array(boxes, np.float32),
    embeddings=np.zeros((len(rows), 0), np.float32),
  )
