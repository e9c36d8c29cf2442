// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {OracleRouter} from "./OracleRouter.sol";
import {Vault} from "./Vault.sol";
import {IAccounts, IBackstop, IInstruments} from "./interfaces/IModules.sol";
import {FeedPrice, WAD} from "./HybridTypes.sol";

/// @notice What the Backstop reads of the Clearing besides accounts.
interface IClearingOf {
    function liquidator() external view returns (address);

    /// @notice Loss socialised so far per unit of open interest, WAD.
    function lossIndex(uint16 market) external view returns (uint256);
}

/// @title Insurance, and what happens to losses beyond it
/// @notice An account's debt is paid by the insurance, within caps for the account and for the day; then by
/// those with a position in the markets where it arose, slowly; what no market can bear waits for later
/// insurance. Who has no position never pays.
/// @dev The insurance is a number: its quote lies in the Clearing's credit, together with the accounts' cash.
/// No token moves here, and no credit but in `fund`.
contract Backstop is IBackstop, Ownable2Step, ReentrancyGuardTransient {
    using SafeCast for uint256;

    /// @dev What one account drew on a day.
    struct Drawn {
        uint40 day;
        uint128 amount;
    }

    /// @notice Seconds of an epoch: a day of UTC.
    uint256 public constant EPOCH = 1 days;
    /// @notice Most of a market's open-interest notional that one step charges, WAD, and least time between two.
    uint256 public constant STEP_SHARE = 0.01e18;
    uint256 public constant STEP_GAP = 1 hours;
    /// @notice How long withdrawals of quote stand while the debt exceeds the insurance, seconds; least time from
    /// the beginning of one such gate to that of the next. Else whoever makes small debts could renew it for ever.
    uint256 public constant GATE = 24 hours;
    uint256 public constant GATE_GAP = 7 days;
    /// @notice By how much the debt must exceed the insurance to count as a deficit, WAD of quote: dust gates nothing.
    uint256 public constant GATE_FLOOR = 1000e18;

    Vault public immutable vault;
    IAccounts public immutable clearing;
    OracleRouter public immutable router;
    IInstruments public immutable instruments;
    address public immutable quote;

    // The insurance and the debt share a word, for each is compared with the other whenever it changes.
    uint128 private _insurance;
    uint128 private _badDebt;
    uint40 private _day;
    /// @notice Since when the debt exceeds the insurance by more than GATE_FLOOR, unix seconds; 0 while it does not.
    uint40 public deficitSince;
    /// @notice When the last gate began, unix seconds. Until it ends, every deficit gates; after it none for a while.
    uint40 public gateSince;
    /// @dev What the epoch's caps are shares of.
    uint128 private _base;
    uint128 private _paid;
    /// @notice Shares of the insurance at an epoch's begin that all accounts, and one account, may draw in it, WAD.
    uint64 public share = 0.5e18;
    uint64 public accountShare = 0.25e18;
    mapping(bytes32 acct => Drawn) private _drawn;
    /// @notice Debt that a market's positions have still to bear, WAD of quote.
    mapping(uint16 market => uint256) public owed;
    /// @notice When a market was last charged, unix seconds.
    mapping(uint16 market => uint256) public steppedAt;
    /// @notice Debt that no market can bear, WAD of quote; `cover` pays it from later insurance.
    uint256 public unassigned;

    event InsuranceFunded(address indexed from, uint256 amount);
    event InsuranceReceived(address indexed module, uint256 amount);
    event BackstopPaid(bytes32 indexed acct, uint256 amount);
    event DebtAbsorbed(bytes32 indexed acct, uint256 debt, uint256 left);
    event DebtAssigned(uint16 indexed market, uint256 amount);
    /// @param market what owed the amount until now; 0 where nothing did
    event DebtUnassigned(uint16 indexed market, uint256 amount);
    event DebtCovered(uint256 amount);
    /// @param index the market's loss index after it, WAD of quote per unit
    event LossSocialised(uint16 indexed market, uint256 amount, uint256 index);
    event DeficitSet(bool inDeficit);
    event SharesSet(uint256 share, uint256 accountShare);

    error NotModule(address caller);
    error BadShare(string what);
    error LengthsDiffer(uint256 markets, uint256 notionals);
    error NothingToSocialise(uint16 market);
    error NothingToCover(uint256 unassigned, uint256 drawable);

    modifier onlyModule() {
        if (msg.sender != address(clearing) && msg.sender != IClearingOf(address(clearing)).liquidator()) {
            revert NotModule(msg.sender);
        }
        _;
    }

    constructor(
        Vault vault_,
        IAccounts clearing_,
        OracleRouter router_,
        IInstruments instruments_,
        address quote_,
        address admin
    ) Ownable(admin) {
        (vault, clearing, router, instruments, quote) = (vault_, clearing_, router_, instruments_, quote_);
    }

    /// @notice Change the caps: 10% to 100% of the epoch's base for all, 5% to 100% for one account.
    function setShares(uint64 share_, uint64 accountShare_) external onlyOwner {
        if (share_ < 0.1e18 || share_ > WAD) revert BadShare("share");
        if (accountShare_ < 0.05e18 || accountShare_ > WAD) revert BadShare("accountShare");
        (share, accountShare) = (share_, accountShare_);
        emit SharesSet(share_, accountShare_);
    }

    /// @notice Give the caller's quote credit to the insurance.
    /// @dev It counts into the running epoch's base: the caps ration what was there before a bad day, and money
    /// that somebody brings because of that day must not lie idle until the next, while users bear the loss.
    /// @param amount WAD
    function fund(uint256 amount) external nonReentrant {
        _beginEpoch();
        vault.move(quote, msg.sender, address(clearing), amount);
        _insurance += amount.toUint128();
        _base += amount.toUint128();
        _noteDeficit(false);
        emit InsuranceFunded(msg.sender, amount);
    }

    /// @inheritdoc IBackstop
    /// @dev Fees and slashed bonds count into the next epoch's base: liquidations that earn them must not
    /// raise what the same liquidations may draw.
    function receive_(uint256 amount) external onlyModule nonReentrant {
        _beginEpoch();
        _insurance += amount.toUint128();
        _noteDeficit(false);
        emit InsuranceReceived(msg.sender, amount);
    }

    /// @inheritdoc IBackstop
    function draw(bytes32 acct, uint256 amount) external onlyModule nonReentrant returns (uint256 paid) {
        _beginEpoch();
        paid = _draw(acct, amount);
        _noteDeficit(false);
    }

    /// @inheritdoc IBackstop
    /// @dev The markets' parts add up to the debt to the wei. Nothing in it stops the write-off: what cannot be
    /// charged now stays owed.
    function absorb(bytes32 acct, uint256 debt, uint16[] calldata markets, uint256[] calldata notionals)
        external
        onlyModule
        nonReentrant
    {
        if (markets.length != notionals.length) revert LengthsDiffer(markets.length, notionals.length);
        _beginEpoch();
        uint256 left = debt - _draw(acct, debt);
        _badDebt += left.toUint128();
        emit DebtAbsorbed(acct, debt, left);
        if (left > 0) _assign(left, markets, notionals);
        _noteDeficit(left > 0);
    }

    /// @notice Charge the positions in a market with what it owes: at most 1% of its open-interest notional at
    /// the slow price, and not within an hour of the last time. By anyone.
    function socialise(uint16 market) external nonReentrant {
        _beginEpoch();
        if (!_step(market)) revert NothingToSocialise(market);
        _noteDeficit(false);
    }

    /// @notice Pay debt that no market can bear from the insurance, within the epoch's cap. By anyone.
    function cover() external nonReentrant {
        _beginEpoch();
        uint256 paid = Math.min(unassigned, drawable());
        if (paid == 0) revert NothingToCover(unassigned, drawable());
        unassigned -= paid;
        _insurance -= uint128(paid);
        _badDebt -= uint128(paid);
        _paid += uint128(paid);
        _noteDeficit(false);
        emit DebtCovered(paid);
    }

    // --- views ---

    /// @inheritdoc IBackstop
    function insurance() external view returns (uint256) {
        return _insurance;
    }

    /// @inheritdoc IBackstop
    function badDebt() external view returns (uint256) {
        return _badDebt;
    }

    /// @inheritdoc IBackstop
    function gated() external view returns (bool) {
        return deficitSince != 0 && block.timestamp < gateSince + GATE;
    }

    /// @notice What all accounts together may still draw in this epoch, WAD.
    function drawable() public view returns (uint256) {
        (uint256 base, uint256 paid) = _epoch();
        return Math.min(_insurance, Math.saturatingSub(base * share / WAD, paid));
    }

    /// @notice What one account may still draw in this epoch, WAD.
    function drawableBy(bytes32 acct) public view returns (uint256) {
        (uint256 base,) = _epoch();
        uint256 drawn = _drawn[acct].day == _today() ? _drawn[acct].amount : 0;
        return Math.min(drawable(), Math.saturatingSub(base * accountShare / WAD, drawn));
    }

    /// @notice When the next epoch begins, unix seconds.
    function epochEndsAt() external view returns (uint256) {
        return (uint256(_today()) + 1) * EPOCH;
    }

    // --- inside ---

    function _today() private view returns (uint40) {
        return uint40(block.timestamp / EPOCH);
    }

    /// @dev Between two acts nothing changes the insurance, so what it is at the first act of a day is what it
    /// was at the day's begin.
    function _epoch() private view returns (uint256 base, uint256 paid) {
        return _day == _today() ? (_base, _paid) : (_insurance, 0);
    }

    function _beginEpoch() private {
        if (_day == _today()) return;
        (_day, _base, _paid) = (_today(), _insurance, 0);
    }

    function _draw(bytes32 acct, uint256 amount) private returns (uint256 paid) {
        paid = Math.min(amount, drawableBy(acct));
        if (paid == 0) return 0;
        Drawn storage d = _drawn[acct];
        (d.day, d.amount) = (_today(), (d.day == _today() ? d.amount : 0) + uint128(paid));
        _insurance -= uint128(paid);
        _paid += uint128(paid);
        emit BackstopPaid(acct, paid);
    }

    function _assign(uint256 debt, uint16[] calldata markets, uint256[] calldata notionals) private {
        uint256 total;
        for (uint256 i; i < notionals.length; ++i) {
            total += notionals[i];
        }
        if (total == 0) return _giveUp(0, debt);
        // Differences of running shares: none is rounded away, and a market without notional gets nothing.
        uint256 reached;
        uint256 before;
        for (uint256 i; i < markets.length; ++i) {
            reached += notionals[i];
            uint256 upTo = Math.mulDiv(debt, reached, total);
            if (upTo == before) continue;
            owed[markets[i]] += upTo - before;
            emit DebtAssigned(markets[i], upTo - before);
            before = upTo;
        }
        for (uint256 i; i < markets.length; ++i) {
            _step(markets[i]);
        }
    }

    /// @dev Debt beyond the open interest's whole notional is more than the market can bear however long it
    /// takes; left there, it would wait for ever on a market that everybody has left.
    /// @return whether anything changed
    function _step(uint16 market) private returns (bool) {
        uint256 debt = owed[market];
        if (debt == 0 || block.timestamp < steppedAt[market] + STEP_GAP) return false;
        (uint256 notional, bool known) = _notional(market);
        if (!known) return false;
        uint256 excess = Math.saturatingSub(debt, notional);
        if (excess > 0) {
            debt -= excess;
            _giveUp(market, excess);
        }
        uint256 amount = Math.min(debt, Math.mulDiv(notional, STEP_SHARE, WAD));
        owed[market] = debt - amount;
        if (amount == 0) return excess > 0;
        steppedAt[market] = block.timestamp;
        _badDebt -= amount.toUint128();
        // The index is rounded up and brings in `amount` at least; the few wei beyond it stay with the Clearing.
        clearing.chargeOpenInterest(market, amount);
        emit LossSocialised(market, amount, IClearingOf(address(clearing)).lossIndex(market));
        return true;
    }

    /// @dev Open interest at the slow price, rounded down; unknown while that price is not fresh.
    function _notional(uint16 market) private view returns (uint256 notional, bool known) {
        uint256 open = clearing.openInterest(market);
        if (open == 0) return (0, true);
        FeedPrice memory p = router.price(instruments.market(market).feedId);
        return p.slowFresh ? (Math.mulDiv(open, p.slow, WAD), true) : (0, false);
    }

    function _giveUp(uint16 market, uint256 amount) private {
        unassigned += amount;
        emit DebtUnassigned(market, amount);
    }

    /// @param grown whether there is more debt than before: what begins a gate, within a deficit too
    function _noteDeficit(bool grown) private {
        bool inDeficit = _badDebt > _insurance + GATE_FLOOR;
        bool begun = inDeficit && (grown || deficitSince == 0);
        if (begun && block.timestamp >= gateSince + GATE_GAP) gateSince = uint40(block.timestamp);
        if (inDeficit == (deficitSince != 0)) return;
        deficitSince = inDeficit ? uint40(block.timestamp) : 0;
        emit DeficitSet(inDeficit);
    }
}
