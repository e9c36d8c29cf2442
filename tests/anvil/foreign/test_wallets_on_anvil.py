"""Two wallets work one Morpho Blue side by side, one with a keystore and one by a signer elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from eth_account import Account

from keeper.journal import sqlite
from keeper.journal.reader import JournalReader
from keeper.lab.anvil import Node, Tx, anvil
from keeper.lab.foreign.base import minted
from keeper.lab.foreign.morpho_blue import Market, Morpho, deploy
from keeper.lab.world import person
from tests.anvil.test_cli_on_anvil import Daemon, environment, no_key_in, running
from tests.anvil.test_signers_on_anvil import PASSPHRASE, signing
from tests.unit.execute.stub_web3signer import StubWeb3Signer

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(300)]

GENESIS_S = 1_700_000_000
BLOCK_S = 12
PATIENCE_S = 90.0
"""For a keeper to start, and to act, on a machine that has much else to do."""
MOST = 16
"""Transactions of a wallet at the same time, by default."""
WEAK = MOST + 2
"""Accounts in breach that each wallet finds."""
FIRST = 2
"""The nonce of a wallet that was given dollars, and lets them be taken."""
FALL = 0.9
UNIT, OWED = {"WETH": 10**18, "WBTC": 10**7}, {"WETH": 1_600 * 10**6, "WBTC": 2_900 * 10**6}
"""A position as it is opened: 2,000 dollars of ether, 4,000 of bitcoin, and what is owed on it."""
NAMES = ("near", "far")
WALLETS = tuple(person(2, name) for name in NAMES)
DIVIDED = {"markets": ((0,), (1,)), "parts": ((0, 1), (0, 1))}


@dataclass(frozen=True)
class Site:
    """A deployment with accounts in breach, and two keepers' configurations."""

    morpho: Morpho
    folder: Path
    divided: str

    @property
    def node(self) -> Node:
        return self.morpho.lab.node

    def configure(self, signer_port: int) -> None:
        """Write a keystore, prices, and a configuration for each wallet."""
        locked = Account.encrypt(WALLETS[0].key, PASSPHRASE, kdf="pbkdf2", iterations=2)
        (self.folder / "keystore.json").write_text(json.dumps(locked))
        (self.folder / "passphrase").touch(0o600)
        (self.folder / "passphrase").write_text(PASSPHRASE)
        now_s = self.node.timestamp_s()
        prices = {"ETH/USD": 2_000 * FALL, "ETH/USDC": 2_000 * FALL, "BTC/USDC": 40_000 * FALL}
        lines = ["timestamp_s,feed,price", *(f"{now_s},{feed},{price:.0f}" for feed, price in prices.items())]
        (self.folder / "prices.csv").write_text("\n".join(lines) + "\n")
        near = 'keystore = "keystore.json"\npassphrase_file = "passphrase"'
        far = f'address = "{WALLETS[1].address}"\n[signer]\nkind = "web3signer"\ntimeout_ms = 20000\n'
        far += f'url = "http://127.0.0.1:{signer_port}"'
        for number, signer in enumerate((near, far)):
            (self.folder / f"{NAMES[number]}.toml").write_text(self._settings(number, signer))

    def _settings(self, number: int, signer: str) -> str:
        name, node, markets = NAMES[number], self.node, self.morpho.markets
        kept = [f'"0x{markets[each].id.hex()}"' for each in DIVIDED[self.divided][number]]
        feeds = {markets[0].oracle: "ETH/USDC", markets[1].oracle: "BTC/USDC"}
        named = ", ".join(f'"{oracle}" = "{feed}"' for oracle, feed in feeds.items())
        lines = [
            *("[chain]", f'http = "{node.http_url}"', f'ws = "{node.ws_url}"', f"chain_id = {node.chain_id}"),
            *("[deployment]", 'protocol = "morpho_blue"', f'morpho = "{self.morpho.morpho}"'),
            *(f"markets = [{', '.join(kept)}]", f"feeds = {{ {named} }}"),
            f'tokens = {{ "{self.morpho.tokens["USDC"]}" = "USD" }}',
            f'part = "{number + 1}/2"' if self.divided == "parts" else "",
            *("[feed]", 'path = "prices.csv"', "max_age_s = 3600", "[wallet]", signer),
            *("[journal]", f'path = "{name}.sqlite"', "[mirror]", f'snapshot = "{name}.book"'),
            *("[limits]", 'spend_day_native = "100"', "[pace]", 'share = "1"'),
        ]
        return "\n".join(lines) + "\n"

    def breach(self) -> None:
        """Open the accounts, half of them in each market, and let all prices fall."""
        lab = self.morpho.lab
        txs: list[Tx] = []
        owners = [f"0x{0xB000 + number:040x}" for number in range(2 * WEAK)]
        lab.node.fund([*owners, *(each.address for each in WALLETS)])
        for number, owner in enumerate(owners):
            # As many owners of either part are in either market.
            txs += self._opened(owner, self.morpho.markets[number // 2 % 2])
        for wallet in WALLETS:
            txs += minted(lab, wallet.address, self.morpho.tokens["USDC"], self.morpho.morpho, 10**12)
        lab.run(txs)
        self.morpho.price([(FALL, FALL), (FALL, FALL), (1.0, 1.0), (1.0, 1.0)])

    def _opened(self, owner: str, market: Market) -> Iterator[Tx]:
        symbol, morpho = market.spec.collateral, self.morpho
        units = UNIT[symbol]
        yield from minted(morpho.lab, owner, morpho.tokens[symbol], morpho.morpho, units)
        yield morpho.act(owner, market, "supplyCollateral", units, owner, b"")
        yield morpho.act(owner, market, "borrow", OWED[symbol], 0, owner, owner)

    # --- what becomes of it ---

    def mine(self, keeper: Daemon) -> Counter[str]:
        """Mine what is pending, wait until both keepers are done with it; return whose was included."""
        self.node.mine(self.node.timestamp_s() + BLOCK_S)
        block = self.node.rpc("eth_getBlockByNumber", "latest", True)
        number = int(block["number"], 16)
        keeper.until(lambda: all(self.look(each, number) for each in NAMES), PATIENCE_S)
        return Counter(tx["from"] for tx in block["transactions"])

    def look(self, name: str, number: int) -> bool:
        with closing(JournalReader(self.folder / f"{name}.sqlite")) as reader:
            return reader.head_done(number)

    def used(self, wallet: int, at: str = "latest") -> int:
        """Count the transactions of a wallet's keeper."""
        return -FIRST + int(self.node.rpc("eth_getTransactionCount", WALLETS[wallet].address, at), 16)

    def hash_of(self, name: str, nonce: int) -> str:
        with closing(sqlite.connect(self.folder / f"{name}.sqlite", read_only=True)) as db:
            return str(db.execute("SELECT tx_hash FROM steps WHERE nonce = ?", (nonce,)).fetchone()[0])

    def steps(self, name: str) -> list[tuple[int, str, bytes]]:
        """Return nonce, state and account of each step that was not abandoned."""
        with closing(sqlite.connect(self.folder / f"{name}.sqlite", read_only=True)) as db:
            found = db.execute("SELECT nonce, state, account FROM steps WHERE state <> 'abandoned'")
            return sorted((nonce, state, bytes(account)) for nonce, state, account in found)

    def closed(self, name: str) -> list[bytes]:
        """Return the accounts of the steps that were included."""
        return [account for _, state, account in self.steps(name) if state == "included"]


@pytest.fixture(params=DIVIDED)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with anvil(timestamp_s=GENESIS_S) as node:
        site = Site(deploy(node), tmp_path, request.param)
        site.breach()
        yield site


def until(keeper: Daemon, condition: Callable[[], bool]) -> None:
    keeper.until(condition, PATIENCE_S)


def test_two_wallets_of_one_deployment_neither_wait_for_nor_meet_each_other(site: Site) -> None:
    with signing(StubWeb3Signer(WALLETS[1].key)) as port:
        site.configure(port)
        (site.folder / "far.toml").rename(site.folder / "keeper.toml")
        with running(site.folder, "run", "--config", "near.toml", secrets={}) as keeper:
            until(keeper, lambda: [site.used(each, "pending") for each in (0, 1)] == [MOST, MOST])
            for name in NAMES:
                until(keeper, lambda name=name: site.look(name, site.node.block_number()))  # type: ignore[misc]
                _expect_line_full(site, name)
            included = site.mine(keeper)
            assert included == {wallet.address: MOST for wallet in WALLETS}
            _expect_one_stuck_alone(site, keeper)
            keeper.end()
    _expect_divided(site)
    said = {(each["wallet"], each["deployment"]) for each in keeper.lines if each["event"] == "tx.settled"}
    parts = [f" part {number}/2" if site.divided == "parts" else "" for number in (1, 2)]
    named = [f"{site.morpho.morpho.lower()}{part}" for part in parts]
    assert said == {*zip((each.address for each in WALLETS), named, strict=True)}
    no_key_in(site.folder, json.dumps(keeper.lines), *(each.key.hex() for each in WALLETS))
    for name in NAMES:
        _expect_replayed(site.folder / f"{name}.sqlite")


def _expect_line_full(site: Site, name: str) -> None:
    """Expect as many steps as may wait, at nonces of their own, and the others refused."""
    assert [nonce for nonce, *_ in site.steps(name)] == list(range(FIRST, FIRST + MOST))
    with closing(JournalReader(site.folder / f"{name}.sqlite")) as reader:
        assert reader.summary().reasons["Refused"] == {"limit.in_flight": WEAK - MOST}


def _expect_one_stuck_alone(site: Site, keeper: Daemon) -> None:
    """Lose a transaction of one wallet: the other's are included at once, and its own once sent again."""
    until(keeper, lambda: all(len(site.steps(name)) == WEAK for name in NAMES))
    until(keeper, lambda: site.used(0, "pending") == site.used(1, "pending") == WEAK)
    lost = site.hash_of("near", FIRST + MOST)
    assert site.node.rpc("anvil_dropTransaction", lost) == lost
    included = site.mine(keeper)
    assert included == {WALLETS[1].address: WEAK - MOST}
    assert (site.used(0), site.used(1)) == (MOST, WEAK)
    deadline = time.monotonic() + PATIENCE_S
    while len(site.closed("near")) < WEAK:
        assert time.monotonic() < deadline, site.steps("near")
        site.mine(keeper)


def _expect_divided(site: Site) -> None:
    """Expect every account closed once, by the wallet whose it is."""
    touched = {name: site.closed(name) for name in NAMES}
    for name, accounts in touched.items():
        nonces = [nonce for nonce, *_ in site.steps(name)]
        assert nonces == list(range(FIRST, FIRST + len(nonces)))
        assert len(accounts) == len({*accounts}) == WEAK
        with closing(JournalReader(site.folder / f"{name}.sqlite")) as reader:
            assert reader.verify() == []
    assert {*touched["near"]}.isdisjoint(account for *_, account in site.steps("far"))
    assert {*touched["far"]}.isdisjoint(account for *_, account in site.steps("near"))
    # What was behind the lost one became late and was cancelled at its own nonce; nothing else was.
    assert [nonce for nonce, state, _ in site.steps("far") if state != "included"] == []
    ends = [{account[-12:] for account in touched[name]} for name in NAMES]
    parities = [{account[19] % 2 for account in touched[name]} for name in NAMES]
    if site.divided == "markets":
        assert [len(each) for each in ends] == [1, 1]
        assert ends[0] != ends[1]
    else:
        assert parities == [{0}, {1}]
        assert [len(each) for each in ends] == [2, 2]


def _expect_replayed(journal: Path) -> None:
    """Expect that a replay, which has no other wallet beside it, decides the same."""
    done = subprocess.run(
        [sys.executable, "-m", "keeper", "replay", str(journal)],
        env=environment({}), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
