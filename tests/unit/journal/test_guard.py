from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from keeper.domain import Agree, CaseEvent, EventKind, Permit, Reason, Refuse, Step
from keeper.journal.guard import EACH, RULES, Ask, Limits, Past, Standing, check
from keeper.journal.store import StoredJournal
from keeper.journal.tally import Inventory, Sums
from keeper.ports import Outcome, StepState, Switch, Thrown
from keeper.units import WAD

NOW_S = 1_000_000
ME = b"\x01" * 32
BOTH = Agree("both clocks", "balanced", ME, 101)
"""About what is asked for by ``ask``."""
S = StepState

HIM, HIS_KEY = "0x" + "01" * 20, "0x" + "01" * 32
LIMITS = Limits(
    spend_day_wei=1_000,
    spend_hour_wei=500,
    floor_wei=1_000,
    max_fee_wei=9,
    notional_hour_wad=90 * WAD,
    market_day_wad={"ETH/USD": 60 * WAD, EACH: 10**10 * WAD},
    inventory_wad={"ETH/USD": 40 * WAD},
    loss_hour_wad=5 * WAD,
    loss_day_wad=8 * WAD,
    notional_block_wad=50 * WAD,
    attempts_hour=3,
    backoff_s=30,
    backoff_max_s=100,
    solvency_day_wad=30 * WAD,
    depth_minute_wad={"ETH/USD": 20 * WAD},
)
HALTED = Thrown(Switch.HALT, "", "SIGUSR1", "", NOW_S)
PAUSED = Thrown(Switch.PAUSE, "ETH/USD", "command of user 7", "delisted", NOW_S)
JUMPED = Thrown(Switch.JUMP, "ETH/USD", "rule", "0.6, bound 0.5", NOW_S - 9, NOW_S + 1)
REVERTED = Thrown(Switch.REVERTS, "", "rule", "1, bound 1", NOW_S - 9, NOW_S + 1)
BOTH_MARKETS = ("BTC/USD", "ETH/USD")
TAKES = (("BTC/USD", 10**9 * WAD), ("ETH/USD", -5 * WAD))


def past(state: StepState = S.INCLUDED, *, ago_s: int = 600) -> Past:
    return Past("s1", state, NOW_S - ago_s, NOW_S - ago_s)


def on(*thrown: Thrown) -> Standing:
    return Standing(thrown)


def ask(*earlier: Past, limits: Limits = LIMITS, **asked: Any) -> Ask:
    question = Ask(ME, 100, 10 * WAD, 105, 100, NOW_S, earlier, 0, 0, limits, balance_wei=10**6)
    return replace(question, **asked)


AGREED = {
    "nothing has happened yet": ask(),
    "exactly the spend of a day": ask(spent_day_wei=900),
    "the last transaction that may be in flight": ask(in_flight=15),
    "exactly the notional of a block": ask(notional_block_wad=40 * WAD),
    "the attempts of an earlier hour": ask(*[past(ago_s=3_600)] * 9),
    "a revert that was followed by an inclusion": ask(past(S.REVERTED, ago_s=20), past(ago_s=10)),
    "a revert whose pause is over": ask(past(S.REVERTED, ago_s=30)),
    "an agreement to take something": ask(closes=True, agreed=BOTH),
    "the last block before the end of validity": ask(valid_until_block=101),
    "exactly what a market takes within a minute": ask(
        takes=TAKES, moved_minute_wad={"ETH/USD": 15 * WAD, "BTC/USD": 10**9 * WAD}
    ),
    "exactly what a day may lose": ask(loss_wad=10 * WAD, losses_day_wad=20 * WAD),
    "what loses nothing, however much was lost": ask(losses_day_wad=31 * WAD),
    "exactly the spend of an hour": ask(hour=Sums(spent_wei=400)),
    "exactly the notional of an hour": ask(hour=Sums(notional_wad=80 * WAD)),
    "exactly what an hour and a day may lose": ask(
        risk_wad=WAD, hour=Sums(loss_wad=4 * WAD), day=Sums(loss_wad=7 * WAD)
    ),
    "exactly what a market may give in a day": ask(takes=TAKES, taken_day_wad={"ETH/USD": 55 * WAD}),
    "exactly what may be held short": ask(
        takes=TAKES, inventory={"ETH/USD": Inventory(-20 * WAD, 99 * WAD, -15 * WAD)}
    ),
    "what brings an inventory down that is too large": ask(
        takes=TAKES, inventory={"ETH/USD": Inventory(99 * WAD)}
    ),
    "exactly what leaves the floor in the wallet": ask(balance_wei=1_300, in_flight_wei=200),
    "exactly the highest bid": ask(max_fee_wei=9),
    "an account that is allowed by its owner": ask(limits=replace(LIMITS, accounts_allow=frozenset({HIM}))),
    "an account of whose owner another is denied": ask(
        limits=replace(LIMITS, accounts_deny=frozenset({HIM + "02" * 12}))
    ),
    "what hangs on allowed markets alone": ask(
        markets=BOTH_MARKETS, limits=replace(LIMITS, markets_allow=frozenset(BOTH_MARKETS))
    ),
    "what hangs on nothing, where some markets are allowed": ask(
        limits=replace(LIMITS, markets_allow=frozenset({"BTC/USD"}))
    ),
    "another market than the paused one": ask(markets=("BTC/USD",), standing=on(PAUSED)),
    "an alarm while a price jumps": ask(markets=BOTH_MARKETS, standing=on(JUMPED)),
    "another market than the one that jumped": ask(
        markets=("BTC/USD",), closes=True, agreed=BOTH, standing=on(JUMPED)
    ),
    "a breaker that has closed by itself": ask(at_s=NOW_S + 1, standing=on(REVERTED)),
}

