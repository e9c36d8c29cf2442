"""The real command line as a process, on a real node: what it refuses, how it stops, what it outlives.

A refusal is exit status 2 and one line on stderr. No output, no file and no journal ever holds a key.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, Self

import pytest
import structlog

from keeper.cli import main
from keeper.domain import Kind, OracleView
from keeper.journal.reader import JournalReader
from keeper.journal.store import SqliteJournal
from keeper.lab.anvil import Node, stop
from keeper.lab.anvil import anvil as running_anvil
from keeper.lab.deploy import QUOTE, Deployed, OptionSpec, Spec, deploy
from keeper.lab.world import FOREVER, fast_prices, person, reporters, trade
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.signing import Order
from keeper.units import WAD, FeedId, Wad
from tests.stub_venues import StubVenues

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
GENESIS_S = 1_700_000_000
SOON_S = 8.0
"""Within which a daemon ends that is told to: 2 s for its work and some for a busy machine, and less than the
10 s for which a request waits for its node."""
KEEPER, OWNER, MAKER = person(1, "keeper"), person(1, "owner"), person(1, "maker")
REPORTERS = reporters(1)
KEY = "0x" + KEEPER.key.hex()
REPORTER_KEYS = ",".join("0x" + reporter.key.hex() for reporter in REPORTERS)
SECRETS = {"KEEPER_PRIVATE_KEY": KEY, "KEEPER_REPORTER_KEYS": REPORTER_KEYS}
BEFORE: dict[FeedId, Wad] = {"BTC/USD": 20_000 * WAD, "ETH/USD": 1_500 * WAD, "SYN/USD": 7 * WAD}
AFTER = BEFORE | {"BTC/USD": 19_000 * WAD}
"""The fall that puts the owner, long 10 on a margin of 17,000, into breach."""
NO_PRICES = ("nan", "0", "-19000", "inf", "1e4")


def write(folder: Path, **changes: str) -> None:
    """Write the configuration; ``changes`` replace its values, by the name of the setting.

    A clearing takes the place of the reader.
    """
    settings = {
        "http": '"http://127.0.0.1:1"',
        "ws": '"ws://127.0.0.1:1"',
        "chain_id": "31337",
        "reader": '"0x' + "00" * 20 + '"',
        "from_block": "0",
        "path": '"prices.csv"',
        "native_feed": '"ETH/USD"',
    } | changes
    if "clearing" in settings:
        del settings["reader"]
    sections = {
        "chain": ("http", "ws", "chain_id"),
        "deployment": ("reader", "clearing", "from_block"),
        "feed": ("path",),
        "economics": ("native_feed",),
    }
    lines = []
    for section, names in sections.items():
        lines += [f"[{section}]", *(f"{name} = {settings[name]}" for name in names if name in settings)]
    (folder / "keeper.toml").write_text("\n".join(lines) + "\n")


def environment(secrets: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KEEPER_")}
    return {**inherited, **secrets, "PYTHONPATH": str(ROOT)}


def one_line(folder: Path, code: object, said: str, told: str, secrets: Mapping[str, str] = SECRETS) -> str:
    """Check that a command was refused as every refusal is; return its line."""
    (line,) = told.splitlines()
    assert line.startswith("keeper: ")
    assert code == 2
    no_key_in(folder, said + told, *secrets.values())
    return line


def refused_process(
    folder: Path, *, command: str = "run", secrets: Mapping[str, str] = SECRETS, config: str = "keeper.toml"
) -> str:
    """Run a command that must be refused as a process of its own; return its line."""
    done = subprocess.run(
        [sys.executable, "-m", "keeper", command, "--config", config],
        cwd=folder, env=environment(secrets), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return one_line(folder, done.returncode, done.stdout, done.stderr, secrets)


class Refused(Protocol):
    def __call__(self, folder: Path, command: str = ..., secrets: Mapping[str, str] = ...) -> str: ...


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Refused]:
    """Run a command that must be refused in this process, which spares it the imports; return its line."""

    def _refused(folder: Path, command: str = "run", secrets: Mapping[str, str] = SECRETS) -> str:
        for name in [name for name in os.environ if name.startswith("KEEPER_")]:
            monkeypatch.delenv(name)
        for name, value in secrets.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["keeper", command, "--config", "keeper.toml"])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return one_line(folder, ended.value.code, captured.out, captured.err, secrets)

    yield _refused
    structlog.reset_defaults()


def no_key_in(folder: Path, said: str = "", *others: str) -> None:
    """Check that nothing said, and no file written, holds any part of a key that was given."""
    keys = [KEY, *REPORTER_KEYS.split(","), *(each for each in others if len(each) > 20)]
    written = b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
    for key in (key.removeprefix("0x") for key in keys):
        assert key not in said
        assert key.encode() not in written
        with suppress(ValueError):
            assert bytes.fromhex(key) not in written


@dataclass
class Daemon:
    """A keeper process, and what it says."""

    folder: Path
    process: subprocess.Popen[str]
    lines: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ear = threading.Thread(target=self._listen, daemon=True)
        self._ear.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def heard(self, event: str, **values: object) -> bool:
        """Tell whether it has logged an event with these values."""
        wanted = {"event": event, **values}
        return any(wanted.items() <= line.items() for line in list(self.lines))

    def until(self, condition: Callable[[], bool], patience_s: float = 60.0) -> None:
        deadline = time.monotonic() + patience_s
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, self.lines[-5:]
            time.sleep(0.01)

    def done_with(self, block: int) -> bool:
        """Tell whether the journal, or the reporter, says that a block is done."""
        if any(self.heard(f"{name}.head_done", block=block) for name in ("reporter", "steward")):
            return True
        path = self.folder / "journal.sqlite"
        if not path.exists():
            return False
        with suppress(Exception):
            reader = JournalReader(path)
            try:
                return reader.head_done(block)
            finally:
                reader.close()
        return False

    def end(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Tell it to stop; return how long that took."""
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(20)
        took_s = time.monotonic() - began
        self._ear.join(5)
        assert self.process.stderr is not None
        assert (code, self.process.stderr.read()) == (0, "")
        assert self.lines[-1]["event"] == "stopped"
        return took_s


