// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Book, Margin, Leg, WAD} from "./HybridTypes.sol";

/// @title Margin of a book at one price vector
/// @notice Collateral and profit round down, requirements round up, so that rounding never favours the account.
/// `keeper/protocols/hybrid/math.py` repeats every function to the wei.
library MarginMath {
    /// @notice floor(a x b / 1e18) for a signed a: toward minus infinity.
    function mulWadFloor(int256 a, uint256 b) internal pure returns (int256 result) {
        int256 product = a * int256(b);
        result = product / int256(WAD);
        if (product < 0 && result * int256(WAD) != product) result -= 1;
    }

    /// @notice ceil(a x b / 1e18).
    function mulWadUp(uint256 a, uint256 b) internal pure returns (uint256) {
        return (a * b + WAD - 1) / WAD;
    }

    /// @notice |a| of a signed size.
    function abs(int256 a) internal pure returns (uint256) {
        return uint256(a < 0 ? -a : a);
    }

    /// @notice Maintenance: E = cash + sum hMM a p + sum (s p + quoteLeg), M = sum mmr |s| p, N = sum |s| p.
    /// @param prices WAD, legs first, then holdings
    function maintenance(Book memory book, uint256[] memory prices) internal pure returns (Margin memory m) {
        uint256 n = book.legs.length;
        m.equity = book.cash;
        for (uint256 i; i < n; ++i) {
            Leg memory leg = book.legs[i];
            uint256 size = abs(leg.size);
            m.equity += mulWadFloor(leg.size, prices[i]) + leg.quoteLeg;
            m.requirement += mulWadUp(mulWadUp(size, prices[i]), leg.mmr);
            m.notional += size * prices[i] / WAD;
        }
        for (uint256 j; j < book.holdings.length; ++j) {
            uint256 gross = book.holdings[j].amount * prices[n + j] / WAD;
            m.equity += int256(gross * book.holdings[j].hMM / WAD);
        }
    }

    /// @notice Equity without haircuts: what the book is worth if its collateral brings the full price.
    function worth(Book memory book, uint256[] memory prices) internal pure returns (int256 total) {
        uint256 n = book.legs.length;
        total = book.cash;
        for (uint256 i; i < n; ++i) {
            total += mulWadFloor(book.legs[i].size, prices[i]) + book.legs[i].quoteLeg;
        }
        for (uint256 j; j < book.holdings.length; ++j) {
            total += int256(book.holdings[j].amount * prices[n + j] / WAD);
        }
    }

    /// @notice Initial margin: like maintenance with imr and hIM; profit that is not realised counts for nothing.
    function initial(Book memory book, uint256[] memory prices) internal pure returns (Margin memory m) {
        uint256 n = book.legs.length;
        int256 profit;
        for (uint256 i; i < n; ++i) {
            Leg memory leg = book.legs[i];
            uint256 size = abs(leg.size);
            profit += mulWadFloor(leg.size, prices[i]) + leg.quoteLeg;
            m.requirement += mulWadUp(mulWadUp(size, prices[i]), leg.imr);
            m.notional += size * prices[i] / WAD;
        }
        m.equity = book.cash + (profit < 0 ? profit : int256(0));
        for (uint256 j; j < book.holdings.length; ++j) {
            uint256 gross = book.holdings[j].amount * prices[n + j] / WAD;
            m.equity += int256(gross * book.holdings[j].hIM / WAD);
        }
    }

    /// @notice Whether E < level x M, exactly.
    /// @param level WAD
    function below(Margin memory m, uint256 level) internal pure returns (bool) {
        return m.equity * int256(WAD) < int256(level * m.requirement);
    }
}
