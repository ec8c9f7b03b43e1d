"""Weights that others publish: where they are, what may be done with them, and what reads them.

Addresses, sizes and checksums are those that the authors' pages and code state (`source`).  What
nobody states is None; nothing here was measured, and none of the large files was fetched for it.
`rkd-jax download` and docs/weights.md have their facts from here.
"""

import difflib
import os
from typing import NamedTuple

_OVD = "https://github.com/hanoonaR/object-centric-ovd"
_OVD_RAW = "https://raw.githubusercontent.com/hanoonaR/object-centric-ovd/main/datasets"
_CLIP = "https://openaipublic.azureedge.net/clip/models"
_HUB = "https://huggingface.co"
_ROBERTA = f"{_HUB}/FacebookAI/roberta-base"
_DETIC = "https://dl.fbaipublicfiles.com/detic"
_OWL_VIT = "https://storage.googleapis.com/scenic-bucket/owl_vit/checkpoints"
_MIT_OF_CLIP = "MIT (OpenAI's repository)"


class File(NamedTuple):
  """One file: its path in the folder of weights, and what its authors say of it.

  `address` is that of a page for people where `by_hand` is set: no program gets the file from it.
  `size` is as the source writes it.
  """

  path: str
  address: str
  size: str | None = None
  sha256: str | None = None
  by_hand: bool = False


class Published(NamedTuple):
  """What has a name for `rkd-jax download`: files that are used together.

  `reader` is a command that reads them, in the folder that holds `weights/`.
  """

  name: str
  what: str
  files: tuple[File, ...]
  licence: str
  source: str
  reader: str


def _ovd(name: str, config: str, what: str) -> Published:
  file = f"{name}.pth"
  return Published(
    name.replace("_", "-"),
    what,
    (File(file, f"{_OVD}/releases/download/v1.0/{file}"),),
    "Apache-2.0 (its repository)",
    f"{_OVD}#results",
    f"rkd-jax convert --config={config} --input=weights/{file} --output=runs/{config}",
  )


def _matrix(name: str, dataset: str, file: str, sha256: str, size: str, names: str) -> Published:
  return Published(
    name,
    f"Class embeddings of {dataset}, 'a photo of a NAME' by CLIP ViT-B/32, without names",
    (File(file, f"{_OVD_RAW}/zeroshot_weights/{file.replace('+', '%2B')}", size, sha256),),
    "Apache-2.0 (its repository)",
    f"{_OVD}/tree/main/datasets/zeroshot_weights",
    f"rkd-jax embed-classes --embeddings=weights/{file} --annotations={names} --output={name}.npz",
  )


def _clip(name: str, model: str, file: str, sha256: str, size: str | None) -> Published:
  return Published(
    name,
    f"CLIP {model}, by OpenAI",
    (File(file, f"{_CLIP}/{sha256}/{file}", size, sha256),),
    _MIT_OF_CLIP,
    "https://github.com/openai/CLIP/blob/main/clip/clip.py",
    f"rkd-jax embed-classes --clip=weights/{file} --names='cat, red kite' --output=classes.npz",
  )


def _detic(name: str, file: str, what: str, allow: str = "") -> Published:
  return Published(
    name,
    what,
    (File(file, f"{_DETIC}/{file}"),),
    "Apache-2.0 (its repository)",
    "https://github.com/facebookresearch/Detic/blob/main/docs/MODEL_ZOO.md",
    f"rkd-jax convert --config=coco/base --input=weights/{file} --output=runs/{name}{allow}",
  )


def _owl_vit(name: str, file: str, config: str, size: str, what: str) -> Published:
  return Published(
    name,
    what,
    (File(file, f"{_OWL_VIT}/{file}", size),),
    "Apache-2.0",
    "https://github.com/google-research/scenic/tree/main/scenic/projects/owl_vit",
    "rkd-jax precompute --data_dir=runs/coco_json/data --dataset=coco_json/plain --splits=train "
    f"--proposals=owl_vit --checkpoint=weights/{file} --owl_vit_config={config} "
    "--clip=weights/ViT-B-32.pt --output=runs/coco_json/teachers",
  )


