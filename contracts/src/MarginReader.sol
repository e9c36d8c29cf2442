// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Backstop} from "./Backstop.sol";
import {Clearing} from "./Clearing.sol";
import {Instruments} from "./Instruments.sol";
import {Liquidator} from "./Liquidator.sol";
import {OracleRouter} from "./OracleRouter.sol";
import {Slopes} from "./Slopes.sol";
import {IBreaker, IRiskArrays} from "./interfaces/IModules.sol";
import {
    Balance,
    FeedPrice,
    Kind,
    Market,
    MAX_HOLDINGS,
    MAX_LEGS,
    Position,
    Quote,
    State
} from "./HybridTypes.sol";

/// @title Raw positions of many accounts, and the world that they are valued in, in one call each
/// @notice Health is the caller's work. A row is static, so that a page of rows is one block of 32-byte
/// words that an array library reads without looking at each account; unused slots are zero.
contract MarginReader {
    /// @param slopeChoice the slope that the owner chose, 0 for the default
    /// @param quoteLegs net of the losses socialised so far
    struct Row {
        bytes32 acct;
        State state;
        int256 cash;
        uint256 lastRiskAt;
        uint256 lastRiskBlock;
        uint256 debtSince;
        uint256 aid;
        bool reduced;
        uint256 slopeChoice;
        Liquidator.Flag flag;
        uint256[MAX_LEGS] markets;
        int256[MAX_LEGS] sizes;
        int256[MAX_LEGS] quoteLegs;
        uint256[MAX_HOLDINGS] collaterals;
        uint256[MAX_HOLDINGS] amounts;
    }

    /// @notice What all accounts share.
    /// @param version rises with every change of a listing, a ramp or a slope
    /// @param gated 1 while quote stays in the accounts, else 0
    /// @param drawableInEpoch what the insurance may still pay before `epochEndsAt`, WAD
    struct Globals {
        uint256 version;
        uint256 breakerLevel;
        uint256 breakerRaisedAt;
        uint256 insurance;
        uint256 badDebt;
        uint256 gated;
        uint256 drawableInEpoch;
        uint256 epochEndsAt;
        uint256 defaultSlope;
    }

    /// @param bucketUsed WAD of quote, as it was at `bucketAt`; it drains by the cap in a minute
    struct FeedRow {
        FeedPrice price;
        uint256 bucketUsed;
        uint256 bucketAt;
        uint256 bucketCap;
    }

    /// @param settlement of the option's expiry, WAD; 0 before there is one
    /// @param openInterest sum of |size|, WAD units
    struct OptionRow {
        Quote array;
        uint256 settlement;
        uint256 openInterest;
    }

    Clearing public immutable clearing;
    Liquidator public immutable liquidator;
    Slopes public immutable slopes;
    Instruments public immutable instruments;
    IRiskArrays public immutable riskArrays;
    Backstop public immutable backstop;
    IBreaker public immutable breaker;
    OracleRouter public immutable router;

    error NoBucket(bytes32 feedId);

    constructor(Clearing clearing_, Liquidator liquidator_) {
        (clearing, liquidator, slopes) = (clearing_, liquidator_, liquidator_.registry());
        (router, riskArrays) = (clearing_.router(), clearing_.riskArrays());
        (instruments, breaker) = (Instruments(address(liquidator_.instruments())), liquidator_.breaker());
        backstop = Backstop(address(liquidator_.backstop()));
    }

    /// @notice One row per account, in the order asked for; an account never used reads as zeros.
    function rows(bytes32[] calldata accts) external view returns (Row[] memory page) {
        page = new Row[](accts.length);
        for (uint256 i; i < accts.length; ++i) {
            _fill(page[i], accts[i]);
        }
    }

    /// @notice What all accounts share, every feed asked for and every option asked for, in that order.
    /// @param options market numbers
    function world(bytes32[] calldata feedIds, uint16[] calldata options)
        external
        view
        returns (Globals memory all, FeedRow[] memory feeds, OptionRow[] memory marks)
    {
        all = _globals();
        FeedPrice[] memory prices = router.prices(feedIds);
        feeds = new FeedRow[](feedIds.length);
        for (uint256 i; i < feedIds.length; ++i) {
            feeds[i].price = prices[i];
            _fillBucket(feeds[i], feedIds[i]);
        }
        Quote[] memory quotes = riskArrays.quotes(options);
        marks = new OptionRow[](options.length);
        for (uint256 i; i < options.length; ++i) {
            marks[i].array = quotes[i];
            _fillOption(marks[i], options[i]);
        }
    }

    function _fill(Row memory row, bytes32 acct) private view {
        row.acct = acct;
        (row.state, row.lastRiskAt, row.lastRiskBlock, row.debtSince, row.aid, row.reduced) = clearing.status(acct);
        row.slopeChoice = slopes.slopeChoice(acct);
        row.flag = liquidator.flagOf(acct);
        (int256 cash, Position[] memory positions, Balance[] memory balances) = clearing.account(acct);
        row.cash = cash;
        for (uint256 i; i < positions.length; ++i) {
            (row.markets[i], row.sizes[i], row.quoteLegs[i]) =
                (positions[i].market, positions[i].size, positions[i].quoteLeg);
        }
        for (uint256 j; j < balances.length; ++j) {
            (row.collaterals[j], row.amounts[j]) = (balances[j].collateral, balances[j].amount);
        }
    }

    function _globals() private view returns (Globals memory) {
        return Globals({
            version: instruments.version() + slopes.version(),
            breakerLevel: breaker.level(),
            breakerRaisedAt: breaker.raisedAt(),
            insurance: backstop.insurance(),
            badDebt: backstop.badDebt(),
            gated: backstop.gated() ? 1 : 0,
            drawableInEpoch: backstop.drawable(),
            epochEndsAt: backstop.epochEndsAt(),
            defaultSlope: slopes.defaultSlope()
        });
    }

    /// @dev A feed of a collateral alone has no bucket: its cap reads as zero.
    function _fillBucket(FeedRow memory row, bytes32 feedId) private view {
        (row.bucketUsed, row.bucketAt) = liquidator.buckets(feedId);
        try instruments.bucketCap(feedId) returns (uint256 cap) {
            row.bucketCap = cap;
        } catch (bytes memory why) {
            if (bytes4(why) != Instruments.UnknownUnderlying.selector) revert NoBucket(feedId);
        }
    }

    function _fillOption(OptionRow memory row, uint16 id) private view {
        Market memory m = instruments.market(id);
        if (m.kind != Kind.Perp) row.settlement = riskArrays.settlement(m.feedId, m.expiry);
        row.openInterest = clearing.openInterest(id);
    }
}
