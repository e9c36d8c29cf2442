"""What earlier steps add up to, as the limits look at it: spent, taken over, lost, and not sold yet.

Each step has its stakes in whole gwei and in millionths of quote, rounded up, so that the store can add them
up itself: a row for the step, and one for each market that it takes something of. Their state follows the
step's own. Wei and wad themselves are decimal text, for they may not fit into 63 bits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from keeper.domain import Booking, Economics, Step
from keeper.journal.db import Db
from keeper.units import AccountKey, Block, FeedId, UnixS, Wad, Wei, mul_div_up

DAY_S = 86_400
GWEI: Wei = 10**9
HOUR_S = 3_600
MINUTE_S = 60
MICRO: Wad = 10**12
MOST = 2**60
"""An amount beyond this many millionths counts as so much: it is beyond every limit."""
WHOLE = ""
"""In the place of a market: the step as a whole."""
BESIDE = (
    "EXISTS (SELECT 1 FROM steps AS beside WHERE beside.nonce = steps.nonce AND beside.state <> 'abandoned'"
    " AND beside.place <> steps.place AND beside.state = '{}')"
)
FAILED_WHOLE = f"state = 'reverted' AND lost_to IS NULL AND NOT {BESIDE.format('included')}"
"""Of a step: its transaction did nothing, though nobody was there before it."""
FAILED_TOGETHER = f"{FAILED_WHOLE} AND {BESIDE.format('reverted')}"
"""Of a step: so it was, and which of several acts it was nobody knows."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What the steps that ended within some time come to, and those in flight, these at their most."""

    spent_wei: Wei = 0
    """Paid where the outcome is known, else the most it may cost."""
    notional_wad: Wad = 0
    """Position notional of all steps but the abandoned ones."""
    loss_wad: Wad = 0
    """What they were booked to lose; where there is no booking, of included ones what they were expected to,
    of others the most they could."""

    def __add__(self, other: Sums) -> Sums:
        """Take two together."""
        return Sums(
            self.spent_wei + other.spent_wei,
            self.notional_wad + other.notional_wad,
            self.loss_wad + other.loss_wad,
        )

    def __sub__(self, other: Sums) -> Sums:
        """Leave a part out."""
        return Sums(
            self.spent_wei - other.spent_wei,
            self.notional_wad - other.notional_wad,
            self.loss_wad - other.loss_wad,
        )


@dataclass(frozen=True, slots=True)
class Inventory:
    """What was taken over of a market and is not sold; below 0 where the keeper is short."""

    held_wad: Wad = 0
    rising_wad: Wad = 0
    """What steps in flight may add,"""
    falling_wad: Wad = 0
    """and what they may take off, a number below 0."""

    def __add__(self, other: Inventory) -> Inventory:
        """Take two together."""
        return Inventory(
            self.held_wad + other.held_wad,
            self.rising_wad + other.rising_wad,
            self.falling_wad + other.falling_wad,
        )

    @property
    def most_wad(self) -> Wad:
        """How much it may come to, long or short."""
        return max(self.held_wad + self.rising_wad, -self.held_wad - self.falling_wad)


