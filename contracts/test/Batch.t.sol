// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";
import {Bundle, State} from "../src/HybridTypes.sol";
import {Clearing} from "../src/Clearing.sol";
import {Liquidator} from "../src/Liquidator.sol";
import {Vault} from "../src/Vault.sol";
import {Base} from "./Base.t.sol";

/// @notice Several acts in one call, each by itself; and acts within acts.
contract BatchTest is Base {
    bytes32 private carol;

    function setUp() public override {
        super.setUp();
        carol = newAccount("carol");
    }

    function assertState(bytes32 acct, State wanted) private view {
        assertEq(uint256(stateOf(acct)), uint256(wanted));
    }

    /// @dev Alice and carol can be flagged; bob, the other side of both, cannot.
    function twoBreached() private {
        deposit(carol, address(usd), 2100e18);
        deposit(bob, address(usd), 100_000e18);
        trade(carol, bob, ETH_PERP, 100e18, 200e18);
        openAlice();
        tick(12);
        setPrice(ETH, 188e18);
    }

    function flags(bytes32 a, bytes32 b, bytes32 c) private pure returns (bytes[] memory calls) {
        calls = new bytes[](3);
        calls[0] = abi.encodeCall(Liquidator.flag, (a, none()));
        calls[1] = abi.encodeCall(Liquidator.flag, (b, none()));
        calls[2] = abi.encodeCall(Liquidator.flag, (c, none()));
    }

    function test_each_act_of_a_batch_is_the_callers_own() public {
        twoBreached();
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(Liquidator.flag, (alice, none()));
        calls[1] = abi.encodeCall(Liquidator.flag, (carol, none()));
        vm.prank(flagger);
        bool[] memory done = liquidator.batch(calls);
        assertTrue(done[0] && done[1]);
        assertEq(liquidator.flagOf(alice).flagger, flagger);
        assertEq(liquidator.flagOf(carol).flagger, flagger);
        assertEq(quoteCredit(flagger), 100_000e18 - 100e18);
    }

    function test_an_act_that_fails_stops_no_other_and_says_why() public {
        twoBreached();
        bytes[] memory calls = flags(alice, bob, carol);
        vm.expectEmit(address(liquidator));
        emit Liquidator.ActFailed(1, Liquidator.NotBreached.selector);
        vm.prank(flagger);
        bool[] memory done = liquidator.batch(calls);
        assertTrue(done[0] && !done[1] && done[2]);
        assertState(alice, State.Flagged);
        assertState(bob, State.Healthy);
        assertState(carol, State.Flagged);
    }

    function test_an_act_that_fails_leaves_nothing_behind() public {
        twoBreached();
        flag(alice);
        flag(carol);
        tick(13);
        liquidator.confirm(alice, none());
        // The taker of the second slice asks for too much after the reports were posted and the clock was read.
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.minFee = type(uint128).max;
        Bundle[] memory reports = one(bundle(ETH, 188e18));
        bytes[] memory calls = new bytes[](1);
        calls[0] = abi.encodeCall(Liquidator.liquidate, (alice, t, reports));
        Liquidator.Flag memory before = liquidator.flagOf(alice);
        (, uint256 observedAt,) = fastOracle.read(ETH);
        vm.prank(ownerOf_(taker));
        bool[] memory done = liquidator.batch(calls);
        assertFalse(done[0]);
        assertEq(keccak256(abi.encode(liquidator.flagOf(alice))), keccak256(abi.encode(before)));
        (, uint256 later,) = fastOracle.read(ETH);
        assertEq(later, observedAt);
    }

    function test_a_call_of_nothing_known_fails_by_itself() public {
        twoBreached();
        bytes[] memory calls = flags(alice, bob, carol);
        calls[1] = hex"12345678";
        vm.prank(flagger);
        bool[] memory done = liquidator.batch(calls);
        assertTrue(done[0] && !done[1] && done[2]);
        calls[0] = "";
        calls[2] = abi.encodePacked(Liquidator.flag.selector, uint256(1));
        vm.prank(flagger);
        done = liquidator.batch(calls);
        assertTrue(!done[0] && !done[1] && !done[2]);
    }

    function test_a_life_in_one_batch() public {
        twoBreached();
        flag(alice);
        tick(13);
        bytes[] memory calls = new bytes[](3);
        calls[0] = abi.encodeCall(Liquidator.confirm, (alice, none()));
        calls[1] = abi.encodeCall(Liquidator.liquidate, (alice, terms(alice, taker), none()));
        calls[2] = abi.encodeCall(Liquidator.poke, (alice));
        vm.prank(ownerOf_(taker));
        bool[] memory done = liquidator.batch(calls);
        assertTrue(done[0] && done[1] && done[2]);
        assertEq(liquidator.flagOf(alice).trancheNonce, 1);
    }

    function test_a_batch_within_a_batch_keeps_its_caller() public {
        twoBreached();
        bytes[] memory inner = new bytes[](1);
        inner[0] = abi.encodeCall(Liquidator.flag, (alice, none()));
        bytes[] memory calls = new bytes[](1);
        calls[0] = abi.encodeCall(Liquidator.batch, (inner));
        vm.prank(flagger);
        assertTrue(liquidator.batch(calls)[0]);
        assertEq(liquidator.flagOf(alice).flagger, flagger);
    }

    // --- gas ---

    /// @dev Whatever the gas: a batch does all that it could do with plenty, or nothing.
    function test_a_batch_is_never_starved_into_failing_an_act() public {
        twoBreached();
        bytes[] memory calls = flags(alice, bob, carol);
        uint256 reverted;
        uint256 carried;
        for (uint256 gas_ = 40_000; gas_ < 1_800_000; gas_ += 9_973) {
            uint256 snapshot = vm.snapshotState();
            vm.prank(flagger);
            try liquidator.batch{gas: gas_}(calls) returns (bool[] memory done) {
                assertTrue(done[0] && !done[1] && done[2], "an act failed for want of gas");
                ++carried;
            } catch {
                ++reverted;
            }
            vm.revertToState(snapshot);
        }
        assertGt(reverted, 10);
        assertGt(carried, 10);
    }

    // --- acts within acts ---

    function test_a_token_that_calls_back_finds_the_vault_closed_and_gains_nothing() public {
        HostileToken token = new HostileToken(vault, liquidator);
        vm.prank(admin);
        vault.acceptToken(address(token));
        twoBreached();
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        token.mint(address(this), 100e18);
        token.approve(address(vault), 100e18);
        token.arm(alice);
        vault.deposit(address(token), 50e18, address(this));
        assertEq(token.vaultRefused(), 2);
        // Other acts go on while tokens move: they touch credits that are booked before or after, never between.
        assertEq(token.poked(), 1);
        assertEq(vault.credit(address(token), address(this)), 50e18);
        vault.withdraw(address(token), 50e18, address(this));
        assertEq(token.vaultRefused(), 4);
        assertEq(vault.credit(address(token), address(this)), 0);
        assertEq(token.balanceOf(address(vault)), 0);
        assertEq(vault.totalCredit(address(token)), 0);
    }

    function test_an_owner_that_is_a_contract_cannot_act_while_it_is_asked_to_sign() public {
        HostileOwner owner = new HostileOwner(liquidator, clearing);
        bytes32 acct = bytes32(bytes20(address(owner)));
        fundCredit(address(owner), address(usd), 3000e18);
        vm.prank(address(owner));
        clearing.deposit(acct, address(usd), 3000e18);
        deposit(bob, address(usd), 100_000e18);
        twoBreached();
        flag(alice);
        owner.arm(alice);
        Clearing.Order memory a = order(acct, ETH_PERP, 1e18, 188e18);
        Clearing.Order memory b = order(bob, ETH_PERP, -1e18, 188e18);
        bytes memory signedB = signed(b);
        // It is asked by a static call: what it tries fails there, and the trade is as good as any other.
        clearing.trade(a, "", b, signedB, 188e18, none());
        assertEq(liquidator.flagOf(alice).tau, 0);
        (int256 size,) = leg(acct, ETH_PERP);
        assertEq(size, 1e18);
        assertEq(cashOf(acct), 3000e18);
    }
}

