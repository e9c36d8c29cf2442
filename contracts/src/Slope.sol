// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";
import {MarginMath} from "./MarginMath.sol";
import {Margin, WAD} from "./HybridTypes.sol";

/// @notice The parameters of one slope; fractions and quote amounts in WAD, times in seconds.
/// @param beta slope target: the end of the slope restores H = 1 + beta
/// @param betaCure H = 1 + betaCure at both oracles ends an episode
/// @param betaFlag an account is flagged below H = 1 + betaFlag
/// @param lambda decay per second, ln(1 + beta) / tSlope
/// @param qMin floor of the decay, ceil(1 / (1 + beta))
/// @param k0 fee at confirmation; k1 fee reached with time constant tK
/// @param theta the most of the account's equity that all fees together may take
/// @param bandBase how far the execution price may lie from the slow price, growing by bandRate a minute to bandMax
/// @param stepCap the most of the book that goes within stepWindow, while E > M / 2
/// @param minSlice a slice is raised to this notional; dust: a book at or below it goes whole
struct SlopeParams {
    uint64 beta;
    uint64 betaCure;
    uint64 betaFlag;
    uint64 lambda;
    uint64 qMin;
    uint32 tSlope;
    uint64 k0;
    uint64 k1;
    uint32 tK;
    uint64 theta;
    uint64 bandBase;
    uint64 bandRate;
    uint64 bandMax;
    uint64 stepCap;
    uint32 stepWindow;
    uint128 minSlice;
    uint128 dust;
}

/// @title The slope: how much of a breached account may be closed, and for what fee
library Slope {
    error BadSlope(string what);

    /// @notice Hard bounds of the parameters, so that no configuration turns the slope back into a cliff.
    function validate(SlopeParams memory p) internal pure {
        if (p.beta < 0.02e18 || p.beta > 1.5e18) revert BadSlope("beta");
        if (!(p.betaFlag < p.betaCure && p.betaCure < p.beta)) revert BadSlope("betaFlag < betaCure < beta");
        if (p.tSlope < 300 || p.tSlope > 7200) revert BadSlope("tSlope");
        if (p.qMin != (WAD * WAD + WAD + p.beta - 1) / (WAD + p.beta)) revert BadSlope("qMin");
        uint256 end = uint256(FixedPointMathLib.expWad(-int256(uint256(p.lambda) * p.tSlope)));
        if (end > uint256(p.qMin) + 1e4 || end + 1e4 < p.qMin) revert BadSlope("lambda");
        if (p.k0 > p.k1 || p.k1 > 0.05e18) revert BadSlope("k0, k1");
        if (p.theta == 0 || p.theta > 0.8e18) revert BadSlope("theta");
        if (p.tK == 0) revert BadSlope("tK");
        if (p.bandBase > p.bandMax || p.bandMax > 0.25e18) revert BadSlope("band");
        if (p.stepCap > WAD || p.stepWindow == 0) revert BadSlope("step");
        if (p.minSlice == 0 || p.minSlice > p.dust) revert BadSlope("0 < minSlice <= dust");
        // What is dust goes whole, past every cap.
        if (p.dust > 100_000e18) revert BadSlope("dust");
    }

    /// @notice q(tau) = min(1, max(qMin, e^(-lambda tau))), never below the exact value.
    /// @dev expWad rounds down; + 2 makes it a bound from above, at most 3 wei too high.
    function decay(SlopeParams memory p, uint256 tau) internal pure returns (uint256 q) {
        q = uint256(FixedPointMathLib.expWad(-int256(uint256(p.lambda) * tau))) + 2;
        if (q < p.qMin) q = p.qMin;
        if (q > WAD) q = WAD;
    }

    /// @notice q E, rounded up; only positive equity decays, for scaling a negative one would improve health.
    function scaled(int256 equity, uint256 q) internal pure returns (int256) {
        return equity > 0 ? int256(MarginMath.mulWadUp(uint256(equity), q)) : equity;
    }

    /// @notice f_max = clamp((M - q E) / (M - q kappa N)), rounded down: after closing it, q E' = M'.
    function closeable(Margin memory m, uint256 kappa, uint256 q) internal pure returns (uint256) {
        int256 qE = scaled(m.equity, q);
        int256 requirement = int256(m.requirement);
        if (qE >= requirement) return 0;
        if (m.equity <= 0) return WAD;
        uint256 gap = uint256(requirement - qE);
        uint256 cost = kappa * m.notional / WAD * q / WAD;
        // kappa N <= theta E keeps cost below q E; the guard only states it.
        if (cost >= m.requirement || gap >= m.requirement - cost) return WAD;
        return gap * WAD / (m.requirement - cost);
    }

    /// @notice The most a fee may be so that all fees together stay within theta E: theta E / N, rounded down.
    function feeCap(SlopeParams memory p, Margin memory m) internal pure returns (uint256) {
        if (m.equity <= 0) return 0;
        if (m.notional == 0) return type(uint64).max;
        return FixedPointMathLib.min(uint256(p.theta) * uint256(m.equity) / m.notional, type(uint64).max);
    }

    /// @notice kappa = min(k0 + (k1 - k0)(1 - e^(-t / tK)), cap), rounded down.
    /// @param t active seconds since confirmation; cap WAD
    function fee(SlopeParams memory p, uint256 t, uint256 cap) internal pure returns (uint256) {
        uint256 left = uint256(FixedPointMathLib.expWad(-int256(t * WAD / p.tK)));
        // expWad rounds down, so 1 - left is rounded up; one wei less keeps the fee rounded down.
        uint256 grown = left >= WAD ? 0 : WAD - left - 1;
        uint256 kappa = p.k0 + (uint256(p.k1) - p.k0) * grown / WAD;
        return kappa < cap ? kappa : cap;
    }

    /// @notice How far p_L may lie from the slow price, WAD.
    /// @param t active seconds since confirmation
    function band(SlopeParams memory p, uint256 t) internal pure returns (uint256) {
        return FixedPointMathLib.min(p.bandMax, p.bandBase + uint256(p.bandRate) * t / 60);
    }

    /// @notice p_L: the fast price, held within a band around the slow one.
    /// @param width of the band, WAD
    function executionPrice(uint256 fast, uint256 slow, uint256 width) internal pure returns (uint256) {
        return FixedPointMathLib.clamp(fast, slow * (WAD - width) / WAD, slow * (WAD + width) / WAD);
    }
}
