"""A detector and a data set that train in seconds, for tests of the loop.

It is a config file, so that tests can start `rkd_jax.main` as users do:

  python -m rkd_jax.main --config=tests/tiny.py:ROOT --workdir=DIR

after `build_data(ROOT)`.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from rkd_jax.configs import common, demo
from rkd_jax.data import builder
from rkd_jax.data.shapes_ovd import shapes_ovd
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.records.sources import open_source
from rkd_jax.vocabulary import class_embeddings

EMBEDDING_DIM = 16
SIZES = {"train_boxes": 12, "train_images": 12, "validation": 8}


def root(tmp_path_factory) -> Iterator[Path]:
  """A folder with the data set and a cache of compiled steps, which is in use meanwhile.

  A module has it as a fixture by `root = pytest.fixture(scope="module")(tiny.root)`.
  """
  path = tmp_path_factory.mktemp("tiny")
  build_data(path)
  with compiled_once(path):
    yield path


def get_config(argument: str):
  """The demo's last rows without weight transfer (RKD and ILS), much narrower; SGD.

  `ROOT,lvis` is as LVIS' last row: with masks, weight transfer and the federated loss.  Its records
  have polygons, and ROOT/image_counts.json is there.
  """
  root, _, family = argument.partition(",")
  c = demo.get_config(f"rkd_ils,root={root}")
  c.name = "tiny"
  c.num_steps = 12
  c.log_every = 1
  c.checkpoint.every = 4
  c.init.checkpoint = ""
  c.frozen = ()
  c.optimizer.update(
    name="sgd", learning_rate=0.01, weight_decay=1e-4, clip_norm=1.0, warmup_steps=2
  )
  # Its own weights, so that tuning the demo changes no test.
  c.loss.rkd.weight = c.loss.irm.weight = 0.05
  c.loss.ils.weight = 0.1
  m = c.model
  m.pixel_mean, m.pixel_std = (123.675, 116.280, 103.530), (58.0, 57.0, 58.0)
  m.classifier.temperature, m.classifier.bias = 50.0, -4.6
  m.backbone.update(
    kind="resnet", stage_blocks=(1, 1), width=16, stem_width=16, norm="group", expansion=1
  )
  m.rpn.channels = 8
  m.rpn.anchor_sizes = ((28.0,),)
  m.rpn.anchor_ratios = (1.0,)
  m.rpn.train.update(pre_nms=32, post_nms=16)
  m.rpn.test.update(pre_nms=32, post_nms=16)
  m.roi.update(resolution=3, batch_size_per_image=8, positive_fraction=0.25, iou_threshold=0.5)
  m.box_head.update(kind="fc", layers=1, width=32)
  m.classifier.embedding_dim = EMBEDDING_DIM
  m.test.candidates = 32
  c.loss.rpn.batch_size_per_image = 16
  size = {"canvas": (64, 64), "short_sides": (64,), "max_side": 64}
  c.data.box.update(batch_size=8, max_regions=2, **size)
  c.data.image.update(batch_size=8, max_regions=2, **size)
  c.data.eval.update(batch_size=8, **size)
  c.data.threads = 1
  if family == "lvis":
    common.add_weight_transfer(c, hidden=(8, 16))
    m.mask_head.update(layers=1, channels=4, resolution=3)
    c.data.box.max_vertices = 24
    c.loss.federated_classes = 6
    c.image_counts = f"{root}/image_counts.json"
  return c


@contextlib.contextmanager
def compiled_once(root: Path) -> Iterator[None]:
  """Steps of `get_config(root)` are compiled once, in this process and in those started here."""
  cache = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", get_config(str(root)).compilation_cache)
  compilation_cache.reset_cache()
  try:
    yield
  finally:
    jax.config.update("jax_compilation_cache_dir", cache)
    compilation_cache.reset_cache()


def build_data(root: Path) -> None:
  """Scenes with random teachers' results and random class embeddings, where the config looks."""
  data = root / "data"
  builder.prepare(shapes_ovd.ShapesOvd(data_dir=data, sizes=SIZES, workers=1))
  for split in SIZES:
    source = open_source(data, "shapes_ovd/scenes", split)
    with TeacherWriter(root / "teachers", split, EMBEDDING_DIM, {}) as writer:
      for index in range(len(source)):
        record = source[index]
        rng = np.random.default_rng(record.image_id)
        labels = len(record.labels)
        writer.write(
          record.image_id,
          {
            "regions/boxes": np.array([[8, 8, 60, 72], [30, 40, 120, 100]], np.float32),
            "regions/scores": np.array([0.9, 0.5], np.float32),
            "regions/clip_embeddings": rng.normal(size=(2, EMBEDDING_DIM)).astype(np.float32),
            "pseudo_boxes/boxes": np.tile(np.float32([16, 16, 90, 100]), (labels, 1)),
            "pseudo_boxes/labels": record.labels.astype(np.int64),
            "pseudo_boxes/scores": np.full(labels, 0.5, np.float32),
          },
        )
  names = source.class_names
  embeddings = np.random.default_rng(0).normal(size=(len(names), EMBEDDING_DIM))
  class_embeddings.save(root / "class_embeddings.npz", names, class_embeddings.TEMPLATE, embeddings)
