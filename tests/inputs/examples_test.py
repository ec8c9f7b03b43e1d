"""What one record becomes, and which records and specs are refused."""

import numpy as np
import pytest
from made_records import CAPTIONS, DIM, make_record, make_spec

from rkd_jax.inputs import examples
from rkd_jax.records.sources import decode_image


def _one(kind, record=None, **changes):
  """A batch of one record, not mirrored, at its own size (20 x 14)."""
  spec = make_spec(kind, short_sides=(14,), flip=False, batch_size=1, **changes)
  record = record or make_record(1)
  image = decode_image(record)
  rng = np.random.default_rng(0)
  return examples.collate([examples.detector_example(record, image, spec, rng)])


def test_ids_longer_than_31_bits_keep_the_lowest():
  batch = _one("image", make_record(1, image_id=5 * 2**31 + 7))
  assert batch.image_ids.dtype == np.int32 and batch.image_ids.tolist() == [7]


def test_box_batch_holds_ground_truth_without_crowds_and_regions_in_order():
  batch = _one("box")
  record = make_record(1)
  assert batch.images.shape == (1, 44, 44, 3) and batch.images.dtype == np.uint8
  np.testing.assert_array_equal(batch.images[0, :20, :14], decode_image(record))
  assert not batch.images[0, 20:].any() and not batch.images[0, :, 14:].any()
  assert batch.sizes.tolist() == batch.original_sizes.tolist() == [[20, 14]]
  assert batch.image_ids.tolist() == [101] and batch.valid.tolist() == [True]
  assert batch.ground_truth.valid.tolist() == [[True, True, False, False, False]]
  assert batch.ground_truth.classes.tolist() == [[3, 2, 0, 0, 0]]
  np.testing.assert_array_equal(batch.ground_truth.boxes[0, :2], record.boxes[[0, 2]])
  assert batch.regions.valid.tolist() == [[True, True, True, False, False]]
  np.testing.assert_array_equal(batch.regions.boxes[0, :3], record.region_boxes)
  np.testing.assert_array_equal(batch.regions.embeddings[0, :3], record.region_embeddings)
  assert batch.pseudo_boxes is None


def test_image_batch_holds_pseudo_boxes_and_no_ground_truth():
  batch = _one("image")
  assert batch.ground_truth is None
  assert batch.pseudo_boxes.classes.tolist() == [[5, 6, 0]]
  assert batch.pseudo_boxes.valid.tolist() == [[True, True, False]]
  np.testing.assert_array_equal(batch.pseudo_boxes.boxes[0, :2], make_record(1).pseudo_boxes)
  assert batch.regions.valid.sum() == 3


def test_only_the_first_regions_are_taken():
  batch = _one("box", max_regions=2)
  assert batch.regions.valid.tolist() == [[True, True]]
  np.testing.assert_array_equal(batch.regions.boxes[0], make_record(1).region_boxes[:2])


def test_zero_rows_leave_a_field_out():
  assert _one("box", max_regions=0).regions is None
  assert _one("image", max_labels=0).pseudo_boxes is None


def test_views_have_every_short_side_and_both_flips():
  spec = make_spec(short_sides=(10, 20), max_side=1000, flip=True)
  views = {spec.view((100, 200), np.random.default_rng(seed)) for seed in range(40)}
  assert {(view.size, bool(view.flip)) for view in views} == {
    ((10, 20), False),
    ((10, 20), True),
    ((20, 40), False),
    ((20, 40), True),
  }


def test_all_boxes_of_a_picture_move_with_it():
  same = np.array([[2, 3, 10, 12]], np.float32)
  record = make_record(
    0,
    boxes=same,
    classes=np.array([1]),
    is_crowd=np.array([False]),
    region_boxes=same,
    region_embeddings=np.ones((1, DIM), np.float32),
    pseudo_boxes=same,
  )
  image = decode_image(record)
  seen = set()
  for seed in range(12):
    boxed, imaged = (
      examples.detector_example(record, image, make_spec(kind), np.random.default_rng(seed))
      for kind in ("box", "image")
    )
    np.testing.assert_array_equal(boxed.images, imaged.images)
    box = tuple(boxed.ground_truth.boxes[0].tolist())
    assert box == tuple(boxed.regions.boxes[0].tolist()) == tuple(imaged.regions.boxes[0].tolist())
    assert box == tuple(imaged.pseudo_boxes.boxes[0].tolist())
    seen.add(box)
  assert len(seen) == 4  # two sizes, mirrored or not