@contextmanager
def running(folder: Path, *command: str, secrets: Mapping[str, str] = SECRETS) -> Iterator[Daemon]:
    """Start a keeper; whatever becomes of the test, it is gone afterwards, and has shown no key."""
    process = subprocess.Popen(
        [sys.executable, "-m", "keeper", *command, "--config", "keeper.toml"],
        cwd=folder, env=environment(secrets), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    daemon = Daemon(folder, process)
    try:
        yield daemon
        no_key_in(folder, json.dumps(daemon.lines))
    finally:
        stop(process)  # type: ignore[arg-type]  # a text process is stopped like any other
        assert process.stderr is not None
        assert process.stdout is not None
        process.stderr.close()
        process.stdout.close()


class Relay:
    """A wire to the node that can be cut, mended, or go silent at a word."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._wires: list[socket.socket] = []
        self.silent_at: bytes | None = None
        self.silent = threading.Event()
        self._accept()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def cut(self) -> None:
        """Refuse every connection from now on, and drop those there are."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for wire in self._wires:
            with suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
            wire.close()
        self._wires.clear()

    def mend(self) -> None:
        """Take connections on the same port again."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._accept()

    def _accept(self) -> None:
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                self._wires.append(near)
                far = socket.create_connection(("127.0.0.1", self._target))
                self._wires.append(far)
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self.silent_at is not None and self.silent_at in data:
                    self.silent.set()
                if not self.silent.is_set():
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@dataclass
class Site:
    """A deployment on a chain, and the folder of one keeper of it."""

    node: Node
    folder: Path
    options: tuple[OptionSpec, ...] = ()

    @property
    def port(self) -> int:
        return int(self.node.http_url.rpartition(":")[2])

    @cached_property
    def deployed(self) -> Deployed:
        signers = [reporter.address for reporter in REPORTERS]
        return deploy(self.node, signers=signers, spec=Spec(options=self.options))

    def configure(self, relay: Relay | None = None, **changes: str) -> None:
        """Write a good configuration with some changes, and prices if there are none."""
        port = relay.port if relay else self.port
        reader = {} if "reader" in changes else {"reader": f'"{self.deployed.protocol.reader}"'}
        write(
            self.folder,
            **{
                "http": f'"http://127.0.0.1:{port}"',
                "ws": f'"ws://127.0.0.1:{port}"',
                "chain_id": str(self.node.chain_id),
                **reader,
                **changes,
            },
        )
        if not (self.folder / "prices.csv").exists():
            self.prices("19000")

    def prices(self, *btc: str) -> None:
        """Record prices from the newest block on: each of BTC's for 12 seconds, the last one for longer."""
        now_s = self.node.timestamp_s()
        lines = []
        for second in range(120):
            texts = {"BTC/USD": btc[min(second // 12, len(btc) - 1)], "ETH/USD": "1510", "SYN/USD": "7.1"}
            lines += [f"{now_s + second},{feed},{text}" for feed, text in texts.items()]
        (self.folder / "prices.csv").write_text("\n".join(["timestamp_s,feed,price", *lines]) + "\n")

    def post(self, prices: dict[FeedId, Wad], *then: Any) -> None:
        """Mine a block 12 s later with both prices of every feed, and what is to happen at them."""
        at_s = self.node.timestamp_s() + 12
        rounds = [self.deployed.slow_round(feed, price) for feed, price in prices.items()]
        keys = [reporter.key for reporter in REPORTERS]
        self.node.run([*rounds, fast_prices(self.deployed, keys, prices, at_s), *then], at_s)

    def breach(self) -> None:
        """Fund everyone, open the owner's position, and let the price fall."""
        self.open()
        self.post(AFTER)

    def open(self) -> None:
        """Fund everyone, and open the owner's position."""
        deployed, node = self.deployed, self.node
        node.fund([KEEPER.address, *(reporter.address for reporter in REPORTERS)])
        cash = {OWNER.account: 17_000 * WAD, MAKER.account: 10**6 * WAD, KEEPER.account: 10**5 * WAD}
        node.run(deployed.mint(QUOTE, 2 * 10**6 * WAD))
        node.run(
            [
                deployed.give_credit(QUOTE, sum(cash.values()), deployed.admin),
                deployed.give_credit(QUOTE, 10_000 * WAD, KEEPER.address),
                *(deployed.deposit(account, QUOTE, amount) for account, amount in cash.items()),
            ]
        )
        self.post(
            BEFORE,
            *(deployed.prove(feed) for feed in BEFORE),
            trade(deployed, OWNER, MAKER, Order(OWNER.account, 1, 10 * WAD, BEFORE["BTC/USD"], 1, FOREVER)),
        )

    def oracles(self) -> OracleView:
        """Read prices, risk arrays and settlements at the newest block."""
        market = HybridMarket(self.deployed.protocol)
        call = market.prices_call()
        return market.decode_prices(self.node.call(call.to, call.data))

    def value(self, steward: str) -> None:
        """Add a section to the configuration."""
        with (self.folder / "keeper.toml").open("a") as file:
            file.write(f"[steward]\n{steward}\n")

    def sent(self, address: str = KEEPER.address) -> int:
        """Count a wallet's transactions, pending ones too."""
        return int(self.node.rpc("eth_getTransactionCount", address, "pending"), 16)

    def journal(self, name: str = "journal.sqlite") -> JournalReader:
        return JournalReader(self.folder / name)


@pytest.fixture
def site(anvil: Node, tmp_path: Path) -> Site:
    return Site(anvil, tmp_path)


def without_reader(site: Site) -> None:
    """Take the reader off the chain, and name the deployment by its Clearing."""
    site.node.rpc("anvil_setCode", site.deployed.protocol.reader, "0x")
    site.configure(clearing=f'"{site.deployed.protocol.clearing}"')


PUT = OptionSpec("BTC/USD", Kind.PUT, 19_500 * WAD, GENESIS_S + 30 * 86_400)
SOON = OptionSpec("BTC/USD", Kind.CALL, 18_000 * WAD, GENESIS_S + 600)
ETH_CALL = OptionSpec("ETH/USD", Kind.CALL, 1_500 * WAD, GENESIS_S + 30 * 86_400)
BOTH = pytest.mark.parametrize("command", ["run", "report-prices"])
NOBODY = "0x" + "12" * 20


# --- refused before the first act ----------------------------------------------------------------


def test_a_process_on_another_chain_ends_with_one_line(site: Site) -> None:
    site.configure(chain_id=str(site.node.chain_id + 1))
    said = refused_process(site.folder)
    assert said.startswith(f"keeper: chain {site.node.chain_id + 1} is configured, but http://127.0.0.1:")
    assert said.endswith(f"serves {site.node.chain_id}")


def test_a_process_without_code_at_the_readers_address_ends_with_one_line(site: Site) -> None:
    site.configure(reader=f'"{NOBODY}"')
    assert f"deployment.reader {NOBODY} has no code on chain {site.node.chain_id}" in refused_process(
        site.folder
    )


def test_a_process_whose_reader_is_another_contract_ends_with_one_line(site: Site) -> None:
    address = site.deployed.protocol.vault
    site.configure(reader=f'"{address}"')
    assert f"deployment.reader {address} does not answer as a MarginReader" in refused_process(site.folder)


def test_a_deployment_named_by_what_is_no_clearing_is_refused(site: Site, refused: Refused) -> None:
    site.configure(clearing=f'"{NOBODY}"')
    assert f"deployment.clearing {NOBODY} has no code on chain {site.node.chain_id}" in refused(site.folder)
    protocol = site.deployed.protocol
    for address in (protocol.vault, protocol.liquidator, protocol.reader, protocol.quote):
        site.configure(clearing=f'"{address}"')
        assert f"deployment.clearing {address} does not answer as a Clearing" in refused(site.folder)


def test_a_process_that_cannot_reach_its_node_ends_with_one_line(tmp_path: Path) -> None:
    write(tmp_path)
    assert "eth_chainId at http://127.0.0.1:1: no answer" in refused_process(tmp_path)


@pytest.mark.parametrize(
    ("key", "why"), [(None, "no key: set"), (KEY[:-1], "is not a private key of 32 bytes")]
)
def test_a_process_without_a_good_key_ends_with_one_line(site: Site, key: str | None, why: str) -> None:
    site.configure()
    assert why in refused_process(site.folder, secrets={"KEEPER_PRIVATE_KEY": key} if key else {})


def test_a_process_with_a_bad_configuration_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "keeper.toml").write_text("[chain\n")
    assert "the configuration keeper.toml is not valid TOML: " in refused_process(tmp_path)


def test_a_reporter_is_refused_for_the_same_reasons(site: Site, refused: Refused) -> None:
    site.configure(chain_id="1")
    assert "chain 1 is configured" in refused(site.folder, "report-prices")
    site.configure(reader=f'"{NOBODY}"')
    assert f"deployment.reader {NOBODY} has no code" in refused(site.folder, "report-prices")
    write(site.folder)
    assert "eth_chainId at http://127.0.0.1:1: no answer" in refused(site.folder, "report-prices")


def test_a_steward_is_refused_without_options_or_their_volatility(site: Site, refused: Refused) -> None:
    site.configure()
    assert f"deployment.reader {site.deployed.protocol.reader} lists no option" in refused(
        site.folder, "report-options"
    )
    other = Site(site.node, site.folder, (PUT, ETH_CALL))
    other.configure()
    assert "steward.vols has no volatility for BTC/USD, ETH/USD" in refused(site.folder, "report-options")
    other.value('vols = { "ETH/USD" = 1.0 }')
    assert "steward.vols has no volatility for BTC/USD" in refused(site.folder, "report-options")
    other.configure()
    other.value('vols = { "BTC/USD" = 0.8, "ETH/USD" = 1.0 }')
    few = {"KEEPER_REPORTER_KEYS": REPORTER_KEYS.partition(",")[0]}
    assert "1 different signer keys given, the oracle's quorum needs 3" in refused(
        site.folder, "report-options", few
    )


def test_code_that_is_no_margin_reader_is_refused_whatever_it_answers(site: Site, refused: Refused) -> None:
    protocol = site.deployed.protocol
    codes = ["0x00", "0x5f5ff3", "0x60ff5f5260205ff3", "0x5f195f526101005ff3", "0x6101005ff3", "0xfe"]
    for number, code in enumerate(codes, start=1):
        site.node.rpc("anvil_setCode", f"0x{number:040x}", code)
    fakes = [f"0x{number:040x}" for number in range(1, len(codes) + 1)]
    for address in (*fakes, protocol.clearing, protocol.fast_oracle, protocol.quote):
        site.configure(reader=f'"{address}"')
        assert f"deployment.reader {address} does not answer as a MarginReader" in refused(site.folder)


def test_an_endpoint_that_is_no_node_is_refused_without_its_path(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BaseHTTPRequestHandler, "log_message", lambda *_: None)
    secret = "an-api-key-of-some-length"
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        write(tmp_path, http=f'"http://127.0.0.1:{server.server_port}/{secret}"')
        said = refused(tmp_path)
        server.shutdown()
    assert said.endswith(
        f"eth_chainId at http://127.0.0.1:{server.server_port}: expected JSON-RPC, found HTTP 501"
    )


@pytest.mark.parametrize(
    ("command", "secrets", "why"),
    [
        ("run", {}, "no key: set KEEPER_PRIVATE_KEY, or a keystore with its passphrase file"),
        ("run", {"KEEPER_PRIVATE_KEY": "0x" + "zz" * 32}, "KEEPER_PRIVATE_KEY is not a private key of"),
        ("report-prices", {}, "no reporter keys: set KEEPER_REPORTER_KEYS"),
        ("report-prices", {"KEEPER_REPORTER_KEYS": ","}, "KEEPER_REPORTER_KEYS: key 1 is not a private key"),
        ("report-prices", {"KEEPER_REPORTER_KEYS": REPORTER_KEYS[:-2]}, "KEEPER_REPORTER_KEYS: key 5 is not"),
        ("report-prices", {"KEEPER_REPORTER_KEYS": KEY}, f"{KEEPER.address} is no signer of the oracle 0x"),
        (
            "report-prices",
            {"KEEPER_REPORTER_KEYS": f"{REPORTER_KEYS[:66]},{REPORTER_KEYS[:66]}"},
            "1 different reporter keys given and no peers, the oracle's quorum needs 3",
        ),
    ],
)
def test_a_key_that_is_missing_or_malformed_is_refused_and_never_shown(
    site: Site, refused: Refused, command: str, secrets: dict[str, str], why: str
) -> None:
    site.configure()
    assert why in refused(site.folder, command, secrets)


@pytest.mark.parametrize(
    ("command", "line", "token", "why"),
    [
        ("report-prices", '[reporter]\npeers = ["http://127.0.0.1:1"]', "", "is not set: make it 16 to 256"),
        ("report-prices", '[reporter]\nlisten = "127.0.0.1:0"', "", "is not set"),
        ("report-prices", '[reporter]\nlisten = "127.0.0.1:0"', "too short", "is set, but is not 16 to 256"),
        ("run", '[reports]\nendpoints = ["http://127.0.0.1:1"]', "", "KEEPER_EXCHANGE_TOKEN is not set"),
    ],
)
def test_without_the_groups_token_there_is_no_exchange(
    site: Site, refused: Refused, command: str, line: str, token: str, why: str
) -> None:
    site.configure()
    with (site.folder / "keeper.toml").open("a") as file:
        file.write(line + "\n")
    assert why in refused(site.folder, command, {**SECRETS, "KEEPER_EXCHANGE_TOKEN": token})


@BOTH
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "cannot be read: No such file or directory"),
        ("[chain\n", "is not valid TOML: "),
        ("[chain]\nchain_id = -1\n", "cannot be used: "),
    ],
)
def test_a_bad_configuration_is_refused(
    tmp_path: Path, refused: Refused, command: str, text: str | None, why: str
) -> None:
    if text is not None:
        (tmp_path / "keeper.toml").write_text(text)
    assert why in refused(tmp_path, command)


