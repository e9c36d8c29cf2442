// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";
import {MarginMath} from "./MarginMath.sol";
import {OracleRouter} from "./OracleRouter.sol";
import {Vault} from "./Vault.sol";
import {
    Book,
    Bundle,
    FeedPrice,
    Holding,
    Leg,
    Margin,
    MAX_HOLDINGS,
    MAX_LEGS,
    State,
    WAD,
    ownerOf
} from "./HybridTypes.sol";

/// @notice What Clearing asks of the Liquidator.
interface ILiquidatorTerms {
    function minInitialMargin(uint256 mmr) external view returns (uint256 minImr);
    function reduceTerms(bytes32 acct) external view returns (uint256 fee, uint256 sinceConfirmation);
    function executionPrice(uint256 fast, uint256 slow, uint256 sinceConfirmation) external view returns (uint256);
}

/// @title Accounts, collateral and perps
/// @notice Equity is marked, never settled before a check: a quote leg changes on a trade, a slice or a
/// close only, when the reduced share is realised to cash. The sum of sizes per market is always zero.
contract Clearing is EIP712, Ownable2Step, ReentrancyGuard {
    using MarginMath for Margin;
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

    /// @param mmr,imr maintenance and initial margin, WAD fractions of notional
    struct Perp {
        bytes32 feedId;
        uint64 mmr;
        uint64 imr;
    }

    /// @param hMM,hIM haircut factors for maintenance and initial margin, WAD
    /// @param saleDiscMax deepest discount of a forced sale, WAD
    /// @param cap most of it that the protocol takes, WAD
    struct Collateral {
        address token;
        bytes32 feedId;
        uint64 hMM;
        uint64 hIM;
        uint64 saleDiscMax;
        uint128 cap;
    }

    struct Position {
        int128 size;
        int128 quoteLeg;
    }

    /// @param aid value of deposits since the flag, WAD at maintenance haircut; reduced: the owner cut risk since
    /// @param debtSince since when the account has no position and negative cash; 0 while it has not
    struct Account {
        int128 cash;
        State state;
        bool reduced;
        uint40 lastRiskAt;
        uint40 lastRiskBlock;
        uint40 debtSince;
        uint128 aid;
        uint16[] markets;
        uint8[] collaterals;
        mapping(uint16 => Position) positions;
        mapping(uint8 => uint128) holdings;
    }

    /// @dev Quote that a reducing order gives up, WAD, and its bound below initial margin.
    struct Loss {
        uint256 made;
        uint256 bound;
    }

    bytes32 public constant ORDER_TYPEHASH = keccak256(
        "Order(bytes32 account,uint16 market,int128 size,uint128 limitPrice,uint256 nonce,uint40 deadline)"
    );

    Vault public immutable vault;
    OracleRouter public immutable router;
    /// @notice The token that cash is counted in.
    address public immutable quote;
    address public liquidator;

    /// @notice Market and collateral numbers start at 1.
    Perp[] private _perps;
    Collateral[] private _collaterals;
    mapping(address token => uint8) public collateralOf;
    mapping(uint8 => uint256) public collateralTotal;
    mapping(bytes32 => Account) private _accounts;
    mapping(bytes32 acct => mapping(uint256 nonce => bool)) public nonceUsed;

    /// @notice WAD of quote.
    uint256 public insurance;
    uint256 public badDebt;

    event PerpListed(uint16 indexed market, bytes32 feedId, uint256 mmr, uint256 imr);
    event CollateralListed(
        uint8 indexed collateral, address token, bytes32 feedId, uint256 hMM, uint256 hIM, uint256 saleDiscMax, uint256 cap
    );
    event LiquidatorSet(address liquidator);
    event Deposited(bytes32 indexed acct, address indexed token, address from, uint256 amount);
    event Withdrawn(bytes32 indexed acct, address indexed token, uint256 amount);
    event Traded(bytes32 indexed long, bytes32 indexed short, uint16 indexed market, uint256 size, uint256 price);
    event OrderCancelled(bytes32 indexed acct, uint256 nonce);
    event InsuranceFunded(address indexed from, uint256 amount);
    event InsurancePaid(bytes32 indexed acct, bytes32 indexed taker, uint256 amount);
    event BadDebt(bytes32 indexed acct, uint256 amount);

    error NotLiquidator(address caller);
    error AlreadySet();
    error NotOwner(bytes32 acct, address caller);
    error BadConfig(string what);
    error UnknownMarket(uint16 market);
    error UnknownCollateral(address token);
    error TooManyLegs(bytes32 acct);
    error TooManyHoldings(bytes32 acct);
    error CapExceeded(address token, uint256 total, uint256 cap);
    error ZeroAmount();
    error NotHealthy(bytes32 acct, State state);
    error NegativeCash(bytes32 acct, int256 cash);
    error BelowInitialMargin(bytes32 acct, int256 equity, uint256 requirement);
    error StaleOracle(bytes32 feedId);
    error OrdersDiffer();
    error OrderExpired(uint256 deadline);
    error NonceUsed(bytes32 acct, uint256 nonce);
    error BadSignature(bytes32 acct);
    error BeyondLimit(bytes32 acct, uint256 price, uint256 limit);
    error PriceOutOfBand(uint256 price, uint256 anchor);
    error LossTooLarge(bytes32 acct, uint256 loss, uint256 bound);
    error HoldingTooLow(bytes32 acct, uint256 has, uint256 needed);

    modifier onlyLiquidator() {
        if (msg.sender != liquidator) revert NotLiquidator(msg.sender);
        _;
    }

    constructor(Vault vault_, OracleRouter router_, address quote_, address admin)
        EIP712("HybridMargin Clearing", "1")
        Ownable(admin)
    {
        (vault, router, quote) = (vault_, router_, quote_);
    }

    // --- set-up ---

    /// @notice Bind the Liquidator, once.
    function setLiquidator(address liquidator_) external onlyOwner {
        if (liquidator != address(0)) revert AlreadySet();
        liquidator = liquidator_;
        emit LiquidatorSet(liquidator_);
    }

    /// @notice List a perp. Demands (1 + beta) mmr <= imr: otherwise an account opened at full leverage would
    /// be flagged on the first downtick.
    function listPerp(bytes32 feedId, uint64 mmr, uint64 imr) external onlyOwner returns (uint16 market) {
        router.price(feedId);
        if (mmr == 0 || imr > WAD) revert BadConfig("mmr, imr");
        if (imr < ILiquidatorTerms(liquidator).minInitialMargin(mmr)) revert BadConfig("(1 + beta) mmr <= imr");
        _perps.push(Perp(feedId, mmr, imr));
        market = uint16(_perps.length);
        emit PerpListed(market, feedId, mmr, imr);
    }

    /// @notice List a collateral. Demands saleDiscMax <= 1 - hMM - 0.5%, so that a forced sale raises equity.
    function listCollateral(address token, bytes32 feedId, uint64 hMM, uint64 hIM, uint64 saleDiscMax, uint128 cap)
        external
        onlyOwner
        returns (uint8 id)
    {
        router.price(feedId);
        if (vault.scaleOf(token) == 0 || token == quote || collateralOf[token] != 0) revert BadConfig("token");
        if (hIM > hMM || uint256(hMM) + saleDiscMax + 0.005e18 > WAD) revert BadConfig("haircuts");
        if (_collaterals.length == type(uint8).max) revert BadConfig("too many");
        _collaterals.push(Collateral(token, feedId, hMM, hIM, saleDiscMax, cap));
        id = uint8(_collaterals.length);
        collateralOf[token] = id;
        emit CollateralListed(id, token, feedId, hMM, hIM, saleDiscMax, cap);
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
            uint8 id = collateralOf[token];
            if (id == 0) revert UnknownCollateral(token);
            Collateral memory c = _collaterals[id - 1];
            if (a.holdings[id] == 0) {
                if (msg.sender != ownerOf(acct)) revert NotOwner(acct, msg.sender);
                if (a.state == State.Flagged || a.state == State.Confirmed) revert NotHealthy(acct, a.state);
                if (a.collaterals.length == MAX_HOLDINGS) revert TooManyHoldings(acct);
                a.collaterals.push(id);
            }
            collateralTotal[id] += amount;
            if (collateralTotal[id] > c.cap) revert CapExceeded(token, collateralTotal[id], c.cap);
            a.holdings[id] += amount.toUint128();
            FeedPrice memory p = router.price(c.feedId);
            // The larger price: whoever judges the alarm later must not undercount the help.
            aid = amount * (p.fast > p.slow ? p.fast : p.slow) / WAD * c.hMM / WAD;
        }
        // Saturates: an absurd price must not stop a deposit.
        if (a.state != State.Healthy) a.aid = uint128(_smaller(a.aid + aid, type(uint128).max));
        _touchDebtClock(a);
        emit Deposited(acct, token, msg.sender, amount);
    }

    /// @notice Move an account's funds to its owner's credit: Healthy, no negative cash, initial margin at
    /// both prices, and never a profit that is not realised.
    /// @param amount WAD
    function withdraw(bytes32 acct, address token, uint256 amount) external nonReentrant {
        if (msg.sender != ownerOf(acct)) revert NotOwner(acct, msg.sender);
        if (amount == 0) revert ZeroAmount();
        Account storage a = _accounts[acct];
        if (a.state == State.Flagged || a.state == State.Confirmed) revert NotHealthy(acct, a.state);
        if (token == quote) a.cash -= amount.toInt256().toInt128();
        else _takeHolding(a, acct, collateralOf[token], amount);
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

    /// @notice Give the caller's quote credit to the insurance.
    function fundInsurance(uint256 amount) external nonReentrant {
        vault.move(quote, msg.sender, address(this), amount);
        insurance += amount;
        emit InsuranceFunded(msg.sender, amount);
    }

    /// @notice Match two signed orders of opposite size at one price. Reports are posted first.
    /// @dev The price lies within mmr / 2 of both oracle prices. The side that adds risk must be Healthy,
    /// meet initial margin at both and have no negative cash; the side that reduces must meet initial margin
    /// or lose at most the liquidation fee against the execution price, so that equity cannot be shipped out.
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
        Perp memory perp = _perp(a.market);
        FeedPrice memory p = router.price(perp.feedId);
        bool aAdds = _adds(a);
        bool bAdds = _adds(b);
        if ((aAdds || bAdds) && !(p.fastFresh && p.slowFresh)) revert StaleOracle(perp.feedId);
        if (!p.fastFresh && p.slowFresh) p.fast = p.slow;
        if (p.slow == 0) p.slow = p.fast;
        _requireInBand(price, p.fast, perp.mmr);
        _requireInBand(price, p.slow, perp.mmr);
        // The fee bound follows from the equity before the trade.
        Loss memory lossA = aAdds ? Loss(0, 0) : _loss(a, price, p);
        Loss memory lossB = bAdds ? Loss(0, 0) : _loss(b, price, p);

        // One integer for both sides, cut toward zero.
        int256 value = int256(a.size) * int256(uint256(price)) / int256(WAD);
        _move(a.account, a.market, a.size, -value);
        _move(b.account, b.market, b.size, value);
        _checkSide(a, aAdds, lossA);
        _checkSide(b, bAdds, lossB);
        (bytes32 long, bytes32 short) = a.size > 0 ? (a.account, b.account) : (b.account, a.account);
        emit Traded(long, short, a.market, MarginMath.abs(a.size), price);
    }

    // --- the Liquidator's door ---

    /// @notice Set an account's state; a flag starts the count of help afresh.
    function setState(bytes32 acct, State next) external onlyLiquidator {
        Account storage a = _accounts[acct];
        if (next == State.Flagged) (a.aid, a.reduced) = (0, false);
        a.state = next;
    }

    /// @notice Move the fraction f of every position to the taker at the execution prices.
    /// @param f WAD
    /// @param prices execution prices, in the order of the account's legs
    /// @return notional what moved, WAD of quote
    function takeSlice(bytes32 acct, bytes32 taker, uint256 f, uint256[] calldata prices)
        external
        onlyLiquidator
        returns (uint256 notional)
    {
        uint16[] memory markets = _accounts[acct].markets;
        for (uint256 i; i < markets.length; ++i) {
            int256 size = _accounts[acct].positions[markets[i]].size;
            int256 d = size * int256(f) / int256(WAD);
            if (d == 0) continue;
            int256 value = d * int256(prices[i]) / int256(WAD);
            _move(acct, markets[i], -d, value);
            _move(taker, markets[i], d, -value);
            notional += MarginMath.abs(value);
        }
        if (_accounts[taker].markets.length > MAX_LEGS) revert TooManyLegs(taker);
        Account storage t = _accounts[taker];
        (t.lastRiskAt, t.lastRiskBlock) = (uint40(block.timestamp), uint40(block.number));
    }

    /// @notice Take the fee from the account's cash, which may become negative: the taker's part rounded
    /// down, the rest to the insurance.
    function payFee(bytes32 acct, bytes32 taker, uint256 fee, uint256 takerPart) external onlyLiquidator {
        _accounts[acct].cash -= fee.toInt256().toInt128();
        _accounts[taker].cash += takerPart.toInt256().toInt128();
        insurance += fee - takerPart;
        _touchDebtClock(_accounts[acct]);
        _touchDebtClock(_accounts[taker]);
    }

    /// @notice Pay the flagger's reward from the account's cash to the flagger's credit.
    function payReward(bytes32 acct, address flagger, uint256 amount) external onlyLiquidator {
        _accounts[acct].cash -= amount.toInt256().toInt128();
        vault.move(quote, address(this), flagger, amount);
    }

    /// @notice Give a part of a slashed bond, already moved here, to the account; the rest to the insurance.
    function receiveBond(bytes32 acct, uint256 toAccount, uint256 toInsurance) external onlyLiquidator {
        _accounts[acct].cash += toAccount.toInt256().toInt128();
        insurance += toInsurance;
        _touchDebtClock(_accounts[acct]);
    }

    /// @notice Pay a taker from the insurance, as far as it reaches.
    function payFromInsurance(bytes32 acct, bytes32 taker, uint256 amount)
        external
        onlyLiquidator
        returns (uint256 paid)
    {
        paid = amount < insurance ? amount : insurance;
        insurance -= paid;
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
        vault.move(_collaterals[id - 1].token, address(this), buyer, amount);
    }

    /// @notice Book what an account without anything left owes as bad debt.
    function writeOff(bytes32 acct) external onlyLiquidator returns (uint256 amount) {
        Account storage a = _accounts[acct];
        amount = uint256(-int256(a.cash));
        badDebt += amount;
        (a.cash, a.state, a.debtSince) = (0, State.Closed, 0);
        emit BadDebt(acct, amount);
    }

    // --- views ---

    /// @notice Cash, positions and collateral of an account with the parameters that margin needs.
    function book(bytes32 acct) public view returns (Book memory b) {
        Account storage a = _accounts[acct];
        b.cash = a.cash;
        b.legs = new Leg[](a.markets.length);
        for (uint256 i; i < b.legs.length; ++i) {
            uint16 market = a.markets[i];
            Position memory pos = a.positions[market];
            Perp memory perp = _perps[market - 1];
            b.legs[i] = Leg(market, perp.feedId, pos.size, pos.quoteLeg, perp.mmr, perp.imr);
        }
        b.holdings = new Holding[](a.collaterals.length);
        for (uint256 j; j < b.holdings.length; ++j) {
            uint8 id = a.collaterals[j];
            Collateral memory c = _collaterals[id - 1];
            b.holdings[j] = Holding(id, c.feedId, a.holdings[id], c.hMM, c.hIM, c.saleDiscMax);
        }
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

    /// @notice Initial margin of a book at both price vectors, the lower of the two; reverts where a feed is stale.
    function meetsInitialMargin(bytes32 acct) public view returns (bool ok, Margin memory worst) {
        Book memory b = book(acct);
        (uint256[] memory fast, uint256[] memory slow, bytes32 stale) = _priceVectors(b);
        if (stale != bytes32(0)) revert StaleOracle(stale);
        worst = MarginMath.initial(b, fast);
        if (!worst.below(WAD)) worst = MarginMath.initial(b, slow);
        ok = !worst.below(WAD);
    }

    function perpCount() external view returns (uint256) {
        return _perps.length;
    }

    function collateralCount() external view returns (uint256) {
        return _collaterals.length;
    }

    function perps(uint16 market) external view returns (Perp memory) {
        return _perp(market);
    }

    function collaterals(uint8 id) external view returns (Collateral memory) {
        return _collaterals[id - 1];
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
        Position storage pos = a.positions[market];
        int256 size = pos.size;
        int256 quoteLeg = pos.quoteLeg;
        if (size == 0) a.markets.push(market);
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
        if (o.size > 0 ? price > o.limitPrice : price < o.limitPrice) revert BeyondLimit(o.account, price, o.limitPrice);
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

    function _requireInBand(uint256 price, uint256 anchor, uint256 mmr) private pure {
        uint256 apart = price > anchor ? price - anchor : anchor - price;
        if (2 * apart * WAD > mmr * anchor) revert PriceOutOfBand(price, anchor);
    }

    /// @dev What a reducing order loses against the execution price, and the most that it may below initial margin.
    function _loss(Order calldata o, uint256 price, FeedPrice memory p) private view returns (Loss memory) {
        (uint256 kappa, uint256 t) = ILiquidatorTerms(liquidator).reduceTerms(o.account);
        uint256 fair = ILiquidatorTerms(liquidator).executionPrice(p.fast, p.slow, t);
        uint256 size = MarginMath.abs(o.size);
        // A buyer loses above the execution price, a seller below it.
        uint256 apart = o.size > 0 ? _above(price, fair) : _above(fair, price);
        return Loss(MarginMath.mulWadUp(apart, size), kappa * size / WAD * fair / WAD);
    }

    function _checkSide(Order calldata o, bool adds, Loss memory loss) private {
        Account storage a = _accounts[o.account];
        if (adds) {
            if (a.state != State.Healthy) revert NotHealthy(o.account, a.state);
            if (a.cash < 0) revert NegativeCash(o.account, a.cash);
            if (a.markets.length > MAX_LEGS) revert TooManyLegs(o.account);
            _requireInitialMargin(o.account);
            (a.lastRiskAt, a.lastRiskBlock) = (uint40(block.timestamp), uint40(block.number));
            return;
        }
        if (a.state != State.Healthy) a.reduced = true;
        if (loss.made <= loss.bound) return;
        (bool ok,) = meetsInitialMargin(o.account);
        if (!ok) revert LossTooLarge(o.account, loss.made, loss.bound);
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

    function _priceVectors(Book memory b)
        private
        view
        returns (uint256[] memory fast, uint256[] memory slow, bytes32 stale)
    {
        uint256 n = b.legs.length;
        fast = new uint256[](n + b.holdings.length);
        slow = new uint256[](n + b.holdings.length);
        for (uint256 i; i < fast.length; ++i) {
            bytes32 feedId = i < n ? b.legs[i].feedId : b.holdings[i - n].feedId;
            FeedPrice memory p = router.price(feedId);
            (fast[i], slow[i]) = (p.fast, p.slow);
            if (!(p.fastFresh && p.slowFresh)) stale = feedId;
        }
    }

    function _perp(uint16 market) private view returns (Perp memory) {
        if (market == 0 || market > _perps.length) revert UnknownMarket(market);
        return _perps[market - 1];
    }
}
