"""Prerequisites: commands that their programs take, with the results of the steps by hand."""

import numpy as np
import pytest
from demo_project import build

from rkd_jax import precompute, retrieve
from rkd_jax.frozen.clip import load_clip
from rkd_jax.machine.workers import process_pool
from rkd_jax.recipe import recipes
from rkd_jax.recipe.needs import known as needs
from rkd_jax.recipe.needs.demo import SCENES
from rkd_jax.recipe.order import Order
from rkd_jax.records.results import FIELDS, TeacherReader
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.records.sources import open_source
from rkd_jax.teachers import pipeline
from rkd_jax.teachers.images import Options
from rkd_jax.teachers.settings import Settings, open_teachers
from rkd_jax.vocabulary import class_embeddings


def order_of(name, root="runs/x", seeds=(0,), **more):
  recipe = recipes.RECIPES[name]
  return Order(recipe, str(root), seeds, tuple(recipe.chosen()), **more)


@pytest.mark.parametrize("name, needs_of", needs.NEEDS.items())
def test_every_need_of_the_offline_step_is_a_command_that_it_takes(name, needs_of):
  for need in needs_of.values():
    if need.make is precompute.main:
      command = need.command(order_of(name, clip="clip.pt"))
      args = precompute.make_parser("").parse_args(needs.flags_of(command))
      precompute.complete(args)
      settings = precompute.settings_of(args)
      assert args.output.startswith("runs/x/") and settings.data_dir == "runs/x/data"
      if settings.proposals == "mvit":
        assert all((settings.checkpoint, settings.vocabulary, settings.merges))
    if need.make is retrieve.main:
      args = retrieve.make_parser("").parse_args(needs.flags_of(need.command(order_of(name))))
      retrieve.complete(args)
      assert args.output.startswith("runs/x/") and args.data_dir == "runs/x/data" and args.keep


def test_what_is_missing_is_named_with_its_command_and_download(tmp_path):
  order = order_of("coco", tmp_path, weights=f"{tmp_path}/weights")
  sentences = needs.missing(order, needs.needed(order, order.rows))
  assert [sentence.partition(" of ")[0] for sentence in sentences] == [
    *("Records", "Class embeddings", "The ImageNet ResNet-50", "Teachers' results"),
  ]
  assert "python -m rkd_jax.data.coco_ovd.coco_ovd" in sentences[0]
  assert sentences[2].endswith("weights/R-50.pkl (rkd-jax download r-50).")
  # With the weights there, it is made here.
  (tmp_path / "weights").mkdir()
  (tmp_path / "weights" / "R-50.pkl").touch()
  assert len(needs.missing(order, needs.needed(order, order.rows))) == 3


def test_rows_need_what_they_read_alone():
  lvis = order_of("lvis")
  assert {*needs.needed(lvis, [recipes.LVIS.row("rkd")])} == {"records", "teachers"}
  ils = needs.needed(lvis, [recipes.LVIS.row("ils")])
  assert [*ils] == ["imagenet_records", "imagenet_teachers"]


def test_a_closed_vocabulary_has_no_teachers(tmp_path):
  order = order_of("coco_json", tmp_path)
  file = tmp_path / "class_embeddings.npz"
  class_embeddings.save(file, ["a", "b"], class_embeddings.CLOSED, np.eye(2, 4))
  found = needs.missing(order, {"teachers": needs.NEEDS["coco_json"]["teachers"]})
  assert len(found) == 1 and "closed vocabulary" in found[0] and "--rows=base" in found[0]


@pytest.mark.door
def test_the_demo_makes_what_the_steps_by_hand_make(tmp_path, monkeypatch):
  """The same class embeddings to the bit, and teachers' results."""
  monkeypatch.chdir(tmp_path)
  root = build(tmp_path).relative_to(tmp_path)
  order = order_of("demo", root)
  (root / "class_embeddings.npz").unlink()
  for name in ("class_embeddings", "teachers"):
    need = needs.NEEDS["demo"][name]
    assert not need.is_there(order)
    need.make(needs.flags_of(need.command(order)))
    assert need.is_there(order)

  source = open_source(f"{root}/data", SCENES, "train_boxes")
  stored = class_embeddings.load(root / "class_embeddings.npz")
  assert stored.clip == "clip" and stored.names == source.class_names
  expected = class_embeddings.embed_classes(load_clip(root / "clip"), source.class_names)
  np.testing.assert_array_equal(stored.embeddings, expected)

  settings = Settings(
    Options(), data_dir=f"{root}/data", dataset=SCENES, clip=f"{root}/clip", batch_size=320
  )
  teachers = open_teachers(settings, "train_boxes")
  writer = TeacherWriter(
    "by_hand",
    "train_boxes",
    teachers.embedding_dim,
    teachers.metadata,
    class_names=source.class_names,
  )
  with process_pool(1) as pool:
    pipeline.precompute(*teachers[:4], writer, settings.options, pool)
  ours, by_hand = (
    TeacherReader(folder, "train_boxes") for folder in (f"{root}/teachers", "by_hand")
  )
  np.testing.assert_array_equal(ours.image_ids, by_hand.image_ids)
  for image_id in by_hand.image_ids:
    for key in FIELDS:
      np.testing.assert_array_equal(ours[image_id][key], by_hand[image_id][key])


def test_flags_of_commands():
  assert needs.flags_of(["rkd-jax", "embed-classes", "--a=1"]) == ["--a=1"]
  assert needs.flags_of(["python", "-m", "rkd_jax.x", "--a=1", "b"]) == ["--a=1", "b"]