@BOTH
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "cannot be read: "),
        ("time,feed,price\n", "must begin with the line 'timestamp_s,feed,price'"),
        ("timestamp_s,feed,price\nsoon,BTC/USD,1\n", "prices.csv:2: expected timestamp_s,feed,price"),
    ],
)
def test_a_price_file_that_cannot_be_placed_in_time_is_refused(
    site: Site, refused: Refused, command: str, text: str | None, why: str
) -> None:
    site.configure()
    (site.folder / "prices.csv").unlink()
    if text is not None:
        (site.folder / "prices.csv").write_text(text)
    assert why in refused(site.folder, command)


def test_a_websocket_that_is_silent_or_of_another_chain_is_refused(site: Site, refused: Refused) -> None:
    site.configure(ws='"ws://127.0.0.1:1/secret"')
    said = refused(site.folder)
    assert "ws://127.0.0.1:1: no answer" in said
    assert "secret" not in said
    with running_anvil(timestamp_s=site.node.timestamp_s()) as other:
        site.configure(ws=f'"{other.ws_url}"')
        assert f"serves {other.chain_id}" in refused(site.folder)


def test_a_first_block_that_is_yet_to_come_is_refused(site: Site, refused: Refused) -> None:
    site.configure(from_block="9000")
    assert "deployment.from_block is 9000, but the chain's head is block 1" in refused(site.folder)


