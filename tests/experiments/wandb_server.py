"""A W&B server of our own, in this process: as much of one as the client of wandb 0.31.0 asks for.

It keeps what it was sent and can be told to hang, to refuse or to die and come back, at any time. Whoever tests reads
`runs`, the data by run id, and `requests`, how often each operation was asked for. No authentication, loopback only.
"""

import base64
import gzip
import hashlib
import json
import re
import socket
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "tester"


@dataclass(frozen=True)
class Behaviour:
    """What happens to requests: answered, refused with `code`, or accepted and never answered."""

    kind: str = "serve"  # serve | refuse | hang
    code: int = 200
    operations: frozenset[str] = frozenset()  # all if empty

    def towards(self, operation: str) -> str:
        return self.kind if not self.operations or operation in self.operations else "serve"


SERVE = Behaviour()
HANG = Behaviour("hang")
ROWS = "file_stream"  # the operation that carries rows and the end of a run; the others have their GraphQL names


TELEMETRY = "sdk"  # the client's reports on itself, sent whenever it likes; not counted


def refusing(code: int, *operations: str) -> Behaviour:
    return Behaviour("refuse", code, frozenset(operations))


@dataclass
class Run:
    """What the server holds of one run."""

    id: str
    project: str
    entity: str
    name: str = ""
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)  # as sent: {"seed": {"value": 1}}
    summary: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    state: str = "running"
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """The config without its wrapping and without what W&B adds for itself."""
        return {name: item["value"] for name, item in self.config.items() if name != "_wandb"}


