// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Test} from "forge-std/Test.sol";
import {IClearingHouse, PerpReader} from "../src/readers/PerpReader.sol";

/// @notice What the reader makes of contracts that refuse; that it reads the real ones is shown on Anvil.
/// @dev One contract is all of Perpetual's at once, and every function of it that is asked for is mocked.
contract PerpReaderTest is Test {
    address private immutable perp = makeAddr("perpetual");
    address private immutable eth = makeAddr("ETH");
    address private immutable btc = makeAddr("BTC");
    address private immutable feed = makeAddr("feed");
    address private immutable trader = makeAddr("trader");
    PerpReader private reader;
    address[] private bases;
    address[] private traders;

    function setUp() public {
        vm.etch(perp, hex"00");
        vm.etch(eth, hex"00");
        vm.etch(btc, hex"00");
        answer(perp, "getVault()", abi.encode(perp));
        answer(perp, "getAccountBalance()", abi.encode(perp));
        answer(perp, "getExchange()", abi.encode(perp));
        answer(perp, "getClearingHouseConfig()", abi.encode(perp));
        answer(perp, "getInsuranceFund()", abi.encode(perp));
        answer(perp, "getToken()", abi.encode(perp));
        answer(perp, "decimals()", abi.encode(6));
        answer(perp, "paused()", abi.encode(false));
        answer(perp, "getMmRatio()", abi.encode(62_500));
        answer(perp, "getImRatio()", abi.encode(100_000));
        answer(perp, "getLiquidationPenaltyRatio()", abi.encode(25_000));
        answer(perp, "getMaxFundingRate()", abi.encode(100_000));
        answer(perp, "getMarkPriceConfig()", abi.encode(1800, 900));
        answer(perp, "balanceOf(address)", abi.encode(3e6));
        answer(perp, "getBalance(address)", abi.encode(-2e6));
        answer(perp, "getPnlAndPendingFee(address)", abi.encode(5e17, 99e18, 1e17));
        answer(perp, "hasOrder(address)", abi.encode(false));
        answer(perp, "getCollateralTokens(address)", abi.encode(new address[](0)));
        answer(perp, "getSqrtMarketTwapX96(address,uint32)", abi.encode(3 << 96));
        answer(perp, "getPendingFundingPayment(address,address)", abi.encode(-7));
        hold(eth, 4e18, -5e18);
        open(eth);
        open(btc);
        bases.push(eth);
        bases.push(btc);
        traders.push(trader);
        reader = new PerpReader(IClearingHouse(perp));
    }

    function answer(address who, string memory signature, bytes memory what) private {
        vm.mockCall(who, abi.encodeWithSignature(signature), what);
    }

    function refuse(address who, string memory signature, string memory why) private {
        vm.mockCallRevert(who, abi.encodeWithSignature(signature), abi.encodeWithSignature("Error(string)", why));
    }

    function hold(address base, int256 size, int256 notional) private {
        address[] memory held = new address[](1);
        held[0] = base;
        answer(perp, "getBaseTokens(address)", abi.encode(held));
        answer(perp, "getAccountInfo(address,address)", abi.encode(size, notional, 0));
    }

    function open(address base) private {
        answer(base, "isOpen()", abi.encode(true));
        answer(base, "getIndexPrice(uint256)", abi.encode(8e18));
        answer(base, "getPriceFeed()", abi.encode(feed));
        answer(perp, "getMarkPrice(address)", abi.encode(9e18));
    }

    function rowOf() private view returns (uint256 flags, uint256 count, int256 cash, uint256[] memory entries) {
        uint256[] memory heads;
        (heads, entries) = reader.rows(traders, bases);
        assertEq(heads.length, 2);
        assertEq(heads[0] >> 96, uint160(trader));
        (flags, count, cash) = (heads[0] >> 8 & 0xff, heads[0] & 0xff, int256(heads[1]));
    }

    function worldOf(uint256 place) private view returns (PerpReader.MarketRow memory) {
        (, PerpReader.MarketRow[] memory markets) = reader.world(bases);
        assertEq(markets.length, 2);
        return markets[place];
    }

    function test_a_row_is_money_flags_and_two_words_for_each_position() public view {
        (uint256 flags, uint256 count, int256 cash, uint256[] memory entries) = rowOf();
        assertEq(flags, 0);
        assertEq(count, 1);
        assertEq(cash, -1.4e18);
        assertEq(int128(int256(entries[0]) >> 128), 4e18);
        assertEq(int128(int256(entries[0])), -5e18);
        assertEq(int256(entries[1]) >> 128, -7);
        assertEq(uint128(entries[1]), 0);
    }

    function test_the_flags_say_orders_other_collateral_and_markets_that_are_not_listed() public {
        answer(perp, "hasOrder(address)", abi.encode(true));
        answer(perp, "getCollateralTokens(address)", abi.encode(bases));
        hold(trader, 1, 1);
        (uint256 flags, uint256 count,,) = rowOf();
        assertEq(flags, 1 | 2 | 4);
        assertEq(count, 0);
    }

    function test_a_token_without_a_position_takes_no_room() public {
        hold(eth, 0, 0);
        (uint256 flags, uint256 count,, uint256[] memory entries) = rowOf();
        assertEq(flags | count | entries.length, 0);
    }

    function test_an_account_that_cannot_be_read_says_so_and_leaves_the_others() public {
        refuse(perp, "hasOrder(address)", "OLD");
        (uint256 flags, uint256 count, int256 cash,) = rowOf();
        assertEq(flags, 8);
        assertEq(count, 0);
        assertEq(cash, 0);
    }

    function test_without_gas_nobody_is_said_to_be_unreadable() public {
        vm.mockCallRevert(perp, abi.encodeWithSignature("hasOrder(address)"), "");
        vm.expectRevert(abi.encodeWithSelector(PerpReader.OutOfGas.selector, trader));
        reader.rows(traders, bases);
        vm.mockCallRevert(eth, abi.encodeWithSignature("isOpen()"), "");
        vm.expectRevert(abi.encodeWithSelector(PerpReader.OutOfGas.selector, eth));
        reader.world(bases);
    }

    function test_the_world_holds_what_all_accounts_share_and_the_parts_of_each_mark() public view {
        (PerpReader.Globals memory all,) = reader.world(bases);
        assertEq(all.maintenance, 62_500);
        assertEq(all.insurance, 3e18 - 1.4e18);
        assertFalse(all.paused);
        PerpReader.MarketRow memory found = worldOf(1);
        assertTrue(found.isOpen);
        assertEq(found.mark, 9e18);
        assertEq(found.spot, 9e18);
        assertEq(found.twap, 9e18);
        assertEq(found.premium, 1e18);
        assertEq(found.index, 8e18);
    }

    function test_a_market_that_is_not_open_has_the_price_it_stopped_at() public {
        answer(eth, "isOpen()", abi.encode(false));
        answer(eth, "isClosed()", abi.encode(false));
        answer(eth, "getPausedIndexPrice()", abi.encode(7e18));
        answer(eth, "getClosedPrice()", abi.encode(6e18));
        assertEq(worldOf(0).mark, 7e18);
        answer(eth, "isClosed()", abi.encode(true));
        assertEq(worldOf(0).mark, 6e18);
        assertEq(worldOf(0).index, 0);
        assertEq(worldOf(1).mark, 9e18);
    }

    function test_a_market_without_a_mark_has_none_and_keeps_its_feed() public {
        refuse(eth, "isOpen()", "OLD");
        assertEq(worldOf(0).mark, 0);
        assertEq(worldOf(0).feed, feed);
        assertEq(worldOf(1).mark, 9e18);
    }

    function test_the_feed_is_walked_down_to_its_aggregator() public {
        (address inner, address aggregator) = (makeAddr("inner"), makeAddr("aggregator"));
        assertEq(worldOf(0).feed, feed);
        assertEq(worldOf(0).updatedAt, 0);
        assertEq(worldOf(0).description, bytes32(0));
        answer(feed, "getChainlinkPriceFeedV3()", abi.encode(inner));
        answer(inner, "getAggregator()", abi.encode(aggregator));
        answer(aggregator, "latestRoundData()", abi.encode(1, 2, 3, 44, 5));
        answer(aggregator, "description()", abi.encode("ETH / USD"));
        PerpReader.MarketRow memory found = worldOf(0);
        assertEq(found.feed, aggregator);
        assertEq(found.updatedAt, 44);
        assertEq(found.description, bytes32("ETH / USD"));
    }
}
