"""A local stand-in for the Hugging Face hub: the part of its HTTP interface that models need, and faults on demand.

It was written for the requests of huggingface_hub 2.4, and has not been compared with the real hub.
"""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from huggingface_hub.utils.sha import git_hash

TOKEN = "hf_of_the_stand_in"  # noqa: S105 - not a real token
LARGE = (".safetensors", ".png", ".bin")
"""Suffixes of the files that the hub stores in its large file storage by default."""
Files = dict[str, bytes]


def files_in(folder: Path) -> Files:
    """Return the content of every file of a folder, by its relative POSIX path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class HttpError(Exception):
    """An error response, with the ``X-Error-Code`` that the client evaluates."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class Model:
    """A model repository with a linear history; each commit holds all files."""

    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def main(self) -> str:
        """Id of the newest commit."""
        return list(self.commits)[-1]

    def commit(self, files: Files, message: str = "by hand") -> str:
        """Add a commit with these files, and return its id."""
        sha = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files)}".encode()).hexdigest()  # noqa: S324
        self.commits[sha] = files
        self.messages.append(message)
        return sha

    def resolve(self, revision: str) -> str:
        """Return the commit id of a branch, tag or commit id. Raises HttpError if it does not exist."""
        sha = self.main if revision == "main" else self.tags.get(revision, revision)
        if sha not in self.commits:
            raise HttpError(404, "RevisionNotFound")
        return sha


