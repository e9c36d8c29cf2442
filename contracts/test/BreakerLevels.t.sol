// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {State} from "../src/HybridTypes.sol";
import {Liquidator} from "../src/Liquidator.sol";
import {Base} from "./Base.t.sol";

/// @notice What each level of the breaker leaves of an episode.
contract BreakerLevelsTest is Base {
    function raise(uint256 level) private {
        vm.prank(guardian);
        breaker.raise(level);
    }

    function refuse(uint256 level) private {
        vm.expectRevert(abi.encodeWithSelector(Liquidator.BreakerTripped.selector, level));
    }

    function tau() private view returns (uint256) {
        return liquidator.flagOf(alice).tau;
    }

    function assertState(State wanted) private view {
        assertEq(uint256(stateOf(alice)), uint256(wanted));
    }

    function test_the_first_level_leaves_alarms_confirmations_and_slices_alone() public {
        openAlice();
        raise(1);
        tick(12);
        setPrice(ETH, 188e18);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        liquidate(alice, taker);
        assertEq(liquidator.flagOf(alice).trancheNonce, 1);
        assertGt(tau(), 0);
    }

    function test_the_second_level_bars_alarms() public {
        openAlice();
        tick(12);
        setPrice(ETH, 188e18);
        raise(2);
        refuse(2);
        flag(alice);
        // Six hours take one level off.
        vm.warp(nowS() + 6 hours);
        setPrice(ETH, 188e18);
        flag(alice);
    }

    function test_the_second_level_bars_confirmations() public {
        openAndFlag(188e18);
        raise(2);
        tick(13);
        refuse(2);
        liquidator.confirm(alice, none());
    }

    function test_clocks_stand_at_the_second_level_but_slices_go_on() public {
        openAndConfirm(188e18);
        uint256 before = tau();
        raise(2);
        tick(20);
        liquidator.poke(alice);
        assertEq(tau(), before);
        liquidate(alice, taker);
        assertEq(tau(), before);
        assertEq(liquidator.flagOf(alice).trancheNonce, 1);
    }

    function test_a_poke_at_the_second_level_starts_no_count_of_lost_equity() public {
        openAndConfirm(188e18);
        raise(2);
        setPrice(ETH, 175e18);
        liquidator.poke(alice);
        assertEq(liquidator.flagOf(alice).insolventTau, 0);
    }

    function test_cures_and_expiries_work_at_every_level() public {
        openAndConfirm(188e18);
        raise(3);
        deposit(alice, address(usd), 500e18);
        tick(5);
        liquidator.cure(alice, none());
        assertState(State.Healthy);
    }

    function test_an_alarm_expires_at_every_level() public {
        openAndFlag(188e18);
        vm.warp(nowS() + 6 hours - 100);
        raise(3);
        vm.warp(nowS() + 100);
        liquidator.expire(alice);
        assertState(State.Healthy);
    }

    function test_an_unfounded_alarm_is_cleared_at_every_level() public {
        openAlice();
        tick(12);
        setFast(ETH, 185e18);
        flag(alice);
        raise(3);
        pass(5);
        setFast(ETH, 200e18);
        liquidator.clear(alice, none());
        assertState(State.Healthy);
    }

    function test_collateral_of_a_debtor_is_sold_at_every_level() public {
        deposit(alice, address(weth), 20e18);
        deposit(bob, address(usd), 100_000e18);
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        setPrice(ETH, 192e18);
        trade(bob, alice, ETH_PERP, 100e18, 192e18);
        tick(1);
        raise(3);
        vm.prank(flagger);
        liquidator.buyCollateral(alice, WETH, type(uint256).max, 0);
        assertEq(cashOf(alice), 0);
    }

    function test_the_third_level_bars_slices() public {
        openAndConfirm(188e18);
        raise(3);
        tick(5);
        refuse(3);
        this.sliceAlice();
        vm.warp(nowS() + 2 hours);
        refresh();
        refuse(3);
        this.sliceAlice();
    }

    function sliceAlice() external {
        liquidate(alice, taker);
    }

    function test_the_third_level_holds_back_an_account_without_equity_for_an_hour_at_most() public {
        openAndConfirm(175e18);
        raise(3);
        uint256 raised = breaker.raisedAt();
        vm.warp(raised + 1 hours - 6);
        refresh();
        vm.warp(raised + 1 hours - 1);
        refuse(3);
        this.sliceAlice();
        vm.warp(raised + 1 hours);
        liquidate(alice, taker);
        assertState(State.Closed);
    }

    function test_the_hour_lets_nobody_through_who_has_equity_at_one_price() public {
        openAndConfirm(175e18);
        raise(3);
        vm.warp(nowS() + 1 hours);
        refresh();
        setSlow(ETH, 179.5e18);
        refuse(3);
        this.sliceAlice();
        setSlow(ETH, 175e18);
        setFast(ETH, 179.5e18);
        refuse(3);
        this.sliceAlice();
    }
}
