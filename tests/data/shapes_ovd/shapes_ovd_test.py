import io

import numpy as np
import pytest
from PIL import Image

from rkd_jax.data import builder, making
from rkd_jax.data.shapes_ovd import elsewhere, scenes, shapes_ovd, vocabulary
from rkd_jax.records import sources

SIZES = {"clip": 6, "train_boxes": 12, "train_images": 10, "tune": 4, "validation": 5}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  path = tmp_path_factory.mktemp("data")
  builder.prepare(shapes_ovd.ShapesOvd(data_dir=path, sizes=SIZES, workers=1))
  return path


def _records(data_dir, split):
  source = sources.open_source(data_dir, "shapes_ovd/scenes", split)
  return [source[i] for i in range(len(source))]


def _names(classes):
  return {vocabulary.CLASS_NAMES[c] for c in classes}


def test_records_come_back_as_the_scenes_were_made(data_dir):
  for index, record in enumerate(_records(data_dir, "validation")):
    scene = scenes.make_scene(0, "validation", index)
    annotated = [name not in vocabulary.OTHER for name in map(_class_name, scene.classes)]
    difference = sources.decode_image(record).astype(float) - scene.image
    assert np.abs(difference).mean() < 4  # JPEG
    np.testing.assert_allclose(record.boxes, scene.boxes[annotated], atol=1e-4)
    np.testing.assert_array_equal(record.classes, scene.classes[annotated])
    assert not record.is_crowd.any()
    assert (record.height, record.width) == (128, 128)


def _class_name(c):
  return vocabulary.CLASS_NAMES[c]


def test_a_scene_keeps_its_pixels_and_the_visible_areas():
  scene = scenes.make_scene(0, "tune", 1)
  fields = shapes_ovd.SceneEntry(0, "tune", 1).load()
  stored = np.asarray(Image.open(io.BytesIO(fields["image"]))).astype(float)
  assert stored.shape == scene.image.shape
  assert np.abs(stored - scene.image).mean() < 4
  seen = [np.sum(scene.owners == k + 1) for k in range(len(scene.classes))]
  annotated = [name not in vocabulary.OTHER for name in map(_class_name, scene.classes)]
  np.testing.assert_array_equal(fields["areas"], np.array(seen)[annotated])


def test_image_ids_are_unique_over_all_splits(data_dir):
  ids = [record.image_id for split in SIZES for record in _records(data_dir, split)]
  assert len(set(ids)) == sum(SIZES.values())


def test_train_boxes_annotates_base_only_though_novel_objects_are_in_view(data_dir):
  seen = set()
  for index, record in enumerate(_records(data_dir, "train_boxes")):
    scene = scenes.make_scene(0, "train_boxes", index)
    seen |= _names(scene.classes)
    assert _names(record.classes) == _names(scene.classes) & set(vocabulary.BASE)
    assert record.captions == ()
    assert len(record.labels) == 0
  assert seen & set(vocabulary.NOVEL)


def test_train_images_has_captions_and_their_labels_but_no_boxes(data_dir):
  for record in _records(data_dir, "train_images"):
    assert len(record.boxes) == len(record.classes) == 0
    named = {name for name in vocabulary.CLASS_NAMES if name in record.captions[0]}
    assert _names(record.labels) == named
    assert not named & set(vocabulary.OTHER)


def test_metadata_reaches_the_reader(data_dir):
  source = sources.open_source(data_dir, "shapes_ovd/scenes", "train_boxes")
  assert source.class_names == vocabulary.CLASS_NAMES
  assert (source.base, source.novel) == (vocabulary.BASE, vocabulary.NOVEL)
  assert not source.has_all_boxes
  assert sources.open_source(data_dir, "shapes_ovd/scenes", "tune").has_all_boxes


def test_number_of_workers_changes_nothing(data_dir, tmp_path, monkeypatch):
  monkeypatch.setattr(making, "WORTH_A_POOL", 1)
  builder.prepare(shapes_ovd.ShapesOvd(data_dir=tmp_path, sizes=SIZES, workers=2))
  for split in SIZES:
    for one, many in zip(_records(data_dir, split), _records(tmp_path, split), strict=True):
      assert one.image == many.image
      np.testing.assert_array_equal(one.boxes, many.boxes)


def test_building_twice_with_the_same_settings_reuses(data_dir):
  (shard,) = data_dir.glob("shapes_ovd/scenes/*/*tune.array_record*")
  before = shard.stat().st_mtime_ns
  builder.prepare(shapes_ovd.ShapesOvd(data_dir=data_dir, sizes=SIZES))
  assert shard.stat().st_mtime_ns == before


@pytest.mark.parametrize(
  "change, message",
  [
    ({"seed": 1}, r"seed is \d+, asked for 1"),
    ({"sizes": {**SIZES, "tune": 5}}, r"sizes\.tune is \d+, asked for 5"),
  ],
)
def test_other_settings_are_refused_and_named(data_dir, change, message):
  with pytest.raises(ValueError, match=message):
    builder.prepare(shapes_ovd.ShapesOvd(data_dir=data_dir, **{"sizes": SIZES, **change}))


@pytest.mark.parametrize("sizes", [{"train": 5}, {"tune": 0}])
def test_wrong_sizes_are_refused(tmp_path, sizes):
  with pytest.raises(ValueError, match=r"sizes: .* positive number of scenes .*train_boxes"):
    builder.prepare(shapes_ovd.ShapesOvd(data_dir=tmp_path, sizes=sizes))


def test_sizes_at_scales_every_split():
  assert shapes_ovd.sizes_at(1) == shapes_ovd.KINDS["scenes"].sizes
  assert shapes_ovd.sizes_at(0.1)["train_boxes"] == 240
  assert min(shapes_ovd.sizes_at(1e-6).values()) == 4
  assert shapes_ovd.sizes_at(0.1, "elsewhere") == {"tune": 10, "validation": 40}


def test_fingerprints_depend_on_the_seed_and_the_kind():
  found = [kind.fingerprint(seed) for kind in shapes_ovd.KINDS.values() for seed in (0, 0, 1)]
  assert len(set(found)) == 2 * len(shapes_ovd.KINDS)


def test_the_scenes_of_earlier_versions_stay():
  assert shapes_ovd.KINDS["scenes"].fingerprint(0) == "9fcc0d7baf7096c2"


def test_elsewhere_has_boxes_of_all_its_classes_which_are_novel(tmp_path):
  shapes_ovd.main([f"--data_dir={tmp_path}", "--name=elsewhere", "--scale=0.01", "--workers=1"])
  source = sources.open_source(tmp_path, "shapes_ovd/elsewhere", "validation")
  assert source.class_names == source.novel == elsewhere.CLASS_NAMES
  assert source.base == () and source.has_all_boxes and len(source) == 4
  for index in range(len(source)):
    scene, record = elsewhere.make_scene(0, "validation", index), source[index]
    np.testing.assert_allclose(record.boxes, scene.boxes, atol=1e-4)
    np.testing.assert_array_equal(record.classes, scene.classes)
    assert (record.height, record.width) == scene.image.shape[:2]
    assert record.captions == () and len(record.labels) == 0 and record.image_id > 10_000_000


def test_what_there_is_not_is_named(tmp_path):
  with pytest.raises(ValueError, match="no 'nowhere'; it has scenes, elsewhere, concepts"):
    shapes_ovd.ShapesOvd(data_dir=tmp_path, config="nowhere")
  with pytest.raises(ValueError, match=r"'clip': 5 is not .* the splits tune, validation"):
    shapes_ovd.ShapesOvd(data_dir=tmp_path, config="elsewhere", sizes={"clip": 5})
