"""A Hub of its own on loopback, in memory: enough of its interface for the client's calls."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants

from videohpm import hub


class StubHub:
    """Use in a ``with`` statement; ``models[name][revision]`` is a dict of files."""

    def __init__(self):
        self.models: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.requests: list[str] = []
        self.tokens: set[str] = {"good"}
        self.refuse: int | None = None

    def __enter__(self):
        handler = type("Handler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def put(self, name: str, folder, revision: str = "main") -> None:
        files = {f.name: f.read_bytes() for f in folder.iterdir()}
        self.models.setdefault(name, {})[revision] = files

    def fetched(self) -> list[str]:
        """The files that were asked for, in order."""
        return [
            r.rpartition("/")[2] for r in self.requests if r.startswith("GET") and "/resolve/" in r
        ]


def ask(monkeypatch, address: str) -> None:
    """What HF_ENDPOINT does, once the client has been imported."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    files = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)


@contextmanager
def asked_hub(monkeypatch, cache: Path):
    """A StubHub that the client asks, which has a cache of its own, and is logged in."""
    monkeypatch.setenv("HF_TOKEN", "good")
    with StubHub() as stub:
        ask(monkeypatch, stub.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        hub._download.cache_clear()
        yield stub
    hub._download.cache_clear()


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: StubHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *arguments):
        pass

    def answer(self, status: int, body=b"", **headers) -> None:
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def absent(self, code: str) -> None:
        self.answer(404, {"error": code}, X_Error_Code=code)

    def files(self, name: str, revision: str) -> dict[str, bytes] | None:
        """Of a branch or commit; answers itself where there are none."""
        if name not in self.hub.models:
            self.absent("RepoNotFound")
            return None
        branches = self.hub.models[name]
        for branch, files in branches.items():
            if revision in (branch, commit_of(files)):
                return files
        self.absent("RevisionNotFound")
        return None

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, what = "/".join(parts[2:4]), parts[4:]
            files = self.files(name, what[1] if len(what) > 1 else "main")
            if files is None:
                return
            if what[:1] == ["tree"]:
                rows = [{"type": "file", "path": n, "size": len(b), "oid": blob(b)}
                        for n, b in files.items()]  # fmt: skip
                self.answer(200, rows)
                return
            siblings = [{"rfilename": n} for n in files]
            self.answer(200, {"id": name, "sha": commit_of(files), "siblings": siblings})
        elif len(parts) > 3 and parts[2] == "resolve":
            files = self.files("/".join(parts[:2]), parts[3])
            if files is None:
                return
            if parts[4] not in files:
                self.absent("EntryNotFound")
                return
            etag = hashlib.sha1(files[parts[4]]).hexdigest()
            self.answer(200, files[parts[4]], ETag=f'"{etag}"', X_Repo_Commit=commit_of(files))
        elif path == "/api/whoami-v2":
            self.answer(200, {"name": "org", "type": "user", "orgs": []})
        else:
            self.absent("EntryNotFound")

    def do_POST(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"POST {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.hub.refuse or token not in self.hub.tokens:
            self.answer(self.hub.refuse or 401, {"error": "no"})
            return
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given.get('organization') or 'org'}/{given['name']}"
            known = name in self.hub.models
            if given.get("private") or given.get("visibility") == "private":
                self.hub.private.add(name)
            self.hub.models.setdefault(name, {"main": {}})
            self.answer(409 if known else 200, {"url": f"{self.hub.address}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif parts[4] == "branch":
            self.hub.models["/".join(parts[2:4])].setdefault(parts[5], {})
            self.answer(200, {})
        elif parts[4] == "preupload":
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for f in json.loads(body)["files"]]  # fmt: skip
            self.answer(200, {"files": files})
        elif parts[4] == "commit":
            name = "/".join(parts[2:4])
            files = dict(self.hub.models[name][parts[5]])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.hub.models[name][parts[5]] = files
            oid = commit_of(files)
            url = f"{self.hub.address}/{name}/commit/{oid}"
            self.answer(200, {"success": True, "commitUrl": url, "commitOid": oid})
        else:
            self.absent("EntryNotFound")


def blob(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
