"""One step of every config, through jax.eval_shape: nothing is compiled or computed."""

import functools
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util

from rkd_jax import configs
from rkd_jax.configs import common
from rkd_jax.files.json_checks import differences
from rkd_jax.inputs import examples, plan
from rkd_jax.models.detector.rcnn import abstract_params
from rkd_jax.records import index as index_lib
from rkd_jax.records.sources import Record
from rkd_jax.train import tasks
from rkd_jax.train.optimizer import frozen_mask
from rkd_jax.train.train import Trainer
from rkd_jax.vocabulary import class_embeddings
from rkd_jax.weights import detectron2

FOLDER = Path(__file__).parents[1] / "configs"
FILES = sorted(
  str(path.relative_to(FOLDER))
  for path in FOLDER.rglob("*.py")
  if path.name not in ("__init__.py", "common.py")
)


def _load(file: str):
  spec = importlib.util.spec_from_file_location(Path(file).stem, FOLDER / file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


# A config that has stages is checked at each of them; long runs have the steps of the short ones.
CASES = [
  pytest.param(file, stage, marks=[pytest.mark.full] if file.endswith("8x.py") else [])
  for file in FILES
  for stage in getattr(_load(file), "STAGES", (None,))
]


class _FakeSource:
  """One record with something of everything, 100 by 80 pixels."""

  class_names = ("square", "circle", "star")
  base = ("square", "star")
  index = index_lib.make([(80, 100, [2], 1, 1)])

  def __init__(self, embedding_dim: int):
    box = np.array([[10, 20, 50, 60]], np.float32)
    self._record = Record(
      image=b"",
      image_id=1,
      filename="fake.png",
      height=80,
      width=100,
      boxes=box,
      classes=np.array([2], np.int32),
      is_crowd=np.array([False]),
      areas=np.array([1600], np.float32),
      object_ids=np.array([1]),
      labels=np.array([2], np.int32),
      captions=("a red star",),
      region_boxes=box,
      region_embeddings=np.ones((1, embedding_dim), np.float32),
      region_scores=np.ones(1, np.float32),
      pseudo_boxes=box,
      pseudo_labels=np.array([2], np.int32),
      pseudo_scores=np.ones(1, np.float32),
      polygons=((np.array([[10.0, 20], [50, 20], [30, 60]]),),),
    )

  def __len__(self):
    return 1

  def __getitem__(self, index):
    return self._record


def _abstract_batch(spec: examples.BatchSpec, record: Record):
  make = examples.EXAMPLE_OF_KIND[spec.kind]
  image = np.zeros((record.height, record.width, 3), np.uint8)
  example = make(record, image, spec, np.random.default_rng(0))
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct((spec.batch_size, *x.shape), x.dtype), example)


