// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {RiskArray, State} from "../src/HybridTypes.sol";
import {Liquidator} from "../src/Liquidator.sol";
import {Base} from "./Base.t.sol";

/// @notice Who arranges an account so that others pay for it, or so that nobody can touch it.
contract GamingTest is Base {
    function equity(bytes32 acct) private view returns (int256) {
        return engine.look(acct, 0).atFast.equity;
    }

    function postWorthless(uint16 market, uint256 ref) private {
        RiskArray[] memory arrays = new RiskArray[](1);
        vm.warp(nowS() + 1);
        (arrays[0].market, arrays[0].observedAt, arrays[0].refPrice) = (market, uint40(nowS()), uint64(ref / 1e10));
        submitArrays(arrays);
    }

    function test_worthless_options_do_not_raise_what_the_insurance_pays() public {
        uint16 far = listOption(ETH, 400e18, EXPIRY, true);
        refresh();
        deposit(alice, address(usd), 21e18);
        deposit(bob, address(usd), 12_000e18);
        deposit(taker, address(usd), 1000e18);
        trade(alice, bob, ETH_PERP, 1e18, 200e18);
        postWorthless(far, 200e18);
        trade(alice, bob, far, 2750e18, 0);
        tick(12);
        setPrice(ETH, 178e18);
        postWorthless(far, 178e18);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        uint256 requirement = engine.look(alice, 0).atExec.requirement;
        uint256 insurance = backstop.insurance();
        liquidate(alice, taker);
        // M for the risk, and what the account owes; k0 of the notional would be some 2,449.
        assertLe(insurance - backstop.insurance(), requirement + 2e18);
    }

    /// @dev Calls of strike 20, worth 159 each, whose array the price has left: at max loss they require all of it.
    function test_options_bought_dear_do_not_raise_what_the_insurance_offers() public {
        uint16 deep = listOption(ETH, 20e18, EXPIRY, true);
        refresh();
        deposit(alice, address(usd), 2300e18);
        deposit(bob, address(usd), 100_000e18);
        deposit(taker, address(usd), 100_000e18);
        postArray(deep);
        trade(alice, bob, deep, 100e18, 184e18);
        tick(12);
        setPrice(ETH, 175e18);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        for (uint256 i; i < 10; ++i) {
            tick(30);
            liquidator.poke(alice);
        }
        assertEq(engine.look(alice, 0).atExec.requirement, 15_900e18);
        int256 cash = cashOf(taker);
        liquidate(alice, taker);
        // Half of 5% of the underlying's 17,500, by and large.
        assertApproxEqAbs(cashOf(taker) - cash, 437.5e18, 1e18);
    }

    function test_a_sale_after_the_last_slice_leaves_the_debt_with_its_markets() public {
        deposit(alice, address(weth), 3e18);
        openAndConfirm(100e18);
        liquidate(alice, taker);
        assertEq(uint256(stateOf(alice)), uint256(State.Confirmed));
        tick(5);
        liquidate(alice, taker);
        assertEq(uint256(stateOf(alice)), uint256(State.Closed));
        assertGt(backstop.owed(ETH_PERP), 0);
        assertEq(backstop.unassigned(), 0);
    }

    function test_an_option_is_settled_on_an_old_round_within_its_heartbeat() public {
        vm.warp(EXPIRY - 100);
        vm.roll(vm.getBlockNumber() + 1000);
        refresh();
        vm.warp(EXPIRY + 20);
        setFast(ETH, 200e18);
        riskArrays.settle(ETH, EXPIRY);
        assertEq(riskArrays.settlement(ETH, EXPIRY), 200e18);
    }

    /// @dev Alice has 10 WETH and debt, no position.
    function leaveDebt() private {
        deposit(alice, address(weth), 10e18);
        deposit(alice, address(wbtc), 1e10);
        deposit(alice, address(usd), 1000e18);
        deposit(bob, address(usd), 100_000e18);
        trade(alice, bob, ETH_PERP, 60e18, 200e18);
        tick(12);
        setPrice(ETH, 175e18);
        trade(bob, alice, ETH_PERP, 60e18, 175e18);
        assertLt(cashOf(alice), 0);
    }

    function buy() private {
        vm.prank(flagger);
        liquidator.buyCollateral(alice, WETH, type(uint128).max, 0);
    }

    function test_dust_of_a_stale_collateral_does_not_stop_the_sale_of_another() public {
        leaveDebt();
        pass(601);
        refreshFeed(ETH);
        buy();
        assertEq(cashOf(alice), 0);
    }

    function test_collateral_is_sold_where_the_slow_oracle_acts_alone() public {
        leaveDebt();
        pass(601);
        setSlow(ETH, 175e18);
        buy();
        assertEq(cashOf(alice), 0);
    }

    function test_collateral_is_not_sold_at_a_price_that_is_merely_stale() public {
        leaveDebt();
        pass(60);
        setSlow(ETH, 175e18);
        vm.expectPartialRevert(Liquidator.StaleOracle.selector);
        buy();
    }

    function test_an_account_confirmed_without_equity_offers_a_fee_when_it_is_back() public {
        openAndConfirm(178.9e18);
        setPrice(ETH, 183e18);
        assertGt(equity(alice), 0);
        int256 cash = cashOf(taker);
        liquidate(alice, taker);
        assertGt(cashOf(taker), cash);
    }
}
