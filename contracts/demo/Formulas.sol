// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";
import {Book, Holding, Kind, Leg, Margin} from "../src/HybridTypes.sol";
import {MarginMath} from "../src/MarginMath.sol";
import {Portfolio} from "../src/Portfolio.sol";
import {Ramp, RampMath} from "../src/Ramp.sol";
import {Slope, SlopeParams} from "../src/Slope.sol";

/// @title The protocol's formulas by themselves, thousands of states to a call
/// @notice For tests only: by it the contracts' own libraries are held against the keeper's twin, to the wei. It
/// keeps nothing, nothing of the protocol knows it, and no deployment has it.
///
/// Every function answers its states in their order. Many books share few markets and collaterals: those are
/// given once, and a book is a row of words that names them by index:
///
///     cash, now, beta, legs, {market, size, quoteLeg, price} for each, holdings, {collateral, amount, price} for each
///
/// and the legs of one underlying are
///
///     rate, now, price, legs, {market, size} for each
contract Formulas {
    struct Scaled {
        int256 equity;
        uint256 q;
    }

    struct Breach {
        Margin margin;
        uint256 kappa;
        uint256 q;
    }

    struct Level {
        Margin margin;
        uint256 level;
    }

    struct Charge {
        uint256 t;
        uint256 cap;
    }

    struct Pair {
        uint256 fast;
        uint256 slow;
        uint256 t;
    }

    struct Moment {
        Ramp ramp;
        uint256 at;
    }

    /// @dev An option and the part of its risk array that its mark needs, all of Leg and Quote.
    struct Option {
        Kind kind;
        uint256 strike;
        uint256 settlement;
        uint256 refPrice;
        uint256 mark;
        int256 delta;
        uint256 observedAt;
        uint256 price;
        uint256 nowS;
    }

    struct OptionFound {
        uint256 unitValue;
        bool current;
        bool silent;
    }

    struct GroupFound {
        uint256 requirement;
        bool judged;
    }

    struct BookFound {
        Margin maintenance;
        Margin initial;
        int256 worth;
        bool silent;
    }

    function expWad(int256[] calldata xs) external pure returns (int256[] memory found) {
        found = new int256[](xs.length);
        for (uint256 i; i < xs.length; ++i) {
            found[i] = FixedPointMathLib.expWad(xs[i]);
        }
    }

    function decay(SlopeParams memory p, uint256[] calldata taus) external pure returns (uint256[] memory found) {
        found = new uint256[](taus.length);
        for (uint256 i; i < taus.length; ++i) {
            found[i] = Slope.decay(p, taus[i]);
        }
    }

    function scaled(Scaled[] calldata states) external pure returns (int256[] memory found) {
        found = new int256[](states.length);
        for (uint256 i; i < states.length; ++i) {
            found[i] = Slope.scaled(states[i].equity, states[i].q);
        }
    }

    function closeable(Breach[] calldata states) external pure returns (uint256[] memory found) {
        found = new uint256[](states.length);
        for (uint256 i; i < states.length; ++i) {
            found[i] = Slope.closeable(states[i].margin, states[i].kappa, states[i].q);
        }
    }

    function below(Level[] calldata states) external pure returns (bool[] memory found) {
        found = new bool[](states.length);
        for (uint256 i; i < states.length; ++i) {
            found[i] = MarginMath.below(states[i].margin, states[i].level);
        }
    }

    function feeCap(SlopeParams memory p, Margin[] calldata states) external pure returns (uint256[] memory found) {
        found = new uint256[](states.length);
        for (uint256 i; i < states.length; ++i) {
            found[i] = Slope.feeCap(p, states[i]);
        }
    }

    function fee(SlopeParams memory p, Charge[] calldata states) external pure returns (uint256[] memory found) {
        found = new uint256[](states.length);
        for (uint256 i; i < states.length; ++i) {
            found[i] = Slope.fee(p, states[i].t, states[i].cap);
        }
    }

    function executionPrice(SlopeParams memory p, Pair[] calldata states)
        external
        pure
        returns (uint256[] memory found)
    {
        found = new uint256[](states.length);
        for (uint256 i; i < states.length; ++i) {
            found[i] = Slope.executionPrice(states[i].fast, states[i].slow, Slope.band(p, states[i].t));
        }
    }

    function valueAt(Moment[] calldata states) external pure returns (uint256[] memory found) {
        found = new uint256[](states.length);
        for (uint256 i; i < states.length; ++i) {
            found[i] = RampMath.valueAt(states[i].ramp, states[i].at);
        }
    }

    function options(Option[] calldata states) external pure returns (OptionFound[] memory found) {
        found = new OptionFound[](states.length);
        Leg memory leg;
        for (uint256 i; i < states.length; ++i) {
            Option calldata o = states[i];
            (leg.kind, leg.strike, leg.settlement) = (o.kind, o.strike, o.settlement);
            (leg.array.refPrice, leg.array.mark, leg.array.delta) = (o.refPrice, o.mark, o.delta);
            leg.array.observedAt = o.observedAt;
            found[i].unitValue = Portfolio.unitValue(leg, o.price);
            found[i].current = Portfolio.current(leg.array, o.price, o.nowS);
            found[i].silent = Portfolio.silent(leg, o.nowS);
        }
    }

    /// @notice What legs of one underlying, none of them settled, require, and whether by their arrays.
    /// @param rows see above, `count` of them one behind the other
    function groups(Leg[] memory markets, int256[] calldata rows, uint256 count)
        external
        pure
        returns (GroupFound[] memory found)
    {
        found = new GroupFound[](count);
        uint256 at;
        for (uint256 i; i < count; ++i) {
            uint256 end = at + 4 + 2 * uint256(rows[at + 3]);
            found[i] = _group(markets, rows[at:end]);
            at = end;
        }
    }

    /// @notice Both margins of whole books, and what they are worth without haircuts.
    /// @param rows see above, `count` of them one behind the other
    function books(Leg[] memory markets, Holding[] memory collaterals, int256[] calldata rows, uint256 count)
        external
        pure
        returns (BookFound[] memory found)
    {
        found = new BookFound[](count);
        uint256 at;
        for (uint256 i; i < count; ++i) {
            uint256 end = at + 5 + 4 * uint256(rows[at + 3]);
            end += 3 * uint256(rows[end - 1]);
            found[i] = _book(markets, collaterals, rows[at:end]);
            at = end;
        }
    }

    function _group(Leg[] memory markets, int256[] calldata row) private pure returns (GroupFound memory found) {
        (uint256 rate, uint256 nowS, uint256 price) = (uint256(row[0]), uint256(row[1]), uint256(row[2]));
        Leg[] memory legs = new Leg[](uint256(row[3]));
        for (uint256 i; i < legs.length; ++i) {
            legs[i] = markets[uint256(row[4 + 2 * i])];
            legs[i].size = row[5 + 2 * i];
        }
        (Portfolio.Group memory g,) = Portfolio.group(legs, 0, rate);
        found.judged = Portfolio.judged(legs, g, price, nowS);
        found.requirement = Portfolio.requirement(legs, g, price, nowS);
    }

    function _book(Leg[] memory markets, Holding[] memory collaterals, int256[] calldata row)
        private
        pure
        returns (BookFound memory found)
    {
        (Book memory book, uint256[] memory prices) = _held(markets, collaterals, row);
        (uint256 nowS, uint256 beta) = (uint256(row[1]), uint256(row[2]));
        found.maintenance = MarginMath.maintenance(book, prices, nowS);
        found.initial = MarginMath.initial(book, prices, nowS, beta);
        found.worth = MarginMath.worth(book, prices, found.maintenance.equity);
        found.silent = MarginMath.silent(book, nowS);
    }

    /// @dev A book holds no market and no collateral twice, so that it may take those given and fill in amounts.
    function _held(Leg[] memory markets, Holding[] memory collaterals, int256[] calldata row)
        private
        pure
        returns (Book memory book, uint256[] memory prices)
    {
        uint256 legs = uint256(row[3]);
        uint256 at = 5 + 4 * legs;
        uint256 holdings = uint256(row[at - 1]);
        (book.cash, book.legs, book.holdings) = (row[0], new Leg[](legs), new Holding[](holdings));
        prices = new uint256[](legs + holdings);
        for (uint256 i; i < legs; ++i) {
            Leg memory leg = book.legs[i] = markets[uint256(row[4 + 4 * i])];
            (leg.size, leg.quoteLeg, prices[i]) = (row[5 + 4 * i], row[6 + 4 * i], uint256(row[7 + 4 * i]));
        }
        for (uint256 j; j < holdings; ++j) {
            Holding memory holding = book.holdings[j] = collaterals[uint256(row[at + 3 * j])];
            (holding.amount, prices[legs + j]) = (uint256(row[at + 1 + 3 * j]), uint256(row[at + 2 + 3 * j]));
        }
    }
}
