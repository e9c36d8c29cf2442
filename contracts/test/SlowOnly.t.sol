// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Bundle, Margin, State, View, WAD} from "../src/HybridTypes.sol";
import {Liquidator} from "../src/Liquidator.sol";
import {Base} from "./Base.t.sol";

/// @notice The life of a breach while no fast price is accepted, or no risk array.
contract SlowOnlyTest is Base {
    function refuse(bytes4 why) private {
        vm.expectPartialRevert(why);
    }

    function assertState(bytes32 acct, State wanted) private view {
        assertEq(uint256(stateOf(acct)), uint256(wanted));
    }

    function tau() private view returns (uint256) {
        return liquidator.flagOf(alice).tau;
    }

    /// @dev No fast price of any feed for `age` seconds; the slow oracle goes on.
    function hush(uint256 age) private {
        pass(age);
        slowAgain();
    }

    function slowAgain() private {
        setSlow(ETH, slowPrice[ETH]);
        setSlow(BTC, slowPrice[BTC]);
        setSlow(SOL, slowPrice[SOL]);
    }

    /// @dev Alice's account, the fast oracle silent at 200, the slow one at 188.
    function openInSilence() private {
        openAlice();
        hush(615);
        setSlow(ETH, 188e18);
    }

    function flagInSilence() private {
        openInSilence();
        flag(alice);
    }

    function confirmInSilence() private {
        flagInSilence();
        pass(24);
        setSlow(ETH, 188e18);
        liquidator.confirm(alice, none());
    }

    // --- the alarm ---

    function test_the_slow_price_alone_raises_an_alarm_where_the_fast_one_is_silent() public {
        openInSilence();
        vm.expectEmit(address(liquidator));
        emit Liquidator.Flagged(alice, flagger, 900e18, 940e18, 50e18);
        flag(alice);
        assertState(alice, State.Flagged);
    }

    function test_a_fast_price_that_is_merely_old_keeps_its_veto() public {
        openAlice();
        (, uint256 observedAt,) = fastOracle.read(ETH);
        vm.warp(observedAt + 599);
        vm.roll(vm.getBlockNumber() + 50);
        setSlow(ETH, 188e18);
        refuse(Liquidator.StaleOracle.selector);
        flag(alice);
        vm.warp(observedAt + 600);
        flag(alice);
    }

    function test_a_report_ends_the_silence() public {
        openInSilence();
        Bundle[] memory reports = one(bundle(ETH, 200e18));
        refuse(Liquidator.NotBreached.selector);
        vm.prank(flagger);
        liquidator.flag(alice, reports);
        setFast(ETH, 200e18);
        refuse(Liquidator.NotBreached.selector);
        flag(alice);
    }

    function test_silence_and_an_old_slow_price_allow_nothing() public {
        openAlice();
        setSlow(ETH, 188e18);
        pass(3 hours);
        refuse(Liquidator.StaleOracle.selector);
        flag(alice);
    }

    function test_each_feed_is_fresh_or_silent() public {
        openAlice();
        deposit(alice, address(usd), 100e18);
        trade(alice, bob, BTC_PERP, 1e18, 1000e18);
        uint256 opened = nowS();
        // Alice's ETH is silent, her BTC only old.
        pass(580);
        setFast(BTC, 1000e18);
        vm.warp(opened + 620);
        slowAgain();
        setSlow(ETH, 187e18);
        refuse(Liquidator.StaleOracle.selector);
        flag(alice);
        setFast(BTC, 1000e18);
        flag(alice);
        assertTrue(engine.look(alice, 0).slowOnly);
    }

    // --- the confirmation ---

    function test_the_slow_oracle_alone_confirms_after_twice_the_delay() public {
        flagInSilence();
        uint256 flagged = nowS();
        pass(23);
        setSlow(ETH, 188e18);
        refuse(Liquidator.TooSoon.selector);
        liquidator.confirm(alice, none());
        vm.warp(flagged + 24);
        liquidator.confirm(alice, none());
        assertState(alice, State.Confirmed);
        assertEq(quoteCredit(flagger), 100_000e18 + 21.88e18);
    }

    function test_in_silence_an_old_round_confirms_nothing_however_near_the_last_fast_price_was() public {
        openAlice();
        tick(12);
        setPrice(ETH, 188e18);
        hush(615);
        pass(5);
        flag(alice);
        pass(24);
        refuse(Liquidator.NoSlowEvidence.selector);
        liquidator.confirm(alice, none());
        setSlow(ETH, 188e18);
        liquidator.confirm(alice, none());
    }

    function test_the_slow_oracle_alone_confirms_on_a_round_from_after_the_flag_only() public {
        openInSilence();
        pass(5);
        flag(alice);
        pass(24);
        // A round within its heartbeat that the fast price has not left would do beside a fresh fast price.
        refuse(Liquidator.NoSlowEvidence.selector);
        liquidator.confirm(alice, none());
        setSlow(ETH, 188e18);
        liquidator.confirm(alice, none());
    }

    function test_a_feed_that_is_fresh_at_both_keeps_its_own_terms_of_confirmation() public {
        openAlice();
        deposit(alice, address(usd), 100e18);
        trade(alice, bob, BTC_PERP, 1e18, 1000e18);
        hush(615);
        setSlow(ETH, 187e18);
        setFast(BTC, 1000e18);
        flag(alice);
        pass(12);
        slowAgain();
        refuse(Liquidator.TooSoon.selector);
        liquidator.confirm(alice, none());
        pass(12);
        slowAgain();
        refuse(Liquidator.StaleOracle.selector);
        liquidator.confirm(alice, none());
        setFast(BTC, 1000e18);
        liquidator.confirm(alice, none());
    }

    function test_a_merely_old_fast_price_confirms_nothing() public {
        openAndFlag(188e18);
        hush(60);
        refuse(Liquidator.StaleOracle.selector);
        liquidator.confirm(alice, none());
    }

    function test_an_alarm_of_the_fast_price_is_confirmed_by_the_slow_one_in_silence() public {
        openAndFlag(188e18);
        hush(700);
        liquidator.confirm(alice, none());
        assertState(alice, State.Confirmed);
        assertEq(tau(), 0);
    }

    // --- slices ---

    function test_slices_change_hands_at_the_slow_price() public {
        confirmInSilence();
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0.05e18;
        liquidateOn(alice, t);
        (int256 size, int256 quoteLeg) = leg(taker, ETH_PERP);
        assertEq(size, 5e18);
        assertEq(quoteLeg, -940e18);
    }

    function test_the_clock_stands_in_silence() public {
        confirmInSilence();
        assertEq(tau(), 0);
        pass(60);
        slowAgain();
        liquidator.poke(alice);
        assertEq(tau(), 0);
        liquidate(alice, taker);
        assertEq(tau(), 0);
        // When the fast oracle is back, at most the usual half minute counts.
        setFast(ETH, 188e18);
        liquidator.poke(alice);
        assertEq(tau(), 30);
    }

    function test_a_slice_ends_with_the_silence() public {
        confirmInSilence();
        Liquidator.SliceTerms memory t = terms(alice, taker);
        Bundle[] memory reports = one(bundle(ETH, 200e18));
        refuse(Liquidator.NotBreached.selector);
        vm.prank(ownerOf_(taker));
        liquidator.liquidate(alice, t, reports);
    }

    function test_a_merely_old_fast_price_is_sliced_at_by_nobody() public {
        openAndConfirm(188e18);
        hush(60);
        liquidateExpecting(Liquidator.StaleOracle.selector, alice, taker);
        hush(700);
        liquidate(alice, taker);
    }

    function test_a_fresh_feed_keeps_the_band_that_its_standing_clock_allows() public {
        deposit(alice, address(usd), 3100e18);
        deposit(bob, address(usd), 100_000e18);
        fundTaker(taker);
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        trade(alice, bob, BTC_PERP, 10e18, 1000e18);
        tick(12);
        setPrice(ETH, 188e18);
        setPrice(BTC, 940e18);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        // ETH falls silent; BTC's fast price runs away from the slow one, which the band follows at its base.
        hush(615);
        setFast(BTC, 800e18);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0.05e18;
        liquidateOn(alice, t);
        (int256 size, int256 quoteLeg) = leg(taker, BTC_PERP);
        assertEq(quoteLeg, -size * 940 * 99 / 100);
    }

    function test_the_taker_is_judged_at_the_slow_price() public {
        confirmInSilence();
        withdrawAll(taker);
        liquidateExpecting(Liquidator.TakerBelowMargin.selector, alice, taker);
        deposit(taker, address(usd), 200e18);
        liquidate(alice, taker);
    }

    /// @dev Ten ETH and a tenth of a WBTC are left, and a debt that the WBTC does not pay.
    function test_a_taker_is_judged_by_the_mode_in_which_the_collateral_was_sold() public {
        deposit(alice, address(wbtc), 0.1e18);
        openAlice();
        trade(taker, bob, BTC_PERP, 1e18, 1000e18);
        tick(12);
        setPrice(ETH, 175e18);
        trade(bob, alice, ETH_PERP, 90e18, 175e18);
        tick(12);
        flag(alice);
        hush(615);
        setFast(ETH, 175e18);
        liquidator.confirm(alice, none());
        liquidate(alice, taker);
        assertState(alice, State.Closed);
        (int256 size,) = leg(taker, ETH_PERP);
        assertEq(size, 10e18);
    }

    /// @dev By a moment in which both oracles speak; then silence again.
    function withdrawAll(bytes32 acct) private {
        withdraw(acct, address(usd), uint256(cashOf(acct)));
    }

    function test_a_taker_with_a_merely_old_feed_takes_nothing() public {
        confirmInSilence();
        uint256 time = nowS();
        fundTaker(taker2);
        setFast(BTC, 1000e18);
        setSlow(BTC, 1000e18);
        trade(taker2, bob2(), BTC_PERP, 1e18, 1000e18);
        vm.warp(time + 60);
        slowAgain();
        vm.expectRevert();
        this.sliceBy(taker2);
        liquidate(alice, taker);
    }

    function bob2() private returns (bytes32 acct) {
        acct = newAccount("bob2");
        deposit(acct, address(usd), 100_000e18);
    }

    function sliceBy(bytes32 by) external {
        liquidate(alice, by);
    }

    // --- the ends ---

    function test_an_owner_is_cured_at_the_slow_price_by_which_he_would_be_sliced() public {
        confirmInSilence();
        refuse(Liquidator.NotCurable.selector);
        liquidator.cure(alice, none());
        deposit(alice, address(usd), 200e18);
        liquidator.cure(alice, none());
        assertState(alice, State.Healthy);
    }

    function test_a_merely_old_fast_price_cures_nobody() public {
        openAndConfirm(188e18);
        deposit(alice, address(usd), 500e18);
        hush(60);
        refuse(Liquidator.NotCurable.selector);
        liquidator.cure(alice, none());
        hush(600);
        liquidator.cure(alice, none());
    }

    function test_a_false_alarm_is_not_saved_by_silence() public {
        openAlice();
        tick(12);
        setFast(ETH, 185e18);
        flag(alice);
        pass(700);
        // The slow round is older than the flag: nothing contradicts it yet.
        refuse(Liquidator.NotUnfounded.selector);
        liquidator.clear(alice, none());
        setSlow(ETH, 200e18);
        liquidator.cure(alice, none());
        assertState(alice, State.Healthy);
        assertEq(quoteCredit(flagger), 100_000e18 - 50e18);
    }

    function test_lost_equity_is_noticed_at_the_slow_price() public {
        confirmInSilence();
        setSlow(ETH, 175e18);
        liquidator.poke(alice);
        assertEq(liquidator.flagOf(alice).insolventTau, tau() + 1);
    }

    // --- silent risk arrays ---

    /// @dev Alice long 80 ETH and 20 calls of strike 200, judged by arrays.
    function openWithCalls() private {
        deposit(alice, address(usd), 3300e18);
        deposit(bob, address(usd), 100_000e18);
        fundTaker(taker);
        postArrays();
        trade(alice, bob, ETH_PERP, 80e18, 200e18);
        trade(alice, bob, ETH_CALL, 20e18, 4e18);
        tick(12);
    }

    function test_silent_risk_arrays_bar_alarms() public {
        openWithCalls();
        vm.warp(nowS() + 601);
        refresh();
        setPrice(ETH, 165e18);
        assertTrue(engine.look(alice, 0).arraysSilent);
        vm.expectRevert(abi.encodeWithSelector(Liquidator.ArraysSilent.selector, alice));
        flag(alice);
        postArrays();
        flag(alice);
    }

    function flagWithCalls() private {
        openWithCalls();
        setPrice(ETH, 165e18);
        postArrays();
        flag(alice);
    }

    function fallSilent() private {
        vm.warp(nowS() + 601);
        vm.roll(vm.getBlockNumber() + 2);
        refresh();
    }

    function test_silent_risk_arrays_bar_confirmations_and_stop_the_clock() public {
        flagWithCalls();
        fallSilent();
        liquidator.poke(alice);
        assertEq(tau(), 0);
        refuse(Liquidator.ArraysSilent.selector);
        liquidator.confirm(alice, none());
        postArrays();
        liquidator.confirm(alice, none());
        assertGt(tau(), 0);
    }

    function test_silent_risk_arrays_bar_slices() public {
        flagWithCalls();
        tick(13);
        liquidator.confirm(alice, none());
        fallSilent();
        liquidateExpecting(Liquidator.ArraysSilent.selector, alice, taker);
        postArrays();
        liquidate(alice, taker);
    }

    function test_lost_risk_arrays_bar_nothing() public {
        flagWithCalls();
        tick(13);
        liquidator.confirm(alice, none());
        vm.warp(nowS() + 4200);
        refresh();
        liquidate(alice, taker);
        assertEq(liquidator.flagOf(alice).trancheNonce, 1);
    }

    function test_silent_risk_arrays_contradict_no_alarm_but_let_an_owner_be_cured() public {
        openWithCalls();
        setFast(ETH, 165e18);
        postArrays();
        flag(alice);
        setFast(ETH, 200e18);
        fallSilent();
        refuse(Liquidator.NotUnfounded.selector);
        liquidator.clear(alice, none());
        liquidator.cure(alice, none());
        assertState(alice, State.Healthy);
        assertEq(quoteCredit(flagger), 100_000e18);
    }
}
