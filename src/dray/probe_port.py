"""Whether a worker is well, over HTTP. Loaded only where somebody asks for it: a web server is a megabyte in each worker."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dray.errors import ConfigurationError
from dray.forks import close_in_forks

PATHS = {"/live": "live", "/livez": "live", "/healthz": "live", "/ready": "ready", "/readyz": "ready"}


def serve(address: str, facts: Callable[[], dict[str, Any]]) -> ThreadingHTTPServer:
    """Answer GET /live and /ready with 200 or 503, in a thread. The address is a port of this host alone, or HOST:PORT.

    Raises ConfigurationError when it cannot be had.
    """
    host, _, port = address.rpartition(":")

    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # seconds for a question

        def do_GET(self) -> None:
            told = facts()
            good = told.get(PATHS.get(self.path.split("?")[0], ""))
            body = json.dumps(told if good is not None else {"error": "ask for /live or /ready"}).encode() + b"\n"
            self.send_response(404 if good is None else 200 if good else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """It is asked every few seconds."""

    try:
        server = ThreadingHTTPServer((host.strip("[]") or "127.0.0.1", int(port)), Handler)
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigurationError(f"no probe at {address}: {error}; give a free port, or HOST:PORT") from error
    close_in_forks(server.socket)
    threading.Thread(target=server.serve_forever, name="dray-probe", daemon=True).start()
    return server
