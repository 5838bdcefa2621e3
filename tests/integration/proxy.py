"""A web proxy on loopback that treats requests badly by a rule of their number: it drops, delays, repeats, answers 500.

    with proxy("http://127.0.0.1:5000", seeded(7)) as between:
        requests.get(between.uri)

What it did is counted. It holds whole bodies in memory.
"""

import contextlib
import http.client
import http.server
import itertools
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

# drop: the server never sees it. lose: the server does it, and the answer is lost. repeat: the server gets it twice.
ACTIONS = ("drop", "lose", "repeat", "500", "503", "429", "slow")
Rule = Callable[[int, str, str], str]  # the request's number, method and path; returns an action or "pass"


def seeded(seed: int, twenties: float = math.inf) -> Rule:
    """Of each twenty requests that it is asked about, seven are treated badly, each in another way; later ones pass."""
    asked = itertools.count()

    def rule(number: int, method: str, path: str) -> str:
        score, place = divmod(next(asked), 20)
        if score >= twenties:
            return "pass"
        ways = [*ACTIONS, *["pass"] * (20 - len(ACTIONS))]
        random.Random(f"{seed}-{score}").shuffle(ways)
        return ways[place]

    return rule


class Proxy(http.server.ThreadingHTTPServer):
    """Set `rule` at any time. done: how often each action was taken."""

    daemon_threads = True

    def __init__(self, target: str, rule: Rule, slow_s: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target, self.rule, self.slow_s = urlsplit(target), rule, slow_s
        self.done: Counter[str] = Counter()
        self._counting = threading.Lock()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def action(self, method: str, path: str) -> str:
        with self._counting:
            action = self.rule(self.done.total(), method, path)
            self.done[action] += 1
        return action

    def handle_error(self, request, client_address):
        """Clients that went away are part of the game."""


class Handler(http.server.BaseHTTPRequestHandler):
    def handle_any(self):
        body = self._body()
        action = self.server.action(self.command, self.path)
        if action == "drop":
            return self._hang_up()
        if action.isdecimal():
            return self._answer(int(action), [], b"the proxy is unkind")
        if action == "slow":
            time.sleep(self.server.slow_s)
        try:
            if action == "repeat":
                self._ask(body)
            status, headers, content = self._ask(body)
        except (OSError, http.client.HTTPException):
            return self._hang_up()
        return self._hang_up() if action == "lose" else self._answer(status, headers, content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _ask(self, body):
        target = self.server.target
        with contextlib.closing(http.client.HTTPConnection(target.hostname, target.port, timeout=60)) as connection:
            passed = {k: v for k, v in self.headers.items() if k.lower() not in ("transfer-encoding", "content-length")}
            connection.request(self.command, self.path, body, passed | {"Content-Length": str(len(body))})
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def _answer(self, status, headers, content):
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "content-length", "connection", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _hang_up(self):
        self.close_connection = True
        self.connection.close()

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def proxy(target: str, rule: Rule = lambda *request: "pass", slow_s: float = 0.2) -> Iterator[Proxy]:
    """In front of the server at `target`, until the block ends."""
    server = Proxy(target, rule, slow_s)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