class Server:
    """Start it, stop it, start it again: the port and the data stay."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.requests: Counter[str] = Counter()
        self.faults: list[str] = []  # what no client should send, or what is asked for and not known here
        self.rows_received = 0  # also those sent twice
        self.port = 0
        self.lock = threading.RLock()
        self._behaviour = SERVE
        self._changed = threading.Event()  # wakes requests that hang
        self._http: _Http | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def behaviour(self) -> Behaviour:
        return self._behaviour

    @behaviour.setter
    def behaviour(self, wanted: Behaviour) -> None:
        self._behaviour = wanted
        self._changed.set()  # what hung until now is dropped; the client asks again
        self._changed = threading.Event()

    def start(self) -> "Server":
        self._http = _Http(self)
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self) -> None:
        """As a killed server: the port is closed and every connection is cut."""
        if self._http is None:
            return
        http, self._http = self._http, None
        http.shutdown()
        http.server_close()
        self._changed.set()
        self._changed = threading.Event()
        for connection in list(http.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        self._changed.wait()

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """To a GraphQL request."""
        with self.lock:
            if (method := getattr(self, f"_on_{operation}", None)) is None:
                self.faults.append(f"unknown operation {operation}")
                return {"errors": [{"message": f"unknown operation {operation}"}]}
            return {"data": method(variables)}

    def take(self, run_id: str, sent: dict[str, Any]) -> None:
        """One message of a run's file stream."""
        with self.lock:
            run = self.runs[run_id]
            for name, chunk in (sent.get("files") or {}).items():
                if name == "wandb-history.jsonl":
                    offset, rows = chunk["offset"], [json.loads(line) for line in chunk["content"]]
                    if offset > len(run.rows):
                        self.faults.append(f"{run_id}: rows for {offset} when there are {len(run.rows)}")
                    run.rows[offset : offset + len(rows)] = rows
                    self.rows_received += len(rows)
                if name == "wandb-summary.json":
                    run.summary = json.loads(chunk["content"][-1])
            if sent.get("complete"):
                run.state = "finished" if sent.get("exitcode") == 0 else "failed"

    def upload(self, run_id: str, name: str, content: bytes) -> None:
        with self.lock:
            self.runs[run_id].files[name] = content

    # GraphQL, one method an operation: the client names it, `variables` are its arguments.

    def _on_Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        user = {"id": ident("User", "1"), "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "t@localhost"}
        keys: dict[str, Any] = {"edges": []}
        return {"viewer": {**user, "flags": "{}", "admin": False, "deletedAt": None, "apiKeys": keys, "teams": teams}}

    _on_GetViewer = _on_GetDefaultEntity = _on_Viewer

    def _on_UpsertBucket(self, asked: dict[str, Any]) -> dict[str, Any]:
        run_id, project, entity = asked["name"], asked.get("project") or "none", asked.get("entity") or ENTITY
        inserted = run_id not in self.runs
        run = self.runs.setdefault(run_id, Run(run_id, project, entity))
        run.config |= json.loads(asked.get("config") or "{}")
        run.summary |= json.loads(asked.get("summaryMetrics") or "{}")
        run.name = asked.get("displayName") or run.name
        run.group = asked.get("groupName") or run.group
        run.tags = run.tags if asked.get("tags") is None else asked["tags"]
        run.state = asked.get("state") or "running"
        return {"upsertBucket": {"bucket": {**core_of(run), "project": project_of(run)}, "inserted": inserted}}

    def _on_RunResumeStatus(self, asked: dict[str, Any]) -> dict[str, Any]:
        entity = {"id": ident("Entity", ENTITY), "name": ENTITY}
        model = {"id": ident("Project", asked["project"]), "name": asked["project"], "entity": entity, "bucket": None}
        if (run := self.runs.get(asked["name"])) is not None:
            tails = {"historyTail": json.dumps([json.dumps(row) for row in run.rows[-1:]]), "eventsTail": "[]"}
            counts = {"logLineCount": 0, "eventsLineCount": 0}
            model["bucket"] = {**core_of(run), **tails, **counts, "wandbConfig": json.dumps({"t": 1})}
        return {"model": model}

    def _on_CreateRunFiles(self, asked: dict[str, Any]) -> dict[str, Any]:
        run_id = asked["run"]
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{run_id}/{name}"} for name in asked["files"]]
        return {"createRunFiles": {"runID": ident("Run", run_id), "uploadHeaders": [], "files": files}}

    def _on_Run(self, asked: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(asked["name"])
        return {"project": {"internalId": "1", "run": None if run is None else public(run)}}

    def _on_Runs(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A page of a project's runs; a project without any is none."""
        place = asked["entity"], asked["project"]
        runs = [run for run in self.runs.values() if (run.entity, run.project) == place]
        if not runs:
            return {"project": None}
        first = int(asked.get("cursor") or 0)
        last = min(first + asked["perPage"], len(runs))
        edges = [{"node": public(run), "cursor": str(last)} for run in runs[first:last]]
        page = {"edges": edges, "pageInfo": {"endCursor": str(last), "hasNextPage": last < len(runs)}}
        return {"project": {"internalId": "1", "runCount": len(runs), "readOnly": False, "runs": page}}

    def _on_RunHistoryKeys(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"historyKeys": public(self.runs[asked["name"]])["historyKeys"]}}}

    def _on_RunFiles(self, asked: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[asked["name"]]
        names = [name for name in run.files if name in (asked.get("fileNames") or run.files)]
        files_url = f"{self.url}/download/{run.id}"
        edges = [{"node": file_of(run, name, f"{files_url}/{name}"), "cursor": name} for name in names]
        files = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"internalId": "1", "run": {"fileCount": len(run.files), "files": files}}}

    def _on_RunParquetHistory(self, asked: dict[str, Any]) -> dict[str, Any]:
        rows = [{key: row[key] for key in asked["liveKeys"] if key in row} for row in self._rows(asked)]
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": rows}}}}

    def _on_HistoryPage(self, asked: dict[str, Any]) -> dict[str, Any]:
        rows = [json.dumps(row) for row in self._rows(asked) if asked["minStep"] <= row["_step"] < asked["maxStep"]]
        return {"project": {"run": {"history": rows}}}

    def _rows(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        return self.runs[asked.get("run") or asked["runName"]].rows


def ident(*parts: str) -> str:
    """An opaque id, as GraphQL has them."""
    return base64.b64encode(":".join(parts).encode()).decode()


def project_of(run: Run) -> dict[str, Any]:
    entity = {"id": ident("Entity", run.entity), "name": run.entity}
    return {"id": ident("Project", run.project), "name": run.project, "entity": entity}


def core_of(run: Run) -> dict[str, Any]:
    """The fields that every answer about a run has."""
    content = {"config": json.dumps(run.config), "summaryMetrics": json.dumps(run.summary), "tags": run.tags}
    names = {"id": ident("Run", run.id), "name": run.id, "displayName": run.name, "group": run.group}
    return {**names, **content, "description": None, "sweepName": None, "historyLineCount": len(run.rows)}


def public(run: Run) -> dict[str, Any]:
    """A run as the public API asks for it. Without rows, the real server knows no last step."""
    times = dict.fromkeys(("createdAt", "heartbeatAt"), "2017-07-20T00:00:00")
    unset = dict.fromkeys(("jobType", "commit", "notes"))
    keys = {"lastStep": run.rows[-1]["_step"] if run.rows else -1, "keys": {}}
    user = {"name": run.entity, "username": run.entity}
    state = {"state": run.state, "projectId": "1", "readOnly": False, "systemMetrics": "{}", "user": user}
    return {**core_of(run), **times, **unset, **state, "historyKeys": keys}


def file_of(run: Run, name: str, url: str) -> dict[str, Any]:
    content = run.files[name]
    unset = dict.fromkeys(("directUrl", "mimetype", "updatedAt"))
    digest = base64.b64encode(hashlib.md5(content).digest()).decode()
    names = {"id": ident("File", run.id, name), "name": name, "url": url}
    return {**names, "sizeBytes": len(content), "md5": digest, **unset}


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, state: Server):
        self.state = state
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", state.port), _Handler)

    def handle_error(self, *_: Any) -> None:
        """A client that was killed, or cut off by `stop`."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer: two would wait for each other's acknowledgement
    server: _Http

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, *_: Any) -> None:
        pass

    def handle_request(self) -> None:
        state = self.server.state
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        sent = json.loads(content) if self.path == "/graphql" or self.path.endswith("/file_stream") else {}
        operation = self.operation(sent)
        if operation != TELEMETRY:
            with state.lock:
                state.requests[operation] += 1
        match state.behaviour.towards(operation):
            case "hang":
                state.hang()
                self.close_connection = True
            case "refuse":
                self.reply(b'{"error": "refused"}', state.behaviour.code)
            case _:
                self.reply(self.served(operation, sent, content))

    do_GET = do_POST = do_PUT = handle_request

    def operation(self, sent: dict[str, Any]) -> str:
        if self.path == "/graphql":
            found = re.search(r"(?:query|mutation)\s+(\w+)", sent["query"])
            return found[1] if found else "unnamed"
        return ROWS if self.path.endswith("/file_stream") else self.path.split("/")[1]

    def served(self, operation: str, sent: dict[str, Any], content: bytes) -> bytes:
        parts = self.path.split("/")  # /files/ENTITY/PROJECT/RUN/file_stream, /upload/RUN/FILE or /download/RUN/FILE
        state, name = self.server.state, "/".join(parts[3:])
        if self.path == "/graphql":
            return json.dumps(state.answer(operation, sent.get("variables") or {})).encode()
        if operation == "download":
            return state.runs[parts[2]].files[name]
        if operation == ROWS:
            state.take(parts[-2], sent)
        elif operation == "upload":
            state.upload(parts[2], name, content)
        return b"{}"

    def reply(self, body: bytes, code: int = 200) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
