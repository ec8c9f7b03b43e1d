"""Records joined with results of teachers by image id: what fits, is missing, or is foreign."""

import dataclasses
import pickle

import numpy as np
import pytest
from made_results import DIM, results

from rkd_jax.data import builder
from rkd_jax.data.shapes_ovd import shapes_ovd
from rkd_jax.records import index as index_lib
from rkd_jax.records.joined import join
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.records.sources import open_source, select

NAME = "shapes_ovd/scenes"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  path = tmp_path_factory.mktemp("data")
  builder.prepare(
    shapes_ovd.ShapesOvd(data_dir=path, sizes={"train_images": 6, "tune": 2}, workers=1)
  )
  return path


@pytest.fixture
def source(data_dir):
  return open_source(data_dir, NAME, "train_images")


def _teach(folder, source, left_out=(), checksum=True, **settings):
  """Results in the opposite order; image i has i pseudo boxes."""
  with TeacherWriter(folder, source.split, DIM, {}, **settings) as writer:
    for number in reversed(range(len(source))):
      if number not in left_out:
        record = source[number]
        known = index_lib.checksum(record.image) if checksum else -1
        writer.write(record.image_id, results(record.image_id, labels=number), checksum=known)
  return folder


def test_each_record_gets_the_result_of_its_image(source, tmp_path):
  joined = join(source, _teach(tmp_path, source), DIM)
  assert len(joined) == len(source) and joined.name == source.name
  for record, plain in zip(joined, source, strict=True):
    expected = results(record.image_id, labels=len(record.pseudo_labels))
    np.testing.assert_array_equal(record.region_boxes, expected["regions/boxes"])
    np.testing.assert_array_equal(record.region_embeddings, expected["regions/clip_embeddings"])
    np.testing.assert_array_equal(record.region_scores, expected["regions/scores"])
    np.testing.assert_array_equal(record.pseudo_boxes, expected["pseudo_boxes/boxes"])
    np.testing.assert_array_equal(record.pseudo_labels, expected["pseudo_boxes/labels"])
    np.testing.assert_array_equal(record.pseudo_scores, expected["pseudo_boxes/scores"])
    assert record.pseudo_labels.dtype == np.int32
    bare = {
      field.name: field.default_factory()
      for field in dataclasses.fields(record)
      if field.name.startswith(("region_", "pseudo_"))
    }
    assert pickle.dumps(dataclasses.replace(record, **bare)) == pickle.dumps(plain)


def test_the_index_counts_the_pseudo_boxes_of_the_results(source, tmp_path):
  joined = join(source, _teach(tmp_path, source), DIM)
  assert joined.index.num_pseudo_boxes.tolist() == list(range(6))
  assert joined.index.image_ids.tolist() == [record.image_id for record in source]
  chosen = select(joined, "pseudo_boxes")
  assert [len(record.pseudo_labels) for record in chosen] == [1, 2, 3, 4, 5]
  with pytest.raises(ValueError, match=r"none of the 6 records of .* has pseudo boxes"):
    select(source, "pseudo_boxes")


def test_several_folders_fit_one_set_of_records(source, tmp_path):
  first = join(source, _teach(tmp_path / "a", source), DIM)
  halved = join(source, _teach(tmp_path / "b", source, embedding_dtype="float16"), DIM)
  one, other = first[3].region_embeddings, halved[3].region_embeddings
  assert one.dtype == other.dtype == np.float32
  assert (one != other).any() and np.allclose(one, other, rtol=2**-11)


def test_missing_results_are_counted_and_the_command_named(source, data_dir, tmp_path):
  _teach(tmp_path, source, left_out=(1, 4))
  with pytest.raises(ValueError, match="no results for 2 of the 6 images") as error:
    join(source, tmp_path, DIM)
  assert f"such as image {source[1].image_id}" in str(error.value)
  assert (
    f"python -m rkd_jax.precompute --data_dir={data_dir} --dataset={NAME} --splits=train_images "
    f"--clip=CLIP --output={tmp_path}"
  ) in str(error.value)


