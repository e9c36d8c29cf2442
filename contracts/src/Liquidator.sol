// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";
import {Clearing} from "./Clearing.sol";
import {MarginMath} from "./MarginMath.sol";
import {OracleRouter} from "./OracleRouter.sol";
import {Portfolio} from "./Portfolio.sol";
import {Slope, SlopeParams} from "./Slope.sol";
import {Slopes} from "./Slopes.sol";
import {Vault} from "./Vault.sol";
import {Balance, Bundle, FeedPrice, Leg, Margin, Position, State, View, WAD, ownerOf} from "./HybridTypes.sol";
import {IBackstop, IBreaker, IInstruments, ILiquidatorTerms, IMarginEngine} from "./interfaces/IModules.sol";

/// @title From the alarm to the last slice
/// @notice The fast price flags and takes nothing; the slow price must confirm, with evidence newer than the
/// flag; then the account is reduced along the slope, slice by slice, until it is cured or nothing is left.
/// Where no fast price was accepted for ten minutes the slow price acts alone, later and on a standing clock.
contract Liquidator is ILiquidatorTerms, ReentrancyGuardTransient {
    using MarginMath for Margin;

    /// @param bond the flagger's, WAD, while it is held
    /// @param tau active seconds of the slope, tauAtFlag of them carried over from an earlier episode
    /// @param feeCap the least theta E / N since confirmation, WAD
    /// @param stepUsed part of the book at stepStart that went since, WAD
    /// @param trancheNonce counts slices, and nothing else, so that nobody can spoil a taker's call
    /// @param carryTau,carriedAt what a cure left behind for a new flag within the hour
    /// @param slope the version that the episode follows from its flag to its end
    /// @param insolventTau tau + 1 since E <= 0 at all three prices without collateral; 0 while it is not so
    struct Flag {
        address flagger;
        uint128 bond;
        uint40 flaggedAt;
        uint40 flaggedBlock;
        uint32 tauAtFlag;
        uint32 tau;
        uint40 lastPoke;
        uint32 tauAtConfirm;
        uint40 confirmedAt;
        uint64 feeCap;
        uint40 stepStart;
        uint64 stepUsed;
        uint64 trancheNonce;
        uint32 carryTau;
        uint40 carriedAt;
        uint16 slope;
        uint40 insolventTau;
    }

    /// @notice What a taker asks of a slice.
    /// @param fMin,fMax bounds on the fraction closed, WAD
    /// @param minFee the least fee for the taker, WAD of quote
    struct SliceTerms {
        bytes32 taker;
        uint64 trancheNonce;
        uint40 deadline;
        uint64 fMin;
        uint64 fMax;
        uint128 minFee;
    }

    /// @notice Notional of one underlying that slices moved lately; it drains by the feed's cap in a minute.
    /// @param used WAD of quote, as it was at `at`
    struct Bucket {
        uint128 used;
        uint40 at;
    }

    /// @dev What a book holds of one underlying, and what the bucket allows of it.
    /// @param notional what there is to hedge: of an option that has a risk array, delta times the underlying's
    struct Room {
        bytes32 feedId;
        uint256 notional;
        uint256 used;
        uint256 cap;
    }

    /// @notice Seconds that an account has after an act that passed initial margin before it can be flagged.
    uint256 public constant COOL_OFF = 12;
    uint256 public constant POKE_CAP = 30;
    uint256 public constant EXPIRY_ACTIVE = 30 minutes;
    uint256 public constant EXPIRY_WALL = 6 hours;
    uint256 public constant CARRY_SPAN = 1 hours;
    /// @dev ln(2) / 3600 in WAD: a carried tau halves every hour.
    uint256 internal constant CARRY_DECAY = 192_540_883_488_873;
    uint256 public constant MAX_DIVERGENCE = 0.3e18;
    uint256 public constant BOND_MIN = 50e18;
    uint256 public constant BOND_MAX = 5_000e18;
    uint256 public constant BOND_RATE = 0.0002e18;
    uint256 public constant REWARD_BASE = 20e18;
    uint256 public constant REWARD_RATE = 0.0001e18;
    uint256 public constant REWARD_EQUITY_SHARE = 0.1e18;
    uint256 public constant TAKER_SHARE = 0.8e18;
    /// @notice Seconds in which a full bucket drains.
    uint256 public constant BUCKET_SPAN = 60;
    /// @notice Active seconds in which what the insurance offers for an account without equity rises to its most.
    uint256 public constant INSOLVENCY_RAMP = 600;
    /// @notice How long a breaker at its highest level holds back the slices of accounts without equity.
    uint256 public constant BREAKER_PATIENCE = 1 hours;

    Clearing public immutable clearing;
    IMarginEngine public immutable engine;
    /// @notice The versions of the slope.
    Slopes public immutable registry;
    IInstruments public immutable instruments;
    IBackstop public immutable backstop;
    IBreaker public immutable breaker;
    Vault public immutable vault;
    OracleRouter public immutable router;
    address public immutable quote;

    mapping(bytes32 feedId => Bucket) public buckets;
    mapping(bytes32 => Flag) private _flags;

    event Flagged(bytes32 indexed acct, address indexed flagger, int256 equity, uint256 requirement, uint256 bond);
    event Cleared(bytes32 indexed acct, uint256 slash);
    event Expired(bytes32 indexed acct);
    event SlowPrice(bytes32 indexed feedId, uint256 price, uint256 updatedAt);
    event Confirmed(
        bytes32 indexed acct, uint256[] fast, uint256[] slow, int256 equity, uint256 requirement, uint256 reward
    );
    event Poked(bytes32 indexed acct, uint256 tau);
    event CollateralSold(bytes32 indexed acct, uint8 indexed collateral, address buyer, uint256 amount, uint256 paid);
    event Tranche(
        bytes32 indexed acct,
        bytes32 indexed taker,
        uint256 f,
        uint256 q,
        uint256 kappa,
        uint256 notional,
        uint256 fee,
        int256 equityBefore,
        uint256 requirementBefore,
        int256 equityAfter,
        uint256 requirementAfter
    );
    event Cured(bytes32 indexed acct, uint256 carryTau);
    event BondSettled(bytes32 indexed acct, address indexed flagger, uint256 returned, uint256 slashed);
    event InsolventSince(bytes32 indexed acct, uint256 insolventTau);
    event Insolvent(bytes32 indexed acct, uint256 badDebt);
    event ActFailed(uint256 index, bytes4 error);

    error WrongState(bytes32 acct, State state);
    error OwnAccount(bytes32 acct);
    error CoolOff(bytes32 acct);
    error StaleOracle(bytes32 acct);
    error NotBreached(int256 equity, uint256 requirement);
    error StillBreached(int256 equity, uint256 requirement);
    error TooSoon(uint256 earliest, uint256 nowS);
    error TooFewBlocks(uint256 blockNumber, uint256 needed);
    error NoSlowEvidence(bytes32 feedId);
    error NoNewFastPrice(bytes32 feedId, uint256 observedAt, uint256 needed);
    error TooDivergent(bytes32 feedId);
    error NotUnfounded(bytes32 acct);
    error NotExpired(bytes32 acct);
    error NotCurable(bytes32 acct);
    error WrongTranche(uint256 given, uint256 current);
    error PastDeadline(uint256 deadline);
    error StepCapReached(uint256 used, uint256 cap);
    error SliceOutside(uint256 f, uint256 fMin, uint256 fMax);
    error EmptySlice(bytes32 acct);
    error FeeTooLow(uint256 fee, uint256 wanted);
    error TakerBelowMargin(bytes32 taker, int256 equity, uint256 requirement);
    error NothingToSell(bytes32 acct);
    error NotInsolvent(bytes32 acct);
    error ArraysSilent(bytes32 acct);
    error BreakerTripped(uint256 level);
    error BucketEmpty(bytes32 feedId);
    error GasTooLow();

    constructor(
        Clearing clearing_,
        IMarginEngine engine_,
        IInstruments instruments_,
        IBackstop backstop_,
        IBreaker breaker_,
        SlopeParams memory slope_,
        address admin
    ) {
        (clearing, engine, instruments, backstop, breaker) = (clearing_, engine_, instruments_, backstop_, breaker_);
        (vault, router, quote) = (clearing_.vault(), clearing_.router(), clearing_.quote());
        registry = new Slopes(clearing_, engine_, slope_, admin);
    }

    // --- acts ---

    /// @notice Carry out several acts of the caller's, each by itself: one that fails changes nothing and
    /// stops no other. A batch with too little gas for an act reverts as a whole, so that nobody makes the
    /// acts of a keeper fail by starving them.
    /// @param calls encoded calls of this contract
    /// @return done which of them succeeded
    function batch(bytes[] calldata calls) external returns (bool[] memory done) {
        done = new bool[](calls.length);
        for (uint256 i; i < calls.length; ++i) {
            uint256 gasBefore = gasleft();
            (bool ok, bytes memory result) = address(this).delegatecall(calls[i]);
            done[i] = ok;
            if (ok) continue;
            bytes4 error = bytes4(result);
            // A call keeps a 64th of its caller's gas back at each depth, and an act goes eight deep at most.
            bool starved = result.length == 0 && gasleft() < gasBefore / 8;
            if (starved || error == GasTooLow.selector) revert GasTooLow();
            emit ActFailed(i, error);
        }
    }

    /// @notice Raise the alarm: the fast price says E < (1 + betaFlag) M. Takes a bond from the caller's
    /// credit and makes the account reduce-only.
    function flag(bytes32 acct, Bundle[] calldata reports) external nonReentrant {
        _post(reports);
        _requireBreakerBelow(2);
        (State state, uint256 lastRiskAt, uint256 lastRiskBlock,,,) = clearing.status(acct);
        if (state != State.Healthy) revert WrongState(acct, state);
        if (msg.sender == ownerOf(acct)) revert OwnAccount(acct);
        if (block.timestamp < lastRiskAt + COOL_OFF || block.number <= lastRiskBlock) revert CoolOff(acct);
        uint16 id = slopeOf(acct);
        SlopeParams memory p = _slope(id);
        View memory v = _at(acct, p.bandBase);
        if (!(v.fastFresh || v.slowOnly)) revert StaleOracle(acct);
        if (v.arraysSilent) revert ArraysSilent(acct);
        _requireBelow(v.atFast, WAD + p.betaFlag);

        uint256 bond = FixedPointMathLib.clamp(v.atFast.notional * BOND_RATE / WAD, BOND_MIN, BOND_MAX);
        _moveQuote(msg.sender, address(this), bond);
        Flag storage f = _flags[acct];
        uint32 carry = _carry(f, p.tSlope);
        (f.flagger, f.bond) = (msg.sender, uint128(bond));
        (f.flaggedAt, f.flaggedBlock) = (uint40(block.timestamp), uint40(block.number));
        (f.tauAtFlag, f.tau, f.lastPoke) = (carry, carry, uint40(block.timestamp));
        (f.tauAtConfirm, f.confirmedAt, f.feeCap, f.stepStart, f.stepUsed) = (0, 0, 0, 0, 0);
        (f.slope, f.insolventTau) = (id, 0);
        clearing.setState(acct, State.Flagged);
        emit Flagged(acct, msg.sender, v.atFast.equity, v.atFast.requirement, bond);
    }

    /// @notice End an alarm that was unfounded: both oracles, with evidence newer than the flag, show the
    /// account above the flag level without the help it got since. The bond goes half to it, half to insurance.
    function clear(bytes32 acct, Bundle[] calldata reports) external nonReentrant {
        _post(reports);
        _requireState(acct, State.Flagged);
        (View memory v, SlopeParams memory p) = _look(acct);
        if (!_unfounded(acct, v, p)) revert NotUnfounded(acct);
        _clear(acct);
    }

    /// @notice End an alarm that nothing confirmed: 30 minutes of active time, or six hours. The bond returns,
    /// for no slow evidence ever contradicted the flagger.
    function expire(bytes32 acct) external nonReentrant {
        _requireState(acct, State.Flagged);
        (View memory v,) = _look(acct);
        _poke(acct, v);
        Flag storage f = _flags[acct];
        if (f.tau - f.tauAtFlag < EXPIRY_ACTIVE && block.timestamp < f.flaggedAt + EXPIRY_WALL) {
            revert NotExpired(acct);
        }
        clearing.setState(acct, State.Healthy);
        emit Expired(acct);
        _returnBond(acct);
    }

    /// @notice Advance the account's active clock: it stands while any of its feeds is stale or one of its
    /// options' risk arrays silent, and while the breaker is at level 2. Notes since when equity is gone.
    function poke(bytes32 acct) external nonReentrant {
        _requireEpisode(acct);
        (View memory v,) = _look(acct);
        _poke(acct, v);
    }

    /// @notice State that the slow oracle agrees: E < (1 + betaFlag) M at the fast, the slow and the execution
    /// price, no sooner than T_min and two blocks after the flag, on evidence newer than the flag. Where the
    /// slow oracle acts alone it takes twice T_min, and a round from after the flag.
    function confirm(bytes32 acct, Bundle[] calldata reports) external nonReentrant {
        _post(reports);
        _requireBreakerBelow(2);
        _requireState(acct, State.Flagged);
        (View memory v, SlopeParams memory p) = _look(acct);
        _poke(acct, v);
        Flag storage f = _flags[acct];
        _requireUsable(acct, v);
        if (block.number < f.flaggedBlock + 2) revert TooFewBlocks(block.number, f.flaggedBlock + 2);
        _requireEvidence(v, f.flaggedAt);
        uint256 level = WAD + p.betaFlag;
        _requireBelow(v.atFast, level);
        _requireBelow(v.atSlow, level);
        _requireBelow(v.atExec, level);

        (f.tauAtConfirm, f.confirmedAt) = (f.tau, uint40(block.timestamp));
        // Without equity there is nothing to cap a fee by; an account that comes back offers one again.
        f.feeCap = v.atExec.equity > 0 ? uint64(Slope.feeCap(p, v.atExec)) : type(uint64).max;
        clearing.setState(acct, State.Confirmed);
        uint256 reward = _reward(f, v.atExec);
        emit Confirmed(acct, v.fast, v.slow, v.atExec.equity, v.atExec.requirement, reward);
        if (reward > 0) clearing.payReward(acct, f.flagger, reward);
        _returnBond(acct);
    }

    /// @notice Take over one proportional slice of a confirmed account's book, at the execution price and for
    /// the current fee. Ends the episode when the account is safe, or closes it when nothing is left.
    function liquidate(bytes32 acct, SliceTerms calldata terms, Bundle[] calldata reports) external nonReentrant {
        _post(reports);
        if (block.timestamp > terms.deadline) revert PastDeadline(terms.deadline);
        _requireState(acct, State.Confirmed);
        Flag storage flag_ = _flags[acct];
        if (terms.trancheNonce != flag_.trancheNonce) revert WrongTranche(terms.trancheNonce, flag_.trancheNonce);
        if (ownerOf(terms.taker) != msg.sender || msg.sender == ownerOf(acct)) revert OwnAccount(terms.taker);
        _requireState(terms.taker, State.Healthy);
        SlopeParams memory p = _slope(flag_.slope);

        (View memory v, uint256 t) = _lookAndPoke(acct, flag_, p);
        uint256 q = Slope.decay(p, flag_.tau);
        _requireBelowScaled(v.atFast, q);
        _requireBelowScaled(v.atSlow, q);
        _requireBelowScaled(v.atExec, q);
        Margin memory before = v.atExec;

        int256 cash = v.book.cash;
        bool insolvent = _insolvent(v);
        // A holding that is sold whole takes its feed with it, silent though it may be.
        bool slowOnly = v.slowOnly;
        if (cash < 0) v = _sellForDebt(acct, v, p, q, t, terms.taker);
        (uint256 kappa, bool insured) = _terms(p, flag_, v, t, insolvent);
        uint256 f = _fraction(p, flag_, v, kappa, q, terms.fMax);
        if (f < terms.fMin || f > terms.fMax) revert SliceOutside(f, terms.fMin, terms.fMax);
        // A call that moves nothing must not move the nonce either, or it would spoil every other taker's.
        if (f == 0 && v.book.cash == cash) revert EmptySlice(acct);

        uint256 notional = clearing.takeSlice(acct, terms.taker, f, v.legPrices, _underlyings(v));
        uint256 fee = kappa * notional / WAD;
        uint256 takerFee = fee * TAKER_SHARE / WAD;
        if (fee > 0) clearing.payFee(acct, terms.taker, fee, takerFee);
        if (insured) {
            uint256 wanted = _incentive(p, flag_, _risk(v) * f / WAD, notional);
            takerFee += clearing.payFromInsurance(acct, terms.taker, wanted);
        }
        if (takerFee < terms.minFee) revert FeeTooLow(takerFee, terms.minFee);
        flag_.trancheNonce += 1;

        View memory later = _at(acct, Slope.band(p, t));
        emit Tranche(
            acct,
            terms.taker,
            f,
            q,
            kappa,
            notional,
            fee,
            before.equity,
            before.requirement,
            later.atExec.equity,
            later.atExec.requirement
        );
        bool written = later.book.legs.length == 0 && _writeOff(acct);
        if (!written && _curable(later, p)) _cure(acct);
        // Last, so that it sees the taker's share of a loss that was written off to the markets.
        _requireTakerMargin(terms.taker, slowOnly);
    }

    /// @notice End an episode: H >= 1 + betaCure at both oracles, or no open risk. An alarm that was unfounded
    /// ends as by `clear`, so that nobody saves the bond of a false one by calling this first.
    function cure(bytes32 acct, Bundle[] calldata reports) external nonReentrant {
        _post(reports);
        State state = _requireEpisode(acct);
        (View memory v, SlopeParams memory p) = _look(acct);
        _poke(acct, v);
        if (!_curable(v, p)) revert NotCurable(acct);
        if (state == State.Flagged && _unfounded(acct, v, p)) _clear(acct);
        else _cure(acct);
    }

    /// @notice Buy collateral, at the sale discount, from an account that has only debt besides it.
    /// @param maxPaid the most quote that the caller pays from its credit, WAD
    function buyCollateral(bytes32 acct, uint8 collateral, uint256 maxPaid, uint256 minAmount) external nonReentrant {
        (,,, uint256 debtSince,,) = clearing.status(acct);
        if (debtSince == 0 || msg.sender == ownerOf(acct)) revert NothingToSell(acct);
        uint256 t = block.timestamp - debtSince;
        SlopeParams memory p = _slope(slopeOf(acct));
        View memory v = _at(acct, Slope.band(p, t));
        for (uint256 j; j < v.book.holdings.length; ++j) {
            if (v.book.holdings[j].collateral != collateral) continue;
            // Nothing but this price counts: dust of another collateral must not stop the sale.
            FeedPrice memory feed = v.feeds[j];
            if (!(feed.slowFresh && (feed.fastFresh || feed.silent))) revert StaleOracle(acct);
            uint256 price = _salePrice(p, v, j, t);
            uint256 owed = FixedPointMathLib.min(uint256(-v.book.cash), maxPaid);
            uint256 amount = FixedPointMathLib.min(v.book.holdings[j].amount, _worth(owed, price));
            if (amount < minAmount || amount == 0) revert NothingToSell(acct);
            _sell(acct, collateral, amount, _paid(amount, price, owed), bytes32(0));
            _writeOff(acct);
            return;
        }
        revert NothingToSell(acct);
    }

    /// @notice Close an account that has nothing left but debt.
    function writeOff(bytes32 acct) external nonReentrant {
        if (!_writeOff(acct)) revert NotInsolvent(acct);
    }

    // --- views ---

    function flagOf(bytes32 acct) external view returns (Flag memory) {
        return _flags[acct];
    }

    /// @notice The slope that a running episode follows, or the account's next one.
    function slopeOf(bytes32 acct) public view returns (uint16) {
        State state = _stateOf(acct);
        if (state == State.Flagged || state == State.Confirmed) return _flags[acct].slope;
        return registry.nextOf(acct);
    }

    /// @notice Where the account's slope ends: at H = 1 + beta, WAD. Its initial margin is that of mmr (1 + beta)
    /// at least, or an account opened at full leverage would be flagged on the first downtick.
    function betaOf(bytes32 acct) public view returns (uint256) {
        return registry.betaOf(slopeOf(acct));
    }

    /// @notice The fee and the band around the slow price by which a trade that reduces an account below initial
    /// margin is judged, WAD; the fee is capped by theta of today's equity, as a slice's is. What the trade does to
    /// the account's health beyond that is the Clearing's to judge.
    function reduceTerms(bytes32 acct) external view returns (uint256 fee, uint256 band) {
        Flag storage f = _flags[acct];
        SlopeParams memory p = _slope(slopeOf(acct));
        bool confirmed = _stateOf(acct) == State.Confirmed;
        uint256 t = confirmed ? _sinceConfirmation(f) : 0;
        band = Slope.band(p, t);
        uint256 cap = Slope.feeCap(p, _at(acct, band).atExec);
        if (confirmed) cap = FixedPointMathLib.min(cap, f.feeCap);
        fee = Slope.fee(p, t, cap);
    }

    // --- inside: looking ---

    // What is asked of other contracts at several places is asked at one: this contract is near the limit of size.

    function _at(bytes32 acct, uint256 band) private view returns (View memory) {
        return engine.look(acct, band);
    }

    function _slope(uint16 id) private view returns (SlopeParams memory) {
        return registry.slopes(id);
    }

    function _stateOf(bytes32 acct) private view returns (State state) {
        (state,,,,,) = clearing.status(acct);
    }

    function _moveQuote(address from, address to, uint256 amount) private {
        vault.move(quote, from, to, amount);
    }

    /// @dev The account now, by the slope of its episode.
    function _look(bytes32 acct) private view returns (View memory v, SlopeParams memory p) {
        Flag storage f = _flags[acct];
        p = _slope(f.slope);
        v = _at(acct, Slope.band(p, _sinceConfirmation(f)));
    }

    /// @dev The account by the clock as the poke leaves it. The clock moves when all is fresh and stands when the
    /// slow oracle acts alone; nothing else may be sliced, so that one look suffices but for the latter case.
    function _lookAndPoke(bytes32 acct, Flag storage f, SlopeParams memory p)
        private
        returns (View memory v, uint256 t)
    {
        uint256 level = breaker.level();
        uint256 gain = level < 2 ? _gain(f) : 0;
        t = _sinceConfirmation(f);
        v = _at(acct, Slope.band(p, t + gain));
        _requireUsable(acct, v);
        if (v.fresh) t += gain;
        else if (gain > 0) v = _at(acct, Slope.band(p, t));
        if (v.fresh && level < 2) _advance(acct, f, gain);
        _watchEquity(acct, f, v);
        // The highest level holds back every slice, but does not let a loss grow for ever.
        bool late = _insolvent(v) && block.timestamp >= breaker.raisedAt() + BREAKER_PATIENCE;
        if (level > 2 && !late) revert BreakerTripped(level);
    }

    function _gain(Flag storage f) private view returns (uint256) {
        return FixedPointMathLib.min(block.timestamp - f.lastPoke, POKE_CAP);
    }

    function _sinceConfirmation(Flag storage f) private view returns (uint256) {
        return f.confirmedAt == 0 ? 0 : f.tau - f.tauAtConfirm;
    }

    /// @dev Both oracles, or the slow one where it may act alone.
    function _priced(View memory v) private pure returns (bool) {
        return (v.fastFresh && v.slowFresh) || v.slowOnly;
    }

    function _requireUsable(bytes32 acct, View memory v) private pure {
        if (!_priced(v)) revert StaleOracle(acct);
        if (v.arraysSilent) revert ArraysSilent(acct);
    }

    function _insolvent(View memory v) private pure returns (bool) {
        return v.atExec.equity <= 0 && v.atFast.equity <= 0 && v.atSlow.equity <= 0;
    }

    function _curable(View memory v, SlopeParams memory p) private pure returns (bool) {
        if (v.book.legs.length == 0) return v.book.cash >= 0;
        uint256 level = WAD + p.betaCure;
        return _priced(v) && !v.atFast.below(level) && !v.atSlow.below(level);
    }

    /// @dev The bond answers for an alarm that both oracles contradict while nobody came to help. Without
    /// that last part an owner could top up, clear, and be paid for having been in danger. Risk arrays that are
    /// silent contradict nothing.
    function _unfounded(bytes32 acct, View memory v, SlopeParams memory p) private view returns (bool) {
        (,,,, uint256 aid, bool reduced) = clearing.status(acct);
        uint256 since = _flags[acct].flaggedAt;
        if (reduced || v.arraysSilent || !_priced(v)) return false;
        for (uint256 i; i < v.feeds.length; ++i) {
            FeedPrice memory feed = v.feeds[i];
            // The newer evidence of a feed whose fast price is silent is the slow one's.
            uint256 newest = feed.silent ? feed.slowAt : feed.fastAt;
            if (newest <= since || !_slowEvidence(feed, since)) return false;
        }
        Margin memory fast = v.atFast;
        Margin memory slow = v.atSlow;
        uint256 level = WAD + p.betaFlag;
        return (fast.equity - int256(aid)) * int256(WAD) >= int256(level * fast.requirement)
            && (slow.equity - int256(aid)) * int256(WAD) >= int256(level * slow.requirement);
    }

    /// @dev A round since the flag; or an older one within its heartbeat that the fast price has not left by
    /// more than the feed's deviation. Demanding a new round alone would let a dust position on a slow feed
    /// block confirmation for ever. Where the fast price is silent nothing vouches for an older round.
    function _slowEvidence(FeedPrice memory p, uint256 since) private view returns (bool) {
        if (p.slowAt >= since) return true;
        return !p.silent && block.timestamp - p.slowAt <= p.heartbeat && _apart(p) <= p.deviation;
    }

    /// @dev |fast / slow - 1|, rounded up.
    function _apart(FeedPrice memory p) private pure returns (uint256) {
        uint256 difference = p.fast > p.slow ? p.fast - p.slow : p.slow - p.fast;
        return (difference * WAD + p.slow - 1) / p.slow;
    }

    function _requireEvidence(View memory v, uint256 since) private {
        for (uint256 i; i < v.feeds.length; ++i) {
            FeedPrice memory p = v.feeds[i];
            bytes32 feedId = v.feedIds[i];
            uint256 earliest = since + (p.silent ? 2 : 1) * p.minDelay;
            if (block.timestamp < earliest) revert TooSoon(earliest, block.timestamp);
            uint256 needed = since + p.minDelay / 2;
            if (!p.silent && p.fastAt < needed) revert NoNewFastPrice(feedId, p.fastAt, needed);
            if (!_slowEvidence(p, since)) revert NoSlowEvidence(feedId);
            if (!p.silent && _apart(p) > MAX_DIVERGENCE) revert TooDivergent(feedId);
            emit SlowPrice(feedId, p.slow, p.slowAt);
        }
    }

    function _requireBelow(Margin memory m, uint256 level) private pure {
        if (!m.below(level)) revert NotBreached(m.equity, m.requirement);
    }

    function _requireBelowScaled(Margin memory m, uint256 q) private pure {
        if (Slope.scaled(m.equity, q) >= int256(m.requirement)) revert NotBreached(m.equity, m.requirement);
    }

    function _requireState(bytes32 acct, State wanted) private view {
        State state = _stateOf(acct);
        if (state != wanted) revert WrongState(acct, state);
    }

    function _requireEpisode(bytes32 acct) private view returns (State state) {
        state = _stateOf(acct);
        if (state != State.Flagged && state != State.Confirmed) revert WrongState(acct, state);
    }

    function _requireBreakerBelow(uint256 barred) private view {
        uint256 level = breaker.level();
        if (level >= barred) revert BreakerTripped(level);
    }

    function _requireTakerMargin(bytes32 taker, bool slowOnly) private view {
        uint256 beta = betaOf(taker);
        (bool ok, Margin memory worst) = slowOnly ? engine.initialSlow(taker, beta) : engine.initial(taker, beta);
        if (!ok) revert TakerBelowMargin(taker, worst.equity, worst.requirement);
    }

    // --- inside: doing ---

    function _post(Bundle[] calldata reports) private {
        if (reports.length > 0) router.fastOracle().postNewer(reports);
    }

    function _poke(bytes32 acct, View memory v) private {
        if (breaker.level() > 1) return;
        Flag storage f = _flags[acct];
        if (v.fresh) _advance(acct, f, _gain(f));
        if (_priced(v) && !v.arraysSilent) _watchEquity(acct, f, v);
    }

    function _advance(bytes32 acct, Flag storage f, uint256 gain) private {
        f.tau += uint32(gain);
        f.lastPoke = uint40(block.timestamp);
        emit Poked(acct, f.tau);
    }

    /// @dev Starts and ends the count of what the insurance offers for an account that has nothing left.
    function _watchEquity(bytes32 acct, Flag storage f, View memory v) private {
        bool gone = _insolvent(v) && v.book.holdings.length == 0;
        if (gone == (f.insolventTau != 0)) return;
        f.insolventTau = gone ? f.tau + 1 : 0;
        emit InsolventSince(acct, f.insolventTau);
    }

    function _carry(Flag storage f, uint256 tSlope) private view returns (uint32) {
        uint256 since = block.timestamp - f.carriedAt;
        if (since > CARRY_SPAN) return 0;
        uint256 tau = FixedPointMathLib.min(f.carryTau, tSlope);
        return uint32(tau * uint256(FixedPointMathLib.expWad(-int256(CARRY_DECAY * since))) / WAD);
    }

    /// @dev Once an episode: an account flagged again within the hour after its cure pays no second reward.
    function _reward(Flag storage f, Margin memory m) private view returns (uint256) {
        if (m.equity <= 0 || (f.carriedAt != 0 && f.flaggedAt <= f.carriedAt + CARRY_SPAN)) return 0;
        uint256 wanted = REWARD_BASE + m.notional * REWARD_RATE / WAD;
        // What the Clearing does not hold in quote it cannot pay; the alarm counts all the same.
        wanted = FixedPointMathLib.min(wanted, vault.credit(quote, address(clearing)));
        return FixedPointMathLib.min(wanted, uint256(m.equity) * REWARD_EQUITY_SHARE / WAD);
    }

    /// @dev The fee of a slice, and whether the insurance pays it. With positive equity each slice lowers the
    /// cap of those that follow. Without any, the book's worth without haircuts bounds the smallest fee; where
    /// that is gone as well, and equity at all three prices, the insurance pays: an owner who takes over his own
    /// book through a second address must not be paid for it while his collateral still covers the fee.
    function _terms(SlopeParams memory p, Flag storage f, View memory v, uint256 t, bool insolvent)
        private
        returns (uint256 kappa, bool insured)
    {
        if (v.atExec.equity <= 0) {
            int256 worth = MarginMath.worth(v.book, v.exec, v.atExec.equity);
            uint256 most = Slope.feeCap(p, Margin(worth, 0, v.atExec.notional));
            // What an account that was confirmed with equity pays in all stays below its share of it.
            if (!insolvent) most = FixedPointMathLib.min(most, f.feeCap);
            kappa = Slope.fee(p, 0, most);
            return (kappa, insolvent && worth <= 0);
        }
        uint256 cap = FixedPointMathLib.min(f.feeCap, Slope.feeCap(p, v.atExec));
        f.feeCap = uint64(cap);
        kappa = Slope.fee(p, t, cap);
    }

    /// @dev What the insurance offers a taker: the smallest fee, or a share of the risk taken over that rises from
    /// nothing until somebody comes, on the episode's clock: not while nobody can.
    /// @param risk of the part taken over, WAD
    function _incentive(SlopeParams memory p, Flag storage f, uint256 risk, uint256 notional)
        private
        view
        returns (uint256)
    {
        // Never more than the risk that goes with it: an option without a price has the notional of its underlying.
        uint256 least = FixedPointMathLib.min(p.k0 * notional / WAD, risk);
        if (f.insolventTau == 0) return least;
        uint256 t = FixedPointMathLib.min(f.tau + 1 - f.insolventTau, INSOLVENCY_RAMP);
        return FixedPointMathLib.max(least, risk * t / INSOLVENCY_RAMP);
    }

    /// @dev M, but no more than as many units of the underlyings by themselves require: at max loss bought options
    /// require all that they are worth, though no unit of them moves by more than one of the underlying.
    function _risk(View memory v) private pure returns (uint256 risk) {
        Leg[] memory legs = v.book.legs;
        for (uint256 i; i < legs.length; ++i) {
            if (legs[i].settlement != 0) continue;
            uint256 notional = MarginMath.mulWadUp(MarginMath.abs(legs[i].size), v.exec[i]);
            risk += MarginMath.mulWadUp(notional, legs[i].risk.mmr);
        }
        risk = FixedPointMathLib.min(risk, v.atExec.requirement);
    }

    /// @dev The part to close: the slope's, within the taker's wish, the step window and the buckets, raised to
    /// the smallest slice, and everything where only dust would stay.
    function _fraction(
        SlopeParams memory p,
        Flag storage f,
        View memory v,
        uint256 kappa,
        uint256 q,
        uint256 fMax
    ) private returns (uint256 part) {
        Margin memory m = v.atExec;
        part = FixedPointMathLib.min(Slope.closeable(m, kappa, q), fMax);
        bool capped = m.equity * 2 > int256(m.requirement);
        if (block.timestamp >= uint256(f.stepStart) + p.stepWindow) {
            (f.stepStart, f.stepUsed) = (uint40(block.timestamp), 0);
        }
        Room[] memory rooms = _rooms(v);
        if (capped) {
            if (f.stepUsed >= p.stepCap) revert StepCapReached(f.stepUsed, p.stepCap);
            // What is left of the window, as a fraction of what is left of the book.
            part = FixedPointMathLib.min(part, (p.stepCap - f.stepUsed) * WAD / (WAD - f.stepUsed));
            part = _withinRooms(rooms, part);
        }
        if (part > 0 && m.notional > 0) {
            uint256 least = (uint256(p.minSlice) * WAD + m.notional - 1) / m.notional;
            part = FixedPointMathLib.max(part, FixedPointMathLib.min(WAD, least));
            if (m.notional <= p.dust || m.notional * (WAD - part) / WAD < p.dust) part = WAD;
        }
        // Rounded up: a wei that seemed left would let one more smallest slice through.
        f.stepUsed += uint64(MarginMath.mulWadUp(part, WAD - f.stepUsed));
        _fill(rooms, part);
    }

    /// @dev The legs' underlyings, 0 for an option that is settled: it has no notional.
    function _underlyings(View memory v) private pure returns (uint256[] memory prices) {
        prices = new uint256[](v.book.legs.length);
        for (uint256 i; i < prices.length; ++i) {
            if (v.book.legs[i].settlement == 0) prices[i] = v.exec[i];
        }
    }

    /// @dev One entry for each feed of the legs, where its first leg stands; the others stay empty.
    function _rooms(View memory v) private view returns (Room[] memory rooms) {
        Leg[] memory legs = v.book.legs;
        rooms = new Room[](legs.length);
        for (uint256 i; i < legs.length; ++i) {
            if (legs[i].settlement != 0) continue;
            uint256 at;
            while (at < i && rooms[at].feedId != legs[i].feedId) ++at;
            Room memory room = rooms[at];
            uint256 held = MarginMath.abs(legs[i].size) * v.exec[i] / WAD;
            if (Portfolio.current(legs[i].array, v.exec[i], block.timestamp)) {
                held = held * MarginMath.abs(legs[i].array.delta) / WAD;
            }
            room.notional += held;
            if (at < i) continue;
            room.feedId = legs[i].feedId;
            room.cap = instruments.bucketCap(room.feedId);
            Bucket memory b = buckets[room.feedId];
            uint256 drained = room.cap * (block.timestamp - b.at) / BUCKET_SPAN;
            // The cap may have been lowered since.
            room.used = FixedPointMathLib.zeroFloorSub(FixedPointMathLib.min(b.used, room.cap), drained);
        }
    }

    /// @dev The largest part of the book, at most `part`, that every underlying's bucket has room for.
    function _withinRooms(Room[] memory rooms, uint256 part) private pure returns (uint256) {
        for (uint256 i; part > 0 && i < rooms.length; ++i) {
            Room memory room = rooms[i];
            if (room.notional == 0) continue;
            if (room.used >= room.cap) revert BucketEmpty(room.feedId);
            part = FixedPointMathLib.min(part, (room.cap - room.used) * WAD / room.notional);
        }
        return part;
    }

    /// @dev A slice that no bucket held back fills them as well, no further than to the brim.
    function _fill(Room[] memory rooms, uint256 part) private {
        for (uint256 i; i < rooms.length; ++i) {
            Room memory room = rooms[i];
            if (room.notional == 0) continue;
            uint256 used = room.used + MarginMath.mulWadUp(room.notional, part);
            buckets[room.feedId] =
                Bucket(uint128(FixedPointMathLib.min(used, room.cap)), uint40(block.timestamp));
        }
    }

    /// @dev Negative cash is paid off first, by selling collateral to the taker below p_L; a sale raises E.
    /// No more is sold than the debt, nor than lifts q E to M. A holding that is sold whole leaves the list.
    function _sellForDebt(bytes32 acct, View memory v, SlopeParams memory p, uint256 q, uint256 t, bytes32 taker)
        private
        returns (View memory)
    {
        uint256 band = Slope.band(p, t);
        while (v.book.cash < 0 && v.book.holdings.length > 0) {
            uint256 has = v.book.holdings[0].amount;
            uint256 price = _salePrice(p, v, 0, t);
            uint256 gain = price - v.exec[v.book.legs.length] * v.book.holdings[0].hMM / WAD;
            int256 missing = int256(v.atExec.requirement * WAD / q) - v.atExec.equity;
            if (missing <= 0) break;
            uint256 debt = uint256(-v.book.cash);
            uint256 amount = FixedPointMathLib.min(_worth(debt, price), uint256(missing) * WAD / gain);
            amount = FixedPointMathLib.min(amount, has);
            if (amount == 0) break;
            _sell(acct, v.book.holdings[0].collateral, amount, _paid(amount, price, debt), taker);
            v = _at(acct, band);
            if (amount < has) break;
        }
        return v;
    }

    /// @dev p_L (1 - delta), delta rising from 0 to its most over tSlope; rounded up, in the account's favour.
    function _salePrice(SlopeParams memory p, View memory v, uint256 j, uint256 t) private pure returns (uint256) {
        uint256 discount = v.book.holdings[j].saleDiscMax * FixedPointMathLib.min(t, p.tSlope) / p.tSlope;
        return MarginMath.mulWadUp(v.exec[v.book.legs.length + j], WAD - discount);
    }

    /// @dev The collateral that `owed` buys, rounded up: rounded down it would leave a debt of a few wei that
    /// no whole wei of collateral pays, and the account could be neither cured nor closed.
    function _worth(uint256 owed, uint256 price) private pure returns (uint256) {
        return (owed * WAD + price - 1) / price;
    }

    function _paid(uint256 amount, uint256 price, uint256 owed) private pure returns (uint256) {
        return FixedPointMathLib.min(owed, MarginMath.mulWadUp(amount, price));
    }

    function _sell(bytes32 acct, uint8 collateral, uint256 amount, uint256 paid, bytes32 taker) private {
        clearing.sellHolding(acct, collateral, amount, paid, msg.sender, taker);
        emit CollateralSold(acct, collateral, msg.sender, amount, paid);
    }

    function _clear(bytes32 acct) private {
        clearing.setState(acct, State.Healthy);
        emit Cleared(acct, _flags[acct].bond);
        _slashBond(acct);
    }

    function _cure(bytes32 acct) private {
        Flag storage f = _flags[acct];
        (f.carryTau, f.carriedAt) = (f.tau, uint40(block.timestamp));
        clearing.setState(acct, State.Healthy);
        emit Cured(acct, f.tau);
        _returnBond(acct);
    }

    function _returnBond(bytes32 acct) private {
        Flag storage f = _flags[acct];
        uint256 bond = f.bond;
        if (bond == 0) return;
        f.bond = 0;
        _moveQuote(address(this), f.flagger, bond);
        emit BondSettled(acct, f.flagger, bond, 0);
    }

    function _slashBond(bytes32 acct) private {
        Flag storage f = _flags[acct];
        uint256 bond = f.bond;
        f.bond = 0;
        _moveQuote(address(this), address(clearing), bond);
        clearing.receiveBond(acct, bond / 2, bond - bond / 2);
        emit BondSettled(acct, f.flagger, 0, bond);
    }

    /// @dev Insolvent: no position, no collateral, and cash below zero.
    function _writeOff(bytes32 acct) private returns (bool) {
        (int256 cash, Position[] memory positions, Balance[] memory balances) = clearing.account(acct);
        if (positions.length > 0 || balances.length > 0 || cash >= 0) return false;
        uint256 amount = clearing.writeOff(acct);
        emit Insolvent(acct, amount);
        _returnBond(acct);
        return true;
    }
}
