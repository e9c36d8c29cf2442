"""Two markets of round numbers, the first with two pre-liquidation contracts, and answers about them."""

from collections.abc import Sequence

from eth_abi.abi import encode

from keeper.domain import ChainTime
from keeper.lending.feeds import QUOTE, Answer, Feed
from keeper.protocols.morpho_blue.math import Market
from keeper.protocols.morpho_blue.oracles import Path
from keeper.protocols.morpho_blue.params import Chosen, Listed, Listing, Pre, Stored, World
from keeper.protocols.morpho_blue.rows import Loan
from keeper.units import WAD

MORPHO, READER = "0x" + "bb" * 20, "0x" + "ee" * 20
WETH, WBTC, USDC = ("0x" + digit * 40 for digit in "123")
ORACLE, PRE_ORACLE, OTHER_ORACLE = ("0x" + digit * 40 for digit in "456")
ETH_USD, USDC_USD = "0x" + "7" * 40, "0x" + "8" * 40
EARLY, LATE = "0x" + "c1" * 20, "0x" + "c2" * 20
FIRST, SECOND = bytes(range(32)), bytes(range(100, 132))
OWNER = bytes.fromhex("a5" * 20)
PERCENT = WAD // 100
AT = ChainTime(100, 1_700_000_000)
PRICE = 2_000 * 10 ** (36 + 6 - 18)
"""Of one WETH in USDC."""

CHOSEN = Chosen(
    MORPHO,
    ("0x" + FIRST.hex(), "0x" + SECOND.hex()),
    (EARLY, LATE),
    tokens={USDC: QUOTE},
    reader=READER,
)
PRES = (
    Pre(EARLY, 75 * PERCENT, (10 * PERCENT, 50 * PERCENT), (103 * PERCENT, 105 * PERCENT), ORACLE),
    Pre(LATE, 80 * PERCENT, (20 * PERCENT, WAD), (101 * PERCENT, 104 * PERCENT), PRE_ORACLE),
)
LISTING = Listing(
    CHOSEN,
    (
        Listed(FIRST, USDC, WETH, ORACLE, "0x" + "9" * 40, 86 * PERCENT, PRES),
        Listed(SECOND, USDC, WBTC, OTHER_ORACLE, "0x" + "0" * 40, 77 * PERCENT),
    ),
    {WETH: 18, WBTC: 8, USDC: 6},
    {ORACLE: Path((ETH_USD,), (USDC_USD,)), PRE_ORACLE: Path((ETH_USD,)), OTHER_ORACLE: Path()},
    (Feed(ETH_USD, "ETH/USD", 8), Feed(USDC_USD, "USDC/USD", 8)),
    (),
)
MARKET = Market(10**13, 10**19, 10**12, 10**18, AT.timestamp_s, 0, 86 * PERCENT, 0)
"""One share of its debt is a millionth of a unit."""
WORLD = World(
    AT,
    (Stored(MARKET, 0, None), Stored(MARKET, 0, None)),
    {ORACLE: PRICE, PRE_ORACLE: PRICE, OTHER_ORACLE: 40_000 * 10 ** (36 + 6 - 8)},
    {ETH_USD: Answer(2_000 * WAD, AT.timestamp_s - 60), USDC_USD: Answer(WAD, AT.timestamp_s - 600)},
)


def loan(owed: int, held: int = WAD, *, authorised: tuple[int, ...] = (), market: bytes = FIRST) -> Loan:
    """Owe so many units of USDC, against one WETH."""
    return Loan(OWNER + market[:12], held, owed * 10**6, authorised)


def page_of(loans: Sequence[Loan]) -> bytes:
    """Encode rows as the reader does."""
    words = []
    for each in loans:
        bits = sum(1 << number for number in each.authorised)
        words += [int.from_bytes(each.key), each.collateral << 128 | each.borrow_shares, bits]
    return encode(["uint256[]"], [words])


def world_words(
    markets: Sequence[Sequence[int]], prices: Sequence[int], rounds: Sequence[tuple[int, int]]
) -> bytes:
    """Encode what the reader says of the world at ``AT``."""
    told = [
        *(word for each in markets for word in each),
        *prices,
        *(word for each in rounds for word in each),
    ]
    return encode(["uint256[]"], [[AT.block, AT.timestamp_s, *told]])
