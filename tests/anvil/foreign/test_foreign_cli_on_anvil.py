"""The real command line on Aave v3: what the doctor finds, what is refused, and what a dry run would send."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from keeper.cli.books import open_book
from keeper.doctor.foreign import IMPLEMENTATION_SLOT
from keeper.errors import ConfigError
from keeper.journal import sqlite
from keeper.journal.reader import JournalReader
from keeper.lab.anvil import anvil
from keeper.lab.foreign.aave_v3 import Aave, deploy
from keeper.lab.foreign.exchange import OWNER, Exchange, deploy_exchange
from tests.anvil.test_cli_on_anvil import (
    KEEPER,
    SECRETS,
    environment,
    marks_of,
    no_key_in,
    refused_process,
    running,
    what_if,
)

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

GENESIS_S = 1_700_000_000
ETHER, DOLLAR = 10**18, 10**6
WEAK = "0x" + "b0" * 20
FEED, STABLE = "ETH/USD", "USDC/USD"


@dataclass(frozen=True)
class Site:
    """A pool with an account in breach at both clocks, an exchange beside it, and a keeper's folder."""

    aave: Aave
    exchange: Exchange
    folder: Path

    def configure(self, *deployment: str, liquidator: bool = False) -> None:
        """Write the configuration, and a price of ether that is not what it was at the start."""
        node, aave = self.aave.lab.node, self.aave
        lines = [
            *("[chain]", f'http = "{node.http_url}"', f'ws = "{node.ws_url}"', f"chain_id = {node.chain_id}"),
            *("[deployment]", 'protocol = "aave_v3"', f'pool = "{aave.pool}"', *deployment),
            f'feeds = {{ "{aave.sources["WETH"]}" = "{FEED}", "{aave.sources["USDC"]}" = "{STABLE}" }}',
            *("[feed]", 'path = "prices.csv"', "max_age_s = 3600"),
        ]
        if liquidator:
            lines += ["[closing]", f'liquidator = "{self.exchange.liquidator}"']
            lines += ["[exchange]", f'uniswap_v3 = "{self.exchange.v3_factory}"']
            lines += [f'bridges = ["{self.exchange.quote}"]']
        (self.folder / "keeper.toml").write_text("\n".join(lines) + "\n")
        said = {FEED: 1_900, STABLE: 1}
        prices = [f"{node.timestamp_s()},{feed},{price}" for feed, price in said.items()]
        (self.folder / "prices.csv").write_text("\n".join(["timestamp_s,feed,price", *prices, ""]))

    @property
    def implementation(self) -> str:
        word: str = self.aave.lab.node.rpc("eth_getStorageAt", self.aave.pool, IMPLEMENTATION_SLOT, "latest")
        return "0x" + word[-40:]

    def doctor(self) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "keeper", "doctor", "--config", "keeper.toml"],
            cwd=self.folder, env=environment(SECRETS) | {"COLUMNS": "500"}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.stderr == ""
        no_key_in(self.folder, done.stdout)
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def deployed() -> Iterator[tuple[Aave, Exchange]]:
    with anvil(timestamp_s=GENESIS_S) as node:
        aave = deploy(node)
        lab, ether = aave.lab, aave.tokens["WETH"]
        exchange = deploy_exchange(lab, {ether: 1_900.0}, quote=aave.tokens["USDC"], aave=aave.pool)
        node.fund([WEAK, KEEPER.address])
        opened = [aave.supply(WEAK, "WETH", 5 * ETHER), aave.borrow(WEAK, "USDC", 8_000 * DOLLAR)]
        lab.run([*aave.fund(WEAK, ["WETH"]), *opened])
        aave.price({"WETH": 0.95})
        yield aave, exchange


@pytest.fixture
def site(deployed: tuple[Aave, Exchange], tmp_path: Path) -> Iterator[Site]:
    with deployed[0].lab.undone():
        yield Site(*deployed, tmp_path)


