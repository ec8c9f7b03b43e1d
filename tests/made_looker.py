"""Runs that compute nothing, and files of images, for tests of the page and its endpoint."""

import io
import struct
import threading
import zlib

import numpy as np
from PIL import Image

from rkd_jax import configs
from rkd_jax.detect.detector import OpenVocabularyDetector
from rkd_jax.detect.words import Words
from rkd_jax.structures import Detections
from rkd_jax.vocabulary.class_embeddings import ClassEmbeddings
from rkd_jax.web.look import Looker

NAMES = ("cat", "red car", "dog")
WIDTH = 64


class Network:
  """Finds a box for each of the first three words, with scores 0.9, 0.5 and 0.1."""

  def __init__(self):
    self.config = configs.load("demo")
    self.batches, self.most_at_once = 0, 0
    self._inside, self._lock = 0, threading.Lock()
    self.wait = lambda: None

  def detect(self, batch, rows, valid, seen):
    with self._lock:
      self.batches += 1
      self._inside += 1
      self.most_at_once = max(self.most_at_once, self._inside)
    self.wait()
    size, count = len(batch.valid), 3
    height, width = np.asarray(batch.original_sizes, np.float32)[0]
    boxes = np.array([[0, 0, 0.5, 0.5], [0.25, 0.25, 1, 1], [0, 0.5, 0.5, 1]], np.float32)
    boxes = boxes * [width, height, width, height]
    with self._lock:
      self._inside -= 1
    return Detections(
      boxes=np.broadcast_to(boxes.astype(np.float32), (size, count, 4)),
      scores=np.broadcast_to(np.array([0.9, 0.5, 0.1], np.float32), (size, count)),
      classes=np.broadcast_to(np.arange(count) % valid.sum(), (size, count)),
      rois=np.zeros((size, count), int),
      valid=np.broadcast_to(np.asarray(batch.valid)[:, None], (size, count)),
    )


class Clip:
  """Knows all words but 'zebra'."""

  embedding_dim = WIDTH

  def embed_texts(self, texts):
    if any("zebra" in text for text in texts):
      raise ValueError("'zebra' is not in this model's vocabulary of 39 tokens")
    return np.ones((len(texts), WIDTH), np.float32)


def detector(names=NAMES, clip=False):
  rows = np.ones((len(names or ()), WIDTH), np.float32)
  stored = ClassEmbeddings(rows, names, ("a {}",)) if names else None
  return OpenVocabularyDetector(Network(), Words(WIDTH, stored, Clip if clip else None, "Use it."))


def looker(*runs, **options):
  runs = runs or (detector(),)
  return Looker({f"run{number}": run for number, run in enumerate(runs)}, **options)


def encoded(picture=None, fmt="PNG", size=(40, 30), **options):
  picture = picture or Image.new("RGB", size, "green")
  buffer = io.BytesIO()
  picture.save(buffer, fmt, **options)
  return buffer.getvalue()


def rotated_jpeg():
  exif = Image.Exif()
  exif[0x0112] = 6
  return encoded(fmt="JPEG", exif=exif)


def animated_gif():
  frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "green")]
  return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def deep_png():
  return encoded(Image.fromarray(np.full((30, 40), 40000, np.uint16)))


def huge_header():
  """A PNG that says that it is 20,000 x 20,000."""
  header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
  data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
  return data + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT"
