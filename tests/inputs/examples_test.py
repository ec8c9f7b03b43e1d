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


def _labelled(**changes):
  """A record whose pseudo boxes are, in this order: on an annotated box, on a crowd, free three."""
  boxes = [[1, 2, 9, 12], [0, 0, 5, 5], [9, 0, 14, 5], [0, 14, 4, 20], [5, 0, 9, 2]]
  fields = {
    "pseudo_boxes": np.array(boxes, np.float32),
    "pseudo_labels": np.array([5, 5, 6, 5, 7], np.int32),
    "pseudo_scores": np.array([0.9, 0.9, 0.8, 0.4, 0.7], np.float32),
  }
  return make_record(1, **{**fields, **changes})


def test_pseudo_labels_stand_behind_the_ground_truth():
  record = _labelled()
  plain = _one("box", record).ground_truth
  assert plain.pseudo is None
  truth = _one("box", record, pseudo_labels=4).ground_truth
  for name in ("boxes", "classes", "valid"):
    np.testing.assert_array_equal(getattr(truth, name)[:, :5], getattr(plain, name))
  assert truth.pseudo.tolist() == [[False] * 5 + [True] * 4]
  assert truth.valid[0, 5:].tolist() == [True, True, True, False]
  assert truth.classes[0, 5:].tolist() == [6, 5, 7, 0]
  np.testing.assert_array_equal(truth.boxes[0, 5:8], record.pseudo_boxes[2:])
  np.testing.assert_array_equal(truth.scores[0, :8], np.float32([1, 1, 1, 1, 1, 0.8, 0.4, 0.7]))
  assert plain.scores is None


def test_only_the_first_pseudo_labels_above_the_bound_are_taken():
  truth = _one("box", _labelled(), pseudo_labels=1).ground_truth
  assert truth.classes[0, 5:].tolist() == [6]
  truth = _one("box", _labelled(), pseudo_labels=3, pseudo_label_score=0.4).ground_truth
  assert truth.classes[0, 5:].tolist() == [6, 7, 0]
  # Classes whose boxes are all annotated have no others.
  truth = _one("box", _labelled(), pseudo_labels=3, annotated=(1, 6)).ground_truth
  assert truth.classes[0, 5:].tolist() == [5, 7, 0]


def test_records_without_pseudo_boxes_have_rows_of_padding():
  none = {"pseudo_boxes": np.zeros((0, 4), np.float32), "pseudo_labels": np.zeros(0, np.int32)}
  record = make_record(1, **none, pseudo_scores=np.zeros(0, np.float32))
  truth = _one("box", record, pseudo_labels=2).ground_truth
  assert truth.valid[0].tolist() == [True, True, False, False, False, False, False]
  alone = {"boxes": np.zeros((0, 4), np.float32), "classes": np.zeros(0, np.int32)}
  record = _labelled(**alone, is_crowd=np.zeros(0, bool))
  assert _one("box", record, pseudo_labels=5).ground_truth.valid[0, 5:].all()


def test_pseudo_labels_move_with_the_picture():
  record = _labelled()
  spec = make_spec(short_sides=(28,), flip=True, pseudo_labels=3)
  seen = set()
  for seed in range(8):
    rng = np.random.default_rng(seed)
    truth = examples.detector_example(record, decode_image(record), spec, rng).ground_truth
    left = truth.boxes[5, 0]
    assert left == (0 if truth.boxes[0, 0] > 2 else 18)
    seen.add(float(left))
  assert seen == {0.0, 18.0}


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


def test_pseudo_labels_have_no_polygons():
  record = _labelled(polygons=((TRIANGLE,), (), (TRIANGLE,)))
  truth = _one("box", record, max_vertices=8, pseudo_labels=2).ground_truth
  assert truth.vertices.shape == (1, 7, 8, 2) and truth.valid[0, 5:].all()
  assert (truth.owners[0, :2] == 0).any(1).all() and (truth.owners[0, 5:] == -1).all()


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
