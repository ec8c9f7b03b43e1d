"""Detectors from wherever they lie: a run, a file of weights, or a folder to be published.

`save_pretrained` writes a folder that holds all a detector needs:

    model.safetensors         its parameters, named as in a checkpoint: 'backbone/stem/kernel'
    config.json               {"format", "step", "base", "config"}; no setting names a place
    class_embeddings.npz      its own vocabulary, if it has one with names
    text_tower.safetensors    CLIP's text tower, and text_tower.json; without them the vocabulary
                              may name a CLIP that is to be put beside it
    README.md                 a model card
"""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import traverse_util
from safetensors.numpy import save

from rkd_jax import configs
from rkd_jax.convert import read_params
from rkd_jax.detect.detector import OpenVocabularyDetector
from rkd_jax.detect.words import Words
from rkd_jax.files import storage
from rkd_jax.files.json_checks import read_text, texts
from rkd_jax.files.untrusted.reading import reading
from rkd_jax.files.untrusted.torch_reader import open_checkpoint
from rkd_jax.frozen.clip import (
  TEXT_TOWER,
  FrozenClip,
  load_clip,
  load_text_tower,
  save_text_tower,
)
from rkd_jax.frozen.detector import Detector
from rkd_jax.frozen.fusion import FUSION_CLIP
from rkd_jax.models.detector.rcnn import abstract_params
from rkd_jax.records.class_names import parse_names
from rkd_jax.runs.config import places, restore_config, with_tuples
from rkd_jax.vocabulary import class_embeddings as class_embeddings_lib
from rkd_jax.vocabulary.class_embeddings import ClassEmbeddings
from rkd_jax.vocabulary.vocabulary import training_source
from rkd_jax.weights import published

FORMAT = "rkd_jax detector 1"
WEIGHTS_FILE, CONFIG_FILE, VOCABULARY_FILE = (
  "model.safetensors",
  "config.json",
  "class_embeddings.npz",
)
CARD_FILE = "README.md"
_HUB = "hf://"
# Of files of weights; what is called so and is not there is no run.
_SUFFIXES = (".pth", ".pkl", ".npz", ".pt", ".bin", ".safetensors")
_REMEDY = (
  "To use any word, give the CLIP that it was trained with: clip='ViT-B-32.pt' in Python, --clip "
  "on the command line (`rkd-jax download clip-vit-b-32` fetches CLIP's)."
)


def load(
  place: str | os.PathLike,
  *,
  config: str | ml_collections.ConfigDict | None = None,
  clip: str | os.PathLike | FrozenClip | None = None,
  class_embeddings: str | os.PathLike | ClassEmbeddings | None = None,
  base: str | Iterable[str] | None = None,
) -> OpenVocabularyDetector:
  """Opens a trained detector.

  Args:
    place: the folder of a run (or `RUN/checkpoints/STEP`, `best`, `latest`), a folder of
      `save_pretrained`, 'hf://OWNER/NAME[@REVISION]' with such a folder on the Hugging Face hub, or
      a file of detectron2's, which needs the `config`.
    config: replaces the run's own; the name of a config such as 'coco/rkd', or one.
    clip: the CLIP that embeds words: a run of this project or published weights.  By default the
      one that the detector or its class embeddings name, if it is there.
    class_embeddings: the detector's own vocabulary, an .npz or .npy.  By default the config's file.
    base: words that were trained on with boxes, by default those of the records if they are there.

  Raises:
    CheckpointError, ReadError, WeightsError: no such place, or it is damaged.
    ValueError: of class embeddings or words, or the config is missing.
  """
  text = os.fspath(place)
  folder = Path(_from_hub(text) if text.startswith(_HUB) else text)
  config = configs.load(config) if isinstance(config, str) else config
  stored, known, own_clip, missing = None, None, None, ""
  if (folder / WEIGHTS_FILE).is_file():
    network, stored, known, own_clip = _pretrained(folder, config)
  elif folder.is_file():
    if config is None:
      raise ValueError(
        f"{place} is a file of weights, which does not say what network they are of: give its "
        "config, as in config='coco/rkd' or --config=coco/rkd."
      )
    network, stored, known, own_clip = (
      Detector(config, read_params(config, folder)[0]),
      *(None,) * 3,
    )
  else:
    if folder.suffix in _SUFFIXES:
      published.check_there(folder)
    network = Detector.restore(config or restore_config(text), text)
    known = _base_of(network.config, folder)
    if class_embeddings is None:
      file = _near(network.config.class_embeddings, folder)
      missing = "" if file else network.config.class_embeddings
      class_embeddings = file or None
  if class_embeddings is not None:
    stored = class_embeddings
    if not isinstance(stored, ClassEmbeddings):
      stored = _read(os.fspath(stored), network.config)
    own_clip = _clip_of(stored, class_embeddings) or own_clip
  opened = _opener(clip) if clip is not None else own_clip
  words = Words(network.config.model.classifier.embedding_dim, stored, opened, _REMEDY, missing)
  if words.stored and network.fusion_clip:
    class_embeddings_lib.check_same_clip(words.stored, network.fusion_clip, FUSION_CLIP)
  base = parse_names(base) if isinstance(base, str) else base
  return OpenVocabularyDetector(network, words, known if base is None else base)


