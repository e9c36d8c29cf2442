// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {FastOracle} from "./FastOracle.sol";

/// @title What as many reporters as the fast price asks for have signed together
/// @notice All of them sign one digest, where of a price each signs its own.
abstract contract Quorum is EIP712 {
    FastOracle public immutable fastOracle;

    error PastValidity(uint256 validUntil, uint256 nowS);
    error WrongCount(uint256 given, uint256 quorum);
    error BadSigner(address signer);
    error DuplicateSigner(address signer);

    constructor(FastOracle fastOracle_) {
        fastOracle = fastOracle_;
    }

    /// @dev ECDSA.recover rejects high-s signatures and never returns the zero address.
    function _checkSigners(bytes32 signed, uint256 validUntil, bytes[] calldata signatures) internal view {
        if (block.timestamp > validUntil) revert PastValidity(validUntil, block.timestamp);
        uint256 quorum = fastOracle.quorum();
        if (signatures.length != quorum || quorum == 0) revert WrongCount(signatures.length, quorum);
        uint256 seen;
        for (uint256 i; i < signatures.length; ++i) {
            address signer = ECDSA.recover(signed, signatures[i]);
            uint256 index = fastOracle.signerIndex(signer);
            if (index == 0) revert BadSigner(signer);
            uint256 bit = 1 << index;
            if (seen & bit != 0) revert DuplicateSigner(signer);
            seen |= bit;
        }
    }
}
