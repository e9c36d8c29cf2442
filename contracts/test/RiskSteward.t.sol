// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Test} from "forge-std/Test.sol";
import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {FastOracle} from "../src/FastOracle.sol";
import {Risk} from "../src/HybridTypes.sol";
import {Instruments} from "../src/Instruments.sol";
import {OracleRouter} from "../src/OracleRouter.sol";
import {Quorum} from "../src/Quorum.sol";
import {RiskSteward} from "../src/RiskSteward.sol";
import {Vault} from "../src/Vault.sol";
import {StubRouter} from "./StubRouter.sol";

/// @notice ETH at a maintenance margin of 5% and an initial one of 10%; five reporters, three of them a quorum, who may
/// move the first between 2% and 20%, the second between 4% and 40%, by a quarter up and a fifth down, once in a day.
abstract contract Stewarded is Test {
    bytes32 internal constant ETH = "ETH";
    uint256 internal constant START = 1_700_000_000;
    uint64 internal constant MMR = 0.05e18;
    uint64 internal constant IMR = 0.1e18;
    uint64 internal constant SHORT_MIN = 0.01e18;

    FastOracle internal fastOracle;
    Instruments internal instruments;
    RiskSteward internal steward;
    address internal admin = makeAddr("admin");
    uint256[5] internal keys = [uint256(11), 12, 13, 14, 15];

    function setUp() public virtual {
        vm.warp(START);
        StubRouter router = new StubRouter();
        router.set(ETH, 200e18, 200e18);
        fastOracle = new FastOracle(admin);
        instruments = new Instruments(new Vault(admin), OracleRouter(address(router)), address(1), admin);
        steward = new RiskSteward(fastOracle, instruments, admin);
        address[] memory signers = new address[](5);
        for (uint256 i; i < 5; ++i) {
            signers[i] = vm.addr(keys[i]);
        }
        vm.startPrank(admin);
        fastOracle.setSigners(signers, 3);
        instruments.listUnderlying(ETH, MMR, IMR, SHORT_MIN, 0);
        instruments.setSteward(address(steward));
        steward.setBounds(ETH, allowed());
        vm.stopPrank();
    }

    function allowed() internal pure returns (RiskSteward.Bounds memory) {
        return RiskSteward.Bounds(0.02e18, 0.2e18, 0.04e18, 0.4e18, 0.25e18, 0.2e18, 1 days);
    }

    function nowS() internal view returns (uint40) {
        return uint40(vm.getBlockTimestamp());
    }

    function to(uint64 mmr, uint64 imr) internal view returns (RiskSteward.MarginChange memory) {
        return RiskSteward.MarginChange(ETH, mmr, imr, 1 days, nowS(), nowS() + 60);
    }

    function signed(RiskSteward.MarginChange memory c, uint256 count) internal view returns (bytes[] memory all) {
        bytes32 digest = steward.digest(c);
        all = new bytes[](count);
        for (uint256 i; i < count; ++i) {
            (uint8 v, bytes32 r, bytes32 s) = vm.sign(keys[i], digest);
            all[i] = abi.encodePacked(r, s, v);
        }
    }

    function assertRisk(uint256 mmr, uint256 imr) internal view {
        Risk memory r = instruments.risk(ETH);
        assertEq(r.mmr, mmr, "mmr");
        assertEq(r.imr, imr, "imr");
        assertEq(r.shortMin, SHORT_MIN, "shortMin");
    }
}

