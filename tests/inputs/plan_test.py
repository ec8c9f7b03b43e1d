"""What each kind of batch takes, from the config."""

import itertools

import numpy as np
import pytest

from rkd_jax.configs import common
from rkd_jax.inputs import plan
from rkd_jax.records.results import TeacherReader
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.records.sources import open_source
from tests import tiny


def test_image_steps_may_read_another_data_set():
  data = common.detector_data()
  data.update(dir="a", name="lvis_ovd/plain")
  assert plan.place(data, "image") == ("a", "lvis_ovd/plain", "train")
  data.image.name = "imagenet_lvis/plain"
  assert plan.place(data, "image") == ("a", "imagenet_lvis/plain", "train")
  data.image.dir = "b"
  assert plan.place(data, "image") == ("b", "imagenet_lvis/plain", "train")
  assert plan.place(data, "box") == ("a", "lvis_ovd/plain", "train")
  assert plan.place(data, "eval") == ("a", "lvis_ovd/plain", "validation")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  path = tmp_path_factory.mktemp("root")
  tiny.build_data(path)
  return path


def _config(root, **data):
  config = tiny.get_config(str(root))
  config.data.update(data)
  return config


def test_every_kind_reads_the_results_of_its_split(root):
  made = plan.make_plan(_config(root))
  for kind, split in (("box", "train_boxes"), ("image", "train_images")):
    reader = TeacherReader(root / "teachers", split)
    for record in made.sources[kind]:
      expected = reader[record.image_id]
      np.testing.assert_array_equal(record.region_boxes, expected["regions/boxes"])
      np.testing.assert_array_equal(record.region_embeddings, expected["regions/clip_embeddings"])
      np.testing.assert_array_equal(record.pseudo_labels, expected["pseudo_boxes/labels"])


def test_a_kind_may_have_a_folder_of_its_own(root, tmp_path):
  config = _config(root)
  config.data.image.teachers = str(tmp_path)
  with pytest.raises(ValueError, match=rf"{tmp_path}/train_images.*--splits=train_images"):
    plan.make_plan(config)
  config.data.teachers, config.data.image.teachers = str(tmp_path), str(root / "teachers")
  with pytest.raises(ValueError, match=rf"{tmp_path}/train_boxes.*--splits=train_boxes"):
    plan.make_plan(config)


def test_what_needs_no_results_asks_for_none(root):
  config = _config(root, teachers="nowhere", schedule=("box",))
  config.data.box.max_regions = 0
  assert len(plan.make_plan(config).sources["box"]) == tiny.SIZES["train_boxes"]


@pytest.mark.parametrize(("kind", "what"), [("box", "regions"), ("image", "pseudo boxes")])
def test_results_that_no_setting_names_are_asked_for(root, kind, what):
  config = _config(root, teachers="", schedule=(kind,))
  config.data.image.max_regions = 0
  with pytest.raises(
    ValueError, match=rf"data\.{kind} asks for {what}, .*precompute.*--config\.data\.teachers="
  ):
    plan.make_plan(config)


def test_another_width_than_the_model_s_is_refused(root):
  config = _config(root)
  config.model.classifier.embedding_dim = 512
  with pytest.raises(ValueError, match=r"16 wide, model\.classifier\.embedding_dim is 512"):
    plan.make_plan(config)


def test_missing_results_are_an_error_or_left_out(root, tmp_path):
  source = open_source(root / "data", "shapes_ovd/scenes", "train_boxes")
  every = TeacherReader(root / "teachers", "train_boxes")
  with TeacherWriter(tmp_path, "train_boxes", tiny.EMBEDDING_DIM, {}) as writer:
    for record in itertools.islice(source, 9):
      writer.write(record.image_id, every[record.image_id])
  config = _config(root, teachers=str(tmp_path), schedule=("box",))
  with pytest.raises(ValueError, match=r"no results for 3 of the 12 images.*skip_missing_results"):
    plan.make_plan(config)
  config.data.skip_missing_results = True
  made = plan.make_plan(config)
  assert len(made.sources["box"]) == 9 and made.sampler.sizes["box"] == (9, 8)


def test_pseudo_labels_of_box_batches_are_of_classes_without_annotations(root):
  config = _config(root, schedule=("box",))
  assert plan.make_plan(config).specs["box"].annotated == ()
  config.data.box.update(max_regions=0, pseudo_labels=3)
  made = plan.make_plan(config)
  source, spec = made.sources["box"], made.specs["box"]
  names = [source.class_names[number] for number in spec.annotated]
  assert names == [name for name in source.class_names if name in source.base]
  assert spec.pseudo_labels == 3 and len(source[0].region_boxes) == 2


@pytest.mark.parametrize("score, expected", [(0.0, True), (0.5, False)])
def test_classes_of_pseudo_boxes_are_those_above_the_bound(root, score, expected):
  made = plan.make_plan(_config(root))
  source = made.sources["image"]
  found = plan.pseudo_classes(source, score)
  labels = {label for record in source for label in record.labels.tolist()}
  assert labels and found == (labels if expected else set())
  # Of records that have their results in them, and of some of the records.
  records = [source[i] for i in range(len(source))]
  assert plan.pseudo_classes(records, score) == found  # pyright: ignore


def test_a_data_set_with_results_in_it_says_how_it_is_done_now(root):
  with pytest.raises(
    ValueError,
    match=r"no longer built .* config\.data\.name=shapes_ovd/scenes and config\.data\.teachers=",
  ):
    plan.make_plan(_config(root, name="shapes_ovd/rkd"))


@pytest.mark.parametrize("form", ["stochastic", "fractional"])
def test_any_kind_may_repeat_rare_classes(root, form):
  config = _config(root, schedule=("box",))
  config.data.box.update(repeat_threshold=0.5, repeat_form=form)
  made = plan.make_plan(config)
  assert made.repeats["box"].form == form and len(made.repeats["box"].factors) == 12
  assert made.sampler.repeats is made.repeats
