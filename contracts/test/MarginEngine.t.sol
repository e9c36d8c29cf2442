// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Kind, Margin, View, WAD} from "../src/HybridTypes.sol";
import {Instruments} from "../src/Instruments.sol";
import {MarginEngine} from "../src/MarginEngine.sol";
import {MarginMath} from "../src/MarginMath.sol";
import {Base} from "./Base.t.sol";

contract MarginEngineTest is Base {
    struct Fair {
        uint256 atFast;
        uint256 atSlow;
        uint256 fast;
        uint256 slow;
        bool fastFresh;
        bool slowFresh;
        bool current;
    }

    function setUp() public override {
        super.setUp();
        deposit(alice, address(usd), 3000e18);
        deposit(bob, address(usd), 100_000e18);
    }

    function look(bytes32 acct) private view returns (View memory) {
        return engine.look(acct, 0.01e18);
    }

    function marketOf(uint16 market) private view returns (Fair memory f) {
        (f.atFast, f.atSlow, f.fast, f.slow, f.fastFresh, f.slowFresh, f.current) = engine.fair(market);
    }

    // --- looking ---

    function test_a_view_holds_the_book_and_three_price_vectors_legs_first() public {
        deposit(alice, address(wbtc), 2e18);
        trade(alice, bob, ETH_PERP, 10e18, 200e18);
        setFast(ETH, 190e18);
        View memory v = look(alice);
        assertEq(v.book.legs.length, 1);
        assertEq(v.book.holdings.length, 1);
        assertEq(v.feedIds[0], ETH);
        assertEq(v.feedIds[1], BTC);
        assertEq(v.fast[0], 190e18);
        assertEq(v.slow[0], 200e18);
        assertEq(v.exec[0], 198e18);
        assertEq(v.legPrices[0], 198e18);
        assertEq(v.fast[1], 1000e18);
        assertEq(v.atFast.equity, 3000e18 + 1800e18 - 100e18);
        assertEq(v.atSlow.equity, 3000e18 + 1800e18);
        assertEq(v.atExec.equity, 3000e18 + 1800e18 - 20e18);
        assertEq(v.atExec.requirement, 99e18);
        assertEq(v.atExec.notional, 1980e18);
        assertTrue(v.fresh && v.fastFresh && v.slowFresh);
        assertFalse(v.slowOnly || v.arraysSilent);
    }

    function test_an_account_never_used_is_empty_and_fresh() public view {
        View memory v = look(bytes32(uint256(77)));
        assertEq(v.feeds.length, 0);
        assertTrue(v.fresh);
        assertFalse(v.slowOnly);
        assertEq(v.atFast.equity, 0);
    }

    function test_terms_follow_their_ramps() public {
        trade(alice, bob, ETH_PERP, 10e18, 200e18);
        vm.prank(admin);
        instruments.setMargins(ETH, 0.07e18, 0.14e18, 0.01e18, 2 days);
        tick(1 days);
        // Halfway, give or take the seconds that the reports took.
        assertApproxEqRel(look(alice).atFast.requirement, 120e18, 0.001e18);
        tick(1 days);
        assertEq(look(alice).atFast.requirement, 140e18);
    }

    function test_worth_counts_collateral_without_haircuts() public {
        deposit(alice, address(weth), 2e18);
        View memory v = look(alice);
        assertEq(v.atExec.equity, 3000e18 + 320e18);
        assertEq(MarginMath.worth(v.book, v.exec, v.atExec.equity), 3400e18);
    }

    // --- one oracle ---

    function test_a_stale_fast_price_stays_until_it_counts_as_silent() public {
        trade(alice, bob, ETH_PERP, 10e18, 200e18);
        pass(599);
        setSlow(ETH, 180e18);
        View memory v = look(alice);
        assertEq(v.fast[0], 200e18);
        assertEq(v.exec[0], 181.8e18);
        assertFalse(v.fastFresh || v.slowOnly || v.fresh);
        pass(1);
        v = look(alice);
        assertEq(v.fast[0], 180e18);
        assertEq(v.exec[0], 180e18);
        assertEq(v.atFast.equity, v.atSlow.equity);
        assertTrue(v.slowOnly && v.slowFresh);
        assertFalse(v.fastFresh || v.fresh);
    }

    function test_the_slow_oracle_acts_alone_only_where_every_other_feed_is_fresh_or_silent() public {
        trade(alice, bob, ETH_PERP, 10e18, 200e18);
        trade(alice, bob, BTC_PERP, 1e18, 1000e18);
        pass(600);
        setSlow(ETH, 180e18);
        setPrice(BTC, 1000e18);
        View memory v = look(alice);
        assertTrue(v.slowOnly);
        assertEq(v.fast[0], 180e18);
        assertEq(v.fast[1], 1000e18);
        pass(16);
        assertFalse(look(alice).slowOnly);
    }

    function test_a_silent_fast_price_stays_where_the_slow_one_is_stale_too() public {
        trade(alice, bob, ETH_PERP, 10e18, 200e18);
        setSlow(ETH, 180e18);
        pass(3 hours);
        View memory v = look(alice);
        assertEq(v.fast[0], 200e18);
        assertFalse(v.slowOnly || v.slowFresh);
    }

    // --- initial margin ---

    function test_initial_margin_names_the_feed_that_is_not_fresh() public {
        trade(alice, bob, ETH_PERP, 10e18, 200e18);
        trade(alice, bob, BTC_PERP, 1e18, 1000e18);
        pass(16);
        setPrice(ETH, 200e18);
        vm.expectRevert(abi.encodeWithSelector(MarginEngine.StaleOracle.selector, BTC));
        engine.initial(alice, 0.15e18);
        vm.expectRevert(abi.encodeWithSelector(MarginEngine.StaleOracle.selector, BTC));
        engine.initialSlow(alice, 0.15e18);
    }

    function test_initial_margin_at_the_slow_price_alone_needs_a_silent_fast_one() public {
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        pass(600);
        setSlow(ETH, 180e18);
        vm.expectRevert(abi.encodeWithSelector(MarginEngine.StaleOracle.selector, ETH));
        engine.initial(alice, 0.15e18);
        (bool ok, Margin memory worst) = engine.initialSlow(alice, 0.15e18);
        assertFalse(ok);
        assertEq(worst.equity, 1000e18);
        assertEq(worst.requirement, 1800e18);
    }

    function test_initial_margin_grows_with_the_slope() public {
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        (, Margin memory worst) = engine.initial(alice, 0.15e18);
        assertEq(worst.requirement, 2000e18);
        (, worst) = engine.initial(alice, 1.5e18);
        assertEq(worst.requirement, 2500e18);
    }

    // --- options ---

    function test_an_array_is_silent_for_an_hour_and_then_lost() public {
        postArrays();
        trade(alice, bob, ETH_PUT, 10e18, 4e18);
        uint256 posted = nowS();
        uint16[4] memory ages = [600, 601, 4199, 4200];
        bool[4] memory silent = [false, true, true, false];
        for (uint256 i; i < 4; ++i) {
            vm.warp(posted + ages[i]);
            assertEq(look(alice).arraysSilent, silent[i]);
        }
        // In sight a long put loses its change of volatility; lost, all that it is worth.
        vm.warp(posted + 600);
        assertEq(look(alice).atFast.requirement, 10e18);
        vm.warp(posted + 4200);
        assertEq(look(alice).atFast.requirement, 40e18);
    }

    function test_the_clock_stands_while_an_array_is_silent() public {
        postArrays();
        trade(alice, bob, ETH_PUT, 10e18, 4e18);
        tick(601);
        View memory v = look(alice);
        assertTrue(v.fastFresh && v.slowFresh && v.arraysSilent);
        assertFalse(v.fresh);
        postArrays();
        assertTrue(look(alice).fresh);
    }

    function test_an_option_changes_hands_at_its_mark_at_the_execution_price() public {
        postArrays();
        trade(alice, bob, ETH_CALL, 10e18, 4e18);
        setFast(ETH, 190e18);
        View memory v = look(alice);
        assertEq(v.exec[0], 198e18);
        // Half of two less than 4.
        assertEq(v.legPrices[0], 3e18);
        (uint256 price, uint256 underlying) = engine.fairAt(ETH_CALL, 0.01e18);
        assertEq(price, 3e18);
        assertEq(underlying, 198e18);
    }

    function test_a_settled_option_is_worth_its_payoff_at_any_price_and_needs_nothing() public {
        postArrays();
        trade(alice, bob, ETH_CALL, 10e18, 4e18);
        expireAt(212e18);
        setPrice(ETH, 250e18);
        View memory v = look(alice);
        assertEq(v.book.legs[0].settlement, 212e18);
        assertEq(uint256(v.book.legs[0].kind), uint256(Kind.Call));
        assertEq(v.legPrices[0], 12e18);
        assertEq(v.atFast.equity, 3000e18 + 80e18);
        assertEq(v.atFast.requirement, 0);
        assertEq(v.atFast.notional, 0);
        assertFalse(v.arraysSilent);
    }

    function test_an_expired_option_without_a_settlement_price_is_judged_as_before() public {
        postArrays();
        trade(bob, alice, ETH_CALL, 10e18, 4e18);
        pass(EXPIRY - nowS());
        setPrice(ETH, 190e18);
        View memory v = look(alice);
        assertEq(v.book.legs[0].settlement, 0);
        assertGt(v.atFast.requirement, 0);
    }

    // --- what a market is worth ---

    function test_a_perp_is_worth_its_price_and_always_current() public {
        setFast(ETH, 199e18);
        Fair memory f = marketOf(ETH_PERP);
        assertEq(f.atFast, 199e18);
        assertEq(f.fast, 199e18);
        assertEq(f.atSlow, 200e18);
        assertEq(f.slow, 200e18);
        assertTrue(f.fastFresh && f.slowFresh && f.current);
    }

    function test_an_array_is_current_near_its_price_and_for_ten_minutes() public {
        assertFalse(marketOf(ETH_CALL).current);
        postArrays();
        assertTrue(marketOf(ETH_CALL).current);
        setFast(ETH, 196e18);
        assertTrue(marketOf(ETH_CALL).current);
        setFast(ETH, 195.9e18);
        assertFalse(marketOf(ETH_CALL).current);
        setFast(ETH, 200e18);
        setSlow(ETH, 204.1e18);
        assertFalse(marketOf(ETH_CALL).current);
        setSlow(ETH, 200e18);
        pass(610);
        assertFalse(marketOf(ETH_CALL).current);
    }

    function test_the_prices_of_a_market_give_way_where_one_oracle_fails() public {
        pass(16);
        setSlow(ETH, 190e18);
        Fair memory f = marketOf(ETH_PERP);
        assertEq(f.atFast, 190e18);
        assertFalse(f.fastFresh);
        vm.etch(address(aggregators[ETH]), "");
        setFast(ETH, 185e18);
        f = marketOf(ETH_PERP);
        assertEq(f.atSlow, 185e18);
        assertFalse(f.slowFresh);
    }

    function test_an_unknown_market_has_no_price() public {
        vm.expectRevert(abi.encodeWithSelector(Instruments.UnknownMarket.selector, LISTED + 1));
        engine.fair(LISTED + 1);
        vm.expectRevert(abi.encodeWithSelector(Instruments.UnknownMarket.selector, LISTED + 1));
        engine.fairAt(LISTED + 1, WAD);
    }
}
