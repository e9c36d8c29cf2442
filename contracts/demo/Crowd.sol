// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {Clearing} from "../src/Clearing.sol";
import {Bundle, WAD} from "../src/HybridTypes.sol";

/// @title The owner of thousands of accounts, which trade among themselves
/// @notice For benchmarks only: it signs whatever it is asked about. Every deposit and trade is one that Clearing
/// accepts, as those of separate owners would be.
contract Crowd is IERC1271 {
    Clearing public immutable clearing;

    constructor(Clearing clearing_) {
        clearing = clearing_;
    }

    /// @notice Fund accounts `first` up to `end`, an even number of them, and have each two neighbours trade with
    /// each other in every market: the one buys what the other sells.
    /// @param cash,amount what each gets of the quote token and of the collateral, and its number in wei more, WAD
    /// @param prices of each market, WAD; an account has positions of some 100 quote units
    function open(
        uint256 first,
        uint256 end,
        uint256 cash,
        address token,
        uint256 amount,
        uint16[] calldata markets,
        uint128[] calldata prices
    ) external {
        for (uint256 number = first; number < end; number += 2) {
            for (uint256 i = number; i < number + 2; ++i) {
                clearing.deposit(account(i), clearing.quote(), cash + i);
                clearing.deposit(account(i), token, amount + i);
            }
            for (uint256 m; m < markets.length; ++m) {
                _trade(number, markets[m], prices[m]);
            }
        }
    }

    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        return IERC1271.isValidSignature.selector;
    }

    /// @notice The crowd's account of a number.
    function account(uint256 number) public view returns (bytes32) {
        return bytes32(bytes20(address(this))) | bytes32(number);
    }

    function _trade(uint256 number, uint16 market, uint128 price) private {
        int128 size = int128(int256(100 * WAD * WAD / price + number));
        Clearing.Order memory long = Clearing.Order(account(number), market, size, price, market, type(uint40).max);
        Clearing.Order memory short =
            Clearing.Order(account(number + 1), market, -size, price, market, type(uint40).max);
        clearing.trade(long, "", short, "", price, new Bundle[](0));
    }
}
