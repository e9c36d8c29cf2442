// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Liquidator} from "../../src/Liquidator.sol";
import {Measured} from "./Measured.sol";

/// @notice What several acts cost in one batch, and the same acts in transactions of their own.
contract BatchGasTest is Measured {
    uint256 private constant ACCOUNTS = 8;

    bytes32[ACCOUNTS] private accounts;

    /// @dev Eight accounts with a perp each that can be flagged.
    function setUp() public override {
        super.setUp();
        for (uint256 i; i < ACCOUNTS; ++i) {
            accounts[i] = newAccount(string.concat("account ", vm.toString(i)));
            openPerps(accounts[i], 1);
        }
        tickAll(12);
        moveAll(94);
    }

    function flags(uint256 n) private view returns (bytes[] memory calls) {
        calls = new bytes[](n);
        for (uint256 i; i < n; ++i) {
            calls[i] = abi.encodeCall(Liquidator.flag, (accounts[i], none()));
        }
    }

    function confirmations(uint256 n) private view returns (bytes[] memory calls) {
        calls = new bytes[](n);
        for (uint256 i; i < n; ++i) {
            calls[i] = abi.encodeCall(Liquidator.confirm, (accounts[i], none()));
        }
    }

    function slices(uint256 n) private view returns (bytes[] memory calls) {
        calls = new bytes[](n);
        for (uint256 i; i < n; ++i) {
            calls[i] = abi.encodeCall(Liquidator.liquidate, (accounts[i], terms(accounts[i], taker), none()));
        }
    }

    /// @dev Both ways from the same state; leaves the state that the batch made.
    function measure(address by, bytes[] memory calls, uint256 succeed, string memory what) private {
        uint256 before = vm.snapshotState();
        uint256 total;
        for (uint256 i; i < calls.length; ++i) {
            vm.prank(by);
            (bool ok,) = address(liquidator).call(calls[i]);
            total += gasOfLast();
            if (ok) --succeed;
        }
        assertEq(succeed, 0);
        vm.snapshotValue("batch", string.concat(what, ", one by one"), total);
        vm.revertToState(before);
        vm.prank(by);
        liquidator.batch(calls);
        vm.snapshotGasLastCall("batch", string.concat(what, ", in a batch"));
    }

    function test_a_batch_of_one_flag() public {
        measure(flagger, flags(1), 1, "1 flag");
    }

    function test_a_batch_of_four_flags() public {
        measure(flagger, flags(4), 4, "4 flags");
    }

    function test_a_batch_of_eight_flags() public {
        measure(flagger, flags(8), 8, "8 flags");
    }

    /// @dev Bob is not breached.
    function test_a_batch_of_four_flags_of_which_one_fails() public {
        accounts[2] = bob;
        measure(flagger, flags(4), 3, "4 flags of which 1 fails");
    }

    function test_batches_of_four_confirmations_and_slices() public {
        vm.prank(flagger);
        liquidator.batch(flags(4));
        tickAll(13);
        measure(flagger, confirmations(4), 4, "4 confirmations");
        measure(ownerOf_(taker), slices(4), 4, "4 first slices");
        tickAll(13);
        measure(ownerOf_(taker), slices(4), 4, "4 next slices");
    }
}
