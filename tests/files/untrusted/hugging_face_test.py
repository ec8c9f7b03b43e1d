"""Models in several parts."""

import json

import numpy as np
import pytest
import safetensors.numpy

from rkd_jax.files.torch_writer import write_pth
from rkd_jax.files.untrusted.torch_reader import ReadError, read_checkpoint

PARTS = ({"a": np.float32([1]), "b": np.float32([2, 3])}, {"c": np.float32([4])})


def write(folder, parts=PARTS, kind="safetensors", **changes):
  stem = "model" if kind == "safetensors" else "pytorch_model"
  weight_map = {}
  for number, part in enumerate(parts, start=1):
    file = f"{stem}-{number:05}-of-{len(parts):05}.{kind}"
    save = safetensors.numpy.save_file if kind == "safetensors" else lambda a, p: write_pth(p, a)
    save(part, folder / file)
    weight_map |= dict.fromkeys(part, file)
  index = folder / f"{stem}.{kind}.index.json"
  index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map | changes}))
  return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_parts_are_read_by_their_index_or_their_folder(tmp_path, kind):
  index = write(tmp_path, kind=kind)
  for path in (index, tmp_path):
    found = read_checkpoint(path)
    assert {name: value.tolist() for name, value in found.items()} == {
      "a": [1],
      "b": [2, 3],
      "c": [4],
    }


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"d": "model-00001-of-00002.safetensors"}, r"is not the part .*'d' is not in it \(1 such"),
    ({"d": "missing.safetensors"}, r"lists missing\.safetensors, which is not beside it"),
    ({"d": "../secret"}, r"'d' is in '\.\./secret'; expected a file beside the index"),
    ({"d": "/etc/passwd"}, "expected a file beside the index"),
    ({"d": 3}, "expected a file beside the index"),
    ({"b": "model-00002-of-00002.safetensors"}, "is not the part that .* describes"),
  ],
)
def test_parts_that_are_not_those_of_the_index_are_refused(tmp_path, changes, message):
  with pytest.raises(ReadError, match=message):
    read_checkpoint(write(tmp_path, **changes))


def test_an_index_that_is_none_is_named(tmp_path):
  index = tmp_path / "model.safetensors.index.json"
  for content in ("{", "[]", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000):
    index.write_text(content)
    with pytest.raises(ReadError, match=r"model\.safetensors\.index\.json"):
      read_checkpoint(index)
  with pytest.raises(ReadError, match=r"is a folder with none of model\.safetensors"):
    read_checkpoint(tmp_path / "..")