def test_empty_ground_truth_is_dropped():
  boxes = np.array([[3, 3, 3, 9], [1, 1, 5, 5], [90, 1, 99, 5]], np.float32)
  batch = _one("box", make_record(1, boxes=boxes, is_crowd=np.zeros(3, bool)))
  assert batch.ground_truth.valid.sum() == 1
  assert batch.ground_truth.classes[0, 0] == 1


TRIANGLE = np.array([[1.0, 2], [9, 2], [9, 12]])


def _masks(batch):
  """Polygons of each valid row of a batch of one."""
  truth = batch.ground_truth
  rows = zip(truth.vertices[0], truth.owners[0], truth.valid[0])
  return [
    [vertices[owners == i].tolist() for i in range(owners.max() + 1)]
    for vertices, owners, valid in rows
    if valid
  ]


def test_polygons_go_with_their_boxes():
  """Box 1 is a crowd; without polygons an object is left out, as detectron2 does."""
  two = (TRIANGLE, TRIANGLE[:, ::-1])
  batch = _one("box", make_record(1, polygons=((TRIANGLE,), (), two)), max_vertices=8)
  assert batch.ground_truth.vertices.shape == (1, 5, 8, 2)
  assert _masks(batch) == [[TRIANGLE.tolist()], [polygon.tolist() for polygon in two]]
  assert (batch.ground_truth.owners[0, 2:] == -1).all()
  batch = _one("box", make_record(1, polygons=((), (), two)), max_vertices=8)
  assert batch.ground_truth.classes[0, 0] == 2 and len(_masks(batch)) == 1
  assert _one("box", make_record(1, polygons=((), (), two))).ground_truth.vertices is None


def test_polygons_move_with_the_picture():
  corners = np.array([[1.0, 2], [9, 2], [9, 12], [1, 12]])
  record = make_record(0, polygons=((corners,), (), (corners,)))
  image, seen = decode_image(record), set()
  for seed in range(12):
    spec = make_spec(max_vertices=4)
    truth = examples.detector_example(record, image, spec, np.random.default_rng(seed)).ground_truth
    found = [*truth.vertices[0].min(0), *truth.vertices[0].max(0)]
    np.testing.assert_allclose(found, truth.boxes[0], rtol=1e-6)
    seen.add(tuple(truth.boxes[0].tolist()))
  assert len(seen) == 4


def test_masks_need_polygons_and_room_for_a_triangle():
  with pytest.raises(ValueError, match=r"1\.png \(id 101\).*without polygons.*max_vertices"):
    _one("box", max_vertices=8)
  with pytest.raises(ValueError, match="max_vertices is 2"):
    make_spec(max_vertices=2)


def test_every_caption_of_an_image_is_drawn():
  record, spec = make_record(0), CAPTIONS
  image = decode_image(record)
  drawn = [
    examples.caption_example(record, image, spec, np.random.default_rng(seed)) for seed in range(20)
  ]
  assert {int(example.tokens[0]) for example in drawn} == {10, 15}


_NAN = {"region_embeddings": np.full((3, DIM), np.nan, np.float32)}


@pytest.mark.parametrize(
  ("kind", "record", "spec", "message"),
  [
    ("box", {}, {"max_boxes": 1}, r"1\.png \(id 101\) has 2 .* max_boxes = 1: raise max_boxes"),
    ("box", {}, {"canvas": (16, 44)}, r"1\.png \(id 101\) is 20 x 14.*enlarge the canvas"),
    ("box", {}, {"embedding_dim": 8}, r"clip_embeddings of 1\.png \(id 101\).*embedding_dim = 8"),
    ("box", _NAN, {}, r"clip_embeddings of 1\.png.*not finite"),
  ],
)
def test_bad_records_name_themselves_and_the_remedy(kind, record, spec, message):
  with pytest.raises(ValueError, match=message):
    _one(kind, make_record(1, **record), **spec)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"kind": "boxes"}, "kind is 'boxes'"),
    ({"kind": "caption"}, "needs a tokenizer"),
    ({"short_sides": ()}, "needs short_sides"),
    ({"kind": "eval", "flip": True}, "one short side and no flip"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"scale_groups": 3}, "scale_groups is 3; expected 1 up to .* short_sides, 2"),
  ],
)
def test_bad_specs_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    make_spec(**settings)
