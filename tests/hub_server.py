"""A Hub of our own on the loopback interface, in memory: a script that runs with `hub.environment(folder)` meets no other."""

import base64
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_loopback"
_LARGE = (".parquet", ".safetensors", ".bin")
_API = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(preupload|commit|revision|tree|paths-info)/([^/]+)/?(.*))?")
_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repo:
    """One repository: the files of its last commit."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0

    @property
    def sha(self) -> str:
        return hashlib.sha1(b"%d" % self.commits).hexdigest()


class HubServer(ThreadingHTTPServer):
    """Repositories by (kind, id), uploaded blobs by their SHA-256, and what was asked, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.hang_after: int | None = None
        """After so many uploaded blobs the next ones stay unanswered, as on a line that broke."""
        self.hanging = threading.Event()
        self.refuses = False
        """Uploads of blobs are forbidden."""

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.hanging.set()
        self.shutdown()
        self.server_close()

    def environment(self, folder: Path, token: str = TOKEN) -> dict[str, str]:
        """Environment variables for a process that shall take this for the Hub, with its cache in `folder`."""
        given = {"HF_ENDPOINT": self.url, "HF_HOME": str(folder), "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        return {**kept, **given, "HF_HUB_DISABLE_TELEMETRY": "1"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._read()

    def do_GET(self) -> None:
        self._read()

    def do_PUT(self) -> None:
        body = self._begin()
        hub, oid = self.server, self.path.removeprefix("/lfs/")
        if hub.refuses:
            self._answer(403)
            return
        if hub.hang_after is not None and len(hub.blobs) >= hub.hang_after:
            hub.hanging.wait()
            self.close_connection = True
            return
        hub.blobs[oid] = body
        self._answer(200 if hashlib.sha256(body).hexdigest() == oid else 400)

    def do_POST(self) -> None:
        body, hub, path = self._begin(), self.server, urlsplit(self.path).path
        call = _API.fullmatch(path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, error=("", "Invalid credentials in Authorization header"))
        elif path == "/api/repos/create":
            asked = json.loads(body)
            key = asked["type"], f"{asked['organization']}/{asked['name']}"
            known = key in hub.repos
            hub.repos.setdefault(key, Repo(private=asked.get("private") or asked.get("visibility") == "private"))
            self._answer(409 if known else 200, {"url": f"{hub.url}/{'datasets/' if key[0] == 'dataset' else ''}{key[1]}"})
        elif path == "/api/validate-yaml":
            header = yaml.safe_load(json.loads(body)["content"].split("---")[1])
            self._answer(200, {"errors": [] if isinstance(header, dict) else [{"message": "no mapping"}], "warnings": []})
        elif path.endswith("/info/lfs/objects/batch"):
            links = {"upload": {"href": f"{hub.url}/lfs/"}, "verify": {"href": f"{hub.url}/lfs-verify"}}
            objects: list[dict[str, Any]] = json.loads(body)["objects"]
            for item in objects:
                if item["oid"] not in hub.blobs:
                    item["actions"] = {**links, "upload": {"href": links["upload"]["href"] + item["oid"]}}
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif path == "/lfs-verify":
            self._answer(200 if json.loads(body)["oid"] in hub.blobs else 404, {})
        elif call is None or (repo := hub.repos.get((call[1], call[2]))) is None:
            self._answer(404, error=("RepoNotFound", "Repository not found"))
        elif call[3] == "preupload":
            modes = [(item["path"], item["path"].endswith(_LARGE) or item["size"] > 10_000_000) for item in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False} for name, large in modes]
            self._answer(200, {"files": files})
        elif call[3] == "paths-info":
            asked = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
            self._answer(200, [entry for entry in self._tree(repo) if entry["path"] in asked])
        elif call[3] == "commit":
            self._commit(repo, f"{call[1]}s/{call[2]}".removeprefix("models/"), [json.loads(line) for line in body.splitlines()])

    def _commit(self, repo: Repo, page: str, lines: list[dict[str, Any]]) -> None:
        for value, kind in ((line["value"], line["key"]) for line in lines):
            if kind == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                repo.files[value["path"]] = self.server.blobs[value["oid"]]
            elif kind == "deletedFile":
                del repo.files[value["path"]]
        repo.commits += 1
        url = f"{self.server.url}/{page}/commit/{repo.sha}"
        self._answer(200, {"success": True, "commitOid": repo.sha, "commitUrl": url, "hookOutput": ""})

    def _read(self) -> None:
        self._begin()
        path = unquote(urlsplit(self.path).path)
        call, file = _API.fullmatch(path), _RESOLVE.fullmatch(path)
        key = (call[1], call[2]) if call else ("dataset" if file[1] else "model", file[2]) if file else ("", "")
        repo = self.server.repos.get(key)
        token = self.headers.get("Authorization", "")
        if token not in ("", f"Bearer {TOKEN}"):
            self._answer(401, error=("", "Invalid credentials in Authorization header"))
        elif repo is None or (repo.private and not token):
            self._answer(404, error=("RepoNotFound", "Repository not found"))
        elif (revision := (call[4] if call else file[3] if file else None)) not in (None, "main", repo.sha):
            self._answer(404, error=("RevisionNotFound", f"Invalid rev id: {revision}"))
        elif call and call[3] == "tree":
            below = f"{call[5]}/" if call[5] else ""
            self._answer(200, [entry for entry in self._tree(repo) if entry["path"].startswith(below)])
        elif call:
            facts = {"id": key[1], "sha": repo.sha, "private": repo.private, "tags": [], "downloads": 0, "likes": 0}
            self._answer(200, {**facts, "siblings": [{"rfilename": name, "size": len(data)} for name, data in repo.files.items()]})
        elif file and file[4] in repo.files:
            self._send_file(repo, repo.files[file[4]])
        else:
            self._answer(404, error=("EntryNotFound", "Entry not found"))

    def _send_file(self, repo: Repo, data: bytes) -> None:
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": repo.sha, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._answer(200, data, headers)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        self._answer(206, data[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def _tree(self, repo: Repo) -> list[dict[str, Any]]:
        folders = {str(parent) for name in repo.files for parent in Path(name).parents if parent.name}
        found: list[dict[str, Any]] = [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)]
        for name, data in repo.files.items():
            found.append({"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()})
        return found

    def _begin(self) -> bytes:
        """Note what is asked and give its body."""
        self.server.asked.append((self.command, urlsplit(self.path).path))
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, value: Any = b"", headers: dict[str, str] | None = None, error: tuple[str, str] | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        named = {} if error is None else {"X-Error-Code": error[0], "X-Error-Message": error[1]}
        self.send_response(status)
        for name, text in {**named, **(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
