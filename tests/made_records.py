"""Records, sources and batch specs of a few pixels, for tests of the input pipeline."""

import dataclasses
import hashlib
import io

import jax
import numpy as np
from PIL import Image

from rkd_jax.inputs.examples import BatchSpec
from rkd_jax.records import index as index_lib
from rkd_jax.records.sources import Record

DIM = 4


def png(height, width, seed):
  # A low-contrast random picture, so that its mean tells which one it is.
  rng = np.random.default_rng(seed)
  image = rng.integers(20 * seed % 200, 20 * seed % 200 + 20, (height, width, 3), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, "PNG")
  return buffer.getvalue()


def make_record(index, **changes):
  height, width = 20, 30 - index % 2 * 16
  rng = np.random.default_rng(index)
  record = Record(
    image=png(height, width, index),
    image_id=100 + index,
    filename=f"{index}.png",
    height=height,
    width=width,
    boxes=np.array([[1, 2, 9, 12], [0, 0, 5, 5], [4, 4, 14, 20]], np.float32),
    classes=np.array([3, 1, 2], np.int32),
    is_crowd=np.array([False, True, False]),
    areas=np.array([80, 25, 160], np.float32),
    object_ids=np.array([1, 2, 3]),
    labels=np.array([5, 6], np.int32),
    captions=("a red star", "two green discs"),
    region_boxes=np.array([[0, 0, 4, 4], [1, 1, 8, 8], [2, 2, 9, 9]], np.float32),
    region_embeddings=rng.normal(size=(3, DIM)).astype(np.float32),
    region_scores=np.array([0.9, 0.8, 0.7], np.float32),
    pseudo_boxes=np.array([[2, 2, 10, 10], [0, 0, 14, 20]], np.float32),
    pseudo_labels=np.array([5, 6], np.int32),
    pseudo_scores=np.array([0.9, 0.8], np.float32),
  )
  return dataclasses.replace(record, **changes)


class FakeSource(list):
  """Records in memory; counts how often each is read."""

  class_names = tuple("abcdefgh")
  base = tuple("abcd")
  novel = tuple("fg")
  embedding_dim = DIM

  def __init__(self, records):
    super().__init__(records)
    self.index = index_lib.make((r.height, r.width, r.classes, 2, 2) for r in self)
    self.reads = 0

  def __getitem__(self, index):
    self.reads += 1
    return super().__getitem__(index)


def make_source(count=6, **changes):
  return FakeSource([make_record(index, **changes) for index in range(count)])


def make_spec(kind="box", **changes):
  settings = {
    "kind": kind,
    "batch_size": 4,
    "canvas": (44, 44),
    "short_sides": (16, 24) if kind != "eval" else (24,),
    "max_side": 44,
    "flip": kind != "eval",
    "max_boxes": 5,
    "max_regions": 5,
    "max_labels": 3,
    "embedding_dim": DIM,
  }
  return BatchSpec(**(settings | changes))


def tokenizer(text):
  return np.array([len(text), ord(text[0])])


CAPTIONS = BatchSpec("caption", 4, (16, 16), flip=True, crop=0.2, tokenizer=tokenizer)


def digest(batch):
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
    digest.update(f"{path} {leaf.shape} {leaf.dtype}".encode() + leaf.tobytes())
  return digest.hexdigest()
