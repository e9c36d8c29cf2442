"""Which acts bring their prices along, and which do without; and what is not done on prices out of date."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from eth_abi.abi import decode

from keeper.desk.hybrid import HybridDesk
from keeper.desk.hybrid import Params as DeskParams
from keeper.domain import Bundle, ChainTime, FeedView, Leg, Observation, Report
from keeper.plan import hybrid as plan
from keeper.plan.common import Gas
from keeper.protocols.hybrid.abi import load
from keeper.protocols.hybrid.params import feed_name
from keeper.units import WAD, AccountKey, FeedId, Wad
from tests.unit.pipeline.desk import BREACHED, EMPTY, KEEPER, Desk, confirmed, cured, flagged

BTC: FeedId = "BTC/USD"
OTHER = replace(BREACHED, key=b"\x0c" * 20 + bytes(12))


@dataclass
class Signed:
    """Reporters who sign what they are told to, shortly before each block."""

    prices: dict[FeedId, Wad] = field(default_factory=dict)

    def bundles(self, oracles: Mapping[FeedId, FeedView], at: ChainTime) -> dict[FeedId, Bundle]:
        return {
            feed: tuple(
                Report(Observation(feed, price, 10, at.timestamp_s - 2, at.timestamp_s + 30), bytes(65), who)
                for who in ("0xa", "0xb", "0xc")
            )
            for feed, price in self.prices.items()
            if feed in oracles
        }


def with_reports(desk: Desk) -> Signed:
    """Have a keeper hear reports, its tape as well if there is one."""
    reports = Signed()

    def deciding(wallet: str, taker: AccountKey, params: DeskParams) -> HybridDesk:
        return HybridDesk(wallet, taker, params, desk.tape.reports(reports) if desk.tape else reports)

    desk.deciding = deciding  # type: ignore[assignment]
    desk.start()
    return reports


@pytest.fixture
def reports(desk: Desk) -> Signed:
    return with_reports(desk)


def posted(desk: Desk, number: int = -1) -> dict[FeedId, Wad]:
    """Return what prices a transaction brings along."""
    steps = desk.journal._rows("SELECT kind, unsigned_tx FROM steps ORDER BY rowid")
    step = steps[number]
    function = load("Liquidator").functions[step["kind"]]
    *_, bundles = decode(function.inputs, bytes.fromhex(json.loads(step["unsigned_tx"])["data"][10:]))
    return {feed_name(feed): rows[1][0] for feed, rows in bundles}


def gas_of(desk: Desk, number: int = -1) -> int:
    steps = desk.journal._rows("SELECT unsigned_tx FROM steps ORDER BY rowid")
    return int(json.loads(steps[number]["unsigned_tx"])["gas"])


# --- alarms --------------------------------------------------------------------------------------


async def test_an_alarm_brings_the_price_that_is_not_on_chain_yet(desk: Desk, reports: Signed) -> None:
    desk.chain.fast[BTC] = 203 * WAD
    desk.feed.known[BTC] = 200 * WAD
    await desk.head(BREACHED)
    assert desk.told() == ["Suspected", "Waited alarm.not_on_chain"]
    reports.prices = {BTC: 200 * WAD, "ETH/USD": 1_400 * WAD}
    await desk.head()
    assert desk.acts() == ["flag"]
    assert posted(desk) == {BTC: 200 * WAD}, "and none that the account does not hang on"


async def test_an_alarm_brings_a_price_where_the_one_on_chain_is_stale(desk: Desk, reports: Signed) -> None:
    desk.chain.silent = {BTC}
    desk.chain.fast[BTC] = 200 * WAD
    desk.feed.known[BTC] = 200 * WAD
    reports.prices = {BTC: 200 * WAD}
    desk.chain.slow[BTC] = 203 * WAD
    await desk.head(BREACHED)
    assert (desk.acts(), posted(desk)) == (["flag"], {BTC: 200 * WAD})


@pytest.mark.parametrize(
    ("price_wad", "brings"), [(200 * WAD - WAD // 5, True), (200 * WAD - WAD // 6, False)]
)
async def test_a_price_that_has_hardly_moved_is_not_brought(
    desk: Desk, reports: Signed, price_wad: Wad, brings: bool
) -> None:
    reports.prices = {BTC: price_wad}
    await desk.head(BREACHED)
    assert desk.acts() == ["flag"]
    assert posted(desk) == ({BTC: price_wad} if brings else {})


async def test_without_reports_all_is_as_before(desk: Desk, reports: Signed) -> None:
    assert reports.prices == {}
    await desk.head(BREACHED)
    assert (desk.acts(), posted(desk)) == (["flag"], {})


async def test_a_breach_that_newer_prices_deny_is_no_alarm(desk: Desk, reports: Signed) -> None:
    reports.prices = {BTC: 203 * WAD}
    await desk.head(BREACHED)
    assert (desk.acts(), desk.told()[-1]) == ([], "Waited alarm.not_on_chain")


async def test_two_alarms_of_one_block_both_bring_the_price(desk: Desk, reports: Signed) -> None:
    desk.chain.fast[BTC] = 203 * WAD
    desk.feed.known[BTC] = 200 * WAD
    reports.prices = {BTC: 200 * WAD}
    await desk.head(BREACHED, OTHER)
    assert desk.acts() == ["flag", "flag"]
    assert [posted(desk, number) for number in (0, 1)] == [{BTC: 200 * WAD}] * 2


async def test_the_gas_of_a_bundle_is_counted(kept: Desk) -> None:
    await kept.head(BREACHED)
    bare = gas_of(kept)
    reports = with_reports(kept)
    reports.prices = {BTC: 199 * WAD}
    await kept.head(OTHER)
    assert gas_of(kept) - bare == 2 * plan.Params().gas_bundle.typical(3)


async def test_an_alarm_that_does_not_pay_for_its_bundle_is_not_raised(kept: Desk) -> None:
    reports = with_reports(kept)
    reports.prices = {BTC: 199 * WAD}
    kept.plan = replace(kept.plan, gas_bundle=Gas(10**9, 0))
    kept.start()
    await kept.head(BREACHED)
    assert (kept.acts(), kept.told()[-1]) == ([], "Refused alarm.unprofitable")


# --- what comes after ----------------------------------------------------------------------------


async def test_a_confirmation_brings_the_evidence_that_the_chain_lacks(desk: Desk, reports: Signed) -> None:
    desk.chain.fast_age_s = 36
    desk.chain.slow[BTC] = desk.feed.known[BTC] = 200 * WAD
    reports.prices = {BTC: 200 * WAD}
    alarm = flagged(BREACHED, desk.chain.tip)
    await desk.head(alarm)
    await desk.head()
    assert desk.acts() == ["confirm"]
    assert posted(desk) == {BTC: 200 * WAD}


async def test_a_slice_brings_the_price_that_the_takers_own_book_needs(desk: Desk, reports: Signed) -> None:
    taker = replace(EMPTY, key=KEEPER, cash_wad=100_000 * WAD, legs=(Leg(2, WAD, -1_500 * WAD),))
    reports.prices = {BTC: 199 * WAD, "ETH/USD": 1_490 * WAD, "SYN/USD": 6 * WAD}
    desk.chain.slow[BTC] = 199 * WAD
    await desk.head(confirmed(flagged(BREACHED, desk.chain.tip), desk.chain.tip), taker)
    assert desk.acts() == ["liquidate"]
    assert posted(desk) == {BTC: 199 * WAD, "ETH/USD": 1_490 * WAD}


@pytest.mark.parametrize(("price_wad", "act"), [(203 * WAD, "clear"), (230 * WAD, "clear")])
async def test_a_false_alarm_is_ended_with_the_price_that_shows_it(
    desk: Desk, reports: Signed, price_wad: Wad, act: str
) -> None:
    alarm = flagged(BREACHED, desk.chain.tip)
    desk.chain.slow[BTC] = desk.feed.known[BTC] = price_wad
    reports.prices = {BTC: price_wad}
    await desk.head(alarm)
    assert (desk.acts(), posted(desk)) == ([act], {BTC: price_wad})


async def test_a_cure_brings_its_price(desk: Desk, reports: Signed) -> None:
    found = confirmed(flagged(cured(BREACHED), desk.chain.tip), desk.chain.tip)
    desk.chain.silent = {BTC}
    reports.prices = {BTC: 200 * WAD}
    await desk.head(found)
    assert (desk.acts(), posted(desk)) == (["cure"], {BTC: 200 * WAD})


# --- what takes no reports -----------------------------------------------------------------------


def in_between(desk: Desk) -> Any:
    """An account that is neither safe nor to be sliced at 202: only its clock is to be kept going."""
    found = confirmed(flagged(BREACHED, desk.chain.tip), desk.chain.tip)
    since_s = desk.chain.tip.timestamp_s - 60
    return replace(found, flag=replace(found.flag, last_poke_s=since_s))


async def test_a_clock_is_not_poked_on_a_price_that_is_not_on_chain(desk: Desk, reports: Signed) -> None:
    desk.chain.silent = {BTC}
    desk.chain.slow[BTC] = desk.feed.known[BTC] = 202 * WAD
    reports.prices = {BTC: 202 * WAD}
    await desk.head(in_between(desk))
    assert desk.acts() == []


async def test_a_clock_is_poked_where_the_chains_own_price_lets_it_run(desk: Desk, reports: Signed) -> None:
    for prices in (desk.chain.fast, desk.chain.slow, desk.feed.known):
        prices[BTC] = 202 * WAD
    reports.prices = {BTC: 202 * WAD + WAD // 2}
    await desk.head(in_between(desk))
    assert desk.acts() == ["poke"]


async def test_nothing_is_done_on_old_prices_where_new_ones_ask_for_something_else(
    desk: Desk, reports: Signed
) -> None:
    desk.chain.slow[BTC] = 200 * WAD
    reports.prices = {BTC: 202 * WAD}
    await desk.head(in_between(desk))
    assert (desk.acts(), desk.told()[-1]) == ([], "Waited reports.otherwise")
