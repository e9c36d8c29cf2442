// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {Backstop} from "./Backstop.sol";
import {Clearing} from "./Clearing.sol";
import {Instruments} from "./Instruments.sol";
import {Liquidator} from "./Liquidator.sol";
import {OracleRouter} from "./OracleRouter.sol";
import {Slopes} from "./Slopes.sol";
import {IBreaker, IRiskArrays} from "./interfaces/IModules.sol";
import {Balance, FeedPrice, Kind, Market, MAX_HOLDINGS, MAX_LEGS, Position, Quote, State} from "./HybridTypes.sol";

/// @title Raw positions of many accounts, and the world that they are valued in, in one call each
/// @notice Health is the caller's work. Accounts come as four columns of 32-byte words that an array library
/// cuts up without looking at any account. Only what an account has takes room: most of a row would be zeros,
/// and a node sends two letters for each byte.
contract MarginReader {
    using SafeCast for int256;

    /// @dev Words that are added one by one; there is room for all that could come.
    struct Words {
        uint256[] all;
        uint256 used;
    }

    /// @dev The columns of a page; `rows` says what is in them.
    struct Page {
        Words heads;
        Words legs;
        Words amounts;
        Words episodes;
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

    uint256 private constant HEAD_WORDS = 3;
    uint256 private constant FLAG_WORDS = 17;
    uint256 private constant EPISODE_WORDS = FLAG_WORDS + 2;

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

    /// @notice Accounts in the order asked for; one never used has a head of zeros behind its name.
    /// @return heads three words an account. The first is its name. The second: cash in 128 bits, then eight
    /// markets of 16 bits. The third: lastRiskAt, lastRiskBlock and debtSince in 64 bits each, the chosen slope
    /// in 16 (0 for the default), the state in 8, 1 in 8 where it has an episode, and four collaterals of 8 bits.
    /// Unused places are zero and come last.
    /// @return legs a word for each market named in the heads, account after account: the size in 128 bits, then
    /// the quote leg in 128, net of the losses socialised so far
    /// @return amounts a word for each collateral named in the heads
    /// @return episodes for each account that has one the words of its flag, then the aid it got, then 1 where
    /// it was reduced
    function rows(bytes32[] calldata accts)
        external
        view
        returns (uint256[] memory heads, uint256[] memory legs, uint256[] memory amounts, uint256[] memory episodes)
    {
        uint256 n = accts.length;
        Page memory page =
            Page(_room(n, HEAD_WORDS), _room(n, MAX_LEGS), _room(n, MAX_HOLDINGS), _room(n, EPISODE_WORDS));
        for (uint256 i; i < n; ++i) {
            _add(page, accts[i]);
        }
        return (_used(page.heads), _used(page.legs), _used(page.amounts), _used(page.episodes));
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

    function _add(Page memory page, bytes32 acct) private view {
        (int256 cash, Position[] memory positions, Balance[] memory balances) = clearing.account(acct);
        uint256 markets;
        for (uint256 i; i < positions.length; ++i) {
            markets |= uint256(positions[i].market) << (16 * (MAX_LEGS - 1 - i));
            _push(page.legs, _pair(positions[i].size, positions[i].quoteLeg.toInt128()));
        }
        uint256 collaterals;
        for (uint256 j; j < balances.length; ++j) {
            collaterals |= uint256(balances[j].collateral) << (8 * (MAX_HOLDINGS - 1 - j));
            _push(page.amounts, balances[j].amount);
        }
        _push(page.heads, uint256(acct));
        _push(page.heads, _pair(cash, int256(markets)));
        _push(page.heads, _standing(page.episodes, acct) | collaterals);
    }

    /// @dev The third word of a head but for its collaterals; adds the episode where there is one.
    function _standing(Words memory episodes, bytes32 acct) private view returns (uint256) {
        (State state, uint256 riskAt, uint256 riskBlock, uint256 debtSince, uint256 aid, bool reduced) =
            clearing.status(acct);
        uint256 told = _addEpisode(episodes, acct, aid, reduced ? 1 : 0) ? 1 : 0;
        uint256 low = uint256(slopes.slopeChoice(acct)) << 48 | uint256(state) << 40 | told << 32;
        return riskAt << 192 | riskBlock << 128 | debtSince << 64 | low;
    }

    function _addEpisode(Words memory episodes, bytes32 acct, uint256 aid, uint256 reduced)
        private
        view
        returns (bool told)
    {
        Liquidator.Flag memory flag = liquidator.flagOf(acct);
        uint256 begin = episodes.used;
        uint256 any = aid | reduced;
        for (uint256 i; i < FLAG_WORDS; ++i) {
            uint256 word;
            assembly ("memory-safe") {
                word := mload(add(flag, mul(32, i)))
            }
            any |= word;
            _push(episodes, word);
        }
        _push(episodes, aid);
        _push(episodes, reduced);
        told = any != 0;
        if (!told) episodes.used = begin;
    }

    function _room(uint256 accounts, uint256 each) private pure returns (Words memory words) {
        words.all = new uint256[](accounts * each);
    }

    function _push(Words memory words, uint256 word) private pure {
        words.all[words.used++] = word;
    }

    /// @dev Cuts off the room that was not needed.
    function _used(Words memory words) private pure returns (uint256[] memory all) {
        all = words.all;
        uint256 used = words.used;
        assembly ("memory-safe") {
            mstore(all, used)
        }
    }

    /// @dev Two numbers in a word; both fit in 128 bits.
    function _pair(int256 high, int256 low) private pure returns (uint256) {
        return uint256(high) << 128 | uint128(uint256(low));
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