REFUSED = {
    "halted": (
        ask(limits=replace(LIMITS, halted=True)),
        Reason("limit.halted", "the kill switch is set", "halted = false"),
    ),
    "halted by a signal": (
        ask(standing=on(HALTED)),
        Reason("limit.halted", "halted by SIGUSR1", "keeper resume"),
    ),
    "halted by a file": (
        ask(standing=on(Thrown(Switch.HALT, "", "file", "/halt exists", NOW_S))),
        Reason("limit.halted", "halted by file: /halt exists", "no such file"),
    ),
    "paused": (
        ask(markets=BOTH_MARKETS, standing=on(PAUSED)),
        Reason("limit.paused", "ETH/USD paused by command of user 7: delisted", "keeper unpause ETH/USD"),
    ),
    "jumped": (
        ask(markets=BOTH_MARKETS, closes=True, agreed=BOTH, standing=on(JUMPED)),
        Reason(
            "limit.breaker",
            f"jump ETH/USD 0.6, bound 0.5, tripped at {NOW_S - 9}",
            f"until {NOW_S + 1}, or keeper reset jump",
        ),
    ),
    "reverts": (
        ask(standing=on(REVERTED)),
        Reason(
            "limit.breaker",
            f"reverts 1, bound 1, tripped at {NOW_S - 9}",
            f"until {NOW_S + 1}, or keeper reset reverts",
        ),
    ),
    "denied": (
        ask(limits=replace(LIMITS, accounts_deny=frozenset({HIS_KEY}))),
        Reason("limit.account", HIS_KEY, "limits.accounts_deny"),
    ),
    "not allowed": (
        ask(limits=replace(LIMITS, accounts_allow=frozenset({HIM + "02" * 12}))),
        Reason("limit.account", HIS_KEY, "limits.accounts_allow"),
    ),
    "denied market": (
        ask(markets=BOTH_MARKETS, limits=replace(LIMITS, markets_deny=frozenset({"ETH/USD"}))),
        Reason("limit.market", "ETH/USD", "limits.markets_deny"),
    ),
    "market not allowed": (
        ask(markets=BOTH_MARKETS, limits=replace(LIMITS, markets_allow=frozenset({"BTC/USD"}))),
        Reason("limit.market", "ETH/USD", "limits.markets_allow"),
    ),
    "bid": (
        ask(max_fee_wei=10),
        Reason("limit.max_fee", "10 wei per gas", "9 wei per gas"),
    ),
    "floor": (
        ask(balance_wei=1_299, in_flight_wei=200),
        Reason(
            "limit.wallet_floor",
            "1299 wei less 200 wei in flight and 100 wei for this step",
            "1000 wei left",
        ),
    ),
    "floor of an unknown balance": (
        ask(balance_wei=None),
        Reason("limit.wallet_floor", "balance unknown", "1000 wei"),
    ),
    "spend of an hour": (
        ask(hour=Sums(spent_wei=401)),
        Reason("limit.spend_hour", "401 wei in 1 h and 100 wei for this step", "500 wei"),
    ),
    "notional of an hour": (
        ask(hour=Sums(notional_wad=80 * WAD + 1)),
        Reason(
            "limit.notional_hour",
            f"{80 * WAD + 1} wad in 1 h and {10 * WAD} wad for this step",
            f"{90 * WAD} wad",
        ),
    ),
    "market of a day": (
        ask(takes=TAKES, taken_day_wad={"ETH/USD": 55 * WAD + 1}),
        Reason(
            "limit.market_day",
            f"ETH/USD: {55 * WAD + 1} wad in 24 h and {5 * WAD} wad for this step",
            f"{60 * WAD} wad",
        ),
    ),
    "market that is not named": (
        ask(takes=TAKES, taken_day_wad={"BTC/USD": 9 * 10**9 * WAD + 1}),
        Reason(
            "limit.market_day",
            f"BTC/USD: {9 * 10**9 * WAD + 1} wad in 24 h and {10**9 * WAD} wad for this step",
            f"{10**10 * WAD} wad",
        ),
    ),
    "inventory": (
        ask(takes=TAKES, inventory={"ETH/USD": Inventory(-20 * WAD, 99 * WAD, -15 * WAD - 1)}),
        Reason(
            "limit.inventory",
            f"ETH/USD: {-20 * WAD} wad held, {99 * WAD} and {-15 * WAD - 1} wad in flight,"
            f" {-5 * WAD} wad for this step",
            f"{40 * WAD} wad",
        ),
    ),
    "loss of an hour": (
        ask(risk_wad=WAD, hour=Sums(loss_wad=4 * WAD + 1)),
        Reason(
            "limit.loss_hour",
            f"{4 * WAD + 1} wad in 1 h and at most {WAD} wad by this step",
            f"{5 * WAD} wad",
        ),
    ),
    "loss of a day": (
        ask(risk_wad=WAD, day=Sums(loss_wad=7 * WAD + 1)),
        Reason(
            "limit.loss_day",
            f"{7 * WAD + 1} wad in 24 h and at most {WAD} wad by this step",
            f"{8 * WAD} wad",
        ),
    ),
    "agreement": (
        ask(closes=True),
        Reason("limit.agreement", "none", "what takes of an account rests on an agreement"),
    ),
    "an agreement about another account": (
        ask(closes=True, agreed=replace(BOTH, account=b"\x02" * 32)),
        Reason("limit.agreement", f"one about 0x{'02' * 32} for block 101", f"0x{'01' * 32}, block 101"),
    ),
    "an agreement of the block before": (
        ask(closes=True, agreed=replace(BOTH, block=100)),
        Reason("limit.agreement", f"one about 0x{'01' * 32} for block 100", f"0x{'01' * 32}, block 101"),
    ),
    "an agreement of a block that was taken back": (
        ask(closes=True, agreed=replace(BOTH, block=102)),
        Reason("limit.agreement", f"one about 0x{'01' * 32} for block 102", f"0x{'01' * 32}, block 101"),
    ),
    "an agreement about nobody": (
        ask(closes=True, agreed=Agree("both clocks")),
        Reason("limit.agreement", "one about 0x for block 0", f"0x{'01' * 32}, block 101"),
    ),
    "validity": (
        ask(valid_until_block=100),
        Reason("limit.validity", "next block 101", "valid until block 100"),
    ),
    "reserved": (
        ask(past(S.RESERVED)),
        Reason("limit.duplicate", "in flight: s1", "1 transaction an account"),
    ),
    "sent": (
        ask(past(S.SENT, ago_s=10**6)),
        Reason("limit.duplicate", "in flight: s1", "1 transaction an account"),
    ),
    "in flight": (
        ask(in_flight=16),
        Reason("limit.in_flight", "16 in flight", "16 transactions"),
    ),
    "spend": (
        ask(spent_day_wei=901),
        Reason("limit.spend_day", "901 wei in 24 h and 100 wei for this step", "1000 wei"),
    ),
    "notional": (
        ask(notional_block_wad=40 * WAD + 1),
        Reason(
            "limit.notional_block",
            f"{40 * WAD + 1} wad at block 100 and {10 * WAD} wad for this step",
            f"{50 * WAD} wad",
        ),
    ),
    "attempts": (
        ask(past(), past(S.ABANDONED), past(S.DISPLACED)),
        Reason("limit.attempts_hour", "3 attempts in 1 h", "3 attempts"),
    ),
    "depth": (
        ask(takes=TAKES, moved_minute_wad={"ETH/USD": 15 * WAD + 1}),
        Reason(
            "limit.depth_minute",
            f"ETH/USD: {15 * WAD + 1} wad in 1 min and {5 * WAD} wad for this step",
            f"{20 * WAD} wad",
        ),
    ),
    "solvency": (
        ask(loss_wad=10 * WAD, losses_day_wad=20 * WAD + 1),
        Reason(
            "limit.solvency_day",
            f"{20 * WAD + 1} wad lost in 24 h and {10 * WAD} wad by this step",
            f"{30 * WAD} wad",
        ),
    ),
    "first revert": (
        ask(past(S.REVERTED, ago_s=29)),
        Reason("limit.backoff", "29 s since revert 1 in a row", "30 s"),
    ),
    "second revert": (
        ask(past(S.REVERTED, ago_s=200), past(S.REVERTED, ago_s=59)),
        Reason("limit.backoff", "59 s since revert 2 in a row", "60 s"),
    ),
    "abandoned between": (
        ask(past(S.REVERTED, ago_s=59), past(S.ABANDONED, ago_s=50), limits=replace(LIMITS, backoff_s=60)),
        Reason("limit.backoff", "59 s since revert 1 in a row", "60 s"),
    ),
    "longest pause": (
        ask(*[past(S.REVERTED, ago_s=99)] * 9, limits=replace(LIMITS, attempts_hour=99)),
        Reason("limit.backoff", "99 s since revert 9 in a row", "100 s"),
    ),
}


