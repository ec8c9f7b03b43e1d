"""PyTorch's side of the comparisons; importing this needs torch, all but CLIP torchvision too."""

from collections.abc import Callable

import ml_collections
import numpy as np
import torch
from torch import nn

from rkd_jax.benchmark.measure import Budget, Figures, host_peak, reset_peak, timed
from rkd_jax.models.clip import preprocess
from rkd_jax.models.clip.model import ClipConfig

# Residual branches are added up: a fifth each keeps their sum in scale, as on our side.
_RESIDUAL_SCALE = 0.2


class ClipVisionTransformer(nn.Module):
  """`clip.model.VisionTransformer` on uint8 images NCHW, pixel normalisation included."""

  def __init__(self, config: ClipConfig):
    super().__init__()
    width, patch = config.vision_width, config.vision_patch_size
    tokens = (config.image_resolution // patch) ** 2 + 1
    self.register_buffer("mean", 255 * torch.tensor(preprocess.MEAN).view(3, 1, 1))
    self.register_buffer("std", 255 * torch.tensor(preprocess.STD).view(3, 1, 1))
    self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
    self.class_embedding = nn.Parameter(torch.zeros(width))
    self.positional_embedding = nn.Parameter(torch.zeros(tokens, width))
    self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
    sizes = width, config.vision_heads or width // 64, 4 * width
    settings = dict(dropout=0.0, activation=_quick_gelu, batch_first=True, norm_first=True)
    blocks = (nn.TransformerEncoderLayer(*sizes, **settings) for _ in range(config.vision_layers))
    self.blocks = nn.Sequential(*blocks)
    self.proj = nn.Linear(width, config.embed_dim, bias=False)

  def forward(self, images):
    x = self.conv1((images.float() - self.mean) / self.std).flatten(2).transpose(1, 2)
    token = self.class_embedding.to(x.dtype).expand(len(x), 1, -1)
    x = self.ln_pre(torch.cat([token, x], dim=1) + self.positional_embedding.to(x.dtype))
    return self.proj(self.ln_post(self.blocks(x)[:, 0]))


def _quick_gelu(x):
  return x * torch.sigmoid(1.702 * x)


def trunk() -> nn.Module:
  """The ResNet-50 of `models.backbones.resnet`, all its parts: NCHW images to the last map.

  torchvision's has its strides in the 3x3 convolutions, which is more work; here they move.
  """
  from torchvision.models import resnet50

  model = resnet50(weights=None)
  for block in model.modules():
    if hasattr(block, "bn3"):
      block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
  prepare(model)
  return nn.Sequential(*list(model.children())[:-2])


def prepare(model: nn.Module) -> None:
  """Scales residual branches; batch norms become the affine maps of evaluation, not trained."""
  for module in model.modules():
    if hasattr(module, "bn3"):
      nn.init.constant_(module.bn3.weight, _RESIDUAL_SCALE)
    if isinstance(module, nn.BatchNorm2d):
      module.eval().requires_grad_(False)


class TorchBenchmark:
  """Times torch on the kind of device that JAX uses.

  Raises:
    RuntimeError: JAX runs on a GPU and torch sees none.
  """

  def __init__(self, platform: str, dtype: str, budget: Budget):
    if platform != "cpu" and not torch.cuda.is_available():
      raise RuntimeError(f"JAX runs on {platform}, but torch {torch.__version__} sees no GPU.")
    self.device = "cpu" if platform == "cpu" else "cuda"
    self._budget = budget
    self._precision = torch.autocast(self.device, torch.bfloat16, enabled=dtype == "bfloat16")

  def trunk(self, images: np.ndarray) -> dict[str, Figures]:
    """Figures of 'forward' and of 'forward and backward' on NHWC images."""
    model = self._place(trunk())
    x = self._place(torch.from_numpy(images).permute(0, 3, 1, 2))

    def forward_backward():
      model.zero_grad()
      with self._precision:
        loss = model(x).float().mean()
      loss.backward()

    figures = {"forward": self._forward(model, x)}
    return figures | {"forward and backward": self._timed(forward_backward)}

  def clip(self, config: ClipConfig, images: np.ndarray) -> Figures:
    """Embedding of uint8 images NHWC by the image tower of a CLIP."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    return self._forward(self._place(ClipVisionTransformer(config)), self._place(x))

  def detector(
    self,
    config: ml_collections.ConfigDict,
    images: np.ndarray,
    training_images: np.ndarray,
    boxes: np.ndarray,
  ) -> tuple[str, Figures, Figures]:
    """Name, inference and training step of torchvision's detector with the settings of a config.

    `images` are NCHW in [0, 1]; `boxes` [b, g, 4] are the ground truth of `training_images`.
    """
    from torchvision.models import detection

    c, canvas = config.model, images.shape[2:]
    masks = bool(c.mask_head.layers)
    name = f"{'maskrcnn' if masks else 'fasterrcnn'}_resnet50_fpn"
    model = getattr(detection, name)(
      weights=None,
      weights_backbone=None,
      num_classes=91,
      min_size=min(canvas),
      max_size=max(canvas),
      rpn_pre_nms_top_n_train=c.rpn.train.pre_nms,
      rpn_pre_nms_top_n_test=c.rpn.test.pre_nms,
      rpn_post_nms_top_n_train=c.rpn.train.post_nms,
      rpn_post_nms_top_n_test=c.rpn.test.post_nms,
      box_batch_size_per_image=c.roi.batch_size_per_image,
      box_detections_per_img=c.test.detections,
    )
    body = model.backbone.body
    for module in (body.conv1, body.layer1):
      module.requires_grad_(False)
    prepare(body)
    inputs = list(self._place(torch.from_numpy(images)))
    model = self._place(model).eval()
    self._spread_scores(model, inputs)
    inference = self._forward(model, inputs)

    prepare(model.train())
    training_inputs = list(self._place(torch.from_numpy(training_images)))
    targets = [self._target(rows, canvas, masks) for rows in boxes]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=2e-5, momentum=0.9, weight_decay=1e-4)

    def step():
      optimizer.zero_grad()
      with self._precision:
        loss = sum(model(training_inputs, targets).values())
      loss.backward()
      optimizer.step()

    return name, inference, self._timed(step)

  @torch.no_grad()
  def _spread_scores(self, model, inputs) -> None:
    """Logits of standard deviation 1, so that about as many scores reach NMS as in real use."""
    layer = model.roi_heads.box_predictor.cls_score
    seen = []
    hook = layer.register_forward_hook(lambda module, args, output: seen.append(output.std()))
    model(inputs)
    hook.remove()
    layer.weight /= seen[0].clamp(min=1e-6)

  def _target(self, boxes: np.ndarray, canvas: tuple[int, int], masks: bool) -> dict:
    target = {"boxes": torch.from_numpy(boxes), "labels": torch.arange(1, len(boxes) + 1)}
    if masks:
      target["masks"] = torch.zeros((len(boxes), *canvas), dtype=torch.uint8)
      for mask, (left, top, right, bottom) in zip(target["masks"], boxes.astype(int)):
        mask[top:bottom, left:right] = 1
    return {name: value.to(self.device) for name, value in target.items()}

  def _place(self, x):
    return x.to(self.device).to(memory_format=torch.channels_last)

  def _forward(self, model: nn.Module, x) -> Figures:
    @torch.no_grad()
    def run():
      with self._precision:
        return model(x)

    return self._timed(run)

  def _timed(self, run: Callable) -> Figures:
    cuda = self.device == "cuda"
    if cuda:
      torch.cuda.reset_peak_memory_stats()
    reset_peak()
    figures = timed(run, torch.cuda.synchronize if cuda else lambda: None, self._budget)
    peak = torch.cuda.max_memory_allocated() if cuda else host_peak()
    return figures | {"peak_bytes": peak}
