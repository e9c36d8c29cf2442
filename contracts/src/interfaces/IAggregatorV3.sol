// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

/// @notice The part of Chainlink's AggregatorV3Interface that the adapter reads.
interface IAggregatorV3 {
    function decimals() external view returns (uint8);

    function latestRoundData()
        external
        view
        returns (uint80 roundId, int256 answer, uint256 startedAt, uint256 updatedAt, uint80 answeredInRound);
}

/// @notice The bounds within which an off-chain aggregator answers; beyond them its answer sticks.
interface IAnswerBounds {
    function minAnswer() external view returns (int192);
    function maxAnswer() external view returns (int192);
}
