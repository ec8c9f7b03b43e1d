"""Records in memory, and a CLIP that only knows colours, for tests of the offline step."""

import dataclasses
import io

import numpy as np
from PIL import Image

from rkd_jax.records.sources import Record
from rkd_jax.teachers.images import Options

COLOURS = {"red": (214, 34, 34), "green": (40, 150, 52), "blue": (38, 74, 216)}
NAMES = tuple(COLOURS)
# Where the objects of `record` are, whatever their colour.
PLACES = np.array([[8, 8, 30, 34], [52, 10, 84, 40], [20, 56, 60, 84]], np.float32)


def embed_colours(colours):
  return np.asarray(colours, np.float32) / 128 - 1


class ColourEncoder:
  """Embeds the middle of a crop as its mean colour, and counts what it is asked."""

  image_size = 16

  def __init__(self, fail_at_call=None):
    self.calls = []
    self._fail_at_call = fail_at_call

  def embed(self, crops):
    self.calls.append(len(crops))
    if len(self.calls) == self._fail_at_call:
      raise KeyboardInterrupt
    return embed_colours(crops[:, 5:11, 5:11].mean((1, 2))).reshape(-1, 3)


CLASS_EMBEDDINGS = embed_colours([COLOURS[name] for name in NAMES])
OPTIONS = Options(regions=2, logit_scale=10.0)


@dataclasses.dataclass
class MemorySource:
  records: list[Record]
  class_names: tuple[str, ...] = NAMES
  name: str = "memory"

  def __len__(self):
    return len(self.records)

  def __getitem__(self, index):
    return self.records[index]


def record(image_id, classes=(0, 1, 2), labels=(2, 0)):
  image = np.full((96, 96, 3), 120, np.uint8)
  for (x0, y0, x1, y1), class_ in zip(PLACES.astype(int), classes):
    image[y0:y1, x0:x1] = COLOURS[NAMES[class_]]
  noise = np.random.default_rng(image_id).integers(0, 6, image.shape, dtype=np.uint8)
  data = io.BytesIO()
  Image.fromarray(image + noise).save(data, "PNG")
  count = len(classes)
  return Record(
    image=data.getvalue(),
    image_id=image_id,
    filename=f"{image_id}.png",
    height=96,
    width=96,
    boxes=PLACES[:count],
    classes=np.array(classes, np.int32),
    is_crowd=np.zeros(count, bool),
    areas=np.ones(count, np.float32),
    object_ids=np.arange(count),
    labels=np.array(labels, np.int32),
    captions=(),
    region_boxes=np.zeros((0, 4), np.float32),
    region_embeddings=np.zeros((0, 3), np.float32),
    region_scores=np.zeros(0, np.float32),
    pseudo_boxes=np.zeros((0, 4), np.float32),
    pseudo_labels=np.zeros(0, np.int32),
    pseudo_scores=np.zeros(0, np.float32),
  )


def damaged(record):
  """The record with the end of its image cut off."""
  return dataclasses.replace(record, image=record.image[:200])
