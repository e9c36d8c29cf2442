"""Acts that post the prices they rest on: each does what was foreseen, to the wei, if nobody else posts."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from keeper.domain import (
    Account,
    Assessment,
    Bundle,
    ChainTime,
    Confirm,
    Flag,
    HybridAct,
    Liquidate,
    Observation,
    OracleView,
)
from keeper.lab.anvil import Node, Tx
from keeper.plan.hybrid import Params
from keeper.protocols.hybrid import liquidator
from keeper.protocols.hybrid.market import HybridMarket
from keeper.protocols.hybrid.rows import accounts_of
from keeper.reports import write
from keeper.units import WAD, AccountKey, FeedId
from tests.anvil.test_cli_on_anvil import (
    AFTER,
    KEEPER,
    OWNER,
    REPORTERS,
    SECRETS,
    Site,
    running,
)
from tests.anvil.twin_world import log_of

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

BTC: FeedId = "BTC/USD"
BUNDLE_GAS = Params().gas_bundle.typical(3)
TOKEN = "a-token-for-a-chain-of-its-own"


@pytest.fixture
def site(anvil: Node, tmp_path: Path) -> Site:
    """An owner in breach at prices that are not on chain."""
    site = Site(anvil, tmp_path)
    site.open()
    return site


def next_block(site: Site, after_s: int = 12) -> ChainTime:
    return ChainTime(site.node.block_number() + 1, site.node.timestamp_s() + after_s)


def signed(site: Site, at: ChainTime) -> Bundle:
    """What three reporters have seen shortly before a block."""
    market = HybridMarket(site.deployed.protocol)
    return tuple(
        market.sign_report(
            Observation(BTC, AFTER[BTC] + number * WAD, 10, at.timestamp_s - 2 - number, at.timestamp_s + 30),
            reporter.key,
        )
        for number, reporter in enumerate(REPORTERS[:3])
    )


def row(site: Site, key: AccountKey) -> Account:
    call = HybridMarket(site.deployed.protocol).rows_call([key])
    (account,) = accounts_of(site.node.call(call.to, call.data))
    return account


def done(
    site: Site, act: HybridAct, at: ChainTime, *before: Tx
) -> tuple[Mapping[str, Mapping[str, Any]], int]:
    """Mine an act in block ``at``; return what it says by event, and the gas that it takes."""
    market = HybridMarket(site.deployed.protocol)
    call = market.encode(act)
    hashes = site.node.send([*before, Tx(KEEPER.address, call.to, call.data, 3_000_000)])
    site.node.mine(at.timestamp_s)
    receipts = site.node.receipts()
    receipt = receipts[hashes[-1]]
    assert receipt["status"] == "0x1", site.node.reverts([hashes[-1]])
    facts = [market.decode(log_of(log)) for log in receipt["logs"]]
    return {fact.act: fact.args for fact in facts if fact is not None}, int(receipt["gasUsed"], 16)


def foreseen(site: Site, bundle: Bundle, at: ChainTime) -> OracleView:
    return HybridMarket(site.deployed.protocol).posted(site.oracles(), {BTC: bundle}, at)


def judge(site: Site, oracles: OracleView, at: ChainTime) -> Assessment:
    judged = HybridMarket(site.deployed.protocol).assess(row(site, OWNER.account), oracles, at)
    assert isinstance(judged, Assessment)
    return judged


def test_from_the_alarm_to_a_slice_each_act_brings_its_own_price(site: Site) -> None:
    rules = site.deployed.protocol.rules
    at = next_block(site)
    bundle = signed(site, at)
    unposted, judged = judge(site, site.oracles(), at), judge(site, foreseen(site, bundle, at), at)
    assert not unposted.fast.breaches(unposted.flag_level_wad)
    said, _ = done(site, Flag(OWNER.account, 0, (bundle,)), at)
    assert said["FastPrice"] == {
        "feed": BTC, "price_wad": AFTER[BTC] + WAD, "observed_at_s": at.timestamp_s - 4
    }  # fmt: skip
    assert (said["Flagged"]["equity_wad"], said["Flagged"]["requirement_wad"]) == (
        judged.fast.equity_wad,
        judged.fast.requirement_wad,
    )
    assert said["Flagged"]["bond_wad"] == judged.bond_wad

    site.node.run(
        [site.deployed.slow_round(feed, price) for feed, price in AFTER.items()], at.timestamp_s + 12
    )
    at = next_block(site, 24)
    bundle = signed(site, at)
    assert not site.oracles()[BTC].fast_fresh(at.timestamp_s), "nobody has posted since"
    judged = judge(site, foreseen(site, bundle, at), at)
    said, _ = done(site, Confirm(OWNER.account, (bundle,)), at)
    assert (said["Confirmed"]["equity_wad"], said["Confirmed"]["requirement_wad"]) == (
        judged.execution.equity_wad,
        judged.execution.requirement_wad,
    )
    assert said["Confirmed"]["reward_wad"] == judged.reward_wad

    for _ in range(3):
        at = next_block(site, 36)
        bundle = signed(site, at)
        owner, taker = row(site, OWNER.account), row(site, KEEPER.account)
        slice_ = liquidator.liquidate(
            owner, taker, foreseen(site, bundle, at), at, rules, max_fraction_wad=WAD
        )
        assert isinstance(slice_, liquidator.Slice)
        terms = (owner.flag.tranche_nonce, at.timestamp_s, 0, WAD, 0)
        said, _ = done(site, Liquidate(OWNER.account, KEEPER.account, *terms, (bundle,)), at)
        tranche = dict(said["Tranche"])
        assert (tranche["fraction_wad"], tranche["notional_wad"], tranche["fee_wad"]) == (
            slice_.fraction_wad, slice_.notional_wad, slice_.fee.whole_wad
        )  # fmt: skip
        for name, value in (("before", slice_.before), ("after", slice_.after)):
            found = (tranche[f"equity_{name}_wad"], tranche[f"requirement_{name}_wad"])
            assert found == (value.equity_wad, value.requirement_wad)
        assert row(site, KEEPER.account) == slice_.taker


def test_a_bundle_takes_no_more_gas_than_is_counted_for_it(site: Site) -> None:
    at = next_block(site)
    bundle = signed(site, at)
    snapshot = site.node.rpc("evm_snapshot")
    _, with_reports = done(site, Flag(OWNER.account, 0, (bundle,)), at)
    site.node.rpc("evm_revert", snapshot)
    call = HybridMarket(site.deployed.protocol).post_call([bundle])
    _, without = done(site, Flag(OWNER.account, 0), at, Tx(REPORTERS[0].address, call.to, call.data))
    assert BUNDLE_GAS * 2 // 3 <= with_reports - without <= BUNDLE_GAS


@dataclass
class Stand:
    """Serves a bundle as reporters do, to whoever has the token."""

    url: str = ""
    bundle: Bundle = ()
    asked: threading.Event = field(default_factory=threading.Event)

    def lay_out(self, bundle: Bundle) -> None:
        """Serve another bundle, and wait until it was asked for."""
        self.bundle = bundle
        for _ in range(2):
            self.asked.clear()
            assert self.asked.wait(60)


@contextmanager
def standing(site: Site) -> Iterator[Stand]:
    stand = Stand()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["Authorization"] == f"Bearer {TOKEN}"
            self.send_response(200 if known else 401)
            self.end_headers()
            if known:
                self.wfile.write(write(stand.bundle, HybridMarket(site.deployed.protocol).fast_domain))
            stand.asked.set()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    stand.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield stand
    finally:
        server.shutdown()
        server.server_close()


def test_a_keeper_raises_and_confirms_an_alarm_where_no_reporter_posts(site: Site) -> None:
    site.configure()
    secrets = {**SECRETS, "KEEPER_EXCHANGE_TOKEN": TOKEN}
    acts: list[str] = []
    with standing(site) as stand:
        with (site.folder / "keeper.toml").open("a") as file:
            file.write(f'[reports]\nendpoints = ["{stand.url}"]\n')
        with running(site.folder, "run", secrets=secrets) as keeper:
            for _ in range(8):
                block = site.node.block_number()
                keeper.until(lambda block=block: keeper.done_with(block), 60)  # type: ignore[misc]
                at = next_block(site)
                stand.lay_out(signed(site, ChainTime(at.block + 1, at.timestamp_s + 12)))
                site.node.send([site.deployed.slow_round(feed, price) for feed, price in AFTER.items()])
                site.node.mine(at.timestamp_s)
                acts += mined(site)
                if "Tranche" in acts:
                    break
            keeper.end()
    assert acts[:3] == ["Flagged", "Confirmed", "Tranche"]
    with closing(site.journal()) as journal:
        assert journal.verify() == []


def mined(site: Site) -> list[str]:
    """Return what the keeper did in the newest block; each act posts its price itself."""
    market, names = HybridMarket(site.deployed.protocol), []
    for receipt in site.node.receipts().values():
        facts = [market.decode(log_of(log)) for log in receipt["logs"]]
        said = [fact.act for fact in facts if fact is not None]
        if receipt["from"] == KEEPER.address:
            assert receipt["status"] == "0x1"
            assert said[0] == "FastPrice"
            names += [name for name in said if name in {"Flagged", "Confirmed", "Tranche"}]
        else:
            assert "FastPrice" not in said
    return names
