"""The steward against the real contracts: what it publishes, what it refuses, and that it does so once."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from keeper.cli import app, stewarding
from keeper.domain import Call, Head, Kind
from keeper.errors import ChainFault, KeeperError
from keeper.execute.plain import PlainSender
from keeper.lab.anvil import Node, Tx
from keeper.lab.deploy import QUOTE, Deployed, OptionSpec, Spec, deploy, find, function_of
from keeper.lab.world import FOREVER, fast_prices, person, reporters, trade
from keeper.protocols.hybrid import steward
from keeper.protocols.hybrid.codec import revert_name
from keeper.protocols.hybrid.params import feed_bytes
from keeper.protocols.hybrid.signing import Order, margins_digest
from keeper.protocols.hybrid.steward import Allowed, MarginChange, broken_bound
from keeper.steward.margins import signed_call
from keeper.units import WAD, FeedId, UnixS, Wad

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(120)]

REPORTERS = reporters(1)
KEYS = tuple(reporter.key for reporter in REPORTERS)
NOBODY = "0x" + "00" * 20
OWNER, MAKER = person(1, "owner"), person(1, "maker")
PRICES: dict[FeedId, Wad] = {"BTC/USD": 20_000 * WAD, "ETH/USD": 1_500 * WAD, "SYN/USD": 7 * WAD}
STEP_S = 14_400
DAY_S = 86_400
CALM = {"BTC/USD": 0.0235, "ETH/USD": 0.021, "SYN/USD": 0.034}
"""Standard deviations of four hours, near what the demo's margins stand for."""
CONFIG = """
[chain]
http = "{http}"
ws = "{ws}"
chain_id = {chain_id}
block_time_s = 1
[deployment]
reader = "{reader}"
[feed]
path = "prices.csv"
max_age_s = 600
[economics]
native_feed = "ETH/USD"
[depth."BTC/USD"]
volume_day = "300000000"
[steward.vols]
"BTC/USD" = 0.8
"""


