"""The README of an exported detector."""

from typing import Any

from rkd_jax.vocabulary.class_embeddings import ClassEmbeddings

_PACKAGES = {
  "jax": "jax flatbuffers numpy pillow",
  "onnx": "onnxruntime numpy pillow",
  "savedmodel": "tensorflow numpy pillow",
}
_MODELS = {
  "jax": """\
`detector_HxW.jaxexport` are programs of `jax.export` for CPUs, CUDA GPUs and TPUs, each with a form
of its own; their first argument is the dictionary of arrays in `weights.safetensors`, the others
are the inputs below in this order.  Any number of images at once, B, which are computed one after
the other.""",
  "onnx": """\
`detector_HxW.onnx` are models with float32 throughout, non-maximum suppression included (opset 18,
operators of ONNX alone); they read their constants from `weights.bin`, which has to lie beside
them.  One image at a time: B = 1.""",
  "savedmodel": """\
The SavedModel has a signature `detector_HxW` for each canvas, for CPUs, GPUs and TPUs.  Any number
of images at once, B, which are computed one after the other.""",
}


def readme(about: dict[str, Any], own: ClassEmbeddings | None) -> str:
  """What the folder holds and how it is used; `about` is the content of export.json."""
  kind, rows, width = about["kind"], about["max_words"], about["embedding_dim"]
  count, names = about["detections"], own.names if own is not None and own.names else ()
  canvases = " or ".join("{} x {}".format(*program["canvas"]) for program in about["programs"])
  masks = ""
  if "masks" in about["outputs"]:
    masks = f"\n| `masks` | float32 [B, {count}, M, M] | probabilities in the frames of the boxes |"
  own_words = "It has no words of its own."
  if names:
    shown = f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
    own_words = f"`class_embeddings.npz` has {len(names)} words: {shown}."
  return f"""# {about["detector"]}, exported

An open-vocabulary detector of rkd_jax {about["made_with"]["rkd_jax"]}, step {about["step"]}.

    pip install {_PACKAGES[kind]}
    python run.py image.jpg

`run.py` is a program and a module that can be copied: it resizes, pads, runs the model, and brings
boxes to the image.

## The model

{_MODELS[kind]}

| input | type and shape | |
|---|---|---|
| `images` | uint8 [B, H, W, 3] | RGB, H x W = {canvases}; the image at the top left, zeros beyond |
| `sizes` | int32 [B, 2] | height and width of each image on its canvas |
| `class_embeddings` | float32 [{rows}, {width}] | a row per word, zeros beyond |
| `class_valid` | bool [{rows}] | which rows are words |

| output | type and shape | |
|---|---|---|
| `boxes` | float32 [B, {count}, 4] | x1, y1, x2, y2 in pixels of the canvas, best first |
| `scores` | float32 [B, {count}] | 0 to 1 |
| `classes` | int32 [B, {count}] | rows of `class_embeddings` |
| `valid` | bool [B, {count}] | which detections there are |{masks}

Images are upright and resized with Pillow's bilinear filter: the shorter side to
{about["short_side"]} pixels, or less where the longer one would pass {about["max_side"]}.

## Words

{own_words}
Others need their embeddings, of the CLIP that the detector was trained with:

    rkd-jax embed-classes --clip=ViT-B-32.pt --names="red car, dog" --output=words.npz
    python run.py image.jpg --words=words.npz
"""
