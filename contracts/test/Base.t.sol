// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Test} from "forge-std/Test.sol";
import {TestAggregator} from "../demo/TestAggregator.sol";
import {TestToken} from "../demo/TestToken.sol";
import {Backstop} from "../src/Backstop.sol";
import {Breaker} from "../src/Breaker.sol";
import {Clearing} from "../src/Clearing.sol";
import {FastOracle} from "../src/FastOracle.sol";
import {
    Book,
    Bundle,
    Kind,
    Margin,
    Market,
    Quote,
    Report,
    RiskArray,
    SCENARIOS,
    State,
    View,
    WAD
} from "../src/HybridTypes.sol";
import {Instruments} from "../src/Instruments.sol";
import {Liquidator} from "../src/Liquidator.sol";
import {MarginEngine} from "../src/MarginEngine.sol";
import {OracleRouter} from "../src/OracleRouter.sol";
import {RiskArrays} from "../src/RiskArrays.sol";
import {SlopeParams} from "../src/Slope.sol";
import {Vault} from "../src/Vault.sol";
import {ChainlinkAdapter} from "../src/slow/ChainlinkAdapter.sol";

/// @notice The whole protocol with three feeds, five reporters of which three make a quorum, tokens of 6 (the
/// quote), 8 and 18 decimals, and a call and a put on ETH. Every act of a test goes through the same doors as a
/// user's.
abstract contract Base is Test {
    bytes32 internal constant ETH = "ETH";
    bytes32 internal constant BTC = "BTC";
    bytes32 internal constant SOL = "SOL";
    uint16 internal constant ETH_PERP = 1;
    uint16 internal constant BTC_PERP = 2;
    uint16 internal constant SOL_PERP = 3;
    /// @dev Strike 200, expiring at EXPIRY. Without a word from `postArrays` they have no risk array.
    uint16 internal constant ETH_CALL = 4;
    uint16 internal constant ETH_PUT = 5;
    uint16 internal constant LISTED = 5;
    uint8 internal constant WETH = 1;
    uint8 internal constant WBTC = 2;
    uint256 internal constant START = 1_700_000_000;
    uint40 internal constant EXPIRY = uint40(START + 30 days);
    uint128 internal constant STRIKE = 200e18;
    /// @dev What an option is worth above its payoff, and how much volatility moves that; 8 decimals.
    int256 internal constant TIME_VALUE = 4e8;
    int256 internal constant VOLATILITY = 1e8;

    FastOracle internal fastOracle;
    ChainlinkAdapter internal adapter;
    OracleRouter internal router;
    Vault internal vault;
    Instruments internal instruments;
    RiskArrays internal riskArrays;
    Clearing internal clearing;
    MarginEngine internal engine;
    Backstop internal backstop;
    Breaker internal breaker;
    Liquidator internal liquidator;
    TestToken internal usd;
    TestToken internal weth;
    TestToken internal wbtc;
    mapping(bytes32 feedId => TestAggregator) internal aggregators;
    /// @dev What `refresh` posts; set by `setFast`, `setSlow` and `setPrice`.
    mapping(bytes32 feedId => uint256) internal fastPrice;
    mapping(bytes32 feedId => uint256) internal slowPrice;
    mapping(address owner => uint256) internal keyOf;
    uint256[5] internal signerKeys = [uint256(11), 12, 13, 14, 15];
    uint256 internal nextNonce;

    address internal admin = makeAddr("admin");
    address internal guardian = makeAddr("guardian");
    address internal flagger = makeAddr("flagger");
    bytes32 internal alice;
    bytes32 internal bob;
    bytes32 internal taker;
    bytes32 internal taker2;

    function setUp() public virtual {
        vm.warp(START);
        vm.roll(1_000_000);
        (alice, bob) = (newAccount("alice"), newAccount("bob"));
        (taker, taker2) = (newAccount("taker"), newAccount("taker2"));
        deploy();
        fundCredit(flagger, address(usd), 100_000e18);
        vm.startPrank(admin);
        usd.mint(admin, 10_000e6);
        usd.approve(address(vault), type(uint256).max);
        vault.deposit(address(usd), 10_000e6, admin);
        backstop.fund(10_000e18);
        vm.stopPrank();
    }

    // --- set-up ---

    /// @dev The page's defaults.
    function slopeParams() internal view virtual returns (SlopeParams memory) {
        return SlopeParams({
            beta: 0.15e18,
            betaCure: 0.1e18,
            betaFlag: 0,
            lambda: 116_468_285_312_632,
            qMin: 869_565_217_391_304_348,
            tSlope: 1200,
            k0: 0.005e18,
            k1: 0.03e18,
            tK: 300,
            theta: 0.5e18,
            bandBase: 0.01e18,
            bandRate: 0.01e18,
            bandMax: 0.15e18,
            stepCap: 0.2e18,
            stepWindow: 30,
            minSlice: 100e18,
            dust: 1000e18
        });
    }

    function deploy() private {
        fastOracle = new FastOracle(admin);
        adapter = new ChainlinkAdapter(admin);
        router = new OracleRouter(fastOracle, admin);
        vault = new Vault(admin);
        usd = new TestToken("Dollar", "USD", 6);
        weth = new TestToken("Ether", "WETH", 18);
        wbtc = new TestToken("Bitcoin", "WBTC", 8);
        deployModules();
        vm.startPrank(admin);
        address[] memory signers = new address[](5);
        for (uint256 i; i < 5; ++i) {
            signers[i] = vm.addr(signerKeys[i]);
        }
        fastOracle.setSigners(signers, 3);
        vault.acceptToken(address(usd));
        vault.acceptToken(address(weth));
        vault.acceptToken(address(wbtc));
        vault.addModule(address(clearing));
        vault.addModule(address(liquidator));
        vault.addModule(address(backstop));
        clearing.bind(address(liquidator), address(engine), address(backstop), address(breaker));
        vm.stopPrank();

        newFeed(ETH, 200e18, 12);
        newFeed(BTC, 1000e18, 12);
        newFeed(SOL, 10e18, 60);
        list();
    }

    function deployModules() private {
        instruments = new Instruments(vault, router, address(usd), admin);
        riskArrays = new RiskArrays(fastOracle, router, instruments);
        clearing = new Clearing(vault, router, instruments, riskArrays, address(usd), admin);
        engine = new MarginEngine(clearing, instruments, riskArrays, router);
        backstop = new Backstop(vault, clearing, router, instruments, address(usd), admin);
        breaker = new Breaker(router, guardian, admin);
        liquidator = new Liquidator(clearing, engine, instruments, backstop, breaker, slopeParams(), admin);
    }

    function list() private {
        vm.startPrank(admin);
        instruments.listUnderlying(ETH, 0.05e18, 0.1e18, 0.01e18, 1e30);
        instruments.listUnderlying(BTC, 0.05e18, 0.1e18, 0.01e18, 1e30);
        instruments.listUnderlying(SOL, 0.1e18, 0.2e18, 0.01e18, 1e30);
        instruments.listPerp(ETH);
        instruments.listPerp(BTC);
        instruments.listPerp(SOL);
        instruments.listOption(ETH, STRIKE, EXPIRY, true);
        instruments.listOption(ETH, STRIKE, EXPIRY, false);
        instruments.listCollateral(address(weth), ETH, 0.8e18, 0.7e18, 0.1e18, 1e30);
        instruments.listCollateral(address(wbtc), BTC, 0.9e18, 0.85e18, 0.05e18, 1e30);
        vm.stopPrank();
    }

    function newFeed(bytes32 feedId, uint256 price, uint32 minDelay) internal {
        TestAggregator aggregator = new TestAggregator(8, 1, 1e20, address(this));
        aggregators[feedId] = aggregator;
        vm.startPrank(admin);
        adapter.setSource(feedId, aggregator, aggregator, 2 hours, 1e12, 1e28);
        router.setFeed(feedId, adapter, 0.01e18, 1 hours, minDelay);
        vm.stopPrank();
        setPrice(feedId, price);
        router.prove(feedId);
    }

    function newAccount(string memory name) internal returns (bytes32) {
        (address owner, uint256 key) = makeAddrAndKey(name);
        keyOf[owner] = key;
        return bytes32(bytes20(owner));
    }

    function ownerOf_(bytes32 acct) internal pure returns (address) {
        return address(bytes20(acct));
    }

    // --- time and prices ---

    /// @dev Not block.timestamp: the IR optimiser takes that for constant within a call.
    function nowS() internal view returns (uint256) {
        return vm.getBlockTimestamp();
    }

    /// @dev Let time pass without a word from either oracle.
    function pass(uint256 age) internal {
        vm.warp(nowS() + age);
        vm.roll(vm.getBlockNumber() + age / 12 + 1);
    }

    /// @dev Let time pass, then both oracles repeat their prices.
    function tick(uint256 age) internal {
        pass(age);
        refresh();
    }

    function refresh() internal {
        refreshFeed(ETH);
        refreshFeed(BTC);
        refreshFeed(SOL);
    }

    function refreshFeed(bytes32 feedId) internal {
        setFast(feedId, fastPrice[feedId]);
        setSlow(feedId, slowPrice[feedId]);
    }

    function setPrice(bytes32 feedId, uint256 price) internal {
        setFast(feedId, price);
        setSlow(feedId, price);
    }

    function setFast(bytes32 feedId, uint256 price) internal {
        fastPrice[feedId] = price;
        (, uint256 observedAt,) = fastOracle.read(feedId);
        if (observedAt >= nowS()) vm.warp(observedAt + 1);
        fastOracle.post(bundle(feedId, price));
    }

    function setSlow(bytes32 feedId, uint256 price) internal {
        slowPrice[feedId] = price;
        aggregators[feedId].update(int256(price / 1e10));
    }

    /// @dev The first three reporters agree, now.
    function bundle(bytes32 feedId, uint256 price) internal view returns (Bundle memory b) {
        b = Bundle(feedId, new Report[](3));
        for (uint256 i; i < 3; ++i) {
            b.reports[i] = report(signerKeys[i], feedId, price, 10, nowS(), nowS() + 60);
        }
    }

    function report(
        uint256 key,
        bytes32 feedId,
        uint256 price,
        uint256 confBps,
        uint256 observedAt,
        uint256 validUntil
    ) internal view returns (Report memory r) {
        r = Report(uint128(price), uint64(confBps), uint40(observedAt), uint40(validUntil), "");
        bytes32 digest = fastOracle.reportDigest(feedId, r.price, r.confBps, r.observedAt, r.validUntil);
        r.signature = signature(key, digest);
    }

    function signature(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    // --- options ---

    function listOption(bytes32 feedId, uint128 strike, uint40 expiry, bool isCall)
        internal
        returns (uint16 market)
    {
        vm.prank(admin);
        return instruments.listOption(feedId, strike, expiry, isCall);
    }

    /// @dev New arrays of ETH_CALL and ETH_PUT at the fast price.
    function postArrays() internal {
        uint16[] memory markets = new uint16[](2);
        (markets[0], markets[1]) = (ETH_CALL, ETH_PUT);
        postArrays(markets);
    }

    function postArray(uint16 market) internal {
        uint16[] memory markets = new uint16[](1);
        markets[0] = market;
        postArrays(markets);
    }

    function postArrays(uint16[] memory markets) internal {
        Quote[] memory stored = riskArrays.quotes(markets);
        RiskArray[] memory arrays = new RiskArray[](markets.length);
        for (uint256 i; i < markets.length; ++i) {
            if (stored[i].observedAt >= nowS()) vm.warp(stored[i].observedAt + 1);
        }
        for (uint256 i; i < markets.length; ++i) {
            arrays[i] = riskArray(markets[i], fastPrice[instruments.market(markets[i]).feedId]);
        }
        submitArrays(arrays);
    }

    /// @dev The first three reporters sign, now.
    function submitArrays(RiskArray[] memory arrays) internal {
        uint40 validUntil = uint40(nowS() + 60);
        bytes32 digest = riskArrays.digest(arrays, validUntil);
        bytes[] memory signatures = new bytes[](3);
        for (uint256 i; i < 3; ++i) {
            signatures[i] = signature(signerKeys[i], digest);
        }
        riskArrays.post(arrays, validUntil, signatures);
    }

    /// @dev An option worth its payoff and a constant more, at `ref` (WAD) and in every scenario.
    function riskArray(uint16 market, uint256 ref) internal view returns (RiskArray memory a) {
        Market memory m = instruments.market(market);
        (a.market, a.observedAt, a.refPrice) = (market, uint40(nowS()), uint64(ref / 1e10));
        int256 mark = payoffUnits(m, int256(ref / 1e10)) + TIME_VALUE;
        a.mark = uint64(uint256(mark));
        int256 inTheMoney = m.kind == Kind.Call ? int256(ref) - int128(m.strike) : int128(m.strike) - int256(ref);
        int256 delta = inTheMoney > 0 ? int256(1e9) : inTheMoney == 0 ? int256(0.5e9) : int256(0);
        a.delta = int32(m.kind == Kind.Call ? delta : -delta);
        int256 range = int256(ref * instruments.risk(m.feedId).mmr / WAD);
        for (uint256 s; s < SCENARIOS; ++s) {
            int256 end = (int256(ref) + range * moveOf(s) / 3) / 1e10;
            int256 volatility = s >= 14 ? int256(0) : s % 2 == 0 ? VOLATILITY : -VOLATILITY;
            a.pnl[s] = int64(payoffUnits(m, end) + TIME_VALUE + volatility - mark);
        }
    }

    /// @dev Of a scenario, in thirds of the range, written out against the contracts' formula.
    function moveOf(uint256 s) internal pure returns (int256) {
        int8[16] memory moves = [int8(0), 0, 1, 1, -1, -1, 2, 2, -2, -2, 3, 3, -3, -3, 9, -9];
        return moves[s];
    }

    /// @dev 8 decimals.
    function payoffUnits(Market memory m, int256 price) internal pure returns (int256) {
        int256 strike = int256(uint256(m.strike)) / 1e10;
        int256 inTheMoney = m.kind == Kind.Call ? price - strike : strike - price;
        return inTheMoney > 0 ? inTheMoney : int256(0);
    }

    /// @dev Both prices of ETH stand at `price` at the expiry, by which its options pay.
    function expireAt(uint256 price) internal {
        if (nowS() < EXPIRY) pass(EXPIRY - nowS());
        setPrice(ETH, price);
        riskArrays.settle(ETH, EXPIRY);
    }

    function none() internal pure returns (Bundle[] memory) {
        return new Bundle[](0);
    }

    function one(Bundle memory b) internal pure returns (Bundle[] memory all) {
        all = new Bundle[](1);
        all[0] = b;
    }

    // --- owners ---

    /// @param amount WAD
    function fundCredit(address holder, address token, uint256 amount) internal {
        uint256 scale = vault.scaleOf(token);
        uint256 units = (amount + scale - 1) / scale;
        TestToken(token).mint(address(this), units);
        TestToken(token).approve(address(vault), units);
        vault.deposit(token, units, holder);
    }

    /// @param amount WAD
    function deposit(bytes32 acct, address token, uint256 amount) internal {
        fundCredit(ownerOf_(acct), token, amount);
        vm.prank(ownerOf_(acct));
        clearing.deposit(acct, token, amount);
    }

    function withdraw(bytes32 acct, address token, uint256 amount) internal {
        vm.prank(ownerOf_(acct));
        clearing.withdraw(acct, token, amount);
    }

    function order(bytes32 acct, uint16 market, int256 size, uint256 limit)
        internal
        returns (Clearing.Order memory)
    {
        return Clearing.Order(acct, market, int128(size), uint128(limit), nextNonce++, uint40(nowS() + 1 hours));
    }

    function signed(Clearing.Order memory o) internal view returns (bytes memory) {
        return signature(keyOf[ownerOf_(o.account)], clearing.orderDigest(o));
    }

    /// @dev `size` from short to long at one price.
    function trade(bytes32 long, bytes32 short, uint16 market, uint256 size, uint256 price) internal {
        tradeExpecting("", long, short, market, size, price);
    }

    function tradeExpecting(
        bytes memory failure,
        bytes32 long,
        bytes32 short,
        uint16 market,
        uint256 size,
        uint256 price
    ) internal {
        Clearing.Order memory a = order(long, market, int256(size), price);
        Clearing.Order memory b = order(short, market, -int256(size), price);
        (bytes memory signedA, bytes memory signedB) = (signed(a), signed(b));
        if (failure.length == 4) vm.expectPartialRevert(bytes4(failure));
        else if (failure.length > 0) vm.expectRevert(failure);
        clearing.trade(a, signedA, b, signedB, uint128(price), none());
    }

    // --- the life of a breach ---

    /// @dev Alice long 100 ETH at 200 against bob, on 2,100 of cash: flagged below a price of about 188.4.
    function openAlice() internal {
        deposit(alice, address(usd), 2100e18);
        deposit(bob, address(usd), 100_000e18);
        trade(alice, bob, ETH_PERP, 100e18, 200e18);
        fundTaker(taker);
    }

    function fundTaker(bytes32 acct) internal {
        deposit(acct, address(usd), 100_000e18);
    }

    function flag(bytes32 acct) internal {
        vm.prank(flagger);
        liquidator.flag(acct, none());
    }

    /// @dev Both prices of ETH fall to `price` after the cool-off; flagged at once.
    function openAndFlag(uint256 price) internal {
        openAlice();
        tick(12);
        setPrice(ETH, price);
        flag(alice);
    }

    function openAndConfirm(uint256 price) internal {
        openAndFlag(price);
        tick(12);
        pass(1);
        refresh();
        liquidator.confirm(alice, none());
    }

    function terms(bytes32 acct, bytes32 by) internal view returns (Liquidator.SliceTerms memory) {
        return Liquidator.SliceTerms({
            taker: by,
            trancheNonce: liquidator.flagOf(acct).trancheNonce,
            deadline: uint40(nowS()),
            fMin: 0,
            fMax: uint64(WAD),
            minFee: 0
        });
    }

    function liquidate(bytes32 acct, bytes32 by) internal {
        liquidateOn(acct, terms(acct, by));
    }

    function liquidateOn(bytes32 acct, Liquidator.SliceTerms memory t) internal {
        vm.prank(ownerOf_(t.taker));
        liquidator.liquidate(acct, t, none());
    }

    /// @dev The next slice of `acct` by `by` fails with this error.
    function liquidateExpecting(bytes4 failure, bytes32 acct, bytes32 by) internal {
        liquidateExpectingOn(failure, acct, terms(acct, by));
    }

    function liquidateExpectingOn(bytes4 failure, bytes32 acct, Liquidator.SliceTerms memory t) internal {
        vm.expectPartialRevert(failure);
        vm.prank(ownerOf_(t.taker));
        liquidator.liquidate(acct, t, none());
    }

    // --- looking ---

    function stateOf(bytes32 acct) internal view returns (State state) {
        (state,,,,,) = clearing.status(acct);
    }

    function book(bytes32 acct) internal view returns (Book memory) {
        return engine.look(acct, 0).book;
    }

    function cashOf(bytes32 acct) internal view returns (int256) {
        return book(acct).cash;
    }

    /// @dev Size and quote leg; zeros where the account has no such leg.
    function leg(bytes32 acct, uint16 market) internal view returns (int256 size, int256 quoteLeg) {
        Book memory b = book(acct);
        for (uint256 i; i < b.legs.length; ++i) {
            if (b.legs[i].market == market) return (b.legs[i].size, b.legs[i].quoteLeg);
        }
    }

    function quoteCredit(address holder) internal view returns (uint256) {
        return vault.credit(address(usd), holder);
    }

    /// @dev Maintenance margin at fast, slow and execution prices.
    function margins(bytes32 acct) internal view returns (Margin memory f, Margin memory s, Margin memory l) {
        Liquidator.Flag memory flag_ = liquidator.flagOf(acct);
        uint256 t = flag_.confirmedAt == 0 ? 0 : flag_.tau - flag_.tauAtConfirm;
        View memory v = engine.look(acct, bandAt(t));
        return (v.atFast, v.atSlow, v.atExec);
    }

    /// @dev How far the execution price may lie from the slow one, `t` active seconds after confirmation.
    function bandAt(uint256 t) internal view returns (uint256) {
        SlopeParams memory p = slopeParams();
        uint256 band = p.bandBase + uint256(p.bandRate) * t / 60;
        return band < p.bandMax ? band : p.bandMax;
    }
}