def test_the_doctor_tells_what_stands_there_and_what_the_wallet_lacks(site: Site) -> None:
    site.configure(f'implementation = "{site.implementation}"')
    code, said = site.doctor()
    marks = marks_of(said)
    assert (code, {what for what, mark in marks.items() if mark == "bad"}) == (0, set()), said
    assert f"{site.aave.pool}, " in said
    assert f"bytes, a proxy of {site.implementation}" in said
    assert {marks[each] for each in ("contract", "prices", "price source", "gas")} == {"ok"}
    assert marks["key"] == "warn"
    assert marks["oracle"] == marks["purse"] == "warn"
    traced = {site.aave.tokens[symbol].lower() for symbol in ("WETH", "USDC")}
    untraced = {token.lower() for token in site.aave.tokens.values()} - traced
    assert [token for token in untraced if token not in said] == []
    assert not any(f"{token}: the chain's price" in said for token in traced)
    assert "0 of 20 tokens that may be owed" in said


def test_other_code_and_another_operator_are_bad_and_nothing_starts(site: Site) -> None:
    other = "0x" + "12" * 20
    site.configure(f'implementation = "{other}"', liquidator=True)
    code, said = site.doctor()
    marks = marks_of(said)
    assert (code, {what for what, mark in marks.items() if mark == "bad"}) == (1, {"code", "FlashLiquidator"})
    assert f"is operated by 0x{'09' * 20}, not by {KEEPER.address}" in said
    expected = f"runs the code of {site.implementation}, but deployment.implementation trusts {other}"
    assert expected in said
    assert refused_process(site.folder).endswith(expected)


def test_what_a_fall_liquidates_is_read_from_the_pool(site: Site) -> None:
    site.configure()
    said = what_if(site.folder, "flow", "--levels", "0/0.5")
    assert said["falling"] == [FEED]
    now, half = said["levels"]
    assert (now["breached"], now["bad_debt"]) == (1, 0)
    # All of the debt is repaid by selling collateral, or so much of it as ends the breach.
    assert now["cliff"] == {FEED: pytest.approx(8_000, rel=1e-3)}
    assert 0 < now["slope"][FEED] < now["cliff"][FEED]
    # Five ether at 950 do not pay for it.
    assert half["cliff"] == half["slope"] == {FEED: pytest.approx(4_750, rel=1e-3)}
    assert half["bad_debt"] == pytest.approx(3_250, rel=1e-3)
    with pytest.raises(ConfigError, match="margin is asked of perps and options, and these are loans"):
        open_book(None, site.folder / "keeper.toml").margined  # noqa: B018


def test_a_dry_run_journals_the_closing_that_it_would_send(site: Site) -> None:
    lab, operates = site.aave.lab, ("FlashLiquidator", site.exchange.liquidator, "setOperator")
    lab.do(*operates, KEEPER.address, sender=OWNER)
    site.configure(liquidator=True)
    with running(site.folder, "run", "--dry-run") as keeper:
        keeper.until(lambda: keeper.heard("tx.abandoned", rule="dry_run"))
        keeper.end()
    assert int(lab.node.rpc("eth_getTransactionCount", KEEPER.address, "pending"), 16) == 0
    path = site.folder / "journal.dry-run.sqlite"
    with closing(JournalReader(path)) as journal:
        assert journal.verify() == []
        assert journal.summary().steps == {"abandoned": 1}
        assert journal.identity["deployment"] == site.aave.pool.lower()
    with closing(sqlite.connect(path, read_only=True)) as db:
        [(told,)] = db.execute("SELECT data FROM events WHERE kind = 'Reserved'").fetchall()
    act = json.loads(told)["act"]
    assert act["account"].startswith(WEAK)
    assert act["flash"]["liquidator"] == site.exchange.liquidator.lower()
    assert 0 < act["asked"] < 8_000 * DOLLAR
