"""The examples of docs/extend.md, applied to a copy of the package as they stand, and run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

_LOSS = """
import jax, numpy as np
from narrow import narrow
from rkd_jax.benchmark import synthetic
from rkd_jax.configs.coco import rkd
from rkd_jax.models.detector import rcnn
from rkd_jax.train.step import detector_loss

config, rng = narrow(rkd.get_config()), np.random.default_rng(0)
assert config.loss.cosine.weight == 0.0  # off, until a config asks for it
config.loss.cosine.weight = 2.0
params = jax.tree.map(jax.numpy.asarray, synthetic.params(config, rng))
vocabulary = synthetic.vocabulary(config, 5, rng)
batch = synthetic.batch(config, "image", 1, (64, 64), 5, rng)
loss = detector_loss(rcnn.build(config), config.loss)

@jax.jit
def step(params):
  def of(params):
    total, (terms, _) = loss(params, {}, vocabulary, batch, None, "image")
    return terms["cosine"], (total, terms)
  return jax.value_and_grad(of, has_aux=True)(params)

(value, (total, terms)), gradient = step(params)
assert 0 < value <= 4, value
np.testing.assert_allclose(total, sum(terms.values()), rtol=1e-6)
assert np.abs(gradient["backbone"]["stem"]["kernel"]).max() > 0
"""

_SOURCE = """
import colours, numpy as np
from rkd_jax import precompute
from rkd_jax.teachers.images import Options, prepare
from rkd_jax.teachers.settings import make_proposer

flags = "--proposals=windows --data_dir=D --dataset=N --splits=train --output=O --clip=C"
settings = precompute.settings_of(precompute.make_parser("").parse_args(flags.split()))
proposer = make_proposer(settings, "train")
found = prepare(colours.record(1), proposer, colours.NAMES, 16, Options(regions=5))
assert found.notes == {} and found.boxes.shape == (15, 4) and found.crops.shape == (15, 16, 16, 3)
assert (np.diff(found.scores) <= 0).all() and 0 < found.scores[0] <= 1
assert proposer.describe() == {"name": "Windows", "fractions": (0.25, 0.5), "top": 50}
"""

_BACKBONE = """
import jax, jax.numpy as jnp, numpy as np
from narrow import narrow
from rkd_jax.configs.lvis import rkd
from rkd_jax.models.detector import rcnn

config = narrow(rkd.get_config())
config.model.backbone.kind = "plain"
params = rcnn.abstract_params(config)
assert params["fpn"]["lateral3"]["kernel"].shape == (1, 1, 16, 8)
backbone = rcnn.build(config).bind({}).backbone.clone(parent=None)
image = np.random.default_rng(0).normal(size=(1, 40, 24, 3)).astype("f")
params = backbone.init(jax.random.key(0), image)
canvas = jnp.pad(image, ((0, 0), (0, 24), (0, 40), (0, 0)), constant_values=9)
for alone, x in zip(backbone.apply(params, image),
                    backbone.apply(params, canvas, jnp.array([[40, 24]])), strict=True):
  h, w = alone.shape[1:3]
  np.testing.assert_allclose(x[:, :h, :w], alone, rtol=1e-4, atol=1e-5)
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
  """A copy of the package with all that the page adds and changes."""
  root = tmp_path_factory.mktemp("extended")
  ignored = shutil.ignore_patterns("__pycache__")
  shutil.copytree(REPOSITORY / "rkd_jax", root / "rkd_jax", ignore=ignored)
  text = (REPOSITORY / "docs/extend.md").read_text()
  steps = re.findall(
    r"^`(\S+\.py)`:$|^```(python|diff)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
  )
  file = None
  for name, language, block in steps:
    if name:
      file = root / name
    elif language == "python":
      assert not file.exists()
      file.write_text(block)
    else:
      _apply(file, block.splitlines())
  return root


def _apply(file: Path, lines: list[str]) -> None:
  """Changes the one place of a file that has a diff's old lines."""
  old, new = ("".join(f"{x[1:]}\n" for x in lines if x[0] != sign) for sign in "+-")
  content = file.read_text()
  assert content.count(old) == 1, f"docs/extend.md: {file} should have once:\n{old}"
  file.write_text(content.replace(old, new))


@pytest.mark.parametrize("program", [_LOSS, _SOURCE, _BACKBONE], ids=["loss", "source", "backbone"])
def test_examples(extended, program):
  path = os.pathsep.join((str(extended), str(REPOSITORY / "tests")))
  done = subprocess.run(
    [sys.executable, "-c", program],
    cwd=extended,
    env={**os.environ, "PYTHONPATH": path},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr


def test_the_page_follows_the_style(extended):
  """New files as ruff formats them; what is added needs nothing of higher floors."""
  ruff = [sys.executable, "-m", "ruff"]
  config = f"--config={REPOSITORY / 'pyproject.toml'}"
  files = [
    f"rkd_jax/{x}" for x in ("losses/cosine.py", "teachers/windows.py", "models/backbones/plain.py")
  ]
  for command in (["format", "--check"], ["check"]):
    subprocess.run([*ruff, *command, config, *files], cwd=extended, check=True)
