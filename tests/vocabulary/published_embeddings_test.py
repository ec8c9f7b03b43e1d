"""The published class matrices, where RKD_JAX_CLASS_EMBEDDINGS names the folder that has them."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from rkd_jax.records import class_names as category_names
from rkd_jax.vocabulary import class_embeddings

FOLDER = os.environ.get("RKD_JAX_CLASS_EMBEDDINGS")
pytestmark = pytest.mark.skipif(
  not FOLDER, reason="RKD_JAX_CLASS_EMBEDDINGS names no folder with published matrices"
)

ANIMALS = (
  *("bird", "cat", "dog", "horse", "sheep"),
  *("cow", "elephant", "bear", "zebra", "giraffe"),
)
COCO = (
  *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
  *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench"),
  *ANIMALS,
  *("backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard"),
  *("sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
  *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
  *("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza"),
  *("donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv"),
  *("laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster"),
  *("sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
  "toothbrush",
)


def load(name, names):
  stored = class_embeddings.load(Path(FOLDER) / name, names)
  assert stored.embeddings.shape == (len(names), 512)
  norms = np.linalg.norm(stored.embeddings, axis=1)
  assert (norms > 5).all() and (norms < 15).all(), "published rows are not normalised"
  return stored.embeddings / norms[:, None]


def neighbours(rows, names, name, count=3):
  cosines = rows @ rows[names.index(name)]
  return [names[i] for i in np.argsort(-cosines) if names[i] != name][:count]


def test_coco():
  rows = load("coco_a_photo_of_a.npy", COCO)
  assert neighbours(rows, COCO, "dog")[0] in ANIMALS
  assert neighbours(rows, COCO, "fork", 2)[0] in ("knife", "spoon")
  assert "truck" in neighbours(rows, COCO, "car")
  with pytest.raises(ValueError, match="80 rows for 79 class names"):
    class_embeddings.load(Path(FOLDER) / "coco_a_photo_of_a.npy", COCO[:-1])


def test_lvis():
  names = category_names.load_class_names(Path(FOLDER) / "lvis_v1_train_cat_info.json")
  assert len(names) == 1203
  rows = load("lvis_v1_a_photo_of_a.npy", names)
  assert neighbours(rows, names, "dog")[0] in ("puppy", "pug-dog", "cat", "shepherd_dog")
  # The order of both files is that of the ids: the same words lie close in both models of names.
  coco = load("coco_a_photo_of_a.npy", COCO)
  shared = [name for name in COCO if name in names]
  cosines = coco[[COCO.index(n) for n in shared]] @ rows.T
  found = [names[i] for i in cosines.argmax(axis=1)]
  assert sum(a == b for a, b in zip(shared, found)) >= 0.95 * len(shared)


def test_objects365():
  with open(Path(FOLDER) / "Objects365_names_fix.csv") as file:
    names = [row[2] for row in csv.reader(file)]
  rows = load("objects365_a.npy", names)
  assert neighbours(rows, names, "Fork", 2)[0] in ("Knife", "Spoon", "Chopsticks")
