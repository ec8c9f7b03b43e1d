"""The published rows on built data: official files to records to a training step and evaluation.

Data and networks are tiny, the settings of the configs otherwise their own.
"""

import functools
import importlib

import jax
import numpy as np
import official_files
import official_imagenet
import pytest

from rkd_jax.data import builder
from rkd_jax.data.coco_ovd.coco_ovd import CocoOvd
from rkd_jax.data.imagenet21k_random.imagenet21k_random import Imagenet21kRandom
from rkd_jax.data.imagenet_lvis.imagenet_lvis import ImagenetLvis
from rkd_jax.data.lvis_ovd.lvis_ovd import LvisOvd
from rkd_jax.evaluation.evaluate import evaluate_detector
from rkd_jax.inputs.batching import train_batches
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.records.sources import open_source
from rkd_jax.runs.checkpoint import Checkpointer
from rkd_jax.train.tasks import make_task
from rkd_jax.train.train import Trainer
from rkd_jax.vocabulary import class_embeddings

DIM = 8
ROWS = ("base", "rkd", "ils", "rkd_ils", "rkd_ils_weight_transfer", "rkd_ils_weight_transfer_8x")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """All data sets, the results of an invented teacher on each, and class embeddings."""
  path = tmp_path_factory.mktemp("published")
  official_files.write_coco(path / "coco")
  official_files.write_lvis(path / "lvis", path / "coco")
  official_imagenet.write_wordnet(path)
  official_imagenet.write_imagenet(path / "imagenet")
  lvis = {"lvis": path / "lvis"}
  imagenet = {"imagenet": path / "imagenet", "wordnet": path / "dict/index.noun"}
  builders = {
    "coco": ((CocoOvd, {"coco": path / "coco"}),),
    "lvis": ((ImagenetLvis, lvis | imagenet), (LvisOvd, {"coco": path / "coco"} | lvis)),
  }
  vocabulary = [name for name, *_ in official_files.LVIS_CLASSES]
  strict = imagenet | {"wordnet": path / "dict/data.noun", "vocabulary": vocabulary, "classes": 2}
  builders["lvis"] += ((Imagenet21kRandom, strict),)
  for name, data_sets in builders.items():
    for make, files in data_sets:
      plain = builder.prepare(make(data_dir=path / name / "data", **files))
      source = open_source(path / name / "data", f"{plain.name}/plain", "train")
      folder = {"imagenet_lvis": "imagenet_", "imagenet21k_random": "strict_"}.get(plain.name, "")
      _invent_teacher(path / name / f"{folder}teachers", source)
      strict = plain.name == "imagenet21k_random"
      file = path / name / f"{'strict_' if strict else ''}class_embeddings.npz"
      shape = (len(source.class_names), DIM)
      rows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
      class_embeddings.save(file, source.class_names, class_embeddings.TEMPLATE, rows)
  return path


def _invent_teacher(folder, source):
  """Two regions of each image, and a pseudo box for its first label."""
  with TeacherWriter(folder, "train", DIM, {}, class_names=source.class_names) as writer:
    for record in source:
      rng = np.random.default_rng(record.image_id)
      writer.write(
        record.image_id,
        {
          "regions/boxes": np.array([[4, 4, 30, 30], [20, 10, 50, 36]], np.float32),
          "regions/scores": np.ones(2, np.float32),
          "regions/clip_embeddings": rng.normal(size=(2, DIM)).astype(np.float32),
          "pseudo_boxes/boxes": np.array([[5, 5, 40, 30]], np.float32)[: len(record.labels)],
          "pseudo_boxes/labels": record.labels[:1].astype(np.int64),
          "pseudo_boxes/scores": np.ones(min(1, len(record.labels)), np.float32),
        },
      )


