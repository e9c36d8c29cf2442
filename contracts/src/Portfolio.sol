// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";
import {Kind, Leg, Quote, SCENARIOS, WAD} from "./HybridTypes.sol";

/// @title What the legs of one underlying are worth, and what they require together
/// @notice Sixteen scenarios in the order of SPAN: two of an unmoved price, then +1/3, -1/3, +2/3, -2/3, +3/3, -3/3
/// of the range mmr, each with volatility up and down, and at last an extreme move of three ranges up and down
/// that counts for a third. A position on the underlying itself gains and loses with the price alone; an option's
/// gains are what its risk array says. The underlying requires its worst loss, and so much more for each short
/// option. Where the arrays are old, or the price has left them behind, perps require their range, and the options of
/// each expiry the most that they can lose, but for calls sold that long perps cover and puts that short ones do.
///
/// Losses round up and gains down, each leg by itself. `keeper/protocols/hybrid/math.py` repeats every function to
/// the wei.
///
/// Nothing overflows while sizes and quote legs fit int128 and strikes uint128, as they are stored, changes in
/// scenarios 97 bits, as RiskArrays gives them, and prices stay within 1e36.
library Portfolio {
    /// @notice How long a risk array may be judged by, seconds.
    uint256 internal constant CURRENT_FOR = 600;
    /// @notice From what age on an array counts as lost and no longer as silent, seconds.
    uint256 internal constant LOST_AFTER = 4200;
    /// @notice One over how far the price may have moved from the array's: 2%.
    uint256 internal constant NEAR = 50;
    /// @notice The first of the two extremes, and one over their weight.
    uint256 internal constant EXTREME = 14;
    int256 internal constant EXTREME_PART = 3;
    /// @dev Price moves within the range: 0, +1/3, -1/3, +2/3, -2/3, +3/3, -3/3. An extreme, three ranges at a third
    /// of the weight, moves a perp like the last of its side.
    uint256 private constant ROWS = 7;

    /// @notice The legs of one underlying that have not settled: what is the same at every price.
    /// @param perps,options bit i stands for the book's legs[i]
    /// @param mmr the underlying's scan range, WAD
    /// @param rate mmr for maintenance; for initial margin the larger rate that all requirements grow to, WAD
    /// @param netted whether `worst` is known
    /// @param worst what the options together gain at least at each price move
    struct Group {
        uint256 perps;
        uint256 options;
        uint256 mmr;
        uint256 rate;
        bool netted;
        int256[7] worst;
    }

    /// @notice The price move of a scenario, in thirds of the range.
    function move(uint256 scenario) internal pure returns (int256) {
        if (scenario >= EXTREME) return scenario == EXTREME ? int256(9) : -9;
        uint256 row = scenario / 2;
        int256 thirds = int256((row + 1) / 2);
        return row % 2 == 1 ? thirds : -thirds;
    }

    /// @notice What an option pays per unit where the underlying ends at `price`, WAD.
    function payoff(Kind kind, uint256 strike, uint256 price) internal pure returns (uint256) {
        return kind == Kind.Call
            ? FixedPointMathLib.zeroFloorSub(price, strike)
            : FixedPointMathLib.zeroFloorSub(strike, price);
    }

    /// @notice Most that an option can be worth: the underlying for a call, the strike for a put.
    function ceiling(Kind kind, uint256 strike, uint256 price) internal pure returns (uint256) {
        return kind == Kind.Call ? price : strike;
    }

    /// @notice What one unit of a leg is worth at a price of the underlying, WAD: the price itself for a perp, for
    /// an option its payoff once it has settled, and else its array's mark moved along delta (rounded down), held
    /// between payoff and ceiling. An option without an array is worth its payoff.
    function unitValue(Leg memory leg, uint256 price) internal pure returns (uint256) {
        if (leg.kind == Kind.Perp) return price;
        if (leg.settlement != 0) return payoff(leg.kind, leg.strike, leg.settlement);
        Quote memory q = leg.array;
        int256 moved =
            int256(q.mark) + floorDiv(q.delta * (int256(price) - int256(q.refPrice)), int256(WAD));
        int256 low = int256(payoff(leg.kind, leg.strike, price));
        int256 high = int256(ceiling(leg.kind, leg.strike, price));
        return uint256(FixedPointMathLib.clamp(moved, low, high));
    }

    /// @notice Whether a leg is an option with its settlement price: worth a fixed amount, at no risk.
    function settled(Leg memory leg) internal pure returns (bool) {
        return leg.kind != Kind.Perp && leg.settlement != 0;
    }

    /// @notice Whether an option's array may be judged by: at most 600 s old, and the price within 2% of its own.
    function current(Quote memory q, uint256 price, uint256 nowS) internal pure returns (bool) {
        return nowS <= q.observedAt + CURRENT_FOR && FixedPointMathLib.dist(price, q.refPrice) * NEAR <= q.refPrice;
    }

    /// @notice Whether a leg's array is too old to be judged by and not yet lost. No array at all counts as lost.
    function silent(Leg memory leg, uint256 nowS) internal pure returns (bool) {
        if (leg.kind == Kind.Perp || leg.settlement != 0) return false;
        uint256 observedAt = leg.array.observedAt;
        return nowS > observedAt + CURRENT_FOR && nowS < observedAt + LOST_AFTER;
    }

    /// @notice The unsettled legs of the same underlying as legs[first], none of which comes before it.
    /// @param rate see Group
    /// @return g the group
    /// @return all bits of the underlying's legs, settled ones too
    function group(Leg[] memory legs, uint256 first, uint256 rate)
        internal
        pure
        returns (Group memory g, uint256 all)
    {
        (g.mmr, g.rate) = (legs[first].risk.mmr, rate);
        bytes32 feedId = legs[first].feedId;
        for (uint256 i = first; i < legs.length; ++i) {
            Leg memory leg = legs[i];
            if (leg.feedId != feedId) continue;
            uint256 bit = 1 << i;
            all |= bit;
            if (leg.kind == Kind.Perp) g.perps |= bit;
            else if (!settled(leg)) g.options |= bit;
        }
    }

    /// @notice What a group requires, rounded up.
    /// @dev Cover takes nothing off what the last arrays ask for: they know what a rise of volatility costs, and an
    /// account must not need less because nobody posts.
    /// @param price the underlying's, WAD
    function requirement(Leg[] memory legs, Group memory g, uint256 price, uint256 nowS)
        internal
        pure
        returns (uint256)
    {
        if (g.options == 0) return netPerps(legs, g, price);
        uint256 least = _grown(g, shortMinimum(legs, g, price));
        if (judged(legs, g, price, nowS)) return least + scenarioLoss(legs, g, price);
        uint256 perps = netPerps(legs, g, price);
        (uint256 alone, uint256 covered) = maxLoss(legs, g, price);
        (alone, covered) = (perps + _grown(g, alone), perps + _grown(g, covered));
        if (covered == alone) return least + alone;
        return least + FixedPointMathLib.clamp(scenarioLoss(legs, g, price), covered, alone);
    }

    /// @notice Whether the arrays of all the group's options are current.
    function judged(Leg[] memory legs, Group memory g, uint256 price, uint256 nowS) internal pure returns (bool) {
        for (uint256 i; g.options >> i != 0; ++i) {
            if (_has(g.options, i) && !current(legs[i].array, price, nowS)) return false;
        }
        return true;
    }

    /// @notice Requirement of the perps by themselves: their net position moved by the rate.
    function netPerps(Leg[] memory legs, Group memory g, uint256 price) internal pure returns (uint256) {
        int256 net;
        for (uint256 i; g.perps >> i != 0; ++i) {
            if (!_has(g.perps, i)) continue;
            int256 moved = int256(_share(FixedPointMathLib.abs(legs[i].size), price, g.rate));
            net += legs[i].size < 0 ? -moved : moved;
        }
        return FixedPointMathLib.abs(net);
    }

    /// @notice The worst loss of perps and options together over the scenarios, 0 where none of them loses.
    function scenarioLoss(Leg[] memory legs, Group memory g, uint256 price) internal pure returns (uint256) {
        if (!g.netted) _netOptions(legs, g);
        int256[7] memory moved;
        for (uint256 i; g.perps >> i != 0; ++i) {
            if (_has(g.perps, i)) _addPerp(moved, legs[i].size, price, g.rate);
        }
        int256 least;
        for (uint256 row; row < ROWS; ++row) {
            least = FixedPointMathLib.min(least, g.worst[row] + moved[row]);
        }
        return uint256(-least);
    }

    /// @notice The most that the options can lose from their marks, each expiry by itself: what they are worth,
    /// less their worst payoff over a price of nothing and every strike, where calls sold beyond those bought are
    /// covered by buying the underlying, at the end of the range above `price`. Whatever the marks, equity less this
    /// is the cash and the worst payoff.
    ///
    /// What perps cover adds nothing to their range: a call sold loses at most what its perp gains, and the other way
    /// a put. Of `covered` it is left out, with its mark, in every expiry where that asks for less.
    ///
    /// Books together require no more than apart with their perps apart from their options, as in the scenarios, but
    /// for calls sold and bought at strikes beyond that end: the pair can lose up to the last strike, where a call
    /// sold alone counts as covered before.
    function maxLoss(Leg[] memory legs, Group memory g, uint256 price)
        internal
        pure
        returns (uint256 alone, uint256 covered)
    {
        (int256[] memory sizes, int256[] memory bare) = _uncovered(legs, g);
        uint256 left = g.options;
        for (uint256 i; left >> i != 0; ++i) {
            if (!_has(left, i)) continue;
            uint256 together = _sameExpiry(legs, left, legs[i].expiry);
            uint256 most = _maxLoss(legs, sizes, together, price, g.mmr);
            alone += most;
            if (bare.length != 0) {
                uint256 less = _maxLoss(legs, bare, together, price, g.mmr);
                if (less < most) most = less;
            }
            covered += most;
            left ^= together;
        }
    }

    /// @notice Least requirement of the options: shortMin of the underlying's price for each short one.
    function shortMinimum(Leg[] memory legs, Group memory g, uint256 price) internal pure returns (uint256 least) {
        for (uint256 i; g.options >> i != 0; ++i) {
            if (!_has(g.options, i) || legs[i].size >= 0) continue;
            least += _share(FixedPointMathLib.abs(legs[i].size), price, legs[i].risk.shortMin);
        }
    }

    /// @notice floor(a / b), b > 0: toward minus infinity.
    function floorDiv(int256 a, int256 b) internal pure returns (int256 q) {
        unchecked {
            q = a / b;
            if (a % b < 0) --q;
        }
    }

    /// @dev A perp's gain does not depend on volatility, so of the scenarios of one move only the worst matters.
    function _netOptions(Leg[] memory legs, Group memory g) private pure {
        int256[16] memory pnl;
        for (uint256 i; g.options >> i != 0; ++i) {
            if (_has(g.options, i)) _addOption(pnl, legs[i], g);
        }
        for (uint256 row; row < ROWS; ++row) {
            g.worst[row] = FixedPointMathLib.min(pnl[2 * row], pnl[2 * row + 1]);
        }
        g.worst[ROWS - 2] = FixedPointMathLib.min(g.worst[ROWS - 2], pnl[EXTREME]);
        g.worst[ROWS - 1] = FixedPointMathLib.min(g.worst[ROWS - 1], pnl[EXTREME + 1]);
        g.netted = true;
    }

    function _addOption(int256[16] memory pnl, Leg memory leg, Group memory g) private pure {
        int256[16] memory each = leg.array.pnl;
        int256 size = leg.size;
        (int256 rate, int256 mmr) = (int256(g.rate), int256(g.mmr));
        // Sizes fit 128 bits, changes 97 and rates 64: no product comes near 256. Checking the indices as well, all
        // below SCENARIOS, would cost more than the arithmetic.
        unchecked {
            for (uint256 s; s < SCENARIOS; ++s) {
                int256 value;
                assembly ("memory-safe") {
                    value := mload(add(each, shl(5, s)))
                }
                value = floorDiv(size * value, int256(WAD));
                if (rate != mmr) value = floorDiv(value * rate, mmr);
                if (s >= EXTREME) value = floorDiv(value, EXTREME_PART);
                assembly ("memory-safe") {
                    let at := add(pnl, shl(5, s))
                    mstore(at, add(mload(at), value))
                }
            }
        }
    }

    function _addPerp(int256[7] memory moved, int256 size, uint256 price, uint256 rate) private pure {
        uint256 range = _share(FixedPointMathLib.abs(size), price, rate);
        for (uint256 k = 1; k <= 3; ++k) {
            int256 gain = int256(range * k / 3);
            int256 loss = -int256((range * k + 2) / 3);
            moved[2 * k - 1] += size < 0 ? loss : gain;
            moved[2 * k] += size < 0 ? gain : loss;
        }
    }

    /// @dev The legs' sizes, and what is left of them where perps cover an equal part, rounded down, of every call
    /// sold, or of every put where they are short themselves; nothing where they cover none.
    function _uncovered(Leg[] memory legs, Group memory g)
        private
        pure
        returns (int256[] memory sizes, int256[] memory bare)
    {
        sizes = new int256[](legs.length);
        int256 perps;
        for (uint256 i; i < legs.length; ++i) {
            sizes[i] = legs[i].size;
            if (_has(g.perps, i)) perps += sizes[i];
        }
        Kind kind = perps < 0 ? Kind.Put : Kind.Call;
        uint256 sold;
        for (uint256 i; g.options >> i != 0; ++i) {
            if (_has(g.options, i) && legs[i].kind == kind && sizes[i] < 0) sold += uint256(-sizes[i]);
        }
        uint256 open = FixedPointMathLib.zeroFloorSub(sold, FixedPointMathLib.abs(perps));
        if (open == sold) return (sizes, bare);
        bare = new int256[](legs.length);
        for (uint256 i; g.options >> i != 0; ++i) {
            bare[i] = _has(g.options, i) && legs[i].kind == kind && sizes[i] < 0
                ? -int256(FixedPointMathLib.fullMulDivUp(uint256(-sizes[i]), open, sold))
                : sizes[i];
        }
    }

    /// @dev Of options that expire together. Once they are covered, their payoff no longer falls beyond the last
    /// strike, so that the worst lies at nothing or at a strike.
    function _maxLoss(Leg[] memory legs, int256[] memory sizes, uint256 set, uint256 price, uint256 mmr)
        private
        pure
        returns (uint256)
    {
        (int256 worth, int256 calls) = _worth(legs, sizes, set, price);
        uint256 cover = calls < 0 ? uint256(-calls) : 0;
        int256 least = _payoffs(legs, sizes, set, 0, cover);
        for (uint256 i; set >> i != 0; ++i) {
            if (!_has(set, i)) continue;
            int256 total = _payoffs(legs, sizes, set, legs[i].strike, cover);
            if (total < least) least = total;
        }
        least -= int256(FixedPointMathLib.mulWadUp(cover, price) + _share(cover, price, mmr));
        return worth > least ? uint256(worth - least) : 0;
    }

    /// @dev Worth of a set of options, as equity counts it, and their net number of calls.
    function _worth(Leg[] memory legs, int256[] memory sizes, uint256 set, uint256 price)
        private
        pure
        returns (int256 worth, int256 calls)
    {
        for (uint256 i; set >> i != 0; ++i) {
            if (!_has(set, i)) continue;
            Leg memory leg = legs[i];
            worth += floorDiv(sizes[i] * int256(unitValue(leg, price)), int256(WAD));
            if (leg.kind == Kind.Call) calls += sizes[i];
        }
    }

    /// @dev What a set of options and `cover` units of the underlying bring where its price ends at `end`, each
    /// rounded down.
    function _payoffs(Leg[] memory legs, int256[] memory sizes, uint256 set, uint256 end, uint256 cover)
        private
        pure
        returns (int256 total)
    {
        total = int256(cover * end / WAD);
        // Sizes fit 128 bits with their sign, strikes and so payoffs 128 without.
        unchecked {
            for (uint256 i; set >> i != 0; ++i) {
                if (!_has(set, i)) continue;
                Leg memory leg = legs[i];
                total += floorDiv(sizes[i] * int256(payoff(leg.kind, leg.strike, end)), int256(WAD));
            }
        }
    }

    function _sameExpiry(Leg[] memory legs, uint256 set, uint256 expiry) private pure returns (uint256 together) {
        for (uint256 i; set >> i != 0; ++i) {
            if (_has(set, i) && legs[i].expiry == expiry) together |= 1 << i;
        }
    }

    function _has(uint256 set, uint256 i) private pure returns (bool) {
        return (set >> i) & 1 != 0;
    }

    /// @dev The rate's share of a position's notional, rounded up twice as ever.
    function _share(uint256 size, uint256 price, uint256 rate) private pure returns (uint256) {
        return FixedPointMathLib.mulWadUp(FixedPointMathLib.mulWadUp(size, price), rate);
    }

    function _grown(Group memory g, uint256 value) private pure returns (uint256) {
        return g.rate == g.mmr ? value : FixedPointMathLib.mulDivUp(value, g.rate, g.mmr);
    }
}
