"""Converts checkpoints of detectron2 and object-centric-ovd to rkd_jax, and back.

  python -m rkd_jax.convert --config=configs/coco/rkd.py --input=model_final.pth --output=runs/rkd
  python -m rkd_jax.convert --config=configs/coco/rkd.py --input=runs/rkd --output=rkd.pth \\
    --to=detectron2

To rkd_jax: the input is a .pth (torch.save), .pkl (detectron2's model zoo, ImageNet weights of
Caffe2) or .npz file; the output is a run's folder, for `--mode=eval`, `init.checkpoint` and
predict.  To detectron2: the input is a run's folder, its newest step or `.../checkpoints/<step>`;
the output is a .pth file for MODEL.WEIGHTS.

Every parameter is accounted for.  Unused and missing ones are listed and are an error unless
--allow names them, in detectron2's names.  Missing ones are left out of the output: training starts
them afresh if `init.allow_missing` names them too.  ImageNet weights, for instance:

  python -m rkd_jax.convert --config=configs/coco/base.py --input=R-50.pkl --output=runs/r50 \\
    --allow='proposal_generator\\..*,roi_heads\\.box_predictor\\..*'
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from rkd_jax.convert import runs

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_INPUT = flags.DEFINE_string("input", None, "Checkpoint file, or a run's folder.")
_OUTPUT = flags.DEFINE_string("output", None, "The run's folder, or the .pth file, to write.")
_TO = flags.DEFINE_enum("to", "rkd_jax", ["rkd_jax", "detectron2"], "Whose format to write.")
_ALLOW = flags.DEFINE_list(
  "allow", [], "Regular expressions of detectron2 names that may be unused or missing."
)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"Unexpected argument {argv[1]!r}; see --help.")
  logging.set_verbosity(logging.WARNING)
  if _TO.value != "rkd_jax" and _ALLOW.value:
    raise app.UsageError("--allow is for the way to rkd_jax; a run's folder is always whole.")
  try:
    if _TO.value == "rkd_jax":
      print(runs.to_rkd_jax(_CONFIG.value, _INPUT.value, _OUTPUT.value, _ALLOW.value))
    else:
      print(runs.to_detectron2(_CONFIG.value, _INPUT.value, _OUTPUT.value))
  except (ValueError, OSError) as error:
    sys.exit(f"{error}")


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "input", "output"])
  app.run(main)