def _config(root, dataset, row):
  """The row's config for 64-pixel canvases and a network of a few thousand weights."""
  module = importlib.import_module(f"configs.{dataset}.{row}")
  c = module.get_config(f"root={root / dataset}")
  c.compilation_cache = c.init.checkpoint = ""
  c.num_steps = 2
  m = c.model
  m.backbone.update(
    stage_blocks=(1,) * len(m.backbone.stage_blocks), width=8, stem_width=8, expansion=1
  )
  m.fpn.channels = min(m.fpn.channels, 8)
  m.rpn.channels = 8
  m.rpn.train.update(pre_nms=32, post_nms=16)
  m.rpn.test.update(pre_nms=32, post_nms=16)
  m.roi.update(resolution=3, batch_size_per_image=8)
  m.box_head.update(layers=1, width=16)
  m.mask_head.update(layers=min(m.mask_head.layers, 1), channels=8)
  m.classifier.embedding_dim = DIM
  if m.classifier.weight_transfer:
    m.classifier.weight_transfer = (DIM, 16)
  m.test.update(candidates=24, detections=10, score_threshold=0.0)
  c.loss.rpn.batch_size_per_image = 16
  c.loss.federated_classes = min(c.loss.federated_classes, 3)
  c.loss.images_per_group.update(box=2, image=2)
  size = {"canvas": (64, 96), "short_sides": (32, 40), "max_side": 64}
  c.data.threads = 1
  c.data.box.update(size, batch_size=2, max_boxes=4, max_vertices=4 if m.mask_head.layers else 0)
  c.data.image.update(size, batch_size=2)
  c.data.box.scale_groups = min(c.data.box.scale_groups, 2)
  c.data.eval.update(canvas=(64, 64), short_sides=(40,), max_side=64, batch_size=2)
  return c.lock()


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("dataset", ["coco", "lvis"])
def test_every_row_finds_its_records(root, dataset, row):
  config = _config(root, dataset, row)
  task = make_task(config, "")
  batches = {kind: b for _, kind, b in train_batches(task.plan, 0, 2)}
  assert set(batches) == set(config.data.schedule)
  ids = [record.image_id for record in task.plan.sources["box"]]
  with_boxes = [9, 30] if dataset == "coco" else [9, 25]
  assert ids == ([9, 25, 30] if dataset == "lvis" and "ils" in row else with_boxes)
  assert (dataset == "lvis") == ("box" in task.plan.repeats)
  assert (batches["box"].regions is not None) == ("rkd" in row)
  assert (batches["box"].ground_truth.vertices is not None) == (dataset == "lvis")
  if "ils" in row:
    pseudo = batches["image"].pseudo_boxes
    assert pseudo.valid.any(axis=1).all()
    if dataset == "lvis":
      assert set(pseudo.classes.ravel()) <= {1, 2} and pseudo.valid.shape == (2, 1)
      assert len(task.plan.sources["image"]) == 5
      assert task.plan.sources["image"].name == "imagenet_lvis/plain/train"
      assert task.constants.image_counts.tolist() == [1, 0, 2, 0]


def test_box_steps_with_masks_and_image_steps_on_imagenet_train_and_are_evaluated(root, tmp_path):
  config = _config(root, "lvis", "rkd_ils")
  task = make_task(config, "")
  trainer = Trainer(config, task, jax.devices()[:1])
  state = trainer.create(0)
  before, found = jax.device_get(state.params), {}
  for _, kind, batch in train_batches(task.plan, 0, 2):
    state, metrics = trainer.step(state, trainer.place(batch), kind)
    assert np.isfinite(metrics.values).all(), metrics
    found[kind] = set(metrics.names) - {"loss", "update_norm"}
  shared = {"rkd_l1", "rkd_irm"}
  assert found["box"] == {"rpn_cls", "rpn_box", "cls", "box", "mask"} | shared
  assert found["image"] == {"pms"} | shared
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, jax.device_get(state.params))
  assert int(state.step) == 2 and any(jax.tree.leaves(moved["mask_head"]))

  checkpointer = Checkpointer(str(tmp_path), 1)
  checkpointer.save(state)
  checkpointer.close()
  results = evaluate_detector(config, str(tmp_path))
  counts = {name: entry["num_gt"] for name, entry in results["per_class"].items()}
  assert counts == {"aerosol_can": 0, "bat_(animal)": 1, "cat": 2, "zoo": 0}
  assert results["mask_APc"] is None
  assert 0 <= results["mask_APf"] <= 100 and 0 <= results["box_APr"] <= 100


def test_a_strict_run_has_other_classes_in_image_steps(root):
  config = _config(root, "lvis", "rkd_ils")
  config.data.image.name = "imagenet21k_random/plain"
  config.data.image.teachers = str(root / "lvis/strict_teachers")
  with pytest.raises(ValueError, match=r"class 0 is 'aerosol_can' in the one and 'tench' in the"):
    make_task(config, "")
  config.data.image.class_embeddings = str(root / "lvis/strict_class_embeddings.npz")
  task = make_task(config, "")
  assert task.constants.embeddings.shape == (4, DIM)
  assert task.constants.image_embeddings.shape == (2, DIM)
  trainer = Trainer(config, task, jax.devices()[:1])
  for _, kind, batch in train_batches(task.plan, 0, 2):
    step = functools.partial(trainer._update, kind=kind)
    state = jax.eval_shape(trainer.packed, trainer.abstract_state)
    _, metrics = jax.eval_shape(step, state, trainer.constants, batch, jax.random.key(0))
    assert ("pms" in metrics.names) == (kind == "image")


def test_a_protocol_needs_its_own_data(root):
  config = _config(root, "coco", "base").unlock()
  with pytest.raises(ValueError, match=r"'oid'; expected one of \['coco', 'lvis', 'open_images'\]"):
    config.evaluation.protocol = "oid"
    evaluate_detector(config, "nowhere")
  with pytest.raises(ValueError, match="coco_ovd/plain/validation does not say which classes are"):
    config.evaluation.protocol = "lvis"
    evaluate_detector(config, "nowhere")
  with pytest.raises(
    ValueError, match="coco_ovd/plain/validation does not say which classes stand"
  ):
    config.evaluation.protocol = "open_images"
    evaluate_detector(config, "nowhere")