def enter(db: Db, step_id: str, step: Step, max_cost_wei: Wei, at_s: UnixS) -> None:
    """Write down what a step that has its permit puts at stake."""
    db.execute(
        "INSERT INTO stakes (step_id, market, at_s, state, most_gwei, notional_micro, risk_micro, loss_micro)"
        " VALUES (?, ?, ?, 'reserved', ?, ?, ?, ?)",
        (
            step_id, WHOLE, at_s, -(-max_cost_wei // GWEI), _micro(step.notional_wad),
            _micro(risk_wad(step)), _micro(due_loss_wad(step)),
        ),
    )  # fmt: skip
    parts = {feed: (abs(wad), wad, 0) for feed, wad in step.takes}
    parts |= dict.fromkeys(step.sells, (0, 0, 1))
    if not parts:
        return
    db.executemany(
        "INSERT INTO stakes (step_id, market, at_s, state, notional_micro, held_micro, is_sale)"
        " VALUES (?, ?, ?, 'reserved', ?, ?, ?)",
        [
            (step_id, feed, at_s, _micro(notional_wad), _signed_micro(held_wad), is_sale)
            for feed, (notional_wad, held_wad, is_sale) in parts.items()
        ],
    )


def gwei(column: str) -> str:
    """Write what rounds a column of wei up to gwei. The column is text, for wei may not fit into 63 bits."""
    whole = f"CAST(substr('0000000000' || {column}, 1, length({column}) + 1) AS BIGINT)"
    return f"{whole} + CASE WHEN {column} = '0' OR {column} LIKE '%000000000' THEN 0 ELSE 1 END"


FOLLOWS = (
    "UPDATE stakes SET state = (SELECT state FROM steps WHERE steps.step_id = stakes.step_id),"  # noqa: S608
    " at_s = (SELECT coalesce(outcome_at_s, reserved_at_s) FROM steps WHERE steps.step_id = stakes.step_id),"
    f" paid_gwei = (SELECT {gwei('gas_cost_wei')} FROM steps WHERE steps.step_id = stakes.step_id)"
)


def follow(db: Db, step_id: str) -> None:
    """Bring the stakes of a step to where it stands now, to what it has cost, and to when that was seen.

    While it is in flight that need not be: reserved counts as sent.
    """
    db.execute(f"{FOLLOWS} WHERE step_id = ?", (step_id,))


def book(db: Db, step_id: str, booking: Booking | None) -> None:
    """Count a step with what it was booked with, as far as that is known, instead of what was expected."""
    profit_wad = booking.profit_wad if booking else None
    update = "UPDATE stakes SET booked_micro = ? WHERE step_id = ? AND market = ?"
    db.execute(update, (None if profit_wad is None else _micro(max(-profit_wad, 0)), step_id, WHOLE))
    query = "SELECT market, held_micro, notional_micro FROM stakes WHERE step_id = ?"
    stakes = {row["market"]: row for row in db.execute(query, (step_id,)).fetchall()}
    whole = stakes.pop(WHOLE, None)
    for market, row in stakes.items():
        held = _held_micro(market, row["held_micro"], whole["notional_micro"] if whole else 0, booking)
        db.execute(update, (held, step_id, market))


def _held_micro(market: FeedId, due_micro: int, notional_micro: int, booking: Booking | None) -> int | None:
    """Return what a booking says was taken of a market; None where it does not.

    Of slices, which take the same part of every position, as much as of their notional.
    """
    if booking is None:
        return None
    parts_wad = dict(booking.parts_wad)
    if market in parts_wad:
        return _signed_micro(parts_wad[market])
    if booking.sliced_wad is None or not notional_micro:
        return None
    held_micro = mul_div_up(abs(due_micro), _micro(booking.sliced_wad), notional_micro)
    return min(held_micro, MOST) * (1 if due_micro >= 0 else -1)


def due_loss_wad(step: Step) -> Wad:
    """Return what a step loses where it does what it should, 0 where it earns."""
    return max(step.loss_wad, -step.expected_profit_wad, 0)


def risk_wad(step: Step) -> Wad:
    """Return what a step may lose at most: that, or all of its gas at its highest fee and nothing for it."""
    gas_wad = step.economics.worst_gas_wad if step.economics else 0
    return max(due_loss_wad(step), gas_wad)


def raised_risk_wad(reserved: Mapping[str, Any], max_fee_wei: Wei) -> Wad:
    """Return the same of a step for whose gas more is bid; ``reserved`` is what its permit was told with."""
    due_wad = max(reserved.get("loss_wad", 0), -reserved["expected_profit_wad"], 0)
    if "economics" not in reserved:
        return int(due_wad)
    economics = Economics(**reserved["economics"])
    return max(int(due_wad), economics.worst_gas_wad, economics.gas_at_wad(max_fee_wei))


LIVE = "state IN ('reserved', 'sent')"
SETTLED = "state NOT IN ('reserved', 'sent')"
"""Stakes of steps in flight, and of all others: an index has the ones, another one these."""

COUNTED = (
    "SELECT coalesce(paid_gwei, most_gwei) AS gwei,"
    " CASE state WHEN 'abandoned' THEN 0 ELSE notional_micro END AS notional,"
    " CASE WHEN booked_micro IS NOT NULL THEN booked_micro WHEN state = 'included' THEN loss_micro"
    " WHEN state IN ('abandoned', 'displaced') THEN 0 ELSE risk_micro END AS loss"
    " FROM stakes WHERE market = ''"
)
"""What each step counts for."""


def sums(db: Db, since_s: UnixS) -> Sums:
    """Add up the steps whose outcome was seen after some time, and all that are in flight.

    By the outcome, for what waits for hours is paid when it is included; abandoned ones by their permit.
    """
    return _added_up(
        db,
        f"{COUNTED} AND {SETTLED} AND at_s > ? UNION ALL {COUNTED} AND {LIVE}",
        since_s,
    )


def hour_and_day(db: Db, at_s: UnixS) -> tuple[Sums, Sums]:
    """Return what the last hour and the last day come to, as ``sums`` does, each step read once."""
    hour = sums(db, at_s - HOUR_S)
    earlier = f"{COUNTED} AND {SETTLED} AND at_s > ? AND at_s <= ?"
    return hour, hour + _added_up(db, earlier, at_s - DAY_S, at_s - HOUR_S)


def _added_up(db: Db, counted: str, *values: UnixS) -> Sums:
    found = db.execute(
        "SELECT coalesce(sum(gwei), 0), coalesce(sum(notional), 0), coalesce(sum(loss), 0)"  # noqa: S608
        f" FROM ({counted}) AS counted",
        values,
    ).fetchone()
    gwei, notional, loss = map(int, found)
    return Sums(gwei * GWEI, notional * MICRO, loss * MICRO)


def in_flight_wei(db: Db) -> Wei:
    """Return the most that the transactions in flight may cost."""
    query = f"SELECT coalesce(sum(most_gwei), 0) FROM stakes WHERE market = '' AND {LIVE}"  # noqa: S608
    return int(db.execute(query).fetchone()[0]) * GWEI


def in_flight(db: Db, chain_nonce: int = 0) -> int:
    """Return how many transactions may still be included: those of steps, and what fills gaps below them.

    What has filled one below ``chain_nonce`` is not any more; without that it counts as long as its step.
    """
    fills = (
        "SELECT count(DISTINCT sends.nonce) FROM sends WHERE sends.step_id = steps.step_id"
        " AND sends.kind = 'fill' AND sends.nonce >= ?"
    )
    live = "FROM steps WHERE state IN ('reserved', 'sent') AND place = 0"
    query = f"SELECT coalesce(sum(1 + ({fills})), 0) {live}"
    return int(db.execute(query, (chain_nonce,)).fetchone()[0])


def at_stake(db: Db, step_id: str) -> Sums:
    """Return what a step in flight counts for, but for its notional."""
    query = "SELECT most_gwei, risk_micro FROM stakes WHERE market = '' AND step_id = ?"
    gwei, risk = db.execute(query, (step_id,)).fetchone() or (0, 0)
    return Sums(spent_wei=int(gwei) * GWEI, loss_wad=int(risk) * MICRO)


def raise_most(db: Db, step_id: str, most_wei: Wei) -> None:
    """Count a step with more than it was, now that more was bid."""
    update = "UPDATE stakes SET most_gwei = ? WHERE market = '' AND step_id = ?"
    db.execute(update, (-(-most_wei // GWEI), step_id))


def count_risk(db: Db, step_id: str, risk_wad: Wad) -> None:
    """Count the most that a step may lose."""
    update = "UPDATE stakes SET risk_micro = ? WHERE market = '' AND step_id = ?"
    db.execute(update, (_micro(risk_wad), step_id))


def taken_wad(db: Db, market: FeedId, since_s: UnixS) -> Wad:
    """Return what all steps took of a market after some time, or may yet, the abandoned ones left out."""
    taken = "SELECT notional_micro FROM stakes WHERE market = ? AND at_s > ?"
    query = (
        f"SELECT coalesce(sum(notional_micro), 0) FROM ({taken} AND {SETTLED} AND state <> 'abandoned'"  # noqa: S608
        f" UNION ALL {taken} AND {LIVE}) AS taken"
    )
    return int(db.execute(query, (market, since_s, market, since_s)).fetchone()[0]) * MICRO


def inventory(db: Db, market: FeedId, sold_to: int = 0) -> Inventory:
    """Return what was taken over of a market since it was sold last, by a step or as the operator has said.

    ``sold_to`` is the last stake that the operator means.
    """
    sales = db.execute(
        "SELECT seq, state FROM stakes WHERE market = ? AND is_sale = 1 ORDER BY seq DESC", (market,)
    )
    sold = next((int(row["seq"]) for row in sales if row["state"] == "included"), 0)
    sales.close()
    since = max(sold_to, sold)
    kept = (
        "SELECT coalesce(sum(coalesce(booked_micro, held_micro)), 0) FROM stakes"
        " WHERE market = ? AND market > '' AND state = 'included' AND seq > ?"
    )
    flying = (
        "SELECT coalesce(sum(CASE WHEN held_micro > 0 THEN held_micro ELSE 0 END), 0),"
        " coalesce(sum(CASE WHEN held_micro < 0 THEN held_micro ELSE 0 END), 0)"
        " FROM stakes WHERE market = ? AND state IN ('reserved', 'sent')"
    )
    rising, falling = map(int, db.execute(flying, (market,)).fetchone())
    now = int(db.execute(kept, (market, since)).fetchone()[0])
    return Inventory(now * MICRO, rising * MICRO, falling * MICRO)


def markets(db: Db) -> list[FeedId]:
    """Return every market that a step of the journal takes something of."""
    # From one to the next: a DISTINCT would read all there is.
    query = (
        "WITH RECURSIVE found (market) AS (SELECT min(market) FROM stakes WHERE market > '' UNION ALL"
        " SELECT (SELECT min(market) FROM stakes WHERE market > found.market AND market > '') FROM found"
        " WHERE found.market IS NOT NULL) SELECT market FROM found WHERE market IS NOT NULL"
    )
    return [row[0] for row in db.execute(query)]


def last_stake(db: Db) -> int:
    """Return the newest stake of which it is known how it ended, and those before it too."""
    # With a sign, or SQLite would look for the lowest one from the first stake on.
    query = f"SELECT coalesce((SELECT min(+seq) - 1 FROM stakes WHERE {LIVE}), max(seq), 0) FROM stakes"  # noqa: S608
    return int(db.execute(query).fetchone()[0])


def moved_wad(db: Db, at_s: UnixS) -> Mapping[FeedId, Wad]:
    """Return what the steps of the last minute take of each feed, those that took nothing left out.

    Those of later count, too: a reorg sets chain time back, and another deployment may be a head ahead.
    """
    query = (
        "SELECT takes FROM steps WHERE reserved_at_s > ? AND takes <> '{}'"
        " AND state IN ('reserved', 'sent', 'included')"
    )
    moved: dict[FeedId, Wad] = {}
    for row in db.execute(query, (at_s - MINUTE_S,)):
        for feed, wad in json.loads(row["takes"]).items():
            moved[feed] = moved.get(feed, 0) + abs(int(wad))
    return moved


def kept_solvent_wad(db: Db, at_s: UnixS) -> Wad:
    """Return what the steps of a day lose on accounts that are kept solvent, the abandoned ones left out.

    What they were booked to lose, where they were, and else what they were expected to.
    """
    # By what an index holds few steps are left to be looked up; those of an older journal risk nothing there.
    staked = (
        "SELECT step_id, booked_micro FROM stakes WHERE market = '' AND at_s > ?"
        " AND (loss_micro > 0 OR risk_micro = 0)"
    )
    query = (
        f"SELECT loss_wad, booked_micro FROM ({staked} AND {SETTLED} AND state <> 'abandoned'"  # noqa: S608
        f" UNION ALL {staked} AND {LIVE}) AS staked JOIN steps USING (step_id) WHERE loss_wad <> '0'"
    )
    since_s = at_s - DAY_S
    return sum(
        int(row["loss_wad"]) if row["booked_micro"] is None else row["booked_micro"] * MICRO
        for row in db.execute(query, (since_s, since_s))
    )


def reserved_wad(db: Db, block: Block) -> Wad:
    """Return the notional of the steps reserved at a block, the abandoned ones left out."""
    query = "SELECT notional_wad FROM steps WHERE reserved_block = ? AND state <> 'abandoned'"
    return sum(int(row["notional_wad"]) for row in db.execute(query, (block,)))


def own(db: Db, account: AccountKey, at_s: UnixS) -> Iterable[Any]:
    """Yield the steps of an account that are in flight, and those of the last day, oldest first."""
    query = (
        f"SELECT step_id, state, reserved_at_s, outcome_at_s, {FAILED_TOGETHER} AS failed_together FROM steps"  # noqa: S608
        " WHERE account = ? AND (state IN ('reserved', 'sent') OR reserved_at_s > ?) ORDER BY rowid"
    )
    return db.execute(query, (account, at_s - DAY_S))


def _micro(wad: Wad) -> int:
    return min(mul_div_up(wad, 1, MICRO), MOST)


def _signed_micro(wad: Wad) -> int:
    return _micro(wad) if wad >= 0 else -_micro(-wad)
