"""Published detectors made narrow, for the benchmark at toy size."""

import pytest

OPTIONS = dict(canvas=(128, 128), num_classes=5, steps=1, seconds=1e-6, image_batches=(2,))


def narrow(config):
  """The same parts, each much narrower."""
  m = config.model
  m.backbone.update(stage_blocks=(1, 1), width=8, stem_width=8)
  m.rpn.channels = 8
  m.rpn.train.update(pre_nms=32, post_nms=16)
  m.rpn.test.update(pre_nms=32, post_nms=16)
  m.roi.update(batch_size_per_image=8, resolution=3)
  m.box_head.update(layers=1, width=16)
  m.classifier.update(embedding_dim=16, weight_transfer=(8, 8))
  m.test.update(detections=4, candidates=16)
  config.data.box.max_boxes = 20
  config.data.image.max_labels = 2
  if m.fpn.channels:
    m.fpn.channels = 8
    m.rpn.anchor_sizes = ((16,), (32,), (64,))
    m.mask_head.update(layers=1, channels=8, resolution=4)
  return config


def sections(rows):
  """The rows of each section, by what its title begins with."""
  found = {}
  for row in rows:
    found.setdefault(row["section"].split(",")[0], []).append(row)
  return found


def check_stages(rows):
  """Stages do the arithmetic of the whole: none is missing, none is counted twice."""
  whole, *parts = rows
  if whole["name"] == "inference":
    forward = whole
  else:
    forward, both = parts[:2]
    assert forward["name"] == "forward"
    assert both["flops"] == whole["flops"] > forward["flops"]
  assert parts[-1]["name"].startswith("sum of")
  assert parts[-1]["flops"] == pytest.approx(forward["flops"], rel=0.01)
