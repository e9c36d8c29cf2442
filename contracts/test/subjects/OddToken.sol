// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

/// @notice A token that anyone may mint, with what real ones do beside the standard: it may keep a part of every
/// transfer and tell no decimals, returns nothing, and changes no allowance but from zero or to zero.
contract OddToken {
    uint256 private constant BPS = 10_000;

    uint256 public totalSupply;
    /// @notice What every transfer loses.
    uint256 public feeBps;
    mapping(address owner => uint256 units) public balanceOf;
    mapping(address owner => mapping(address spender => uint256 units)) public allowance;

    /// @dev 0 for none
    uint8 private immutable _decimals;

    constructor(uint8 decimals_) {
        _decimals = decimals_;
    }

    function setFee(uint256 bps) external {
        feeBps = bps;
    }

    function mint(address to, uint256 units) external {
        totalSupply += units;
        balanceOf[to] += units;
    }

    function approve(address spender, uint256 units) external {
        require(units == 0 || allowance[msg.sender][spender] == 0, "an allowance is left");
        allowance[msg.sender][spender] = units;
    }

    function transfer(address to, uint256 units) external {
        _move(msg.sender, to, units);
    }

    function transferFrom(address from, address to, uint256 units) external {
        allowance[from][msg.sender] -= units;
        _move(from, to, units);
    }

    function decimals() external view returns (uint8) {
        require(_decimals != 0, "no decimals");
        return _decimals;
    }

    function _move(address from, address to, uint256 units) private {
        uint256 lost = units * feeBps / BPS;
        balanceOf[from] -= units;
        balanceOf[to] += units - lost;
        totalSupply -= lost;
    }
}
