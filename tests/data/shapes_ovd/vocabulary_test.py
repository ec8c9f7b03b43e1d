from collections import Counter

from rkd_jax.data.shapes_ovd import vocabulary
from rkd_jax.data.shapes_ovd.shapes import silhouette


def _look(name):
  return name.rsplit(" ", 1)[0]


def _shape(name):
  return name.rsplit(" ", 1)[1]


def test_counts_are_those_of_open_vocabulary_coco():
  assert len(set(vocabulary.CLASS_NAMES)) == 80
  assert (len(vocabulary.BASE), len(vocabulary.NOVEL), len(vocabulary.OTHER)) == (48, 17, 15)


def test_splits_partition_the_names():
  parts = vocabulary.BASE + vocabulary.NOVEL + vocabulary.OTHER
  assert sorted(parts) == sorted(vocabulary.CLASS_NAMES)


def test_novel_shapes_are_held_out_whole():
  assert {_shape(name) for name in vocabulary.NOVEL} == {"star", "heart", "fish"}
  assert not {_shape(name) for name in vocabulary.BASE} & {
    _shape(name) for name in vocabulary.NOVEL + vocabulary.OTHER
  }


def test_the_look_alone_gives_no_name_away():
  looks = Counter(map(_look, vocabulary.CLASS_NAMES))
  assert looks == {" ".join(look): len(vocabulary.SHAPES) for look in vocabulary.LOOKS}
  base = Counter(map(_look, vocabulary.BASE))
  assert all(base[_look(name)] == len(vocabulary.BASE_SHAPES) for name in vocabulary.NOVEL)


def test_class_order_is_fixed_and_mixes_the_splits():
  assert vocabulary.CLASS_NAMES[:3] == (
    "solid red circle",
    "striped green house",
    "solid yellow fish",
  )
  for start in range(0, 80, 20):
    part = set(vocabulary.CLASS_NAMES[start : start + 20])
    assert part & set(vocabulary.BASE)
    assert part & set(vocabulary.NOVEL)


def test_every_shape_has_its_own_silhouette():
  assert len({silhouette(shape).tobytes() for shape in vocabulary.SHAPES}) == 10


def test_turning_a_silhouette_by_20_degrees_cuts_nothing_off():
  for shape in vocabulary.SHAPES:
    for angle in (-20, 20):
      left, top, right, bottom = silhouette(shape).rotate(angle).getbbox()
      assert min(left, top) > 0
      assert max(right, bottom) < silhouette(shape).width
