// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Test} from "forge-std/Test.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {FastOracle} from "../src/FastOracle.sol";
import {FeedPrice, Kind, Market, Quote, Risk, RiskArray} from "../src/HybridTypes.sol";
import {OracleRouter} from "../src/OracleRouter.sol";
import {Quorum} from "../src/Quorum.sol";
import {RiskArrays} from "../src/RiskArrays.sol";
import {IInstruments} from "../src/interfaces/IModules.sol";

/// @notice The two listings that risk arrays are judged by.
contract ListedMarkets {
    mapping(uint16 => Market) private _markets;
    uint256 public mmr = 0.05e18;

    error UnknownMarket(uint16 id);

    function list(uint16 id, Market calldata m) external {
        _markets[id] = m;
    }

    function setMmr(uint256 mmr_) external {
        mmr = mmr_;
    }

    function market(uint16 id) external view returns (Market memory m) {
        m = _markets[id];
        if (m.feedId == "") revert UnknownMarket(id);
    }

    function risk(bytes32) external view returns (Risk memory) {
        return Risk(mmr, 2 * mmr, 0.02e18);
    }
}

/// @notice One feed, at whatever prices the test says.
contract SetPrices {
    FeedPrice private _price;

    function set(FeedPrice calldata p) external {
        _price = p;
    }

    function price(bytes32) external view returns (FeedPrice memory) {
        return _price;
    }
}

