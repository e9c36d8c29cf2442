"""What is to be said of one account in a scene: how it stands, what is decided, and what would change it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from keeper.desk.port import Alarm, Judgement
from keeper.domain import (
    Account,
    CaseEvent,
    ChainTime,
    EventKind,
    FlagState,
    Phase,
    Quote,
    Refuse,
    Step,
    Unknown,
    Valuation,
    Wait,
)
from keeper.errors import ChainFault, ConfigError
from keeper.journal.reader import CaseHistory
from keeper.ladder import Book, Rung, told
from keeper.lending.words import Sight, Standing
from keeper.lifecycle import Status, fold
from keeper.pipeline.acts import held_back
from keeper.pipeline.near import day
from keeper.pipeline.rungs import health_of, moved
from keeper.ports import Margin
from keeper.replay.scene import Scene
from keeper.state.book import Book as Accounts
from keeper.trigger import Trigger, score, suspects
from keeper.trigger.distance import Distances, Sample, distances
from keeper.units import WAD, AccountKey, FeedId

BEYOND = 0.01
"""How far beyond the price of a breach it is asked what would be taken: on the edge itself nothing is."""
UNSEEN = "no feed of it is known, or none answers: nobody else speaks of it"
ALARMED_S, AGREED_S = 60, 12
"""How long before, on a slope, the alarm was raised and confirmed in that."""


def parse(text: str) -> tuple[bytes, int | None]:
    """Read 0xowner, 0xowner:sub, or a whole key; return key or owner, and the sub-account that is named."""
    body, colon, sub = text.strip().lower().partition(":")
    try:
        raw = bytes.fromhex(body.removeprefix("0x"))
    except ValueError:
        raw = b""
    if not body.startswith("0x") or len(raw) not in {20, 32} or (colon and len(raw) == 32):
        raise ConfigError(f"{text!r} is no account: expected 0xowner, 0xowner:sub, or a key of 32 bytes")
    if not colon:
        return raw, None
    if not sub.isdecimal() or int(sub) >= 2**96:
        raise ConfigError(f"{text!r} is no account: {sub!r} is no sub-account")
    return raw, int(sub)


def find(text: str, known: Accounts[Any] | None, cases: set[AccountKey]) -> AccountKey:
    """Return the key that a text means; raise ConfigError where it is unknown, or could be several."""
    raw, sub = parse(text)
    if len(raw) == 32 or sub is not None:
        key = raw if sub is None else raw + sub.to_bytes(12)
        if key in cases or (known is not None and key in known):
            return key
        raise ConfigError(f"account 0x{key.hex()} is not known: no event of the deployment has named it")
    rows: list[AccountKey] = [] if known is None else known.keys.tolist()
    found = sorted({key for key in (*rows, *cases) if key[:20] == raw})
    if not found:
        raise ConfigError(
            f"owner 0x{raw.hex()} is not known: no event of the deployment has named an account of it"
        )
    if len(found) > 1:
        named = ", ".join(f"0x{key.hex()}" for key in found)
        raise ConfigError(f"owner 0x{raw.hex()} has {len(found)} accounts, which one is meant? {named}")
    return found[0]


# --- how it stands -------------------------------------------------------------------------------


def _quote(wad: int) -> float:
    return wad / WAD


def _valuation(found: Valuation) -> dict[str, Any]:
    has, needs = found.equity_wad, found.requirement_wad
    return {"E": _quote(has), "M": _quote(needs), "health": has / needs if needs > 0 else None}


def _standing(found: Any) -> dict[str, Any]:
    if isinstance(found, Unknown):
        return {"unknown": found.why}
    if isinstance(found, Standing):
        return {
            "health": None if found.health_wad is None else _quote(found.health_wad),
            "debt": _quote(found.debt_wad),
            "collateral": _quote(found.collateral_wad),
        }
    if isinstance(found, Margin):
        return _valuation(Valuation(found.value_wad, found.required_wad, 0))
    return {"unknown": "no standing"}


def clocks(scene: Scene, sitting: Any, row: Any) -> dict[str, Any]:
    """Return value, requirement and health of an account at each clock, by the contract's own integers."""
    market: Any = scene.market
    if isinstance(row, Account):
        found = market.assess(row, sitting.oracles, scene.at)
        if isinstance(found, Unknown):
            return {"unknown": found.why}
        at = {"fast": found.fast, "slow": found.slow, "execution": found.execution}
        return {name: _valuation(each) for name, each in at.items()}
    chain = _chain(sitting)
    return {"chain": _standing(market.stand(row, chain)), "fast": _standing(market.stand(row, sitting.fast))}


