// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";
import {Risk} from "../../src/HybridTypes.sol";
import {RiskSteward} from "../../src/RiskSteward.sol";
import {Stewarded} from "../RiskSteward.t.sol";

/// @notice A quorum that signs whatever it likes, as often as it likes.
contract RiskStewardFuzzTest is Stewarded {
    /// @dev By however many changes: no faster than e^rise a day up and e^-(fall / (1 - fall)) down, WAD.
    function assertPace(uint256 value, uint256 first, uint256 passed, RiskSteward.Bounds memory b) private pure {
        uint256 grown = uint256(FixedPointMathLib.expWad(int256(uint256(b.rise) * passed / 1 days)));
        assertLe(value, first * grown / 1e18 + 1e6, "rose too fast");
        uint256 rate = uint256(b.fall) * 1e18 / (1e18 - b.fall);
        uint256 kept = uint256(FixedPointMathLib.expWad(-int256(rate * passed / 1 days)));
        assertGe(value + 1e6, first * kept / 1e18, "fell too fast");
    }

    function test_no_course_of_signed_changes_leaves_the_bounds_or_their_pace(uint256 seed) public {
        RiskSteward.Bounds memory b = allowed();
        b.interval = 0;
        vm.prank(admin);
        steward.setBounds(ETH, b);
        uint256 taken;
        for (uint256 i; i < 24; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            Risk memory before = instruments.risk(ETH);
            uint256 wait = 1 + seed % 8 hours;
            vm.warp(nowS() + wait);
            Risk memory today = instruments.risk(ETH);
            assertPace(today.mmr, before.mmr, wait, b);
            assertPace(today.imr, before.imr, wait, b);
            assertEq(today.shortMin, SHORT_MIN);
            assertTrue(today.mmr >= b.mmrLeast && today.mmr <= b.mmrMost);
            assertTrue(today.imr >= b.imrLeast && today.imr <= b.imrMost && today.imr > today.mmr);
            // Mostly as far as one change goes, up or down, and often further.
            uint256 part = 0.75e18 + (seed >> 64) % 0.52e18;
            RiskSteward.MarginChange memory c =
                to(uint64(today.mmr * part / 1e18), uint64(today.imr * (0.75e18 + (seed >> 128) % 0.52e18) / 1e18));
            try steward.change(c, signed(c, 3)) {
                ++taken;
            } catch {}
            assertRisk(today.mmr, today.imr);
        }
        assertGt(taken, 0);
    }

    function test_every_change_within_reach_is_taken_and_no_other(uint64 mmr, uint64 imr) public {
        mmr = uint64(bound(mmr, 0.03e18, 0.075e18));
        imr = uint64(bound(imr, 0.07e18, 0.14e18));
        bool within = mmr >= 0.04e18 && mmr <= 0.0625e18 && imr >= 0.08e18 && imr <= 0.125e18;
        RiskSteward.MarginChange memory c = to(mmr, imr);
        bytes[] memory signatures = signed(c, 3);
        if (!within) vm.expectPartialRevert(RiskSteward.OutOfBounds.selector);
        steward.change(c, signatures);
        vm.warp(START + 1 days);
        if (within) assertRisk(mmr, imr);
        else assertRisk(MMR, IMR);
    }
}