@pytest.mark.parametrize("asked", AGREED.values(), ids=AGREED)
def test_what_stays_within_the_limits_is_agreed_to(asked: Ask) -> None:
    assert check(asked) is None


@pytest.mark.parametrize(("asked", "reason"), REFUSED.values(), ids=REFUSED)
def test_each_limit_refuses_with_its_name_the_value_and_the_bound(asked: Ask, reason: Reason) -> None:
    assert check(asked) == Refuse(reason)


def test_each_rule_refuses_something_here() -> None:
    assert len({reason.rule for _, reason in REFUSED.values()}) == len(RULES)


def test_a_refusal_leaves_nothing_behind(
    open_journal: Callable[..., StoredJournal],
    event: Callable[..., CaseEvent],
    step: Callable[..., Step],
    tx: dict[str, Any],
) -> None:
    journal = open_journal(Limits(halted=True))
    journal.record([event()])
    answer = journal.reserve(step(), tx, chain_nonce=0, block=101, at_s=1212)
    assert isinstance(answer, Refuse)
    assert journal.live_steps() == ()
    assert len(journal.history("case1")) == 1


def test_what_takes_of_an_account_rests_on_an_agreement_that_the_same_event_tells(
    journal: StoredJournal, event: Callable[..., CaseEvent], step: Callable[..., Step], tx: dict[str, Any]
) -> None:
    journal.record([event()])
    refused = journal.reserve(step(tranche=0), tx, chain_nonce=0, block=101, at_s=1212)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "limit.agreement"
    for stale in (replace(BOTH, block=101), replace(BOTH, account=b"\x02" * 32, block=102)):
        refused = journal.reserve(step(tranche=0), tx, agreed=stale, chain_nonce=0, block=101, at_s=1212)
        assert isinstance(refused, Refuse)
        assert refused.reason.rule == "limit.agreement"
    agreed = replace(BOTH, block=102)
    granted = journal.reserve(step(tranche=0), tx, agreed=agreed, chain_nonce=0, block=101, at_s=1212)
    assert isinstance(granted, Permit)
    told = journal.history("case1")[-1].data
    assert told["agreed"] == {"policy": "balanced", "evidence": "both clocks"}
    assert told["closes"]


