// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";
import {FastOracle} from "./FastOracle.sol";
import {FeedPrice, Kind, Market, Quote, RiskArray, SCENARIOS, WAD} from "./HybridTypes.sol";
import {OracleRouter} from "./OracleRouter.sol";
import {Portfolio} from "./Portfolio.sol";
import {Quorum} from "./Quorum.sol";
import {IInstruments, IRiskArrays} from "./interfaces/IModules.sol";

/// @title What options are worth: while they live by signed risk arrays, and once for all at their expiry
/// @notice The reporters of the fast price model the options off chain and sign the arrays together: a quorum
/// signs one digest over all arrays of a post. What they sign is bounded here by what no model can dispute, at
/// the array's own price and in every scenario, so that a bad quorum can misprice an option's time value and
/// nothing else. Nobody's requirement is signed: an array speaks of an instrument, never of an account.
contract RiskArrays is Quorum, IRiskArrays {
    /// @dev Five slots: the scenarios' changes lie four to a word, the first of each word lowest.
    struct Stored {
        uint40 observedAt;
        uint64 refPrice;
        uint64 mark;
        int32 delta;
        uint256[4] pnl;
    }

    bytes32 public constant ARRAYS_TYPEHASH = keccak256("RiskArrays(bytes32 arraysHash,uint40 validUntil)");
    /// @notice How old an array may be when it is posted, seconds.
    uint256 public constant MAX_AGE = 60;
    /// @dev WAD in a unit of the arrays' prices (8 decimals) and of their deltas (9).
    uint256 private constant PRICE_UNIT = 1e10;
    int256 private constant DELTA_UNIT = 1e9;
    /// @dev Delta of the underlying itself, in the arrays' units.
    int256 private constant FULL_DELTA = 1e9;
    /// @dev How far rounding to 8 decimals may carry a value past its bounds, WAD.
    uint256 private constant SLACK = 2 * PRICE_UNIT;

    OracleRouter public immutable router;
    IInstruments public immutable instruments;

    mapping(uint16 market => Stored) private _arrays;
    /// @inheritdoc IRiskArrays
    mapping(bytes32 feedId => mapping(uint40 expiry => uint256)) public override settlement;

    /// @notice An array was accepted; prices and delta WAD.
    event RiskArraySet(uint16 indexed market, uint256 refPrice, uint256 mark, int256 delta, uint256 observedAt);
    /// @notice The price, WAD, by which all options of an underlying's expiry pay.
    event SettlementSet(bytes32 indexed feedId, uint40 indexed expiry, uint256 price);

    error NoneNewer();
    error FromFuture(uint16 market, uint256 observedAt, uint256 nowS);
    error TooOld(uint16 market, uint256 observedAt, uint256 nowS);
    error NotAnOption(uint16 market);
    error NoRefPrice(uint16 market);
    error BadDelta(uint16 market, int256 delta);
    /// @dev Values and bounds WAD.
    error MarkOutOfBounds(uint16 market, uint256 mark, uint256 low, uint256 high);
    error ScenarioOutOfBounds(uint16 market, uint256 scenario, int256 value, uint256 low, uint256 high);
    error NotYetExpired(uint256 expiry, uint256 nowS);
    error AlreadySettled(bytes32 feedId, uint256 expiry);
    error StaleOracle(bytes32 feedId);
    error BeforeExpiry(uint256 fastAt, uint256 slowAt, uint256 expiry);
    error TooFarApart(uint256 fast, uint256 slow);

    constructor(FastOracle fastOracle_, OracleRouter router_, IInstruments instruments_)
        EIP712("HybridMargin RiskArrays", "1")
        Quorum(fastOracle_)
    {
        (router, instruments) = (router_, instruments_);
    }

    /// @notice Accept the arrays that are newer than what is stored, or revert with the reason. Those that are not
    /// newer are passed over, so that nobody can spoil a post by posting a part of it first; so are those of options
    /// that have expired meanwhile, so that an expiry spoils none either.
    ///
    /// The scenarios are those of the range in force now: whoever signs while it is being changed leaves room for
    /// the change between signing and posting.
    /// @param validUntil last second at which the signatures count
    /// @param signatures over `digest(arrays, validUntil)`, of as many reporters as the quorum asks for
    function post(RiskArray[] calldata arrays, uint40 validUntil, bytes[] calldata signatures) external {
        _checkSigners(digest(arrays, validUntil), validUntil, signatures);
        bool any;
        for (uint256 i; i < arrays.length; ++i) {
            if (arrays[i].observedAt <= _arrays[arrays[i].market].observedAt) continue;
            Market memory m = instruments.market(arrays[i].market);
            if (m.kind != Kind.Perp && block.timestamp >= m.expiry) continue;
            _accept(arrays[i], m);
            any = true;
        }
        if (!any) revert NoneNewer();
    }

    /// @notice Fix the price of all options of an underlying's expiry, once, by the first slow price that the
    /// fast one confirms after it. Anyone may call, and whoever holds options should do so at once.
    function settle(bytes32 feedId, uint40 expiry) external {
        if (expiry == 0 || block.timestamp < expiry) revert NotYetExpired(expiry, block.timestamp);
        if (settlement[feedId][expiry] != 0) revert AlreadySettled(feedId, expiry);
        FeedPrice memory p = router.price(feedId);
        if (!p.fastFresh || !p.slowFresh) revert StaleOracle(feedId);
        // An older slow round counts within its heartbeat, as it does for an alarm: while nobody can settle, no array
        // can be posted either, and dust of the option would shelter a whole account.
        bool slowCounts = p.slowAt >= expiry || block.timestamp <= p.slowAt + p.heartbeat;
        if (p.fastAt < expiry || !slowCounts) revert BeforeExpiry(p.fastAt, p.slowAt, expiry);
        if (FixedPointMathLib.dist(p.fast, p.slow) * WAD > p.deviation * p.slow) revert TooFarApart(p.fast, p.slow);
        settlement[feedId][expiry] = p.slow;
        emit SettlementSet(feedId, expiry, p.slow);
    }

    /// @inheritdoc IRiskArrays
    function quotes(uint16[] calldata markets) external view returns (Quote[] memory all) {
        all = new Quote[](markets.length);
        for (uint256 i; i < markets.length; ++i) {
            _read(_arrays[markets[i]], all[i]);
        }
    }

    /// @notice The digest that reporters sign.
    function digest(RiskArray[] calldata arrays, uint40 validUntil) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(ARRAYS_TYPEHASH, keccak256(abi.encode(arrays)), validUntil)));
    }

    function _accept(RiskArray calldata a, Market memory m) private {
        if (a.observedAt > block.timestamp) revert FromFuture(a.market, a.observedAt, block.timestamp);
        if (block.timestamp > a.observedAt + MAX_AGE) revert TooOld(a.market, a.observedAt, block.timestamp);
        if (m.kind == Kind.Perp) revert NotAnOption(a.market);
        _checkBounds(a, m, instruments.risk(m.feedId).mmr);

        Stored storage s = _arrays[a.market];
        (s.observedAt, s.refPrice, s.mark, s.delta) = (a.observedAt, a.refPrice, a.mark, a.delta);
        for (uint256 word; word < 4; ++word) {
            s.pnl[word] = _pack(a, 4 * word);
        }
        uint256 mark = a.mark * PRICE_UNIT;
        emit RiskArraySet(a.market, a.refPrice * PRICE_UNIT, mark, a.delta * DELTA_UNIT, a.observedAt);
    }

    /// @dev What no model can dispute: a value between payoff and ceiling, here and in every scenario, and a delta
    /// between nothing and the underlying's, of the right sign.
    function _checkBounds(RiskArray calldata a, Market memory m, uint256 mmr) private pure {
        if (a.refPrice == 0) revert NoRefPrice(a.market);
        int256 delta = m.kind == Kind.Call ? int256(a.delta) : -int256(a.delta);
        if (delta < 0 || delta > FULL_DELTA) revert BadDelta(a.market, a.delta);

        uint256 ref = a.refPrice * PRICE_UNIT;
        uint256 mark = a.mark * PRICE_UNIT;
        (uint256 low, uint256 high) = _bounds(m, ref);
        if (mark + SLACK < low || mark > high + SLACK) revert MarkOutOfBounds(a.market, mark, low, high);
        int256 third = int256(ref * mmr / (3 * WAD));
        // Prices have 64 bits, strikes 128 and rates 64: nothing comes near 256.
        unchecked {
            for (uint256 s; s < SCENARIOS; ++s) {
                // Within the range, the two volatilities of a move share their bounds.
                if (s % 2 == 0 || s > Portfolio.EXTREME) {
                    int256 end = int256(ref) + third * Portfolio.move(s);
                    (low, high) = _bounds(m, uint256(FixedPointMathLib.max(end, 0)));
                }
                int256 value = int256(mark) + int256(a.pnl[s]) * int256(PRICE_UNIT);
                if (value + int256(SLACK) < int256(low) || value > int256(high + SLACK)) {
                    revert ScenarioOutOfBounds(a.market, s, value, low, high);
                }
            }
        }
    }

    function _bounds(Market memory m, uint256 price) private pure returns (uint256 low, uint256 high) {
        return (Portfolio.payoff(m.kind, m.strike, price), Portfolio.ceiling(m.kind, m.strike, price));
    }

    function _read(Stored storage s, Quote memory q) private view {
        (q.observedAt, q.refPrice) = (s.observedAt, s.refPrice * PRICE_UNIT);
        (q.mark, q.delta) = (s.mark * PRICE_UNIT, s.delta * DELTA_UNIT);
        int256[16] memory pnl = q.pnl;
        unchecked {
            for (uint256 word; word < 4; ++word) {
                uint256 four = s.pnl[word];
                for (uint256 i; i < 4; ++i) {
                    pnl[4 * word + i] = int256(int64(uint64(four >> (64 * i)))) * int256(PRICE_UNIT);
                }
            }
        }
    }

    function _pack(RiskArray calldata a, uint256 from) private pure returns (uint256 four) {
        for (uint256 i; i < 4; ++i) {
            four |= uint256(uint64(a.pnl[from + i])) << (64 * i);
        }
    }
}
