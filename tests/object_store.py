"""An object store on the local disk: gs:// for etils.epath, without a network.

epath opens gs:// through fsspec's file system of that name; this one takes the place of gcsfs.
Objects are files under a temporary folder, a bucket is the first part of their path; as in an
object store folders need not be made.
"""

import tempfile

import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

_ROOT = tempfile.TemporaryDirectory()


class ObjectStore(DirFileSystem):
  """Counts in `opened` how often each object was opened."""

  protocol = ("gs", "gcs")

  def __init__(self, **options):
    super().__init__(path=_ROOT.name, fs=LocalFileSystem(auto_mkdir=True))
    self.opened = []

  def open(self, path, mode="rb", **options):
    self.opened.append((self._strip_protocol(path), mode[0]))
    return super().open(path, mode, **options)


def install() -> ObjectStore:
  """Makes gs:// this store in this process."""
  fsspec.register_implementation("gcs", ObjectStore, clobber=True)
  return fsspec.filesystem("gcs", finalize_on_close=True)