_MVIT = (
  "rkd-jax precompute --data_dir=runs/coco_json/data --dataset=coco_json/plain --splits=train "
  "--proposals=mvit --checkpoint=weights/MDef_DETR_r101_epoch20.pth "
  "--vocabulary=weights/roberta-base/vocab.json --merges=weights/roberta-base/merges.txt "
  "--clip=weights/ViT-B-32.pt --pseudo_box_threshold=0.95 --output=runs/coco_json/teachers"
)

TABLE = (
  _ovd("coco_ovd_base", "coco/base", "OV-COCO detector without RKD and ILS"),
  _ovd("coco_ovd_rkd", "coco/rkd", "OV-COCO detector with RKD"),
  _ovd("coco_ovd_pis", "coco/ils", "OV-COCO detector with ILS (PIS)"),
  _ovd("coco_ovd_rkd_pis", "coco/rkd_ils", "OV-COCO detector with RKD and ILS"),
  _ovd(
    "coco_ovd_rkd_pis_weighttransfer",
    "coco/rkd_ils_weight_transfer",
    "OV-COCO detector with RKD, ILS and weight transfer",
  ),
  _ovd(
    "coco_ovd_rkd_pis_weighttransfer_8x",
    "coco/rkd_ils_weight_transfer_8x",
    "The same, trained eight times as long",
  ),
  _ovd("lvis_ovd_base", "lvis/base", "OV-LVIS detector with masks, without RKD and ILS"),
  _ovd("lvis_ovd_rkd", "lvis/rkd", "OV-LVIS detector with RKD"),
  _ovd("lvis_ovd_pis", "lvis/ils", "OV-LVIS detector with ILS (PIS)"),
  _ovd("lvis_ovd_rkd_pis", "lvis/rkd_ils", "OV-LVIS detector with RKD and ILS"),
  _ovd(
    "lvis_ovd_rkd_pis_weighttransfer",
    "lvis/rkd_ils_weight_transfer",
    "OV-LVIS detector with RKD, ILS and weight transfer",
  ),
  _ovd(
    "lvis_ovd_rkd_pis_weighttransfer_8x",
    "lvis/rkd_ils_weight_transfer_8x",
    "The same, trained eight times as long",
  ),
  _matrix(
    "coco-class-embeddings",
    "COCO's 80 classes",
    "coco_clip_a+photo+cname.npy",
    "f5ba909f0c305883827503c5c47f4a67752b2121160c214d2e5ac029fb95b929",
    "82,048 bytes",
    "instances_val2017.json",
  ),
  _matrix(
    "lvis-class-embeddings",
    "LVIS' 1,203 classes",
    "lvis_v1_clip_a+photo+cname.npy",
    "9331f663569183948f07ec5a6daf1903ff618034d2a44bdac9d5c1a9d30b21eb",
    "1,232,000 bytes",
    "lvis_v1_val.json",
  ),
  _clip(
    "clip-vit-b-32",
    "ViT-B/32, RKD's teacher, which also embeds the names of classes",
    "ViT-B-32.pt",
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "338 MiB",
  ),
  _clip(
    "clip-rn50",
    "RN50",
    "RN50.pt",
    "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    None,
  ),
  Published(
    "clip-vit-b-32-hf",
    "CLIP ViT-B/32 as Hugging Face has it, in float32",
    (
      File(
        "clip-vit-base-patch32/pytorch_model.bin",
        f"{_HUB}/openai/clip-vit-base-patch32/resolve/main/pytorch_model.bin",
        "605 MB",
        "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
      ),
      File(
        "clip-vit-base-patch32/config.json",
        f"{_HUB}/openai/clip-vit-base-patch32/resolve/main/config.json",
      ),
    ),
    _MIT_OF_CLIP,
    f"{_HUB}/openai/clip-vit-base-patch32",
    "rkd-jax embed-classes --clip=weights/clip-vit-base-patch32 --names='cat, red kite' "
    "--output=classes.npz",
  ),
  Published(
    "mavl",
    "MAVL (MDef-DETR), which proposes regions and answers to the names of classes",
    (
      File(
        "MDef_DETR_r101_epoch20.pth",
        "https://mbzuaiac-my.sharepoint.com/:f:/g/personal/muhammad_maaz_mbzuai_ac_ae/"
        "Et8rDrc4jkdIuHx4OH52fFUBreLD2-AIUAvO7ZjxtwjU3g?e=lMbeGq",
        by_hand=True,
      ),
    ),
    "MIT (its repository)",
    "https://github.com/mmaaz60/mvits_for_class_agnostic_od",
    _MVIT,
  ),
  Published(
    "roberta-base",
    "The vocabulary that MAVL reads text with",
    (
      File("roberta-base/vocab.json", f"{_ROBERTA}/resolve/main/vocab.json", "899 kB"),
      File("roberta-base/merges.txt", f"{_ROBERTA}/resolve/main/merges.txt", "456 kB"),
    ),
    "MIT",
    _ROBERTA,
    _MVIT,
  ),
  Published(
    "r-50",
    "ResNet-50 of MSRA trained on ImageNet, which every published detector started from",
    (
      File(
        "R-50.pkl",
        "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl",
      ),
    ),
    "CC BY-SA 3.0 (detectron2's model zoo)",
    "https://github.com/facebookresearch/detectron2/blob/main/MODEL_ZOO.md",
    "rkd-jax convert --config=coco/base --input=weights/R-50.pkl --output=runs/r50 "
    r"--allow='proposal_generator\..*,roi_heads\.box_predictor\..*'",
  ),
  _detic(
    "detic-ovcoco-base",
    "BoxSup_OVCOCO_CLIP_R50_1x.pth",
    "OV-COCO detector of Detic, from boxes alone",
  ),
  _detic(
    "detic-ovcoco-image",
    "Detic_OVCOCO_CLIP_R50_1x_max-size.pth",
    "OV-COCO detector of Detic, with labels of images",
  ),
  _detic(
    "detic-ovcoco-caption-image",
    "Detic_OVCOCO_CLIP_R50_1x_max-size_caption.pth",
    "OV-COCO detector of Detic, with captions and labels of images",
    r" --allow='text_encoder\..*'",
  ),
  _owl_vit("owl-vit-b-32", "clip_vit_b32_b0203fc", "clip_b32", "583 MiB", "OWL-ViT ViT-B/32"),
  _owl_vit("owl-vit-b-16", "clip_vit_b16_6171dab", "clip_b16", "581 MiB", "OWL-ViT ViT-B/16"),
  _owl_vit("owl-vit-l-14", "clip_vit_l14_d83d374", "clip_l14", "1652 MiB", "OWL-ViT ViT-L/14"),
  _owl_vit(
    "owlv2-b-16",
    "owl2-b16-960-st-ngrams_c7e1b9a",
    "owl_v2_clip_b16",
    "590 MiB",
    "OWLv2 ViT-B/16, self-trained on images and texts of the web",
  ),
  _owl_vit(
    "owlv2-l-14",
    "owl2-l14-1008-st-ngrams_0881fd6",
    "owl_v2_clip_l14",
    "1666 MiB",
    "OWLv2 ViT-L/14, self-trained on images and texts of the web",
  ),
)