def _chain(sitting: Any) -> Any:
    """Return what the protocol's own oracle says, as the desks of other protocols call it."""
    return sitting.chain if hasattr(sitting, "chain") else sitting.world


def witnesses(scene: Scene, sitting: Any, row: Any) -> list[dict[str, Any]]:
    """Return what every source says of the prices that an account hangs on, and how old that is."""
    market, now_s = scene.market, scene.at.timestamp_s
    if isinstance(row, Account):
        some: Any = market
        found = []
        for feed in some.feeds_of(row):
            view = sitting.oracles[feed]
            found += [
                {"feed": feed, "source": "fast, on chain", "price": _quote(view.fast_wad),
                 "age_s": now_s - view.fast_observed_at_s},
                {"feed": feed, "source": "slow, on chain", "price": _quote(view.slow_wad),
                 "age_s": now_s - view.slow_updated_at_s},
            ]  # fmt: skip
            found += _heard(scene, feed, scene.quotes)
        return found
    chain = _chain(sitting)
    sights: tuple[Sight, ...] = market.sights(row, chain, sitting.quotes)  # type: ignore[attr-defined]
    found = []
    for sight in sights:
        found.append(
            {"feed": sight.feed, "source": "oracle", "price": _quote(sight.chain_wad),
             "age_s": now_s - sight.answered_at_s}
        )  # fmt: skip
        found += _heard(scene, sight.feed, sitting.quotes)
    unseen: tuple[str, ...] = market.unseen(row, chain)  # type: ignore[attr-defined]
    return [*found, *({"feed": each, "source": "oracle", "unknown": UNSEEN} for each in unseen)]


def _heard(scene: Scene, feed: FeedId, quotes: Mapping[FeedId, Quote | Unknown]) -> Iterator[dict[str, Any]]:
    for each in scene.witnesses.get(feed, ()):
        if isinstance(each, Unknown):
            yield {"feed": feed, "source": each.what, "unknown": each.why}
        else:
            age_s = scene.at.timestamp_s - each.at_s
            yield {"feed": feed, "source": each.witness, "price": _quote(each.price_wad), "age_s": age_s}
    quote = quotes.get(feed)
    if isinstance(quote, Quote):
        age_s = scene.at.timestamp_s - quote.observed_at_s
        yield {"feed": feed, "source": "the keeper's feed", "price": _quote(quote.price_wad), "age_s": age_s}
    else:
        why = quote.why if quote else "it is not served"
        yield {"feed": feed, "source": "the keeper's feed", "unknown": why}


@dataclass(frozen=True, slots=True)
class Scored:
    """How the trigger scores an account: E and M at the worse clock, and whether it cannot be cleared."""

    equity: float
    requirement: float
    is_suspect: bool
    is_unknown: bool

    @property
    def suspicion(self) -> str | None:
        """Why it is suspect, in the journal's words; None where it is not."""
        return f"E {self.equity:.2f}, M {self.requirement:.2f}" if self.is_suspect else None


