"""The offline step on an engine: parts like those of the command, in any order and repeated."""

import importlib.util
import itertools
import sys

import pytest
import tiny_clip

from rkd_jax import precompute, records
from rkd_jax.data import builder
from rkd_jax.data.shapes_ovd import shapes_ovd
from rkd_jax.records.results import FIELDS, TeacherReader
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.records.sources import open_source
from rkd_jax.teachers import pipeline, ranges
from rkd_jax.teachers.region_growing import RegionGrowing
from rkd_jax.teachers.settings import Settings, Teachers
from tests import colours
from tests.colours import CLASS_EMBEDDINGS, OPTIONS, ColourEncoder, MemorySource

# Three shards, the last of them not full.
IMAGES = 130


@pytest.fixture
def write(tmp_path, monkeypatch):
  """Writes a range of seven images, in groups of two."""
  images = [colours.record(i) for i in range(7)]
  images[3] = colours.damaged(images[3])
  teachers = Teachers(
    MemorySource(images), RegionGrowing(), ColourEncoder(), CLASS_EMBEDDINGS, 3, {}
  )
  monkeypatch.setattr(ranges, "_open_teachers", lambda settings, split: teachers)
  monkeypatch.setattr(pipeline, "GROUP", 2)
  (tmp_path / "train").mkdir()

  def call(start, stop, done=()):
    return ranges.write_range(
      Settings(OPTIONS, "", "", ""), "train", str(tmp_path), (start, stop, done)
    )

  return call


def test_parts_written_one_by_one_are_a_split(tmp_path, write):
  # An engine may do a part twice.
  assert [write(4, 7), write(0, 4), write(0, 4)] == [3, 4, 4]
  assert sorted(path.name for path in (tmp_path / "train").iterdir()) == [
    f"part-beam-00000000{start}.{ending}" for start in (0, 4) for ending in ("array_record", "json")
  ]
  with TeacherWriter(tmp_path, "train", 3, {}) as writer:
    assert writer.positions == {i: i for i in range(7)}
  results = TeacherReader(tmp_path, "train")
  assert list(results.notes) == [3] and "3.png" in results.notes[3]["unreadable"]
  assert [len(results[i]["regions/boxes"]) for i in range(7)] == [2, 2, 2, 0, 2, 2, 2]


def test_what_is_done_is_not_written_again(tmp_path, write):
  assert write(0, 4, done=(1, 2)) == 2
  assert TeacherWriter(tmp_path, "train", 3, {}).positions == {0: 0, 3: 3}


def test_a_part_of_a_larger_size_replaces_none_of_those_before(tmp_path, write):
  assert write(0, 2) == 2
  assert write(0, 6, done=(0, 1)) == 4
  assert TeacherWriter(tmp_path, "train", 3, {}).positions == {i: i for i in range(6)}


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  builder.prepare(
    shapes_ovd.ShapesOvd(data_dir=root / "data", sizes={"train_images": IMAGES}, workers=1)
  )
  source = open_source(root / "data", "shapes_ovd/scenes", "train_images")
  texts = [f"a photo of a {name}" for name in source.class_names]
  clip = tiny_clip.write_run(tmp_path_factory.mktemp("clip"), texts)
  return [
    f"--data_dir={root / 'data'}",
    "--dataset=shapes_ovd/scenes",
    "--splits=train_images",
    f"--clip={clip}",
    "--batch_size=8",
    "--records_per_shard=64",
  ]


@pytest.mark.skipif(not importlib.util.find_spec("apache_beam"), reason="needs the extra 'beam'")
@pytest.mark.parametrize("mode", ["in_memory", "multi_processing"])
def test_the_direct_runner_gives_the_results_of_the_command(tmp_path, flags, mode):
  precompute.main([*flags, f"--output={tmp_path / 'alone'}", "--workers=1"])
  precompute.main(
    [
      *flags,
      f"--output={tmp_path / 'beam'}",
      f"--beam=--runner=DirectRunner --direct_num_workers=2 --direct_running_mode={mode}",
    ]
  )
  expected, results = (TeacherReader(tmp_path / n, "train_images") for n in ("alone", "beam"))
  assert len(results) == len(expected) == IMAGES
  assert results.metadata == expected.metadata
  source = open_source(flags[0].partition("=")[2], "shapes_ovd/scenes", "train_images")
  for i, key in itertools.product(range(IMAGES), FIELDS):
    image_id = source[i].image_id
    assert results[image_id][key].tobytes() == expected[image_id][key].tobytes()
  report = "train_images/report.json"
  assert (tmp_path / "beam" / report).read_text() == (tmp_path / "alone" / report).read_text()


def test_without_beam_the_command_says_what_to_install(tmp_path, flags, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  monkeypatch.delitem(sys.modules, "rkd_jax.records.on_beam", raising=False)
  monkeypatch.delattr(records, "on_beam", raising=False)
  with pytest.raises(SystemExit):
    precompute.main([*flags, f"--output={tmp_path}", "--beam="])
  assert "pip install apache-beam" in capsys.readouterr().err
