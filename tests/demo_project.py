"""The demo's folder as `make demo` leaves it, with a few scenes and networks of random weights."""

import json
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from rkd_jax.configs import demo as demo_config
from rkd_jax.data import builder
from rkd_jax.data.shapes_ovd import shapes_ovd
from rkd_jax.frozen.clip import TOKENIZER_FILE, load_clip
from rkd_jax.models.clip.model import init_clip, make_clip
from rkd_jax.models.clip.tokenizer import Tokenizer
from rkd_jax.models.detector import rcnn
from rkd_jax.records.sources import decode_image, open_source
from rkd_jax.runs.checkpoint import Checkpointer
from rkd_jax.runs.config import write_config
from rkd_jax.runs.state import TrainState
from rkd_jax.vocabulary import class_embeddings

STAGES = ("base", "rkd", "rkd_ils_weight_transfer")


def build(folder: Path) -> Path:
  """`folder/runs/demo`, and the first validation scenes as `folder/photos/N.png`; returns it.

  Paths in the configs are relative to `folder`, as they are after `make demo` in a checkout.
  """
  root = folder / "runs" / "demo"
  builder.prepare(
    shapes_ovd.ShapesOvd(data_dir=str(root / "data"), sizes=shapes_ovd.sizes_at(0.01))
  )
  source = open_source(str(root / "data"), "shapes_ovd/scenes", "validation")
  (folder / "photos").mkdir()
  for number in range(3):
    Image.fromarray(np.asarray(decode_image(source[number]))).save(folder / f"photos/{number}.png")
  config = demo_config.get_config("clip,root=runs/demo")
  tokenizer = Tokenizer.for_texts([f"a photo of a {name}" for name in source.class_names], 24)
  model = make_clip(config.clip.to_dict(), tokenizer.vocabulary_size)
  variables = dict(jax.eval_shape(lambda key: init_clip(model, key), jax.random.key(0)))
  params = variables.pop("params")
  _run(root / "clip", config, params, variables)
  (root / "clip" / TOKENIZER_FILE).write_text(json.dumps(tokenizer.to_dict()))
  rows = class_embeddings.embed_classes(load_clip(root / "clip"), source.class_names)
  names, template = source.class_names, class_embeddings.TEMPLATE
  class_embeddings.save(root / "class_embeddings.npz", names, template, rows, clip="clip")
  for stage in STAGES:
    config = demo_config.get_config(f"{stage},root=runs/demo")
    _run(root / stage / "seed0", config, rcnn.abstract_params(config), {})
  return root


def _run(workdir: Path, config, params, model_state) -> None:
  """A run's folder with a checkpoint of random parameters."""
  rng = np.random.default_rng(0)

  def drawn(leaf):
    return rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype)

  write_config(workdir, config)
  checkpointer = Checkpointer(workdir)
  state = jax.tree.map(lambda leaf: np.abs(drawn(leaf)), model_state)
  checkpointer.save(TrainState(np.int32(1), jax.tree.map(drawn, params), state, {"count": 0}))
  checkpointer.close()
