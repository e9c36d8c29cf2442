"""What Aave's own views say, in the words of our mathematics."""

from __future__ import annotations

from collections.abc import Sequence

from keeper.lab.foreign.aave_v3 import EMODE, EMODE_BPS, V3_6, Aave
from keeper.protocols.aave_v3.math import Category, Health, Loan, Reserve, Rules, World

_INCOME, _INCOME_RATE, _DEBT, _DEBT_RATE = 1, 2, 3, 4
_UPDATED_AT, _ATOKEN, _DEBT_TOKEN = 6, 8, 10
"""Places in the answer of getReserveData, the same in both versions."""


def stored_world(aave: Aave) -> World:
    """Read everything but the accounts, as the newest block left it: indices as stored, not grown."""
    lab, pool, tokens = aave.lab, aave.names.pool, list(aave.tokens.values())
    is_new = aave.names is V3_6
    rows = lab.ask_many([(pool, aave.pool, "getReserveData", token) for token in tokens])
    prices = lab.ask_many([("AaveOracle", aave.oracle, "getAssetPrice", token) for token in tokens])
    if is_new:
        graces = lab.ask_many([(pool, aave.pool, "getLiquidationGracePeriod", token) for token in tokens])
        liquid = lab.ask_many([(pool, aave.pool, "getVirtualUnderlyingBalance", token) for token in tokens])
        bitmap = lab.ask(pool, aave.pool, "getEModeCategoryCollateralBitmap", EMODE)
    else:
        graces = [0] * len(tokens)
        held = [
            ("TestToken", token, "balanceOf", row[_ATOKEN]) for token, row in zip(tokens, rows, strict=True)
        ]
        liquid = lab.ask_many(held)
        bitmap = sum(1 << i for i, row in enumerate(rows) if row[0][0] >> 168 & 0xFF == EMODE)
    reserves = tuple(
        Reserve(
            price=price,
            decimals=bits >> 48 & 0xFF,
            threshold_bps=bits >> 16 & 0xFFFF,
            bonus_bps=bits >> 32 & 0xFFFF,
            fee_bps=bits >> 152 & 0xFFFF,
            income_ray=row[_INCOME],
            income_rate_ray=row[_INCOME_RATE],
            debt_ray=row[_DEBT],
            debt_rate_ray=row[_DEBT_RATE],
            updated_at_s=row[_UPDATED_AT],
            liquid=paid_out,
            is_active=bool(bits >> 56 & 1),
            is_paused=bool(bits >> 60 & 1),
            grace_until_s=grace,
        )
        for row, price, grace, paid_out in zip(rows, prices, graces, liquid, strict=True)
        for bits in row[0]
    )
    return World(
        rules=Rules.V3_6 if is_new else Rules.V3_0,
        reserves=reserves,
        categories={EMODE: Category(EMODE_BPS[1], EMODE_BPS[2], bitmap)},
        sentinel_allows=lab.ask("PriceOracleSentinel", _sentinel(aave), "isLiquidationAllowed"),
        at_s=lab.now_s,
    )


def _sentinel(aave: Aave) -> str:
    provider = aave.lab.ask(aave.names.pool, aave.pool, "ADDRESSES_PROVIDER")
    found: str = aave.lab.ask("PoolAddressesProvider", provider, "getPriceOracleSentinel")
    return found


def loans(aave: Aave, owners: Sequence[str]) -> list[Loan]:
    """Read accounts: their flags, and the scaled amounts of what is flagged."""
    lab, pool = aave.lab, aave.names.pool
    rows = lab.ask_many([(pool, aave.pool, "getReserveData", token) for token in aave.tokens.values()])
    flags = [
        bits for (bits,) in lab.ask_many([(pool, aave.pool, "getUserConfiguration", each) for each in owners])
    ]
    modes = lab.ask_many([(pool, aave.pool, "getUserEMode", each) for each in owners])
    wanted = [
        (number, reserve, is_debt)
        for number, bits in enumerate(flags)
        for reserve in range(len(rows))
        for is_debt in (False, True)
        if bits >> (2 * reserve + (not is_debt)) & 1
    ]
    contracts = ((aave.names.atoken, _ATOKEN), (aave.names.debt_token, _DEBT_TOKEN))
    questions = []
    for number, reserve, is_debt in wanted:
        name, place = contracts[is_debt]
        questions.append((name, rows[reserve][place], "scaledBalanceOf", owners[number]))
    found = [Loan(mode, {}, {}) for mode in modes]
    amounts: list[tuple[dict[int, int], dict[int, int]]] = [({}, {}) for _ in owners]
    for (number, reserve, is_debt), scaled in zip(wanted, lab.ask_many(questions), strict=True):
        amounts[number][is_debt][reserve] = scaled
    return [
        Loan(loan.category, collateral, debt) for loan, (collateral, debt) in zip(found, amounts, strict=True)
    ]


def told_healths(aave: Aave, owners: Sequence[str]) -> list[Health]:
    """Ask the pool for each account's value, debt and health."""
    questions = [(aave.names.pool, aave.pool, "getUserAccountData", each) for each in owners]
    return [Health(answer[0], answer[1], answer[5]) for answer in aave.lab.ask_many(questions)]
