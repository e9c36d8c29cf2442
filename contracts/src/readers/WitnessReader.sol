// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Trying} from "./Trying.sol";

/// @title What other oracles say of a price, in one call
/// @notice Lent to a node with the call itself, and so deployed nowhere.
contract WitnessReader is Trying {
    error NoneSoOld(uint256 untilS);

    /// @notice The newest round of an aggregator that is so old.
    /// @dev Goes back round by round; behind a proxy not beyond the first one of the newest aggregator.
    /// @param delayS seconds
    /// @param most rounds that are looked at
    /// @return round its number
    /// @return answer in the aggregator's own decimals
    /// @return updatedAt when it was answered
    /// @return answeredIn the round in which it was
    function roundBefore(IRounds feed, uint256 delayS, uint256 most)
        external
        view
        returns (uint80 round, int256 answer, uint256 updatedAt, uint80 answeredIn)
    {
        uint256 untilS = block.timestamp - delayS;
        (round, answer,, updatedAt, answeredIn) = feed.latestRoundData();
        for (uint256 i = 1; i < most && updatedAt > untilS; ++i) {
            (round, answer,, updatedAt, answeredIn) = feed.getRoundData(round - 1);
        }
        if (updatedAt > untilS) revert NoneSoOld(untilS);
    }
}

interface IRounds {
    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80);
    function getRoundData(uint80 round) external view returns (uint80, int256, uint256, uint256, uint80);
}
