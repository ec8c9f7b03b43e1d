from collections import Counter

from data.shapes_ovd import vocabulary
from data.shapes_ovd.shapes import silhouette


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
  assert {_shape(name) for name in vocabulary.NOVEL} == {*vocabulary.NOVEL_SHAPES, "mushroom"}
  assert not {_shape(name) for name in vocabulary.BASE} & {
    _shape(name) for name in vocabulary.NOVEL + vocabulary.OTHER
  }


def test_every_shape_has_four_looks_in_four_colours_and_all_patterns():
  for shape in vocabulary.SHAPES:
    looks = [attributes[:2] for attributes in vocabulary.ATTRIBUTES if attributes[2] == shape]
    assert len(looks) == 4
    assert len({colour for _, colour in looks}) == 4
    assert {pattern for pattern, _ in looks} == set(vocabulary.PATTERNS)


def test_the_look_alone_gives_no_novel_name_away():
  assert set(Counter(map(_look, vocabulary.CLASS_NAMES)).values()) == {4, 5}
  base, novel = (Counter(map(_look, names)) for names in (vocabulary.BASE, vocabulary.NOVEL))
  for name in vocabulary.NOVEL:
    assert base[_look(name)] >= 1
    assert novel[_look(name)] >= 2


def test_class_order_is_fixed_and_mixes_the_splits():
  assert vocabulary.CLASS_NAMES[:3] == ("solid red circle", "dotted cyan ring", "dotted red bolt")
  for start in range(0, 80, 20):
    part = set(vocabulary.CLASS_NAMES[start : start + 20])
    assert part & set(vocabulary.BASE)
    assert part & set(vocabulary.NOVEL)


def test_every_shape_has_its_own_silhouette():
  assert len({silhouette(shape).tobytes() for shape in vocabulary.SHAPES}) == 20


def test_turning_a_silhouette_by_20_degrees_cuts_nothing_off():
  for shape in vocabulary.SHAPES:
    for angle in (-20, 20):
      left, top, right, bottom = silhouette(shape).rotate(angle).getbbox()
      assert min(left, top) > 0
      assert max(right, bottom) < silhouette(shape).width
