// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Book, Holding, Leg, Margin, WAD} from "../../src/HybridTypes.sol";
import {MarginMath} from "../../src/MarginMath.sol";
import {AnyPortfolio} from "./Portfolio.t.sol";

contract MarginMathFuzzTest is AnyPortfolio {
    /// @dev What rounding may do to a book of eight legs and two holdings.
    uint256 private constant SLACK = 128;

    /// @dev Up to four perps, each of its own underlying, and up to two holdings.
    function perpsAlone(uint256 seed) private pure returns (Book memory b, uint256[] memory prices) {
        b.cash = bound(int256(word(seed, 1)), -1e24, 1e24);
        b.legs = new Leg[](word(seed, 2) % 5);
        b.holdings = new Holding[](word(seed, 3) % 3);
        prices = new uint256[](b.legs.length + b.holdings.length);
        for (uint256 i; i < prices.length; ++i) {
            prices[i] = bound(word(seed, 50 + i), 1e12, 1e24);
        }
        for (uint256 i; i < b.legs.length; ++i) {
            b.legs[i] = perp(sized(word(seed, 10 + i)));
            b.legs[i].feedId = bytes32(i + 1);
            b.legs[i].quoteLeg = bound(int256(word(seed, 20 + i)), -1e27, 1e27);
        }
        for (uint256 j; j < b.holdings.length; ++j) {
            b.holdings[j] = Holding(uint8(j + 1), "", bound(word(seed, 30 + j), 0, 1e24), 0.8e18, 0.7e18, 0.1e18);
        }
    }

    /// @dev Besides the perps a portfolio of options and perps on one more underlying, in between them and near
    /// enough to its arrays or not.
    function random(uint256 seed) private pure returns (Book memory b, uint256[] memory prices) {
        (Book memory alone, uint256[] memory theirs) = perpsAlone(seed);
        Leg[] memory legs = anyLegs(seed, word(seed, 60) % 5, word(seed, 61) % 3);
        uint256 price = bound(word(seed, 62), 97e18, 103e18);
        (b.cash, b.holdings) = (alone.cash, alone.holdings);
        b.legs = new Leg[](alone.legs.length + legs.length);
        prices = new uint256[](theirs.length + legs.length);
        (uint256 i, uint256 k) = (0, 0);
        for (uint256 at_; at_ < b.legs.length; ++at_) {
            bool isPerp = k == legs.length || (i < alone.legs.length && word(seed, 70 + at_) % 2 == 0);
            (b.legs[at_], prices[at_]) = isPerp ? (alone.legs[i], theirs[i]) : (legs[k], price);
            if (isPerp) ++i;
            else ++k;
        }
        for (uint256 j; j < b.holdings.length; ++j) {
            prices[b.legs.length + j] = theirs[alone.legs.length + j];
        }
    }

    function scaled(Book memory b, uint256 k) private pure returns (Book memory c) {
        c = abi.decode(abi.encode(b), (Book));
        c.cash *= int256(k);
        for (uint256 i; i < b.legs.length; ++i) {
            c.legs[i].size *= int256(k);
            c.legs[i].quoteLeg *= int256(k);
        }
        for (uint256 j; j < b.holdings.length; ++j) {
            c.holdings[j].amount *= k;
        }
    }

    function assertNear(Margin memory a, Margin memory b, uint256 slack) private pure {
        assertApproxEqAbs(a.equity, b.equity, slack);
        assertApproxEqAbs(a.requirement, b.requirement, slack);
        assertApproxEqAbs(a.notional, b.notional, slack);
    }

    function times(Margin memory m, uint256 k) private pure returns (Margin memory) {
        return Margin(m.equity * int256(k), m.requirement * k, m.notional * k);
    }

    function test_margin_is_homogeneous_of_degree_one(uint256 seed, uint256 k) public pure {
        k = bound(k, 1, 1000);
        (Book memory b, uint256[] memory prices) = random(seed);
        Book memory c = scaled(b, k);
        Margin memory one = MarginMath.maintenance(b, prices, T0);
        assertNear(MarginMath.maintenance(c, prices, T0), times(one, k), (SLACK + 4 * PART) * k);
        one = MarginMath.initial(b, prices, T0, 0.15e18);
        assertNear(MarginMath.initial(c, prices, T0, 0.15e18), times(one, k), (SLACK + 8 * PART) * k);
    }

    function test_rounding_never_favours_the_account(uint256 seed, uint256 k) public pure {
        k = bound(k, 1, 1000);
        (Book memory b, uint256[] memory prices) = perpsAlone(seed);
        Margin memory one = MarginMath.maintenance(b, prices, T0);
        Margin memory many = MarginMath.maintenance(scaled(b, k), prices, T0);
        // The larger book is nearer to the exact values, so the small one times k lies on the unfavourable side.
        assertLe(one.equity * int256(k), many.equity);
        assertGe(one.requirement * k, many.requirement);
    }

    /// @dev The formula from before there were options: sum of mmr |s| p, and of |s| p.
    function test_perps_alone_require_the_sum_of_their_rates_to_the_wei(uint256 seed) public pure {
        (Book memory b, uint256[] memory prices) = perpsAlone(seed);
        Margin memory mm = MarginMath.maintenance(b, prices, T0);
        Margin memory im = MarginMath.initial(b, prices, T0, 0.15e18);
        Margin memory sum;
        uint256 initialSum;
        int256 profit;
        for (uint256 i; i < b.legs.length; ++i) {
            uint256 size = MarginMath.abs(b.legs[i].size);
            profit += MarginMath.mulWadFloor(b.legs[i].size, prices[i]) + b.legs[i].quoteLeg;
            sum.requirement += MarginMath.mulWadUp(MarginMath.mulWadUp(size, prices[i]), 0.06e18);
            initialSum += MarginMath.mulWadUp(MarginMath.mulWadUp(size, prices[i]), 0.12e18);
            sum.notional += size * prices[i] / WAD;
        }
        assertEq(mm.requirement, sum.requirement);
        assertEq(im.requirement, initialSum);
        assertEq(mm.notional, sum.notional);
        assertEq(mm.equity, b.cash + profit + collateral(b, prices, 0.8e18));
        assertEq(im.equity, b.cash + (profit < 0 ? profit : int256(0)) + collateral(b, prices, 0.7e18));
    }

    function collateral(Book memory b, uint256[] memory prices, uint256 haircut) private pure returns (int256 total) {
        for (uint256 j; j < b.holdings.length; ++j) {
            total += int256(b.holdings[j].amount * prices[b.legs.length + j] / WAD * haircut / WAD);
        }
    }

    /// @dev (1 + beta) as much at least, also where imr alone would ask for less.
    function test_initial_margin_is_stricter_than_the_end_of_the_slope(uint256 seed, uint256 beta, uint256 age)
        public
        pure
    {
        (beta, age) = (bound(beta, 0, 1.5e18), bound(age, 0, 1200));
        (Book memory b, uint256[] memory prices) = random(seed);
        Margin memory im = MarginMath.initial(b, prices, T0 + age, beta);
        Margin memory mm = MarginMath.maintenance(b, prices, T0 + age);
        assertLe(im.equity, mm.equity);
        assertGe(im.requirement + SLACK, mm.requirement * (WAD + beta) / WAD);
        assertEq(im.notional, mm.notional);
    }

    function test_the_order_of_the_legs_does_not_matter(uint256 seed) public pure {
        (Book memory b, uint256[] memory prices) = random(seed);
        Margin memory m = MarginMath.maintenance(b, prices, T0);
        uint256 n = b.legs.length;
        for (uint256 i; i < n / 2; ++i) {
            (b.legs[i], b.legs[n - 1 - i]) = (b.legs[n - 1 - i], b.legs[i]);
            (prices[i], prices[n - 1 - i]) = (prices[n - 1 - i], prices[i]);
        }
        assertEq(abi.encode(MarginMath.maintenance(b, prices, T0)), abi.encode(m));
    }

    /// @dev The legs of the one underlying with options apart from the others.
    function split(Book memory b, uint256[] memory prices, bool options) private pure returns (uint256) {
        Book memory part;
        part.legs = new Leg[](b.legs.length);
        uint256[] memory partPrices = new uint256[](b.legs.length);
        for (uint256 i; i < b.legs.length; ++i) {
            partPrices[i] = prices[i];
            part.legs[i] = b.legs[i];
            if ((b.legs[i].feedId == "ETH") == options) continue;
            part.legs[i] = perp(0);
            part.legs[i].feedId = "nothing";
        }
        return MarginMath.maintenance(part, partPrices, T0).requirement;
    }

    function test_underlyings_add_up(uint256 seed) public pure {
        (Book memory b, uint256[] memory prices) = random(seed);
        uint256 whole = MarginMath.maintenance(b, prices, T0).requirement;
        assertEq(whole, split(b, prices, true) + split(b, prices, false));
    }

    function test_a_settled_option_adds_its_payoff_and_nothing_else(uint256 seed, uint256 settlement) public pure {
        (Book memory b, uint256[] memory prices) = random(seed);
        Margin memory without = MarginMath.maintenance(b, prices, T0);
        Leg memory ended = anyOption(seed);
        ended.settlement = bound(settlement, 1, 1e24);
        ended.array.observedAt = T0 - 1e6;
        Leg[] memory legs = b.legs;
        b.legs = new Leg[](legs.length + 1);
        uint256[] memory more = new uint256[](prices.length + 1);
        (b.legs[0], more[0]) = (ended, P);
        for (uint256 i; i < prices.length; ++i) {
            more[i + 1] = prices[i];
            if (i >= legs.length) continue;
            b.legs[i + 1] = legs[i];
            if (legs[i].feedId == "ETH") more[0] = prices[i];
        }
        Margin memory with_ = MarginMath.maintenance(b, more, T0);
        uint256 paid = MarginMath.legPrice(ended, P);
        assertEq(with_.equity, without.equity + MarginMath.mulWadFloor(ended.size, paid));
        assertEq(with_.requirement, without.requirement);
        assertEq(with_.notional, without.notional);
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

    function test_an_account_at_its_level_is_not_below_it(uint128 requirement) public pure {
        Margin memory m = Margin(int256(uint256(requirement)), requirement, 0);
        assertFalse(MarginMath.below(m, 1e18));
        --m.equity;
        assertTrue(MarginMath.below(m, 1e18));
    }
}
