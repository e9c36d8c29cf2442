// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {IAggregatorV3, IAnswerBounds} from "../src/interfaces/IAggregatorV3.sol";

/// @notice An aggregator whose owner sets each round; for the demo and the tests only.
contract TestAggregator is IAggregatorV3, IAnswerBounds {
    uint8 public immutable decimals;
    int192 public immutable minAnswer;
    int192 public immutable maxAnswer;
    address public immutable owner;

    int256 private _answer;
    uint256 private _updatedAt;
    uint80 private _round;

    event AnswerUpdated(int256 indexed current, uint256 indexed roundId, uint256 updatedAt);

    error NotOwner(address caller);

    constructor(uint8 decimals_, int192 minAnswer_, int192 maxAnswer_, address owner_) {
        (decimals, minAnswer, maxAnswer, owner) = (decimals_, minAnswer_, maxAnswer_, owner_);
    }

    /// @param answer in the aggregator's decimals; held at the bounds, as a real aggregator's is
    function update(int256 answer) external {
        if (msg.sender != owner) revert NotOwner(msg.sender);
        _answer = answer < minAnswer ? int256(minAnswer) : answer > maxAnswer ? int256(maxAnswer) : answer;
        _updatedAt = block.timestamp;
        emit AnswerUpdated(_answer, ++_round, block.timestamp);
    }

    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80) {
        return (_round, _answer, _updatedAt, _updatedAt, _round);
    }
}
