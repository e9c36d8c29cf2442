// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Test} from "forge-std/Test.sol";
import {Book, Holding, Leg, Margin, WAD} from "../../src/HybridTypes.sol";
import {MarginMath} from "../../src/MarginMath.sol";

contract MarginMathFuzzTest is Test {
    /// @dev Up to four legs and two holdings, all from one seed.
    function random(uint256 seed) private pure returns (Book memory b, uint256[] memory prices) {
        b.cash = bound(int256(word(seed, 1)), -1e24, 1e24);
        b.legs = new Leg[](word(seed, 2) % 5);
        b.holdings = new Holding[](word(seed, 3) % 3);
        prices = new uint256[](b.legs.length + b.holdings.length);
        for (uint256 i; i < prices.length; ++i) {
            prices[i] = bound(word(seed, 50 + i), 1e12, 1e24);
        }
        for (uint256 i; i < b.legs.length; ++i) {
            int256 size = bound(int256(word(seed, 10 + i)), -1e24, 1e24);
            int256 quoteLeg = bound(int256(word(seed, 20 + i)), -1e27, 1e27);
            b.legs[i] = Leg(uint16(i + 1), "", size, quoteLeg, 0.05e18, 0.1e18);
        }
        for (uint256 j; j < b.holdings.length; ++j) {
            b.holdings[j] = Holding(uint8(j + 1), "", bound(word(seed, 30 + j), 0, 1e24), 0.8e18, 0.7e18, 0.1e18);
        }
    }

    function word(uint256 seed, uint256 i) private pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed, i)));
    }

    function scaled(Book memory b, uint256 k) private pure returns (Book memory c) {
        c.cash = b.cash * int256(k);
        c.legs = new Leg[](b.legs.length);
        c.holdings = new Holding[](b.holdings.length);
        for (uint256 i; i < b.legs.length; ++i) {
            Leg memory l = b.legs[i];
            c.legs[i] =
                Leg(l.market, l.feedId, l.size * int256(k), l.quoteLeg * int256(k), l.mmr, l.imr);
        }
        for (uint256 j; j < b.holdings.length; ++j) {
            Holding memory h = b.holdings[j];
            c.holdings[j] = Holding(h.collateral, h.feedId, h.amount * k, h.hMM, h.hIM, h.saleDiscMax);
        }
    }

    function test_margin_is_homogeneous_of_degree_one(uint256 seed, uint256 k) public pure {
        k = bound(k, 1, 1000);
        (Book memory b, uint256[] memory prices) = random(seed);
        Margin memory one = MarginMath.maintenance(b, prices);
        Margin memory many = MarginMath.maintenance(scaled(b, k), prices);
        // At most 2 wei of rounding a leg or holding, k times.
        uint256 slack = 3 * k * (prices.length + 1);
        assertApproxEqAbs(many.equity, one.equity * int256(k), slack);
        assertApproxEqAbs(many.requirement, one.requirement * k, slack);
        assertApproxEqAbs(many.notional, one.notional * k, slack);
        one = MarginMath.initial(b, prices);
        many = MarginMath.initial(scaled(b, k), prices);
        assertApproxEqAbs(many.equity, one.equity * int256(k), slack);
        assertApproxEqAbs(many.requirement, one.requirement * k, slack);
    }

    function test_rounding_never_favours_the_account(uint256 seed, uint256 k) public pure {
        k = bound(k, 1, 1000);
        (Book memory b, uint256[] memory prices) = random(seed);
        Margin memory one = MarginMath.maintenance(b, prices);
        Margin memory many = MarginMath.maintenance(scaled(b, k), prices);
        // The larger book is nearer to the exact values, so the small one times k lies on the unfavourable side.
        assertLe(one.equity * int256(k), many.equity);
        assertGe(one.requirement * k, many.requirement);
    }

    function test_initial_margin_is_stricter_than_maintenance(uint256 seed) public pure {
        (Book memory b, uint256[] memory prices) = random(seed);
        Margin memory im = MarginMath.initial(b, prices);
        Margin memory mm = MarginMath.maintenance(b, prices);
        assertLe(im.equity, mm.equity);
        assertGe(im.requirement, mm.requirement);
        assertEq(im.notional, mm.notional);
    }

    function test_floor_is_toward_minus_infinity(int256 a, uint256 b) public pure {
        a = bound(a, -1e38, 1e38);
        b = bound(b, 0, 1e38);
        int256 floor = MarginMath.mulWadFloor(a, b);
        int256 product = a * int256(b);
        assertLe(floor * int256(WAD), product);
        assertGt((floor + 1) * int256(WAD), product);
    }

    function test_up_is_the_smallest_bound_from_above(uint256 a, uint256 b) public pure {
        a = bound(a, 0, 1e38);
        b = bound(b, 0, 1e37);
        uint256 up = MarginMath.mulWadUp(a, b);
        assertGe(up * WAD, a * b);
        if (up > 0) assertLt((up - 1) * WAD, a * b);
    }

    function test_below_is_exact(int256 equity, uint256 requirement, uint256 level) public pure {
        equity = bound(equity, -1e38, 1e38);
        requirement = bound(requirement, 0, 1e38);
        level = bound(level, WAD, 2 * WAD);
        Margin memory m = Margin(equity, requirement, 0);
        assertEq(MarginMath.below(m, level), equity * 1e18 < int256(requirement * level));
    }
}