def test_a_price_source_that_lacks_a_feed_is_refused(site: Site, refused: Refused) -> None:
    site.configure()
    (site.folder / "prices.csv").write_text("timestamp_s,feed,price\n1,BTC/USD,1\n")
    assert "the price source has no entry for ETH/USD, SYN/USD" in refused(site.folder)


def test_a_native_feed_that_the_deployment_has_not_is_refused(site: Site, refused: Refused) -> None:
    site.configure(native_feed='"DOGE/USD"')
    assert "economics.native_feed DOGE/USD is not a feed of the deployment" in refused(site.folder)


def test_the_journal_of_another_keeper_is_refused(site: Site, refused: Refused) -> None:
    site.configure()
    SqliteJournal(site.folder / "journal.sqlite", identity={"chain_id": "1"}).close()
    assert "cannot be used: its chain_id is 1" in refused(site.folder)


@pytest.mark.parametrize(
    "command", [(), ("run",), ("run", "--nonsense"), ("nonsense",), ("demo", "--accounts", "1")]
)
def test_a_command_line_that_cannot_be_read_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "argv", ["keeper", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert "Usage: " in captured.out + captured.err


@pytest.mark.parametrize("code", [0, 1])
def test_the_demos_verdict_is_the_status_of_the_process(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr("keeper.lab.demo.run_demo", lambda **_: code)
    monkeypatch.setattr(sys, "argv", ["keeper", "demo"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code


# --- the doctor ----------------------------------------------------------------------------------


def doctor(site: Site, secrets: Mapping[str, str] = SECRETS) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "keeper", "doctor", "--config", "keeper.toml"],
        cwd=site.folder, env=environment(secrets) | {"COLUMNS": "300"}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    no_key_in(site.folder, done.stdout, *secrets.values())
    return done.returncode, done.stdout


def marks_of(said: str) -> dict[str, str]:
    """Read the doctor's table: how bad each finding is."""
    return {
        cells[0]: cells[1]
        for line in said.splitlines()
        for cells in [[cell.strip() for cell in line.strip("│┃").split("│")]]
        if len(cells) == 4 and cells[0]
    }


def test_the_doctor_finds_what_a_keeper_needs_and_what_it_lacks(site: Site) -> None:
    site.breach()
    site.configure()
    code, said = doctor(site)
    marks = marks_of(said)
    assert (code, {what for what, mark in marks.items() if mark == "bad"}) == (0, set()), said
    contracts = {"MarginReader", "Clearing", "Liquidator", "Slopes", "Vault", "FastOracle"}
    assert {marks[each] for each in {"disk", "journal", "gas", *contracts}} == {"ok"}
    # It lies in the environment, of a chain whose number does not say that it is one for tests.
    assert marks["key"] == "warn"
    assert "oracle BTC/USD" in marks


def test_the_doctor_sees_that_a_deployment_can_be_read_without_a_reader(site: Site) -> None:
    site.breach()
    without_reader(site)
    code, said = doctor(site)
    marks = marks_of(said)
    assert (code, {what for what, mark in marks.items() if mark == "bad"}) == (0, set()), said
    assert {marks[each] for each in ("MarginReader", "Clearing", "margin account", "gas")} == {"ok"}
    assert "not deployed; the nodes take its code with every call" in said


def test_the_doctor_says_how_to_mend_what_is_amiss(site: Site) -> None:
    site.configure(reader='"0x' + "11" * 20 + '"', chain_id="5")
    code, said = doctor(site, {})
    assert code == 1
    assert "set KEEPER_PRIVATE_KEY, or wallet.keystore with wallet.passphrase_file" in said
    assert "correct chain.chain_id, or the URL" in said


# --- what is told, and what is kept --------------------------------------------------------------


def page(keeper: Daemon, name: str) -> tuple[int, str]:
    keeper.until(lambda: keeper.heard("health.served"))
    (address,) = (line["address"] for line in keeper.lines if line["event"] == "health.served")
    with closing(HTTPConnection(address.removeprefix("http://"), timeout=5)) as connection:
        connection.request("GET", f"/{name}")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_a_new_keeper_starts_from_a_published_book_and_tells_how_it_does(site: Site) -> None:
    site.breach()
    site.configure()
    with (site.folder / "keeper.toml").open("a") as file:
        file.write("[health]\nport = 0\n")
    with running(site.folder, "run") as keeper:
        keeper.until(lambda: keeper.done_with(site.node.block_number()))
        assert "keeper_accounts 3.0" in page(keeper, "metrics")[1].splitlines()
        code, said = page(keeper, "healthz")
        # Anvil's clock stands in the past.
        assert (code, json.loads(said)["status"]) == (503, "down")
        assert "s old" in json.loads(said)["why"][0]
        keeper.end()
    (site.folder / "book.snapshot").rename(site.folder / "published")
    (site.folder / "journal.sqlite").unlink()
    with running(site.folder, "run", "--snapshot", "published") as keeper:
        keeper.until(lambda: keeper.done_with(site.node.block_number()))
        assert keeper.heard("book.loaded", accounts=3, on_this_chain=True)
        assert page(keeper, "nothing")[0] == 404
        keeper.end()


# --- what if ---


def what_if(folder: Path, command: str, *words: str) -> Any:
    """Ask the risk engine about the deployment of the folder's configuration."""
    done = subprocess.run(
        [sys.executable, "-m", "keeper", "risk", command, "--config", "keeper.toml", "--json", *words],
        cwd=folder, env=environment({}), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_the_book_on_disk_and_the_chain_stand_alike_after_a_shock(site: Site) -> None:
    site.breach()
    site.configure()
    with running(site.folder, "run", "--dry-run") as keeper:
        keeper.until(lambda: keeper.done_with(site.node.block_number()) or keeper.heard("tx.abandoned"))
        keeper.end()
    live = what_if(site.folder, "stress", "--move", "BTC=-0.1")
    assert live == what_if(site.folder, "stress", "--move", "BTC=-0.1", "--snapshot", "--dry-run")
    assert (live["block"], live["left_out"]) == (site.node.block_number(), 0)
    assert (live["now"]["accounts"], live["now"]["breached"]) == (3, 1)
    [there] = live["scenarios"]
    # Long of 10 at 20,000 on 17,000: at 17,100 it owes 12,000, and whoever is short has won what it lost.
    owner = f"0x{OWNER.account[:20].hex()}:{int.from_bytes(OWNER.account[20:])}"
    assert there["bad_debt"] == pytest.approx(12_000)
    assert (there["worst"][0]["account"], there["worst"][0]["net"]) == (owner, pytest.approx(-12_000))
    assert there["change"] == pytest.approx(0, abs=1e-3)
    # Two hours of five fall by a tenth: ten bitcoin at 19,000 lose 19,000, and who is short wins them.
    falls = [2 * (hour // 5) + min(hour % 5, 2) for hour in range(51)]
    closes = [f"{1_704_067_200 + 3_600 * hour},{0.9**fallen}" for hour, fallen in enumerate(falls)]
    (site.folder / "closes.csv").write_text("\n".join(["time,BTC", *closes]))
    words = ("--prices", "closes.csv", "--method", "historical", "--level", "0.9")
    lost = what_if(site.folder, "var", *words)
    assert lost == what_if(site.folder, "var", *words, "--snapshot", "--dry-run")
    assert list(lost["accounts"]) == sorted(lost["accounts"])
    of_owner = lost["accounts"][owner]
    assert (of_owner["var"], of_owner["es"]) == (pytest.approx(19_000), pytest.approx(19_000))
    assert lost["whole"]["es"] == pytest.approx(0, abs=1e-3)
    [level] = what_if(site.folder, "flow", "--levels", "0.1")["levels"]
    assert level["slope"] == level["cliff"] == {"BTC/USD": pytest.approx(171_000)}
    most = what_if(site.folder, "margin", "--top", "2", "--grid", "tims10")["accounts"]
    assert len(most) == 2
    # The worst of ten moves is 15% of 10 at 19,000.
    assert most[owner]["initial"] == pytest.approx(0.15 * 190_000)
    assert list(most[owner]["underlyings"]["BTC/USD"]["legs"]) == ["BTC/USD perp"]


# --- prices that are none ------------------------------------------------------------------------


def test_a_breach_at_a_good_price_is_flagged(site: Site) -> None:
    site.breach()
    site.configure()
    with running(site.folder, "run") as keeper:
        keeper.until(lambda: site.sent() == 1)
        assert keeper.end() < SOON_S
    journal = site.journal()
    assert journal.verify() == []
    assert journal.summary().steps == {"sent": 1}
    journal.close()


LIVE = """
kind = "live"
[feed.sources."BTC/USD"]
coinbase = "BTC-USD"
kraken = "BTC/USD"
[feed.sources."ETH/USD"]
coinbase = "ETH-USD"
kraken = "ETH/USD"
[feed.sources."SYN/USD"]
coinbase = "SYN-USD"
kraken = "SYN/USD"
"""


@contextmanager
def markets(prices: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Have two venues say these prices, ten times a second, in a thread of their own; yield their URLs."""
    ready: SimpleQueue[dict[str, str]] = SimpleQueue()
    ending = threading.Event()

    async def say() -> None:
        async with StubVenues() as stubs:
            stubs.kraken.listed = list(prices)
            stubs.coinbase.listed = [feed.replace("/", "-") for feed in prices]
            ready.put(stubs.urls)
            while not ending.is_set():
                now_ms = time.time_ns() // 1_000_000
                for feed, price in prices.items():
                    await stubs.kraken.say(*stubs.kraken.quote(feed, price, price, now_ms))
                    symbol = feed.replace("/", "-")
                    await stubs.coinbase.say(*stubs.coinbase.quote(symbol, price, price, now_ms))
                await asyncio.sleep(0.1)

    thread = threading.Thread(target=asyncio.run, args=(say(),), daemon=True)
    thread.start()
    try:
        yield ready.get(timeout=5)
    finally:
        ending.set()
        thread.join(5)


def test_a_breach_at_a_live_price_is_flagged(site: Site) -> None:
    site.breach()
    site.configure()
    path = site.folder / "keeper.toml"
    with markets({"BTC/USD": "19000", "ETH/USD": "1510", "SYN/USD": "7.1"}) as urls:
        where = f'[feed.urls]\ncoinbase = "{urls["coinbase"]}"\nkraken = "{urls["kraken"]}"\n'
        path.write_text(path.read_text().replace('\npath = "prices.csv"\n', LIVE + where))
        code, said = doctor(site)
        assert code == 0
        assert "19,000 of coinbase, kraken" in said
        with running(site.folder, "prices") as shown:
            shown.until(lambda: len(shown.lines) >= 2)
            assert shown.lines[-1]["feeds"]["BTC/USD"]["used"] == ["coinbase", "kraken"]
            shown.process.terminate()
            assert shown.process.wait(10) == 0
        with running(site.folder, "run") as keeper:
            # The first heads may be worked on before the quotes are in.
            for _ in range(20):
                head = site.node.block_number()
                keeper.until(lambda head=head: keeper.done_with(head))  # type: ignore[misc]
                time.sleep(0.3)
                if site.sent():
                    break
                site.post(AFTER)
            assert site.sent() == 1
            assert keeper.end() < SOON_S
    with closing(site.journal()) as journal:
        assert journal.summary().steps == {"sent": 1}


def test_a_price_that_is_none_is_called_unknown_and_never_traded_on(site: Site) -> None:
    site.breach()
    site.prices(*NO_PRICES)
    site.configure()
    with running(site.folder, "run") as keeper:
        for number, _ in enumerate(NO_PRICES, start=1):
            block = site.node.block_number()
            keeper.until(lambda block=block: keeper.done_with(block))  # type: ignore[misc]
            # The owner and the maker hold the market, of three accounts.
            assert keeper.heard("accounts.unknown", block=block, accounts=2, of=3)
            if number < len(NO_PRICES):
                site.post(AFTER)
        assert site.sent() == 0
        keeper.end()
    journal = site.journal()
    assert journal.summary().cases == {}
    journal.close()


def test_a_price_that_is_none_is_never_reported(site: Site) -> None:
    site.breach()
    site.prices(*NO_PRICES)
    site.configure()
    with running(site.folder, "report-prices") as reporter:
        for number, price in enumerate(NO_PRICES, start=1):
            block = site.node.block_number()
            others = {"block": block, "posted": ["ETH/USD", "SYN/USD"]}
            reporter.until(lambda others=others: reporter.heard("reporter.head_done", **others))  # type: ignore[misc]
            unknown = [line["why"] for line in reporter.lines if line["event"] == "feed.unknown"]
            assert len(unknown) == number
            assert repr(price) in unknown[-1]
            if number < len(NO_PRICES):
                site.post(AFTER)
        reporter.end()


def test_a_dry_run_sees_a_breach_where_no_reader_is_deployed(site: Site) -> None:
    site.breach()
    without_reader(site)
    with running(site.folder, "run", "--dry-run") as keeper:
        keeper.until(lambda: keeper.heard("tx.abandoned", rule="dry_run"))
    with closing(site.journal("journal.dry-run.sqlite")) as journal:
        assert journal.identity["deployment"] == site.deployed.protocol.clearing


def test_a_dry_run_flags_in_its_journal_only(site: Site, refused: Refused) -> None:
    site.breach()
    site.configure()
    with running(site.folder, "run", "--dry-run") as keeper:
        keeper.until(lambda: keeper.heard("tx.abandoned", rule="dry_run"))
        keeper.end()
    assert site.sent() == 0
    journal = site.journal("journal.dry-run.sqlite")
    assert journal.verify() == []
    assert journal.summary().steps == {"abandoned": 1}
    journal.close()
    (site.folder / "journal.dry-run.sqlite").rename(site.folder / "journal.sqlite")
    assert "its mode is dry run, and live is configured" in refused(site.folder)


# --- told to stop --------------------------------------------------------------------------------


def test_a_second_keeper_on_the_same_journal_is_refused(site: Site, refused: Refused) -> None:
    site.breach()
    site.configure()
    with running(site.folder, "run") as daemon:
        daemon.until(lambda: daemon.done_with(site.node.block_number()))
        assert "another keeper works with the journal" in refused(site.folder)
        assert daemon.end(signal.SIGTERM) < SOON_S


@pytest.mark.parametrize(
    ("command", "number"),
    [("run", signal.SIGTERM), ("run", signal.SIGINT), ("report-prices", signal.SIGTERM)],
)
def test_a_signal_stops_a_daemon_cleanly(site: Site, command: str, number: signal.Signals) -> None:
    site.breach()
    site.configure()
    with running(site.folder, command) as daemon:
        daemon.until(lambda: daemon.done_with(site.node.block_number()))
        assert daemon.end(number) < SOON_S
    if command == "run":
        left = {path.name for path in site.folder.iterdir()} - {"keeper.toml", "prices.csv"}
        assert left == {"book.snapshot", "journal.sqlite", "journal.sqlite.lock"}, "no WAL left"


@BOTH
def test_a_signal_stops_a_daemon_that_waits_for_its_node(tmp_path: Path, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        write(tmp_path, http=f'"http://127.0.0.1:{deaf.getsockname()[1]}"')
        with running(tmp_path, command) as daemon:
            deaf.settimeout(20)
            connection, _ = deaf.accept()
            with connection:
                connection.recv(1)
                assert daemon.end() < SOON_S


def test_a_signal_stops_a_keeper_whose_node_falls_silent_in_the_middle_of_a_head(site: Site) -> None:
    site.breach()
    with Relay(site.port) as relay:
        site.configure(relay, ws=f'"{site.node.ws_url}"')
        with running(site.folder, "run") as keeper:
            keeper.until(lambda: keeper.done_with(site.node.block_number()))
            relay.silent_at = b"eth_call"
            site.post(AFTER)
            keeper.until(relay.silent.is_set)
            assert keeper.end() < SOON_S
    journal = site.journal()
    assert journal.verify() == []
    journal.close()


# --- a node that goes away -----------------------------------------------------------------------


@BOTH
def test_a_daemon_outlives_its_node_and_says_so(site: Site, command: str) -> None:
    site.breach()
    with Relay(site.port) as relay:
        site.configure(relay)
        with running(site.folder, command) as daemon:
            daemon.until(lambda: daemon.done_with(site.node.block_number()))
            relay.cut()
            site.post(AFTER)
            site.post(AFTER)
            daemon.until(lambda: daemon.heard("chain.read_failed", failures=3))
            assert daemon.heard("chain.socket_lost")
            assert not daemon.done_with(site.node.block_number())
            relay.mend()
            daemon.until(lambda: daemon.done_with(site.node.block_number()))
            daemon.lines.clear()
            relay.cut()
            daemon.until(lambda: daemon.heard("chain.read_failed", failures=2))
            assert daemon.end() < SOON_S, "also while it is away"
            relay.mend()
    if command == "run":
        journal = site.journal()
        assert journal.verify() == []
        journal.close()


def test_without_its_websocket_a_keeper_polls_for_heads(site: Site) -> None:
    site.breach()
    with Relay(site.port) as relay:
        site.configure(ws=f'"ws://127.0.0.1:{relay.port}"')
        with running(site.folder, "run") as keeper:
            keeper.until(lambda: keeper.done_with(site.node.block_number()))
            relay.cut()
            keeper.until(lambda: keeper.heard("chain.socket_lost"))
            site.post(AFTER)
            keeper.until(lambda: keeper.done_with(site.node.block_number()))
            keeper.end()
            relay.mend()


def test_a_steward_posts_what_options_are_worth_and_settles_what_has_expired(site: Site) -> None:
    site.options = (PUT, SOON)
    site.breach()
    site.configure()
    site.value('vols = { "BTC/USD" = 0.8 }')
    wallet = REPORTERS[-1].address
    with running(site.folder, "report-options") as steward:
        steward.until(lambda: site.sent(wallet) == 1)
        site.post(AFTER)
        arrays = site.oracles().arrays
        assert {market: array.ref_wad for market, array in arrays.items()} == dict.fromkeys(
            (4, 5), AFTER["BTC/USD"]
        )
        assert arrays[4].mark_wad > 500 * WAD
        assert arrays[4].delta_wad < 0 < arrays[5].delta_wad
        assert arrays[5].mark_wad >= 1_000 * WAD
        steward.until(lambda: steward.done_with(site.node.block_number()))
        site.node.mine(SOON.expiry_s)
        site.post(AFTER)
        steward.until(lambda: site.sent(wallet) == 2)
        site.node.mine(site.node.timestamp_s() + 12)
        assert site.oracles().settlements == {5: AFTER["BTC/USD"]}
        steward.until(lambda: steward.done_with(site.node.block_number()))
        assert steward.heard("steward.head_done", settling="BTC/USD", expiry_s=SOON.expiry_s)
        steward.end()
