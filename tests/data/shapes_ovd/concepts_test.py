"""Concepts that are chosen without the novel classes, and scenes of them."""

import numpy as np
import pytest

from rkd_jax.data import builder
from rkd_jax.data.shapes_ovd import concepts, distractors, shapes_ovd, vocabulary
from rkd_jax.data.shapes_ovd.shapes import silhouette
from rkd_jax.records import sources


def test_a_scene_is_a_pure_function_of_seed_split_and_index():
  for split in concepts.SPLITS:
    first, again = (concepts.make_scene(3, split, 7) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    assert first.captions == again.captions
    assert not np.array_equal(first.image, concepts.make_scene(3, split, 8).image)


def test_unknown_split_is_named():
  with pytest.raises(ValueError, match=r"'validation' of concepts; the splits are clip, "):
    concepts.make_scene(0, "validation", 0)


def test_concepts_are_five_times_as_many_and_no_novel_class_is_one():
  names, shapes = set(concepts.CLASS_NAMES), {name.split()[-1] for name in concepts.CLASS_NAMES}
  assert len(names) == 400 == 5 * len(vocabulary.CLASS_NAMES) and len(shapes) == 50
  assert not names & set(vocabulary.NOVEL)
  assert not shapes & {name.split()[-1] for name in vocabulary.NOVEL}
  # A name that begins another would be found in its captions.
  assert not any(a != b and b.startswith(a) for a in shapes for b in shapes)


def test_every_silhouette_is_its_own_and_turning_cuts_nothing_off():
  assert len({silhouette(shape).tobytes() for shape in concepts.SHAPES}) == 50
  for shape in distractors.SILHOUETTES:
    mask = np.asarray(silhouette(shape)) / 255
    y, x = np.nonzero(mask)
    assert 0.1 < mask.mean() < 0.5 and np.hypot(x - 47.5, y - 47.5).max() < 48


def test_captions_for_a_clip_name_classes_of_both_vocabularies():
  captions = [concepts.make_scene(0, "clip", index).captions[0] for index in range(200)]
  novel = [any(name in caption for name in vocabulary.NOVEL) for caption in captions]
  new = [any(shape in caption for shape in distractors.SILHOUETTES) for caption in captions]
  assert np.mean(novel) > 0.05 and np.mean(new) > 0.3


def test_records_have_labels_of_concepts_and_boxes_in_the_tuning_split_alone(tmp_path):
  sizes = {"clip": 8, "train_images": 8, "tune": 3}
  builder.prepare(
    shapes_ovd.ShapesOvd(data_dir=tmp_path, config="concepts", sizes=sizes, workers=1)
  )
  for split, boxes in (("clip", False), ("train_images", False), ("tune", True)):
    source = sources.open_source(tmp_path, "shapes_ovd/concepts", split)
    assert source.class_names == concepts.CLASS_NAMES and len(source) == sizes[split]
    for index in range(len(source)):
      record, scene = source[index], concepts.make_scene(0, split, index)
      assert len(record.boxes) == (len(scene.boxes) if boxes else 0)
      if split == "train_images":
        named = {concepts.CLASS_NAMES[c] for c in record.labels}
        assert named and named <= {concepts.CLASS_NAMES[c] for c in scene.classes}
        assert all(name in record.captions[0] for name in named)
