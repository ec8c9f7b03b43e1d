"""What holds of the scenes of every data set of shapes_ovd."""

import numpy as np


def assert_boxes_are_tight(scene):
  """Boxes hold all visible pixels of their objects, with some on each edge."""
  for k, (x1, y1, x2, y2) in enumerate(scene.boxes.astype(int)):
    mask = scene.owners == k + 1
    inside = mask[y1:y2, x1:x2]
    assert inside.sum() == mask.sum() > 0
    for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
      assert edge.any()


def contrasts(scenes):
  """Of each object the mean difference of its pixels from the median background."""
  found = []
  for scene in scenes:
    background = np.median(scene.image[scene.owners == 0], axis=0)
    for k in range(len(scene.classes)):
      pixels = scene.image[scene.owners == k + 1].astype(float)
      found.append(np.abs(pixels - background).max(-1).mean())
  return found
