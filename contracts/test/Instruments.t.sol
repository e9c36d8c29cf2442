// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Test} from "forge-std/Test.sol";
import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {TestToken} from "../demo/TestToken.sol";
import {Balance, Holding, Kind, Market, Risk} from "../src/HybridTypes.sol";
import {Instruments} from "../src/Instruments.sol";
import {OracleRouter} from "../src/OracleRouter.sol";
import {Ramp} from "../src/Ramp.sol";
import {Vault} from "../src/Vault.sol";
import {StubRouter} from "./StubRouter.sol";

contract InstrumentsTest is Test {
    bytes32 internal constant ETH = "ETH";
    bytes32 internal constant BTC = "BTC";
    uint256 internal constant START = 1_700_000_000;

    StubRouter internal router;
    Vault internal vault;
    Instruments internal instruments;
    TestToken internal usd;
    TestToken internal weth;
    TestToken internal wbtc;
    address internal admin = makeAddr("admin");

    event RampSet(
        bytes32 indexed subject, bytes32 indexed parameter, uint256 from, uint256 to, uint256 start, uint256 end
    );
    event MarketListed(uint16 market, bytes32 feedId, Kind kind, uint40 expiry, uint128 strike);

    function setUp() public {
        vm.warp(START);
        router = new StubRouter();
        router.set(ETH, 200e18, 200e18);
        router.set(BTC, 1000e18, 1000e18);
        vault = new Vault(admin);
        usd = new TestToken("Dollar", "USD", 6);
        weth = new TestToken("Ether", "WETH", 18);
        wbtc = new TestToken("Bitcoin", "WBTC", 8);
        instruments = new Instruments(vault, OracleRouter(address(router)), address(usd), admin);
        vm.startPrank(admin);
        vault.acceptToken(address(usd));
        vault.acceptToken(address(weth));
        vault.acceptToken(address(wbtc));
        instruments.listUnderlying(ETH, 0.05e18, 0.1e18, 0.01e18, 1_000_000e18);
        vm.stopPrank();
    }

    function nowS() private view returns (uint256) {
        return vm.getBlockTimestamp();
    }

    function pass(uint256 age) private {
        vm.warp(nowS() + age);
    }

    function refuse(string memory what) private {
        vm.expectRevert(abi.encodeWithSelector(Instruments.BadConfig.selector, what));
        vm.prank(admin);
    }

    function refuseDuration(uint256 duration, uint256 least) private {
        vm.expectRevert(
            abi.encodeWithSelector(Instruments.BadDuration.selector, duration, least, uint256(90 days))
        );
        vm.prank(admin);
    }

    function setMargins(uint64 mmr, uint64 imr, uint64 shortMin, uint40 duration) private {
        vm.prank(admin);
        instruments.setMargins(ETH, mmr, imr, shortMin, duration);
    }

    function listWeth() private {
        vm.prank(admin);
        instruments.listCollateral(address(weth), ETH, 0.8e18, 0.7e18, 0.1e18, 1e30);
    }

    function setHaircuts(uint64 hMM, uint64 hIM, uint40 duration) private {
        vm.prank(admin);
        instruments.setHaircuts(1, hMM, hIM, duration);
    }

    function assertRisk(uint256 mmr, uint256 imr, uint256 shortMin) private view {
        Risk memory r = instruments.risk(ETH);
        assertEq(r.mmr, mmr, "mmr");
        assertEq(r.imr, imr, "imr");
        assertEq(r.shortMin, shortMin, "shortMin");
    }

    function assertHaircuts(uint256 hMM, uint256 hIM) private view {
        Balance[] memory b = new Balance[](1);
        b[0] = Balance(1, 5);
        Holding memory h = instruments.haircuts(b)[0];
        assertEq(h.hMM, hMM, "hMM");
        assertEq(h.hIM, hIM, "hIM");
    }

    function assertRamp(Ramp memory r, uint256 from, uint256 to, uint256 start, uint256 end) private pure {
        assertEq(r.from, from, "from");
        assertEq(r.to, to, "to");
        assertEq(r.start, start, "start");
        assertEq(r.end, end, "end");
    }

    // --- listing ---

    function test_an_underlying_is_listed_with_its_terms_and_stands_still() public view {
        assertRisk(0.05e18, 0.1e18, 0.01e18);
        assertEq(instruments.bucketCap(ETH), 1_000_000e18);
        Instruments.Underlying memory u = instruments.underlying(ETH);
        assertRamp(u.mmr, 0.05e18, 0.05e18, START, START);
        assertRamp(u.imr, 0.1e18, 0.1e18, START, START);
        assertRamp(u.shortMin, 0.01e18, 0.01e18, START, START);
        assertEq(u.bucketCap, 1_000_000e18);
    }

    function test_an_underlying_is_refused_outside_the_hard_bounds() public {
        refuse("mmr");
        instruments.listUnderlying(BTC, 0.005e18 - 1, 0.1e18, 0, 0);
        refuse("mmr");
        instruments.listUnderlying(BTC, 0.5e18 + 1, 1e18, 0, 0);
        refuse("imr");
        instruments.listUnderlying(BTC, 0.05e18, 0.05e18, 0, 0);
        refuse("imr");
        instruments.listUnderlying(BTC, 0.05e18, 1e18 + 1, 0, 0);
        refuse("shortMin");
        instruments.listUnderlying(BTC, 0.05e18, 0.1e18, 0.05e18 + 1, 0);
        vm.startPrank(admin);
        instruments.listUnderlying(BTC, 0.005e18, 0.005e18 + 1, 0.005e18, 0);
        router.set("SOL", 1, 1);
        instruments.listUnderlying("SOL", 0.5e18, 1e18, 0.5e18, type(uint128).max);
        vm.stopPrank();
    }

    function test_a_feed_that_the_router_does_not_know_is_not_listed() public {
        vm.startPrank(admin);
        vm.expectRevert(abi.encodeWithSelector(StubRouter.UnknownFeed.selector, bytes32("x")));
        instruments.listUnderlying("x", 0.05e18, 0.1e18, 0, 0);
        vm.expectRevert(abi.encodeWithSelector(StubRouter.UnknownFeed.selector, bytes32("x")));
        instruments.listCollateral(address(weth), "x", 0.8e18, 0.7e18, 0.1e18, 1);
        vm.stopPrank();
    }

    function test_an_underlying_is_listed_once() public {
        refuse("feed");
        instruments.listUnderlying(ETH, 0.05e18, 0.1e18, 0, 0);
    }

    function test_markets_are_numbered_from_one_and_carry_what_they_trade() public {
        vm.startPrank(admin);
        vm.expectEmit(address(instruments));
        emit MarketListed(1, ETH, Kind.Perp, 0, 0);
        assertEq(instruments.listPerp(ETH), 1);
        uint40 expiry = uint40(START + 30 days);
        vm.expectEmit(address(instruments));
        emit MarketListed(2, ETH, Kind.Call, expiry, 250e18);
        assertEq(instruments.listOption(ETH, 250e18, expiry, true), 2);
        assertEq(instruments.listOption(ETH, 150e18, expiry, false), 3);
        vm.stopPrank();
        assertEq(instruments.marketCount(), 3);
        Market memory m = instruments.market(1);
        assertEq(m.feedId, ETH);
        assertEq(uint256(m.kind), uint256(Kind.Perp));
        assertEq(uint256(m.expiry) + m.strike, 0);
        m = instruments.market(3);
        assertEq(m.feedId, ETH);
        assertEq(uint256(m.kind), uint256(Kind.Put));
        assertEq(m.expiry, expiry);
        assertEq(m.strike, 150e18);
    }

    function test_a_market_needs_its_underlying() public {
        vm.startPrank(admin);
        vm.expectRevert(abi.encodeWithSelector(Instruments.UnknownUnderlying.selector, BTC));
        instruments.listPerp(BTC);
        vm.expectRevert(abi.encodeWithSelector(Instruments.UnknownUnderlying.selector, BTC));
        instruments.listOption(BTC, 1, uint40(START + 1), true);
        vm.stopPrank();
    }

    function test_an_option_expires_in_the_future_and_within_a_year_and_has_a_strike() public {
        refuse("expiry");
        instruments.listOption(ETH, 1, uint40(START), true);
        refuse("expiry");
        instruments.listOption(ETH, 1, uint40(START + 365 days + 1), true);
        refuse("strike");
        instruments.listOption(ETH, 0, uint40(START + 1), true);
        vm.startPrank(admin);
        instruments.listOption(ETH, 1, uint40(START + 1), true);
        instruments.listOption(ETH, 1, uint40(START + 365 days), false);
        vm.stopPrank();
    }

    function test_there_are_at_most_65535_markets() public {
        vm.pauseGasMetering();
        vm.startPrank(admin);
        for (uint256 i; i < type(uint16).max; ++i) {
            instruments.listPerp(ETH);
        }
        assertEq(instruments.market(type(uint16).max).feedId, ETH);
        vm.stopPrank();
        refuse("too many");
        instruments.listPerp(ETH);
    }

    function test_a_collateral_is_listed_with_its_terms() public {
        listWeth();
        assertEq(instruments.collateralOf(address(weth)), 1);
        assertEq(instruments.collateralOf(address(wbtc)), 0);
        assertEq(instruments.collateralCount(), 1);
        (address token, bytes32 feedId, uint256 hMM, uint256 cap) = instruments.collateral(1);
        assertEq(token, address(weth));
        assertEq(feedId, ETH);
        assertEq(hMM, 0.8e18);
        assertEq(cap, 1e30);
        Instruments.Collateral memory c = instruments.collateralTerms(1);
        assertEq(c.token, address(weth));
        assertEq(c.feedId, ETH);
        assertRamp(c.hMM, 0.8e18, 0.8e18, START, START);
        assertRamp(c.hIM, 0.7e18, 0.7e18, START, START);
        assertEq(c.saleDiscMax, 0.1e18);
        assertEq(c.cap, 1e30);
    }

    function test_a_collateral_is_a_token_of_the_vault_not_the_quote_and_listed_once() public {
        listWeth();
        refuse("token");
        instruments.listCollateral(address(weth), ETH, 0.8e18, 0.7e18, 0.1e18, 1);
        refuse("token");
        instruments.listCollateral(address(usd), ETH, 0.8e18, 0.7e18, 0.1e18, 1);
        refuse("token");
        instruments.listCollateral(address(3), ETH, 0.8e18, 0.7e18, 0.1e18, 1);
    }

    function test_haircuts_leave_room_for_the_sale_discount() public {
        refuse("haircuts");
        instruments.listCollateral(address(weth), ETH, 0.8e18, 0.8e18 + 1, 0.1e18, 1);
        refuse("haircuts");
        instruments.listCollateral(address(weth), ETH, 0.8e18, 0.7e18, 0.195e18 + 1, 1);
        vm.prank(admin);
        instruments.listCollateral(address(weth), ETH, 0.8e18, 0.8e18, 0.195e18, 1);
        refuse("haircuts");
        instruments.setHaircuts(1, 0.8e18 + 1, 0.8e18, 0);
        refuse("haircuts");
        instruments.setHaircuts(1, 0.8e18 + 1, 0.8e18, 30 days);
    }

    function test_there_are_at_most_255_collaterals() public {
        vm.startPrank(admin);
        for (uint256 i; i < type(uint8).max; ++i) {
            TestToken token = new TestToken("T", "T", 18);
            vault.acceptToken(address(token));
            assertEq(instruments.listCollateral(address(token), ETH, 0.8e18, 0.7e18, 0.1e18, 1), i + 1);
        }
        vm.stopPrank();
        refuse("too many");
        instruments.listCollateral(address(weth), ETH, 0.8e18, 0.7e18, 0.1e18, 1);
    }

    function test_what_is_not_listed_is_unknown() public {
        vm.expectRevert(abi.encodeWithSelector(Instruments.UnknownMarket.selector, uint16(0)));
        instruments.market(0);
        vm.expectRevert(abi.encodeWithSelector(Instruments.UnknownMarket.selector, uint16(1)));
        instruments.market(1);
        uint16[] memory ids = new uint16[](1);
        ids[0] = 9;
        vm.expectRevert(abi.encodeWithSelector(Instruments.UnknownMarket.selector, uint16(9)));
        instruments.terms(ids);
        vm.expectRevert(abi.encodeWithSelector(Instruments.UnknownUnderlying.selector, BTC));
        instruments.risk(BTC);
        vm.expectRevert(abi.encodeWithSelector(Instruments.UnknownUnderlying.selector, BTC));
        instruments.underlying(BTC);
        vm.expectRevert(abi.encodeWithSelector(Instruments.UnknownUnderlying.selector, BTC));
        instruments.bucketCap(BTC);
        vm.expectRevert(abi.encodeWithSelector(Instruments.UnknownCollateral.selector, uint8(0)));
        instruments.collateral(0);
        vm.expectRevert(abi.encodeWithSelector(Instruments.UnknownCollateral.selector, uint8(1)));
        instruments.collateralTerms(1);
        vm.expectRevert(abi.encodeWithSelector(Instruments.UnknownCollateral.selector, uint8(2)));
        instruments.haircuts(balances(2, 1));
    }

    function balances(uint8 a, uint8 b) private pure returns (Balance[] memory all) {
        all = new Balance[](2);
        (all[0], all[1]) = (Balance(a, 7), Balance(b, 9));
    }

    // --- many at once ---

    function test_terms_come_in_the_order_asked_for() public {
        vm.startPrank(admin);
        instruments.listUnderlying(BTC, 0.1e18, 0.2e18, 0.02e18, 0);
        instruments.listPerp(ETH);
        instruments.listPerp(BTC);
        instruments.listOption(BTC, 900e18, uint40(START + 1 days), false);
        vm.stopPrank();
        uint16[] memory ids = new uint16[](4);
        (ids[0], ids[1], ids[2], ids[3]) = (3, 1, 2, 3);
        (Market[] memory markets, Risk[] memory risks) = instruments.terms(ids);
        assertEq(markets.length, 4);
        for (uint256 i; i < 4; ++i) {
            assertEq(abi.encode(markets[i]), abi.encode(instruments.market(ids[i])));
            assertEq(abi.encode(risks[i]), abi.encode(instruments.risk(markets[i].feedId)));
        }
        assertEq(markets[0].strike, 900e18);
        assertEq(risks[1].mmr, 0.05e18);
        assertEq(risks[2].mmr, 0.1e18);
    }

    function test_haircuts_come_in_the_order_asked_for_with_the_amounts() public {
        listWeth();
        vm.prank(admin);
        instruments.listCollateral(address(wbtc), BTC, 0.9e18, 0.85e18, 0.05e18, 1e30);
        Holding[] memory h = instruments.haircuts(balances(2, 1));
        assertEq(h[0].collateral, 2);
        assertEq(h[0].feedId, BTC);
        assertEq(h[0].amount, 7);
        assertEq(h[0].hMM, 0.9e18);
        assertEq(h[0].hIM, 0.85e18);
        assertEq(h[0].saleDiscMax, 0.05e18);
        assertEq(h[1].collateral, 1);
        assertEq(h[1].feedId, ETH);
        assertEq(h[1].amount, 9);
        assertEq(h[1].hMM, 0.8e18);
    }

    // --- ramps ---

    function test_raising_a_margin_takes_a_day_or_longer() public {
        uint64[3][3] memory raised = [
            [uint64(0.05e18 + 1), 0.1e18, 0.01e18], [uint64(0.05e18), 0.1e18 + 1, 0.01e18],
            [uint64(0.05e18), 0.1e18, 0.01e18 + 1]
        ];
        for (uint256 i; i < 3; ++i) {
            uint64[3] memory r = raised[i];
            refuseDuration(0, 24 hours);
            instruments.setMargins(ETH, r[0], r[1], r[2], 0);
            refuseDuration(24 hours - 1, 24 hours);
            instruments.setMargins(ETH, r[0], r[1], r[2], 24 hours - 1);
        }
        setMargins(0.05e18 + 1, 0.1e18, 0.01e18, 24 hours);
    }

    function test_no_ramp_is_longer_than_ninety_days() public {
        refuseDuration(90 days + 1, 0);
        instruments.setMargins(ETH, 0.04e18, 0.1e18, 0.01e18, 90 days + 1);
        refuseDuration(90 days + 1, 24 hours);
        instruments.setMargins(ETH, 0.06e18, 0.1e18, 0.01e18, 90 days + 1);
        setMargins(0.06e18, 0.1e18, 0.01e18, 90 days);
        pass(45 days);
        assertRisk(0.055e18, 0.1e18, 0.01e18);
        pass(45 days);
        assertRisk(0.06e18, 0.1e18, 0.01e18);
    }

    function test_a_raise_follows_the_line_second_by_second() public {
        setMargins(0.05e18 + 86_400, 0.2e18, 0.01e18, 24 hours);
        assertRisk(0.05e18, 0.1e18, 0.01e18);
        pass(1);
        assertRisk(0.05e18 + 1, 0.1e18 + uint256(0.1e18) / 86_400, 0.01e18);
        pass(86_398);
        assertRisk(0.05e18 + 86_399, 0.1e18 + uint256(0.1e18) * 86_399 / 86_400, 0.01e18);
        pass(1);
        assertRisk(0.05e18 + 86_400, 0.2e18, 0.01e18);
        pass(1);
        assertRisk(0.05e18 + 86_400, 0.2e18, 0.01e18);
    }

    function test_lowering_may_be_at_once_or_slow() public {
        setMargins(0.04e18, 0.08e18, 0.005e18, 0);
        assertRisk(0.04e18, 0.08e18, 0.005e18);
        assertRamp(instruments.underlying(ETH).mmr, 0.04e18, 0.04e18, START, START);
        setMargins(0.02e18, 0.06e18, 0.001e18, 100);
        assertRisk(0.04e18, 0.08e18, 0.005e18);
        pass(50);
        assertRisk(0.03e18, 0.07e18, 0.003e18);
        pass(50);
        assertRisk(0.02e18, 0.06e18, 0.001e18);
    }

    function test_a_change_in_mid_ramp_starts_from_todays_value() public {
        setMargins(0.07e18, 0.2e18, 0.01e18, 48 hours);
        pass(24 hours);
        assertRisk(0.06e18, 0.15e18, 0.01e18);
        // Below where the ramp was to end, but above where it has got to: still a raise.
        refuseDuration(0, 24 hours);
        instruments.setMargins(ETH, 0.06e18, 0.15e18 + 1, 0.01e18, 0);
        setMargins(0.065e18, 0.15e18, 0.01e18, 24 hours);
        assertRisk(0.06e18, 0.15e18, 0.01e18);
        assertRamp(instruments.underlying(ETH).mmr, 0.06e18, 0.065e18, nowS(), nowS() + 24 hours);
        pass(12 hours);
        assertRisk(0.0625e18, 0.15e18, 0.01e18);
        // And what stays below that may end at once.
        setMargins(0.0625e18, 0.15e18, 0.01e18, 0);
        pass(30 days);
        assertRisk(0.0625e18, 0.15e18, 0.01e18);
    }

    function test_margins_are_changed_inside_the_hard_bounds_only() public {
        refuse("mmr");
        instruments.setMargins(ETH, 0.005e18 - 1, 0.1e18, 0, 24 hours);
        refuse("mmr");
        instruments.setMargins(ETH, 0.5e18 + 1, 1e18, 0, 24 hours);
        refuse("imr");
        instruments.setMargins(ETH, 0.05e18, 0.05e18, 0, 24 hours);
        refuse("imr");
        instruments.setMargins(ETH, 0.05e18, 1e18 + 1, 0, 24 hours);
        refuse("shortMin");
        instruments.setMargins(ETH, 0.05e18, 0.1e18, 0.05e18 + 1, 24 hours);
    }

    function test_lowering_a_haircut_factor_takes_a_day_or_longer() public {
        listWeth();
        refuseDuration(0, 24 hours);
        instruments.setHaircuts(1, 0.8e18 - 1, 0.7e18, 0);
        refuseDuration(24 hours - 1, 24 hours);
        instruments.setHaircuts(1, 0.8e18, 0.7e18 - 1, 24 hours - 1);
        refuseDuration(90 days + 1, 24 hours);
        instruments.setHaircuts(1, 0.7e18, 0.6e18, 90 days + 1);
        setHaircuts(0.6e18, 0.5e18, 24 hours);
        assertHaircuts(0.8e18, 0.7e18);
        pass(6 hours);
        assertHaircuts(0.75e18, 0.65e18);
        (,, uint256 hMM,) = instruments.collateral(1);
        assertEq(hMM, 0.75e18);
        Instruments.Collateral memory c = instruments.collateralTerms(1);
        assertRamp(c.hMM, 0.8e18, 0.6e18, START, START + 24 hours);
        assertRamp(c.hIM, 0.7e18, 0.5e18, START, START + 24 hours);
        assertEq(c.saleDiscMax, 0.1e18);
        pass(18 hours);
        assertHaircuts(0.6e18, 0.5e18);
    }

    function test_raising_a_haircut_factor_may_be_at_once_and_starts_from_todays_value() public {
        listWeth();
        setHaircuts(0.6e18, 0.5e18, 48 hours);
        pass(24 hours);
        assertHaircuts(0.7e18, 0.6e18);
        setHaircuts(0.75e18, 0.6e18, 0);
        assertHaircuts(0.75e18, 0.6e18);
        setHaircuts(0.85e18, 0.85e18, 100);
        pass(50);
        assertHaircuts(0.8e18, 0.725e18);
        pass(50);
        assertHaircuts(0.85e18, 0.85e18);
    }

    function test_haircuts_of_an_unknown_collateral_cannot_be_changed_nor_margins_of_an_unknown_underlying() public {
        vm.startPrank(admin);
        vm.expectRevert(abi.encodeWithSelector(Instruments.UnknownCollateral.selector, uint8(1)));
        instruments.setHaircuts(1, 0.8e18, 0.7e18, 0);
        vm.expectRevert(abi.encodeWithSelector(Instruments.UnknownUnderlying.selector, BTC));
        instruments.setMargins(BTC, 0.05e18, 0.1e18, 0, 24 hours);
        vm.expectRevert(abi.encodeWithSelector(Instruments.UnknownUnderlying.selector, BTC));
        instruments.setBucketCap(BTC, 0);
        vm.stopPrank();
    }

    function test_a_ramp_is_told_with_its_times() public {
        vm.expectEmit(address(instruments));
        emit RampSet(ETH, "mmr", 0.05e18, 0.06e18, START, START + 24 hours);
        vm.expectEmit(address(instruments));
        emit RampSet(ETH, "imr", 0.1e18, 0.1e18, START, START + 24 hours);
        vm.expectEmit(address(instruments));
        emit RampSet(ETH, "shortMin", 0.01e18, 0.005e18, START, START + 24 hours);
        setMargins(0.06e18, 0.1e18, 0.005e18, 24 hours);
        listWeth();
        vm.expectEmit(address(instruments));
        emit RampSet(bytes32(uint256(1)), "hMM", 0.8e18, 0.7e18, START, START + 2 days);
        vm.expectEmit(address(instruments));
        emit RampSet(bytes32(uint256(1)), "hIM", 0.7e18, 0.65e18, START, START + 2 days);
        setHaircuts(0.7e18, 0.65e18, 2 days);
    }

    function test_the_version_rises_with_every_change() public {
        assertEq(instruments.version(), 1);
        vm.startPrank(admin);
        instruments.listPerp(ETH);
        assertEq(instruments.version(), 2);
        instruments.listOption(ETH, 1, uint40(START + 1), true);
        assertEq(instruments.version(), 3);
        instruments.listCollateral(address(weth), ETH, 0.8e18, 0.7e18, 0.1e18, 1);
        assertEq(instruments.version(), 4);
        instruments.setMargins(ETH, 0.04e18, 0.1e18, 0.01e18, 0);
        assertEq(instruments.version(), 5);
        instruments.setHaircuts(1, 0.8e18, 0.75e18, 0);
        assertEq(instruments.version(), 6);
        instruments.setBucketCap(ETH, 5);
        assertEq(instruments.version(), 7);
        assertEq(instruments.bucketCap(ETH), 5);
        assertRisk(0.04e18, 0.1e18, 0.01e18);
        vm.stopPrank();
    }

    function test_only_the_admin_lists_and_changes() public {
        bytes memory failure = abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, address(this));
        vm.expectRevert(failure);
        instruments.listUnderlying(BTC, 0.05e18, 0.1e18, 0, 0);
        vm.expectRevert(failure);
        instruments.listPerp(ETH);
        vm.expectRevert(failure);
        instruments.listOption(ETH, 1, uint40(START + 1), true);
        vm.expectRevert(failure);
        instruments.listCollateral(address(weth), ETH, 0.8e18, 0.7e18, 0.1e18, 1);
        vm.expectRevert(failure);
        instruments.setMargins(ETH, 0.05e18, 0.1e18, 0, 0);
        vm.expectRevert(failure);
        instruments.setHaircuts(1, 0.8e18, 0.7e18, 0);
        vm.expectRevert(failure);
        instruments.setBucketCap(ETH, 0);
    }
}