def _near(path: str, run: Path) -> str:
  """What a run's config names: there, or where the run's folders were moved to, or ''."""
  if not path or storage.path(path).exists():
    return path
  folders = (run.absolute(), *run.absolute().parents[:3])
  found = (folder / Path(path).name for folder in folders)
  return next((os.fspath(place) for place in found if place.exists()), "")


def _base_of(config: ml_collections.ConfigDict, run: Path) -> Iterable[str] | None:
  """The classes with boxes of the records that a run was trained on; None if these are not here."""
  config = config.copy_and_resolve_references().unlock()
  config.data.dir = _near(config.data.dir, run)
  source = training_source(config)
  return None if source is None else source.base


def _read(path: str, config: ml_collections.ConfigDict) -> ClassEmbeddings:
  """A file of class embeddings, whose names may be those of the records.

  Raises ValueError: there is no such file, or nothing tells the names.
  """
  if not storage.path(path).is_file():
    raise ValueError(
      f"There is no file {path} of class embeddings; make one: rkd-jax embed-classes, or "
      "`rkd-jax download coco-class-embeddings`."
    )
  stored = class_embeddings_lib.load(path)
  source = training_source(config) if stored.names is None else None
  if source is not None:
    stored = class_embeddings_lib.load(path, source.class_names)
  if stored.names is None:
    raise ValueError(
      f"{path} has no class names, and the data set of the config is not built here. Add them: "
      f"rkd-jax embed-classes --embeddings={path} --annotations=COCO.json --output=FILE.npz"
    )
  return stored


def _clip_of(stored: ClassEmbeddings | None, file: Any) -> Callable[[], FrozenClip] | None:
  """The CLIP that class embeddings name, if it is there."""
  if stored is None or stored.clip is None or isinstance(file, ClassEmbeddings):
    return None
  found = Path(os.fspath(file)).parent / stored.clip
  return _opener(found) if found.exists() else None


def _opener(clip: str | os.PathLike | FrozenClip) -> Callable[[], FrozenClip]:
  return (lambda: clip) if isinstance(clip, FrozenClip) else (lambda: load_clip(clip))


def save_pretrained(
  detector: OpenVocabularyDetector, folder: str | os.PathLike, text_tower: bool = True
) -> None:
  """Writes the folder of the module's docstring.

  Without `text_tower` it knows its own vocabulary only, unless the CLIP that this names is there.

  Raises:
    ValueError: the folder has other files.
  """
  place, config = Path(folder), detector.config.to_dict()
  if place.exists() and any(place.iterdir()) and not (place / CONFIG_FILE).is_file():
    raise ValueError(f"{place} has other files; give another folder.")
  place.mkdir(parents=True, exist_ok=True)
  # The last is what makes it a detector: a folder that is written in part is none.
  (place / WEIGHTS_FILE).unlink(missing_ok=True)
  config = _without_places(config)
  about = {"format": FORMAT, "step": detector.network.step, "config": config}
  about["base"] = None if detector.base is None else sorted(detector.base)
  storage.write(place / CONFIG_FILE, json.dumps(about, indent=1))
  stored = detector.words.stored
  if stored is not None and stored.names is not None:
    class_embeddings_lib.save(
      place / VOCABULARY_FILE,
      stored.names,
      stored.templates or (),
      stored.embeddings,
      None if text_tower else stored.clip,
    )
  if text_tower and detector.words.has_clip:
    save_text_tower(detector.words.clip(), place)
  storage.write(place / CARD_FILE, _card(detector))
  params: dict[str, Any] = traverse_util.flatten_dict(
    jax.device_get(detector.network.variables["params"]), sep="/"
  )
  arrays = {name: np.asarray(array, order="C") for name, array in params.items()}
  storage.write(place / WEIGHTS_FILE, save(arrays, {"format": FORMAT}))


