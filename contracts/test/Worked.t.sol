// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Margin, State} from "../src/HybridTypes.sol";
import {Slope, SlopeParams} from "../src/Slope.sol";
import {Base} from "./Base.t.sol";

/// @notice The protocol's worked example, by its own doors, to the wei: long 100 with a quote leg of -21,000,
/// cash 300, ten units of collateral at 200 with hMM 0.8; a fee of 1%, and a slope that has not begun.
contract WorkedTest is Base {
    function slopeParams() internal view override returns (SlopeParams memory p) {
        p = super.slopeParams();
        (p.k0, p.k1) = (0.01e18, 0.01e18);
    }

    /// @dev Flag storage: tau and lastPoke share a word with tauAtConfirm; see Liquidator.Flag.
    function stopTheSlopeAtItsStart(bytes32 acct) private {
        for (uint256 slot; slot < 16; ++slot) {
            bytes32 base = keccak256(abi.encode(acct, slot));
            if (address(uint160(uint256(vm.load(address(liquidator), base)))) != flagger) continue;
            bytes32 at = bytes32(uint256(base) + 2);
            uint256 word = uint256(vm.load(address(liquidator), at));
            uint256 mask = uint256(type(uint32).max) | (uint256(type(uint32).max) << 72);
            vm.store(address(liquidator), at, bytes32(word & ~mask));
            return;
        }
        revert("flag not found");
    }

    function test_the_worked_example() public {
        // Initial margin close above the end of the slope, so that the account may be opened.
        vm.prank(admin);
        instruments.setMargins(ETH, 0.05e18, 0.06e18, 0.01e18, 0);
        setPrice(ETH, 210e18);
        // 22 of it are the flagger's reward: 20 and a basis point of 20,000.
        deposit(alice, address(usd), 322e18);
        deposit(alice, address(weth), 10e18);
        deposit(bob, address(usd), 100_000e18);
        fundTaker(taker);
        trade(alice, bob, ETH_PERP, 100e18, 210e18);
        tick(12);
        setPrice(ETH, 200e18);
        flag(alice);
        tick(13);
        liquidator.confirm(alice, none());
        stopTheSlopeAtItsStart(alice);
        assertEq(liquidator.flagOf(alice).tau, 0);
        assertEq(liquidator.flagOf(alice).tauAtConfirm, 0);
        assertEq(liquidator.flagOf(alice).lastPoke, nowS());

        (,, Margin memory before) = margins(alice);
        assertEq(before.equity, 900e18);
        assertEq(before.requirement, 1000e18);
        assertEq(before.notional, 20_000e18);
        int256 takerCash = cashOf(taker);
        uint256 insurance = backstop.insurance();
        liquidate(alice, taker);

        (int256 size, int256 quoteLeg) = leg(alice, ETH_PERP);
        assertEq(size, 87.5e18);
        assertEq(quoteLeg, -18_375e18);
        assertEq(cashOf(alice), 150e18);
        (,, Margin memory later) = margins(alice);
        assertEq(later.equity, 875e18);
        assertEq(later.requirement, 875e18);
        (size, quoteLeg) = leg(taker, ETH_PERP);
        assertEq(size, 12.5e18);
        assertEq(quoteLeg, -2500e18);
        assertEq(cashOf(taker) - takerCash, 20e18);
        assertEq(backstop.insurance() - insurance, 5e18);
        // Cash, quote legs and insurance sum to -20,700 before and after.
        assertEq(int256(300e18) - 21_000e18, 150e18 - 18_375e18 - 2500e18 + 20e18 + 5e18);
        assertEq(uint256(stateOf(alice)), uint256(State.Confirmed));
    }

    /// @dev 60-digit arithmetic, q rounded up: never less than that, up to 3 wei more, and f less by what that induces.
    function checkRow(uint256 tau, uint256 q, uint256 f) private view {
        uint256 decayed = Slope.decay(slopeParams(), tau);
        assertGe(decayed, q);
        assertLe(decayed, q + 3);
        Margin memory m = Margin(900e18, 1000e18, 20_000e18);
        assertApproxEqAbs(Slope.closeable(m, 0.01e18, decayed), f, 8);
    }

    function test_the_table_of_the_slope() public view {
        checkRow(0, 1000000000000000000, 125000000000000000);
        checkRow(1, 999883538496854805, 125127376060463190);
        checkRow(60, 993036262855595249, 132603350567999618);
        checkRow(300, 965662885400652594, 162236570000190435);
        checkRow(600, 932504808240313905, 197597864294186716);
        checkRow(900, 900485283775323769, 231202054052852784);
        checkRow(1199, 869666500059136515, 263054000300324847);
        checkRow(1200, 869565217391304607, 263157894736841839);
        checkRow(1201, 869565217391304348, 263157894736842105);
        checkRow(3600, 869565217391304348, 263157894736842105);
    }

    function checkEdge(int256 equity, uint256 f0, uint256 f600, uint256 f1200) private view {
        Margin memory m = Margin(equity, 1000e18, 20_000e18);
        SlopeParams memory p = slopeParams();
        uint256 kappa = Slope.fee(p, 0, Slope.feeCap(p, m));
        // The edges are given to six digits.
        assertApproxEqAbs(Slope.closeable(m, kappa, Slope.decay(p, 0)), f0, 1e12);
        assertApproxEqAbs(Slope.closeable(m, kappa, Slope.decay(p, 600)), f600, 1e12);
        assertApproxEqAbs(Slope.closeable(m, kappa, Slope.decay(p, 1200)), f1200, 1e12);
    }

    function test_the_edges_of_the_slope() public view {
        checkEdge(990e18, 0.0125e18, 0.094432e18, 0.168421e18);
        checkEdge(500e18, 0.625e18, 0.656113e18, 0.684211e18);
        checkEdge(150e18, 0.918919e18, 0.924803e18, 0.930233e18);
        checkEdge(0, 1e18, 1e18, 1e18);
        checkEdge(-50e18, 1e18, 1e18, 1e18);
        checkEdge(1100e18, 0, 0, 0.052632e18);
        Margin memory m = Margin(150e18, 1000e18, 20_000e18);
        assertEq(Slope.feeCap(slopeParams(), m), 0.00375e18);
    }
}
