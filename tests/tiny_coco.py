"""Three generated photographs with a COCO JSON, and a detector that trains on them in seconds.

It is a config file, so that tests can start the commands as users do, with
`--config=tests/tiny_coco.py:ROOT` after `build_data(ROOT)`.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from rkd_jax.configs import coco_json as config_file
from rkd_jax.data import builder
from rkd_jax.data.coco_json import coco_json
from rkd_jax.vocabulary import class_embeddings

NAMES = ("cat", "dog", "red fox")
SIZES = ((48, 64), (64, 48), (40, 56))


def get_config(root: str):
  """configs/coco_json.py for 32-pixel images and a network of a few thousand weights."""
  c = config_file.get_config(f"root={root},embedding_dim=8,size=32,steps=2")
  c.checkpoint.every = 2
  c.evaluation.every = 0
  m = c.model
  m.backbone.update(stage_blocks=(1, 1), width=16, stem_width=16, expansion=1)
  m.rpn.channels = 8
  m.rpn.anchor_sizes = ((16.0,),)
  m.rpn.anchor_ratios = (1.0,)
  m.rpn.train.update(pre_nms=16, post_nms=8)
  m.rpn.test.update(pre_nms=16, post_nms=8)
  m.roi.update(resolution=3, batch_size_per_image=8)
  m.box_head.update(layers=1, width=16)
  m.test.update(score_threshold=0.0, candidates=24, detections=10)
  c.loss.rpn.batch_size_per_image = 16
  c.data.box.max_boxes = 4
  c.data.eval.batch_size = 2
  return c


def build_data(root: Path) -> None:
  """Images, JSON, records and random class embeddings, where the config looks for them."""
  rng = np.random.default_rng(0)
  content = {"images": [], "annotations": [], "categories": []}
  content["categories"] = [{"id": 10 + i, "name": name} for i, name in enumerate(NAMES)]
  (root / "images").mkdir(parents=True)
  for i, (height, width) in enumerate(SIZES):
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(root / "images" / f"{i}.jpg")
    content["images"].append({"id": i, "file_name": f"{i}.jpg", "height": height, "width": width})
    content["annotations"].append(
      {"id": i + 1, "image_id": i, "category_id": 10 + i, "bbox": [8, 8, 24, 20]}
    )
  (root / "coco.json").write_text(json.dumps(content))
  files = coco_json.Files(root / "coco.json", root / "images")
  builder.prepare(
    coco_json.CocoJson(data_dir=root / "data", train=files, validation=files, novel=[NAMES[-1]])
  )
  rows = rng.normal(size=(len(NAMES), 8)).astype(np.float32)
  class_embeddings.save(root / "class_embeddings.npz", NAMES, class_embeddings.TEMPLATE, rows)
