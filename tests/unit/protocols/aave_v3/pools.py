"""A small pool, and what its reader would answer: three reserves, the number 2 free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eth_abi.abi import encode

from keeper.protocols.aave_v3.abi import READER
from keeper.protocols.aave_v3.math import RAY, Rules
from keeper.protocols.aave_v3.oracles import Trace
from keeper.protocols.aave_v3.params import BASE_UNIT, Deployment, Listed, version_of
from keeper.protocols.aave_v3.rows import AaveRow
from keeper.units import AccountKey

POOL: Final = "0x" + "b0" * 20
NOW_S: Final = 1_700_000_000
UNPRICED: Final = 2**256 - 1
WETH, USDC, LINK = 0, 1, 3
NUMBERS: Final = (WETH, USDC, LINK)
REVISIONS: Final = {Rules.V3_0: 3, Rules.V3_6: 10}


def at(kind: int, number: int) -> str:
    """Return the address of one contract of a reserve."""
    return f"0x{kind:02x}{number:038x}"


def token(number: int) -> str:
    return at(0xAA, number)


def owner(number: int) -> str:
    return at(0xEE, number)


def key(number: int) -> AccountKey:
    return bytes.fromhex(owner(number)[2:]) + bytes(12)


def deployment(rules: Rules = Rules.V3_6, traced: Sequence[int] = (WETH, LINK)) -> Deployment:
    listed = [Listed(each, token(each), at(0xA7, each), at(0xDE, each), at(0xCE, each)) for each in NUMBERS]
    names = {WETH: "ETH/USD", USDC: "USDC/USD", LINK: "LINK/USD"}
    return Deployment(
        pool=POOL,
        reader="0x" + "4e" * 20,
        named={},
        rules=rules,
        version=version_of(REVISIONS[rules], [(each.number, each.token, each.source) for each in listed]),
        reserves={each.number: each for each in listed},
        traces={each: (Trace(names[each], at(0xCE, each), 8),) if each in traced else () for each in NUMBERS},
    )


@dataclass(frozen=True)
class Terms:
    """What a reserve of the pool says of itself; a dollar is 1e8."""

    price: int
    decimals: int
    threshold_bps: int
    bonus_bps: int
    is_active: bool = True
    is_paused: bool = False
    income_ray: int = RAY
    debt_ray: int = RAY
    debt_rate_ray: int = 0
    grace_until_s: int = 0
    category: int = 0
    updated_at_s: int = NOW_S
    liquid: int = 10**24

    @property
    def bits(self) -> int:
        places = ((self.threshold_bps, 16), (self.bonus_bps, 32), (self.decimals, 48))
        more = ((int(self.is_active), 56), (int(self.is_paused), 60), (1_000, 152), (self.category, 168))
        return sum(number << place for number, place in (*places, *more))


POOLED: Final[Mapping[int, Terms]] = {
    WETH: Terms(2_000 * BASE_UNIT, 18, 8_000, 10_500),
    USDC: Terms(BASE_UNIT, 6, 7_500, 10_400),
    LINK: Terms(10 * BASE_UNIT, 18, 7_000, 10_700),
}


def world_answer(
    pooled: Mapping[int, Terms] = POOLED,
    *,
    rules: Rules = Rules.V3_6,
    categories: Sequence[tuple[int, int, int, int, int]] = (),
    answers: Sequence[tuple[int, int]] = ((2_000 * BASE_UNIT, NOW_S - 60), (10 * BASE_UNIT, NOW_S - 90)),
    allows: bool = True,
    revision: int | None = None,
    now_s: int = NOW_S,
) -> bytes:
    """Encode a world; categories are (number, threshold, bonus, bitmap, price)."""
    reserves = [word for number, terms in pooled.items() for word in _reserve(number, terms)]
    terms = [
        word
        for number, threshold, bonus, bitmap, price in categories
        for word in (number << 32 | threshold << 16 | bonus, bitmap, price)
    ]
    told = [now_s, REVISIONS[rules] if revision is None else revision, int(allows), BASE_UNIT]
    return encode(READER["world"].outputs, [told, reserves, terms, [w for pair in answers for w in pair]])


def _reserve(number: int, terms: Terms) -> tuple[int, ...]:
    named = number << 240 | terms.grace_until_s << 200 | terms.updated_at_s << 160 | int(token(number), 16)
    debt = terms.debt_ray << 128 | terms.debt_rate_ray
    money = terms.price << 128 | terms.liquid
    return named, terms.bits, terms.income_ray << 128, debt, money, int(at(0xCE, number), 16)


def row(
    number: int,
    collateral: Mapping[int, int],
    debt: Mapping[int, int],
    category: int = 0,
    stable_debt: Sequence[int] = (),
) -> AaveRow:
    held, owed = tuple(collateral.items()), tuple(debt.items())
    return AaveRow(key(number), category, held, owed, tuple(stable_debt))


def page_of(rows: Sequence[AaveRow]) -> bytes:
    """Encode rows as the reader would."""
    heads, entries = [], []
    for each in rows:
        found = [(0, reserve, scaled) for reserve, scaled in each.collateral]
        found += [(1, reserve, scaled) for reserve, scaled in each.debt]
        found += [(2, reserve, 1) for reserve in each.stable_debt]
        entries += [kind << 136 | reserve << 128 | scaled for kind, reserve, scaled in found]
        heads.append(int.from_bytes(each.key[:20]) << 96 | each.category << 16 | len(found))
    return encode(READER["rows"].outputs, [heads, entries])
