// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Clearing} from "../src/Clearing.sol";
import {Bundle, Margin, State} from "../src/HybridTypes.sol";
import {Liquidator} from "../src/Liquidator.sol";
import {Slope, SlopeParams} from "../src/Slope.sol";
import {Vault} from "../src/Vault.sol";
import {Base} from "./Base.t.sol";

/// @notice The alarm and how it ends: flag, clear, expire, poke, confirm, cure. Slices are in Slices.t.sol.
contract LiquidatorTest is Base {
    function refuse(bytes4 why) private {
        vm.expectPartialRevert(why);
    }

    function flagExpecting(bytes4 why, bytes32 acct) private {
        refuse(why);
        vm.prank(flagger);
        liquidator.flag(acct, none());
    }

    function confirmExpecting(bytes4 why, bytes32 acct) private {
        refuse(why);
        liquidator.confirm(acct, none());
    }

    function assertState(bytes32 acct, State wanted) private view {
        assertEq(uint256(stateOf(acct)), uint256(wanted));
    }

    // --- flag ---

    function test_a_flag_takes_a_bond_and_makes_the_account_reduce_only() public {
        openAlice();
        tick(12);
        setPrice(ETH, 188e18);
        vm.expectEmit(address(liquidator));
        emit Liquidator.Flagged(alice, flagger, 900e18, 940e18, 50e18);
        flag(alice);
        assertState(alice, State.Flagged);
        assertEq(quoteCredit(flagger), 100_000e18 - 50e18);
        assertEq(quoteCredit(address(liquidator)), 50e18);
        Liquidator.Flag memory f = liquidator.flagOf(alice);
        assertEq(f.flagger, flagger);
        assertEq(f.bond, 50e18);
        assertEq(f.flaggedAt, nowS());
        assertEq(f.tau, 0);
    }

    function test_a_flag_posts_the_reports_that_it_brings() public {
        openAlice();
        pass(60);
        Bundle[] memory reports = one(bundle(ETH, 188e18));
        vm.prank(flagger);
        liquidator.flag(alice, reports);
        assertState(alice, State.Flagged);
    }

    function test_the_slow_price_cannot_raise_an_alarm() public {
        openAlice();
        tick(12);
        setSlow(ETH, 180e18);
        flagExpecting(Liquidator.NotBreached.selector, alice);
    }

    function test_an_account_exactly_at_its_requirement_is_not_breached() public {
        openAlice();
        deposit(alice, address(usd), 40e18);
        tick(12);
        setFast(ETH, 188e18);
        flagExpecting(Liquidator.NotBreached.selector, alice);
        setFast(ETH, 188e18 - 1);
        flag(alice);
    }

    function test_an_alarm_needs_a_fresh_fast_price_but_no_slow_one() public {
        openAlice();
        setPrice(ETH, 188e18);
        pass(16);
        flagExpecting(Liquidator.StaleOracle.selector, alice);
        pass(3 hours);
        setFast(ETH, 188e18);
        flag(alice);
    }

    function test_the_owner_does_not_flag_itself() public {
        openAlice();
        tick(12);
        setPrice(ETH, 188e18);
        refuse(Liquidator.OwnAccount.selector);
        vm.prank(ownerOf_(alice));
        liquidator.flag(alice, none());
    }

    function test_a_flag_waits_twelve_seconds_and_a_block_after_new_risk() public {
        openAlice();
        uint256 opened = nowS();
        setFast(ETH, 188e18);
        vm.warp(opened + 11);
        vm.roll(vm.getBlockNumber() + 1);
        setFast(ETH, 188e18);
        vm.warp(opened + 11);
        flagExpecting(Liquidator.CoolOff.selector, alice);
        vm.warp(opened + 12);
        setFast(ETH, 188e18);
        vm.warp(opened + 12);
        vm.roll(vm.getBlockNumber() - 1);
        flagExpecting(Liquidator.CoolOff.selector, alice);
        vm.roll(vm.getBlockNumber() + 1);
        flag(alice);
    }

    function test_a_withdrawal_is_new_risk_for_the_cool_off() public {
        openAlice();
        deposit(alice, address(usd), 100e18);
        tick(60);
        withdraw(alice, address(usd), 100e18);
        setFast(ETH, 188e18);
        flagExpecting(Liquidator.CoolOff.selector, alice);
    }

    function test_deposits_and_reductions_do_not_restart_the_cool_off() public {
        openAlice();
        tick(12);
        trade(bob, alice, ETH_PERP, 1e18, 200e18);
        deposit(alice, address(usd), 1e18);
        setFast(ETH, 187e18);
        flag(alice);
    }

    function test_only_a_healthy_account_is_flagged() public {
        openAndFlag(188e18);
        flagExpecting(Liquidator.WrongState.selector, alice);
        tick(13);
        liquidator.confirm(alice, none());
        flagExpecting(Liquidator.WrongState.selector, alice);
    }

    function bondAt(uint256 size) private returns (uint256) {
        deposit(alice, address(usd), 20 * size);
        deposit(bob, address(usd), 100 * size);
        trade(alice, bob, ETH_PERP, size, 200e18);
        tick(12);
        setFast(ETH, 185e18);
        fundCredit(flagger, address(usd), 10_000e18);
        flag(alice);
        return liquidator.flagOf(alice).bond;
    }

    function test_the_bond_is_two_basis_points_between_its_bounds() public {
        uint256 snapshot = vm.snapshotState();
        assertEq(bondAt(100e18), 50e18);
        vm.revertToState(snapshot);
        assertEq(bondAt(10_000e18), 370e18);
        vm.revertToState(snapshot);
        assertEq(bondAt(1_000_000e18), 5000e18);
    }

    function test_a_flagger_without_credit_cannot_flag() public {
        openAlice();
        tick(12);
        setPrice(ETH, 188e18);
        refuse(Vault.CreditTooLow.selector);
        vm.prank(makeAddr("poor"));
        liquidator.flag(alice, none());
    }

    // --- clear ---

    /// @dev A fast wick to 185 that the slow oracle never saw, and which is over.
    function falseAlarm() private {
        openAlice();
        tick(12);
        setFast(ETH, 185e18);
        flag(alice);
        pass(5);
        setFast(ETH, 200e18);
    }

    function test_an_unfounded_alarm_is_cleared_at_once_and_costs_the_bond() public {
        falseAlarm();
        uint256 insurance = backstop.insurance();
        int256 cash = cashOf(alice);
        vm.expectEmit(address(liquidator));
        emit Liquidator.Cleared(alice, 50e18);
        liquidator.clear(alice, none());
        assertState(alice, State.Healthy);
        assertEq(cashOf(alice), cash + 25e18);
        assertEq(backstop.insurance(), insurance + 25e18);
        assertEq(quoteCredit(address(liquidator)), 0);
        assertEq(quoteCredit(flagger), 100_000e18 - 50e18);
    }

    function clearExpecting() private {
        refuse(Liquidator.NotUnfounded.selector);
        liquidator.clear(alice, none());
    }

    function test_clear_needs_a_fast_price_newer_than_the_flag() public {
        openAlice();
        tick(12);
        setFast(ETH, 188e18);
        flag(alice);
        // Helped by nobody, healthy at a price that is as old as the flag: slow says so, fast does not.
        vm.store(address(fastOracle), latestSlot(ETH), bytes32((nowS() << 128) | 200e18));
        (uint256 price,, bool fresh) = fastOracle.read(ETH);
        assertEq(price, 200e18);
        assertTrue(fresh);
        clearExpecting();
        setFast(ETH, 200e18);
        liquidator.clear(alice, none());
    }

    function latestSlot(bytes32 feedId) private view returns (bytes32) {
        for (uint256 slot; slot < 16; ++slot) {
            bytes32 at = keccak256(abi.encode(feedId, slot));
            if (vm.load(address(fastOracle), at) != 0) return at;
        }
        revert("no price stored");
    }

    function test_clear_needs_both_oracles_fresh() public {
        falseAlarm();
        pass(16);
        clearExpecting();
        pass(3 hours);
        setFast(ETH, 200e18);
        clearExpecting();
    }

    function test_clear_needs_slow_evidence() public {
        openAlice();
        tick(12);
        setFast(ETH, 185e18);
        flag(alice);
        pass(5);
        // Healthy at both, but further apart than the deviation and the slow round is older than the flag.
        setFast(ETH, 203e18);
        clearExpecting();
        setSlow(ETH, 200e18);
        liquidator.clear(alice, none());
    }

    function test_clear_needs_health_at_both_prices() public {
        falseAlarm();
        setSlow(ETH, 188e18);
        clearExpecting();
        setSlow(ETH, 200e18);
        setFast(ETH, 188e18);
        clearExpecting();
    }

    function test_an_owner_cannot_top_up_and_be_paid_for_having_been_in_danger() public {
        deposit(alice, address(weth), 1);
        openAndFlag(188e18);
        deposit(alice, address(usd), 200e18);
        tick(5);
        clearExpecting();
        // Nor by collateral.
        deposit(alice, address(weth), 2e18);
        tick(5);
        clearExpecting();
    }

    function test_help_in_collateral_counts_at_the_larger_price() public {
        deposit(alice, address(weth), 1);
        openAndFlag(188e18);
        setFast(ETH, 190e18);
        deposit(alice, address(weth), 1e18);
        (,,,, uint256 aid,) = clearing.status(alice);
        assertEq(aid, 190e18 * 8 / 10);
    }

    function test_a_false_flagger_is_not_saved_by_a_one_wei_deposit() public {
        falseAlarm();
        deposit(alice, address(usd), 1);
        liquidator.clear(alice, none());
    }

    function test_an_owner_who_reduced_cannot_have_the_bond() public {
        openAndFlag(188e18);
        trade(bob, alice, ETH_PERP, 50e18, 188e18);
        tick(5);
        clearExpecting();
    }

    function test_help_against_an_earlier_flag_does_not_count() public {
        falseAlarm();
        deposit(alice, address(usd), 1000e18);
        liquidator.clear(alice, none());
        setFast(ETH, 175e18);
        flag(alice);
        (,,,, uint256 aid, bool reduced) = clearing.status(alice);
        assertEq(aid, 0);
        assertFalse(reduced);
    }

    function test_only_a_flagged_account_is_cleared() public {
        openAlice();
        refuse(Liquidator.WrongState.selector);
        liquidator.clear(alice, none());
    }

    // --- expire ---

    function test_an_alarm_expires_after_thirty_active_minutes_and_the_bond_returns() public {
        openAndFlag(188e18);
        for (uint256 i; i < 59; ++i) {
            tick(30);
            liquidator.poke(alice);
        }
        pass(1);
        refresh();
        refuse(Liquidator.NotExpired.selector);
        liquidator.expire(alice);
        tick(30);
        liquidator.expire(alice);
        assertState(alice, State.Healthy);
        assertEq(quoteCredit(flagger), 100_000e18);
    }

    function test_a_carried_clock_does_not_hasten_expiry() public {
        openAndFlag(188e18);
        for (uint256 i; i < 39; ++i) {
            tick(30);
            liquidator.poke(alice);
        }
        deposit(alice, address(usd), 500e18);
        liquidator.cure(alice, none());
        setFast(ETH, 180e18);
        flag(alice);
        for (uint256 i; i < 25; ++i) {
            tick(30);
            liquidator.poke(alice);
        }
        assertGt(liquidator.flagOf(alice).tau, 1800);
        refuse(Liquidator.NotExpired.selector);
        liquidator.expire(alice);
    }

    function test_an_alarm_expires_after_six_hours_whatever_the_oracles_do() public {
        openAndFlag(188e18);
        uint256 flagged = nowS();
        vm.warp(flagged + 6 hours - 1);
        refuse(Liquidator.NotExpired.selector);
        liquidator.expire(alice);
        vm.warp(flagged + 6 hours);
        liquidator.expire(alice);
        assertState(alice, State.Healthy);
        assertEq(quoteCredit(flagger), 100_000e18);
    }

    function test_only_a_flagged_account_expires() public {
        openAndConfirm(188e18);
        refuse(Liquidator.WrongState.selector);
        liquidator.expire(alice);
    }

    // --- poke ---

    function tau() private view returns (uint256) {
        return liquidator.flagOf(alice).tau;
    }

    function test_the_clock_counts_active_seconds_at_most_thirty_a_poke() public {
        openAndFlag(188e18);
        uint256 flagged = nowS();
        tick(20);
        liquidator.poke(alice);
        assertEq(tau(), nowS() - flagged);
        uint256 before = tau();
        tick(100);
        liquidator.poke(alice);
        assertEq(tau(), before + 30);
    }

    function test_the_clock_stands_while_a_feed_is_stale() public {
        openAndFlag(188e18);
        pass(16);
        liquidator.poke(alice);
        assertEq(tau(), 0);
        pass(3 hours);
        setFast(ETH, 188e18);
        liquidator.poke(alice);
        assertEq(tau(), 0);
        assertLt(liquidator.flagOf(alice).lastPoke, nowS() - 3 hours);
    }

    function test_the_clock_runs_only_in_an_episode() public {
        openAlice();
        refuse(Liquidator.WrongState.selector);
        liquidator.poke(alice);
    }

    // --- confirm ---

    function test_a_confirmed_account_returns_the_bond_and_pays_the_reward() public {
        openAndFlag(188e18);
        tick(13);
        liquidator.confirm(alice, none());
        assertState(alice, State.Confirmed);
        // 20 and a basis point of 18,800.
        assertEq(cashOf(alice), 2100e18 - 21.88e18);
        assertEq(quoteCredit(flagger), 100_000e18 + 21.88e18);
        assertEq(quoteCredit(address(liquidator)), 0);
        Liquidator.Flag memory f = liquidator.flagOf(alice);
        assertEq(f.bond, 0);
        assertEq(f.confirmedAt, nowS());
        assertEq(f.tauAtConfirm, f.tau);
        assertEq(f.feeCap, uint256(0.5e18) * 900e18 / 18_800e18);
    }

    function test_the_reward_is_at_most_a_tenth_of_equity() public {
        openAndFlag(180e18);
        tick(13);
        liquidator.confirm(alice, none());
        assertEq(cashOf(alice), 2100e18 - 10e18);
    }

    function test_an_account_without_equity_pays_no_reward() public {
        openAndFlag(178e18);
        tick(13);
        liquidator.confirm(alice, none());
        assertEq(cashOf(alice), 2100e18);
        assertEq(liquidator.flagOf(alice).feeCap, type(uint64).max);
    }

    function test_confirm_waits_for_the_least_delay_of_every_feed() public {
        openAlice();
        deposit(alice, address(usd), 2e18);
        trade(alice, bob, SOL_PERP, 1e18, 10e18);
        tick(12);
        setPrice(ETH, 188e18);
        flag(alice);
        uint256 flagged = nowS();
        vm.roll(vm.getBlockNumber() + 10);
        vm.warp(flagged + 9);
        refresh();
        vm.warp(flagged + 11);
        confirmExpecting(Liquidator.TooSoon.selector, alice);
        vm.warp(flagged + 56);
        refresh();
        vm.warp(flagged + 59);
        confirmExpecting(Liquidator.TooSoon.selector, alice);
        vm.warp(flagged + 60);
        liquidator.confirm(alice, none());
    }

    function test_confirm_waits_two_blocks() public {
        openAndFlag(188e18);
        vm.roll(vm.getBlockNumber() + 1);
        vm.warp(nowS() + 13);
        refresh();
        confirmExpecting(Liquidator.TooFewBlocks.selector, alice);
        vm.roll(vm.getBlockNumber() + 1);
        liquidator.confirm(alice, none());
    }

    function test_confirm_needs_a_fast_price_from_after_half_the_delay() public {
        openAndFlag(188e18);
        uint256 flagged = nowS();
        pass(5);
        setFast(ETH, 188e18);
        vm.roll(vm.getBlockNumber() + 1);
        vm.warp(flagged + 12);
        setSlow(ETH, 188e18);
        confirmExpecting(Liquidator.NoNewFastPrice.selector, alice);
        setFast(ETH, 188e18);
        liquidator.confirm(alice, none());
    }

    function test_confirm_needs_both_oracles_fresh() public {
        openAndFlag(188e18);
        pass(30);
        confirmExpecting(Liquidator.StaleOracle.selector, alice);
        pass(2 hours);
        setFast(ETH, 188e18);
        confirmExpecting(Liquidator.StaleOracle.selector, alice);
    }

    /// @dev A slow round from before the flag, a fast price now.
    function flaggedAfterSlow(uint256 slow, uint256 wait, uint256 fast) private {
        openAlice();
        tick(12);
        setSlow(ETH, slow);
        pass(wait);
        setFast(ETH, 188e18);
        flag(alice);
        pass(13);
        setFast(ETH, fast);
    }

    function test_an_old_slow_round_confirms_within_its_deviation_and_heartbeat() public {
        flaggedAfterSlow(188e18, 10, 188e18);
        liquidator.confirm(alice, none());
    }

    function test_an_old_slow_round_that_the_fast_price_left_is_no_evidence() public {
        flaggedAfterSlow(188e18, 10, 186.1e18);
        confirmExpecting(Liquidator.NoSlowEvidence.selector, alice);
        setSlow(ETH, 188e18);
        liquidator.confirm(alice, none());
    }

    function test_an_old_slow_round_past_its_heartbeat_is_no_evidence() public {
        flaggedAfterSlow(188e18, 1 hours, 188e18);
        confirmExpecting(Liquidator.NoSlowEvidence.selector, alice);
        setSlow(ETH, 188e18);
        liquidator.confirm(alice, none());
    }

    function test_fast_data_alone_confirms_nothing() public {
        openAndFlag(188e18);
        setSlow(ETH, 190e18);
        pass(13);
        setFast(ETH, 150e18);
        confirmExpecting(Liquidator.NotBreached.selector, alice);
    }

    function test_slow_data_alone_confirms_nothing() public {
        openAndFlag(188e18);
        pass(13);
        setFast(ETH, 190e18);
        setSlow(ETH, 188e18);
        confirmExpecting(Liquidator.NotBreached.selector, alice);
    }

    /// @dev Breached at the fast and the slow vector, whose worst legs differ, and not between them.
    function hedgedAt() private {
        deposit(alice, address(usd), 3000e18);
        deposit(bob, address(usd), 100_000e18);
        trade(alice, bob, ETH_PERP, 50e18, 200e18);
        trade(bob, alice, BTC_PERP, 20e18, 1000e18);
        tick(12);
        setSlow(ETH, 168e18);
        setFast(ETH, 151.2e18);
        setFast(BTC, 980e18);
        flag(alice);
        tick(13);
    }

    function test_confirm_needs_a_breach_at_the_execution_price_too() public {
        hedgedAt();
        (Margin memory f, Margin memory s, Margin memory l) = margins(alice);
        assertLt(f.equity, int256(f.requirement));
        assertLt(s.equity, int256(s.requirement));
        assertGt(l.equity, int256(l.requirement));
        confirmExpecting(Liquidator.NotBreached.selector, alice);
    }

    function test_oracles_that_are_far_apart_confirm_nothing() public {
        openAndFlag(180e18);
        pass(13);
        setSlow(ETH, 180e18);
        setFast(ETH, 125.9e18);
        confirmExpecting(Liquidator.TooDivergent.selector, alice);
        setFast(ETH, 126.1e18);
        liquidator.confirm(alice, none());
    }

    function test_only_a_flagged_account_is_confirmed() public {
        openAlice();
        confirmExpecting(Liquidator.WrongState.selector, alice);
    }

    function test_a_reward_that_the_clearing_does_not_hold_stops_no_confirmation() public {
        // Everybody holds WETH only, and the insurance has left.
        vm.prank(admin);
        backstop.setShares(1e18, 1e18);
        deposit(alice, address(weth), 20e18);
        deposit(bob, address(weth), 1000e18);
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        vm.prank(address(liquidator));
        clearing.payFromInsurance(alice, taker, 10_000e18);
        withdraw(taker, address(usd), 10_000e18);
        assertEq(quoteCredit(address(clearing)), 0);
        tick(12);
        setPrice(ETH, 177e18);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        assertState(alice, State.Confirmed);
    }

    function test_a_new_collateral_and_one_wei_deposits_do_not_stop_a_confirmation() public {
        deposit(alice, address(weth), 1);
        openAndFlag(188e18);
        // Dust of a type with a stale feed would: so none is taken in an episode, until the account is cured.
        fundCredit(ownerOf_(alice), address(wbtc), 1);
        vm.expectRevert(abi.encodeWithSelector(Clearing.NotHealthy.selector, alice, State.Flagged));
        vm.prank(ownerOf_(alice));
        clearing.deposit(alice, address(wbtc), 1);
        deposit(alice, address(usd), 1);
        deposit(alice, address(weth), 1);
        tick(13);
        liquidator.confirm(alice, none());
        vm.expectRevert(abi.encodeWithSelector(Clearing.NotHealthy.selector, alice, State.Confirmed));
        vm.prank(ownerOf_(alice));
        clearing.deposit(alice, address(wbtc), 1);
    }

    // --- cure ---

    function test_anyone_cures_an_account_that_is_safe_at_both_prices() public {
        openAndConfirm(188e18);
        // H = 1.1 needs 1,034 of equity.
        deposit(alice, address(usd), 155.87e18);
        refuse(Liquidator.NotCurable.selector);
        liquidator.cure(alice, none());
        deposit(alice, address(usd), 0.01e18);
        setFast(ETH, 187.9e18);
        refuse(Liquidator.NotCurable.selector);
        liquidator.cure(alice, none());
        setFast(ETH, 188e18);
        setSlow(ETH, 187.9e18);
        refuse(Liquidator.NotCurable.selector);
        liquidator.cure(alice, none());
        setSlow(ETH, 188e18);
        liquidator.cure(alice, none());
        assertState(alice, State.Healthy);
    }

    function test_cure_needs_fresh_prices_while_there_is_risk() public {
        openAndConfirm(188e18);
        deposit(alice, address(usd), 1000e18);
        pass(16);
        refuse(Liquidator.NotCurable.selector);
        liquidator.cure(alice, none());
        pass(3 hours);
        setFast(ETH, 188e18);
        refuse(Liquidator.NotCurable.selector);
        liquidator.cure(alice, none());
    }

    function test_an_account_without_open_risk_is_cured_in_any_outage() public {
        openAndConfirm(188e18);
        trade(bob, alice, ETH_PERP, 100e18, 188e18);
        pass(3 hours);
        liquidator.cure(alice, none());
        assertState(alice, State.Healthy);
    }

    function test_an_account_that_only_owes_is_not_cured() public {
        openAndConfirm(178e18);
        trade(bob, alice, ETH_PERP, 100e18, 178e18);
        refuse(Liquidator.NotCurable.selector);
        liquidator.cure(alice, none());
    }

    function test_curing_a_founded_alarm_returns_the_bond() public {
        openAndFlag(188e18);
        deposit(alice, address(usd), 500e18);
        tick(5);
        liquidator.cure(alice, none());
        assertState(alice, State.Healthy);
        assertEq(quoteCredit(flagger), 100_000e18);
    }

    function test_curing_an_unfounded_alarm_slashes_the_bond() public {
        falseAlarm();
        int256 cash = cashOf(alice);
        vm.expectEmit(address(liquidator));
        emit Liquidator.Cleared(alice, 50e18);
        liquidator.cure(alice, none());
        assertState(alice, State.Healthy);
        // Nothing is carried into a later episode, and no reward is withheld from its flagger.
        assertEq(liquidator.flagOf(alice).carriedAt, 0);
        assertEq(cashOf(alice), cash + 25e18);
        assertEq(quoteCredit(flagger), 100_000e18 - 50e18);
        assertEq(quoteCredit(address(liquidator)), 0);
    }

    function test_only_an_episode_is_cured() public {
        openAlice();
        refuse(Liquidator.WrongState.selector);
        liquidator.cure(alice, none());
    }

    // --- carry and reward ---

    function curedAfter(uint256 seconds_) private {
        openAndFlag(188e18);
        for (uint256 i; i < seconds_ / 30; ++i) {
            vm.warp(nowS() + 30);
            refreshFeed(ETH);
            liquidator.poke(alice);
        }
        vm.roll(vm.getBlockNumber() + 2);
        liquidator.confirm(alice, none());
        deposit(alice, address(usd), 500e18);
        liquidator.cure(alice, none());
    }

    function reflagAfter(uint256 seconds_) private returns (uint256) {
        vm.warp(nowS() + seconds_ - 1);
        vm.roll(vm.getBlockNumber() + 1);
        setPrice(ETH, 180e18);
        vm.warp(liquidator.flagOf(alice).carriedAt + seconds_);
        flag(alice);
        return tau();
    }

    function test_a_new_alarm_resumes_the_clock_halved_every_hour() public {
        curedAfter(600);
        assertEq(tau(), 600);
        uint256 snapshot = vm.snapshotState();
        assertApproxEqAbs(reflagAfter(1), 600, 1);
        vm.revertToState(snapshot);
        assertApproxEqAbs(reflagAfter(1800), 424, 1);
        vm.revertToState(snapshot);
        assertApproxEqAbs(reflagAfter(3600), 300, 1);
        vm.revertToState(snapshot);
        assertEq(reflagAfter(3601), 0);
    }

    function test_no_more_is_carried_than_one_slope() public {
        curedAfter(1500);
        assertApproxEqAbs(reflagAfter(1), 1200, 1);
    }

    function test_an_episode_pays_one_reward_until_an_hour_after_its_cure() public {
        curedAfter(30);
        uint256 snapshot = vm.snapshotState();
        reflagAfter(3600);
        uint256 credit = quoteCredit(flagger);
        tick(13);
        liquidator.confirm(alice, none());
        assertEq(quoteCredit(flagger), credit + 50e18);
        vm.revertToState(snapshot);
        reflagAfter(3601);
        credit = quoteCredit(flagger);
        tick(13);
        liquidator.confirm(alice, none());
        assertGt(quoteCredit(flagger), credit + 50e18);
    }

    function test_the_parameters_have_hard_bounds() public {
        for (uint256 i; i < 19; ++i) {
            SlopeParams memory p = slopeParams();
            if (i == 0) p.beta = 0.019e18;
            if (i == 1) p.beta = 1.51e18;
            if (i == 2) p.betaCure = p.beta;
            if (i == 3) p.betaFlag = p.betaCure;
            if (i == 4) p.tSlope = 299;
            if (i == 5) p.tSlope = 7201;
            if (i == 6) p.qMin -= 1;
            if (i == 7) p.lambda += 1e6;
            if (i == 8) p.lambda -= 1e6;
            if (i == 9) p.k0 = p.k1 + 1;
            if (i == 10) p.k1 = 0.0501e18;
            if (i == 11) p.theta = 0;
            if (i == 12) p.theta = 0.81e18;
            if (i == 13) p.bandMax = 0.251e18;
            if (i == 14) p.stepWindow = 0;
            if (i == 15) p.minSlice = p.dust + 1;
            if (i == 17) p.minSlice = 0;
            if (i == 18) p.dust = 100_000e18 + 1;
            if (i == 16) p.tK = 0;
            vm.expectPartialRevert(Slope.BadSlope.selector);
            new Liquidator(clearing, engine, instruments, backstop, breaker, p, admin);
        }
    }
}
