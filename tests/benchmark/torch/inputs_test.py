"""PyTorch's loader on a picture of two colours (where torch is installed)."""

import io
import types

import numpy as np
import pytest
from PIL import Image

from rkd_jax.inputs.transforms import View

pytest.importorskip("torch")
inputs = pytest.importorskip("rkd_jax.benchmark.torch.inputs")


def test_images_are_resized_mirrored_and_padded_with_their_boxes():
  pixels = np.zeros((8, 12, 3), np.uint8)
  pixels[:, :6] = 200
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG")
  record = types.SimpleNamespace(
    image=file.getvalue(), width=12, height=8, boxes=np.array([[0, 0, 6, 8]], np.float32)
  )
  views = [View((8, 12), (4, 6), flip=False), View((8, 12), (4, 6), flip=True)]
  spec = types.SimpleNamespace(canvas=(6, 10), batch_size=2)
  ((images, boxes),) = inputs.loader([record, record], views, spec)
  assert images.shape == (2, 6, 10, 3) and not images[:, 4:].any() and not images[:, :, 6:].any()
  assert images[0, 0, :, 0].tolist()[:2] == [200, 200] and not images[0, 0, 4:].any()
  assert images[1, 0, :, 0].tolist()[4:6] == [200, 200] and not images[1, 0, :2].any()
  assert [own.tolist() for own in boxes] == [[[0, 0, 3, 4]], [[3, 0, 6, 4]]]
