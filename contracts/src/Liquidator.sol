// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";
import {FixedPointMathLib} from "solady/utils/FixedPointMathLib.sol";
import {Clearing} from "./Clearing.sol";
import {MarginMath} from "./MarginMath.sol";
import {OracleRouter} from "./OracleRouter.sol";
import {Slope, SlopeParams} from "./Slope.sol";
import {Vault} from "./Vault.sol";
import {Book, Bundle, FeedPrice, Margin, State, WAD, ownerOf} from "./HybridTypes.sol";

/// @title From the alarm to the last slice
/// @notice The fast price flags and takes nothing; the slow price must confirm, with evidence newer than the
/// flag; then the account is reduced along the slope, slice by slice, until it is cured or nothing is left.
contract Liquidator is ReentrancyGuard {
    using MarginMath for Margin;

    /// @param bond the flagger's, WAD, while it is held
    /// @param tau active seconds of the slope, tauAtFlag of them carried over from an earlier episode
    /// @param feeCap the least theta E / N since confirmation, WAD
    /// @param stepUsed part of the book at stepStart that went since, WAD
    /// @param trancheNonce counts slices, and nothing else, so that nobody can spoil a taker's call
    /// @param carryTau,carriedAt what a cure left behind for a new flag within the hour
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

    /// @dev An account at the three price vectors. Prices list the legs first, then the holdings.
    struct View {
        Book book;
        FeedPrice[] feeds;
        uint256[] fast;
        uint256[] slow;
        uint256[] exec;
        Margin atFast;
        Margin atSlow;
        Margin atExec;
        bool fastFresh;
        bool slowFresh;
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

    Clearing public immutable clearing;
    Vault public immutable vault;
    OracleRouter public immutable router;
    address public immutable quote;
    SlopeParams private _slope;
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
    event Insolvent(bytes32 indexed acct, uint256 badDebt);

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

    constructor(Clearing clearing_, SlopeParams memory slope_) {
        Slope.validate(slope_);
        (clearing, vault, router, quote) =
            (clearing_, clearing_.vault(), clearing_.router(), clearing_.quote());
        _slope = slope_;
    }

    // --- acts ---

    /// @notice Raise the alarm: the fast price says E < (1 + betaFlag) M. Takes a bond from the caller's
    /// credit and makes the account reduce-only.
    function flag(bytes32 acct, Bundle[] calldata reports) external nonReentrant {
        _post(reports);
        (State state, uint256 lastRiskAt, uint256 lastRiskBlock,,,) = clearing.status(acct);
        if (state != State.Healthy) revert WrongState(acct, state);
        if (msg.sender == ownerOf(acct)) revert OwnAccount(acct);
        if (block.timestamp < lastRiskAt + COOL_OFF || block.number <= lastRiskBlock) revert CoolOff(acct);
        View memory v = _view(acct, 0);
        if (!v.fastFresh) revert StaleOracle(acct);
        if (!v.atFast.below(_flagLevel())) revert NotBreached(v.atFast.equity, v.atFast.requirement);

        uint256 bond = FixedPointMathLib.clamp(v.atFast.notional * BOND_RATE / WAD, BOND_MIN, BOND_MAX);
        vault.move(quote, msg.sender, address(this), bond);
        Flag storage f = _flags[acct];
        uint32 carry = _carry(f);
        (f.flagger, f.bond) = (msg.sender, uint128(bond));
        (f.flaggedAt, f.flaggedBlock) = (uint40(block.timestamp), uint40(block.number));
        (f.tauAtFlag, f.tau, f.lastPoke) = (carry, carry, uint40(block.timestamp));
        (f.tauAtConfirm, f.confirmedAt, f.feeCap, f.stepStart, f.stepUsed) = (0, 0, 0, 0, 0);
        clearing.setState(acct, State.Flagged);
        emit Flagged(acct, msg.sender, v.atFast.equity, v.atFast.requirement, bond);
    }

    /// @notice End an alarm that was unfounded: both oracles, with evidence newer than the flag, show the
    /// account above the flag level without the help it got since. The bond goes half to it, half to insurance.
    function clear(bytes32 acct, Bundle[] calldata reports) external nonReentrant {
        _post(reports);
        _requireState(acct, State.Flagged);
        View memory v = _view(acct, 0);
        if (!_unfounded(acct, v)) revert NotUnfounded(acct);
        _clear(acct);
    }

    /// @notice End an alarm that nothing confirmed: 30 minutes of active time, or six hours. The bond returns,
    /// for no slow evidence ever contradicted the flagger.
    function expire(bytes32 acct) external nonReentrant {
        _requireState(acct, State.Flagged);
        _poke(acct, _view(acct, 0));
        Flag storage f = _flags[acct];
        if (f.tau - f.tauAtFlag < EXPIRY_ACTIVE && block.timestamp < f.flaggedAt + EXPIRY_WALL) {
            revert NotExpired(acct);
        }
        clearing.setState(acct, State.Healthy);
        emit Expired(acct);
        _returnBond(acct);
    }

    /// @notice Advance the account's active clock: it stands while any of its feeds is stale.
    function poke(bytes32 acct) external nonReentrant {
        (State state,,,,,) = clearing.status(acct);
        if (state != State.Flagged && state != State.Confirmed) revert WrongState(acct, state);
        _poke(acct, _view(acct, 0));
    }

    /// @notice State that the slow oracle agrees: E < (1 + betaFlag) M at the fast, the slow and the execution
    /// price, no sooner than T_min and two blocks after the flag, on evidence newer than the flag.
    function confirm(bytes32 acct, Bundle[] calldata reports) external nonReentrant {
        _post(reports);
        _requireState(acct, State.Flagged);
        View memory v = _view(acct, 0);
        _poke(acct, v);
        Flag storage f = _flags[acct];
        if (!(v.fastFresh && v.slowFresh)) revert StaleOracle(acct);
        if (block.number < f.flaggedBlock + 2) revert TooFewBlocks(block.number, f.flaggedBlock + 2);
        _requireEvidence(v, f.flaggedAt);
        uint256 level = _flagLevel();
        _requireBelow(v.atFast, level);
        _requireBelow(v.atSlow, level);
        _requireBelow(v.atExec, level);

        (f.tauAtConfirm, f.confirmedAt) = (f.tau, uint40(block.timestamp));
        f.feeCap = uint64(Slope.feeCap(_slope, v.atExec));
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
        SlopeParams memory p = _slope;

        View memory v = _view(acct, _sinceConfirmation(flag_));
        _poke(acct, v);
        uint256 t = _sinceConfirmation(flag_);
        _reprice(v, t);
        if (!(v.fastFresh && v.slowFresh)) revert StaleOracle(acct);
        uint256 q = Slope.decay(p, flag_.tau);
        _requireBelowScaled(v.atFast, q);
        _requireBelowScaled(v.atSlow, q);
        _requireBelowScaled(v.atExec, q);
        Margin memory before = v.atExec;

        int256 cash = v.book.cash;
        bool insolvent = before.equity <= 0 && v.atFast.equity <= 0 && v.atSlow.equity <= 0;
        if (cash < 0) v = _sellForDebt(acct, v, q, t, terms.taker);
        (uint256 kappa, bool insured) = _terms(p, flag_, v, t, insolvent);
        uint256 f = _fraction(p, flag_, v.atExec, kappa, q, terms.fMax);
        if (f < terms.fMin || f > terms.fMax) revert SliceOutside(f, terms.fMin, terms.fMax);
        // A call that moves nothing must not move the nonce either, or it would spoil every other taker's.
        if (f == 0 && v.book.cash == cash) revert EmptySlice(acct);

        uint256 notional = clearing.takeSlice(acct, terms.taker, f, v.exec);
        uint256 fee = kappa * notional / WAD;
        uint256 takerFee = fee * TAKER_SHARE / WAD;
        if (fee > 0) clearing.payFee(acct, terms.taker, fee, takerFee);
        if (insured) takerFee += clearing.payFromInsurance(acct, terms.taker, p.k0 * notional / WAD);
        if (takerFee < terms.minFee) revert FeeTooLow(takerFee, terms.minFee);
        flag_.trancheNonce += 1;

        (bool ok, Margin memory taker) = clearing.meetsInitialMargin(terms.taker);
        if (!ok) revert TakerBelowMargin(terms.taker, taker.equity, taker.requirement);
        v = _view(acct, t);
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
            v.atExec.equity,
            v.atExec.requirement
        );
        if (!_writeOff(acct, v.book) && _curable(v)) _cure(acct);
    }

    /// @notice End an episode: H >= 1 + betaCure at both oracles, or no open risk. An alarm that was unfounded
    /// ends as by `clear`, so that nobody saves the bond of a false one by calling this first.
    function cure(bytes32 acct, Bundle[] calldata reports) external nonReentrant {
        _post(reports);
        (State state,,,,,) = clearing.status(acct);
        if (state != State.Flagged && state != State.Confirmed) revert WrongState(acct, state);
        View memory v = _view(acct, 0);
        _poke(acct, v);
        if (!_curable(v)) revert NotCurable(acct);
        if (state == State.Flagged && _unfounded(acct, v)) _clear(acct);
        else _cure(acct);
    }

    /// @notice Buy collateral, at the sale discount, from an account that has only debt besides it.
    /// @param maxPaid the most quote that the caller pays from its credit, WAD
    function buyCollateral(bytes32 acct, uint8 collateral, uint256 maxPaid, uint256 minAmount) external nonReentrant {
        (,,, uint256 debtSince,,) = clearing.status(acct);
        if (debtSince == 0 || msg.sender == ownerOf(acct)) revert NothingToSell(acct);
        uint256 t = block.timestamp - debtSince;
        View memory v = _view(acct, t);
        if (!(v.fastFresh && v.slowFresh)) revert StaleOracle(acct);
        for (uint256 j; j < v.book.holdings.length; ++j) {
            if (v.book.holdings[j].collateral != collateral) continue;
            uint256 price = _salePrice(v, j, t);
            uint256 owed = FixedPointMathLib.min(uint256(-v.book.cash), maxPaid);
            uint256 amount = FixedPointMathLib.min(v.book.holdings[j].amount, _worth(owed, price));
            if (amount < minAmount || amount == 0) revert NothingToSell(acct);
            _sell(acct, collateral, amount, _paid(amount, price, owed), bytes32(0));
            _writeOff(acct, clearing.book(acct));
            return;
        }
        revert NothingToSell(acct);
    }

    /// @notice Close an account that has nothing left but debt.
    function writeOff(bytes32 acct) external nonReentrant {
        if (!_writeOff(acct, clearing.book(acct))) revert NotInsolvent(acct);
    }

    // --- views ---

    function flagOf(bytes32 acct) external view returns (Flag memory) {
        return _flags[acct];
    }

    function slope() external view returns (SlopeParams memory) {
        return _slope;
    }

    /// @notice The smallest initial margin that a maintenance margin allows: (1 + beta) mmr, rounded up.
    function minInitialMargin(uint256 mmr) external view returns (uint256 minImr) {
        return MarginMath.mulWadUp(WAD + _slope.beta, mmr);
    }

    /// @notice The fee and clock by which a trade that reduces an account below initial margin is judged; the
    /// fee is capped by today's equity, so that the trade never lowers the account's health.
    function reduceTerms(bytes32 acct) external view returns (uint256 fee, uint256 sinceConfirmation) {
        Flag storage f = _flags[acct];
        (State state,,,,,) = clearing.status(acct);
        bool confirmed = state == State.Confirmed;
        if (confirmed) sinceConfirmation = _sinceConfirmation(f);
        uint256 cap = Slope.feeCap(_slope, _view(acct, sinceConfirmation).atExec);
        if (confirmed) cap = FixedPointMathLib.min(cap, f.feeCap);
        fee = Slope.fee(_slope, sinceConfirmation, cap);
    }

    /// @notice The execution price for given oracle prices, `sinceConfirmation` active seconds after it.
    function executionPrice(uint256 fast, uint256 slow, uint256 sinceConfirmation) external view returns (uint256) {
        return Slope.executionPrice(_slope, fast, slow, sinceConfirmation);
    }

    // --- inside: looking ---

    function _view(bytes32 acct, uint256 t) private view returns (View memory v) {
        v.book = clearing.book(acct);
        uint256 n = v.book.legs.length;
        uint256 all = n + v.book.holdings.length;
        bytes32[] memory ids = new bytes32[](all);
        for (uint256 i; i < all; ++i) {
            ids[i] = i < n ? v.book.legs[i].feedId : v.book.holdings[i - n].feedId;
        }
        v.feeds = router.prices(ids);
        (v.fast, v.slow, v.exec) = (new uint256[](all), new uint256[](all), new uint256[](all));
        (v.fastFresh, v.slowFresh) = (true, true);
        for (uint256 i; i < all; ++i) {
            (v.fast[i], v.slow[i]) = (v.feeds[i].fast, v.feeds[i].slow);
            v.fastFresh = v.fastFresh && v.feeds[i].fastFresh;
            v.slowFresh = v.slowFresh && v.feeds[i].slowFresh;
        }
        v.atFast = MarginMath.maintenance(v.book, v.fast);
        v.atSlow = MarginMath.maintenance(v.book, v.slow);
        _reprice(v, t);
    }

    function _reprice(View memory v, uint256 t) private view {
        for (uint256 i; i < v.exec.length; ++i) {
            v.exec[i] = Slope.executionPrice(_slope, v.fast[i], v.slow[i], t);
        }
        v.atExec = MarginMath.maintenance(v.book, v.exec);
    }

    function _sinceConfirmation(Flag storage f) private view returns (uint256) {
        return f.confirmedAt == 0 ? 0 : f.tau - f.tauAtConfirm;
    }

    function _flagLevel() private view returns (uint256) {
        return WAD + _slope.betaFlag;
    }

    function _curable(View memory v) private view returns (bool) {
        if (v.book.legs.length == 0) return v.book.cash >= 0;
        uint256 level = WAD + _slope.betaCure;
        return v.fastFresh && v.slowFresh && !v.atFast.below(level) && !v.atSlow.below(level);
    }

    /// @dev The bond answers for an alarm that both oracles contradict while nobody came to help. Without
    /// that last part an owner could top up, clear, and be paid for having been in danger.
    function _unfounded(bytes32 acct, View memory v) private view returns (bool) {
        (,,,, uint256 aid, bool reduced) = clearing.status(acct);
        uint256 since = _flags[acct].flaggedAt;
        if (reduced || !(v.fastFresh && v.slowFresh)) return false;
        for (uint256 i; i < v.feeds.length; ++i) {
            if (v.feeds[i].fastAt <= since || !_slowEvidence(v.feeds[i], since)) return false;
        }
        Margin memory fast = v.atFast;
        Margin memory slow = v.atSlow;
        uint256 level = _flagLevel();
        return (fast.equity - int256(aid)) * int256(WAD) >= int256(level * fast.requirement)
            && (slow.equity - int256(aid)) * int256(WAD) >= int256(level * slow.requirement);
    }

    /// @dev A round since the flag; or an older one within its heartbeat that the fast price has not left by
    /// more than the feed's deviation. Demanding a new round alone would let a dust position on a slow feed
    /// block confirmation for ever.
    function _slowEvidence(FeedPrice memory p, uint256 since) private view returns (bool) {
        if (p.slowAt >= since) return true;
        return block.timestamp - p.slowAt <= p.heartbeat && _apart(p) <= p.deviation;
    }

    /// @dev |fast / slow - 1|, rounded up.
    function _apart(FeedPrice memory p) private pure returns (uint256) {
        uint256 difference = p.fast > p.slow ? p.fast - p.slow : p.slow - p.fast;
        return (difference * WAD + p.slow - 1) / p.slow;
    }

    function _requireEvidence(View memory v, uint256 since) private {
        for (uint256 i; i < v.feeds.length; ++i) {
            FeedPrice memory p = v.feeds[i];
            bytes32 feedId = _feedId(v, i);
            uint256 earliest = since + p.minDelay;
            if (block.timestamp < earliest) revert TooSoon(earliest, block.timestamp);
            uint256 needed = since + p.minDelay / 2;
            if (p.fastAt < needed) revert NoNewFastPrice(feedId, p.fastAt, needed);
            if (!_slowEvidence(p, since)) revert NoSlowEvidence(feedId);
            if (_apart(p) > MAX_DIVERGENCE) revert TooDivergent(feedId);
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
        (State state,,,,,) = clearing.status(acct);
        if (state != wanted) revert WrongState(acct, state);
    }

    function _feedId(View memory v, uint256 i) private pure returns (bytes32) {
        uint256 n = v.book.legs.length;
        return i < n ? v.book.legs[i].feedId : v.book.holdings[i - n].feedId;
    }

    // --- inside: doing ---

    function _post(Bundle[] calldata reports) private {
        if (reports.length > 0) router.fastOracle().postNewer(reports);
    }

    function _poke(bytes32 acct, View memory v) private {
        if (!(v.fastFresh && v.slowFresh)) return;
        Flag storage f = _flags[acct];
        f.tau += uint32(FixedPointMathLib.min(block.timestamp - f.lastPoke, POKE_CAP));
        f.lastPoke = uint40(block.timestamp);
        emit Poked(acct, f.tau);
    }

    function _carry(Flag storage f) private view returns (uint32) {
        uint256 since = block.timestamp - f.carriedAt;
        if (since > CARRY_SPAN) return 0;
        uint256 tau = FixedPointMathLib.min(f.carryTau, _slope.tSlope);
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
    /// cap of those that follow. Without any at the three prices, the book's worth without haircuts bounds
    /// the smallest fee, and only where that is gone as well the insurance pays: an owner who takes over his
    /// own book through a second address must not be paid for it while his collateral still covers the fee.
    function _terms(SlopeParams memory p, Flag storage f, View memory v, uint256 t, bool insolvent)
        private
        returns (uint256 kappa, bool insured)
    {
        if (insolvent) {
            int256 worth = MarginMath.worth(v.book, v.exec);
            kappa = Slope.fee(p, 0, Slope.feeCap(p, Margin(worth, 0, v.atExec.notional)));
            return (kappa, worth <= 0);
        }
        uint256 cap = FixedPointMathLib.min(f.feeCap, Slope.feeCap(p, v.atExec));
        if (v.atExec.equity > 0) f.feeCap = uint64(cap);
        kappa = Slope.fee(p, t, cap);
    }

    /// @dev The part to close: the slope's, within the step window and the taker's wish, raised to the
    /// smallest slice, and everything where only dust would stay.
    function _fraction(
        SlopeParams memory p,
        Flag storage f,
        Margin memory m,
        uint256 kappa,
        uint256 q,
        uint256 fMax
    ) private returns (uint256 part) {
        part = FixedPointMathLib.min(Slope.closeable(m, kappa, q), fMax);
        bool capped = m.equity * 2 > int256(m.requirement);
        if (block.timestamp >= uint256(f.stepStart) + p.stepWindow) {
            (f.stepStart, f.stepUsed) = (uint40(block.timestamp), 0);
        }
        if (capped) {
            if (f.stepUsed >= p.stepCap) revert StepCapReached(f.stepUsed, p.stepCap);
            // What is left of the window, as a fraction of what is left of the book.
            part = FixedPointMathLib.min(part, (p.stepCap - f.stepUsed) * WAD / (WAD - f.stepUsed));
        }
        if (part > 0 && m.notional > 0) {
            uint256 least = (uint256(p.minSlice) * WAD + m.notional - 1) / m.notional;
            part = FixedPointMathLib.max(part, FixedPointMathLib.min(WAD, least));
            if (m.notional <= p.dust || m.notional * (WAD - part) / WAD < p.dust) part = WAD;
        }
        // Rounded up: a wei that seemed left would let one more smallest slice through.
        f.stepUsed += uint64(MarginMath.mulWadUp(part, WAD - f.stepUsed));
    }

    /// @dev Negative cash is paid off first, by selling collateral to the taker below p_L; a sale raises E.
    /// No more is sold than the debt, nor than lifts q E to M. A holding that is sold whole leaves the list.
    function _sellForDebt(bytes32 acct, View memory v, uint256 q, uint256 t, bytes32 taker)
        private
        returns (View memory)
    {
        while (v.book.cash < 0 && v.book.holdings.length > 0) {
            uint256 has = v.book.holdings[0].amount;
            uint256 price = _salePrice(v, 0, t);
            uint256 gain = price - v.exec[v.book.legs.length] * v.book.holdings[0].hMM / WAD;
            int256 missing = int256(v.atExec.requirement * WAD / q) - v.atExec.equity;
            if (missing <= 0) break;
            uint256 debt = uint256(-v.book.cash);
            uint256 amount = FixedPointMathLib.min(_worth(debt, price), uint256(missing) * WAD / gain);
            amount = FixedPointMathLib.min(amount, has);
            if (amount == 0) break;
            _sell(acct, v.book.holdings[0].collateral, amount, _paid(amount, price, debt), taker);
            v = _view(acct, t);
            if (amount < has) break;
        }
        return v;
    }

    /// @dev p_L (1 - delta), delta rising from 0 to its most over tSlope; rounded up, in the account's favour.
    function _salePrice(View memory v, uint256 j, uint256 t) private view returns (uint256) {
        uint256 span = _slope.tSlope;
        uint256 discount = v.book.holdings[j].saleDiscMax * FixedPointMathLib.min(t, span) / span;
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
        vault.move(quote, address(this), f.flagger, bond);
        emit BondSettled(acct, f.flagger, bond, 0);
    }

    function _slashBond(bytes32 acct) private {
        Flag storage f = _flags[acct];
        uint256 bond = f.bond;
        f.bond = 0;
        vault.move(quote, address(this), address(clearing), bond);
        clearing.receiveBond(acct, bond / 2, bond - bond / 2);
        emit BondSettled(acct, f.flagger, 0, bond);
    }

    /// @dev Insolvent: no position, no collateral, and cash below zero.
    function _writeOff(bytes32 acct, Book memory b) private returns (bool) {
        if (b.legs.length > 0 || b.holdings.length > 0 || b.cash >= 0) return false;
        uint256 amount = clearing.writeOff(acct);
        emit Insolvent(acct, amount);
        _returnBond(acct);
        return true;
    }
}
