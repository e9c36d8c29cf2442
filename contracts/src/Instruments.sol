// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {OracleRouter} from "./OracleRouter.sol";
import {Ramp, RampMath} from "./Ramp.sol";
import {Vault} from "./Vault.sol";
import {IInstruments} from "./interfaces/IModules.sol";
import {Balance, Holding, Kind, Market, Risk, WAD} from "./HybridTypes.sol";

/// @title What is listed, and on which terms
/// @notice The risk belongs to the underlying: every perp and option of one feed shares it. Whatever raises a
/// requirement does so along a line of a day or longer, inside hard bounds; what lowers it may do so at once.
/// @dev Every margin check asks this contract, so the layout is made for reading: the terms of an underlying at
/// rest are one word, a market is one, and nothing reads the length of an array.
contract Instruments is IInstruments, Ownable2Step {
    /// @notice An underlying's terms with their ramps.
    /// @param bucketCap notional that slices may move within a minute, WAD of quote; 0 is closed
    struct Underlying {
        Ramp mmr;
        Ramp imr;
        Ramp shortMin;
        uint128 bucketCap;
    }

    /// @notice A collateral's terms with their ramps.
    /// @param hMM,hIM haircut factors for maintenance and initial margin, WAD
    /// @param saleDiscMax deepest discount of a forced sale, WAD
    /// @param cap most of it that the protocol takes, WAD
    struct Collateral {
        address token;
        bytes32 feedId;
        Ramp hMM;
        Ramp hIM;
        uint64 saleDiscMax;
        uint128 cap;
    }

    /// @dev Where an underlying's ramps end. They share their times; the start is `end - span`.
    struct MarginsTo {
        uint64 mmr;
        uint64 imr;
        uint64 shortMin;
        uint40 end;
        uint24 span;
    }

    /// @dev Where they began; read before `end` only.
    struct MarginsFrom {
        uint64 mmr;
        uint64 imr;
        uint64 shortMin;
    }

    struct Terms {
        MarginsTo to;
        MarginsFrom from;
        bytes32 feedId;
        uint128 bucketCap;
    }

    /// @dev `underlying` is the number of the feed's `Terms`, 0 where there is no such market.
    struct Listed {
        uint16 underlying;
        Kind kind;
        uint40 expiry;
        uint128 strike;
    }

    struct HaircutsTo {
        uint64 hMM;
        uint64 hIM;
        uint64 saleDiscMax;
        uint40 end;
        uint24 span;
    }

    struct Kept {
        address token;
        bytes32 feedId;
        HaircutsTo to;
        uint64 fromHMM;
        uint64 fromHIM;
        uint128 cap;
    }

    uint256 public constant MMR_MIN = 0.005e18;
    uint256 public constant MMR_MAX = 0.5e18;
    /// @notice Least part of a collateral's value that is neither haircut factor nor sale discount, WAD: a
    /// forced sale raises equity.
    uint256 public constant SALE_MARGIN = 0.005e18;
    /// @notice Least duration of a change that raises a requirement, and most of any change, seconds.
    uint256 public constant RAMP_MIN = 24 hours;
    uint256 public constant RAMP_MAX = 90 days;
    /// @notice How far ahead an option may expire, seconds.
    uint256 public constant EXPIRY_MAX = 365 days;

    Vault public immutable vault;
    OracleRouter public immutable router;
    address public immutable quote;

    /// @notice Who may set margins beside the owner: a contract with bounds of its own. Zero is nobody.
    address public steward;
    /// @notice Rises with every change, so that a reader knows when to read again.
    uint256 public version;
    /// @notice Market and collateral numbers start at 1.
    uint256 public marketCount;
    uint256 public collateralCount;
    mapping(address token => uint8) public collateralOf;
    uint256 private _underlyingCount;
    mapping(bytes32 feedId => uint256) private _numberOf;
    mapping(uint256 number => Terms) private _terms;
    mapping(uint256 market => Listed) private _markets;
    mapping(uint256 collateral => Kept) private _collaterals;

    event UnderlyingListed(
        bytes32 indexed feedId, uint256 mmr, uint256 imr, uint256 shortMin, uint256 bucketCap
    );
    event MarketListed(uint16 market, bytes32 feedId, Kind kind, uint40 expiry, uint128 strike);
    event CollateralListed(
        uint8 indexed collateral,
        address token,
        bytes32 feedId,
        uint256 hMM,
        uint256 hIM,
        uint256 saleDiscMax,
        uint256 cap
    );
    /// @param subject the underlying's feed, or the collateral's number
    /// @param parameter mmr, imr, shortMin, hMM or hIM
    event RampSet(
        bytes32 indexed subject, bytes32 indexed parameter, uint256 from, uint256 to, uint256 start, uint256 end
    );
    event BucketCapSet(bytes32 indexed feedId, uint256 cap);
    event StewardSet(address indexed steward);

    error BadConfig(string what);
    error BadDuration(uint256 duration, uint256 least, uint256 most);
    error UnknownMarket(uint16 market);
    error UnknownUnderlying(bytes32 feedId);
    error UnknownCollateral(uint8 collateral);

    constructor(Vault vault_, OracleRouter router_, address quote_, address admin) Ownable(admin) {
        (vault, router, quote) = (vault_, router_, quote_);
    }

    // --- listing ---

    /// @notice List an underlying, whose perps and options may follow.
    /// @param mmr maintenance margin and range of the scenarios, 0.5% to 50%, WAD
    /// @param imr initial margin, above mmr and at most 100%, WAD
    /// @param shortMin least requirement of a short option, at most mmr, WAD
    function listUnderlying(bytes32 feedId, uint64 mmr, uint64 imr, uint64 shortMin, uint128 cap)
        external
        onlyOwner
    {
        router.price(feedId);
        if (_numberOf[feedId] != 0) revert BadConfig("feed");
        if (_underlyingCount == type(uint16).max) revert BadConfig("too many");
        _checkMargins(mmr, imr, shortMin);
        uint256 number = ++_underlyingCount;
        _numberOf[feedId] = number;
        _terms[number] = Terms({
            to: MarginsTo(mmr, imr, shortMin, uint40(block.timestamp), 0),
            from: MarginsFrom(mmr, imr, shortMin),
            feedId: feedId,
            bucketCap: cap
        });
        ++version;
        emit UnderlyingListed(feedId, mmr, imr, shortMin, cap);
    }

    function listPerp(bytes32 feedId) external onlyOwner returns (uint16 id) {
        return _listMarket(feedId, Kind.Perp, 0, 0);
    }

    /// @notice List a European option that is settled in cash.
    /// @param strike WAD
    /// @param expiry unix seconds, in the future and at most a year ahead
    function listOption(bytes32 feedId, uint128 strike, uint40 expiry, bool isCall)
        external
        onlyOwner
        returns (uint16 id)
    {
        if (strike == 0) revert BadConfig("strike");
        if (expiry <= block.timestamp || expiry > block.timestamp + EXPIRY_MAX) revert BadConfig("expiry");
        return _listMarket(feedId, isCall ? Kind.Call : Kind.Put, expiry, strike);
    }

    /// @notice List a collateral that the vault accepts and that is not the quote.
    /// @param hMM,hIM haircut factors, hIM <= hMM, WAD
    /// @param saleDiscMax at most 1 - hMM - 0.5%, WAD
    /// @param cap most of it that the protocol takes, WAD
    function listCollateral(address token, bytes32 feedId, uint64 hMM, uint64 hIM, uint64 saleDiscMax, uint128 cap)
        external
        onlyOwner
        returns (uint8 id)
    {
        router.price(feedId);
        if (vault.scaleOf(token) == 0 || token == quote || collateralOf[token] != 0) revert BadConfig("token");
        _checkHaircuts(hMM, hIM, saleDiscMax);
        if (collateralCount == type(uint8).max) revert BadConfig("too many");
        id = uint8(++collateralCount);
        collateralOf[token] = id;
        _collaterals[id] = Kept({
            token: token,
            feedId: feedId,
            to: HaircutsTo(hMM, hIM, saleDiscMax, uint40(block.timestamp), 0),
            fromHMM: hMM,
            fromHIM: hIM,
            cap: cap
        });
        ++version;
        emit CollateralListed(id, token, feedId, hMM, hIM, saleDiscMax, cap);
    }

    // --- changing ---

    /// @notice Let a contract set margins, too, inside the bounds below; zero for none.
    function setSteward(address steward_) external onlyOwner {
        steward = steward_;
        emit StewardSet(steward_);
    }

    /// @notice Move an underlying's margins from what they are today to new values, for the owner and the steward.
    /// Raising any of the three takes 24 hours at least; a change in mid-ramp starts where the last one has got to.
    /// @dev Lowering mmr alone raises the initial margin of options, which is what their arrays lose times imr / mmr,
    /// until the arrays of the smaller range are there; lower both in one ratio where that matters. It bars new risk
    /// and withdrawals only: maintenance does not rise.
    /// @param duration seconds, at most 90 days; 0 is at once
    function setMargins(bytes32 feedId, uint64 mmr, uint64 imr, uint64 shortMin, uint40 duration) external {
        if (msg.sender != steward) _checkOwner();
        Terms storage t = _termsOf(feedId);
        _checkMargins(mmr, imr, shortMin);
        Risk memory today;
        _fill(today, t);
        bool raises = mmr > today.mmr || imr > today.imr || shortMin > today.shortMin;
        (uint40 end, uint24 span) = _checkDuration(duration, raises);
        // Without a ramp nothing of the old values stays, so that no reader can take it for a value of now.
        if (span == 0) today = Risk(mmr, imr, shortMin);
        t.from = MarginsFrom(uint64(today.mmr), uint64(today.imr), uint64(today.shortMin));
        t.to = MarginsTo(mmr, imr, shortMin, end, span);
        ++version;
        emit RampSet(feedId, "mmr", today.mmr, mmr, block.timestamp, end);
        emit RampSet(feedId, "imr", today.imr, imr, block.timestamp, end);
        emit RampSet(feedId, "shortMin", today.shortMin, shortMin, block.timestamp, end);
    }

    /// @notice Move a collateral's haircut factors from what they are today to new values. Lowering either
    /// raises what accounts need, and takes 24 hours at least.
    /// @param duration seconds, at most 90 days; 0 is at once
    function setHaircuts(uint8 id, uint64 hMM, uint64 hIM, uint40 duration) external onlyOwner {
        Kept storage c = _keptOf(id);
        _checkHaircuts(hMM, hIM, c.to.saleDiscMax);
        (uint256 mm, uint256 im) = _factors(c);
        (uint40 end, uint24 span) = _checkDuration(duration, hMM < mm || hIM < im);
        if (span == 0) (mm, im) = (hMM, hIM);
        (c.fromHMM, c.fromHIM) = (uint64(mm), uint64(im));
        (c.to.hMM, c.to.hIM, c.to.end, c.to.span) = (hMM, hIM, end, span);
        ++version;
        emit RampSet(bytes32(uint256(id)), "hMM", mm, hMM, block.timestamp, end);
        emit RampSet(bytes32(uint256(id)), "hIM", im, hIM, block.timestamp, end);
    }

    /// @notice Change the notional that slices may move within a minute; 0 is closed.
    /// @param cap WAD of quote
    function setBucketCap(bytes32 feedId, uint128 cap) external onlyOwner {
        _termsOf(feedId).bucketCap = cap;
        ++version;
        emit BucketCapSet(feedId, cap);
    }

    // --- views of every margin check ---

    /// @inheritdoc IInstruments
    function market(uint16 id) external view returns (Market memory m) {
        _describe(m, id);
    }

    /// @inheritdoc IInstruments
    function risk(bytes32 feedId) external view returns (Risk memory r) {
        _fill(r, _termsOf(feedId));
    }

    /// @inheritdoc IInstruments
    function terms(uint16[] calldata ids) external view returns (Market[] memory markets, Risk[] memory risks) {
        (markets, risks) = (new Market[](ids.length), new Risk[](ids.length));
        for (uint256 i; i < ids.length; ++i) {
            _fill(risks[i], _describe(markets[i], ids[i]));
        }
    }

    /// @inheritdoc IInstruments
    function haircuts(Balance[] calldata balances) external view returns (Holding[] memory holdings) {
        holdings = new Holding[](balances.length);
        for (uint256 i; i < balances.length; ++i) {
            uint8 id = balances[i].collateral;
            Kept storage c = _keptOf(id);
            Holding memory h = holdings[i];
            (h.collateral, h.feedId, h.amount, h.saleDiscMax) = (id, c.feedId, balances[i].amount, c.to.saleDiscMax);
            (h.hMM, h.hIM) = _factors(c);
        }
    }

    /// @inheritdoc IInstruments
    function collateral(uint8 id) external view returns (address token, bytes32 feedId, uint256 hMM, uint256 cap) {
        Kept storage c = _keptOf(id);
        (hMM,) = _factors(c);
        return (c.token, c.feedId, hMM, c.cap);
    }

    /// @inheritdoc IInstruments
    function bucketCap(bytes32 feedId) external view returns (uint256) {
        return _termsOf(feedId).bucketCap;
    }

    // --- views with the ramps ---

    /// @notice An underlying's terms as they were set, to be worked out for any time; reverts UnknownUnderlying.
    function underlying(bytes32 feedId) external view returns (Underlying memory) {
        Terms storage t = _termsOf(feedId);
        MarginsTo memory to = t.to;
        MarginsFrom memory from = t.from;
        uint40 start = to.end - to.span;
        return Underlying({
            mmr: Ramp(from.mmr, to.mmr, start, to.end),
            imr: Ramp(from.imr, to.imr, start, to.end),
            shortMin: Ramp(from.shortMin, to.shortMin, start, to.end),
            bucketCap: t.bucketCap
        });
    }

    /// @notice A collateral's terms as they were set; reverts UnknownCollateral.
    function collateralTerms(uint8 id) external view returns (Collateral memory) {
        Kept memory c = _keptOf(id);
        uint40 start = c.to.end - c.to.span;
        return Collateral({
            token: c.token,
            feedId: c.feedId,
            hMM: Ramp(c.fromHMM, c.to.hMM, start, c.to.end),
            hIM: Ramp(c.fromHIM, c.to.hIM, start, c.to.end),
            saleDiscMax: c.to.saleDiscMax,
            cap: c.cap
        });
    }

    // --- inside ---

    function _listMarket(bytes32 feedId, Kind kind, uint40 expiry, uint128 strike) private returns (uint16 id) {
        uint256 number = _numberOf[feedId];
        if (number == 0) revert UnknownUnderlying(feedId);
        if (marketCount == type(uint16).max) revert BadConfig("too many");
        id = uint16(++marketCount);
        _markets[id] = Listed(uint16(number), kind, expiry, strike);
        ++version;
        emit MarketListed(id, feedId, kind, expiry, strike);
    }

    /// @dev Both ends of a ramp meet the bounds, so all between do; rounding toward the start can bring two
    /// parameters a wei closer than that, never imr below mmr.
    function _checkMargins(uint256 mmr, uint256 imr, uint256 shortMin) private pure {
        if (mmr < MMR_MIN || mmr > MMR_MAX) revert BadConfig("mmr");
        if (imr <= mmr || imr > WAD) revert BadConfig("imr");
        if (shortMin > mmr) revert BadConfig("shortMin");
    }

    function _checkHaircuts(uint256 hMM, uint256 hIM, uint256 saleDiscMax) private pure {
        if (hIM > hMM || hMM + saleDiscMax + SALE_MARGIN > WAD) revert BadConfig("haircuts");
    }

    function _checkDuration(uint256 duration, bool raises) private view returns (uint40 end, uint24 span) {
        uint256 least = raises ? RAMP_MIN : 0;
        if (duration < least || duration > RAMP_MAX) revert BadDuration(duration, least, RAMP_MAX);
        return (uint40(block.timestamp + duration), uint24(duration));
    }

    /// @dev Writes into what the caller has: a new struct for each leg would cost more than reading it.
    function _fill(Risk memory r, Terms storage t) private view {
        (r.mmr, r.imr, r.shortMin) = (t.to.mmr, t.to.imr, t.to.shortMin);
        uint256 end = t.to.end;
        if (block.timestamp >= end) return;
        uint256 start = end - t.to.span;
        r.mmr = RampMath.between(t.from.mmr, r.mmr, start, end, block.timestamp);
        r.imr = RampMath.between(t.from.imr, r.imr, start, end, block.timestamp);
        r.shortMin = RampMath.between(t.from.shortMin, r.shortMin, start, end, block.timestamp);
    }

    function _describe(Market memory m, uint16 id) private view returns (Terms storage t) {
        Listed storage listed = _markets[id];
        uint256 number = listed.underlying;
        if (number == 0) revert UnknownMarket(id);
        t = _terms[number];
        (m.feedId, m.kind, m.expiry, m.strike) = (t.feedId, listed.kind, listed.expiry, listed.strike);
    }

    function _factors(Kept storage c) private view returns (uint256 hMM, uint256 hIM) {
        (hMM, hIM) = (c.to.hMM, c.to.hIM);
        uint256 end = c.to.end;
        if (block.timestamp >= end) return (hMM, hIM);
        uint256 start = end - c.to.span;
        hMM = RampMath.between(c.fromHMM, hMM, start, end, block.timestamp);
        hIM = RampMath.between(c.fromHIM, hIM, start, end, block.timestamp);
    }

    function _termsOf(bytes32 feedId) private view returns (Terms storage) {
        uint256 number = _numberOf[feedId];
        if (number == 0) revert UnknownUnderlying(feedId);
        return _terms[number];
    }

    /// @dev What is listed has had a time at which its haircuts were set.
    function _keptOf(uint8 id) private view returns (Kept storage c) {
        c = _collaterals[id];
        if (c.to.end == 0) revert UnknownCollateral(id);
    }
}
