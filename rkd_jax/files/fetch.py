"""A file from an address of the web: whole and checked under its name, or not there at all.

What has arrived lies in NAME.part, what the server said of it in NAME.part.json; a later call goes
on from there (RFC 9110, section 14) if the server still has the same file, and begins anew if not.
NAME.sha256 is left beside the file, as `sha256sum --check` reads it.
"""

import contextlib
import email.message
import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from tqdm import tqdm

from rkd_jax.files import storage
from rkd_jax.files.untrusted.reading import ReadError, refuse_head

_CHUNK = 1 << 20
# Enough to know a page by.
_HEAD = 512
_SUM = re.compile(r"([0-9a-f]{64})(\s|$)")
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)$")
# Texts, of which nothing can be said by how they begin.
_TEXTS = (".json", ".txt")
# What another answer may follow on, later.
_BUSY = (408, 429, 500, 502, 503, 504)


class FetchError(OSError):
  """A file did not arrive: what happened, and what to do."""


class _Cut(Exception):
  """The connection ended early; what has arrived is kept."""


class _Known(NamedTuple):
  """What the server said of the file that a .part belongs to."""

  address: str
  validator: str | None
  length: int | None


def fetch(
  address: str,
  target: Path,
  sha256: str | None = None,
  timeout: float = 60.0,
  tries: int = 5,
  pause: float = 1.0,
) -> str:
  """Brings a file to `target` and returns its SHA-256.

  Proxies are those of the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY).  A file that is there is
  checked against `sha256` or the NAME.sha256 beside it, and is not fetched again.

  Args:
    sha256: what the file is published with, if it is.
    timeout: seconds without a byte after which a connection counts as cut.
    tries: how often in a row a connection may end without a byte.
    pause: seconds before the second of them, doubled before each further one.

  Raises:
    FetchError: the address cannot be reached or has no such file, the answer is a page, the disk is
      full, another process fetches the same file, or the file is not the published one.
  """
  if target.exists():
    return _checked(target, sha256)
  _made(target.parent)
  with _own(target, address) as part:
    failures, most = 0, part.seek(0, os.SEEK_END)
    while True:
      try:
        _receive(address, target, part, timeout)
        break
      except _Cut as error:
        failures = failures + 1 if part.tell() <= most else 1
        most = max(most, part.tell())
        if failures >= tries:
          raise FetchError(f"{_unreached(address, target, error)} {_kept(target)}") from error
        time.sleep(pause * 2 ** (failures - 1))
    found = _digest(_part(target))
    if sha256 not in (None, found):
      _forget(target)
      raise FetchError(
        f"{address} has the SHA-256 {found}, and is published with {sha256}: it is another file, "
        f"or was changed on the way. It was not kept. Get the published one, as {target}."
      )
    os.replace(_part(target), target)
    _said(target).unlink(missing_ok=True)
  storage.write(_sum(target), f"{found}  {target.name}\n")
  return found


def _receive(address: str, target: Path, part: IO[bytes], timeout: float) -> None:
  """Appends what is missing of the file; returns when it is whole."""
  known = _read_known(target)
  begin = part.seek(0, os.SEEK_END)
  if known is None or known.address != address or known.validator is None:
    begin, known = 0, None
  if known is not None and begin == known.length:
    return
  headers = {"User-Agent": "rkd_jax", "Accept-Encoding": "identity"}
  if known is not None and begin:
    headers |= {"Range": f"bytes={begin}-", "If-Range": str(known.validator)}
  with _answer(urllib.request.Request(address, headers=headers), target, timeout) as answer:
    if answer is None:  # The server has fewer bytes: another file.
      _said(target).unlink(missing_ok=True)
      part.truncate(0)
      raise _Cut("the file changed at the server")
    said = _Known(address, _validator(answer.headers), _length(answer))
    if answer.status == 206:
      if not _goes_on(answer, begin, known, said):
        _said(target).unlink(missing_ok=True)
        raise _Cut("the server answered with another part than it was asked for")
    else:
      begin = 0
      part.truncate(0)
      _refuse_page(answer.headers, address, target)
      storage.write(_said(target), json.dumps(said._asdict()))
    part.seek(begin)
    _check_space(target, begin, said.length)
    _copy(answer, part, target, said, begin)


def _copy(
  answer: http.client.HTTPResponse, part: IO[bytes], target: Path, said: _Known, begin: int
) -> None:
  """Writes the body of an answer, with a bar; raises _Cut if it ends early."""
  # Without a terminal there is no bar.
  with tqdm(
    desc=target.name,
    total=said.length,
    initial=begin,
    unit="B",
    unit_scale=True,
    disable=None,
  ) as bar:
    while True:
      first = part.tell() == 0
      try:
        # What has arrived is written at once, so that a connection that stalls loses none of it.
        chunk = answer.read(_HEAD) if first else answer.read1(_CHUNK)
      except (OSError, http.client.HTTPException) as error:
        raise _Cut(f"{error or type(error).__name__}") from error
      if not chunk:
        break
      if first and target.suffix not in _TEXTS:
        try:
          refuse_head(said.address, chunk)
        except ReadError as error:
          _forget(target)
          raise FetchError(f"{error} {_by_hand(said.address, target)}") from error
      try:
        rest = memoryview(chunk)
        while rest:  # A disk that is almost full takes a part.
          rest = rest[part.write(rest) :]
      except OSError as error:
        if error.errno != errno.ENOSPC:
          raise
        raise FetchError(
          f"{target.parent}: the disk is full. Make room. {_kept(target)}"
        ) from error
      bar.update(len(chunk))
  if said.length is not None and part.tell() < said.length:
    raise _Cut(f"it ended after {part.tell():,} of {said.length:,} bytes")
  if part.tell() == 0:
    raise FetchError(f"{said.address} is empty. {_by_hand(said.address, target)}")