def scored(scene: Scene, account: AccountKey) -> Scored | None:
    """Score one account as the trigger does; None where it has no row."""
    some, rows = _sample(scene, [account])
    if not len(rows):
        return None
    marks = scene.market.marks(scene.world, scene.quotes, scene.at.timestamp_s)
    found = score(cash=some.cash, positions=some.positions, marks=marks, classes=some.classes)
    is_suspect = len(suspects(found, level=marks.levels[some.classes])) > 0
    return Scored(float(found.equity[0]), float(found.requirement[0]), is_suspect, bool(found.unknown[0]))


def _sample(scene: Scene, accounts: list[AccountKey]) -> tuple[Sample, Any]:
    snapshot = scene.book.freeze()
    place = {key: row for row, key in enumerate(snapshot.keys.tolist())}
    rows = np.array([place[key] for key in accounts if key in place], np.intp)
    return Sample(snapshot.cash[rows], snapshot.legs.dense(rows), snapshot.classes[rows]), rows


def far(scene: Scene, accounts: list[AccountKey]) -> tuple[Distances, Any]:
    """Return how far each feed has to move until accounts are in breach, and the same in sigmas of a day."""
    some, _ = _sample(scene, accounts)
    price = partial(scene.parts.desk.marks, scene.market, scene.world, at_s=scene.at.timestamp_s)
    found = distances(some, scene.quotes, price)
    vols = {feed: vol for feed in found.feeds if isinstance(vol := scene.vols.vol(feed), float)}
    return found, found.sigmas(vols)


# --- which rung it stands on ---------------------------------------------------------------------


def rung(scene: Scene, account: AccountKey, histories: Sequence[CaseHistory]) -> dict[str, Any]:
    """Return the rung of an account, and what leads up and down from there.

    Without an open case it is the one that the bounds lead up to: who came from above may still stand a rung
    higher, until the time that it takes is over.
    """
    case = histories[-1].events if histories else []
    status = fold(case)
    health, sigmas = _near(scene, account)
    found = _of_case(case) if status not in {None, Status.CLOSED} else _of_column(scene, health, sigmas)
    rows = {row["rung"]: row for row in told(scene.parts.params.climb, Book())["account"]}
    said = {"rung": found.label, "health": _finite(health), "sigmas": _finite(sigmas)}
    above = None if found >= Rung.BACKSTOP else Rung(found + 1)
    return {
        **said,
        "up": above and {"rung": above.label, "where": rows[above.label]["up"]},
        "down": rows[min(found, Rung.SUSPECTED).label]["down"] if found else None,
    }


def _of_case(events: Sequence[CaseEvent]) -> Rung:
    found = Rung.NORMAL
    for event in events:
        if event.kind is EventKind.CALLED:
            found = Rung.MARGIN_CALL
        elif event.kind is EventKind.SUSPECTED:
            found = max(found, Rung.SUSPECTED)
        elif event.kind is EventKind.MOVED:
            found = Rung[event.data["rung"].upper()]
    return found


def _of_column(scene: Scene, health: float, sigmas: float) -> Rung:
    now, _ = moved(
        np.zeros(1, np.uint8),
        np.zeros(1, np.int64),
        np.array([health]),
        np.array([sigmas]),
        scene.at.timestamp_s,
        scene.parts.params.climb,
    )
    return Rung(int(now[0]))


def _near(scene: Scene, account: AccountKey) -> tuple[float, float]:
    """Return E over level x M of an account, and how many sigmas of all prices together a breach is away."""
    book, rows = scene.book.freeze(), scene.book.rows_of([account])
    if not len(rows):
        return float("nan"), float("nan")
    marks = scene.market.marks(scene.world, scene.quotes, scene.at.timestamp_s)
    away = Trigger(threads=1).away(book, marks, rows)
    return float(health_of(book, marks, rows)[0]), float(away[0]) / day(scene.vols, scene.market.feeds)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


# --- what is decided -----------------------------------------------------------------------------


