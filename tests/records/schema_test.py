import numpy as np
import pytest

from rkd_jax.records import schema


def _encode(**changes):
  arguments = {
    "image": b"png",
    "image_id": 7,
    "filename": "seven.png",
    "height": 50,
    "width": 100,
    "boxes": [[10, 5, 60, 45]],
    "classes": [1],
  }
  return schema.encode_record(**{**arguments, **changes})


def test_xyxy_pixels_become_normalised_yxyx():
  (only,) = _encode()["objects"]
  np.testing.assert_allclose(only["bbox"], [0.1, 0.1, 0.9, 0.6])
  assert only["label"] == 1
  assert only["id"] == 1
  assert only["area"] == 50 * 40
  assert only["is_crowd"] is False


def test_decode_boxes_inverts_encode_record():
  boxes = np.random.default_rng(0).uniform(0, 50, (20, 4)).astype(np.float32)
  boxes[:, 2:] += boxes[:, :2]
  example = _encode(boxes=boxes, classes=range(20), height=101, width=117)
  bbox = np.float32([item["bbox"] for item in example["objects"]])
  np.testing.assert_allclose(schema.decode_boxes(bbox, 101, 117), boxes, atol=1e-4)


def test_rounding_beyond_the_border_is_clipped():
  (only,) = _encode(boxes=[[-0.4, 0, 100.6, 50]])["objects"]
  np.testing.assert_array_equal(only["bbox"], [0, 0, 1, 1])


@pytest.mark.parametrize(
  "box",
  [
    [10, 5, np.nan, 45],
    [10, 5, np.inf, 45],
    [60, 5, 10, 45],
    [10, 5, 10, 45],
    [10, 5, 140, 45],
    [-30, 5, 20, 45],
    [100, 5, 100.9, 45],
  ],
)
def test_a_bad_box_is_an_error_that_names_image_and_box(box):
  with pytest.raises(ValueError, match=r"'seven\.png' \(id 7\): box 1 .*100×50"):
    _encode(boxes=[[10, 5, 60, 45], box], classes=[0, 1])


def test_boxes_without_classes_are_an_error():
  with pytest.raises(ValueError, match="1 boxes but 0 classes"):
    _encode(classes=[])


def test_an_example_has_the_fields_of_the_schema():
  assert set(schema.features(["a", "b"])) == set(_encode())


def test_polygons_keep_their_objects_and_two_decimals():
  rng = np.random.default_rng(0)
  polygons = [
    [np.round(rng.uniform(-3, 999, (5, 2)), 2), np.round(rng.uniform(0, 9, (3, 2)), 2)],
    [],
    [rng.integers(0, 5000, (4, 2)).astype(float)],
  ]
  example = _encode(boxes=[[1, 1, 9, 9]] * 3, classes=[0] * 3, polygons=polygons)
  assert example["polygons/vertices"].dtype == np.float32
  columns = (example[f"polygons/{name}"] for name in ("vertices", "lengths", "objects"))
  decoded = schema.decode_polygons(*columns, 3)
  assert [len(own) for own in decoded] == [2, 0, 1]
  for own, back in zip(polygons, decoded):
    for polygon, again in zip(own, back):
      np.testing.assert_array_equal(again, polygon)


def test_other_polygons_come_back_in_single_precision():
  polygon = np.random.default_rng(1).uniform(0, 999, (50, 2))
  example = _encode(polygons=[[polygon]])
  columns = (example[f"polygons/{name}"] for name in ("vertices", "lengths", "objects"))
  ((back,),) = schema.decode_polygons(*columns, 1)
  np.testing.assert_allclose(back, polygon, rtol=6e-8)


def test_optional_fields_are_in_the_schema_when_asked_for():
  labels = {"negative_labels": [1], "not_exhaustive_labels": []}
  example = _encode(polygons=[[]], federated=labels)
  assert set(schema.features(["a", "b"], polygons=True, federated=True)) == set(example)
  with pytest.raises(ValueError, match="1 boxes but polygons of 2 objects"):
    _encode(polygons=[[], []])
