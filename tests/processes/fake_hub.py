"""A hub on 127.0.0.1 that speaks as much of the real one's API as a download needs.

Use it so: `with FakeHub({"config.json": b"{}"}) as hub:` and give `hub.url` as HF_ENDPOINT; what
was asked is in `hub.requests` afterwards. `cut` and `hold` make the first request for a file end
in the middle: `cut` closes the connection there, `hold` leaves it open and says nothing more.
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "acme/tiny"


@dataclass(frozen=True)
class Asked:
    """One request, as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class FakeHub:
    files: Mapping[str, bytes]
    refusal: tuple[int, Mapping[str, str]] | None = None
    cut: frozenset[str] = frozenset()
    hold: frozenset[str] = frozenset()
    requests: list[Asked] = field(default_factory=list)
    arrived_in_the_middle: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"state": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def asked(self, method: str, ending: str) -> list[Asked]:
        return [r for r in self.requests if r.method == method and r.path.endswith(ending)]


class _Handler(BaseHTTPRequestHandler):
    state: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the requests are in the log that the test reads."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.state
        headers = {name.lower(): value for name, value in self.headers.items()}
        hub.requests.append(Asked(self.command, self.path, headers))
        path = self.path.partition("?")[0]
        if hub.refusal is not None:
            status, extra = hub.refusal
            self._send(status, b'{"error": "no"}', extra)
        elif path == f"/api/models/{REPOSITORY}/revision/main" or (
            path == f"/api/models/{REPOSITORY}"
        ):
            self._send_json({"id": REPOSITORY, "sha": COMMIT, "siblings": self._siblings()})
        elif path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
            self._send_json([_tree_entry(*file) for file in hub.files.items()])
        elif path.startswith(f"/{REPOSITORY}/resolve/"):
            self._send_file(path.removeprefix(f"/{REPOSITORY}/resolve/").partition("/")[2])
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _siblings(self) -> list[dict[str, Any]]:
        siblings = []
        for name, content in self.state.files.items():
            entry = _tree_entry(name, content)
            sibling = {"rfilename": name, "size": entry["size"], "blobId": entry["oid"]}
            if "lfs" in entry:
                sibling["lfs"] = {
                    "sha256": entry["lfs"]["oid"],
                    "size": entry["size"],
                    "pointerSize": 130,
                }
            siblings.append(sibling)
        return siblings

    def _send_file(self, name: str) -> None:
        hub = self.state
        if name not in hub.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content = hub.files[name]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{_etag(name, content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        is_first = len(hub.asked("GET", f"/{name}")) == 1
        if is_first and name in hub.cut | hub.hold:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            hub.arrived_in_the_middle.set()
            if name in hub.hold:
                hub.let_go.wait(30)
            self.close_connection = True
            return
        self.wfile.write(content[start:])

    def _send_json(self, body: object) -> None:
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, extra: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in extra.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _etag(name: str, content: bytes) -> str:
    """What the real hub sends: a SHA-256 for large files, a git blob id for others."""
    if name.endswith((".safetensors", ".bin")):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _tree_entry(name: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "file",
        "path": name,
        "size": len(content),
        "oid": hashlib.sha1(content, usedforsecurity=False).hexdigest(),
    }
    if name.endswith((".safetensors", ".bin")):
        entry["lfs"] = {"oid": _etag(name, content), "size": len(content), "pointerSize": 130}
    return entry
