"""The contract's own exponential, to the wei.

HybridMargin computes its decay with Solady's `FixedPointMathLib.expWad`. What the contract will do is planned
with this twin; what it should do is judged with the exact `keeper.risk.slope.decay_wad`.
"""

from typing import Final

from keeper.units import Wad, mul_div_trunc

_LEAST_NONZERO: Final = -41446531673892822312
_OVERFLOW: Final = 135305999368893231589
_LN2_96: Final = 54916777467707473351141471128

_P: Final = (
    1346386616545796478920950773328,
    57155421227552351082224309758442,
    -94201549194550492254356042504812,
    28719021644029726153956944680412240,
    4385272521454847904659076985693276,
)
_Q: Final = (
    -2855989394907223263936484059900,
    50020603652535783019961831881945,
    -533845033583426703283633433725380,
    3604857256930695427073651918091429,
    -14423608567350463180887372962807573,
    26449188498355588339934803723976023,
)
_SCALE_213: Final = 3822833074963236453042738258902158003155416615667


def exp_wad(x: Wad) -> Wad:
    """Return e^x as the contract computes it, x and the result scaled by 1e18.

    Not a strict rounding down: now and then it is 1 wei above the floor, and for large x off by some 1e-20 of
    itself. Raises OverflowError where the contract reverts with `ExpOverflow`.

    Source: Solady 0.1.26 (MIT), src/utils/FixedPointMathLib.sol, `expWad`, after Remco Bloemen's rational
    approximation of degree (6, 7), https://2π.com/22/exp-ln.
    Property: equal to Solady's published values; rising in x; within 1 wei of floor(1e18 e^x) for x <= 0.
    """
    if x < _LEAST_NONZERO:
        return 0
    if x >= _OVERFLOW:
        raise OverflowError(f"exp_wad takes x below {_OVERFLOW}, found {x}")
    # Solidity's `/` and `sdiv` cut toward zero, where Python's `//` goes down; its `>>` of a signed number
    # goes down, as Python's does. No step of the original leaves 256 bits for an x that gets here, so
    # `unchecked` has nothing to wrap.
    x_96 = mul_div_trunc(x, 1 << 78, 5**18)
    # e^x = 2^k e^r with |r| <= ln(2) / 2.
    k = (mul_div_trunc(x_96, 1 << 96, _LN2_96) + (1 << 95)) >> 96
    r = x_96 - k * _LN2_96

    y = r + _P[0]
    y = ((y * r) >> 96) + _P[1]
    p = y + r + _P[2]
    p = ((p * y) >> 96) + _P[3]
    p_192 = p * r + (_P[4] << 96)

    q = r + _Q[0]
    for coefficient in _Q[1:]:
        q = ((q * r) >> 96) + coefficient

    # One shift takes off what is left of the binary bases, times 2^k, into WAD.
    return (mul_div_trunc(p_192, 1, q) * _SCALE_213) >> (195 - k)
