"""PostgreSQL for the tests: a server of its own folder, on a free port of this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

PACKAGE = Path(__file__).resolve().parents[1] / "tools" / "packages" / "postgres"
PASSWORD = "correct-horse-battery-staple"
NOBODY = 65_534
START_S = 60


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def serving(*, is_durable: bool = False) -> Iterator[str]:
    """Run a server, and give the URL of its database; without the package this fails."""
    if not (PACKAGE / "bin" / "postgres").is_file():
        raise FileNotFoundError(f"there is no PostgreSQL in {PACKAGE}: run scripts/setup --dev")
    with tempfile.TemporaryDirectory(prefix="keeper-postgres-") as name:
        folder, run = Path(name), PACKAGE
        # The server refuses to run as root, and another user may not see this folder.
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            as_user = {"user": NOBODY, "group": NOBODY}
            run = folder / "run"
            shutil.copytree(PACKAGE, run, symlinks=True)
            shutil.chown(folder, NOBODY, NOBODY)
        secret, data, log = folder / "password", folder / "data", folder / "log"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        made = subprocess.run(
            [
                run / "bin" / "initdb", "--pgdata", data, "--username", "keeper", "--pwfile", secret,
                "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync",
            ],
            capture_output=True, text=True, check=False, cwd=folder, **as_user,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        port = free_port()
        settings = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "on" if is_durable else "off",
            "max_connections": 60,
            "shared_buffers": "16MB",
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        with log.open("w") as out:
            server = subprocess.Popen(
                [run / "bin" / "postgres", "-D", data, *options],
                stdout=out, stderr=out, cwd=folder, **as_user,
            )  # fmt: skip
        url = f"postgresql://keeper:{PASSWORD}@127.0.0.1:{port}/postgres"
        try:
            _wait(server, url, log)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                # Sessions that are still open, or stopped, hold up a polite end.
                server.kill()
                server.wait()


def drop(url: str, schema: str) -> None:
    """Drop what a test has left: journals of one wallet would be led together."""
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as db:
        db.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE'.encode())


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
        except psycopg.OperationalError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"PostgreSQL does not run: {log.read_text()}") from error
            time.sleep(0.05)
        else:
            return


class Line:
    """A line to a server that can be cut: what is sent then is taken, and answered by nobody."""

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._goes = threading.Event()
        self._goes.set()
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """The server's URL, by way of this line."""
        port = self._listening.getsockname()[1]
        return self._server._replace(netloc=f"keeper:{PASSWORD}@127.0.0.1:{port}").geturl()

    def cut(self) -> None:
        """Pass nothing on any more."""
        self._goes.clear()

    def mend(self) -> None:
        """Pass on again, what waited first."""
        self._goes.set()

    def close(self) -> None:
        """Hang up."""
        self._goes.set()
        for each in (self._listening, *self._ends):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection((self._server.hostname, self._server.port))
                self._ends += [near, far]
                for each in (near, far):
                    # Or small messages wait for one another, forty milliseconds each.
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while some := source.recv(2**16):
                self._goes.wait()
                sink.sendall(some)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