@dataclass
class Site:
    """A deployment with a long and a short of ten bitcoins and a call, and the folder of a steward of it."""

    node: Node
    folder: Path

    @cached_property
    def deployed(self) -> Deployed:
        expiry_s = self.node.timestamp_s() + 30 * DAY_S
        options = (OptionSpec("BTC/USD", Kind.CALL, 21_000 * WAD, expiry_s),)
        return deploy(self.node, signers=[each.address for each in REPORTERS], spec=Spec(options=options))

    def open(self, cash_wad: Wad = 17_000 * WAD) -> None:
        """Fund everyone, and have the owner buy ten bitcoins of the maker."""
        deployed, node = self.deployed, self.node
        node.fund([each.address for each in REPORTERS])
        cash = {OWNER.account: cash_wad, MAKER.account: 10**6 * WAD}
        node.run(deployed.mint(QUOTE, 2 * 10**6 * WAD))
        credit = deployed.give_credit(QUOTE, sum(cash.values()), deployed.admin)
        node.run([credit, *(deployed.deposit(account, QUOTE, wad) for account, wad in cash.items())])
        order = Order(OWNER.account, 1, 10 * WAD, PRICES["BTC/USD"], 1, FOREVER)
        at_s = self.prices()
        proofs = (deployed.prove(feed) for feed in PRICES)
        node.run([*self.posted(at_s), *proofs, trade(deployed, OWNER, MAKER, order)], at_s)
        node.rpc("evm_setAutomine", True)

    def posted(self, at_s: UnixS) -> list[Any]:
        rounds = [self.deployed.slow_round(feed, price) for feed, price in PRICES.items()]
        return [*rounds, fast_prices(self.deployed, KEYS, PRICES, at_s)]

    def pass_time(self, seconds: int) -> None:
        """Let time pass, with both prices of every feed at its end."""
        self.node.rpc("evm_setAutomine", False)
        at_s = self.prices(seconds)
        self.node.run(self.posted(at_s), at_s)
        self.node.rpc("evm_setAutomine", True)

    def prices(self, ahead_s: int = 12) -> UnixS:
        """Record the prices of some time ahead; return it."""
        at_s = self.node.timestamp_s() + ahead_s
        lines = [f"{at_s},{feed},{price // WAD}" for feed, price in PRICES.items()]
        (self.folder / "prices.csv").write_text("\n".join(["timestamp_s,feed,price", *lines]) + "\n")
        return at_s

    def configure(self, more: str = "") -> None:
        http = self.node.http_url
        values = {"http": http, "ws": http.replace("http", "ws"), "chain_id": self.node.chain_id}
        text = CONFIG.format(**values, reader=self.deployed.protocol.reader)
        (self.folder / "keeper.toml").write_text(text + more)

    def closes(
        self,
        deviations: dict[str, float] = CALM,
        *,
        late_s: int = 60,
        rows: int = 700,
        name: str = "closes.csv",
    ) -> None:
        """Write closes every four hours whose last one is what the chain says."""
        rng = np.random.default_rng(8)
        last_s = self.node.timestamp_s() - late_s
        moves = {feed: sd * rng.standard_normal(rows - 1) for feed, sd in deviations.items()}
        ends = {feed: PRICES[feed] / WAD for feed in deviations}
        path = {feed: ends[feed] * np.exp(np.cumsum([0, *each[::-1]]))[::-1] for feed, each in moves.items()}
        with (self.folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["time", *deviations])
            for row in range(rows):
                at_s = last_s - STEP_S * (rows - 1 - row)
                writer.writerow([at_s, *(f"{path[feed][row]:.8f}" for feed in deviations)])

    def margins(self) -> dict[FeedId, tuple[Wad, Wad, Wad, Wad]]:
        """Read what is in force, and where it leads: mmr, imr, their ends."""
        rules, now_s = find(self.node, self.deployed.protocol.reader).rules, self.node.timestamp_s()
        return {
            feed: (each.mmr.at(now_s), each.imr.at(now_s), each.mmr.to_wad, each.imr.to_wad)
            for feed, each in rules.underlyings.items()
        }

    @property
    def sent(self) -> int:
        return int(self.node.rpc("eth_getTransactionCount", REPORTERS[-1].address, "pending"), 16)


@pytest.fixture
def site(anvil: Node, tmp_path: Path) -> Site:
    made = Site(anvil, tmp_path)
    made.configure()
    made.open()
    return made


Told = Callable[..., tuple[int, Any]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], site: Site) -> Iterator[Told]:
    """Run the steward in this process; return its exit code and what it says, decoded where it is JSON."""

    def _told(*options: str, keys: tuple[bytes, ...] = KEYS) -> tuple[int, Any]:
        for name in [name for name in os.environ if name.startswith("KEEPER_")]:
            monkeypatch.delenv(name)
        if keys:
            monkeypatch.setenv("KEEPER_REPORTER_KEYS", ",".join(key.hex() for key in keys))
        monkeypatch.chdir(site.folder)
        command = ["keeper", "steward", "--config", "keeper.toml", "--prices", "closes.csv", *options]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises((SystemExit, KeeperError)) as ended:
            app()
        captured = capsys.readouterr()
        said = captured.out + captured.err + str(ended.value)
        assert not any(key.hex() in said for key in KEYS)
        code = ended.value.code if isinstance(ended.value, SystemExit) else 2
        assert isinstance(code, int)
        return code, json.loads(captured.out) if "--json" in options and code != 2 else said

    yield _told
    structlog.reset_defaults()


