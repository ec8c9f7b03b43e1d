"""Sheets of training batches, one a step: what is drawn where, and in which colour."""

import io
import types

import numpy as np
import pytest
import tiny_coco
from PIL import Image, ImageColor

from rkd_jax import show
from rkd_jax.configs import common
from rkd_jax.records import decoding
from rkd_jax.structures import Batch, GroundTruth, PseudoBoxes, Regions

NAMES = ("cat", "dog")


def _boxes(*boxes):
  return np.array([boxes], np.float32)


def _batch(**fields):
  """One grey image of 60x80 pixels on a canvas of 96x112."""
  images = np.zeros((1, 96, 112, 3), np.uint8)
  images[:, :60, :80] = 90
  return Batch(
    images=images,
    sizes=np.array([[60, 80]]),
    original_sizes=np.array([[30, 40]]),
    image_ids=np.array([7]),
    valid=np.array([True]),
    **fields,
  )


# The second is never valid.
BOXES = _boxes([10, 30, 50, 55], [65, 35, 78, 50])


VALID = np.array([[True, False]])


def _truth(**masks):
  return GroundTruth(boxes=BOXES, classes=np.array([[1, 0]]), valid=VALID, **masks)


def _is(picture, colour):
  return (picture == np.array(ImageColor.getrgb(colour), np.uint8)).all(-1)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  root = tmp_path_factory.mktemp("show")
  tiny_coco.build_data(root)
  return tiny_coco.get_config(str(root))


def test_a_sheet_for_every_step(config, tmp_path, capsys):
  """Two of the three photographs lie; a step of one kind is the same from wherever it starts."""
  config.data.box.canvas = (32, 64)
  show.show(config, str(tmp_path / "a"), 0, 6, 128)
  files = sorted((tmp_path / "a").iterdir())
  assert [file.name for file in files] == [f"step{step:07d}_box.png" for step in range(6)]
  assert capsys.readouterr().out.split() == [str(file) for file in files]
  assert len({Image.open(file).size for file in files}) == 2
  show.show(config, str(tmp_path / "b"), 5, 1, 128)
  (again,) = (tmp_path / "b").iterdir()
  assert again.read_bytes() == files[5].read_bytes()


def test_a_bad_image_is_skipped_or_ends_the_command(config, tmp_path, monkeypatch, caplog):
  config = config.copy_and_resolve_references()
  monkeypatch.setattr("rkd_jax.records.decoding._decode", _fail_on_the_first(decoding._decode))
  given = types.SimpleNamespace(config=config, output=str(tmp_path), step=0, steps=2, cell=128)
  with pytest.raises(SystemExit, match=r"0\.jpg.*--skip_bad_images"):
    show.main(given)
  config.skip_bad_images = True
  show.main(given)
  assert len(list(tmp_path.iterdir())) == 2 and "Skipped bad image (1 so far)" in caplog.text


def _fail_on_the_first(decode):
  def decoded(stream, length, name, *more):
    return decode(io.BytesIO() if "'0.jpg'" in name else stream, length, name, *more)

  return decoded


def test_only_detectors_are_drawn(tmp_path):
  with pytest.raises(ValueError, match="trains task 'clip'"):
    show.show(common.clip(), str(tmp_path), 0, 1, 128)


@pytest.mark.parametrize(
  ("kind", "field"),
  [
    ("ground truth", {"ground_truth": _truth()}),
    ("pseudo box", {"pseudo_boxes": PseudoBoxes(BOXES, np.array([[0, 1]]), VALID)}),
    ("region", {"regions": Regions(BOXES, np.zeros((1, 2, 3)), VALID)}),
  ],
)
def test_valid_boxes_are_drawn_in_the_colour_of_their_kind(kind, field):
  picture = show.draw_image(_batch(**field), 0, NAMES, min_side=96)
  painted = _is(picture, show.COLOURS[kind])
  assert painted[55, 10:51].all() and painted[30:56, 50].all()
  assert not painted[:, 60:].any()
  assert not any(_is(picture, c).any() for other, c in show.COLOURS.items() if other != kind)


def test_pseudo_labels_among_the_ground_truth_have_the_colour_of_pseudo_boxes():
  vertices, owners = np.zeros((1, 2, 4, 2), np.float32), np.full((1, 2, 4), -1)
  for masks in ({}, {"vertices": vertices, "owners": owners}):
    batch = _batch(ground_truth=_truth(**masks, pseudo=np.array([[True, True]])))
    picture = show.draw_image(batch, 0, NAMES, min_side=96)
    assert _is(picture, show.COLOURS["pseudo box"])[55, 10:51].all()
    assert not _is(picture, show.COLOURS["ground truth"]).any()
  sheet = show.draw_batch(batch, NAMES, "a step", 640)
  plain = show.draw_batch(_batch(ground_truth=_truth()), NAMES, "a step", 640)
  legend = [_is(own[: len(own) - 480], show.COLOURS["pseudo box"]).any() for own in (sheet, plain)]
  assert legend == [True, False]


def test_padding_is_hatched():
  picture = show.draw_image(_batch(), 0, NAMES, min_side=96)
  assert (picture[:60, :80] == 90).all() and picture.shape == (96, 112, 3)
  outside = np.concatenate([picture[60:].reshape(-1, 3), picture[:60, 80:].reshape(-1, 3)])
  assert {*map(tuple, outside)} == {tuple(colour) for colour in show.PADDING}


def test_masks_are_painted_within_their_polygons():
  """The lower left half of the box, of three vertices and one of padding."""
  vertices, owners = np.zeros((1, 2, 4, 2), np.float32), np.full((1, 2, 4), -1)
  vertices[0, 0, :3], owners[0, 0, :3] = [[10, 32], [10, 55], [50, 55]], 0
  batch = _batch(ground_truth=_truth(vertices=vertices, owners=owners))
  picture = show.draw_image(batch, 0, NAMES, min_side=96)
  assert (picture[48, 20] != 90).all() and (picture[38, 44] == 90).all()
