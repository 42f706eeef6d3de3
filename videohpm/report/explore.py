"""``videohpm explore``: the report of one run on this machine, rebuilt while the run goes on."""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from videohpm.errors import UserError
from videohpm.report.page import page
from videohpm.report.runs import load_runs, signature
from videohpm.report.style import POLICY

LOOPBACK = "127.0.0.1"


def explore(run: str, port: int = 0) -> None:
    """Show the report of a run, and follow it, until Ctrl-C.

    Only this machine can reach it, and nothing but the report is there.

    Args:
        run: run folder.
        port: where to serve; 0 for any free one.
    """
    server = ReportServer(run, port)
    try:
        print(f"http://{LOOPBACK}:{server.server_port}/ shows {run}; Ctrl-C ends it", flush=True)
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        print("ended", flush=True)
    finally:
        server.server_close()


class ReportServer(ThreadingHTTPServer):
    """Serves one page on the loopback address; raises UserError for a taken port or no folder."""

    daemon_threads = True

    def __init__(self, run: str, port: int = 0):
        load_runs([run])
        self.run, self._built, self._page = run, None, b""
        self._lock = threading.Lock()
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"port: {port} cannot be used ({error}); give another") from error

    def handle_error(self, request, client_address) -> None:
        """A browser that has gone is no error; anything else is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    @property
    def hosts(self) -> set[str]:
        """Names under which a browser on this machine asks for the page.

        Any other name in the Host header is a foreign page that had its name resolved to us.
        """
        names = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}
        return names | ({LOOPBACK, "localhost"} if self.server_port == 80 else set())

    def current(self) -> bytes:
        """The page, built again only when the run's files have changed."""
        with self._lock:
            found = signature(Path(self.run))
            if found != self._built:
                self._page = page(load_runs([self.run]), follow=True).encode()
                self._built = found
            return self._page


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "videohpm", ""
    timeout = 10

    def do_GET(self) -> None:
        if self.headers.get_all("Host") not in [[host] for host in self.server.hosts]:
            self._answer(421, b"wrong host\n", "text/plain")
        elif self.path != "/":
            self._answer(404, b"only the report is here: /\n", "text/plain")
        else:
            try:
                content = self.server.current()
            except UserError as error:  # the folder has gone
                self._answer(503, f"{error}\n".encode(errors="replace"), "text/plain")
            else:
                self._answer(200, content, "text/html")

    do_HEAD = do_GET

    def _answer(self, code: int, content: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", f"{POLICY}; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        """Says nothing: every refresh would be a line."""
