"""A CLIP run that was never trained, written as `load_clip` expects it."""

import json
from pathlib import Path

import jax
import numpy as np

from rkd_jax.configs import common
from rkd_jax.frozen.clip import TOKENIZER_FILE
from rkd_jax.models.clip.model import init_clip, make_clip
from rkd_jax.models.clip.tokenizer import Tokenizer
from rkd_jax.runs.checkpoint import Checkpointer
from rkd_jax.runs.config import write_config
from rkd_jax.runs.state import TrainState

VISION_LAYERS, VISION_WIDTH = (1, 1, 1), 16


def write_run(workdir: Path, texts=("a photo of a dog", "one red cat")) -> Path:
  """Random parameters and batch statistics (positive variances); knows words of `texts` only."""
  config = common.clip()
  config.clip.update(
    embed_dim=8,
    image_resolution=32,
    vision_layers=VISION_LAYERS,
    vision_width=VISION_WIDTH,
    pooling="average",
    context_length=10,
    transformer_width=16,
    transformer_heads=2,
    transformer_layers=1,
  )
  write_config(workdir, config)
  tokenizer = Tokenizer.for_texts(texts, 10)
  (workdir / TOKENIZER_FILE).write_text(json.dumps(tokenizer.to_dict()))
  model = make_clip(config.clip.to_dict(), tokenizer.vocabulary_size)
  shapes = jax.eval_shape(lambda key: init_clip(model, key), jax.random.key(0))
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)
  params = variables.pop("params")
  checkpointer = Checkpointer(workdir)
  checkpointer.save(
    TrainState(
      step=np.array(1),
      params=params,
      model_state=jax.tree.map(np.abs, variables),
      opt_state={"count": 0},
    )
  )
  checkpointer.close()
  return workdir
