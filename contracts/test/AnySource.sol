// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

/// @dev A contract that answers every call whatever the test says, also nonsense: stands for an aggregator, a slow
/// oracle, an uptime feed or a pool.
contract AnySource {
    bytes private _data;
    bool private _fails;
    uint256 private _burns;

    /// @param data the answer as it is, encoded or not
    function setRaw(bytes calldata data) public {
        _data = data;
    }

    /// @dev As an ISlowOracle.
    function setPrice(uint256 price, uint256 updatedAt, bool ok) external {
        _data = abi.encode(price, updatedAt, ok);
    }

    /// @dev As an IAggregatorV3.
    function setRound(int256 answer, uint256 startedAt) external {
        _data = abi.encode(uint80(1), answer, startedAt, startedAt, uint80(1));
    }

    function setFails(bool fails) external {
        _fails = fails;
    }

    /// @param gas_ what each answer burns at least; everything it gets if that is more than it gets
    function setBurns(uint256 gas_) external {
        _burns = gas_;
    }

    fallback() external {
        uint256 begin = gasleft();
        if (_fails) revert("down");
        uint256 burns = _burns;
        while (begin - gasleft() < burns) {}
        bytes memory data = _data;
        assembly {
            return(add(data, 32), mload(data))
        }
    }
}