def _step_shapes(config, tmp_path, monkeypatch) -> dict[str, set[str]]:
  """Traces a step of every kind; the names of the loss terms of each.

  Stages have one block; the published depths are those of `models/parity_test.py`.
  """
  if "model" in config and config.model.backbone.kind == "resnet":
    config.model.backbone.stage_blocks = (1,) * len(config.model.backbone.stage_blocks)
  width = config.model.classifier.embedding_dim if config.task == "detector" else 0
  source = _FakeSource(width)
  for module in (plan, tasks):
    monkeypatch.setattr(module, "open_sources", lambda c: dict.fromkeys(c.data.schedule, source))
  if config.task == "detector":
    config.class_embeddings = str(tmp_path / "classes.npz")
    if config.data.image.class_embeddings:
      config.data.image.class_embeddings = config.class_embeddings
    class_embeddings.save(
      config.class_embeddings,
      source.class_names,
      class_embeddings.TEMPLATE,
      np.ones((3, width), np.float32),
    )
    if config.loss.federated_classes:
      config.image_counts = str(tmp_path / "counts.json")
      counts = [{"name": name, "image_count": 5} for name in source.class_names]
      Path(config.image_counts).write_text(json.dumps(counts))
  task = tasks.make_task(config, str(tmp_path))
  trainer = Trainer(config, task, jax.devices()[:1])
  state = jax.eval_shape(trainer.packed, trainer.abstract_state)
  terms = {}
  for kind in dict.fromkeys(config.data.schedule):
    step = functools.partial(trainer._update, kind=kind)
    batch = _abstract_batch(task.plan.specs[kind], source[0])
    new, metrics = jax.eval_shape(step, state, trainer.constants, batch, jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(
      lambda x: (x.shape, x.dtype), state
    )
    assert metrics.values.shape == (len(metrics.names),)
    terms[kind] = set(metrics.names) - {"loss", "update_norm"}
  return terms


BOX_TERMS = {"rpn_cls", "rpn_box", "cls", "box"}
RKD_TERMS = {"rkd_l1", "rkd_irm"}
CONTRAST_TERMS = {"rkd_contrastive", "rkd_relations"}
DEMO_TERMS = {
  "clip": {"caption": {"accuracy", "scale"}},
  "base": {"box": BOX_TERMS},
  "rkd": {"box": BOX_TERMS | RKD_TERMS},
  "rkd_longer": {"box": BOX_TERMS | RKD_TERMS},
  "ils": {"box": BOX_TERMS, "image": {"pms"}},
  "rkd_ils": {"box": BOX_TERMS | RKD_TERMS, "image": {"pms"} | RKD_TERMS},
  **{
    stage: {"box": BOX_TERMS | RKD_TERMS, "image": {"pms"} | RKD_TERMS}
    for stage in ("rkd_ils_weight_transfer", "retrieved", "retrieved_boxes", "refined")
  },
  "rkd_contrastive": {"box": BOX_TERMS | RKD_TERMS | CONTRAST_TERMS},
  "rkd_both": {"box": BOX_TERMS | RKD_TERMS | CONTRAST_TERMS},
  "rkd_teacher_boxes": {"box": BOX_TERMS | RKD_TERMS},
}
DEMO_TERMS |= {stage: DEMO_TERMS[plain] for stage, plain in _load("demo.py").STRICT.items()}


PUBLISHED_TERMS = {
  "base": {"box": BOX_TERMS},
  "rkd": {"box": BOX_TERMS | RKD_TERMS},
  "ils": {"box": BOX_TERMS, "image": {"pms"}},
  "rkd_ils": {"box": BOX_TERMS | RKD_TERMS, "image": {"pms"} | RKD_TERMS},
  "rkd_ils_weight_transfer": {"box": BOX_TERMS | RKD_TERMS, "image": {"pms"} | RKD_TERMS},
  "rkd_ils_weight_transfer_8x": {"box": BOX_TERMS | RKD_TERMS, "image": {"pms"} | RKD_TERMS},
  "recommended": {"box": BOX_TERMS | RKD_TERMS, "image": {"pms"} | RKD_TERMS},
}


@pytest.mark.parametrize("file, stage", CASES)
def test_one_step(file, stage, tmp_path, monkeypatch):
  config = _load(file).get_config(*([stage] if stage else []))
  config.lock()
  terms = _step_shapes(config, tmp_path, monkeypatch)
  assert terms.keys() == set(config.data.schedule)
  if file == "demo.py":
    assert terms == DEMO_TERMS[stage]
  if file == "coco_json.py":
    assert terms == PUBLISHED_TERMS[stage]
  if file.startswith(("coco/", "lvis/")):
    expected = {kind: set(names) for kind, names in PUBLISHED_TERMS[Path(file).stem].items()}
    expected["box"] |= {"mask"} if file.startswith("lvis/") else set()
    assert terms == expected


@pytest.mark.parametrize("dataset", ["coco", "lvis"])
def test_published_rows_start_where_the_originals_do(dataset):
  starts = {
    row: _load(f"{dataset}/{row}.py").get_config("root=r").init.checkpoint
    for row in PUBLISHED_TERMS
  }
  assert starts == {
    "base": "r/imagenet",
    "rkd": "r/base",
    "ils": "r/base",
    "rkd_ils": "r/base",
    "rkd_ils_weight_transfer": "r/rkd",
    "rkd_ils_weight_transfer_8x": "r/rkd",
    "recommended": "r/rkd",
  }


@pytest.mark.parametrize("dataset", ["coco", "lvis"])
def test_the_recommended_row_differs_from_its_control_in_what_is_recommended_alone(dataset):
  control, config = (
    _load(f"{dataset}/{row}.py").get_config("root=r").to_dict()
    for row in ("rkd_ils_weight_transfer", "recommended")
  )
  found = {key: new for key, (_, new) in differences(control, config).items()}
  assert found == {
    "name": f"{dataset} recommended",
    "data.box.teachers": "r/retrieved",
    "data.box.pseudo_labels": 4,
    "model.test.fusion.kind": "crops",
    "model.test.fusion.clip": "weights/ViT-B-32.pt",
  }


OWN = _load("coco_json.py")


def _own_project(root: Path, count: int) -> Path:
  """A project with so many training records, as far as a config reads them."""
  folder = root / "data" / "coco_json" / "plain"
  for version, images in (("1.9.0", 1), ("1.10.0", count)):
    (folder / version).mkdir(parents=True)
    splits = [{"name": "train", "shardLengths": [str(images - 1), "1"]}]
    (folder / version / "dataset_info.json").write_text(json.dumps({"splits": splits}))
  return root


def _store(config, run: Path) -> str:
  run.mkdir(parents=True)
  (run / "config.json").write_text(json.dumps(config.to_dict()))
  return str(run)


@pytest.mark.parametrize(
  "count, batch_size, steps, every",
  [(6, 2, 400, 20), (126, 2, 6300, 315), (300, 4, 7500, 375), (5000, 8, 20000, 1000)],
)
def test_own_data_is_trained_by_the_number_of_its_images(count, batch_size, steps, every, tmp_path):
  config = OWN.get_config(f"root={_own_project(tmp_path, count)}")
  assert (config.data.box.batch_size, config.num_steps) == (batch_size, steps)
  assert config.evaluation.every == config.checkpoint.every == every
  assert config.optimizer.warmup_steps == min(1000, steps // 10)
  assert OWN.get_config(f"root={tmp_path},steps=30").num_steps == 30


def test_epochs_of_own_data_count_box_images(tmp_path):
  root = _own_project(tmp_path, 126)
  assert OWN.get_config(f"root={root},epochs=2").num_steps == 126
  config = OWN.get_config(f"ils,root={root},epochs=2")
  assert config.num_steps == 252 and config.data.schedule == ("box", "image")
  assert config.data.image.batch_size == 8
  assert 4 <= config.num_steps // config.evaluation.every <= 20


def test_own_data_whose_records_are_not_built_can_be_described():
  assert OWN.get_config("root=nowhere").num_steps == 20_000


@pytest.mark.parametrize("stage, parent", OWN.PARENTS.items())
def test_stages_on_own_data_start_from_the_one_before(stage, parent):
  config = OWN.get_config(f"{stage},root=r")
  assert config.init.checkpoint == (parent and f"r/{parent}")


def test_a_later_stage_has_the_network_sizes_and_pace_of_the_run_before(tmp_path):
  root = _own_project(tmp_path, 126)
  base = OWN.get_config(f"root={root},init=R-50.pkl,size=400")
  base.model.rpn.channels = 77
  _store(base, root / "base")
  later = OWN.get_config(f"rkd,root={root}")
  assert later.model.to_dict() == base.model.to_dict() and later.frozen == base.frozen
  assert later.data.eval == base.data.eval and later.data.box.canvas == (416, 672)
  assert later.optimizer.learning_rate == base.optimizer.learning_rate
  assert later.init.checkpoint == f"{root}/base" and later.init.allow_missing == ()
  assert OWN.get_config(f"rkd,root={root},size=320").data.box.short_sides == (320,)


def test_own_data_starts_from_imagenet_as_the_published_rows(tmp_path):
  config = OWN.get_config(f"root={_own_project(tmp_path, 5000)},init=R-50.pkl")
  published = _load("coco/base.py").get_config()
  assert config.model.to_dict() == published.model.to_dict()
  assert config.frozen == published.frozen
  for kind in ("box", "eval"):
    for key in ("canvas", "short_sides", "max_side"):
      assert config.data[kind][key] == published.data[kind][key]
  assert config.init.allow_missing == published.init.allow_missing
  assert config.optimizer.learning_rate == published.optimizer.learning_rate
  assert config.optimizer.boundaries == (config.num_steps * 2 // 3, config.num_steps * 8 // 9)


def test_a_published_detector_is_trained_on_with_a_tenth_of_its_learning_rate(tmp_path):
  published = _load("coco/rkd_ils_weight_transfer.py").get_config()
  run = _store(published, tmp_path / "converted")
  config = OWN.get_config(f"root={_own_project(tmp_path / 'own', 126)},init={run}")
  assert config.model.to_dict() == published.model.to_dict()
  assert config.frozen == published.frozen and config.data.box.batch_size == 4
  assert config.optimizer.learning_rate == pytest.approx(0.02 * 4 / 16 / 10)
  assert config.init.checkpoint == run and not config.init.backbone


@pytest.mark.parametrize("layers, width", [((3, 4, 6, 3), 64), ((1, 1, 1), 32)])
def test_own_data_on_clips_own_tower(layers, width, tmp_path):
  clip = common.clip()
  clip.clip.vision_layers, clip.clip.vision_width = layers, width
  init = "RN50.pt" if width == 64 else _store(clip, tmp_path / "clip")
  config = OWN.get_config(f"root={_own_project(tmp_path / 'own', 126)},init={init}")
  assert config.init.backbone == init and not config.init.checkpoint
  backbone = config.model.backbone
  assert (backbone.kind, backbone.stage_blocks) == ("clip_resnet", layers[:-1])
  assert backbone.width == width


@pytest.mark.door
@pytest.mark.parametrize(
  "stage, init",
  [("base", "R-50.pkl"), ("rkd_ils_weight_transfer", "RN50.pt"), ("rkd", "runs/converted")],
)
def test_a_step_on_own_data_from_each_start(stage, init, tmp_path, monkeypatch):
  config = OWN.get_config(f"{stage},root={tmp_path},init={init}")
  config.lock()
  terms = _step_shapes(config, tmp_path, monkeypatch)
  assert terms == PUBLISHED_TERMS[stage]


def test_the_width_of_class_embeddings_is_that_of_the_file(tmp_path):
  assert OWN.get_config(f"root={tmp_path}").model.classifier.embedding_dim == 512
  rows = np.ones((2, 24), np.float32)
  class_embeddings.save(tmp_path / "class_embeddings.npz", ["a", "b"], "{}", rows)
  assert OWN.get_config(f"root={tmp_path}").model.classifier.embedding_dim == 24


@pytest.mark.parametrize("make", [common.detector, common.clip])
def test_every_shared_setting_is_known_to_a_locked_config(make):
  config = make().lock()
  with pytest.raises((AttributeError, KeyError), match='Did you mean "num_steps"'):
    config.num_step = 3
  with pytest.raises((AttributeError, KeyError), match='Did you mean "learning_rate"'):
    config.optimizer.learning_rat = 1.0


def test_arguments_take_the_type_of_their_default():
  parsed = common.arguments(
    "rkd,seed=3,scale=0.5,fast", stage="base", seed=0, scale=1.0, fast=False
  )
  assert parsed.to_dict() == {"stage": "rkd", "seed": 3, "scale": 0.5, "fast": True}
  assert common.arguments(None, stage="base").stage == "base"
  assert common.arguments("seed=3", stage="base", seed=0).to_dict() == {"stage": "base", "seed": 3}


def test_unknown_arguments_are_refused():
  with pytest.raises(ValueError, match="'sed' is unknown; known: stage, seed"):
    common.arguments("rkd,sed=3", stage="base", seed=0)


def test_unknown_stages_are_refused():
  with pytest.raises(ValueError, match=r"stage is 'rdk'; expected one of clip, base, rkd"):
    _load("demo.py").get_config("rdk")


@pytest.mark.parametrize("stage", _load("demo.py").INITIAL_STAGE)
def test_later_stages_start_from_earlier_ones_of_the_same_seed(stage):
  demo = _load("demo.py")
  config = demo.get_config(f"{stage},seed=2,root=r")
  assert config.init.checkpoint == f"r/{demo.INITIAL_STAGE[stage]}/seed2"
  assert config.seed == 2


@pytest.mark.parametrize("stage", ["rkd_contrastive", "rkd_both", "rkd_teacher_boxes"])
def test_variants_of_rkd_differ_from_it_in_their_losses_alone(stage):
  demo = _load("demo.py")
  control, variant = demo.get_config("rkd"), demo.get_config(stage)
  assert variant.num_steps == control.num_steps == 500
  found = differences(control.to_dict(), variant.to_dict())
  assert {key.split(".")[0] for key in found} == {"name", "loss"}


_STEM_AND_RES2 = [
  "stem.conv1",
  "res2.0.shortcut",
  *(f"res2.{block}.conv{i}" for block in range(3) for i in (1, 2, 3)),
]


@pytest.mark.parametrize(
  "dataset, backbone, trained", [("coco", "backbone", 60), ("lvis", "backbone.bottom_up", 93)]
)
def test_weight_transfer_trains_the_parameters_of_the_reference_optimizer(
  dataset, backbone, trained
):
  """Their number and what is frozen beside the norms, as the reference trainer logs them."""
  config = _load(f"{dataset}/rkd_ils_weight_transfer.py").get_config()
  params = abstract_params(config)
  frozen = traverse_util.flatten_dict(frozen_mask(params, config.frozen), sep="/")
  names = {path: entry.name for path, entry in detectron2.entries(params).items()}
  assert len(names) - sum(frozen.values()) == trained
  projection = "roi_heads.box_predictor.cls_score.linear"
  assert {names[path] for path, stop in frozen.items() if stop and ".norm." not in names[path]} == {
    *(f"{backbone}.{name}.weight" for name in _STEM_AND_RES2),
    *(f"{projection}.{name}" for name in ("weight", "bias")),
  }


@pytest.mark.parametrize("file", [file for file in FILES if file[:5] in ("coco/", "lvis/")])
def test_every_canvas_holds_what_the_network_pads_images_to(file):
  """A side that ends between two multiples would cut cells that the published models have."""
  config = _load(file).get_config("root=unused")
  multiple = config.model.padding.multiple
  for kind in config.data.schedule:
    spec = plan.detector_specs(config)[kind]
    canvases = {}
    for seed in range(60):
      for stands in (False, True):
        own = spec.for_batch(stands, np.random.default_rng(seed))
        canvases.setdefault(own.canvas, set()).update(own.short_sides)
    assert set(canvases) == set(spec.canvases) and len(canvases) == 2 * spec.scale_groups
    assert set.union(*canvases.values()) == set(spec.short_sides)
    for canvas, short_sides in canvases.items():
      assert all(side % multiple == 0 for side in canvas)
      assert min(canvas) >= max(short_sides) and max(canvas) >= spec.max_side


def test_a_config_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  file = str(FOLDER / "coco" / "rkd.py")
  assert configs.names() == tuple(file.removesuffix(".py") for file in FILES)
  for name in ("coco/rkd", "coco/rkd.py", "configs/coco/rkd.py"):
    assert Path(configs.locate(name)).samefile(file)
  assert configs.locate("demo:rkd,seed=1").endswith("demo.py:rkd,seed=1")
  (tmp_path / "coco").mkdir()
  (tmp_path / "coco" / "rkd.py").touch()
  assert configs.locate("coco/rkd.py:x") == "coco/rkd.py:x"  # a file that exists wins
  with pytest.raises(ValueError, match=r"--config=common: there is no such file, .* coco/base, "):
    configs.locate("common")


def test_stages_of_the_strict_setting_have_a_clip_of_their_own():
  demo = _load("demo.py")
  control, strict = (demo.get_config(f"{stage},root=r") for stage in ("strict_control", "strict"))
  assert demo.workdir("r", "strict_clip", 3) == "r/strict/clip" == strict.model.test.fusion.clip
  assert demo.get_config("strict_base,root=r,seed=1").init.backbone == "r/strict/clip"
  # The two differ in their image batches and their names.
  found = differences(control.to_dict(), strict.to_dict())
  assert {key.rpartition(".")[0] for key in found} == {"", "data.image"}
  assert found["data.image.class_embeddings"] == ("", "r/strict/concepts.npz")
  plain = demo.get_config("rkd_ils_weight_transfer,root=r")
  of_clip = {"name", "class_embeddings", "data.teachers", "init.checkpoint"}
  assert differences(plain.to_dict(), control.to_dict()).keys() == {
    *of_clip,
    "model.test.fusion.clip",
  }