/// @notice An underlying at 100 with a range of 5%, a call and a put on 100; five reporters, three of them a quorum.
contract RiskArraysTest is Test {
    bytes32 internal constant ETH = "ETH";
    uint16 internal constant PERP = 1;
    uint16 internal constant CALL = 2;
    uint16 internal constant PUT = 3;
    uint16 internal constant LATER = 4;
    uint256 internal constant START = 1_700_000_000;
    uint40 internal constant EXPIRY = 1_702_000_000;
    uint64 internal constant ONE = 1e8;

    FastOracle internal fastOracle;
    SetPrices internal prices;
    ListedMarkets internal listed;
    RiskArrays internal arrays;
    uint256[5] internal keys = [uint256(11), 12, 13, 14, 15];
    mapping(bytes32 slot => bool) internal seen;

    function setUp() public {
        vm.warp(START);
        fastOracle = new FastOracle(address(this));
        address[] memory signers = new address[](5);
        for (uint256 i; i < 5; ++i) {
            signers[i] = vm.addr(keys[i]);
        }
        fastOracle.setSigners(signers, 3);
        (prices, listed) = (new SetPrices(), new ListedMarkets());
        listed.list(PERP, Market(ETH, Kind.Perp, 0, 0));
        listed.list(CALL, Market(ETH, Kind.Call, EXPIRY, 100e18));
        listed.list(PUT, Market(ETH, Kind.Put, EXPIRY, 100e18));
        arrays = new RiskArrays(fastOracle, OracleRouter(address(prices)), IInstruments(address(listed)));
    }

    function nowS() internal view returns (uint40) {
        return uint40(vm.getBlockTimestamp());
    }

    /// @dev At the money, worth 4; half a unit in volatility; 15.5 and 0.5 at the extremes.
    function good(uint16 market) internal view returns (RiskArray memory a) {
        (a.market, a.observedAt, a.refPrice, a.mark) = (market, nowS(), 100 * ONE, 4 * ONE);
        bool isCall = market != PUT;
        a.delta = isCall ? int32(0.5e9) : int32(-0.5e9);
        int64[7] memory moves = [int64(0), 1, -1, 2, -2, 3, -3];
        for (uint256 s; s < 14; ++s) {
            // A third of the range is 5/3: delta gives 5/6 of it.
            int64 moved = moves[s / 2] * 0.83333333e8;
            a.pnl[s] = (isCall ? moved : -moved) + (s % 2 == 0 ? int64(0.5e8) : -0.5e8);
        }
        (a.pnl[14], a.pnl[15]) = isCall ? (int64(11.5e8), int64(-3.5e8)) : (int64(-3.5e8), int64(11.5e8));
    }

    function only(RiskArray memory a) internal pure returns (RiskArray[] memory all) {
        all = new RiskArray[](1);
        all[0] = a;
    }

    function both(RiskArray memory a, RiskArray memory b) internal pure returns (RiskArray[] memory all) {
        all = new RiskArray[](2);
        (all[0], all[1]) = (a, b);
    }

    function signature(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function signed(RiskArray[] memory all, uint40 validUntil, uint256 count)
        internal
        view
        returns (bytes[] memory signatures)
    {
        bytes32 digest = arrays.digest(all, validUntil);
        signatures = new bytes[](count);
        for (uint256 i; i < count; ++i) {
            signatures[i] = signature(keys[i], digest);
        }
    }

    function post(RiskArray[] memory all) internal {
        uint40 until = nowS() + 60;
        arrays.post(all, until, signed(all, until, 3));
    }

    function post(RiskArray memory a) internal {
        post(only(a));
    }

    function refuse(RiskArray memory a, bytes memory why) internal {
        uint40 until = nowS() + 60;
        bytes[] memory signatures = signed(only(a), until, 3);
        vm.expectRevert(why);
        arrays.post(only(a), until, signatures);
        assertEq(quote(a.market).observedAt, 0);
    }

    function quote(uint16 market) internal view returns (Quote memory) {
        uint16[] memory ids = new uint16[](1);
        ids[0] = market;
        return arrays.quotes(ids)[0];
    }

    function assertStored(RiskArray memory a) internal view {
        Quote memory q = quote(a.market);
        assertEq(q.observedAt, a.observedAt);
        assertEq(q.refPrice, uint256(a.refPrice) * 1e10);
        assertEq(q.mark, uint256(a.mark) * 1e10);
        assertEq(q.delta, int256(a.delta) * 1e9);
        for (uint256 s; s < 16; ++s) {
            assertEq(q.pnl[s], int256(a.pnl[s]) * 1e10);
        }
    }

    function test_a_post_is_stored_in_wad() public {
        RiskArray memory a = good(CALL);
        RiskArray memory b = good(PUT);
        vm.expectEmit(address(arrays));
        emit RiskArrays.RiskArraySet(CALL, 100e18, 4e18, 0.5e18, START);
        vm.expectEmit(address(arrays));
        emit RiskArrays.RiskArraySet(PUT, 100e18, 4e18, -0.5e18, START);
        post(both(a, b));
        assertStored(a);
        assertStored(b);
    }

    function test_an_array_takes_five_slots() public {
        vm.record();
        post(good(CALL));
        (, bytes32[] memory writes) = vm.accesses(address(arrays));
        uint256 slots;
        for (uint256 i; i < writes.length; ++i) {
            if (!seen[writes[i]]) ++slots;
            seen[writes[i]] = true;
        }
        assertEq(slots, 5);
    }

    function test_quotes_come_in_the_order_asked_for_and_are_zero_where_there_is_none() public {
        post(good(PUT));
        uint16[] memory ids = new uint16[](3);
        (ids[0], ids[1], ids[2]) = (9, PUT, CALL);
        Quote[] memory all = arrays.quotes(ids);
        assertEq(all.length, 3);
        assertEq(all[1].mark, 4e18);
        Quote memory none;
        assertEq(abi.encode(all[0]), abi.encode(none));
        assertEq(abi.encode(all[2]), abi.encode(none));
    }

    function test_a_newer_array_replaces_an_older_one() public {
        post(good(CALL));
        vm.warp(START + 1);
        RiskArray memory a = good(CALL);
        (a.mark, a.refPrice) = (5 * ONE, 100.5e8);
        post(a);
        assertStored(a);
    }

    function test_what_is_not_newer_is_passed_over() public {
        RiskArray[] memory all = both(good(CALL), good(PUT));
        // Somebody posts a part of it first, to spoil it.
        post(all[0]);
        RiskArray memory other = good(CALL);
        other.mark = 5 * ONE;
        all[0] = other;
        post(all);
        assertEq(quote(CALL).mark, 4e18);
        assertStored(all[1]);
    }

    function test_a_post_without_anything_newer_is_refused() public {
        RiskArray[] memory all = both(good(CALL), good(PUT));
        post(all);
        bytes[] memory signatures = signed(all, nowS() + 60, 3);
        vm.expectRevert(RiskArrays.NoneNewer.selector);
        arrays.post(all, nowS() + 60, signatures);
        all[0].observedAt -= 1;
        signatures = signed(only(all[0]), nowS() + 60, 3);
        vm.expectRevert(RiskArrays.NoneNewer.selector);
        arrays.post(only(all[0]), nowS() + 60, signatures);
        signatures = signed(new RiskArray[](0), nowS() + 60, 3);
        vm.expectRevert(RiskArrays.NoneNewer.selector);
        arrays.post(new RiskArray[](0), nowS() + 60, signatures);
    }

    function test_signatures_count_until_their_last_second() public {
        RiskArray[] memory all = only(good(CALL));
        bytes[] memory signatures = signed(all, uint40(START), 3);
        vm.warp(START + 1);
        vm.expectRevert(abi.encodeWithSelector(Quorum.PastValidity.selector, START, START + 1));
        arrays.post(all, uint40(START), signatures);
        vm.warp(START);
        arrays.post(all, uint40(START), signatures);
    }

    function test_fewer_or_more_signatures_than_the_quorum_change_nothing() public {
        RiskArray[] memory all = only(good(CALL));
        bytes[] memory signatures = signed(all, nowS(), 2);
        vm.expectRevert(abi.encodeWithSelector(Quorum.WrongCount.selector, 2, 3));
        arrays.post(all, nowS(), signatures);
        signatures = signed(all, nowS(), 4);
        vm.expectRevert(abi.encodeWithSelector(Quorum.WrongCount.selector, 4, 3));
        arrays.post(all, nowS(), signatures);
    }

    function test_without_reporters_nothing_is_accepted() public {
        arrays = new RiskArrays(
            new FastOracle(address(this)), OracleRouter(address(prices)), IInstruments(address(listed))
        );
        vm.expectRevert(abi.encodeWithSelector(Quorum.WrongCount.selector, 0, 0));
        arrays.post(only(good(CALL)), nowS(), new bytes[](0));
    }

    function test_a_signer_counts_once() public {
        RiskArray[] memory all = only(good(CALL));
        bytes[] memory signatures = signed(all, nowS(), 3);
        signatures[2] = signatures[0];
        vm.expectRevert(abi.encodeWithSelector(Quorum.DuplicateSigner.selector, vm.addr(keys[0])));
        arrays.post(all, nowS(), signatures);
    }

    function test_a_stranger_does_not_count() public {
        RiskArray[] memory all = only(good(CALL));
        bytes[] memory signatures = signed(all, nowS(), 3);
        signatures[1] = signature(99, arrays.digest(all, nowS()));
        vm.expectRevert(abi.encodeWithSelector(Quorum.BadSigner.selector, vm.addr(99)));
        arrays.post(all, nowS(), signatures);
    }

    function test_a_high_s_is_refused() public {
        RiskArray[] memory all = only(good(CALL));
        bytes[] memory signatures = signed(all, nowS(), 3);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(keys[0], arrays.digest(all, nowS()));
        s = bytes32(0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 - uint256(s));
        signatures[0] = abi.encodePacked(r, s, v == 27 ? uint8(28) : uint8(27));
        vm.expectRevert(abi.encodeWithSelector(ECDSA.ECDSAInvalidSignatureS.selector, s));
        arrays.post(all, nowS(), signatures);
    }

    function test_a_signature_is_for_all_arrays_of_the_post_and_its_validity() public {
        RiskArray[] memory all = both(good(CALL), good(PUT));
        bytes[] memory signatures = signed(all, nowS(), 3);
        vm.expectPartialRevert(Quorum.BadSigner.selector);
        arrays.post(only(all[0]), nowS(), signatures);
        vm.expectPartialRevert(Quorum.BadSigner.selector);
        arrays.post(both(all[1], all[0]), nowS(), signatures);
        vm.expectPartialRevert(Quorum.BadSigner.selector);
        arrays.post(all, nowS() + 1, signatures);
        all[1].pnl[15] += 1;
        vm.expectPartialRevert(Quorum.BadSigner.selector);
        arrays.post(all, nowS(), signatures);
    }

    function test_a_signature_is_for_one_contract_and_one_chain() public {
        RiskArray[] memory all = only(good(CALL));
        bytes[] memory signatures = signed(all, nowS(), 3);
        vm.chainId(10);
        vm.expectPartialRevert(Quorum.BadSigner.selector);
        arrays.post(all, nowS(), signatures);
        vm.chainId(31337);
        arrays = new RiskArrays(fastOracle, OracleRouter(address(prices)), IInstruments(address(listed)));
        vm.expectPartialRevert(Quorum.BadSigner.selector);
        arrays.post(all, nowS(), signatures);
    }

    function test_the_future_is_refused() public {
        RiskArray memory a = good(CALL);
        a.observedAt += 1;
        refuse(a, abi.encodeWithSelector(RiskArrays.FromFuture.selector, CALL, START + 1, START));
    }

    function test_an_array_may_be_posted_for_a_minute() public {
        RiskArray memory a = good(CALL);
        vm.warp(START + 61);
        refuse(a, abi.encodeWithSelector(RiskArrays.TooOld.selector, CALL, START, START + 61));
        vm.warp(START + 60);
        post(a);
    }

    function test_only_listed_options_have_arrays() public {
        refuse(good(PERP), abi.encodeWithSelector(RiskArrays.NotAnOption.selector, PERP));
        refuse(good(9), abi.encodeWithSelector(ListedMarkets.UnknownMarket.selector, 9));
    }

    function test_an_expired_option_has_no_new_array() public {
        vm.warp(EXPIRY);
        refuse(good(CALL), abi.encodeWithSelector(RiskArrays.NoneNewer.selector));
        vm.warp(EXPIRY - 1);
        post(good(CALL));
    }

    function test_an_array_of_an_expired_option_does_not_spoil_a_post() public {
        vm.warp(EXPIRY);
        listed.list(LATER, Market(ETH, Kind.Call, EXPIRY + 1, 100e18));
        RiskArray memory a = good(LATER);
        post(both(good(CALL), a));
        assertStored(a);
        assertEq(quote(CALL).observedAt, 0);
    }

    function test_an_array_needs_a_price() public {
        RiskArray memory a = good(CALL);
        a.refPrice = 0;
        refuse(a, abi.encodeWithSelector(RiskArrays.NoRefPrice.selector, CALL));
    }

    function refuseDelta(uint16 market, int32 delta) private {
        RiskArray memory a = good(market);
        a.delta = delta;
        refuse(a, abi.encodeWithSelector(RiskArrays.BadDelta.selector, market, delta));
    }

    function acceptDelta(uint16 market, int32 delta) private {
        vm.warp(nowS() + 1);
        RiskArray memory a = good(market);
        a.delta = delta;
        post(a);
        assertStored(a);
    }

    function test_delta_lies_between_nothing_and_the_underlying() public {
        refuseDelta(CALL, -1);
        refuseDelta(CALL, 1e9 + 1);
        refuseDelta(PUT, 1);
        refuseDelta(PUT, -1e9 - 1);
        refuseDelta(PUT, type(int32).min);
        acceptDelta(CALL, 0);
        acceptDelta(CALL, 1e9);
        acceptDelta(PUT, 0);
        acceptDelta(PUT, -1e9);
    }

    /// @dev The array with its values in all scenarios kept where they were.
    function marked(uint16 market, uint64 ref, uint64 mark) private view returns (RiskArray memory a) {
        a = good(market);
        for (uint256 s; s < 16; ++s) {
            // Anything between the bounds: all of the underlying for a call, of the strike for a put.
            a.pnl[s] = int64(90 * ONE) - int64(mark);
        }
        (a.refPrice, a.mark) = (ref, mark);
        if (market == CALL) a.pnl[15] = int64(80 * ONE) - int64(mark);
    }

    function refuseMark(uint16 market, uint64 ref, uint64 mark, uint256 low, uint256 high) private {
        bytes4 why = RiskArrays.MarkOutOfBounds.selector;
        refuse(marked(market, ref, mark), abi.encodeWithSelector(why, market, uint256(mark) * 1e10, low, high));
    }

    function acceptMark(uint16 market, uint64 ref, uint64 mark) private {
        vm.warp(nowS() + 1);
        post(marked(market, ref, mark));
    }

    function test_a_mark_lies_between_payoff_and_ceiling() public {
        // Two units of 8 decimals are left to rounding.
        refuseMark(CALL, 102e8, 2e8 - 3, 2e18, 102e18);
        refuseMark(CALL, 102e8, 102e8 + 3, 2e18, 102e18);
        refuseMark(PUT, 98e8, 2e8 - 3, 2e18, 100e18);
        refuseMark(PUT, 98e8, 100e8 + 3, 2e18, 100e18);
        acceptMark(CALL, 102e8, 2e8 - 2);
        acceptMark(CALL, 102e8, 102e8 + 2);
        acceptMark(PUT, 98e8, 2e8 - 2);
        acceptMark(PUT, 98e8, 100e8 + 2);
    }

    /// @dev The scenario's price is 100 moved by `move` thirds of 5.
    function checkScenario(uint16 market, uint256 s, int256 move) private {
        // The contract rounds the third of the range down, as here.
        int256 end = 100e18 + move * int256(uint256(5e18) / 3);
        int256 inside = market == CALL ? end - 100e18 : 100e18 - end;
        uint256 low = inside > 0 ? uint256(inside) : 0;
        uint256 high = market == CALL ? uint256(end) : 100e18;
        // Values in units of 8 decimals, the first ones outside and the last ones inside.
        int256 tooLow = int256(low) / 1e10 - 2 - (low % 1e10 == 0 ? int256(1) : int256(0));
        int256 tooHigh = int256(high) / 1e10 + 3;
        checkValue(market, s, tooLow, false, low, high);
        checkValue(market, s, tooHigh, false, low, high);
        checkValue(market, s, tooLow + 1, true, low, high);
        checkValue(market, s, tooHigh - 1, true, low, high);
    }

    function checkValue(uint16 market, uint256 s, int256 value, bool accepted, uint256 low, uint256 high) private {
        vm.warp(nowS() + 1);
        RiskArray memory a = good(market);
        a.pnl[s] = int64(value) - int64(a.mark);
        if (accepted) {
            post(a);
            return;
        }
        uint40 until = nowS() + 60;
        bytes[] memory signatures = signed(only(a), until, 3);
        bytes4 why = RiskArrays.ScenarioOutOfBounds.selector;
        vm.expectRevert(abi.encodeWithSelector(why, market, s, value * 1e10, low, high));
        arrays.post(only(a), until, signatures);
    }

    function test_every_scenario_lies_between_payoff_and_ceiling() public {
        int8[16] memory moves = [int8(0), 0, 1, 1, -1, -1, 2, 2, -2, -2, 3, 3, -3, -3, 9, -9];
        for (uint256 s; s < 16; ++s) {
            checkScenario(CALL, s, moves[s]);
            checkScenario(PUT, s, moves[s]);
        }
    }

    /// @dev Three ranges of 40% leave less than nothing: the price of that scenario is 0.
    function test_no_scenario_has_a_negative_price() public {
        listed.setMmr(0.4e18);
        RiskArray memory a = good(PUT);
        for (uint256 s; s < 16; ++s) {
            a.pnl[s] = int64(90 * ONE);
        }
        a.pnl[15] = int64(96 * ONE);
        post(a);
        assertStored(a);
        vm.warp(nowS() + 1);
        RiskArray memory b = good(CALL);
        for (uint256 s; s < 16; ++s) {
            b.pnl[s] = int64(56 * ONE);
        }
        b.pnl[14] = int64(150 * ONE);
        (b.pnl[12], b.pnl[13], b.pnl[15]) = (0, 0, 1);
        refuse(
            b,
            abi.encodeWithSelector(RiskArrays.ScenarioOutOfBounds.selector, CALL, 15, 4e18 + 1e10, 0, 0)
        );
    }

    function test_the_range_is_the_one_in_force_when_posted() public {
        RiskArray memory a = good(CALL);
        // With a range of 6% the extreme is 118, and 15.5 is less than its payoff.
        listed.setMmr(0.06e18);
        refuse(
            a,
            abi.encodeWithSelector(RiskArrays.ScenarioOutOfBounds.selector, CALL, 14, 15.5e18, 18e18, 118e18)
        );
    }

    function test_any_array_within_the_bounds_comes_back_as_it_was(uint256 seed) public {
        RiskArray memory a = good(PUT);
        a.refPrice = uint64(bound(uint256(keccak256(abi.encode(seed, 99))), 1, 30 * ONE));
        a.delta = -int32(uint32(bound(uint256(keccak256(abi.encode(seed, 98))), 0, 1e9)));
        a.mark = uint64(bound(uint256(keccak256(abi.encode(seed, 97))), 100 * ONE - a.refPrice, 100 * ONE));
        for (uint256 s; s < 16; ++s) {
            // At least its payoff where the price is lowest, 15% below.
            uint256 low = 100 * ONE - uint256(a.refPrice) * 85 / 100;
            uint256 value = bound(uint256(keccak256(abi.encode(seed, s))), low, 100 * ONE);
            a.pnl[s] = int64(uint64(value)) - int64(a.mark);
        }
        post(a);
        assertStored(a);
    }

    function setPrices(uint256 fast, uint256 fastAt, uint256 slow, uint256 slowAt) private {
        FeedPrice memory p;
        (p.fast, p.fastAt, p.slow, p.slowAt) = (fast, fastAt, slow, slowAt);
        (p.fastFresh, p.slowFresh, p.deviation) = (true, true, 0.01e18);
        prices.set(p);
    }

    function makeStale(bool fast, bool slow) private {
        FeedPrice memory p = prices.price(ETH);
        (p.fastFresh, p.slowFresh) = (!fast, !slow);
        prices.set(p);
    }

    function test_anyone_settles_an_expiry_by_the_slow_price() public {
        vm.warp(EXPIRY);
        setPrices(107.5e18, EXPIRY, 107e18, EXPIRY);
        vm.expectEmit(address(arrays));
        emit RiskArrays.SettlementSet(ETH, EXPIRY, 107e18);
        vm.prank(makeAddr("anyone"));
        arrays.settle(ETH, EXPIRY);
        assertEq(arrays.settlement(ETH, EXPIRY), 107e18);
        assertEq(arrays.settlement(ETH, EXPIRY + 1), 0);
        assertEq(arrays.settlement("BTC", EXPIRY), 0);
    }

    function test_an_expiry_settles_once() public {
        vm.warp(EXPIRY);
        setPrices(100e18, EXPIRY, 100e18, EXPIRY);
        arrays.settle(ETH, EXPIRY);
        setPrices(120e18, EXPIRY, 120e18, EXPIRY);
        vm.expectRevert(abi.encodeWithSelector(RiskArrays.AlreadySettled.selector, ETH, EXPIRY));
        arrays.settle(ETH, EXPIRY);
        assertEq(arrays.settlement(ETH, EXPIRY), 100e18);
    }

    function test_nothing_settles_before_its_expiry() public {
        vm.warp(EXPIRY - 1);
        setPrices(100e18, EXPIRY, 100e18, EXPIRY);
        vm.expectRevert(abi.encodeWithSelector(RiskArrays.NotYetExpired.selector, EXPIRY, EXPIRY - 1));
        arrays.settle(ETH, EXPIRY);
    }

    function test_perps_never_settle() public {
        setPrices(100e18, START, 100e18, START);
        vm.expectRevert(abi.encodeWithSelector(RiskArrays.NotYetExpired.selector, 0, START));
        arrays.settle(ETH, 0);
    }

    function test_a_settlement_needs_both_prices_fresh() public {
        vm.warp(EXPIRY);
        setPrices(100e18, EXPIRY, 100e18, EXPIRY);
        makeStale(true, false);
        vm.expectRevert(abi.encodeWithSelector(RiskArrays.StaleOracle.selector, ETH));
        arrays.settle(ETH, EXPIRY);
        makeStale(false, true);
        vm.expectRevert(abi.encodeWithSelector(RiskArrays.StaleOracle.selector, ETH));
        arrays.settle(ETH, EXPIRY);
        makeStale(false, false);
        arrays.settle(ETH, EXPIRY);
    }

    function test_a_settlement_needs_both_prices_from_after_the_expiry() public {
        vm.warp(EXPIRY + 5);
        setPrices(100e18, EXPIRY - 1, 100e18, EXPIRY);
        vm.expectRevert(abi.encodeWithSelector(RiskArrays.BeforeExpiry.selector, EXPIRY - 1, EXPIRY, EXPIRY));
        arrays.settle(ETH, EXPIRY);
        setPrices(100e18, EXPIRY, 100e18, EXPIRY - 1);
        vm.expectRevert(abi.encodeWithSelector(RiskArrays.BeforeExpiry.selector, EXPIRY, EXPIRY - 1, EXPIRY));
        arrays.settle(ETH, EXPIRY);
    }

    function test_a_settlement_needs_prices_that_agree() public {
        vm.warp(EXPIRY);
        setPrices(101e18 + 1, EXPIRY, 100e18, EXPIRY);
        vm.expectRevert(abi.encodeWithSelector(RiskArrays.TooFarApart.selector, 101e18 + 1, 100e18));
        arrays.settle(ETH, EXPIRY);
        setPrices(99e18 - 1, EXPIRY, 100e18, EXPIRY);
        vm.expectRevert(abi.encodeWithSelector(RiskArrays.TooFarApart.selector, 99e18 - 1, 100e18));
        arrays.settle(ETH, EXPIRY);
        setPrices(101e18, EXPIRY, 100e18, EXPIRY);
        arrays.settle(ETH, EXPIRY);
    }
}
