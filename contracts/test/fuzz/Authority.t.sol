// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";
import {Bundle, Margin, Report, State} from "../../src/HybridTypes.sol";
import {Base} from "../Base.t.sol";

/// @notice What nobody can do to whom, whatever he tries.
contract AuthorityFuzzTest is Base {
    address internal constant STRANGER = address(0x57a6);

    function test_no_bundle_without_a_quorum_of_distinct_reporters_changes_a_price(uint256 seed) public {
        (uint256 price, uint256 observedAt,) = fastOracle.read(ETH);
        pass(1 + seed % 20);
        Bundle memory b = Bundle(ETH, new Report[]((seed >> 8) % 6));
        uint256 good;
        uint256 seen;
        for (uint256 i; i < b.reports.length; ++i) {
            uint256 who = (seed >> (16 + 8 * i)) % 8;
            // Five are registered, three are not.
            uint256 key = who < 5 ? signerKeys[who] : 1000 + who;
            if (who < 5 && (seen >> who) & 1 == 0) ++good;
            seen |= 1 << who;
            b.reports[i] = report(key, ETH, 90e18, 10, nowS(), nowS() + 60);
        }
        bool quorum = good == 3 && b.reports.length == 3;
        try fastOracle.post(b) {
            assertTrue(quorum, "accepted without a quorum");
        } catch {
            assertFalse(quorum, "a quorum was refused");
            (uint256 later, uint256 laterAt,) = fastOracle.read(ETH);
            assertEq(later, price);
            assertEq(laterAt, observedAt);
        }
    }

    function test_no_course_of_fast_prices_confirms_what_the_slow_price_denies(uint256 seed) public {
        openAlice();
        tick(12);
        setFast(ETH, 150e18 + seed % 38e18);
        flag(alice);
        for (uint256 i; i < 8; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            pass(1 + seed % 40);
            setSlow(ETH, 189e18 + (seed >> 16) % 30e18);
            setFast(ETH, 60e18 + (seed >> 128) % 140e18);
            try liquidator.confirm(alice, none()) {} catch {}
            assertEq(uint256(stateOf(alice)), uint256(State.Flagged));
        }
    }

    /// @dev tau 2^(-t / 1 h) for an hour, and nothing after it.
    function test_a_cure_never_sheds_more_of_the_clock_than_its_carry_allows(uint256 wait) public {
        wait = bound(wait, 14, 4000);
        openAndConfirm(188e18);
        for (uint256 i; i < 8; ++i) {
            pass(30);
            refresh();
            liquidator.poke(alice);
        }
        uint256 tau = liquidator.flagOf(alice).tau;
        deposit(alice, address(usd), 2000e18);
        liquidator.cure(alice, none());
        uint256 curedAt = nowS();
        pass(wait - 1);
        setPrice(ETH, 160e18);
        vm.warp(curedAt + wait);
        flag(alice);
        uint256 part = uint256(FixedPointMathLib.powWad(0.5e18, int256(wait * 1e18 / 3600)));
        uint256 carried = wait > 3600 ? 0 : tau * part / 1e18;
        assertApproxEqAbs(liquidator.flagOf(alice).tau, carried, 1);
    }

    function test_nothing_that_a_stranger_does_lowers_a_healthy_accounts_health(uint256 seed) public {
        openAlice();
        deposit(alice, address(weth), 1e18);
        tick(13);
        // Down to where it is nearly breached, or up.
        setPrice(ETH, 187e18 + seed % 30e18);
        for (uint256 i; i < 6; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            (Margin memory fast, Margin memory slow,) = margins(alice);
            bool healthy = stateOf(alice) == State.Healthy;
            intrude(seed % 12);
            (Margin memory f, Margin memory s,) = margins(alice);
            assertNotLower(f, fast);
            assertNotLower(s, slow);
            // An alarm bars new risk and takes nothing; it needs a breach.
            if (healthy && stateOf(alice) != State.Healthy) assertLt(fast.equity, int256(fast.requirement));
            vm.roll(vm.getBlockNumber() + 1);
        }
    }

    function assertNotLower(Margin memory later, Margin memory before) private pure {
        assertGe(later.equity, before.equity, "equity");
        assertLe(later.requirement, before.requirement, "requirement");
    }

    function intrude(uint256 which) private {
        if (which == 0) return deposit(alice, address(usd), 1);
        if (which == 1) return deposit(alice, address(weth), 1);
        if (which == 2) return trade(bob, taker, ETH_PERP, 1e18, fastPrice[ETH]);
        fundCredit(STRANGER, address(usd), 10_000e18);
        vm.startPrank(STRANGER);
        if (which == 3) try liquidator.flag(alice, none()) {} catch {}
        if (which == 4) try liquidator.clear(alice, none()) {} catch {}
        if (which == 5) try liquidator.expire(alice) {} catch {}
        if (which == 6) try liquidator.poke(alice) {} catch {}
        if (which == 7) try liquidator.cure(alice, none()) {} catch {}
        if (which == 8) try liquidator.liquidate(alice, terms(alice, taker), none()) {} catch {}
        if (which == 9) try liquidator.buyCollateral(alice, WETH, 1e24, 0) {} catch {}
        if (which == 10) try liquidator.writeOff(alice) {} catch {}
        if (which == 11) try clearing.withdraw(alice, address(weth), 1e18) {} catch {}
        vm.stopPrank();
    }
}
