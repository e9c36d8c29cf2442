// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Test} from "forge-std/Test.sol";
import {Instruments} from "../../src/Instruments.sol";
import {OracleRouter} from "../../src/OracleRouter.sol";
import {Ramp, RampMath} from "../../src/Ramp.sol";
import {Vault} from "../../src/Vault.sol";
import {Balance, Holding, Risk} from "../../src/HybridTypes.sol";
import {TestToken} from "../../demo/TestToken.sol";
import {StubRouter} from "../StubRouter.sol";

contract RampFuzzTest is Test {
    uint256 internal constant START = 1_700_000_000;

    function ramp(uint64 from, uint64 to, uint256 span) private pure returns (Ramp memory) {
        span = bound(span, 0, 90 days);
        return Ramp(from, to, uint40(START), uint40(START + span));
    }

    function apart(uint256 x, uint256 y) private pure returns (uint256) {
        return x > y ? x - y : y - x;
    }

    function test_the_value_lies_between_the_two_ends_and_is_the_end_when_the_time_is_up(
        uint64 from,
        uint64 to,
        uint256 span,
        uint256 at
    ) public pure {
        Ramp memory r = ramp(from, to, span);
        uint256 value = RampMath.valueAt(r, bound(at, 0, 2 * START));
        assertGe(value, from < to ? from : to);
        assertLe(value, from < to ? to : from);
        assertEq(RampMath.valueAt(r, r.end), to);
        assertEq(RampMath.valueAt(r, uint256(r.end) + at % 1e9), to);
        if (r.end > r.start) assertEq(RampMath.valueAt(r, START), from);
        assertEq(RampMath.valueAt(r, START - 1 - at % START), r.end > START - 1 - at % START ? from : to);
    }

    function test_the_value_moves_one_way_and_never_faster_than_the_line(
        uint64 from,
        uint64 to,
        uint256 span,
        uint256 at,
        uint256 wait
    ) public pure {
        span = bound(span, 1, 90 days);
        Ramp memory r = ramp(from, to, span);
        at = bound(at, START, START + span);
        wait = bound(wait, 0, START + span - at);
        uint256 first = RampMath.valueAt(r, at);
        uint256 second = RampMath.valueAt(r, at + wait);
        if (to >= from) assertGe(second, first);
        else assertLe(second, first);
        assertLe(apart(second, first), (apart(to, from) * wait + span - 1) / span);
    }

    function test_the_value_is_rounded_toward_where_it_came_from(uint64 from, uint64 to, uint256 span, uint256 at)
        public
        pure
    {
        span = bound(span, 1, 90 days);
        at = bound(at, 0, span - 1);
        uint256 value = RampMath.valueAt(ramp(from, to, span), START + at);
        assertEq(apart(value, from), apart(to, from) * at / span);
    }
}

/// @notice Any sequence of allowed changes, with any time between: what accounts need never jumps up.
contract RampStoryTest is Test {
    uint256 internal constant START = 1_700_000_000;
    bytes32 internal constant ETH = "ETH";

    Instruments internal instruments;
    address internal admin = makeAddr("admin");

    function setUp() public {
        vm.warp(START);
        StubRouter router = new StubRouter();
        router.set(ETH, 200e18, 200e18);
        Vault vault = new Vault(admin);
        TestToken weth = new TestToken("Ether", "WETH", 18);
        instruments = new Instruments(vault, OracleRouter(address(router)), address(1), admin);
        vm.startPrank(admin);
        vault.acceptToken(address(weth));
        instruments.listUnderlying(ETH, 0.05e18, 0.1e18, 0.01e18, 0);
        instruments.listCollateral(address(weth), ETH, 0.8e18, 0.7e18, 0.05e18, 1e30);
        vm.stopPrank();
    }

    function factors() private view returns (uint256 hMM, uint256 hIM) {
        Balance[] memory b = new Balance[](1);
        b[0] = Balance(1, 1e18);
        Holding[] memory h = instruments.haircuts(b);
        return (h[0].hMM, h[0].hIM);
    }

    /// @dev Wait a while; nothing rises by more than the whole range in a day, in proportion to the wait.
    function waitAndCompare(uint256 seed) private {
        Risk memory a = instruments.risk(ETH);
        (uint256 mm, uint256 im) = factors();
        uint256 wait = seed % 3 == 0 ? 0 : seed % 2 days;
        vm.warp(vm.getBlockTimestamp() + wait);
        Risk memory b = instruments.risk(ETH);
        (uint256 mm2, uint256 im2) = factors();
        uint256 most = 1e18 * wait / 24 hours + 1;
        assertLe(b.mmr, a.mmr + most / 2 + 1);
        assertLe(b.imr, a.imr + most);
        assertLe(b.shortMin, a.shortMin + most / 2 + 1);
        assertGe(mm2 + most, mm);
        assertGe(im2 + most, im);
    }

    function checkBounds() private view {
        Risk memory r = instruments.risk(ETH);
        (uint256 hMM, uint256 hIM) = factors();
        assertGe(r.mmr, 0.005e18);
        assertLe(r.mmr, 0.5e18);
        assertGe(r.imr, r.mmr);
        assertLe(r.imr, 1e18);
        // Both round toward where they come from, one up and one down.
        assertLe(r.shortMin, r.mmr + 1);
        assertLe(hIM, hMM + 1);
        assertLe(hMM, 1e18 - 0.05e18 - 0.005e18);
    }

    function changeMargins(uint256 seed) private {
        uint256 mmr = 0.005e18 + seed % 0.495e18;
        uint256 imr = mmr + 1 + (seed >> 64) % (1e18 - mmr);
        uint256 shortMin = (seed >> 128) % (mmr + 1);
        uint256 duration = seed % 5 == 0 ? 0 : (seed >> 192) % (91 days);
        Risk memory before = instruments.risk(ETH);
        bool raises = mmr > before.mmr || imr > before.imr || shortMin > before.shortMin;
        bool allowed = duration <= 90 days && (!raises || duration >= 24 hours);
        vm.prank(admin);
        if (!allowed) vm.expectPartialRevert(Instruments.BadDuration.selector);
        instruments.setMargins(ETH, uint64(mmr), uint64(imr), uint64(shortMin), uint40(duration));
        Risk memory later = instruments.risk(ETH);
        assertLe(later.mmr, before.mmr);
        assertLe(later.imr, before.imr);
        assertLe(later.shortMin, before.shortMin);
    }

    function changeHaircuts(uint256 seed) private {
        uint256 hMM = seed % 0.945e18;
        uint256 hIM = (seed >> 64) % (hMM + 1);
        uint256 duration = seed % 5 == 0 ? 0 : (seed >> 192) % (91 days);
        (uint256 mm, uint256 im) = factors();
        bool allowed = duration <= 90 days && ((hMM >= mm && hIM >= im) || duration >= 24 hours);
        vm.prank(admin);
        if (!allowed) vm.expectPartialRevert(Instruments.BadDuration.selector);
        instruments.setHaircuts(1, uint64(hMM), uint64(hIM), uint40(duration));
        (uint256 mmLater, uint256 imLater) = factors();
        assertGe(mmLater, mm);
        assertGe(imLater, im);
    }

    function test_no_sequence_of_changes_lifts_a_requirement_at_once_or_out_of_its_bounds(uint256 seed) public {
        for (uint256 i; i < 12; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            waitAndCompare(seed >> 8);
            if (seed % 2 == 0) changeMargins(seed >> 16);
            else changeHaircuts(seed >> 16);
            checkBounds();
        }
    }
}
