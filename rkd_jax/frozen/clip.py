"""A trained CLIP, frozen: what the offline step and prediction need of it."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, UInt8
from safetensors.numpy import save

from rkd_jax.files import storage
from rkd_jax.files.untrusted.hugging_face import is_published, published_file
from rkd_jax.files.untrusted.reading import reading
from rkd_jax.files.untrusted.torch_reader import open_checkpoint
from rkd_jax.machine.batches import map_batches
from rkd_jax.machine.compilation import matmul_options
from rkd_jax.models.clip.model import Clip, ClipConfig, init_clip, make_clip
from rkd_jax.models.clip.preprocess import normalize
from rkd_jax.models.clip.tokenizer import Tokenizer
from rkd_jax.runs.checkpoint import CheckpointError
from rkd_jax.runs.restore import restore_step
from rkd_jax.weights import clip as weights
from rkd_jax.weights.clip_settings import MAX_WIDTH_OF_USUAL_HEADS, Settings, read_settings

TOKENIZER_FILE, TEXT_TOWER = "tokenizer.json", "text_tower"
# Texts that the text tower takes at once, and tokens that their lengths are multiples of.
_TEXT_BATCHES, _TEXT_LENGTHS = (8, 128), 16


@dataclasses.dataclass(frozen=True)
class FrozenClip:
  """Both towers with their weights, and the tokenizer they were trained with.

  `step` is that of the run's checkpoint, None of published weights.
  """

  model: Clip
  variables: Any
  tokenizer: Tokenizer
  step: int | None = None

  @property
  def image_size(self) -> int:
    return self.model.config.image_resolution

  @property
  def embedding_dim(self) -> int:
    return self.model.config.embed_dim

  def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
    """The text tower's outputs, not normalised, float32.

    Raises:
      ValueError: a text that the tokenizer refuses, or a model with fewer tokens than it.
    """
    known, limit = self.tokenizer.vocabulary_size, self.model.config.vocab_size
    if known != limit:
      raise ValueError(
        f"the tokenizer has {known} tokens, the model {limit}:"
        " this model cannot read text in CLIP's vocabulary"
      )
    tokens = self.tokenizer(texts)
    # Attention is causal and the row is read at its end mark: what comes after it is not needed.
    # Few lengths and few batches: words that are typed later find a compiled tower.
    length = -(-(int(tokens.argmax(-1).max()) + 1) // _TEXT_LENGTHS) * _TEXT_LENGTHS
    batch_size = next((size for size in _TEXT_BATCHES if size >= len(texts)), _TEXT_BATCHES[-1])
    return map_batches(
      lambda batch: self._encode_text(self.variables, batch), tokens[:, :length], batch_size
    )

  @functools.cached_property
  def _encode_text(self) -> Callable[..., jax.Array]:
    def encode(variables, tokens):
      embeddings = self.model.apply(variables, tokens, method=Clip.encode_text)
      return jnp.asarray(embeddings, "float32")

    return jax.jit(encode)


class RegionEncoder:
  """Embeds crops of side `image_size` with the image tower of a CLIP, which is compiled once.

  Args:
    batch_size: crops per call of the compiled function, rounded up to a multiple of the devices.
    devices: among which each batch is split; by default one.
  """

  def __init__(self, clip: FrozenClip, batch_size: int = 64, devices: Sequence[jax.Device] = ()):
    self.image_size, self._width = clip.image_size, clip.embedding_dim
    devices = devices or jax.local_devices()[:1]
    self._batch_size = -(-batch_size // len(devices)) * len(devices)
    mesh = Mesh(np.array(devices), ("crops",))
    self._variables = jax.device_put(clip.variables, NamedSharding(mesh, PartitionSpec()))
    self._split = NamedSharding(mesh, PartitionSpec("crops"))
    self._encode = jax.jit(
      lambda variables, images: jnp.asarray(
        clip.model.apply(variables, normalize(images), method=Clip.encode_image), "float32"
      ),
      compiler_options=matmul_options(devices[0].platform),
    )

  def embed(self, crops: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
    """Embeddings of the crops, float32, not normalised."""
    if len(crops) == 0:
      return np.zeros((0, self._width), np.float32)

    def encode(batch: np.ndarray) -> jax.Array:
      return self._encode(self._variables, jax.device_put(batch, self._split))

    return map_batches(encode, np.asarray(crops), self._batch_size)


def load_clip(path: str | os.PathLike, activation: str | None = None) -> FrozenClip:
  """Reads a CLIP: the folder of a CLIP run, or a file of published weights.

  A file is a TorchScript archive or a state dict of torch (.pt, .pth, .bin), .safetensors or .npz,
  with the names of OpenAI, open_clip or Hugging Face; its content decides.  A folder of Hugging
  Face will do, also with weights in several parts.  No torch is needed.  Sizes follow from the
  shapes.  Computation is in float32.  Weights of OpenAI's archives, and of its state dicts in files
  of torch, are rounded to half precision as OpenAI's loader does with every file, so that results
  are those of its CPU users; the others' float32 weights stay as they are.

  Args:
    activation: "quick_gelu" or "gelu", a property of the weights.  None: what OpenAI's archives
      have, or what config.json (Hugging Face) or open_clip_config.json (open_clip) beside the file
      says; without them it must be given.

  Raises:
    CheckpointError: there is neither a file nor the folder of a CLIP run.
    ReadError: the file is damaged, or asks for more than arrays.
    ValueError: its arrays are not those of a CLIP, with the names that are missing or unknown; or
      nothing says which activation they are for.
  """
  if is_published(path):
    return _load_published(Path(published_file(path)), activation)
  if activation is not None:
    raise ValueError(f"{path} is no file: activation is for published weights.")
  return _load_run(epath.Path(path))


def _load_published(path: Path, activation: str | None) -> FrozenClip:
  found = open_checkpoint(path)
  layout = weights.layout_of(found.arrays)
  is_original = found.format == "torchscript" and found.arrays.keys() >= weights.STATED
  # Whatever lies beside an archive of OpenAI belongs to another model.
  settings = None if is_original else read_settings(path, layout)
  is_described = is_original or settings is not None
  settings = settings or Settings()
  if activation is not None:
    settings = settings._replace(activation=activation)
  # OpenAI's loader rounds its state dicts, too.
  plain = found.format == "torch" and layout == "openai" and activation == "quick_gelu"
  rounds = is_original or (plain and not is_described)
  try:
    state = weights.to_openai(found.arrays)
    config = weights.config_from_torch(state, settings)
    if not is_described:
      _check_undescribed(path, layout, config, activation)
    variables = weights.params_from_torch(state, config, rounds)
    return FrozenClip(Clip(config), variables, Tokenizer(config.context_length))
  except MemoryError:
    raise ValueError(f"{path}: a CLIP of these sizes does not fit in memory.") from None
  except (ValueError, TypeError, OverflowError, ZeroDivisionError) as error:
    raise ValueError(f"{path}: {error}") from error


def _check_undescribed(
  path: Path, layout: weights.Layout, config: ClipConfig, activation: str | None
) -> None:
  """Refuses weights that nothing describes, and says what is taken for granted if they may be read.

  Raises ValueError: the activation is not given, or the heads may be of any width.
  """
  name = "config.json" if layout == "hugging_face" else "open_clip_config.json"
  if activation is None:
    raise ValueError(
      f"there is no {name} beside it, and arrays do not tell the activation: OpenAI's models have"
      " quick_gelu, most of open_clip's own gelu, and the wrong one gives wrong embeddings. Put"
      f" {name} there, or say --activation=quick_gelu or --activation=gelu (embed_classes and"
      " precompute)"
    )
  is_vit = config.vision_patch_size is not None
  if is_vit and (config.vision_width > MAX_WIDTH_OF_USUAL_HEADS or config.vision_width % 64):
    raise ValueError(
      f"a tower that is {config.vision_width} wide may have any number of heads, which arrays do"
      f" not tell: put {name} beside it, which is published with it"
    )
  logging.warning(
    "%s has no %s beside it: taken to have %s, heads of 64 channels, layer norms with 1e-5, and"
    " pixels normalised as by OpenAI.",
    *(path, name, config.activation),
  )


def save_text_tower(clip: FrozenClip, folder: str | os.PathLike) -> None:
  """Writes what embedding words needs to `text_tower.safetensors` and `text_tower.json` there."""
  params = {name: own for name, own in clip.variables["params"].items() if name != "visual"}
  arrays = traverse_util.flatten_dict(jax.device_get(params), sep="/")
  arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
  about = {"config": dataclasses.asdict(clip.model.config), "tokenizer": clip.tokenizer.to_dict()}
  for name, content in (("safetensors", save(arrays)), ("json", json.dumps(about))):
    storage.write(epath.Path(folder) / f"{TEXT_TOWER}.{name}", content)


def load_text_tower(folder: str | os.PathLike) -> FrozenClip:
  """What `save_text_tower` wrote: a CLIP that embeds texts, and no images.

  Raises:
    ReadError, ValueError: a file is damaged, or the two do not belong together.
  """
  place = Path(folder) / TEXT_TOWER
  about = _object(epath.Path(place.with_suffix(".json")))
  try:
    model = Clip(ClipConfig.from_dict(about["config"]))
    tokenizer = Tokenizer(**about["tokenizer"])
  except (KeyError, TypeError, ValueError, OverflowError) as error:
    raise ValueError(f"{place}.json describes no text tower: {error}.") from error
  state = jax.eval_shape(lambda key: init_clip(model, key), jax.random.key(0))
  del state["params"]["visual"]
  expected: dict[str, Any] = traverse_util.flatten_dict(state["params"], sep="/")
  arrays = open_checkpoint(place.with_suffix(".safetensors")).arrays
  found = {name: array.shape for name, array in arrays.items()}
  if found != {name: leaf.shape for name, leaf in expected.items()}:
    raise ValueError(f"{place}.safetensors and {place}.json are not of the same text tower.")
  return FrozenClip(model, {"params": traverse_util.unflatten_dict(arrays, sep="/")}, tokenizer)


def _load_run(folder: epath.Path) -> FrozenClip:
  for name in ("config.json", TOKENIZER_FILE):
    if not (folder / name).exists():
      raise CheckpointError(
        f"{folder} has no {name}: expected the --workdir of a run with config.task='clip', or a "
        "file of published weights, such as `rkd-jax download clip-vit-b-32` fetches."
      )
  config, tokenizer = (_object(folder / name) for name in ("config.json", TOKENIZER_FILE))
  if "clip" not in config:
    raise CheckpointError(
      f"{folder}/config.json describes no CLIP run; of a downloaded model give the file of weights."
    )
  try:
    tokenizer = Tokenizer(**tokenizer)
  except (TypeError, ValueError, OverflowError) as error:
    raise CheckpointError(f"{folder}/{TOKENIZER_FILE} is no tokenizer of a run: {error}") from error
  model = make_clip(config["clip"], tokenizer.vocabulary_size)
  state = jax.eval_shape(lambda key: init_clip(model, key), jax.random.key(0))
  params = state.pop("params")
  step, restored = restore_step(os.fspath(folder), {"params": params, "model_state": state})
  variables = {"params": restored["params"], **restored["model_state"]}
  return FrozenClip(model, variables, tokenizer, step)


def _object(path: epath.Path) -> dict[str, Any]:
  with reading(path, "a JSON object as a run writes it", "file of a run"):
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
      raise ValueError(f"it holds a {type(content).__name__}")
  return content
