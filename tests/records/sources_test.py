import dataclasses
import io
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from rkd_jax.data import builder
from rkd_jax.data.shapes_ovd import shapes_ovd
from rkd_jax.records import sources


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  path = tmp_path_factory.mktemp("data")
  builder.prepare(shapes_ovd.ShapesOvd(data_dir=path, sizes={"tune": 12, "clip": 2}))
  return path


@pytest.fixture
def source(data_dir):
  return sources.open_source(data_dir, "shapes_ovd/scenes", "tune")


def _with_image(record, image, **save):
  buffer = io.BytesIO()
  image.save(buffer, **save)
  return dataclasses.replace(
    record, image=buffer.getvalue(), height=image.height, width=image.width, filename="x.img"
  )


def test_types_and_shapes_also_of_empty_fields(source):
  record = source[0]
  count = len(record.classes)
  assert record.boxes.shape == (count, 4)
  assert record.boxes.dtype == record.areas.dtype == np.float32
  assert record.classes.dtype == record.labels.dtype == np.int32
  assert record.region_boxes.shape == record.pseudo_boxes.shape == (0, 4)
  assert record.region_embeddings.shape == (0, 0)
  assert record.captions == ()
  assert record.filename == "tune_000000.jpg"


def test_random_access_from_many_threads_gives_the_same_records(source):
  expected = [source[i].image_id for i in range(len(source))]
  order = np.random.default_rng(0).integers(0, len(source), 200)
  with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda i: source[int(i)].image_id, order))
  assert found == [expected[i] for i in order]


@pytest.mark.parametrize("index", [-1, 12])
def test_index_outside_is_an_index_error(source, index):
  with pytest.raises(IndexError, match="shapes_ovd/scenes/tune, which has 12"):
    source[index]


def test_a_data_set_that_is_not_built_names_the_command_and_what_is_there(data_dir):
  with pytest.raises(ValueError, match="found: shapes_ovd/scenes") as error:
    sources.open_source(data_dir, "coco_ovd/plain", "tune")
  assert f"python -m rkd_jax.data.coco_ovd.coco_ovd --data_dir={data_dir}" in str(error.value)
  with pytest.raises(ValueError, match="no data set 'shapes' under"):
    sources.open_source(data_dir, "shapes", "tune")


@pytest.mark.parametrize("file", ["*-tune.array_record-*", "metadata.json", "dataset_info.json"])
def test_damaged_files_name_the_folder_and_the_remedy(data_dir, tmp_path, file):
  shutil.copytree(data_dir, tmp_path / "data")
  (path,) = (tmp_path / "data").glob(f"shapes_ovd/scenes/*/{file}")
  if file == "metadata.json":
    path.unlink()
  else:
    os.truncate(path, path.stat().st_size // 2)
  with pytest.raises(
    ValueError, match=rf"{path.parent} is damaged or cut off .*build the data set"
  ):
    sources.open_source(tmp_path / "data", "shapes_ovd/scenes", "tune")[0]


def test_what_a_killed_build_left_is_not_opened(data_dir, source):
  left = data_dir / "shapes_ovd/scenes/incomplete.ABC123_9.0.0"
  left.mkdir()
  (left / "dataset_info.json").write_text("{}")
  assert len(sources.open_source(data_dir, "shapes_ovd/scenes", "tune")) == len(source)


def test_unknown_split_names_those_that_exist(data_dir):
  with pytest.raises(ValueError, match="no split 'test'; it has clip, tune"):
    sources.open_source(data_dir, "shapes_ovd/scenes", "test")


@pytest.mark.parametrize("length", [0, 10, 400])
def test_a_truncated_image_is_an_error_that_names_it(source, length):
  record = source[3]
  broken = dataclasses.replace(record, image=record.image[:length])
  with pytest.raises(ValueError, match=rf"tune_000003\.jpg.*{record.image_id}.*scenes/tune"):
    sources.decode_image(broken)


def test_an_image_of_another_size_than_recorded_is_an_error(source):
  record = dataclasses.replace(source[0], width=100)
  with pytest.raises(ValueError, match="128×128 pixels but recorded as 100×128"):
    sources.decode_image(record)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_any_png_mode_becomes_rgb(source, mode):
  image = Image.new("RGB", (5, 4), (200, 200, 200)).convert(mode)
  pixels = sources.decode_image(_with_image(source[0], image, format="PNG"))
  assert pixels.shape == (4, 5, 3)
  assert pixels.dtype == np.uint8
  assert (pixels[..., 0] == pixels[..., 2]).all()


def test_cmyk_jpeg_becomes_rgb(source):
  image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
  pixels = sources.decode_image(_with_image(source[0], image, format="JPEG"))
  assert pixels[..., 0].mean() > 200
  assert pixels[..., 1:].mean() < 60