/// @notice What a margin check pays for the terms of a whole account: eight legs of four underlyings, nothing
/// read before. The figures are bounds with a little room, so that a dearer layout is noticed.
contract InstrumentsCostTest is Test {
    Instruments internal instruments;
    bytes32[4] internal feeds = [bytes32("ETH"), "BTC", "SOL", "XRP"];
    uint16[] internal ids;
    Balance[] internal balances;

    function setUp() public {
        vm.warp(1_700_000_000);
        StubRouter router = new StubRouter();
        Vault vault = new Vault(address(this));
        instruments = new Instruments(vault, OracleRouter(address(router)), address(1), address(this));
        for (uint256 i; i < 4; ++i) {
            router.set(feeds[i], 1e18, 1e18);
            instruments.listUnderlying(feeds[i], 0.05e18, 0.1e18, 0.01e18, 0);
            ids.push(instruments.listPerp(feeds[i]));
            ids.push(instruments.listOption(feeds[i], 1e18, 1_700_100_000, true));
            TestToken token = new TestToken("T", "T", 18);
            vault.acceptToken(address(token));
            balances.push(
                Balance(instruments.listCollateral(address(token), feeds[i], 0.8e18, 0.7e18, 0.1e18, 1), 1e18)
            );
        }
    }

    function cost(string memory what, bytes memory call) private returns (uint256 gas) {
        address to = address(instruments);
        gas = gasleft();
        (bool ok,) = to.staticcall(call);
        gas -= gasleft();
        assertTrue(ok);
        emit log_named_uint(what, gas);
    }

    function test_terms_of_eight_legs_at_rest() public {
        assertLt(cost("8 legs, 4 underlyings, at rest", abi.encodeCall(instruments.terms, (ids))), 60_000);
    }

    function test_terms_of_eight_legs_in_ramps() public {
        for (uint256 i; i < 4; ++i) {
            instruments.setMargins(feeds[i], 0.06e18, 0.2e18, 0.02e18, 1 days);
        }
        assertLt(cost("8 legs, all in ramps, warm", abi.encodeCall(instruments.terms, (ids))), 60_000);
    }

    function test_haircuts_of_four_holdings_at_rest() public {
        assertLt(cost("4 holdings, at rest", abi.encodeCall(instruments.haircuts, (balances))), 40_000);
    }
}
