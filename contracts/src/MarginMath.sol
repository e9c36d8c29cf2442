// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Book, Holding, Leg, Margin, Risk, WAD} from "./HybridTypes.sol";
import {Portfolio} from "./Portfolio.sol";

/// @title Margin of a book at one price vector
/// @notice Collateral and profit round down, requirements round up, so that rounding never favours the account.
/// Legs of one underlying are judged together (Portfolio), those of different ones apart: to let them offset each
/// other would assume that they move as one. `keeper/protocols/hybrid/math.py` repeats every function to the wei.
library MarginMath {
    /// @notice floor(a x b / 1e18) for a signed a: toward minus infinity.
    function mulWadFloor(int256 a, uint256 b) internal pure returns (int256) {
        return Portfolio.floorDiv(a * int256(b), int256(WAD));
    }

    /// @notice ceil(a x b / 1e18).
    function mulWadUp(uint256 a, uint256 b) internal pure returns (uint256) {
        return (a * b + WAD - 1) / WAD;
    }

    /// @notice |a| of a signed size.
    function abs(int256 a) internal pure returns (uint256) {
        return uint256(a < 0 ? -a : a);
    }

    /// @notice What one unit of a leg changes hands for, WAD: the underlying's price for a perp, for an option
    /// its mark at that price, and its payoff once it has settled.
    function legPrice(Leg memory leg, uint256 price) internal pure returns (uint256) {
        return Portfolio.unitValue(leg, price);
    }

    /// @notice Whether an option's risk array is too old to judge by and not yet lost: meanwhile clocks stand.
    function silent(Book memory book, uint256 nowS) internal pure returns (bool) {
        for (uint256 i; i < book.legs.length; ++i) {
            if (Portfolio.silent(book.legs[i], nowS)) return true;
        }
        return false;
    }

    /// @notice Maintenance: E = cash + sum hMM a p + sum (s x unit value + quoteLeg), M the underlyings'
    /// requirements at their mmr, N = sum |s| p of all legs that have not settled.
    /// @param prices WAD, the legs' underlyings first, then the holdings
    /// @param nowS by which risk arrays are current or not
    function maintenance(Book memory book, uint256[] memory prices, uint256 nowS)
        internal
        pure
        returns (Margin memory)
    {
        return maintenances(book, _one(prices), nowS)[0];
    }

    /// @notice Maintenance at several price vectors: what is the same at every price is computed once.
    function maintenances(Book memory book, uint256[][] memory vectors, uint256 nowS)
        internal
        pure
        returns (Margin[] memory)
    {
        return _margins(book, vectors, nowS, false, 0);
    }

    /// @notice Initial margin: like maintenance with hIM and the rate of `initialRate`; profit that is not
    /// realised counts for nothing.
    /// @param beta the account's slope ends at H = 1 + beta, WAD
    function initial(Book memory book, uint256[] memory prices, uint256 nowS, uint256 beta)
        internal
        pure
        returns (Margin memory)
    {
        return initials(book, _one(prices), nowS, beta)[0];
    }

    /// @notice Initial margin at several price vectors.
    function initials(Book memory book, uint256[][] memory vectors, uint256 nowS, uint256 beta)
        internal
        pure
        returns (Margin[] memory)
    {
        return _margins(book, vectors, nowS, true, beta);
    }

    /// @notice What the scan range grows to for initial margin: imr, or (1 + beta) mmr where that is more, for
    /// else an account opened at full leverage could be below the end of its own slope.
    function initialRate(Risk memory risk, uint256 beta) internal pure returns (uint256) {
        uint256 least = mulWadUp(risk.mmr, WAD + beta);
        return risk.imr > least ? risk.imr : least;
    }

    /// @notice Equity without haircuts: what the book is worth if its collateral brings the full price.
    /// @param equity at maintenance, to which is added what the haircuts took off
    function worth(Book memory book, uint256[] memory prices, int256 equity) internal pure returns (int256 total) {
        total = equity;
        for (uint256 j; j < book.holdings.length; ++j) {
            uint256 gross = _gross(book.holdings[j], prices[book.legs.length + j]);
            total += int256(gross - gross * book.holdings[j].hMM / WAD);
        }
    }

    /// @notice Whether E < level x M, exactly.
    /// @param level WAD
    function below(Margin memory m, uint256 level) internal pure returns (bool) {
        return m.equity * int256(WAD) < int256(level * m.requirement);
    }

    function _margins(Book memory book, uint256[][] memory vectors, uint256 nowS, bool opening, uint256 beta)
        private
        pure
        returns (Margin[] memory all)
    {
        all = new Margin[](vectors.length);
        for (uint256 v; v < vectors.length; ++v) {
            (int256 profit, uint256 notional) = _legs(book.legs, vectors[v]);
            if (opening && profit > 0) profit = 0;
            all[v].equity = book.cash + profit + _collateral(book, vectors[v], opening);
            all[v].notional = notional;
        }
        uint256 done;
        for (uint256 i; i < book.legs.length; ++i) {
            if ((done >> i) & 1 != 0) continue;
            Risk memory risk = book.legs[i].risk;
            (Portfolio.Group memory g, uint256 same) =
                Portfolio.group(book.legs, i, opening ? initialRate(risk, beta) : risk.mmr);
            done |= same;
            for (uint256 v; v < vectors.length; ++v) {
                all[v].requirement += Portfolio.requirement(book.legs, g, vectors[v][i], nowS);
            }
        }
    }

    function _legs(Leg[] memory legs, uint256[] memory prices)
        private
        pure
        returns (int256 profit, uint256 notional)
    {
        for (uint256 i; i < legs.length; ++i) {
            (Leg memory leg, uint256 price) = (legs[i], prices[i]);
            profit += mulWadFloor(leg.size, Portfolio.unitValue(leg, price)) + leg.quoteLeg;
            if (!Portfolio.settled(leg)) notional += abs(leg.size) * price / WAD;
        }
    }

    function _collateral(Book memory book, uint256[] memory prices, bool opening)
        private
        pure
        returns (int256 total)
    {
        for (uint256 j; j < book.holdings.length; ++j) {
            Holding memory h = book.holdings[j];
            uint256 counted = opening ? h.hIM : h.hMM;
            total += int256(_gross(h, prices[book.legs.length + j]) * counted / WAD);
        }
    }

    function _gross(Holding memory holding, uint256 price) private pure returns (uint256) {
        return holding.amount * price / WAD;
    }

    function _one(uint256[] memory prices) private pure returns (uint256[][] memory vectors) {
        vectors = new uint256[][](1);
        vectors[0] = prices;
    }
}
