// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Base} from "./Base.t.sol";
import {Liquidator} from "../src/Liquidator.sol";
import {State} from "../src/HybridTypes.sol";

/// @notice Who pays the taker of an account whose haircut equity is gone.
contract InsolvencyTest is Base {
    uint256 private insurance;
    int256 private cash;

    function remember() private {
        insurance = backstop.insurance();
        cash = cashOf(taker);
    }

    /// @dev Alice long 100 ETH at 200 on 2,100 and some WETH; both prices fall to 173, where E <= 0.
    function confirmWith(uint256 collateral) private {
        deposit(alice, address(weth), collateral);
        openAndConfirm(173e18);
        remember();
    }

    function test_an_account_pays_the_smallest_fee_itself_while_its_collateral_is_worth_it() public {
        // -600 of cash after the loss, and 4 WETH at 173: worth 92, theta 50%, so 46 in all.
        confirmWith(4e18);
        liquidate(alice, taker);
        int256 got = cashOf(taker) - cash;
        assertApproxEqAbs(got, 0.8 * 46e18, 1e6);
        assertApproxEqAbs(backstop.insurance(), insurance + 0.2 * 46e18, 1e6);
        assertEq(backstop.badDebt(), 0);
        assertApproxEqAbs(cashOf(alice), -646e18, 1e6);
    }

    function test_the_fee_of_an_account_worth_much_is_k0() public {
        // At 165, 10.5 WETH bring 1,732.5 against a debt of 1,400: E = -14, worth 332.5.
        deposit(alice, address(weth), 10.5e18);
        openAndConfirm(165e18);
        remember();
        liquidate(alice, taker);
        assertEq(cashOf(taker) - cash, 0.8 * 82.5e18);
        assertEq(backstop.insurance(), insurance + 0.2 * 82.5e18);
    }

    function test_the_insurance_pays_once_the_collateral_is_worth_less_than_the_loss() public {
        confirmWith(3e18);
        liquidate(alice, taker);
        assertEq(backstop.insurance(), insurance - 86.5e18);
        assertEq(cashOf(taker) - cash, 86.5e18);
        assertEq(cashOf(alice), -600e18);
    }

    function test_nobody_is_paid_for_taking_over_his_own_book() public {
        confirmWith(4e18);
        int256 before = cash + cashOf(alice) + markOf(alice);
        liquidate(alice, taker);
        assertLe(cashOf(taker) + cashOf(alice) + markOf(alice) + markOf(taker), before);
    }

    function test_a_loss_of_equity_that_the_slow_price_does_not_show_pays_the_smallest_fee_too() public {
        confirmWith(4e18);
        // 57 left at the slow price, while the fast and the execution price stay at 173.
        setSlow(ETH, 174e18);
        liquidate(alice, taker);
        assertApproxEqAbs(cashOf(taker) - cash, 0.8 * 46e18, 1e6);
        assertApproxEqAbs(backstop.insurance(), insurance + 0.2 * 46e18, 1e6);
    }

    function test_a_loss_of_equity_at_one_price_raises_no_fee_above_the_cap_of_the_confirmation() public {
        // At 165.6, 10.5 WETH leave 51 of equity; at 165 they are worth 332 more than the debt.
        deposit(alice, address(weth), 10.5e18);
        openAndConfirm(165.6e18);
        remember();
        uint256 cap = liquidator.flagOf(alice).feeCap;
        assertLt(cap, 0.002e18);
        setSlow(ETH, 165.3e18);
        setFast(ETH, 165e18);
        liquidate(alice, taker);
        assertApproxEqAbs(cashOf(taker) - cash, int256(cap * 16_500 * 8 / 10), 1e6);
    }

    function test_the_insurance_pays_nothing_while_one_price_shows_equity() public {
        confirmWith(3e18);
        // 10 left at the slow price; at 173.15 the collateral does not make up for the loss.
        setSlow(ETH, 174.9e18);
        liquidate(alice, taker);
        assertEq(cashOf(taker), cash);
        assertEq(backstop.insurance(), insurance);
    }

    function test_a_slice_without_equity_leaves_the_fee_cap_for_when_equity_returns() public {
        openAndConfirm(179.5e18);
        setPrice(ETH, 173e18);
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0.1e18;
        liquidateOn(alice, t);
        assertGt(liquidator.flagOf(alice).feeCap, 0);
        setPrice(ETH, 179.5e18);
        remember();
        t = terms(alice, taker);
        t.fMax = 0.1e18;
        liquidateOn(alice, t);
        assertGt(cashOf(taker), cash);
        assertState(alice, State.Confirmed);
    }

    /// @dev Profit or loss of the ETH position at 173.
    function markOf(bytes32 acct) private view returns (int256) {
        (int256 size, int256 quoteLeg) = leg(acct, ETH_PERP);
        return size * 173 + quoteLeg;
    }

    function assertState(bytes32 acct, State wanted) private view {
        assertEq(uint256(stateOf(acct)), uint256(wanted));
    }
}
