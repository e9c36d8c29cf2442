"""Accounts, and pages of them as the real contract would encode them."""

from collections.abc import Sequence
from dataclasses import replace

from eth_abi.abi import encode

from keeper.domain import Account, FlagState, Holding, Leg, Phase
from keeper.protocols.hybrid.abi import load
from keeper.units import WAD, AccountKey


def _episode(flag: FlagState) -> list[int]:
    return [
        int(flag.flagger, 16),
        flag.bond_wad,
        flag.flagged_at_s,
        flag.flagged_block,
        flag.tau_at_flag_s,
        flag.tau_s,
        flag.last_poke_s,
        flag.tau_at_confirm_s,
        flag.confirmed_at_s,
        flag.fee_cap_wad,
        flag.step_start_s,
        flag.step_used_wad,
        flag.tranche_nonce,
        flag.carry_tau_s,
        flag.carried_at_s,
        flag.slope,
        flag.insolvent_tau_s,
        flag.aid_wad,
        int(flag.reduced),
    ]


def _packed(*fields: tuple[int, int]) -> int:
    """Put numbers of so many bits each behind one another, the first highest."""
    word = 0
    for number, bits in fields:
        word = word << bits | number % 2**bits
    return word


def _places(numbers: Sequence[int], count: int, bits: int) -> list[tuple[int, int]]:
    return [(number, bits) for number in (*numbers, *[0] * (count - len(numbers)))]


def _head(account: Account) -> list[int]:
    markets = [leg.market for leg in account.legs]
    collaterals = [holding.collateral for holding in account.holdings]
    return [
        int.from_bytes(account.key),
        _packed((account.cash_wad, 128), *_places(markets, 8, 16)),
        _packed(
            (account.last_risk_s, 64),
            (account.last_risk_block, 64),
            (account.debt_since_s, 64),
            (account.slope_choice, 16),
            (list(Phase).index(account.phase), 8),
            (account.flag != FlagState(), 8),
            *_places(collaterals, 4, 8),
        ),
    ]


def page_of(accounts: Sequence[Account]) -> bytes:
    """Encode the answer of ``rows`` for these accounts."""
    heads = [word for account in accounts for word in _head(account)]
    legs = [
        _packed((leg.size_wad, 128), (leg.quote_leg_wad, 128)) for account in accounts for leg in account.legs
    ]
    amounts = [holding.amount_wad for account in accounts for holding in account.holdings]
    told = [account.flag for account in accounts if account.flag != FlagState()]
    episodes = [word for flag in told for word in _episode(flag)]
    return encode(load("MarginReader").functions["rows"].outputs, [heads, legs, amounts, episodes])


FULL_FLAG = FlagState(
    flagger="0x" + "f1" * 20,
    bond_wad=2**127 - 1,
    flagged_at_s=3,
    flagged_block=4,
    tau_at_flag_s=5,
    tau_s=6,
    last_poke_s=7,
    tau_at_confirm_s=8,
    confirmed_at_s=9,
    fee_cap_wad=2**64 - 1,
    step_start_s=11,
    step_used_wad=2**64 - 2,
    tranche_nonce=2**64 - 3,
    aid_wad=14,
    reduced=True,
    carry_tau_s=15,
    carried_at_s=16,
    slope=18,
    insolvent_tau_s=19,
)


def key(number: int) -> AccountKey:
    """A key that ends in zeros: a byte string type of numpy would lose them."""
    return number.to_bytes(20) + bytes(12)


def account(number: int, **changes: object) -> Account:
    plain = Account(key=key(number), phase=Phase.HEALTHY, cash_wad=number * WAD, legs=(), holdings=())
    return replace(plain, **changes)  # type: ignore[arg-type]


EVERYTHING = account(
    7,
    phase=Phase.CONFIRMED,
    cash_wad=-(2**127),
    legs=(Leg(3, -5 * WAD, 9 * WAD), Leg(1, 2**127 - 1, -1)),
    holdings=(Holding(2, 10 * WAD), Holding(1, 1)),
    last_risk_s=1,
    last_risk_block=2,
    debt_since_s=17,
    flag=FULL_FLAG,
    slope_choice=2**16 - 1,
)
