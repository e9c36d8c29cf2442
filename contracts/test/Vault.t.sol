// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";
import {TestToken} from "../demo/TestToken.sol";
import {Vault} from "../src/Vault.sol";
import {Base} from "./Base.t.sol";

contract FeeToken is TestToken("Fee", "FEE", 18) {
    function _update(address from, address to, uint256 units) internal override {
        super._update(from, to, units);
        if (from != address(0) && to != address(0)) super._update(to, address(1), units / 100);
    }
}

/// @dev Its balances shrink where somebody wills it, as those of a token that rebases do.
contract ShrinkingToken is TestToken("Shrinking", "SHR", 6) {
    function take(address from, uint256 units) external {
        _burn(from, units);
    }
}

/// @dev Refuses to pay one address, as a dollar with a blocklist does.
contract BlockingToken is TestToken("Blocking", "BLK", 6) {
    address public blocked;

    function block_(address who) external {
        blocked = who;
    }

    function _update(address from, address to, uint256 units) internal override {
        require(to != blocked, "blocked");
        super._update(from, to, units);
    }
}

/// @dev Calls back into the vault from inside its own transfer.
contract ReentrantToken is TestToken("Reentrant", "RE", 18) {
    address private _target;
    bytes private _call;

    function arm(address target, bytes calldata call) external {
        (_target, _call) = (target, call);
    }

    function _update(address from, address to, uint256 units) internal override {
        address target = _target;
        if (target != address(0)) {
            _target = address(0);
            (bool done, bytes memory why) = target.call(_call);
            if (!done) {
                assembly {
                    revert(add(why, 32), mload(why))
                }
            }
        }
        super._update(from, to, units);
    }
}