def told_step(step: Step) -> dict[str, Any]:
    """Say what a step would do."""
    act = {name: value for name, value in asdict(step.act).items() if name not in {"account", "reports"}}
    told = {"act": step.kind, **{name: _plain(value) for name, value in act.items()}}
    return {
        **told,
        "notional": _quote(step.notional_wad),
        "expected_profit": _quote(step.expected_profit_wad),
        "valid_until_block": step.valid_until_block,
        "bounds": [asdict(each) for each in step.bounds],
        "economics": None if step.economics is None else str(step.economics),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def told_decision(scene: Scene, found: Judgement[Any] | Unknown) -> dict[str, Any]:
    """Say what was decided, by which rule and policy, and what may be done of it as the keeper stood."""
    if isinstance(found, Unknown):
        return {"kind": "unknown", "rule": "unknown", "evidence": f"{found.what}: {found.why}", "bound": ""}
    said: dict[str, Any] = {"phase": str(found.phase), "health": found.health, "cared": found.cared}
    if found.cared:
        said["policy"] = scene.parts.policies.of(found.markets, scene.posture).name
    if found.agreed is not None:
        said |= {"agreed": found.agreed.evidence, "policy": found.agreed.policy}
    decision = held_back(found.decision, scene.posture)
    if isinstance(decision, tuple):
        return {**said, "kind": "step", "steps": [told_step(step) for step in decision]}
    if isinstance(decision, Wait | Refuse):
        reason = decision.reason
        said |= {"rule": reason.rule, "evidence": reason.evidence, "bound": reason.bound}
        if isinstance(decision, Wait):
            return {**said, "kind": "wait", "until_block": decision.until_block}
        return {**said, "kind": "refuse"}
    return {**said, "kind": "nothing"}


class _Supposed:
    """A book in which one account is otherwise."""

    def __init__(self, book: Any, row: Any) -> None:
        self._book = book
        self._row = row

    def __getattr__(self, name: str) -> Any:
        return getattr(self._book, name)

    def __contains__(self, key: AccountKey) -> bool:
        return key in self._book

    def __len__(self) -> int:
        return len(self._book)

    def exact(self, key: AccountKey) -> Any:
        return self._row if key == self._row.key else self._book.exact(key)


def at_breach(scene: Scene, account: AccountKey, feed: FeedId, factor: float) -> dict[str, Any]:
    """Say what would be done a little beyond the price of a breach, were that the price at both clocks.

    Where the contract asks for an alarm and its confirmation first, what would be taken after both.
    """
    quote = scene.quotes[feed]
    assert isinstance(quote, Quote)
    further = factor * (1 - BEYOND if factor < 1 else 1 + BEYOND)
    there = scene.moved(feed, max(1, round(quote.price_wad * further)))
    row = scene.book.exact(account)
    if isinstance(row, Unknown):
        return told_decision(scene, row)
    found: Any = there.book
    if isinstance(row, Account) and row.phase in {Phase.HEALTHY, Phase.FLAGGED}:
        found = _Supposed(there.book, _confirmed(row, scene))
    try:
        supposed = Alarm("supposed", True, ChainTime(scene.head.number, scene.head.timestamp_s))
        return told_decision(there, scene.parts.desk.judge(there.sit(found), account, supposed))
    except ChainFault as fault:
        return {"kind": "unknown", "rule": "unknown", "evidence": str(fault), "bound": ""}


def _confirmed(account: Account, scene: Scene) -> Account:
    """Return an account as it would be a little after an alarm was raised and confirmed."""
    now_s = scene.at.timestamp_s
    slope = account.slope_choice
    flag = FlagState(
        flagger=scene.run.started["wallet"],
        flagged_at_s=now_s - ALARMED_S,
        flagged_block=max(0, scene.at.block - 5),
        tau_s=ALARMED_S - AGREED_S,
        tau_at_confirm_s=ALARMED_S - AGREED_S,
        last_poke_s=now_s - AGREED_S,
        confirmed_at_s=now_s - AGREED_S,
        fee_cap_wad=WAD // 50,
        slope=slope,
    )
    return replace(account, phase=Phase.CONFIRMED, flag=flag)
