// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

/// @title What a wallet has to act with, in one call
/// @notice Lent to a node with the call itself, and so deployed nowhere.
contract PurseReader {
    /// @notice A token, and somebody who may have to take it from the wallet.
    struct Pocket {
        address token;
        address spender;
    }

    /// @return found of each, the wallet's balance and the spender's allowance, in the token's units; 0 for what
    /// the token does not answer
    function purse(address holder, Pocket[] calldata pockets) external view returns (uint256[2][] memory found) {
        found = new uint256[2][](pockets.length);
        for (uint256 i; i < pockets.length; ++i) {
            (address token, address spender) = (pockets[i].token, pockets[i].spender);
            found[i][0] = _ask(token, abi.encodeWithSignature("balanceOf(address)", holder));
            found[i][1] = _ask(token, abi.encodeWithSignature("allowance(address,address)", holder, spender));
        }
    }

    function _ask(address token, bytes memory question) private view returns (uint256) {
        (bool ok, bytes memory answer) = token.staticcall(question);
        return ok && answer.length == 32 ? abi.decode(answer, (uint256)) : 0;
    }
}
