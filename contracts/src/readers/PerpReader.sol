// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

// What of Perpetual v2 (Curie) and of its price feeds is asked for here.

interface IClearingHouse {
    function getVault() external view returns (IVault);
    function getAccountBalance() external view returns (IAccountBalance);
    function getExchange() external view returns (IExchange);
    function getClearingHouseConfig() external view returns (IClearingHouseConfig);
    function getInsuranceFund() external view returns (IInsuranceFund);
    function paused() external view returns (bool);
}

interface IVault {
    function getBalance(address trader) external view returns (int256);
    function getCollateralTokens(address trader) external view returns (address[] memory);
    function decimals() external view returns (uint8);
}

interface IAccountBalance {
    struct Info {
        int256 takerPositionSize;
        int256 takerOpenNotional;
        int256 lastTwPremiumGrowthGlobalX96;
    }

    function getBaseTokens(address trader) external view returns (address[] memory);
    function getAccountInfo(address trader, address baseToken) external view returns (Info memory);
    function getPnlAndPendingFee(address trader) external view returns (int256, int256, uint256);
    function hasOrder(address trader) external view returns (bool);
    function getMarkPrice(address baseToken) external view returns (uint256);
}

interface IExchange {
    function getPendingFundingPayment(address trader, address baseToken) external view returns (int256);
    function getSqrtMarketTwapX96(address baseToken, uint32 interval) external view returns (uint160);
}

interface IClearingHouseConfig {
    function getMmRatio() external view returns (uint24);
    function getImRatio() external view returns (uint24);
    function getLiquidationPenaltyRatio() external view returns (uint24);
    function getMaxFundingRate() external view returns (uint24);
    function getMarkPriceConfig() external view returns (uint32 marketInterval, uint32 premiumInterval);
}

interface IInsuranceFund {
    function getToken() external view returns (IToken);
}

interface IToken {
    function balanceOf(address holder) external view returns (uint256);
}

interface IBaseToken {
    function isOpen() external view returns (bool);
    function isClosed() external view returns (bool);
    function getClosedPrice() external view returns (uint256);
    function getPausedIndexPrice() external view returns (uint256);
    function getIndexPrice(uint256 interval) external view returns (uint256);
    function getPriceFeed() external view returns (address);
}

interface IFeeds {
    function getChainlinkPriceFeedV3() external view returns (address);
    function getAggregator() external view returns (address);
    function description() external view returns (string memory);
    function latestRoundData() external view returns (uint80, int256, uint256, uint256, uint80);
}

