"""The three commands of the README on eight made-up photographs: records, a run, pictures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import own_folders
import pytest
import tiny_clip
from pycocotools.coco import COCO

pytestmark = pytest.mark.door
REPOSITORY = Path(__file__).parents[1]
# Beside what the README says: a short run of small pictures.
SHORT = "size=32,steps=4"


def rkd_jax(folder, *arguments):
  done = subprocess.run(
    [sys.executable, "-m", "rkd_jax.cli", *arguments],
    cwd=folder,
    env={**os.environ, "PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": ""},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-4000:]
  return done.stdout


@pytest.mark.parametrize("words", ["clip", "closed"])
def test_three_commands_from_photographs_to_boxes(tmp_path, words):
  source = own_folders.WRITERS["coco"](tmp_path / "photos")
  own_folders.write_images(tmp_path / "new", range(3))
  texts = ("a photo of a cat", "a photo of a dog", "a photo of a kite", "a photo of a red dog")
  tiny_clip.write_run(tmp_path / "clip", texts)
  rows = {"clip": "--clip=clip", "closed": "--closed"}[words]
  rkd_jax(tmp_path, "data", f"--source={source}", "--output=mine", rows, "--validation_share=0.3")
  rkd_jax(tmp_path, "train", f"--config=coco_json:base,root=mine,{SHORT}", "--workdir=mine/base")
  asked = {"clip": "cat, red dog", "closed": "cat, kite"}[words]
  said = rkd_jax(tmp_path, "predict", "mine/base", "new", f"--classes={asked}", "--min_score=0")
  assert "[3/3]" in said and "boxes of 2 words" in said
  output = tmp_path / "predictions"
  assert sorted(file.name for file in output.glob("*.png")) == ["0.png", "1.png", "2.png"]
  content = json.loads((output / "images.json").read_text())
  assert content["complete"] and len(content["images"]) == 3
  assert [entry["name"] for entry in content["categories"]] == asked.split(", ")
  if json.loads((output / "predictions.json").read_text()):
    COCO(str(output / "images.json")).loadRes(str(output / "predictions.json"))