def test_margins_and_arrays_are_published_once_and_follow_their_ramp(site: Site, told: Told) -> None:
    site.closes(CALM | {"BTC/USD": 0.028, "SYN/USD": 0.036})
    before, sent = site.margins(), site.sent
    code, said = told("--json")
    assert code == 0
    change = said["underlyings"]["BTC/USD"]["change"]
    changed = {feed for feed in PRICES if "change" in said["underlyings"][feed]}
    assert said["sent"].keys() == {"BTC/USD", "options", *changed}
    assert said["fault"] is None
    assert said["arrays"] == {"markets": [4]}
    assert site.sent == sent + len(said["sent"])
    assert site.deployed.protocol.risk_arrays
    mmr_wad, imr_wad = round(change["mmr"] * WAD), round(change["imr"] * WAD)
    assert mmr_wad > before["BTC/USD"][0]
    assert site.margins()["BTC/USD"][2:] == pytest.approx((mmr_wad, imr_wad), abs=10)

    site.pass_time(DAY_S // 2)
    half, *_ = site.margins()["BTC/USD"]
    assert half == pytest.approx((before["BTC/USD"][0] + mmr_wad) // 2, rel=1e-3)
    sent = site.sent
    code, said = told("--json")
    assert (code, said["sent"].keys()) == (0, {"options"}), "the risk array is out of date"
    assert said["underlyings"]["BTC/USD"]["refused"]["rule"] == "margins.not_newer"
    assert site.sent == sent + 1

    site.pass_time(DAY_S // 2)
    assert site.margins()["BTC/USD"][:2] == pytest.approx((mmr_wad, imr_wad), abs=10)


def test_what_the_chain_does_not_include_is_told_and_followed_up(
    site: Site, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stewarding, "PATIENCE_BLOCKS", 1)
    site.closes(CALM | {"BTC/USD": 0.028})
    site.node.rpc("evm_setAutomine", False)
    code, said = told()
    assert (code, "BTC/USD: mmr 5.00% → " in said, "published in" in said) == (2, True, False)
    assert "was not included within 1 s" in said
    code, said = told()
    assert code == 2
    assert f"another transaction of {REPORTERS[-1].address.lower()} waits to be included" in said
    site.node.mine()
    site.node.rpc("evm_setAutomine", True)
    code, said = told("--json")
    assert code == 0
    assert said["underlyings"]["BTC/USD"]["refused"]["rule"] == "margins.not_newer"
    assert said["sent"].keys() == {*PRICES, "options"} - {"BTC/USD"}


def test_what_was_published_before_the_chain_failed_is_told(
    site: Site, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    post, posts = PlainSender.post, count()

    async def fail_at_the_second(self: PlainSender, call: Call, head: Head) -> str:
        if next(posts):
            raise ChainFault("the node is gone")
        return await post(self, call, head)

    monkeypatch.setattr(PlainSender, "post", fail_at_the_second)
    site.closes(CALM | {"BTC/USD": 0.028})
    code, said = told("--json")
    assert code == 2
    found = json.loads(said[: said.rindex("}") + 1].partition("\n{")[0])
    assert (found["sent"].keys(), found["fault"]) == ({"BTC/USD"}, "the node is gone")
    assert said.endswith("the node is gone")


def test_a_dry_run_says_all_of_it_needs_no_key_and_sends_nothing(site: Site, told: Told) -> None:
    site.closes(CALM | {"BTC/USD": 0.028})
    before, sent = site.margins(), site.sent
    code, said = told("--dry-run", keys=())
    assert code == 0
    assert "BTC/USD: mmr 5.00% → " in said
    assert "2 accounts hold positions" in said
    assert f"{OWNER.address.lower()}:0" in said
    assert "risk arrays due: markets 4\n" in said
    assert "dry run: nothing was signed or sent\n" in said
    assert (site.margins(), site.sent) == (before, sent)


def test_a_change_that_alone_would_breach_an_account_is_refused(site: Site, told: Told) -> None:
    """The owner's equity is 17,000 on a notional of 200,000: 8.5%."""
    site.closes(CALM | {"BTC/USD": 0.034})
    code, said = told("--json", "--dry-run")
    assert code == 0
    assert said["accounts"]["breached_by_it"] == 0
    site.configure("[steward.margins]\nmost_rise = 0.9\nmost_swing = 5\n")
    allow_more(site, rise_wad=WAD)
    site.closes(CALM | {"BTC/USD": 0.07})
    code, said = told("--json")
    assert code == 1
    assert said["underlyings"]["BTC/USD"]["refused"] == {
        "rule": "margins.breaches",
        "found": f"1 would be in breach: {OWNER.address.lower()}:0",
        "bound": "0",
    }
    assert "BTC/USD" not in said["sent"]
    site.configure("[steward.margins]\nmost_rise = 0.9\nmost_swing = 5\nmost_breached = 1\n")
    code, said = told("--json", "--dry-run")
    assert code == 0
    assert said["accounts"]["breached_by_it"] == 1
    assert said["accounts"]["nearest"][0]["account"] == f"0x{OWNER.account.hex()}"
    assert said["accounts"]["nearest"][0]["health_then"] < 1 < said["accounts"]["nearest"][0]["health"]


def test_thin_stale_and_odd_closes_are_refused_with_value_and_bound(site: Site, told: Told) -> None:
    def refused() -> Any:
        code, said = told("--json", "--dry-run")
        assert code == 1
        return said["underlyings"]["BTC/USD"]["refused"]

    site.closes(rows=500)
    thin = {"rule": "data.thin", "found": "499 returns of 4 h", "bound": "500 or more"}
    assert refused() == thin
    site.closes(late_s=DAY_S + 100)
    assert refused()["rule"] == "data.stale"
    site.closes(CALM | {"BTC/USD": 0.3})
    assert refused()["rule"] == "data.swung"
    site.closes({"ETH/USD": 0.02})
    missing = {"rule": "data.missing", "found": "closes of ETH/USD", "bound": "a column named BTC/USD"}
    assert refused() == missing
    site.closes()
    lines = (site.folder / "closes.csv").read_text().splitlines()
    lines[-1] = lines[-1].replace(",20000.", ",26000.")
    (site.folder / "closes.csv").write_text("\n".join(lines) + "\n")
    assert refused() == {
        "rule": "data.apart",
        "found": "the last close is 26,000 where 20,000 is said elsewhere",
        "bound": "10.0%",
    }


def test_what_the_closes_of_another_source_do_not_bear_is_not_signed(site: Site, told: Told) -> None:
    site.closes(CALM | {"BTC/USD": 0.028})
    site.closes(CALM | {"BTC/USD": 0.0275}, name="near.csv")
    site.closes(CALM, name="calm.csv")
    code, said = told("--json", "--dry-run", "--prices", "near.csv")
    assert code == 0
    assert "change" in said["underlyings"]["BTC/USD"]
    sent = site.sent
    code, said = told("--json", "--prices", "near.csv", "--prices", "calm.csv")
    assert code == 1
    refused = said["underlyings"]["BTC/USD"]["refused"]
    assert (refused["rule"], refused["found"].partition(":")[0][:8]) == ("margins.disputed", "source 3")
    assert "BTC/USD" not in said["sent"]
    assert site.sent == sent + len(said["sent"])


def test_too_few_keys_of_signers_and_a_deployment_without_a_steward_are_refused(
    site: Site, told: Told
) -> None:
    site.closes(CALM | {"BTC/USD": 0.028})
    sent = site.sent
    code, said = told(keys=(*KEYS[:2], OWNER.key))
    assert (code, "2 keys of its signers given" in said) == (2, True)
    site.node.send(
        [site.deployed.tx("Instruments", "setSteward", site.deployed.protocol.instruments, NOBODY)]
    )
    code, said = told()
    assert (code, "has no steward" in said) == (2, True)
    assert site.sent == sent


def allow_more(site: Site, **changes: int) -> None:
    """Have the owner allow a quorum more."""
    found = read(site)
    for feed, each in found.allowed.items():
        assert each.bounds
        wider = replace(each.bounds, **changes)
        values = [getattr(wider, name) for name in wider.__slots__]
        made = site.deployed.tx("RiskSteward", "setBounds", found.address, feed_bytes(feed), tuple(values))
        site.node.send([made])


def read(site: Site) -> steward.Stewardship:
    """Read what a quorum may move, as the steward does."""

    def asked() -> Generator[list[Call], list[bytes], None]:
        found.append((yield from steward.read_stewardship(site.deployed.protocol)))

    found: list[steward.Stewardship | None] = []
    asking = asked()
    calls = next(asking)
    with suppress(StopIteration):
        while True:
            calls = asking.send(site.node.call_many([(call.to, call.data) for call in calls]))
    [stewardship] = found
    assert stewardship
    return stewardship


def test_what_the_chain_refuses_is_foreseen_bound_by_bound(site: Site) -> None:
    """Each change is tried on the contract and judged by the mirror: they agree, at both edges of a bound."""
    found, now_s = read(site), site.node.timestamp_s()
    terms = site.deployed.protocol.rules.underlyings["BTC/USD"]
    allowed: Allowed = found.allowed["BTC/USD"]
    at_s = now_s + 1
    good = MarginChange("BTC/USD", 6 * WAD // 100, 9 * WAD // 100, DAY_S, now_s, at_s + 60)
    (least_mmr, most_mmr), (least_imr, most_imr) = allowed.reach(terms.mmr.at(at_s), terms.imr.at(at_s))
    tries = [
        good,
        replace(good, mmr_wad=most_mmr), replace(good, mmr_wad=most_mmr + 1),
        replace(good, mmr_wad=least_mmr), replace(good, mmr_wad=least_mmr - 1),
        replace(good, imr_wad=most_imr), replace(good, imr_wad=most_imr + 1),
        replace(good, imr_wad=least_imr), replace(good, imr_wad=least_imr - 1),
        replace(good, duration_s=DAY_S - 1), replace(good, duration_s=90 * DAY_S),
        replace(good, duration_s=90 * DAY_S + 1),
        replace(good, valid_until_s=at_s), replace(good, valid_until_s=at_s - 1),
        replace(good, observed_at_s=at_s), replace(good, observed_at_s=at_s + 1),
        replace(good, observed_at_s=at_s - 2 * DAY_S), replace(good, observed_at_s=at_s - 2 * DAY_S - 1),
        replace(good, observed_at_s=0),
    ]  # fmt: skip
    verdicts = []
    for change in tries:
        foreseen = broken_bound(change, allowed, terms, at_s)
        error = tried(site, change, found.address, at_s)
        assert (foreseen is None) == (error is None), (change, foreseen, error)
        verdicts.append(error)
    assert sum(each is None for each in verdicts) == 9
    assert verdicts[2] == (
        "OutOfBounds(parameter=mmr, value=62500000000000001, least=45000000000000000, most=62500000000000000)"
    )


def tried(site: Site, change: MarginChange, address: str, at_s: UnixS) -> str | None:
    """Say why the contract refuses a signed change in a block at some time; None where it takes it."""
    call = signed_call(change, steward.Stewardship(address, {}), KEYS[:3], site.node.chain_id)
    request = {"from": REPORTERS[0].address, "to": call.to, "data": "0x" + call.data.hex()}
    block = {"blockOverrides": {"time": hex(at_s)}, "calls": [request]}
    [answer] = site.node.rpc("eth_simulateV1", {"blockStateCalls": [block]}, "latest")
    [result] = answer["calls"]
    return None if result["status"] == "0x1" else revert_name(bytes.fromhex(result["returnData"][2:]))


def test_the_digest_is_the_contracts_own(site: Site) -> None:
    change = MarginChange("ETH/USD", 6 * WAD // 100, 9 * WAD // 100, DAY_S, 1_700_000_000, 1_700_000_600)
    address, digest = read(site).address, function_of("RiskSteward", "digest")
    call = digest.call(address, change.fields)
    (found,) = digest.result(site.node.call(call.to, call.data))
    assert found == margins_digest(change, steward=address, chain_id=site.node.chain_id)


def test_a_version_rises_so_that_keepers_read_the_terms_anew(site: Site) -> None:
    found, now_s = read(site), site.node.timestamp_s()
    change = MarginChange("BTC/USD", 6 * WAD // 100, 9 * WAD // 100, DAY_S, now_s, now_s + 600)
    call = signed_call(change, found, KEYS[:3], site.node.chain_id)
    site.node.send([Tx(REPORTERS[0].address, call.to, call.data)])
    after = find(site.node, site.deployed.protocol.reader)
    assert after.version == site.deployed.protocol.version + 1
    assert after.rules.underlyings["BTC/USD"].mmr.to_wad == 6 * WAD // 100
