"""A web server on this machine that serves one file, well or badly."""

import contextlib
import http.server
import threading
from collections.abc import Iterator

NEVER = 1 << 60


class Site:
  """What the server answers; tests change it between requests.

  `cuts` says for the next requests after how many bytes each connection ends, `statuses` how the
  next requests are answered.  `ranges` and `conditions` say whether Range and If-Range count.
  `asked` lists the Range of every request, None without one.
  """

  def __init__(self, content: bytes):
    self.content, self.tag, self.kind = content, '"1"', "application/octet-stream"
    self.changed: str | None = None
    self.ranges = self.conditions = self.says_length = True
    self.cuts: list[int] = []
    self.statuses: list[int] = []
    self.moved: dict[str, str] = {}
    self.stalls: threading.Event | None = None
    self.asked: list[str | None] = []
    self.address = ""


@contextlib.contextmanager
def serving(content: bytes) -> Iterator[Site]:
  """A server of one file at every path, for as long as the block runs."""
  site = Site(content)

  class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
      pass

    def do_GET(self):
      wanted = self.headers.get("Range")
      site.asked.append(wanted)
      if self.path in site.moved:
        self.send_response(302)
        self.send_header("Location", site.moved[self.path])
        self.end_headers()
        return
      if site.statuses:
        self.send_error(site.statuses.pop(0))
        return
      total, begin = len(site.content), 0
      same = self.headers.get("If-Range") in (site.tag, site.changed)
      if wanted and site.ranges and (same or not site.conditions):
        begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if begin >= total:
          self.send_error(416)
          return
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {begin}-{total - 1}/{total}")
      else:
        self.send_response(200)
      for name, value in (("ETag", site.tag), ("Last-Modified", site.changed)):
        if value:
          self.send_header(name, value)
      self.send_header("Content-Type", site.kind)
      if site.says_length:
        self.send_header("Content-Length", str(total - begin))
      self.end_headers()
      cut = site.cuts.pop(0) if site.cuts else NEVER
      self.wfile.write(site.content[begin : begin + cut])
      if site.stalls is not None:
        self.wfile.flush()
        site.stalls.wait(10)

  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  site.address = f"http://127.0.0.1:{server.server_port}/folder/weights.pth"
  thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
  thread.start()
  try:
    yield site
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