def test_images_without_results_are_left_out_on_request_with_a_count(source, tmp_path, caplog):
  joined = join(source, _teach(tmp_path, source, left_out=(1, 4)), DIM, skip_missing=True)
  assert "Left out 2 of 6 images" in caplog.text
  assert [record.image_id for record in joined] == [source[i].image_id for i in (0, 2, 3, 5)]
  assert joined.index.num_pseudo_boxes.tolist() == [0, 2, 3, 5]
  for record in joined:
    expected = results(record.image_id, labels=len(record.pseudo_labels))
    np.testing.assert_array_equal(record.region_boxes, expected["regions/boxes"])


@pytest.mark.parametrize("skip_missing", [False, True])
def test_results_of_other_image_ids_are_foreign(source, data_dir, tmp_path, skip_missing):
  other = open_source(data_dir, NAME, "tune")
  with TeacherWriter(tmp_path, "train_images", DIM, {}) as writer:
    for record in other:
      writer.write(record.image_id, results(record.image_id))
  with pytest.raises(
    ValueError, match=r"another data set: none of its 2 results is for one of the 6 images"
  ):
    join(source, tmp_path, DIM, skip_missing=skip_missing)


@pytest.mark.parametrize("skip_missing", [False, True])
def test_results_of_other_images_with_the_same_ids_are_foreign(source, tmp_path, skip_missing):
  builder.prepare(
    shapes_ovd.ShapesOvd(data_dir=tmp_path / "data", sizes={"train_images": 4}, seed=1, workers=1)
  )
  other = open_source(tmp_path / "data", NAME, "train_images")
  with pytest.raises(
    ValueError,
    match=r"of its 4 results 4 have an image id .*6 images\), but 4 were made for another image",
  ):
    join(source, _teach(tmp_path / "teachers", other), DIM, skip_missing=skip_missing)


def test_results_that_know_no_checksums_are_taken_by_id(source, tmp_path):
  assert len(join(source, _teach(tmp_path, source, checksum=False), DIM)) == 6


def test_another_width_is_refused_where_embeddings_are_used(source, tmp_path):
  _teach(tmp_path, source)
  with pytest.raises(ValueError, match=r"6 wide, model\.classifier\.embedding_dim is 512"):
    join(source, tmp_path, 512)
  assert len(join(source, tmp_path, None)) == 6


def test_labels_of_other_classes_are_refused_where_they_are_used(source, tmp_path):
  names = ("cat", *source.class_names[1:])
  _teach(tmp_path, source, class_names=names)
  with pytest.raises(ValueError, match=rf"class 0 is 'cat'; in .* it is '{source.class_names[0]}'"):
    join(source, tmp_path, DIM)
  assert len(join(source, tmp_path, DIM, labels=False)) == 6
  _teach(tmp_path / "same", source, class_names=source.class_names)
  assert len(join(source, tmp_path / "same", DIM)) == 6


def test_results_that_are_not_there_or_not_complete_are_named(source, tmp_path):
  with pytest.raises(ValueError, match=r"metadata\.json is missing.*--splits=train_images"):
    join(source, tmp_path, DIM)
  writer = TeacherWriter(tmp_path, "train_images", DIM, {}, records_per_shard=1)
  writer.write(source[0].image_id, results(1))
  with pytest.raises(ValueError, match=r"only 1 results are there.*--splits=train_images"):
    join(source, tmp_path, DIM)


@pytest.mark.parametrize("writable", [True, False])
def test_an_index_of_an_earlier_version_gets_image_ids_once(tmp_path, monkeypatch, writable):
  builder.prepare(
    shapes_ovd.ShapesOvd(data_dir=tmp_path / "data", sizes={"train_images": 3}, workers=1)
  )
  source = open_source(tmp_path / "data", NAME, "train_images")
  folder = _teach(tmp_path / "teachers", source)
  (built,) = tmp_path.glob("data/shapes_ovd/scenes/*")
  new = index_lib.load(built, "train_images")
  index_lib.save(built, "train_images", dataclasses.replace(new, image_ids=None, checksums=None))
  if not writable:

    def refuse(*_):
      raise PermissionError

    monkeypatch.setattr(index_lib, "save", refuse)
  again = open_source(tmp_path / "data", NAME, "train_images")
  assert again.index.image_ids is None
  joined = join(again, folder, DIM)
  assert joined.index.image_ids.tolist() == new.image_ids.tolist()
  stored = index_lib.load(built, "train_images")
  assert (stored.image_ids is not None) == writable
  if writable:
    np.testing.assert_array_equal(stored.checksums, new.checksums)