contract RiskStewardTest is Stewarded {
    function change(RiskSteward.MarginChange memory c) private {
        steward.change(c, signed(c, 3));
    }

    function refuse(RiskSteward.MarginChange memory c, bytes memory why) private {
        bytes[] memory signatures = signed(c, 3);
        vm.expectRevert(why);
        steward.change(c, signatures);
    }

    function refuseReach(uint64 mmr, uint64 imr, string memory what, uint64 value, uint256 least, uint256 most)
        private
    {
        refuse(
            to(mmr, imr), abi.encodeWithSelector(RiskSteward.OutOfBounds.selector, what, value, least, most)
        );
    }

    function refuseBounds(RiskSteward.Bounds memory b, string memory what) private {
        vm.expectRevert(abi.encodeWithSelector(RiskSteward.BadBounds.selector, what));
        vm.prank(admin);
        steward.setBounds(ETH, b);
    }

    function test_what_a_quorum_signs_is_reached_by_a_ramp_of_a_day() public {
        vm.expectEmit(address(steward));
        emit RiskSteward.MarginsChanged(ETH, 0.06e18, 0.12e18, 1 days, START);
        change(to(0.06e18, 0.12e18));
        assertRisk(0.05e18, 0.1e18);
        vm.warp(START + 12 hours);
        assertRisk(0.055e18, 0.11e18);
        vm.warp(START + 1 days);
        assertRisk(0.06e18, 0.12e18);
    }

    function test_lowering_takes_a_day_as_well() public {
        RiskSteward.MarginChange memory c = to(0.04e18, 0.08e18);
        c.duration = 1 days - 1;
        refuse(c, abi.encodeWithSelector(RiskSteward.TooFast.selector, 1 days - 1, 1 days));
        c.duration = 0;
        refuse(c, abi.encodeWithSelector(RiskSteward.TooFast.selector, 0, 1 days));
        change(to(0.04e18, 0.08e18));
        assertRisk(0.05e18, 0.1e18);
        vm.warp(START + 1 days);
        assertRisk(0.04e18, 0.08e18);
    }

    function test_a_ramp_may_be_longer_up_to_what_the_instruments_allow() public {
        RiskSteward.MarginChange memory c = to(0.06e18, 0.12e18);
        c.duration = 90 days + 1;
        refuse(c, abi.encodeWithSelector(Instruments.BadDuration.selector, 90 days + 1, 1 days, 90 days));
        c.duration = 90 days;
        change(c);
        vm.warp(START + 45 days);
        assertRisk(0.055e18, 0.11e18);
    }

    function test_one_change_goes_no_further_than_its_part_of_todays_value() public {
        refuseReach(0.0625e18 + 1, 0.125e18, "mmr", 0.0625e18 + 1, 0.04e18, 0.0625e18);
        refuseReach(0.04e18 - 1, 0.125e18, "mmr", 0.04e18 - 1, 0.04e18, 0.0625e18);
        refuseReach(0.0625e18, 0.125e18 + 1, "imr", 0.125e18 + 1, 0.08e18, 0.125e18);
        refuseReach(0.0625e18, 0.08e18 - 1, "imr", 0.08e18 - 1, 0.08e18, 0.125e18);
        change(to(0.0625e18, 0.125e18));
        vm.warp(START + 1 days);
        change(to(0.05e18, 0.1e18));
    }

    function test_a_change_in_mid_ramp_is_held_to_what_is_in_force() public {
        change(to(0.06e18, 0.12e18));
        RiskSteward.Bounds memory b = allowed();
        b.interval = 0;
        vm.prank(admin);
        steward.setBounds(ETH, b);
        vm.warp(START + 12 hours);
        // A quarter more than 5.5%, whatever the ramp's end is.
        refuseReach(0.06875e18 + 1, 0.12e18, "mmr", 0.06875e18 + 1, 0.044e18, 0.06875e18);
        change(to(0.06875e18, 0.12e18));
        assertRisk(0.055e18, 0.11e18);
    }

    function test_the_owners_bounds_hold_whatever_one_change_would_reach() public {
        vm.prank(admin);
        steward.setBounds(ETH, RiskSteward.Bounds(0.045e18, 0.055e18, 0.09e18, 0.11e18, 1e18, 0.9e18, 0));
        refuseReach(0.055e18 + 1, 0.11e18, "mmr", 0.055e18 + 1, 0.045e18, 0.055e18);
        refuseReach(0.045e18 - 1, 0.11e18, "mmr", 0.045e18 - 1, 0.045e18, 0.055e18);
        refuseReach(0.055e18, 0.11e18 + 1, "imr", 0.11e18 + 1, 0.09e18, 0.11e18);
        refuseReach(0.055e18, 0.09e18 - 1, "imr", 0.09e18 - 1, 0.09e18, 0.11e18);
        change(to(0.055e18, 0.11e18));
        vm.warp(START + 1);
        change(to(0.045e18, 0.09e18));
    }

    /// @dev A fifth is the most that one change takes away, and 5% less a fifth is 4%.
    function test_what_lies_too_far_outside_the_bounds_the_owner_must_bring_back() public {
        vm.prank(admin);
        steward.setBounds(ETH, RiskSteward.Bounds(0.02e18, 0.03e18, 0.04e18, 0.4e18, 0.25e18, 0.2e18, 0));
        refuseReach(0.03e18, 0.1e18, "mmr", 0.03e18, 0.04e18, 0.03e18);
        refuseReach(0.04e18, 0.1e18, "mmr", 0.04e18, 0.04e18, 0.03e18);
    }

    function test_the_hard_bounds_of_the_instruments_hold_too() public {
        refuse(to(0.0625e18, 0.0625e18), abi.encodeWithSelector(
            RiskSteward.OutOfBounds.selector, "imr", uint64(0.0625e18), 0.08e18, 0.125e18
        ));
        vm.prank(admin);
        steward.setBounds(ETH, RiskSteward.Bounds(0.005e18, 0.2e18, 0.0051e18, 0.4e18, 0.25e18, 0.5e18, 0));
        refuse(to(0.06e18, 0.06e18), abi.encodeWithSelector(Instruments.BadConfig.selector, "imr"));
        vm.prank(admin);
        steward.setBounds(ETH, RiskSteward.Bounds(0.005e18, 0.2e18, 0.0051e18, 0.4e18, 0.25e18, 0.9e18, 0));
        refuse(to(SHORT_MIN - 1, 0.06e18), abi.encodeWithSelector(Instruments.BadConfig.selector, "shortMin"));
        change(to(SHORT_MIN, 0.06e18));
    }

    function test_there_is_time_between_two_changes() public {
        change(to(0.05e18, 0.1e18));
        vm.warp(START + 1 days - 1);
        refuse(
            to(0.06e18, 0.12e18),
            abi.encodeWithSelector(RiskSteward.TooSoon.selector, START + 1 days - 1, START + 1 days)
        );
        vm.warp(START + 1 days);
        change(to(0.06e18, 0.12e18));
        (uint40 observedAt, uint40 changedAt) = steward.last(ETH);
        assertEq(observedAt, START + 1 days);
        assertEq(changedAt, START + 1 days);
    }

    function test_an_estimate_counts_once_and_only_in_order() public {
        RiskSteward.MarginChange memory c = to(0.06e18, 0.12e18);
        c.validUntil = nowS() + 10 days;
        bytes[] memory signatures = signed(c, 3);
        steward.change(c, signatures);
        vm.warp(START + 1 days);
        vm.expectRevert(abi.encodeWithSelector(RiskSteward.NotNewer.selector, START, START));
        steward.change(c, signatures);
        c.observedAt = uint40(START - 1);
        refuse(c, abi.encodeWithSelector(RiskSteward.NotNewer.selector, START - 1, START));
    }

    function test_an_estimate_is_of_the_past_and_of_the_last_two_days() public {
        RiskSteward.MarginChange memory c = to(0.06e18, 0.12e18);
        c.observedAt = uint40(START + 1);
        refuse(c, abi.encodeWithSelector(RiskSteward.FromFuture.selector, START + 1, START));
        c.observedAt = uint40(START - 2 days - 1);
        refuse(c, abi.encodeWithSelector(RiskSteward.TooOld.selector, START - 2 days - 1, START));
        c.observedAt = uint40(START - 2 days);
        change(c);
    }

    function test_signatures_count_until_their_last_second() public {
        RiskSteward.MarginChange memory c = to(0.06e18, 0.12e18);
        bytes[] memory signatures = signed(c, 3);
        vm.warp(START + 61);
        vm.expectRevert(abi.encodeWithSelector(Quorum.PastValidity.selector, START + 60, START + 61));
        steward.change(c, signatures);
        vm.warp(START + 60);
        steward.change(c, signatures);
    }

    function test_fewer_more_strange_or_repeated_signatures_change_nothing() public {
        RiskSteward.MarginChange memory c = to(0.06e18, 0.12e18);
        bytes[] memory signatures = signed(c, 2);
        vm.expectRevert(abi.encodeWithSelector(Quorum.WrongCount.selector, 2, 3));
        steward.change(c, signatures);
        signatures = signed(c, 4);
        vm.expectRevert(abi.encodeWithSelector(Quorum.WrongCount.selector, 4, 3));
        steward.change(c, signatures);
        signatures = signed(c, 3);
        signatures[2] = signatures[0];
        vm.expectRevert(abi.encodeWithSelector(Quorum.DuplicateSigner.selector, vm.addr(keys[0])));
        steward.change(c, signatures);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(99, steward.digest(c));
        signatures[2] = abi.encodePacked(r, s, v);
        vm.expectRevert(abi.encodeWithSelector(Quorum.BadSigner.selector, vm.addr(99)));
        steward.change(c, signatures);
        assertEq(instruments.version(), 1);
    }

    function test_a_signature_is_for_every_word_of_the_change_and_for_one_contract_and_chain() public {
        RiskSteward.MarginChange memory c = to(0.06e18, 0.12e18);
        bytes[] memory signatures = signed(c, 3);
        RiskSteward.MarginChange[6] memory others;
        for (uint256 i; i < 6; ++i) {
            others[i] = to(0.06e18, 0.12e18);
        }
        others[0].feedId = "BTC";
        others[1].mmr += 1;
        others[2].imr += 1;
        others[3].duration += 1;
        others[4].observedAt -= 1;
        others[5].validUntil += 1;
        for (uint256 i; i < 6; ++i) {
            vm.expectPartialRevert(Quorum.BadSigner.selector);
            steward.change(others[i], signatures);
        }
        vm.chainId(10);
        vm.expectPartialRevert(Quorum.BadSigner.selector);
        steward.change(c, signatures);
        vm.chainId(31337);
        steward = new RiskSteward(fastOracle, instruments, admin);
        vm.expectPartialRevert(Quorum.BadSigner.selector);
        steward.change(c, signatures);
    }

    function test_without_bounds_nothing_moves() public {
        RiskSteward.MarginChange memory c = to(0.06e18, 0.12e18);
        c.feedId = "BTC";
        refuse(c, abi.encodeWithSelector(RiskSteward.NoBounds.selector, bytes32("BTC")));
    }

    function test_the_owner_ends_the_quorums_part_and_may_set_margins_past_it() public {
        vm.startPrank(admin);
        instruments.setMargins(ETH, 0.01e18, 0.3e18, SHORT_MIN, 1 days);
        instruments.setSteward(address(0));
        vm.stopPrank();
        refuse(
            to(0.05e18, 0.1e18),
            abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, address(steward))
        );
    }

    function test_an_owners_ramp_of_the_short_minimum_ends_where_he_wanted() public {
        vm.prank(admin);
        instruments.setMargins(ETH, MMR, IMR, 0.03e18, 10 days);
        change(to(0.05e18, 0.1e18));
        vm.warp(START + 1 days);
        assertEq(instruments.risk(ETH).shortMin, 0.03e18);
    }

    function test_bounds_lie_inside_the_hard_ones_and_leave_room_between_the_margins() public {
        RiskSteward.Bounds memory b = allowed();
        b.mmrLeast = 0.005e18 - 1;
        refuseBounds(b, "mmrLeast");
        b.mmrLeast = b.mmrMost + 1;
        refuseBounds(b, "mmrLeast");
        b = allowed();
        (b.mmrMost, b.imrMost) = (0.5e18 + 1, 1e18);
        refuseBounds(b, "mmrMost");
        b = allowed();
        b.imrLeast = b.mmrLeast;
        refuseBounds(b, "imrLeast");
        b.imrLeast = b.imrMost + 1;
        refuseBounds(b, "imrLeast");
        b = allowed();
        b.imrMost = b.mmrMost;
        refuseBounds(b, "imrMost");
        b.imrMost = 1e18 + 1;
        refuseBounds(b, "imrMost");
        b = allowed();
        b.rise = 1e18 + 1;
        refuseBounds(b, "rise");
        b = allowed();
        b.fall = 1e18;
        refuseBounds(b, "fall");
        vm.expectEmit(address(steward));
        emit RiskSteward.BoundsSet(ETH, allowed());
        vm.prank(admin);
        steward.setBounds(ETH, allowed());
    }

    function test_only_the_owner_sets_bounds_and_the_steward() public {
        bytes memory why = abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, address(this));
        vm.expectRevert(why);
        steward.setBounds(ETH, allowed());
        vm.expectRevert(why);
        instruments.setSteward(address(this));
        vm.expectRevert(why);
        instruments.setMargins(ETH, MMR, IMR, SHORT_MIN, 1 days);
        vm.expectEmit(address(instruments));
        emit Instruments.StewardSet(address(this));
        vm.prank(admin);
        instruments.setSteward(address(this));
        instruments.setMargins(ETH, MMR, IMR, SHORT_MIN, 1 days);
    }
}
