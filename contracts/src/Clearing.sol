// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {
    IAccounts,
    IBackstop,
    IBreaker,
    IInstruments,
    ILiquidatorTerms,
    IMarginEngine,
    IRiskArrays
} from "./interfaces/IModules.sol";
import {MarginMath} from "./MarginMath.sol";
import {OracleRouter} from "./OracleRouter.sol";
import {Portfolio} from "./Portfolio.sol";
import {Vault} from "./Vault.sol";
import {
    Balance,
    Bundle,
    FeedPrice,
    Kind,
    Margin,
    Market,
    MAX_HOLDINGS,
    MAX_LEGS,
    Position,
    State,
    View,
    WAD,
    ownerOf
} from "./HybridTypes.sol";

/// @title Accounts: cash, collateral, and positions in perps and options
/// @notice Equity is marked, never settled before a check: a quote leg changes on a trade, a slice or a
/// close only, when the reduced share is realised to cash. Options are margined like futures, so that a premium
/// is a quote leg too. The sum of sizes per market is always zero.
contract Clearing is IAccounts, EIP712, Ownable2Step, ReentrancyGuardTransient {
    using SafeCast for int256;
    using SafeCast for uint256;

    /// @notice `size` contracts of `market` for `account`, at `limitPrice` or better; signed by the owner.
    struct Order {
        bytes32 account;
        uint16 market;
        int128 size;
        uint128 limitPrice;
        uint256 nonce;
        uint40 deadline;
    }

    /// @dev A position in storage. Its quote leg is net of the market's losses up to the index `entry`.
    struct Held {
        int128 size;
        int128 quoteLeg;
        uint128 entry;
    }

    /// @param size sum of |size| over all accounts, WAD units
    /// @param lossIndex quote that one unit, long or short, has lost to socialised debt, WAD; never falls
    struct Interest {
        uint128 size;
        uint128 lossIndex;
    }

    /// @param aid value of deposits since the flag, WAD at maintenance haircut; reduced: the owner cut risk since
    /// @param sliced a slice took the last position: `_lastSlice` says in which markets a debt was made
    /// @param debtSince since when the account has no position and negative cash; 0 while it has not
    struct Account {
        int128 cash;
        State state;
        bool reduced;
        bool sliced;
        uint40 lastRiskAt;
        uint40 lastRiskBlock;
        uint40 debtSince;
        uint128 aid;
        uint16[] markets;
        uint8[] collaterals;
        mapping(uint16 => Held) positions;
        mapping(uint8 => uint128) holdings;
    }

    /// @dev The markets that a slice emptied, and the notional that it moved in each, WAD.
    struct LastSlice {
        uint16[] markets;
        uint256[] notionals;
    }

    /// @dev A reducing order before it is done: the quote that it gives up, WAD, and its bound below initial
    /// margin. `hedged`: another leg has the same underlying, so that the requirement could rise, or fall by less
    /// than the equity.
    struct Reduction {
        uint256 loss;
        uint256 bound;
        bool hedged;
        Margin atFast;
        Margin atSlow;
    }

    bytes32 public constant ORDER_TYPEHASH = keccak256(
        "Order(bytes32 account,uint16 market,int128 size,uint128 limitPrice,uint256 nonce,uint40 deadline)"
    );

    Vault public immutable vault;
    OracleRouter public immutable router;
    IInstruments public immutable instruments;
    IRiskArrays public immutable riskArrays;
    /// @notice The token that cash is counted in.
    address public immutable quote;
    address public liquidator;
    IMarginEngine public engine;
    IBackstop public backstop;
    IBreaker public breaker;

    mapping(uint8 => uint256) public collateralTotal;
    mapping(bytes32 => Account) private _accounts;
    mapping(uint16 market => Interest) private _interest;
    mapping(bytes32 acct => LastSlice) private _lastSlice;
    mapping(bytes32 acct => mapping(uint256 nonce => bool)) public nonceUsed;

    event ModulesBound(address liquidator, address engine, address backstop, address breaker);
    event Deposited(bytes32 indexed acct, address indexed token, address from, uint256 amount);
    event Withdrawn(bytes32 indexed acct, address indexed token, uint256 amount);
    /// @param longNonce,shortNonce the orders' nonces, which are used from here on
    event Traded(
        bytes32 indexed long,
        bytes32 indexed short,
        uint16 indexed market,
        uint256 size,
        uint256 price,
        uint256 longNonce,
        uint256 shortNonce
    );
    event OrderCancelled(bytes32 indexed acct, uint256 nonce);
    /// @notice A slice took the last position: a debt from now until there is a new one is these markets' own.
    event LastSliced(bytes32 indexed acct, uint16[] markets, uint256[] notionals);
    event OptionSettled(bytes32 indexed acct, uint16 indexed market, int256 size, int256 value);
    event InsurancePaid(bytes32 indexed acct, bytes32 indexed taker, uint256 amount);
    event BadDebt(bytes32 indexed acct, uint256 amount);

    error NotLiquidator(address caller);
    error NotBackstop(address caller);
    error AlreadyBound();
    error NotOwner(bytes32 acct, address caller);
    error UnknownCollateral(address token);
    error TooManyLegs(bytes32 acct);
    error TooManyHoldings(bytes32 acct);
    error CapExceeded(address token, uint256 total, uint256 cap);
    error ZeroAmount();
    error NotHealthy(bytes32 acct, State state);
    error NegativeCash(bytes32 acct, int256 cash);
    error BelowInitialMargin(bytes32 acct, int256 equity, uint256 requirement);
    error StaleOracle(bytes32 feedId);
    error ArrayNotCurrent(uint16 market);
    error BreakerTripped(uint256 level);
    error WithdrawalsGated();
    error OrdersDiffer();
    error OrderExpired(uint256 deadline);
    error NonceUsed(bytes32 acct, uint256 nonce);
    error BadSignature(bytes32 acct);
    error BeyondLimit(bytes32 acct, uint256 price, uint256 limit);
    error MarketExpired(uint16 market, uint256 expiry);
    error PriceOutOfBand(uint256 price, uint256 anchor);
    error LossTooLarge(bytes32 acct, uint256 loss, uint256 bound);
    error HoldingTooLow(bytes32 acct, uint256 has, uint256 needed);
    error NotSettled(uint16 market);
    error NoPosition(bytes32 acct, uint16 market);

    modifier onlyLiquidator() {
        if (msg.sender != liquidator) revert NotLiquidator(msg.sender);
        _;
    }

    constructor(
        Vault vault_,
        OracleRouter router_,
        IInstruments instruments_,
        IRiskArrays riskArrays_,
        address quote_,
        address admin
    ) EIP712("HybridMargin Clearing", "1") Ownable(admin) {
        (vault, router, instruments, riskArrays, quote) = (vault_, router_, instruments_, riskArrays_, quote_);
    }

    /// @notice Bind the modules that this contract calls, once.
    function bind(address liquidator_, address engine_, address backstop_, address breaker_) external onlyOwner {
        if (liquidator != address(0)) revert AlreadyBound();
        (liquidator, engine) = (liquidator_, IMarginEngine(engine_));
        (backstop, breaker) = (IBackstop(backstop_), IBreaker(breaker_));
        emit ModulesBound(liquidator_, engine_, backstop_, breaker_);
    }

    // --- owners ---

    /// @notice Move the caller's credit into an account. Anyone may add to what the account already holds;
    /// only its owner adds a new collateral, and not in an episode: dust of a type whose feed is stale or slow
    /// would stop the confirmation. Cash, and what the account holds already, are taken in every state.
    /// @param amount WAD
    function deposit(bytes32 acct, address token, uint256 amount) external nonReentrant {
        if (amount == 0) revert ZeroAmount();
        Account storage a = _accounts[acct];
        vault.move(token, msg.sender, address(this), amount);
        uint256 aid = amount;
        if (token == quote) {
            a.cash += amount.toInt256().toInt128();
        } else {
            uint8 id = instruments.collateralOf(token);
            if (id == 0) revert UnknownCollateral(token);
            (, bytes32 feedId, uint256 hMM, uint256 cap) = instruments.collateral(id);
            if (a.holdings[id] == 0) {
                if (msg.sender != ownerOf(acct)) revert NotOwner(acct, msg.sender);
                if (a.state == State.Flagged || a.state == State.Confirmed) revert NotHealthy(acct, a.state);
                if (a.collaterals.length == MAX_HOLDINGS) revert TooManyHoldings(acct);
                a.collaterals.push(id);
            }
            collateralTotal[id] += amount;
            if (collateralTotal[id] > cap) revert CapExceeded(token, collateralTotal[id], cap);
            a.holdings[id] += amount.toUint128();
            FeedPrice memory p = router.price(feedId);
            // The larger price: whoever judges the alarm later must not undercount the help.
            aid = amount * (p.fast > p.slow ? p.fast : p.slow) / WAD * hMM / WAD;
        }
        // Saturates: an absurd price must not stop a deposit.
        if (a.state != State.Healthy) a.aid = uint128(_smaller(a.aid + aid, type(uint128).max));
        _touchDebtClock(a);
        emit Deposited(acct, token, msg.sender, amount);
    }

    /// @notice Move an account's funds to its owner's credit: Healthy, no negative cash, initial margin at
    /// both prices, and never a profit that is not realised. Not while the breaker is tripped; no quote while
    /// the debts exceed the insurance, for a day at most. Credits in the Vault are never held back.
    /// @param amount WAD
    function withdraw(bytes32 acct, address token, uint256 amount) external nonReentrant {
        if (msg.sender != ownerOf(acct)) revert NotOwner(acct, msg.sender);
        if (amount == 0) revert ZeroAmount();
        Account storage a = _accounts[acct];
        if (a.state == State.Flagged || a.state == State.Confirmed) revert NotHealthy(acct, a.state);
        _requireCalm();
        if (token == quote) {
            if (backstop.gated()) revert WithdrawalsGated();
            a.cash -= amount.toInt256().toInt128();
        } else {
            _takeHolding(a, acct, instruments.collateralOf(token), amount);
        }
        if (a.cash < 0) revert NegativeCash(acct, a.cash);
        if (a.markets.length > 0) {
            _requireInitialMargin(acct);
            (a.lastRiskAt, a.lastRiskBlock) = (uint40(block.timestamp), uint40(block.number));
        }
        vault.move(token, address(this), msg.sender, amount);
        emit Withdrawn(acct, token, amount);
    }

    /// @notice Make one of the caller's order nonces unusable.
    function cancel(bytes32 acct, uint256 nonce) external {
        if (msg.sender != ownerOf(acct)) revert NotOwner(acct, msg.sender);
        nonceUsed[acct][nonce] = true;
        emit OrderCancelled(acct, nonce);
    }

    /// @notice Match two signed orders of opposite size at one price. Reports are posted first.
    /// @dev The price lies within half the maintenance rate, of the underlying's price, of what the market is
    /// worth at both oracles. The side that adds risk must be Healthy, meet initial margin at both and have no
    /// negative cash, at breaker level 0, and an option's risk array must be current. The side that reduces must
    /// meet initial margin or lose at most the liquidation fee against the execution price, so that equity cannot
    /// be shipped out; where closing a leg raises the requirement, because it was a hedge, that side adds risk.
    /// Two sides that reduce need no fresh price: then a stale fast price gives way to a fresh slow one, and a
    /// slow price that cannot be read to the fast one.
    function trade(
        Order calldata a,
        bytes calldata signatureA,
        Order calldata b,
        bytes calldata signatureB,
        uint128 price,
        Bundle[] calldata reports
    ) external nonReentrant {
        if (reports.length > 0) router.fastOracle().postNewer(reports);
        if (a.market != b.market || a.size == 0 || int256(a.size) + b.size != 0 || a.account == b.account) {
            revert OrdersDiffer();
        }
        _useOrder(a, signatureA, price);
        _useOrder(b, signatureB, price);
        Market memory m = instruments.market(a.market);
        if (m.kind != Kind.Perp && block.timestamp >= m.expiry) revert MarketExpired(a.market, m.expiry);
        bool aAdds = _adds(a);
        bool bAdds = _adds(b);
        _requirePrice(a.market, m.feedId, price, aAdds || bAdds);
        // The fee bound follows from the equity before the trade.
        Reduction memory cutA;
        Reduction memory cutB;
        if (!aAdds) cutA = _reduction(a, price, m.feedId);
        if (!bAdds) cutB = _reduction(b, price, m.feedId);

        // One integer for both sides, cut toward zero.
        int256 value = int256(a.size) * int256(uint256(price)) / int256(WAD);
        _move(a.account, a.market, a.size, -value);
        _move(b.account, b.market, b.size, value);
        if (aAdds) _checkAdding(a.account);
        else _checkReducing(a.account, cutA);
        if (bAdds) _checkAdding(b.account);
        else _checkReducing(b.account, cutB);
        (Order calldata long, Order calldata short) = a.size > 0 ? (a, b) : (b, a);
        emit Traded(
            long.account, short.account, a.market, MarginMath.abs(a.size), price, long.nonce, short.nonce
        );
    }

    /// @notice Pay out an account's position in an option whose settlement price is known: by anyone, in every
    /// state. Its mark has been the payoff since, so that nobody's margin changes.
    /// @dev The payoff rounds down on both sides; what that leaves, less than a wei each, stays here.
    function settle(bytes32 acct, uint16 market) external nonReentrant {
        Market memory m = instruments.market(market);
        uint256 price = m.kind == Kind.Perp ? 0 : riskArrays.settlement(m.feedId, m.expiry);
        if (price == 0) revert NotSettled(market);
        Account storage a = _accounts[acct];
        (int256 size, int256 quoteLeg) = _position(a, market);
        if (size == 0) revert NoPosition(acct, market);
        int256 value = MarginMath.mulWadFloor(size, Portfolio.payoff(m.kind, m.strike, price)) + quoteLeg;
        a.cash += value.toInt128();
        _interest[market].size -= MarginMath.abs(size).toUint128();
        _dropMarket(a, market);
        _touchDebtClock(a);
        emit OptionSettled(acct, market, size, value);
    }

    /// @inheritdoc IAccounts
    function chargeOpenInterest(uint16 market, uint256 amount) external {
        if (msg.sender != address(backstop)) revert NotBackstop(msg.sender);
        Interest storage open = _interest[market];
        open.lossIndex += ((amount * WAD + open.size - 1) / open.size).toUint128();
    }

    // --- the Liquidator's door ---

    /// @notice Set an account's state; a flag starts the count of help afresh.
    function setState(bytes32 acct, State next) external onlyLiquidator {
        Account storage a = _accounts[acct];
        if (next == State.Flagged) (a.aid, a.reduced) = (0, false);
        a.state = next;
    }

    /// @notice Move the fraction f of every position to the taker.
    /// @param f WAD
    /// @param legPrices what a unit of each leg changes hands for, in the order of the account's legs
    /// @param underlyings execution prices of the legs' underlyings, 0 for an option that is settled: it moves at
    /// its payoff and counts for no notional
    /// @return notional what moved, at the underlyings' prices, WAD of quote
    function takeSlice(
        bytes32 acct,
        bytes32 taker,
        uint256 f,
        uint256[] calldata legPrices,
        uint256[] calldata underlyings
    ) external onlyLiquidator returns (uint256 notional) {
        Account storage a = _accounts[acct];
        uint16[] memory markets = a.markets;
        uint256[] memory notionals = new uint256[](markets.length);
        for (uint256 i; i < markets.length; ++i) {
            int256 d = int256(a.positions[markets[i]].size) * int256(f) / int256(WAD);
            if (d == 0) continue;
            int256 value = d * int256(legPrices[i]) / int256(WAD);
            _move(acct, markets[i], -d, value);
            _move(taker, markets[i], d, -value);
            notionals[i] = MarginMath.abs(d) * underlyings[i] / WAD;
            notional += notionals[i];
        }
        Account storage t = _accounts[taker];
        if (t.markets.length > MAX_LEGS) revert TooManyLegs(taker);
        (t.lastRiskAt, t.lastRiskBlock) = (uint40(block.timestamp), uint40(block.number));
        // A debt that this leaves is the markets' in which it was made. Holdings may still bring too little.
        if (markets.length > 0 && a.markets.length == 0 && (a.cash < 0 || a.collaterals.length > 0)) {
            a.sliced = true;
            _lastSlice[acct] = LastSlice(markets, notionals);
            emit LastSliced(acct, markets, notionals);
        }
    }

    /// @notice Take the fee from the account's cash, which may become negative: the taker's part rounded
    /// down, the rest to the insurance.
    function payFee(bytes32 acct, bytes32 taker, uint256 fee, uint256 takerPart) external onlyLiquidator {
        _accounts[acct].cash -= fee.toInt256().toInt128();
        _accounts[taker].cash += takerPart.toInt256().toInt128();
        _touchDebtClock(_accounts[acct]);
        _touchDebtClock(_accounts[taker]);
        backstop.receive_(fee - takerPart);
    }

    /// @notice Pay the flagger's reward from the account's cash to the flagger's credit.
    function payReward(bytes32 acct, address flagger, uint256 amount) external onlyLiquidator {
        _accounts[acct].cash -= amount.toInt256().toInt128();
        vault.move(quote, address(this), flagger, amount);
    }

    /// @notice Give a part of a slashed bond, already moved here, to the account; the rest to the insurance.
    function receiveBond(bytes32 acct, uint256 toAccount, uint256 toInsurance) external onlyLiquidator {
        _accounts[acct].cash += toAccount.toInt256().toInt128();
        _touchDebtClock(_accounts[acct]);
        backstop.receive_(toInsurance);
    }

    /// @notice Pay a taker from the insurance, as far as it and its caps reach.
    function payFromInsurance(bytes32 acct, bytes32 taker, uint256 amount)
        external
        onlyLiquidator
        returns (uint256 paid)
    {
        paid = backstop.draw(acct, amount);
        _accounts[taker].cash += paid.toInt256().toInt128();
        _touchDebtClock(_accounts[taker]);
        emit InsurancePaid(acct, taker, paid);
    }

    /// @notice Sell collateral out of an account to `buyer`'s credit; `payer` is the taker's account, which
    /// pays from cash that it has, or zero where the buyer pays from its credit.
    function sellHolding(bytes32 acct, uint8 id, uint256 amount, uint256 paid, address buyer, bytes32 payer)
        external
        onlyLiquidator
    {
        Account storage a = _accounts[acct];
        _takeHolding(a, acct, id, amount);
        if (payer == bytes32(0)) {
            vault.move(quote, buyer, address(this), paid);
        } else {
            int128 left = _accounts[payer].cash - paid.toInt256().toInt128();
            if (left < 0) revert NegativeCash(payer, left);
            _accounts[payer].cash = left;
        }
        a.cash += paid.toInt256().toInt128();
        _touchDebtClock(a);
        (address token,,,) = instruments.collateral(id);
        vault.move(token, address(this), buyer, amount);
    }

    /// @notice Hand the debt of an account without anything left to the Backstop, with the markets of its last
    /// slice; with none where the owner or a settlement closed the last position.
    function writeOff(bytes32 acct) external onlyLiquidator returns (uint256 amount) {
        Account storage a = _accounts[acct];
        amount = uint256(-int256(a.cash));
        LastSlice memory last;
        if (a.sliced) last = _lastSlice[acct];
        (a.cash, a.state, a.sliced, a.debtSince) = (0, State.Closed, false, 0);
        delete _lastSlice[acct];
        emit BadDebt(acct, amount);
        backstop.absorb(acct, amount, last.markets, last.notionals);
    }

    // --- views ---

    /// @inheritdoc IAccounts
    function account(bytes32 acct)
        external
        view
        returns (int256 cash, Position[] memory positions, Balance[] memory balances)
    {
        Account storage a = _accounts[acct];
        cash = a.cash;
        positions = new Position[](a.markets.length);
        for (uint256 i; i < positions.length; ++i) {
            uint16 market = a.markets[i];
            (int256 size, int256 quoteLeg) = _position(a, market);
            (positions[i].market, positions[i].size, positions[i].quoteLeg) = (market, size, quoteLeg);
        }
        balances = new Balance[](a.collaterals.length);
        for (uint256 j; j < balances.length; ++j) {
            uint8 id = a.collaterals[j];
            (balances[j].collateral, balances[j].amount) = (id, a.holdings[id]);
        }
    }

    /// @inheritdoc IAccounts
    function openInterest(uint16 market) external view returns (uint256) {
        return _interest[market].size;
    }

    /// @notice Quote that one unit of a market, long or short, has lost to socialised debt so far, WAD.
    function lossIndex(uint16 market) external view returns (uint256) {
        return _interest[market].lossIndex;
    }

    /// @notice The account's state and what the alarm's rules need of it.
    function status(bytes32 acct)
        external
        view
        returns (State state, uint256 lastRiskAt, uint256 lastRiskBlock, uint256 debtSince, uint256 aid, bool reduced)
    {
        Account storage a = _accounts[acct];
        return (a.state, a.lastRiskAt, a.lastRiskBlock, a.debtSince, a.aid, a.reduced);
    }

    /// @notice Initial margin at both price vectors, the first that fails; reverts where a feed is stale.
    function meetsInitialMargin(bytes32 acct) public view returns (bool ok, Margin memory worst) {
        return engine.initial(acct, ILiquidatorTerms(liquidator).betaOf(acct));
    }

    /// @notice The digest that an account's owner signs.
    function orderDigest(Order calldata o) public view returns (bytes32) {
        return _hashTypedDataV4(
            keccak256(
                abi.encode(ORDER_TYPEHASH, o.account, o.market, o.size, o.limitPrice, o.nonce, o.deadline)
            )
        );
    }

    // --- inside ---

    /// @dev Add (d, dQuote) to a position. What reduces it realises its share of the quote leg to cash.
    function _move(bytes32 acct, uint16 market, int256 d, int256 dQuote) private {
        Account storage a = _accounts[acct];
        Held storage pos = a.positions[market];
        (int256 size, int256 quoteLeg) = _position(a, market);
        _follow(pos, market, size, size + d);
        if (size == 0) {
            // With a first position begins a new debt, if any.
            if (a.sliced) a.sliced = false;
            a.markets.push(market);
        }
        if (size == 0 || (size > 0) == (d > 0)) {
            (pos.size, pos.quoteLeg) = ((size + d).toInt128(), (quoteLeg + dQuote).toInt128());
            _touchDebtClock(a);
            return;
        }
        // The part of d that closes, and its share of both quote amounts; the rest opens the other way.
        bool flips = MarginMath.abs(d) > MarginMath.abs(size);
        int256 closing = flips ? -size : d;
        int256 entryShare = flips ? quoteLeg : quoteLeg * -closing / size;
        int256 exitShare = flips ? dQuote * closing / d : dQuote;
        a.cash += (entryShare + exitShare).toInt128();
        (pos.size, pos.quoteLeg) = ((size + d).toInt128(), (quoteLeg - entryShare + dQuote - exitShare).toInt128());
        if (size + d == 0) _dropMarket(a, market);
        _touchDebtClock(a);
    }

    /// @dev Carry a change of size into the open interest, and start the position from today's loss index.
    function _follow(Held storage pos, uint16 market, int256 before, int256 later) private {
        Interest storage open = _interest[market];
        open.size = (open.size + MarginMath.abs(later) - MarginMath.abs(before)).toUint128();
        uint128 index = open.lossIndex;
        if (pos.entry != index) pos.entry = index;
    }

    /// @dev Size, and quote leg net of the losses socialised since the position last changed, rounded up.
    function _position(Account storage a, uint16 market) private view returns (int256 size, int256 quoteLeg) {
        Held storage pos = a.positions[market];
        (size, quoteLeg) = (pos.size, pos.quoteLeg);
        uint256 index = _interest[market].lossIndex;
        if (index == 0 || size == 0) return (size, quoteLeg);
        quoteLeg -= int256(MarginMath.mulWadUp(MarginMath.abs(size), index - pos.entry));
    }

    function _dropMarket(Account storage a, uint16 market) private {
        delete a.positions[market];
        uint256 last = a.markets.length - 1;
        for (uint256 i; i <= last; ++i) {
            if (a.markets[i] == market) {
                a.markets[i] = a.markets[last];
                a.markets.pop();
                return;
            }
        }
    }

    function _takeHolding(Account storage a, bytes32 acct, uint8 id, uint256 amount) private {
        uint256 has = a.holdings[id];
        if (has < amount) revert HoldingTooLow(acct, has, amount);
        a.holdings[id] = (has - amount).toUint128();
        collateralTotal[id] -= amount;
        if (has != amount) return;
        uint256 last = a.collaterals.length - 1;
        for (uint256 i; i <= last; ++i) {
            if (a.collaterals[i] == id) {
                a.collaterals[i] = a.collaterals[last];
                a.collaterals.pop();
                return;
            }
        }
    }

    /// @dev The discount of a sale without a liquidation runs from when only debt was left.
    function _touchDebtClock(Account storage a) private {
        bool onlyDebt = a.cash < 0 && a.markets.length == 0;
        if (!onlyDebt) a.debtSince = 0;
        else if (a.debtSince == 0) a.debtSince = uint40(block.timestamp);
    }

    function _useOrder(Order calldata o, bytes calldata signature, uint256 price) private {
        if (block.timestamp > o.deadline) revert OrderExpired(o.deadline);
        if (nonceUsed[o.account][o.nonce]) revert NonceUsed(o.account, o.nonce);
        bool beyond = o.size > 0 ? price > o.limitPrice : price < o.limitPrice;
        if (beyond) revert BeyondLimit(o.account, price, o.limitPrice);
        nonceUsed[o.account][o.nonce] = true;
        if (!SignatureChecker.isValidSignatureNow(ownerOf(o.account), orderDigest(o), signature)) {
            revert BadSignature(o.account);
        }
    }

    function _adds(Order calldata o) private view returns (bool) {
        int256 size = _accounts[o.account].positions[o.market].size;
        bool opposite = size != 0 && (size > 0) != (o.size > 0);
        return !(opposite && MarginMath.abs(o.size) <= MarginMath.abs(size));
    }

    function _requireCalm() private view {
        uint256 level = breaker.level();
        if (level > 0) revert BreakerTripped(level);
    }

    function _requirePrice(uint16 market, bytes32 feedId, uint256 price, bool adds) private view {
        (uint256 atFast, uint256 atSlow, uint256 fast, uint256 slow, bool fastFresh, bool slowFresh, bool current) =
            engine.fair(market);
        if (adds) {
            if (!(fastFresh && slowFresh)) revert StaleOracle(feedId);
            if (!current) revert ArrayNotCurrent(market);
            _requireCalm();
        }
        uint256 mmr = instruments.risk(feedId).mmr;
        _requireInBand(price, atFast, mmr * fast);
        _requireInBand(price, atSlow, mmr * slow);
    }

    /// @param width twice the band, WAD^2
    function _requireInBand(uint256 price, uint256 anchor, uint256 width) private pure {
        uint256 apart = price > anchor ? price - anchor : anchor - price;
        if (2 * apart * WAD > width) revert PriceOutOfBand(price, anchor);
    }

    /// @dev What a reducing order loses against the execution price, and the most that it may below initial margin.
    function _reduction(Order calldata o, uint256 price, bytes32 feedId) private view returns (Reduction memory cut) {
        (uint256 kappa, uint256 band) = ILiquidatorTerms(liquidator).reduceTerms(o.account);
        (uint256 fair, uint256 underlying) = engine.fairAt(o.market, band);
        uint256 size = MarginMath.abs(o.size);
        // A buyer loses above the execution price, a seller below it.
        uint256 apart = o.size > 0 ? _above(price, fair) : _above(fair, price);
        cut.loss = MarginMath.mulWadUp(apart, size);
        cut.bound = kappa * size / WAD * underlying / WAD;
        cut.hedged = _hedged(o.account, o.market, feedId);
        if (cut.hedged) (cut.atFast, cut.atSlow) = _margins(o.account);
    }

    /// @dev Legs of one underlying offset each other: closing one of them may leave the other bare.
    function _hedged(bytes32 acct, uint16 market, bytes32 feedId) private view returns (bool) {
        uint16[] memory markets = _accounts[acct].markets;
        for (uint256 i; i < markets.length; ++i) {
            if (markets[i] != market && instruments.market(markets[i]).feedId == feedId) return true;
        }
        return false;
    }

    function _margins(bytes32 acct) private view returns (Margin memory atFast, Margin memory atSlow) {
        View memory v = engine.look(acct, 0);
        return (v.atFast, v.atSlow);
    }

    function _checkAdding(bytes32 acct) private {
        Account storage a = _accounts[acct];
        if (a.state != State.Healthy) revert NotHealthy(acct, a.state);
        if (a.cash < 0) revert NegativeCash(acct, a.cash);
        if (a.markets.length > MAX_LEGS) revert TooManyLegs(acct);
        _requireInitialMargin(acct);
        (a.lastRiskAt, a.lastRiskBlock) = (uint40(block.timestamp), uint40(block.number));
    }

    /// @dev A cut that leaves another leg bare is judged as new risk. One that takes more from the equity than from
    /// the requirement may lose nothing below initial margin: in a hedged book the fee's bound allows that too.
    function _checkReducing(bytes32 acct, Reduction memory cut) private {
        Account storage a = _accounts[acct];
        if (cut.hedged) {
            (Margin memory atFast, Margin memory atSlow) = _margins(acct);
            if (atFast.requirement > cut.atFast.requirement || atSlow.requirement > cut.atSlow.requirement) {
                _requireCalm();
                _checkAdding(acct);
                return;
            }
            if (_weaker(atFast, cut.atFast) || _weaker(atSlow, cut.atSlow)) cut.bound = 0;
        }
        if (a.state != State.Healthy) a.reduced = true;
        if (cut.loss <= cut.bound) return;
        (bool ok,) = meetsInitialMargin(acct);
        if (!ok) revert LossTooLarge(acct, cut.loss, cut.bound);
    }

    /// @dev Whether health E / M fell, exactly. Below zero equity the bound is nought anyway.
    function _weaker(Margin memory m, Margin memory before) private pure returns (bool) {
        return m.equity * int256(before.requirement) < before.equity * int256(m.requirement);
    }

    function _smaller(uint256 x, uint256 y) private pure returns (uint256) {
        return x < y ? x : y;
    }

    function _above(uint256 x, uint256 y) private pure returns (uint256) {
        return x > y ? x - y : 0;
    }

    function _requireInitialMargin(bytes32 acct) private view {
        (bool ok, Margin memory worst) = meetsInitialMargin(acct);
        if (!ok) revert BelowInitialMargin(acct, worst.equity, worst.requirement);
    }
}
