"""A stand-in of the Hugging Face hub: as much of its HTTP interface as models need, and faults on demand.

It was written against what huggingface_hub 2.4 asks and expects. The real hub was never asked.
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

TOKEN = "hf_of_the_stand_in"  # noqa: S105 - of no real account
LARGE = (".safetensors", ".png", ".bin")
"""What the hub keeps in its large file storage, by default."""
Files = dict[str, bytes]


def files_in(folder: Path) -> Files:
    """Every file of a folder, by its name with / between folders."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Refused(Exception):  # noqa: N818 - an answer
    """An answer that is not 200, with the code that the client looks at."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class Model:
    """A repository of a model; its history is a line of whole trees."""

    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def main(self) -> str:
        """The newest commit."""
        return list(self.commits)[-1]

    def commit(self, files: Files, message: str = "by hand") -> str:
        """Put a whole tree on top."""
        sha = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files)}".encode()).hexdigest()  # noqa: S324
        self.commits[sha] = files
        self.messages.append(message)
        return sha

    def at(self, revision: str) -> str:
        """The commit of a branch, tag or commit."""
        sha = self.main if revision == "main" else self.tags.get(revision, revision)
        if sha not in self.commits:
            raise Refused(404, "RevisionNotFound")
        return sha


class Hub:
    """What is on the hub, and what goes wrong with it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.storage = url.replace("127.0.0.1", "localhost") + "/large"
        """Large files are at another host, which must never see a token."""
        self.models: dict[str, Model] = {}
        self.large: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        """Requests, by method and kind: ``GET model``, ``POST commit``, ``PUT large``."""
        self.faults: dict[str, int | str] = {}
        """By such a kind, or ``*`` for all: a status that is always answered, or ``cut``: the connection closes."""

    def put(self, name: str, files: Mapping[str, bytes], tag: str = "") -> str:
        """A model as it might have been pushed by anyone; gives the commit."""
        model = self.models.setdefault(name, Model())
        sha = model.commit(dict(files))
        if tag:
            model.tags[tag] = sha
        return sha

    def files(self, name: str, revision: str = "main") -> Files:
        """What a model holds, but for what the hub itself puts there."""
        files = self.models[name].commits[self.models[name].at(revision)]
        return {path: data for path, data in files.items() if path != ".gitattributes"}

    def model(self, name: str, token: str) -> Model:
        """A model that whoever has the token may read."""
        model = self.models.get(name)
        if model is None or (model.private and token != TOKEN):
            raise Refused(404 if token else 401, "RepoNotFound")
        return model

    # Each answers one kind of request, with what the client sent; a method's name is the kind's.

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = f"{asked['organization']}/{asked['name']}"
        found = {"url": f"{self.url}/{name}", "name": name}
        if name not in self.models:
            self.models[name] = Model(private=asked.get("visibility") == "private")
            self.models[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return found

    def info(self, name: str, model: Model, sha: str) -> dict[str, Any]:
        siblings = [{"rfilename": path} for path in model.commits[sha]]
        return {"id": name, "sha": sha, "private": model.private, "siblings": siblings, "tags": []}

    def tree(self, model: Model, sha: str) -> list[dict[str, Any]]:
        return [entry(path, data) for path, data in model.commits[sha].items()]

    def refs(self, model: Model) -> dict[str, Any]:
        tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": sha} for tag, sha in model.tags.items()]
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": model.main}
        return {"branches": [main], "converts": [], "tags": tags}

    def preupload(self, files: Files, asked: dict[str, Any]) -> dict[str, Any]:
        ignored = files.get(".gitignore", b"").decode().split()
        return {
            "files": [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": each["path"] in ignored,
                    "oid": digest(each["path"], files[each["path"]]) if each["path"] in files else None,
                }
                for each in asked["files"]
            ]
        }

    def batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        objects = []
        for each in asked["objects"]:
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
                    raise Refused(412, message="the branch has moved")
            elif kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            else:
                del files[value["path"]]
        sha = model.commit(files, message)
        return {"commitUrl": f"{self.url}/{name}/commit/{sha}", "commitOid": sha}

    def tag(self, model: Model, sha: str, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["tag"] in model.tags:
            raise Refused(409, message="the tag exists")
        model.tags[asked["tag"]] = sha
        return {}


def digest(path: str, data: bytes) -> str:
    """What the hub knows a file's bytes by."""
    return hashlib.sha256(data).hexdigest() if path.endswith(LARGE) else git_hash(data)


def entry(path: str, data: bytes) -> dict[str, Any]:
    """A file of a tree."""
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
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Quietly."""

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        for kind, route in ROUTES.items():
            method, _, _ = kind.partition(" ")
            if method == self.command and (found := re.fullmatch(route, path)):
                self.hub.asked[kind] += 1
                self._answer_kind(kind, {key: unquote(value or "main") for key, value in found.groupdict().items()})
                return
        self._refuse(Refused(404, "EntryNotFound"))

    do_GET = do_HEAD = do_POST = do_PUT = _answer  # noqa: N815 - names of http.server

    def _answer_kind(self, kind: str, place: dict[str, str]) -> None:
        fault = self.hub.faults.get(kind, self.hub.faults.get("*"))
        length = int(self.headers.get("Content-Length", 0))
        if fault == "cut":
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        try:
            if isinstance(fault, int):
                raise Refused(fault, message="as the test wants it")
            if kind.endswith("file"):
                self._file(**place)
            elif kind.endswith("large"):
                self._large(kind, place["oid"], body)
            else:
                self._json(self._called(kind, body, **place))
        except Refused as refused:
            self._refuse(refused)

    def _called(self, kind: str, body: bytes, name: str = "", revision: str = "main") -> object:
        hub, token = self.hub, self.headers.get("Authorization", "").removeprefix("Bearer ")
        if kind.startswith("POST") and token != TOKEN:
            raise Refused(401, message="Invalid credentials in Authorization header")
        asked = json.loads(body) if body and kind != "POST commit" else {}
        if kind == "POST create":
            return hub.create(asked)
        if kind == "POST yaml":
            return {"errors": [], "warnings": []}
        model = hub.model(name, token)
        sha = model.at(revision)
        answers = {
            "GET model": lambda: hub.info(name, model, sha),
            "GET tree": lambda: hub.tree(model, sha),
            "GET refs": lambda: hub.refs(model),
            "POST preupload": lambda: hub.preupload(model.commits[sha], asked),
            "POST batch": lambda: hub.batch(asked),
            "POST commit": lambda: hub.commit(name, model, body),
            "POST tag": lambda: hub.tag(model, sha, asked),
        }
        return answers[kind]()

    def _file(self, name: str, revision: str, path: str) -> None:
        """A small file itself; of a large one, where it is to be had."""
        model = self.hub.model(name, self.headers.get("Authorization", "").removeprefix("Bearer "))
        sha = model.at(revision)
        if path not in model.commits[sha]:
            raise Refused(404, "EntryNotFound", sha)
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
            raise Refused(400, message="the token has left the hub")
        if kind.startswith("PUT"):
            if hashlib.sha256(body).hexdigest() != oid:
                raise Refused(400, message="these bytes have another digest")
            self.hub.large[oid] = body
        self._send(HTTPStatus.OK, b"" if kind.startswith("PUT") else self.hub.large[oid], {"ETag": f'"{oid}"'})

    def _json(self, data: object) -> None:
        self._send(HTTPStatus.OK, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def _refuse(self, refused: Refused) -> None:
        headers = {"X-Error-Code": refused.code, "X-Error-Message": str(refused)}
        if refused.code == "EntryNotFound" and str(refused):
            headers["X-Repo-Commit"] = str(refused)
        body = json.dumps({"error": str(refused)}).encode()
        self._send(refused.status, body, {key: value for key, value in headers.items() if value})

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
    """Serve until the block ends."""
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