class Hub:
    """State of the hub: models, large files, counted requests and injected faults."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.storage = url.replace("127.0.0.1", "localhost") + "/large"
        """Base URL of large files: another host, which must never receive a token."""
        self.models: dict[str, Model] = {}
        self.large: dict[str, bytes] = {}
        self.request_counts: Counter[str] = Counter()
        """Number of requests by method and kind: ``GET model``, ``POST commit``, ``PUT large``."""
        self.faults: dict[str, int | str] = {}
        """Fault by kind of request, ``*`` for all: a status to respond with, or ``cut`` to close the connection."""

    def put(self, name: str, files: Mapping[str, bytes], tag: str = "") -> str:
        """Store a model as if somebody had pushed it, and return its commit id."""
        model = self.models.setdefault(name, Model())
        sha = model.commit(dict(files))
        if tag:
            model.tags[tag] = sha
        return sha

    def files(self, name: str, revision: str = "main") -> Files:
        """Return the files of a model, without the one that the hub adds itself."""
        files = self.models[name].commits[self.models[name].resolve(revision)]
        return {path: data for path, data in files.items() if path != ".gitattributes"}

    def model(self, name: str, token: str) -> Model:
        """Return a model that the owner of the token may read. Raises HttpError otherwise."""
        model = self.models.get(name)
        if model is None or (model.private and token != TOKEN):
            raise HttpError(404 if token else 401, "RepoNotFound")
        return model

    # Each of the following methods handles the kind of request that it is named after.

    def create(self, payload: dict[str, Any]) -> dict[str, Any]:
        name = f"{payload['organization']}/{payload['name']}"
        if name not in self.models:
            self.models[name] = Model(private=payload.get("visibility") == "private")
            self.models[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return {"url": f"{self.url}/{name}", "name": name}

    def info(self, name: str, model: Model, sha: str) -> dict[str, Any]:
        siblings = [{"rfilename": path} for path in model.commits[sha]]
        return {"id": name, "sha": sha, "private": model.private, "siblings": siblings, "tags": []}

    def tree(self, model: Model, sha: str) -> list[dict[str, Any]]:
        return [entry(path, data) for path, data in model.commits[sha].items()]

    def refs(self, model: Model) -> dict[str, Any]:
        tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": sha} for tag, sha in model.tags.items()]
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": model.main}
        return {"branches": [main], "converts": [], "tags": tags}

    def preupload(self, files: Files, payload: dict[str, Any]) -> dict[str, Any]:
        ignored = files.get(".gitignore", b"").decode().split()
        return {
            "files": [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": each["path"] in ignored,
                    "oid": digest(each["path"], files[each["path"]]) if each["path"] in files else None,
                }
                for each in payload["files"]
            ]
        }

    def batch(self, payload: dict[str, Any]) -> dict[str, Any]:
        objects = []
        for each in payload["objects"]:
            upload = {"upload": {"href": f"{self.storage}/{each['oid']}"}}
            objects.append(each if each["oid"] in self.large else each | {"actions": upload})
        return {"transfer": "basic", "objects": objects}

    def commit(self, name: str, model: Model, lines: bytes) -> dict[str, Any]:
        files, message = dict(model.commits[model.main]), ""
        for line in lines.splitlines():
            kind, value = json.loads(line).values()
            if kind == "header":
                message = value["summary"]
                if value.get("parentCommit", model.main) != model.main:
                    raise HttpError(412, message="the branch has moved")
            elif kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            else:
                del files[value["path"]]
        sha = model.commit(files, message)
        return {"commitUrl": f"{self.url}/{name}/commit/{sha}", "commitOid": sha}

    def tag(self, model: Model, sha: str, payload: dict[str, Any]) -> dict[str, Any]:
        if payload["tag"] in model.tags:
            raise HttpError(409, message="the tag exists")
        model.tags[payload["tag"]] = sha
        return {}


def digest(path: str, data: bytes) -> str:
    """Return the object id that the hub gives to the content of a file."""
    return hashlib.sha256(data).hexdigest() if path.endswith(LARGE) else git_hash(data)


def entry(path: str, data: bytes) -> dict[str, Any]:
    """Return a file as an entry of a tree listing."""
    plain = {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
    if not path.endswith(LARGE):
        return plain
    return plain | {"lfs": {"oid": digest(path, data), "size": len(data), "pointerSize": 130}}


ROUTES = {
    "POST create": r"/api/repos/create",
    "POST yaml": r"/api/validate-yaml",
    "GET model": r"/api/models/(?P<name>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?",
    "GET tree": r"/api/models/(?P<name>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)",
    "GET refs": r"/api/models/(?P<name>[^/]+/[^/]+)/refs",
    "POST preupload": r"/api/models/(?P<name>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)",
    "POST commit": r"/api/models/(?P<name>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)",
    "POST tag": r"/api/models/(?P<name>[^/]+/[^/]+)/tag/(?P<revision>[^/]+)",
    "POST batch": r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch",
    "HEAD file": r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
    "GET file": r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
    "PUT large": r"/large/(?P<oid>\w+)",
    "GET large": r"/large/(?P<oid>\w+)",
}


class Handler(BaseHTTPRequestHandler):
    """Handle the requests of one client connection."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        for kind, route in ROUTES.items():
            method, _, _ = kind.partition(" ")
            if method == self.command and (match := re.fullmatch(route, path)):
                self.hub.request_counts[kind] += 1
                self._answer_kind(kind, {key: unquote(value or "main") for key, value in match.groupdict().items()})
                return
        self._send_error(HttpError(404, "EntryNotFound"))

    do_GET = do_HEAD = do_POST = do_PUT = _answer  # noqa: N815 - names of http.server

    def _answer_kind(self, kind: str, arguments: dict[str, str]) -> None:
        fault = self.hub.faults.get(kind, self.hub.faults.get("*"))
        length = int(self.headers.get("Content-Length", 0))
        if fault == "cut":
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        try:
            if isinstance(fault, int):
                raise HttpError(fault, message="fault injected by the test")
            if kind.endswith("file"):
                self._file(**arguments)
            elif kind.endswith("large"):
                self._large(kind, arguments["oid"], body)
            else:
                self._json(self._call(kind, body, **arguments))
        except HttpError as error:
            self._send_error(error)

    def _call(self, kind: str, body: bytes, name: str = "", revision: str = "main") -> object:
        hub, token = self.hub, self.headers.get("Authorization", "").removeprefix("Bearer ")
        if kind.startswith("POST") and token != TOKEN:
            raise HttpError(401, message="Invalid credentials in Authorization header")
        payload = json.loads(body) if body and kind != "POST commit" else {}
        if kind == "POST create":
            return hub.create(payload)
        if kind == "POST yaml":
            return {"errors": [], "warnings": []}
        model = hub.model(name, token)
        sha = model.resolve(revision)
        handlers = {
            "GET model": lambda: hub.info(name, model, sha),
            "GET tree": lambda: hub.tree(model, sha),
            "GET refs": lambda: hub.refs(model),
            "POST preupload": lambda: hub.preupload(model.commits[sha], payload),
            "POST batch": lambda: hub.batch(payload),
            "POST commit": lambda: hub.commit(name, model, body),
            "POST tag": lambda: hub.tag(model, sha, payload),
        }
        return handlers[kind]()

    def _file(self, name: str, revision: str, path: str) -> None:
        """Send a small file itself, and for a large one a redirect to its storage."""
        model = self.hub.model(name, self.headers.get("Authorization", "").removeprefix("Bearer "))
        sha = model.resolve(revision)
        if path not in model.commits[sha]:
            raise HttpError(404, "EntryNotFound", sha)
        data = model.commits[sha][path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{digest(path, data)}"'}
        if path.endswith(LARGE):
            oid = digest(path, data)
            self.hub.large[oid] = data
            headers |= {
                "X-Linked-ETag": f'"{oid}"',
                "X-Linked-Size": str(len(data)),
                "Location": f"{self.hub.storage}/{oid}",
            }
            self._send(HTTPStatus.FOUND, b"", headers)
        else:
            self._send(HTTPStatus.OK, data, headers)

    def _large(self, kind: str, oid: str, body: bytes) -> None:
        if "Authorization" in self.headers:
            raise HttpError(400, message="a token was sent to the storage of large files")
        if kind.startswith("PUT"):
            if hashlib.sha256(body).hexdigest() != oid:
                raise HttpError(400, message="the digest of the content differs")
            self.hub.large[oid] = body
        self._send(HTTPStatus.OK, b"" if kind.startswith("PUT") else self.hub.large[oid], {"ETag": f'"{oid}"'})

    def _json(self, data: object) -> None:
        self._send(HTTPStatus.OK, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def _send_error(self, error: HttpError) -> None:
        headers = {"X-Error-Code": error.code, "X-Error-Message": str(error)}
        if error.code == "EntryNotFound" and str(error):
            headers["X-Repo-Commit"] = str(error)
        body = json.dumps({"error": str(error)}).encode()
        self._send(error.status, body, {key: value for key, value in headers.items() if value})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Run a hub server inside the ``with`` block."""
    handler = type("Bound", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.hub = hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
