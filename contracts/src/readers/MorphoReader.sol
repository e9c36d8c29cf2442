// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Trying} from "./Trying.sol";

struct MarketParams {
    address loanToken;
    address collateralToken;
    address oracle;
    address irm;
    uint256 lltv;
}

struct Market {
    uint128 totalSupplyAssets;
    uint128 totalSupplyShares;
    uint128 totalBorrowAssets;
    uint128 totalBorrowShares;
    uint128 lastUpdate;
    uint128 fee;
}

interface IMorpho {
    function idToMarketParams(bytes32 id) external view returns (MarketParams memory);
    function isAuthorized(address owner, address authorized) external view returns (bool);
    function market(bytes32 id) external view returns (Market memory);
    function position(bytes32 id, address owner)
        external
        view
        returns (uint256 supplyShares, uint128 borrowShares, uint128 collateral);
}

interface IIrm {
    function borrowRateView(MarketParams memory params, Market memory market) external view returns (uint256);
    function rateAtTarget(bytes32 id) external view returns (int256);
}

interface IPrice {
    function price() external view returns (uint256);
}

/// @title Accounts of Morpho Blue, and the markets and prices that they are valued in, in one call each
/// @notice Never deployed: its code comes with the calls. The words are for an array library; `NONE` stands for
/// what reverted.
contract MorphoReader is Trying {
    uint256 private constant ROW_WORDS = 3;
    uint256 private constant MARKET_WORDS = 5;

    /// @notice Accounts in the order asked for, three words each: its name, collateral and borrow shares in 128
    /// bits each, and a bit for every pre-liquidation contract of its market that the owner authorised.
    /// @param accounts names: an owner, and the first 12 bytes of a market's id
    /// @param ids of those markets, whole; zero where that is not known, and then the row is empty
    /// @param pres the pre-liquidation contracts, in the same way: an address, and 12 bytes of the market's id
    function rows(IMorpho morpho, bytes32[] calldata accounts, bytes32[] calldata ids, bytes32[] calldata pres)
        external
        view
        returns (uint256[] memory words)
    {
        words = new uint256[](accounts.length * ROW_WORDS);
        for (uint256 i; i < accounts.length; ++i) {
            address owner = address(bytes20(accounts[i]));
            (, uint256 shares, uint256 collateral) = morpho.position(ids[i], owner);
            words[ROW_WORDS * i] = uint256(accounts[i]);
            words[ROW_WORDS * i + 1] = collateral << 128 | shares;
            words[ROW_WORDS * i + 2] = _authorized(morpho, accounts[i], pres);
        }
    }

    /// @notice The block's number and time, then five words a market: both pairs of assets and shares, the time of
    /// its last interest with its fee, the rate at target that its rate model keeps, and the rate that this says
    /// for now. Then a price for every oracle, then answer and time of every feed.
    function world(IMorpho morpho, bytes32[] calldata ids, address[] calldata oracles, address[] calldata feeds)
        external
        view
        returns (uint256[] memory words)
    {
        words = new uint256[](2 + MARKET_WORDS * ids.length + oracles.length + 2 * feeds.length);
        (words[0], words[1]) = (block.number, block.timestamp);
        uint256 at = 2;
        for (uint256 i; i < ids.length; ++i) {
            _putMarket(words, at, morpho, ids[i]);
            at += MARKET_WORDS;
        }
        for (uint256 i; i < oracles.length; ++i) {
            words[at++] = _tryWord(oracles[i], abi.encodeCall(IPrice.price, ()));
        }
        for (uint256 i; i < feeds.length; ++i) {
            (words[at], words[at + 1]) = _tryFeed(feeds[i]);
            at += 2;
        }
    }

    function _authorized(IMorpho morpho, bytes32 account, bytes32[] calldata pres) private view returns (uint256 bits) {
        uint256 bit = 1;
        for (uint256 i; i < pres.length; ++i) {
            if (uint96(uint256(pres[i])) != uint96(uint256(account))) continue;
            if (morpho.isAuthorized(address(bytes20(account)), address(bytes20(pres[i])))) bits |= bit;
            bit <<= 1;
        }
    }

    function _putMarket(uint256[] memory words, uint256 at, IMorpho morpho, bytes32 id) private view {
        (Market memory m, MarketParams memory p) = (morpho.market(id), morpho.idToMarketParams(id));
        words[at] = uint256(m.totalSupplyAssets) << 128 | m.totalSupplyShares;
        words[at + 1] = uint256(m.totalBorrowAssets) << 128 | m.totalBorrowShares;
        words[at + 2] = uint256(m.lastUpdate) << 128 | m.fee;
        words[at + 3] = _tryWord(p.irm, abi.encodeCall(IIrm.rateAtTarget, (id)));
        words[at + 4] = p.irm == address(0) ? 0 : _tryWord(p.irm, abi.encodeCall(IIrm.borrowRateView, (p, m)));
    }
}
