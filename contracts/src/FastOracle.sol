// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {Bundle, Report} from "./HybridTypes.sol";

/// @title The fast price: the median of what a quorum of reporters signed, each for itself
/// @notice K of n signers; K odd and more than half of n. The median withstands (K - 1) / 2 bad keys:
/// one for 3 of 5, two for 5 of 7. On its own this price can raise an alarm and take nothing.
contract FastOracle is EIP712, Ownable2Step {
    /// @notice Newest accepted median of a feed; `observedAt` is the oldest observation of its bundle.
    struct Price {
        uint128 price;
        uint40 observedAt;
    }

    bytes32 public constant REPORT_TYPEHASH = keccak256(
        "FastReport(bytes32 feedId,uint128 price,uint64 confBps,uint40 observedAt,uint40 validUntil)"
    );
    /// @notice How old a report may be when it is posted, and a price when it is used, seconds.
    uint256 public constant MAX_AGE = 15;
    /// @notice How far apart the observations of one bundle may lie, seconds.
    uint256 public constant MAX_SPREAD = 10;
    /// @notice Widest confidence interval of a report, basis points.
    uint256 public constant MAX_CONF_BPS = 100;
    /// @notice Widest (max - min) / median of a bundle, basis points. Less would reject honest bundles in a crash.
    uint256 public constant MAX_DISPERSION_BPS = 300;

    address[] public signers;
    uint256 public quorum;
    /// @notice 1 + position in `signers`; 0 for a stranger.
    mapping(address => uint256) public signerIndex;
    mapping(bytes32 => Price) public latest;

    event SignersSet(address[] signers, uint256 quorum);
    event FastPrice(bytes32 indexed feedId, uint256 price, uint256 observedAt);

    error BadQuorum(uint256 quorum, uint256 signers);
    error BadSigner(address signer);
    error DuplicateSigner(address signer);
    error WrongCount(uint256 given, uint256 quorum);
    error BadPrice(uint256 price);
    error NotNewer(uint256 observedAt, uint256 stored);
    error FromFuture(uint256 observedAt, uint256 nowS);
    error TooOld(uint256 observedAt, uint256 nowS);
    error PastValidity(uint256 validUntil, uint256 nowS);
    error TooSpread(uint256 oldest, uint256 newest);
    error Unconfident(uint256 confBps);
    error TooDispersed(uint256 low, uint256 high);

    constructor(address admin) EIP712("HybridMargin FastOracle", "1") Ownable(admin) {}

    /// @notice Replace the reporters. At most 255 of them, no zero address, none twice.
    function setSigners(address[] calldata next, uint256 quorum_) external onlyOwner {
        if (quorum_ % 2 == 0 || 2 * quorum_ <= next.length || quorum_ > next.length || next.length > 255) {
            revert BadQuorum(quorum_, next.length);
        }
        for (uint256 i; i < signers.length; ++i) {
            delete signerIndex[signers[i]];
        }
        for (uint256 i; i < next.length; ++i) {
            if (next[i] == address(0)) revert BadSigner(next[i]);
            if (signerIndex[next[i]] != 0) revert DuplicateSigner(next[i]);
            signerIndex[next[i]] = i + 1;
        }
        signers = next;
        quorum = quorum_;
        emit SignersSet(next, quorum_);
    }

    /// @notice Accept one bundle, or revert with the reason.
    function post(Bundle calldata bundle) external {
        uint256 observedAt = _oldest(bundle);
        uint256 stored = latest[bundle.feedId].observedAt;
        if (observedAt <= stored) revert NotNewer(observedAt, stored);
        _accept(bundle, observedAt);
    }

    /// @notice Accept the bundles that are newer than what is stored; those that are not are passed over, so
    /// that posting first what an act needs cannot be spoilt by somebody who posts the same.
    function postNewer(Bundle[] calldata bundles) external {
        for (uint256 i; i < bundles.length; ++i) {
            uint256 observedAt = _oldest(bundles[i]);
            if (observedAt > latest[bundles[i].feedId].observedAt) _accept(bundles[i], observedAt);
        }
    }

    /// @notice The digest that a reporter signs.
    function reportDigest(bytes32 feedId, uint128 price, uint64 confBps, uint40 observedAt, uint40 validUntil)
        public
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(
            keccak256(abi.encode(REPORT_TYPEHASH, feedId, price, confBps, observedAt, validUntil))
        );
    }

    /// @notice The fast price of a feed and whether it is young enough to be used now.
    function read(bytes32 feedId) external view returns (uint256 price, uint256 observedAt, bool fresh) {
        Price memory p = latest[feedId];
        return (p.price, p.observedAt, p.price != 0 && block.timestamp <= p.observedAt + MAX_AGE);
    }

    function _oldest(Bundle calldata bundle) private pure returns (uint256 oldest) {
        oldest = type(uint256).max;
        for (uint256 i; i < bundle.reports.length; ++i) {
            if (bundle.reports[i].observedAt < oldest) oldest = bundle.reports[i].observedAt;
        }
    }

    function _accept(Bundle calldata bundle, uint256 oldest) private {
        uint256 count = bundle.reports.length;
        if (count != quorum || count == 0) revert WrongCount(count, quorum);
        if (block.timestamp > oldest + MAX_AGE) revert TooOld(oldest, block.timestamp);

        uint256[] memory prices = new uint256[](count);
        uint256 seen;
        uint256 newest;
        for (uint256 i; i < count; ++i) {
            Report calldata r = bundle.reports[i];
            if (r.price == 0) revert BadPrice(r.price);
            if (r.confBps > MAX_CONF_BPS) revert Unconfident(r.confBps);
            if (r.observedAt > block.timestamp) revert FromFuture(r.observedAt, block.timestamp);
            if (block.timestamp > r.validUntil) revert PastValidity(r.validUntil, block.timestamp);
            if (r.observedAt > newest) newest = r.observedAt;
            seen = _markSigner(bundle.feedId, r, seen);
            // Insertion keeps the values sorted: bundles are small.
            uint256 j = i;
            for (; j > 0 && prices[j - 1] > r.price; --j) {
                prices[j] = prices[j - 1];
            }
            prices[j] = r.price;
        }
        if (newest > oldest + MAX_SPREAD) revert TooSpread(oldest, newest);
        uint256 median = prices[count / 2];
        uint256 low = prices[0];
        uint256 high = prices[count - 1];
        if ((high - low) * 10_000 > MAX_DISPERSION_BPS * median) revert TooDispersed(low, high);

        latest[bundle.feedId] = Price(uint128(median), uint40(oldest));
        emit FastPrice(bundle.feedId, median, oldest);
    }

    /// @dev ECDSA.recover rejects high-s signatures and never returns the zero address.
    function _markSigner(bytes32 feedId, Report calldata r, uint256 seen) private view returns (uint256) {
        bytes32 digest = reportDigest(feedId, r.price, r.confBps, r.observedAt, r.validUntil);
        address signer = ECDSA.recover(digest, r.signature);
        uint256 index = signerIndex[signer];
        if (index == 0) revert BadSigner(signer);
        uint256 bit = 1 << index;
        if (seen & bit != 0) revert DuplicateSigner(signer);
        return seen | bit;
    }
}
