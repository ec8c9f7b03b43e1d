import numpy as np
import pytest

from rkd_jax.data.shapes_ovd import scenes, shapes_ovd, vocabulary
from rkd_jax.records import sources
from rkd_jax.records.results import TeacherWriter

SIZES = {"clip": 6, "train_boxes": 12, "train_images": 10, "tune": 4, "validation": 5}
DIM = 8


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  path = tmp_path_factory.mktemp("data")
  shapes_ovd.build(path, "scenes", sizes=SIZES, embedding_dim=DIM, workers=1)
  return path


def _records(data_dir, split, config="scenes"):
  source = sources.open_source(data_dir, f"shapes_ovd/{config}", split)
  return [source[i] for i in range(len(source))]


def _names(classes):
  return {vocabulary.CLASS_NAMES[c] for c in classes}


def _write_teachers(folder, data_dir, salt=0.0, skip=()):
  for split in SIZES:
    with TeacherWriter(folder, split, DIM, {"salt": salt}) as writer:
      for record in _records(data_dir, split):
        if record.image_id in skip:
          continue
        rng = np.random.default_rng(record.image_id)
        writer.write(
          record.image_id,
          {
            "regions/boxes": np.array([[1, 2, 30.5, 40], [5, 6, 70, 80]], np.float32),
            "regions/scores": np.array([0.9, 0.5], np.float32),
            "regions/clip_embeddings": rng.normal(size=(2, DIM)).astype(np.float32) + salt,
            "pseudo_boxes/boxes": np.tile(np.float32([3, 4, 50, 60]), (len(record.labels), 1)),
            "pseudo_boxes/labels": record.labels.astype(np.int64),
            "pseudo_boxes/scores": np.full(len(record.labels), 0.25, np.float32),
          },
        )
  return folder


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
  assert source.embedding_dim == DIM
  assert not source.has_all_boxes
  assert sources.open_source(data_dir, "shapes_ovd/scenes", "tune").has_all_boxes


def test_number_of_workers_changes_nothing(data_dir, tmp_path, monkeypatch):
  monkeypatch.setattr(shapes_ovd, "_SCENES_WORTH_A_POOL", 1)
  shapes_ovd.build(tmp_path, "scenes", sizes=SIZES, embedding_dim=DIM, workers=2)
  for split in SIZES:
    for one, many in zip(_records(data_dir, split), _records(tmp_path, split), strict=True):
      assert one.image == many.image
      np.testing.assert_array_equal(one.boxes, many.boxes)


def test_building_twice_with_the_same_settings_reuses(data_dir):
  (shard,) = data_dir.glob("shapes_ovd/scenes/*/*tune*")
  before = shard.stat().st_mtime_ns
  shapes_ovd.build(data_dir, "scenes", sizes=SIZES, embedding_dim=DIM)
  assert shard.stat().st_mtime_ns == before


@pytest.mark.parametrize(
  "change", [{"seed": 1}, {"sizes": {**SIZES, "tune": 5}}, {"embedding_dim": 16}]
)
def test_other_settings_are_refused_and_named(data_dir, change):
  settings = {"sizes": SIZES, "embedding_dim": DIM, **change}
  with pytest.raises(ValueError, match=rf"{next(iter(change))} is .* asked for"):
    shapes_ovd.build(data_dir, "scenes", **settings)


def test_rkd_joins_the_teachers_by_image_id(data_dir, tmp_path):
  teachers = _write_teachers(tmp_path / "teachers", data_dir)
  shapes_ovd.build(data_dir, "rkd", teachers=teachers, embedding_dim=DIM)
  assert "clip" in SIZES
  with pytest.raises(ValueError, match="no split 'clip'"):
    sources.open_source(data_dir, "shapes_ovd/rkd", "clip")
  for split in ("train_boxes", "train_images", "tune", "validation"):
    plain, joined = _records(data_dir, split), _records(data_dir, split, "rkd")
    for before, after in zip(plain, joined, strict=True):
      assert after.image == before.image
      np.testing.assert_allclose(after.boxes, before.boxes, atol=1e-4)
      np.testing.assert_array_equal(after.areas, before.areas)
      expected = np.random.default_rng(after.image_id).normal(size=(2, DIM)).astype(np.float32)
      np.testing.assert_array_equal(after.region_embeddings, expected)
      np.testing.assert_array_equal(after.region_boxes[0], np.float32([1, 2, 30.5, 40]))
      np.testing.assert_array_equal(after.pseudo_labels, before.labels)
      assert after.pseudo_boxes.shape == (len(before.labels), 4)
      assert len(before.region_boxes) == 0
  other = _write_teachers(tmp_path / "others", data_dir, salt=1.0)
  with pytest.raises(ValueError, match="teachers is"):
    shapes_ovd.build(data_dir, "rkd", teachers=other, embedding_dim=DIM)


def test_rkd_without_the_scenes_names_the_command(tmp_path):
  with pytest.raises(ValueError, match=r"scenes first: python -m rkd_jax\.data\.shapes_ovd"):
    shapes_ovd.build(tmp_path, "rkd", teachers=tmp_path, embedding_dim=DIM)


def test_rkd_without_teachers_names_the_command(data_dir):
  with pytest.raises(ValueError, match=r"teachers=FOLDER.*rkd_jax\.precompute"):
    shapes_ovd.build(data_dir, "rkd", embedding_dim=DIM)


def test_teachers_are_optional_for_evaluation_splits_only(tmp_path):
  shapes_ovd.build(tmp_path, "scenes", sizes={"train_boxes": 1, "tune": 2}, embedding_dim=DIM)
  teachers = tmp_path / "teachers"
  with pytest.raises(ValueError, match=r"train_boxes.*rkd_jax\.precompute"):
    shapes_ovd.build(tmp_path, "rkd", teachers=teachers, embedding_dim=DIM)
  (record,) = _records(tmp_path, "train_boxes")
  with TeacherWriter(teachers, "train_boxes", DIM, {}) as writer:
    writer.write(record.image_id, shapes_ovd.schema.no_teacher(DIM))
  shapes_ovd.build(tmp_path, "rkd", teachers=teachers, embedding_dim=DIM)
  assert [len(r.region_boxes) for r in _records(tmp_path, "tune", "rkd")] == [0, 0]


def test_an_image_the_teachers_have_not_seen_is_named(tmp_path):
  sizes = {"tune": 2, "clip": 1}
  shapes_ovd.build(tmp_path, "scenes", sizes=sizes, embedding_dim=DIM)
  missing = _records(tmp_path, "tune")[1].image_id
  with TeacherWriter(tmp_path / "teachers", "tune", DIM, {}) as writer:
    writer.write(_records(tmp_path, "tune")[0].image_id, shapes_ovd.schema.no_teacher(DIM))
  with pytest.raises(ValueError, match=str(missing)):
    shapes_ovd.build(tmp_path, "rkd", teachers=tmp_path / "teachers", embedding_dim=DIM)


@pytest.mark.parametrize("sizes", [{"train": 5}, {"tune": 0}])
def test_wrong_sizes_are_refused(tmp_path, sizes):
  with pytest.raises(ValueError, match=r"sizes: .* positive number of scenes .*train_boxes"):
    shapes_ovd.build(tmp_path, "scenes", sizes=sizes)


def test_sizes_at_scales_every_split():
  assert shapes_ovd.sizes_at(1) == shapes_ovd.DEFAULT_SIZES
  assert shapes_ovd.sizes_at(0.1)["train_boxes"] == 240
  assert min(shapes_ovd.sizes_at(1e-6).values()) == 4