def test_spend_counts_the_maximum_in_flight_and_the_cost_once_it_is_known(
    open_journal: Callable[..., StoredJournal],
    event: Callable[..., CaseEvent],
    step: Callable[..., Step],
    tx: dict[str, Any],
) -> None:
    most_wei = tx["gas"] * tx["maxFeePerGas"]
    journal = open_journal(Limits(spend_day_wei=2 * most_wei - 1))
    journal.record([event(), event(case=2)])
    first = journal.reserve(step(), tx, chain_nonce=0, block=101, at_s=NOW_S)
    assert isinstance(first, Permit)

    refused = journal.reserve(step(case=2), tx, chain_nonce=0, block=101, at_s=NOW_S + 86_401)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "limit.spend_day"
    assert f"{most_wei} wei in 24 h" in refused.reason.evidence

    journal.sign(first.step_id, b"raw", "0xaa")
    journal.sent(first.step_id, block=101, at_s=NOW_S)
    journal.settle(first.step_id, Outcome(EventKind.INCLUDED, 102, "0xb102", most_wei // 2), at_s=NOW_S + 12)
    again = journal.reserve(step(case=2), tx, chain_nonce=0, block=103, at_s=NOW_S + 24)
    assert isinstance(again, Permit)


def test_an_abandoned_step_has_cost_nothing_but_counts_as_an_attempt(
    open_journal: Callable[..., StoredJournal],
    event: Callable[..., CaseEvent],
    step: Callable[..., Step],
    tx: dict[str, Any],
) -> None:
    most_wei = tx["gas"] * tx["maxFeePerGas"]
    journal = open_journal(Limits(spend_day_wei=most_wei, attempts_hour=2))
    rules = []
    for block in (101, 102, 103):
        journal.record([event(block=block)])
        answer = journal.reserve(step(), tx, chain_nonce=0, block=block, at_s=block * 12)
        if isinstance(answer, Permit):
            journal.abandon(answer.step_id, Reason("send.refused", "", ""), block=block, at_s=block * 12)
        else:
            rules.append((block, answer.reason.rule))
    assert rules == [(103, "limit.attempts_hour")]


def test_the_same_tranche_tried_again_is_another_attempt_of_it(
    journal: StoredJournal, event: Callable[..., CaseEvent], step: Callable[..., Step], tx: dict[str, Any]
) -> None:
    ids = []
    for number, (kind, tranche) in enumerate([("Displaced", 0), ("Included", 0), ("Included", 1)]):
        block = 101 + number
        journal.record([event(block=block)])
        permit = journal.reserve(
            step(tranche=tranche),
            tx,
            agreed=replace(BOTH, block=block + 1),
            chain_nonce=0,
            block=block,
            at_s=block * 12,
        )
        assert isinstance(permit, Permit)
        journal.sign(permit.step_id, b"raw%d" % number, f"0x{number}")
        journal.sent(permit.step_id, block=block, at_s=block * 12)
        journal.settle(permit.step_id, Outcome(EventKind(kind), block, "0xb", 1), at_s=block * 12)
        ids.append(permit.step_id)
    assert ids == ["case1:liquidate:0:1", "case1:liquidate:0:2", "case1:liquidate:1:1"]


def test_the_limits_count_what_other_accounts_did_only_where_they_are_for_all(
    open_journal: Callable[..., StoredJournal],
    event: Callable[..., CaseEvent],
    step: Callable[..., Step],
    tx: dict[str, Any],
) -> None:
    limits = Limits(attempts_hour=1, notional_block_wad=25 * WAD)
    journal = open_journal(limits)
    journal.record([event(case=n) for n in range(1, 6)])

    def asked(case: int, *, block: int, notional_wad: int) -> Permit | Refuse:
        wanted = replace(step(case=case), notional_wad=notional_wad, valid_until_block=110)
        return journal.reserve(wanted, tx, chain_nonce=0, block=block, at_s=NOW_S)

    assert isinstance(asked(1, block=101, notional_wad=20 * WAD), Permit)
    refused = asked(2, block=101, notional_wad=6 * WAD)
    assert isinstance(refused, Refuse)
    assert refused.reason.rule == "limit.notional_block"
    assert isinstance(asked(2, block=102, notional_wad=6 * WAD), Permit)
    second = asked(3, block=101, notional_wad=5 * WAD)
    assert isinstance(second, Permit)
    journal.abandon(second.step_id, Reason("test", "", ""), block=101, at_s=NOW_S)
    assert isinstance(asked(4, block=101, notional_wad=5 * WAD), Permit)
    again = asked(1, block=103, notional_wad=0)
    assert isinstance(again, Refuse)
    assert again.reason.rule == "limit.duplicate"