/// @dev Calls back whenever it moves.
contract HostileToken is ERC20 {
    Vault private immutable vault;
    Liquidator private immutable liquidator;
    bytes32 private acct;
    uint256 public vaultRefused;
    uint256 public poked;

    constructor(Vault vault_, Liquidator liquidator_) ERC20("Hostile", "HOST") {
        (vault, liquidator) = (vault_, liquidator_);
    }

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function arm(bytes32 acct_) external {
        acct = acct_;
    }

    function _update(address from, address to, uint256 amount) internal override {
        super._update(from, to, amount);
        if (acct == 0) return;
        try vault.deposit(address(this), 0, address(this)) {}
        catch (bytes memory why) {
            if (bytes4(why) == ReentrancyGuard.ReentrancyGuardReentrantCall.selector) ++vaultRefused;
        }
        try vault.withdraw(address(this), amount, address(this)) {}
        catch (bytes memory why) {
            if (bytes4(why) == ReentrancyGuard.ReentrancyGuardReentrantCall.selector) ++vaultRefused;
        }
        if (poked == 0) {
            liquidator.poke(acct);
            ++poked;
        }
    }
}

/// @dev Signs anything, and tries to act meanwhile.
contract HostileOwner is IERC1271 {
    Liquidator private immutable liquidator;
    Clearing private immutable clearing;
    bytes32 private acct;

    constructor(Liquidator liquidator_, Clearing clearing_) {
        (liquidator, clearing) = (liquidator_, clearing_);
    }

    function arm(bytes32 acct_) external {
        acct = acct_;
    }

    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        // A static call lets no state change through, however deep.
        (bool ok,) = address(liquidator).staticcall{gas: 200_000}(abi.encodeCall(Liquidator.poke, (acct)));
        (bool moved,) = address(clearing).staticcall{gas: 200_000}(
            abi.encodeCall(Clearing.cancel, (bytes32(bytes20(address(this))), 1))
        );
        return ok || moved ? bytes4(0) : IERC1271.isValidSignature.selector;
    }
}