/// @title Raw accounts of Perpetual v2, and the world that they are valued in, in one call each
/// @notice Never deployed by the keeper: nodes run its code with every call. Health is the caller's work. What
/// cannot be read of one account or market is said of that one, and leaves the others as they are.
contract PerpReader {
    using SafeCast for int256;
    using SafeCast for uint256;

    /// @dev Positions of one account, two words each, and their count in `heads`; see `rows`.
    struct Row {
        uint256 flags;
        int256 cash;
        uint256[] entries;
    }

    /// @notice What all accounts share; ratios in millionths.
    /// @param insurance of the fund's account and wallet together, 18 decimals
    struct Globals {
        uint256 maintenance;
        uint256 initial;
        uint256 penalty;
        uint256 fundingRate;
        uint256 decimals;
        int256 insurance;
        bool paused;
    }

    /// @notice One market; prices with 18 decimals.
    /// @param mark by which accounts are judged; 0 where it cannot be had
    /// @param spot the pool's mean of 15 seconds, as the mark takes it; this and the next three only while open
    /// @param twap the pool's mean of the longer interval
    /// @param premium what the pool is above the index in the mean
    /// @param index the index price of now
    /// @param updatedAt when the index's own feed was answered last; 0 where it does not say
    /// @param feed whoever answers: an aggregator where it can be walked down to
    /// @param description of the aggregator, cut to 32 bytes; empty where it does not say
    struct MarketRow {
        uint256 mark;
        bool isOpen;
        uint256 spot;
        uint256 twap;
        int256 premium;
        uint256 index;
        uint256 updatedAt;
        address feed;
        bytes32 description;
    }

    uint256 private constant HAS_ORDER = 1;
    uint256 private constant OTHER_COLLATERAL = 2;
    uint256 private constant UNLISTED = 4;
    uint256 private constant UNREADABLE = 8;

    uint256 private constant HEAD_WORDS = 2;
    uint256 private constant ENTRY_WORDS = 2;
    uint32 private constant SPOT_INTERVAL = 15;
    uint256 private constant Q96 = 1 << 96;

    IClearingHouse public immutable clearingHouse;
    IVault public immutable vault;
    IAccountBalance public immutable accountBalance;
    IExchange public immutable exchange;
    uint256 private immutable _unit;

    error OutOfGas(address trader);

    constructor(IClearingHouse clearingHouse_) {
        clearingHouse = clearingHouse_;
        (vault, accountBalance) = (clearingHouse_.getVault(), clearingHouse_.getAccountBalance());
        exchange = clearingHouse_.getExchange();
        _unit = 10 ** (18 - vault.decimals());
    }

    /// @notice Accounts in the order asked for.
    /// @param bases the markets that are listed
    /// @return heads two words an account. The first: its address in 160 bits, then flags in 8 and the number of
    /// its positions in 8, from the right end of 96. The second: settled money with 18 decimals. The flags: 1 has
    /// orders, 2 has collateral beside the settlement token, 4 has a position in a market that is not listed, 8
    /// cannot be read; then the rest says nothing.
    /// @return entries for each position a word of size and open notional in 128 bits each, and one of the
    /// funding due and the market's place among `bases`
    function rows(address[] calldata traders, address[] calldata bases)
        external
        view
        returns (uint256[] memory heads, uint256[] memory entries)
    {
        Row[] memory all = new Row[](traders.length);
        heads = new uint256[](traders.length * HEAD_WORDS);
        uint256 words;
        for (uint256 i; i < traders.length; ++i) {
            all[i] = _row(traders[i], bases);
            uint256 count = all[i].entries.length / ENTRY_WORDS;
            heads[i * HEAD_WORDS] = uint256(uint160(traders[i])) << 96 | all[i].flags << 8 | count;
            heads[i * HEAD_WORDS + 1] = uint256(all[i].cash);
            words += all[i].entries.length;
        }
        entries = new uint256[](words);
        uint256 at;
        for (uint256 i; i < all.length; ++i) {
            for (uint256 j; j < all[i].entries.length; ++j) {
                entries[at++] = all[i].entries[j];
            }
        }
    }

    /// @notice What all accounts share, and every market asked for, in that order.
    function world(address[] calldata bases)
        external
        view
        returns (Globals memory all, MarketRow[] memory markets)
    {
        IClearingHouseConfig config = clearingHouse.getClearingHouseConfig();
        all = Globals({
            maintenance: config.getMmRatio(),
            initial: config.getImRatio(),
            penalty: config.getLiquidationPenaltyRatio(),
            fundingRate: config.getMaxFundingRate(),
            decimals: vault.decimals(),
            insurance: _insurance(),
            paused: clearingHouse.paused()
        });
        (uint32 marketInterval, uint32 premiumInterval) = config.getMarkPriceConfig();
        markets = new MarketRow[](bases.length);
        for (uint256 i; i < bases.length; ++i) {
            try this.market(bases[i], marketInterval, premiumInterval) returns (MarketRow memory found) {
                markets[i] = found;
            } catch (bytes memory why) {
                if (why.length == 0) revert OutOfGas(bases[i]);
            }
            _fillFeed(markets[i], bases[i]);
        }
    }

    /// @notice One account; reverts where it cannot be read.
    function row(address trader, address[] calldata bases) external view returns (Row memory found) {
        if (accountBalance.hasOrder(trader)) found.flags |= HAS_ORDER;
        if (vault.getCollateralTokens(trader).length != 0) found.flags |= OTHER_COLLATERAL;
        found.cash = _cash(trader);
        address[] memory held = accountBalance.getBaseTokens(trader);
        found.entries = new uint256[](held.length * ENTRY_WORDS);
        uint256 used;
        for (uint256 i; i < held.length; ++i) {
            uint256 place = _place(held[i], bases);
            if (place == bases.length) {
                found.flags |= UNLISTED;
                continue;
            }
            IAccountBalance.Info memory info = accountBalance.getAccountInfo(trader, held[i]);
            if (info.takerPositionSize == 0 && info.takerOpenNotional == 0) continue;
            found.entries[used++] = _pair(info.takerPositionSize, info.takerOpenNotional);
            found.entries[used++] = _pair(exchange.getPendingFundingPayment(trader, held[i]), int256(place));
        }
        uint256[] memory entries = found.entries;
        assembly ("memory-safe") {
            mstore(entries, used)
        }
    }

    /// @notice One market but for its feed; reverts where it has no mark.
    function market(address base, uint32 marketInterval, uint32 premiumInterval)
        external
        view
        returns (MarketRow memory found)
    {
        IBaseToken token = IBaseToken(base);
        found.isOpen = token.isOpen();
        if (!found.isOpen) {
            found.mark = token.isClosed() ? token.getClosedPrice() : token.getPausedIndexPrice();
            return found;
        }
        found.mark = accountBalance.getMarkPrice(base);
        found.spot = _twap(base, SPOT_INTERVAL);
        found.twap = _twap(base, marketInterval);
        found.premium = _twap(base, premiumInterval).toInt256() - token.getIndexPrice(premiumInterval).toInt256();
        found.index = token.getIndexPrice(0);
    }

    function _row(address trader, address[] calldata bases) private view returns (Row memory) {
        try this.row(trader, bases) returns (Row memory found) {
            return found;
        } catch (bytes memory why) {
            // What the protocol refuses it gives a reason for.
            if (why.length == 0) revert OutOfGas(trader);
            return Row(UNREADABLE, 0, new uint256[](0));
        }
    }

    /// @dev Balance, realised profit and fees, with 18 decimals.
    function _cash(address trader) private view returns (int256) {
        (int256 realized,, uint256 fee) = accountBalance.getPnlAndPendingFee(trader);
        return vault.getBalance(trader) * _unit.toInt256() + realized + fee.toInt256();
    }

    function _insurance() private view returns (int256) {
        IInsuranceFund fund = clearingHouse.getInsuranceFund();
        uint256 held = fund.getToken().balanceOf(address(fund)) * _unit;
        return _cash(address(fund)) + held.toInt256();
    }

    function _twap(address base, uint32 interval) private view returns (uint256) {
        uint256 root = exchange.getSqrtMarketTwapX96(base, interval);
        return Math.mulDiv(Math.mulDiv(root, root, Q96), 1e18, Q96);
    }

    /// @dev Walks down from the market's price feed to an aggregator, as far as each answers.
    function _fillFeed(MarketRow memory found, address base) private view {
        address feed = IBaseToken(base).getPriceFeed();
        feed = _next(feed, IFeeds.getChainlinkPriceFeedV3.selector);
        feed = _next(feed, IFeeds.getAggregator.selector);
        found.feed = feed;
        (bool hasRound, bytes memory round) = feed.staticcall(abi.encodeCall(IFeeds.latestRoundData, ()));
        if (hasRound && round.length == 160) {
            (,,, found.updatedAt,) = abi.decode(round, (uint256, int256, uint256, uint256, uint256));
        }
        (bool isNamed, bytes memory name) = feed.staticcall(abi.encodeCall(IFeeds.description, ()));
        if (isNamed && name.length >= 96) found.description = bytes32(bytes(abi.decode(name, (string))));
    }

    function _next(address feed, bytes4 selector) private view returns (address) {
        (bool ok, bytes memory answer) = feed.staticcall(abi.encodeWithSelector(selector));
        return ok && answer.length == 32 ? abi.decode(answer, (address)) : feed;
    }

    function _place(address base, address[] calldata bases) private pure returns (uint256 place) {
        while (place < bases.length && bases[place] != base) ++place;
    }

    /// @dev Two numbers in a word; reverts where one does not fit in 128 bits.
    function _pair(int256 high, int256 low) private pure returns (uint256) {
        return uint256(int256(high.toInt128())) << 128 | uint128(low.toInt128());
    }
}
