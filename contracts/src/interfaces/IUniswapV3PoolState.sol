// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

/// @notice The part of a Uniswap v3 pool that the TWAP reads.
interface IUniswapV3PoolState {
    function token0() external view returns (address);
    function token1() external view returns (address);

    /// @notice The pool's accumulators as they stood some seconds ago; reverts where its history is shorter.
    /// @return tickCumulatives sum of tick x seconds
    /// @return secondsPerLiquidityCumulativeX128s sum of seconds x 2^128 / liquidity in range, modulo 2^160
    function observe(uint32[] calldata secondsAgos)
        external
        view
        returns (int56[] memory tickCumulatives, uint160[] memory secondsPerLiquidityCumulativeX128s);
}