def _pretrained(
  folder: Path, config: ml_collections.ConfigDict | None
) -> tuple[Detector, ClassEmbeddings | None, Iterable[str] | None, Callable[[], FrozenClip] | None]:
  file = folder / CONFIG_FILE
  with reading(file, "a JSON object as save_pretrained writes it", "config"):
    about = json.loads(read_text(str(file)))
    if about["format"] != FORMAT:
      raise ValueError(f"its format is {about['format']!r}, not {FORMAT!r}")
    config = config or ml_collections.ConfigDict(with_tuples(about["config"])).lock()
    base = None if about["base"] is None else texts(about["base"], "base")
  expected: dict[str, Any] = traverse_util.flatten_dict(abstract_params(config), sep="/")
  arrays = open_checkpoint(folder / WEIGHTS_FILE).arrays
  if wrong := sorted(arrays.keys() ^ expected.keys()):
    raise ValueError(
      f"{folder / WEIGHTS_FILE} and {CONFIG_FILE} are not of one detector: {len(wrong)} parameters "
      f"are only in one of them, such as {wrong[0]}."
    )
  for name, leaf in expected.items():
    if arrays[name].shape != leaf.shape:
      raise ValueError(
        f"{folder / WEIGHTS_FILE}: {name} is {arrays[name].shape}, by {CONFIG_FILE} {leaf.shape}."
      )
  network = Detector(config, traverse_util.unflatten_dict(arrays, sep="/"), about["step"])
  vocabulary = folder / VOCABULARY_FILE
  stored = class_embeddings_lib.load(vocabulary) if vocabulary.is_file() else None
  if (folder / f"{TEXT_TOWER}.safetensors").is_file():
    return network, stored, base, lambda: load_text_tower(folder)
  return network, stored, base, _clip_of(stored, vocabulary)


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
  for key in (*places(config), "compilation_cache"):
    *above, name = key.split(".")
    inner = config
    for part in above:
      inner = inner[part]
    inner[name] = ""
  return config


def _card(detector: OpenVocabularyDetector) -> str:
  """The model card, with the front matter that the hub reads."""
  config, stored = detector.config, detector.words.stored
  own = stored.names if stored is not None and stored.names else ()
  words = "any word, through CLIP's text tower" if detector.words.has_clip else "the words above"
  return f"""---
library_name: rkd_jax
pipeline_tag: object-detection
tags: [open-vocabulary, jax]
---

# {config.name}

An open-vocabulary detector of rkd_jax, step {detector.network.step}.

```python
import rkd_jax

detector = rkd_jax.load("hf://OWNER/NAME")  # or this folder
detector("image.jpg").draw().save("boxes.png")
```

- Its own vocabulary: {len(own)} words{f" ({', '.join(own[:10])}, ...)" if own else ""}.
- Trained with boxes of: {len(detector.base) if detector.base is not None else "not known"} of them.
- It looks for {words}.
- Data, licence and accuracy: to be filled in by whoever publishes it.
"""


def _from_hub(address: str) -> str:
  """The local copy of a folder on the Hugging Face hub."""
  try:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
  except ImportError as error:
    raise ImportError("hf:// needs the hub's client: pip install 'rkd_jax[hub]'") from error
  name, _, revision = address.removeprefix(_HUB).partition("@")
  patterns = ("*.safetensors", "*.json", "*.npz", CARD_FILE)
  try:
    return snapshot_download(name, revision=revision or None, allow_patterns=list(patterns))
  except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
    raise OSError(
      f"{address} could not be fetched: {error}. Check the name and the proxy."
    ) from error