contract VaultTest is Base {
    address internal holder = makeAddr("holder");

    function accept(TestToken token) private {
        vm.prank(admin);
        vault.acceptToken(address(token));
    }

    function mintAndApprove(TestToken token, uint256 units) private {
        token.mint(address(this), units);
        token.approve(address(vault), type(uint256).max);
    }

    function test_a_deposit_becomes_credit_in_wad_whatever_the_decimals() public {
        mintAndApprove(usd, 5e6);
        mintAndApprove(wbtc, 5e8);
        mintAndApprove(weth, 5e18);
        vault.deposit(address(usd), 5e6, holder);
        vault.deposit(address(wbtc), 5e8, holder);
        vault.deposit(address(weth), 5e18, holder);
        assertEq(vault.credit(address(usd), holder), 5e18);
        assertEq(vault.credit(address(wbtc), holder), 5e18);
        assertEq(vault.credit(address(weth), holder), 5e18);
    }

    function test_a_token_with_a_fee_on_transfer_is_rejected() public {
        FeeToken token = new FeeToken();
        accept(token);
        mintAndApprove(token, 100);
        vm.expectRevert(abi.encodeWithSelector(Vault.TransferFee.selector, 100, 99));
        vault.deposit(address(token), 100, holder);
    }

    function test_nobody_new_is_taken_in_to_pay_for_a_balance_that_shrank() public {
        ShrinkingToken token = new ShrinkingToken();
        accept(token);
        mintAndApprove(token, 10e6);
        vault.deposit(address(token), 5e6, holder);
        assertTrue(vault.solvent(address(token)));
        token.take(address(vault), 1);
        assertFalse(vault.solvent(address(token)));
        vm.expectRevert(
            abi.encodeWithSelector(Vault.Shortfall.selector, address(token), 5e18 - 1e12, 5e18)
        );
        vault.deposit(address(token), 1e6, address(this));
        // Who makes up for it reopens the door.
        token.transfer(address(vault), 1);
        assertTrue(vault.solvent(address(token)));
        vault.deposit(address(token), 1e6, address(this));
    }

    function test_a_balance_that_grew_is_nobodys() public {
        mintAndApprove(usd, 10e6);
        vault.deposit(address(usd), 5e6, holder);
        usd.transfer(address(vault), 5e6);
        assertEq(vault.credit(address(usd), holder), 5e18);
        assertTrue(vault.solvent(address(usd)));
    }

    function test_more_than_eighteen_decimals_are_rejected() public {
        TestToken token = new TestToken("Fine", "FINE", 19);
        vm.expectPartialRevert(Vault.TooManyDecimals.selector);
        vm.prank(admin);
        vault.acceptToken(address(token));
    }

    function test_an_unknown_token_is_rejected_both_ways() public {
        vm.expectRevert(abi.encodeWithSelector(Vault.UnknownToken.selector, address(1)));
        vault.deposit(address(1), 1, holder);
        vm.expectRevert(abi.encodeWithSelector(Vault.UnknownToken.selector, address(1)));
        vault.withdraw(address(1), 1, holder);
    }

    function test_credit_is_pulled_out_in_whole_units_and_the_rest_stays() public {
        fundCredit(holder, address(usd), 10e18);
        vm.prank(holder);
        vault.withdraw(address(usd), 3e18 + 1, address(7));
        assertEq(usd.balanceOf(address(7)), 3e6);
        assertEq(vault.credit(address(usd), holder), 7e18);
        vm.expectRevert(abi.encodeWithSelector(Vault.BelowOneUnit.selector, 1e12 - 1));
        vm.prank(holder);
        vault.withdraw(address(usd), 1e12 - 1, holder);
    }

    function test_nobody_withdraws_more_than_their_credit() public {
        fundCredit(holder, address(usd), 10e18);
        vm.expectPartialRevert(Vault.CreditTooLow.selector);
        vm.prank(holder);
        vault.withdraw(address(usd), 10e18 + 1e12, holder);
    }

    function test_only_modules_move_credit() public {
        fundCredit(holder, address(usd), 10e18);
        vm.expectRevert(abi.encodeWithSelector(Vault.NotModule.selector, address(this)));
        vault.move(address(usd), holder, address(this), 1);
    }

    function test_only_the_admin_accepts_tokens_and_modules() public {
        vm.expectRevert();
        vault.acceptToken(address(usd));
        vm.expectRevert();
        vault.addModule(address(this));
    }

    function reenter(bytes memory call) private returns (ReentrantToken token) {
        token = new ReentrantToken();
        accept(token);
        mintAndApprove(token, 100);
        token.arm(address(vault), call);
        vm.expectRevert(ReentrancyGuard.ReentrancyGuardReentrantCall.selector);
        vault.deposit(address(token), 100, holder);
        assertEq(vault.credit(address(token), holder), 0);
    }

    function test_a_token_that_calls_back_gets_nothing() public {
        reenter(abi.encodeCall(Vault.deposit, (address(usd), 0, holder)));
        reenter(abi.encodeCall(Vault.withdraw, (address(usd), 1e18, holder)));
    }

    function test_a_withdrawal_that_calls_back_gets_nothing() public {
        ReentrantToken token = new ReentrantToken();
        accept(token);
        mintAndApprove(token, 100);
        vault.deposit(address(token), 100, address(this));
        token.arm(address(vault), abi.encodeCall(Vault.withdraw, (address(token), 100, holder)));
        vm.expectRevert(ReentrancyGuard.ReentrancyGuardReentrantCall.selector);
        vault.withdraw(address(token), 100, holder);
        assertEq(vault.credit(address(token), address(this)), 100);
    }

    function test_a_blocklisted_recipient_stops_only_its_own_withdrawal() public {
        BlockingToken token = new BlockingToken();
        accept(token);
        mintAndApprove(token, 2e6);
        vault.deposit(address(token), 1e6, holder);
        vault.deposit(address(token), 1e6, address(this));
        token.block_(holder);
        vm.prank(holder);
        vm.expectRevert("blocked");
        vault.withdraw(address(token), 1e18, holder);
        assertEq(vault.credit(address(token), holder), 1e18);
        vault.withdraw(address(token), 1e18, address(this));
        vm.prank(holder);
        vault.withdraw(address(token), 1e18, address(9));
    }

    function test_a_token_is_accepted_once() public {
        BlockingToken token = new BlockingToken();
        accept(token);
        vm.expectRevert(abi.encodeWithSelector(Vault.AlreadyAccepted.selector, address(token)));
        accept(token);
    }
}
