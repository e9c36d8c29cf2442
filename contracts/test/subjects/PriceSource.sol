// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

/// @notice A price that anyone may set, told in the words of each protocol that reads one.
contract PriceSource {
    uint8 public immutable decimals;
    /// @dev as Morpho asks for it; what it is scaled by is the market's affair
    uint256 public price;

    uint256 private _updatedAt;
    uint80 private _round;

    event AnswerUpdated(int256 indexed current, uint256 indexed roundId, uint256 updatedAt);

    constructor(uint8 decimals_, uint256 price_) {
        decimals = decimals_;
        set(price_);
    }

    function set(uint256 price_) public {
        price = price_;
        _updatedAt = block.timestamp;
        emit AnswerUpdated(int256(price_), ++_round, block.timestamp);
    }

    /// @dev as Aave and Chainlink's feeds ask for it
    function latestAnswer() external view returns (int256) {
        return int256(price);
    }

    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80) {
        return (_round, int256(price), _updatedAt, _updatedAt, _round);
    }

    /// @dev as Perpetual asks for it: the price now, whatever interval it wants the mean of
    function getDispatchedPrice(uint256) external view returns (uint256) {
        return price;
    }

    function dispatchPrice(uint256) external {}
}
