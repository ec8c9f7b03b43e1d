"""PyTorch's side of the comparison of input pipelines; importing this needs torch.

A DataLoader without workers does the same PIL work: decoding, resizing to the same sizes, mirroring
the same images, and padding to one uint8 tensor.  Boxes go along; regions and polygons do not.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils import data

from rkd_jax.inputs.examples import BatchSpec
from rkd_jax.inputs.transforms import View
from rkd_jax.records.sources import Record


class _Images(data.Dataset):
  def __init__(self, records: Sequence[Record], views: Sequence[View]):
    self._records, self._views = records, views

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    record, view = self._records[index], self._views[index]
    with Image.open(io.BytesIO(record.image)) as file:
      image = ImageOps.exif_transpose(file).convert("RGB")
    height, width = view.size
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    scale = torch.tensor([width / record.width, height / record.height] * 2)
    boxes = torch.from_numpy(record.boxes) * scale
    if view.flip:
      image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
      boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    return torch.from_numpy(np.array(image)), boxes


def loader(records: Sequence[Record], views: Sequence[View], spec: BatchSpec) -> data.DataLoader:
  """Batches of padded images [b, h, w, 3] and the boxes of each, in the order of the records."""
  torch.set_num_threads(1)

  def pad(rows):
    images = torch.zeros((len(rows), *spec.canvas, 3), dtype=torch.uint8)
    for target, (image, _) in zip(images, rows, strict=True):
      target[: image.shape[0], : image.shape[1]] = image
    return images, [boxes for _, boxes in rows]

  return data.DataLoader(_Images(records, views), batch_size=spec.batch_size, collate_fn=pad)
