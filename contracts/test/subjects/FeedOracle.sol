// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {PriceSource} from "./PriceSource.sol";

/// @notice A feed that says what it is of, such as "ETH / USD".
contract NamedSource is PriceSource {
    string public description;

    constructor(string memory description_, uint8 decimals_, uint256 price_) PriceSource(decimals_, price_) {
        description = description_;
    }
}

/// @notice A price of Morpho made of two feeds, with the getters of MorphoChainlinkOracleV2 that name them.
contract FeedOracle {
    PriceSource public immutable BASE_FEED_1;
    PriceSource public immutable QUOTE_FEED_1;
    address public constant BASE_FEED_2 = address(0);
    address public constant QUOTE_FEED_2 = address(0);

    uint256 private immutable _scale;

    constructor(PriceSource base, PriceSource quote, uint256 scale) {
        (BASE_FEED_1, QUOTE_FEED_1, _scale) = (base, quote, scale);
    }

    function price() external view returns (uint256) {
        return _scale * BASE_FEED_1.price() / QUOTE_FEED_1.price();
    }
}
