"""The command rkd-jax export."""

import os
import subprocess
import sys
import types
from pathlib import Path

import narrow_detectors
import numpy as np
import pytest
from PIL import Image

from rkd_jax.detect.folder import save_pretrained
from rkd_jax.export import __main__ as command
from rkd_jax.vocabulary import class_embeddings

REPOSITORY = Path(__file__).parents[2]
GIVEN = {
  **dict.fromkeys(("config", "output", "classes", "clip", "class_embeddings", "template")),
  **{"format": ["jax"], "max_words": None, "benchmark": None, "output": "out"},
}


def given(**settings):
  return types.SimpleNamespace(**(GIVEN | settings))


@pytest.mark.parametrize(
  "arguments, settings, message",
  [
    ([], {}, "Say which detector"),
    (["a", "b"], {}, "Say which detector"),
    (["run"], {"format": ["jax", "tflite"]}, "--format=tflite: .* there are jax, onnx, savedmodel"),
    (["run"], {"output": None}, "--output=DIR"),
    (["run"], {"benchmark": "no.jpg"}, r"--benchmark=no\.jpg: there is no such image"),
    (["run"], {"classes": ","}, "--classes"),
    (["no/such/run"], {}, "no/such/run"),
  ],
)
def test_what_is_wrong_is_said_in_a_sentence(arguments, settings, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit, match=message):
    command.main(given(**settings), arguments)
  assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """A folder that was published, and an image."""
  root = tmp_path_factory.mktemp("exported")
  save_pretrained(narrow_detectors.make("c4"), root / "detector")
  Image.effect_noise((120, 90), 80).convert("RGB").save(root / "image.png")
  return root


def run(root, *arguments):
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=root,
    env={**os.environ, "PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": ""},
    capture_output=True,
    text=True,
  )


@pytest.mark.door
def test_from_a_folder_to_two_formats_side_by_side(root):
  pytest.importorskip("onnx", reason="pip install 'rkd_jax[onnx]'")
  flag = ["--format=jax,onnx", "--output=out", "--benchmark=image.png", "--classes=dog, cat"]
  done = run(root, "-m", "rkd_jax.cli", "export", "detector", *flag)
  assert done.returncode == 0, done.stderr
  rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()[-3:]}
  assert list(rows) == ["rkd_jax", "jax", "onnx"]
  assert all(int(row[4]) > 0 and float(row[5]) < 1e-3 for row in rows.values())
  shown = run(root, "out/onnx/run.py", "image.png", "--min_score=0")
  assert '"word": "dog"' in shown.stdout, shown.stderr


@pytest.mark.door
def test_a_matrix_of_another_width_is_refused(root):
  class_embeddings.save(root / "bad.npz", ["cat"], "a {}", np.ones((1, 9)))
  flag = ["--class_embeddings=bad.npz", "--output=no"]
  done = run(root, "-m", "rkd_jax.cli", "export", "detector", *flag)
  assert done.returncode == 1 and "embeddings are 9 wide, the detector's" in done.stderr
  assert not (root / "no").exists()