@contextlib.contextmanager
def _answer(
  request: urllib.request.Request, target: Path, timeout: float
) -> Iterator[http.client.HTTPResponse | None]:
  """The answer to a request; None where its range lies behind the end of the file."""
  address = request.full_url
  try:
    answer = urllib.request.urlopen(request, timeout=timeout)
  except urllib.error.HTTPError as error:
    error.close()
    if error.code == 416:
      yield None
      return
    if error.code in _BUSY:
      raise _Cut(f"{error}") from error
    raise FetchError(
      f"{address} answers {error.code} ({error.reason}). {_by_hand(address, target)}"
    ) from error
  except (OSError, http.client.HTTPException) as error:
    reason = getattr(error, "reason", error)
    if isinstance(reason, (ConnectionResetError, http.client.HTTPException)):
      raise _Cut(f"{reason or type(reason).__name__}") from error
    raise FetchError(_unreached(address, target, reason)) from error
  with answer:
    yield answer


def _goes_on(
  answer: http.client.HTTPResponse, begin: int, known: _Known | None, said: _Known
) -> bool:
  """Whether a partial answer is what was asked for, of the file that the .part belongs to."""
  return (
    known is not None
    and (found := _RANGE.match(answer.headers.get("Content-Range", ""))) is not None
    and int(found[1]) == begin
    and known.length in (None, int(found[2]))
    and said.validator in (None, known.validator)
  )


def _validator(headers: email.message.Message) -> str | None:
  """What tells one file at the address from another: a strong ETag, or the time of change."""
  tag = headers.get("ETag", "")
  return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _length(answer: http.client.HTTPResponse) -> int | None:
  """The length of the whole file, where the server says it."""
  found = _RANGE.match(answer.headers.get("Content-Range", ""))
  if found is not None:
    return int(found[2])
  length = answer.headers.get("Content-Length", "")
  return int(length) if length.isdecimal() else None


def _refuse_page(headers: email.message.Message, address: str, target: Path) -> None:
  if headers.get_content_type() in ("text/html", "application/xhtml+xml"):
    _forget(target)
    raise FetchError(
      f"{address} answers with a page for a browser, not with the file. {_by_hand(address, target)}"
    )


def _check_space(target: Path, begin: int, length: int | None) -> None:
  missing, free = (length or 0) - begin, shutil.disk_usage(target.parent).free
  if missing > free:
    raise FetchError(
      f"{target} needs {missing:,} bytes more, and {free:,} are free there. Make room, or say "
      "another folder."
    )


def _checked(target: Path, sha256: str | None) -> str:
  """The SHA-256 of a file that is there; FetchError if it is not the one that it should be."""
  found = _digest(target)
  note = _sum(target)
  remembered = _SUM.match(note.read_text(errors="replace")) if note.exists() else None
  expected = sha256 or (remembered[1] if remembered else found)
  if found != expected:
    where = "is published with" if sha256 else f"had, by {note.name},"
    raise FetchError(
      f"{target} has the SHA-256 {found}, and {where} {expected}: it was changed, or is another "
      "file. Move it away, and give the same command again."
    )
  if remembered is None:
    storage.write(note, f"{found}  {target.name}\n")
  return found


@contextlib.contextmanager
def _own(target: Path, address: str) -> Iterator[IO[bytes]]:
  """The open .part of a file, which no other process fetches meanwhile."""
  with open(_part(target), "ab", buffering=0) as part:
    try:
      fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise FetchError(f"{target} is being fetched by another process; wait for it.") from error
    try:
      yield part
    finally:
      if os.fstat(part.fileno()).st_size == 0:
        _forget(target)


def _made(folder: Path) -> None:
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise FetchError(f"{folder} cannot be made: {error.strerror}. Say another folder.") from error


def _read_known(target: Path) -> _Known | None:
  try:
    content: Any = json.loads(_said(target).read_text())
    return _Known(**content)
  except (OSError, ValueError, TypeError):
    return None


def _forget(target: Path) -> None:
  _part(target).unlink(missing_ok=True)
  _said(target).unlink(missing_ok=True)


def _digest(path: Path) -> str:
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _part(target: Path) -> Path:
  return target.with_name(f"{target.name}.part")


def _said(target: Path) -> Path:
  return target.with_name(f"{target.name}.part.json")


def _sum(target: Path) -> Path:
  return target.with_name(f"{target.name}.sha256")


def _kept(target: Path) -> str:
  part = _part(target)
  if not (size := part.stat().st_size):
    return ""
  return f"{part} keeps the {size:,} bytes that arrived; the same command goes on there."


def _by_hand(address: str, target: Path) -> str:
  return f"By hand: open {address} in a browser, and save the file as {target}."


def _unreached(address: str, target: Path, reason: Any) -> str:
  used = urllib.request.getproxies()
  proxies = [
    f"{kind.upper()}_PROXY={_without_user(used[kind])}"
    for kind in ("https", "http")
    if kind in used
  ]
  certificate = (
    " A proxy that signs for others needs SSL_CERT_FILE, the file of its certificates."
    if isinstance(reason, ssl.SSLCertVerificationError)
    else ""
  )
  return (
    f"{address} cannot be reached ({reason or type(reason).__name__}). If this machine reaches the "
    f"web through a proxy, set HTTPS_PROXY and HTTP_PROXY (now: {', '.join(proxies) or 'neither'})."
    f"{certificate} {_by_hand(address, target)}"
  )


def _without_user(address: str) -> str:
  parts = urllib.parse.urlsplit(address)
  return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
