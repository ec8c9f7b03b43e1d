"""Four files of the Open Images Challenge 2019 in small: six classes and three images."""

import json

from rkd_jax.data.openimages_challenge2019 import openimages_challenge2019 as openimages

CLASSES = "/m/01,Cat\n/m/02,Animal\n/m/03,Carnivore\n/m/04,Car wheel\n/m/05,Car\n/m/06,Dog\n"


CAT, ANIMAL, CARNIVORE, WHEEL, CAR, DOG = range(6)


def _node(label, *below, **more):
  return {"LabelName": label} | ({"Subcategory": list(below)} if below else {}) | more


# A dog stands below both; a wheel is a part of a car, not a kind of it.
HIERARCHY = _node(
  "/m/0bl9f",
  _node("/m/02", _node("/m/03", _node("/m/01"), _node("/m/06")), _node("/m/06")),
  _node("/m/05", Part=[_node("/m/04")]),
  _node("/m/04"),
)


BOXES = """ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf
fffffffffffffff1,/m/01,0.25,0.5,0.1,1.0,0
fffffffffffffff1,/m/05,0.0,1.0,0.0,1.0,1
0000000000000002,/m/03,0.5,0.5,0.1,0.2,0
"""


LABELS = """ImageID,LabelName,Confidence
fffffffffffffff1,/m/01,1
fffffffffffffff1,/m/04,0
0000000000000002,/m/03,1
0000000000000002,/m/05,0
0000000000000003,/m/02,0
"""


def write(folder):
  """Writes the four files."""
  for name, text in (
    (openimages.CLASSES_CSV, CLASSES),
    (openimages.HIERARCHY_JSON, json.dumps(HIERARCHY)),
    (openimages.BOXES_CSV, BOXES),
    (openimages.LABELS_CSV, LABELS),
  ):
    (folder / name).write_text(text)
