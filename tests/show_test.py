"""Sheets of training batches, one a step."""

import pytest
import tiny_coco
from PIL import Image

from rkd_jax import show
from rkd_jax.configs import common


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  root = tmp_path_factory.mktemp("show")
  tiny_coco.build_data(root)
  return tiny_coco.get_config(str(root))


def test_a_sheet_for_every_step(config, tmp_path, capsys):
  """Two of the three photographs lie; a step of one kind is the same from wherever it starts."""
  config.data.box.canvas = (32, 64)
  show.show(config, str(tmp_path / "a"), 0, 6, 128)
  files = sorted((tmp_path / "a").iterdir())
  assert [file.name for file in files] == [f"step{step:07d}_box.png" for step in range(6)]
  assert capsys.readouterr().out.split() == [str(file) for file in files]
  assert len({Image.open(file).size for file in files}) == 2
  show.show(config, str(tmp_path / "b"), 5, 1, 128)
  (again,) = (tmp_path / "b").iterdir()
  assert again.read_bytes() == files[5].read_bytes()


def test_only_detectors_are_drawn(tmp_path):
  with pytest.raises(ValueError, match="trains task 'clip'"):
    show.show(common.clip(), str(tmp_path), 0, 1, 128)
