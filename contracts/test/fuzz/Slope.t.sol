// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Test} from "forge-std/Test.sol";
import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";
import {Margin, WAD} from "../../src/HybridTypes.sol";
import {MarginMath} from "../../src/MarginMath.sol";
import {Slope, SlopeParams} from "../../src/Slope.sol";

contract SlopeFuzzTest is Test {
    uint256 internal constant BETA = 0.15e18;

    function params() private pure returns (SlopeParams memory) {
        return SlopeParams({
            beta: uint64(BETA),
            betaCure: 0.1e18,
            betaFlag: 0,
            lambda: 116_468_285_312_632,
            qMin: 869_565_217_391_304_348,
            tSlope: 1200,
            k0: 0.005e18,
            k1: 0.03e18,
            tK: 300,
            theta: 0.5e18,
            bandBase: 0.01e18,
            bandRate: 0.01e18,
            bandMax: 0.15e18,
            stepCap: 0.2e18,
            stepWindow: 30,
            minSlice: 100e18,
            dust: 1000e18
        });
    }

    /// @dev A breached account: M between 10 and 10^9, N between 5 and 50 times M, H between almost 0 and 1.15.
    function breached(uint256 m, uint256 n, uint256 h, uint256 q) private pure returns (Margin memory v) {
        v.requirement = bound(m, 10e18, 1e27);
        v.notional = v.requirement * bound(n, 5, 50);
        v.equity = int256(v.requirement * bound(h, 1e12, WAD * WAD / q - 1e6) / WAD);
    }

    /// @dev What an account is after f of it went at the execution price, in exact proportion.
    function sliced(Margin memory m, uint256 f, uint256 kappa) private pure returns (Margin memory after_) {
        uint256 fee = kappa * (m.notional * f / WAD) / WAD;
        after_.equity = m.equity - int256(fee);
        after_.requirement = MarginMath.mulWadUp(m.requirement, WAD - f);
        after_.notional = m.notional * (WAD - f) / WAD;
    }

    function decayAt(uint256 tau) private pure returns (uint256) {
        return Slope.decay(params(), bound(tau, 0, 1e9));
    }

    function test_q_lies_between_its_floor_and_one(uint256 tau) public pure {
        uint256 q = decayAt(tau);
        assertGe(q, params().qMin);
        assertLe(q, WAD);
    }

    function test_q_never_rises_with_time(uint256 tau, uint256 later) public pure {
        tau = bound(tau, 0, 1e9);
        later = bound(later, tau, 2e9);
        assertLe(Slope.decay(params(), later), Slope.decay(params(), tau));
    }

    function test_only_positive_equity_decays_and_rounds_up(int256 equity, uint256 tau) public pure {
        equity = bound(equity, -1e38, 1e38);
        uint256 q = decayAt(tau);
        int256 scaled = Slope.scaled(equity, q);
        if (equity <= 0) {
            assertEq(scaled, equity);
        } else {
            assertLe(scaled, equity);
            assertGe(scaled * 1e18, equity * int256(q));
        }
    }

    function test_the_part_to_close_never_shrinks_with_time(uint256 m, uint256 n, uint256 h, uint256 t, uint256 dt)
        public
        pure
    {
        t = bound(t, 0, 3600);
        SlopeParams memory p = params();
        (uint256 q, uint256 later) = (Slope.decay(p, t), Slope.decay(p, t + bound(dt, 0, 3600)));
        Margin memory v = breached(m, n, h, q);
        uint256 kappa = Slope.fee(p, 0, Slope.feeCap(p, v));
        assertLe(Slope.closeable(v, kappa, q), Slope.closeable(v, kappa, later) + 2);
    }

    /// @dev f (M - q kappa N) <= M - q E, and one wei more of f would be too much.
    function test_the_part_to_close_rounds_down(uint256 m, uint256 n, uint256 h, uint256 tau) public pure {
        uint256 q = decayAt(tau);
        Margin memory v = breached(m, n, h, q);
        uint256 kappa = Slope.fee(params(), 0, Slope.feeCap(params(), v));
        uint256 f = Slope.closeable(v, kappa, q);
        uint256 gap = (v.requirement - uint256(Slope.scaled(v.equity, q))) * WAD;
        uint256 rest = v.requirement - kappa * v.notional / WAD * q / WAD;
        assertLe(f * rest, gap);
        assertGt((f + 1) * rest, gap);
    }

    function test_nothing_is_closeable_at_or_above_the_decayed_requirement(uint256 m, uint256 extra, uint256 tau)
        public
        pure
    {
        uint256 q = decayAt(tau);
        uint256 requirement = bound(m, 1, 1e27);
        uint256 equity = (requirement * WAD + q - 1) / q + bound(extra, 0, 1e27);
        assertEq(Slope.closeable(Margin(int256(equity), requirement, requirement * 20), 0.005e18, q), 0);
    }

    function test_everything_is_closeable_without_equity(uint256 m, uint256 loss, uint256 tau) public pure {
        int256 equity = -int256(bound(loss, 0, 1e27));
        assertEq(Slope.closeable(Margin(equity, bound(m, 1, 1e27), 1e28), 0, decayAt(tau)), WAD);
    }

    /// @dev E' / M' >= E / M, q E' <= M' but for rounding, and so H' <= 1 + beta.
    function test_a_slice_never_lowers_health_nor_overshoots(
        uint256 m,
        uint256 n,
        uint256 h,
        uint256 tau,
        uint256 t,
        uint256 part
    ) public pure {
        uint256 q = decayAt(tau);
        Margin memory v = breached(m, n, h, q);
        SlopeParams memory p = params();
        uint256 kappa = Slope.fee(p, bound(t, 0, 1e6), Slope.feeCap(p, v));
        uint256 f = bound(part, 0, Slope.closeable(v, kappa, q));
        Margin memory later = sliced(v, f, kappa);
        assertGe((later.equity + 2) * int256(v.requirement), v.equity * int256(later.requirement - 1));
        assertGt(later.equity, 0);
        // One wei of f is M / 10^18 of requirement.
        uint256 slack = v.requirement / WAD * 4 + 8;
        assertLe(uint256(later.equity) * q / WAD, later.requirement + slack);
        assertLe(uint256(later.equity) * WAD, (WAD + BETA + 10) * (later.requirement + slack));
    }

    /// @dev Many slices at one q end where one slice ends: two wei a slice, with the parts in wei of the book.
    function test_slicing_does_not_change_where_it_ends(uint256 m, uint256 n, uint256 h, uint256 tau, uint256 seed)
        public
        pure
    {
        uint256 q = decayAt(tau);
        Margin memory v = breached(m, n, h, q);
        SlopeParams memory p = params();
        uint256 kappa = Slope.fee(p, 0, Slope.feeCap(p, v));
        if (kappa < p.k0) return;
        uint256 whole = Slope.closeable(v, kappa, q);
        uint256 left = WAD;
        Margin memory now_ = v;
        uint256 slices = 1 + seed % 8;
        for (uint256 i; i < slices; ++i) {
            uint256 f = Slope.closeable(now_, kappa, q);
            if (i + 1 < slices) f = f * (seed >> (8 * i + 8) & 0xff) / 256;
            left = left * (WAD - f) / WAD;
            now_ = sliced(now_, f, kappa);
        }
        // A wei of f is worth more of what is left: the tolerance is two wei a slice of the whole book.
        assertApproxEqAbs(WAD - left, whole, 2 * slices + 2);
    }

    /// @dev theta E at confirmation bounds all fees together, through any falls between the slices.
    function test_slicing_and_falling_never_raise_the_fees_above_their_share(
        uint256 m,
        uint256 n,
        uint256 h,
        uint256 seed
    ) public pure {
        SlopeParams memory p = params();
        Margin memory v = breached(m, n, h, p.qMin);
        uint256 most = uint256(v.equity) * p.theta / WAD;
        uint256 cap = Slope.feeCap(p, v);
        uint256 paid;
        for (uint256 i; i < 12; ++i) {
            cap = Slope.feeCap(p, v) < cap ? Slope.feeCap(p, v) : cap;
            uint256 kappa = Slope.fee(p, i * 60, cap);
            uint256 f = Slope.closeable(v, kappa, Slope.decay(p, i * 60)) * (seed >> (8 * i) & 0xff) / 255;
            uint256 fee = kappa * (v.notional * f / WAD) / WAD;
            paid += fee;
            v = sliced(v, f, kappa);
            // A fall of up to a quarter of what is left.
            v.equity -= v.equity * int256(seed >> (8 * i + 96) & 0x3f) / 256;
        }
        assertLe(paid, most);
    }

    function test_the_fee_is_at_most_theta_of_equity(uint256 m, uint256 n, uint256 h, uint256 t) public pure {
        SlopeParams memory p = params();
        Margin memory v = breached(m, n, h, p.qMin);
        uint256 kappa = Slope.fee(p, bound(t, 0, 1e9), Slope.feeCap(p, v));
        assertLe(kappa, p.k1);
        assertLe(kappa * v.notional, uint256(v.equity) * p.theta);
    }

    /// @dev Any slope within its bounds: lambda = ln(1 + beta) / tSlope.
    function anySlope(uint256 beta, uint256 span) private pure returns (SlopeParams memory p) {
        p = params();
        beta = bound(beta, 0.02e18, 1.5e18);
        span = bound(span, 300, 7200);
        (p.beta, p.betaCure, p.betaFlag) = (uint64(beta), uint64(beta * 2 / 3), uint64(beta / 3));
        p.lambda = uint64(uint256(FixedPointMathLib.lnWad(int256(WAD + beta))) / span);
        p.qMin = uint64((WAD * WAD + WAD + beta - 1) / (WAD + beta));
        p.tSlope = uint32(span);
        Slope.validate(p);
    }

    function test_every_slope_ends_at_one_and_its_beta(uint256 beta, uint256 span, uint256 m, uint256 n, uint256 h)
        public
        pure
    {
        SlopeParams memory p = anySlope(beta, span);
        uint256 q = Slope.decay(p, p.tSlope + 1);
        assertApproxEqAbs(q, p.qMin, 1e5);
        Margin memory v = breached(m, n, h, p.qMin);
        uint256 kappa = Slope.fee(p, 0, Slope.feeCap(p, v));
        Margin memory later = sliced(v, Slope.closeable(v, kappa, p.qMin), kappa);
        uint256 slack = v.requirement / WAD * 4 + 8;
        assertLe(uint256(later.equity) * WAD, (WAD + p.beta + 10) * (later.requirement + slack));
        assertGe((uint256(later.equity) + slack * 3) * WAD, (WAD + p.beta - 10) * (later.requirement - slack));
    }

    function test_the_band_widens_with_time_up_to_its_most(uint256 t, uint256 later) public pure {
        SlopeParams memory p = params();
        t = bound(t, 0, 1e9);
        later = bound(later, t, 2e9);
        assertGe(Slope.band(p, t), p.bandBase);
        assertLe(Slope.band(p, t), Slope.band(p, later));
        assertLe(Slope.band(p, later), p.bandMax);
        assertEq(Slope.band(p, 60), 0.02e18);
    }

    function test_the_fee_never_falls_with_time(uint256 t, uint256 later) public pure {
        t = bound(t, 0, 1e6);
        later = bound(later, t, 2e6);
        assertLe(Slope.fee(params(), t, WAD), Slope.fee(params(), later, WAD));
        assertEq(Slope.fee(params(), 0, WAD), params().k0);
    }

    function test_the_execution_price_lies_in_its_band_and_is_the_fast_price_within_it(
        uint256 fast,
        uint256 slow,
        uint256 t
    ) public pure {
        SlopeParams memory p = params();
        slow = bound(slow, 1e6, 1e30);
        fast = bound(fast, 1, 1e31);
        t = bound(t, 0, 1e6);
        uint256 price = Slope.executionPrice(fast, slow, Slope.band(p, t));
        uint256 band = 0.01e18 + 0.01e18 * t / 60;
        if (band > 0.15e18) band = 0.15e18;
        assertGe(price, slow * (WAD - band) / WAD);
        assertLe(price, slow * (WAD + band) / WAD);
        if (fast >= slow * (WAD - band) / WAD && fast <= slow * (WAD + band) / WAD) assertEq(price, fast);
    }
}