BY_NAME = {entry.name: entry for entry in TABLE}


def find(name: str) -> Published:
  """The entry of a name, or of a file's name; '_' and '-' are one, as are capital letters.

  Raises ValueError: there is none; the nearest names.
  """
  known = dict(BY_NAME)
  for entry in TABLE:
    known |= {_plain(file.path.rpartition("/")[2]): entry for file in entry.files}
  wanted = _plain(name)
  if wanted in known:
    return known[wanted]
  near = {known[key].name: None for key in difflib.get_close_matches(wanted, known, 4, 0.5)}
  hint = f"Did you mean {' or '.join(near)}? " if near else ""
  raise ValueError(
    f"{name!r} is no name of published weights. {hint}rkd-jax download --list shows all."
  )


def check_there(path: str | os.PathLike) -> None:
  """Raises FileNotFoundError where nothing is at a path, with the command that fetches it."""
  if os.path.exists(path):
    return
  try:
    command = f"`rkd-jax download {find(os.path.basename(path)).name}` fetches it"
  except ValueError:
    command = "`rkd-jax download --list` shows the published weights"
  raise FileNotFoundError(f"{os.fspath(path)} is not there. {command}.")


def _plain(name: str) -> str:
  return name.lower().replace("_", "-").removesuffix(".pth")
