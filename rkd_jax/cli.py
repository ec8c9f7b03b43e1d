"""The command `rkd-jax`: its verbs are modules, each of which `python -m` runs as well."""

import runpy
import sys

# Module, flags that the verb stands for, and a line of help.
VERBS = {
  "train": ("main", ["--mode=train"], "train what a config describes, or go on with it"),
  "eval": ("main", ["--mode=eval"], "evaluate a run's newest checkpoint"),
  "predict": ("predict", [], "draw what a detector finds on any images, for any class names"),
  "data": ("own_data", [], "make records of your own annotated photographs: COCO, VOC or YOLO"),
  "web": ("web.__main__", [], "a page on which somebody types words and sees the boxes"),
  "precompute": ("precompute", [], "store what the frozen teachers say about every image"),
  "retrieve": ("retrieve", [], "find boxes for names without annotations in the teachers' regions"),
  "embed-classes": ("embed_classes", [], "make the rows of the classifier from class names"),
  "download": ("weights.download", [], "fetch published weights by name, and check them"),
  "convert": ("convert", [], "read and write checkpoints of detectron2"),
  "export": ("export.__main__", [], "write a detector for JAX alone, ONNX or TensorFlow"),
  "plan": (
    "plan.__main__",
    [],
    "compile for accelerators that are not there, and say what it costs",
  ),
  "show": ("show", [], "draw the batches that training reads"),
  "report": ("report.__main__", [], "one page about a run, or about several side by side"),
  "benchmark": ("benchmark.__main__", [], "measure a detector, its input or a CLIP here"),
  "recipe": ("recipe.__main__", [], "make the rows of a table, beside the paper's numbers"),
  "demo": ("demo", [], "run the whole method on the embedded data set"),
}


def main() -> None:
  """Runs the verb that the command line begins with."""
  verb, *arguments = sys.argv[1:] or ["--help"]
  if verb in ("--help", "-h", "help"):
    width = max(map(len, VERBS))
    print("rkd-jax VERB --help says which flags a verb has.\n")
    for name, (_, _, line) in VERBS.items():
      print(f"  rkd-jax {name:{width}}  {line}")
  elif verb == "--version":
    from rkd_jax import __version__

    print(__version__)
  elif verb not in VERBS:
    sys.exit(f"rkd-jax has no verb {verb!r}; there are: {', '.join(VERBS)}.")
  else:
    module, given, _ = VERBS[verb]
    sys.argv = [f"rkd-jax {verb}", *given, *arguments]
    runpy.run_module(f"rkd_jax.{module}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  main()
