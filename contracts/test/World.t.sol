// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Liquidator} from "../src/Liquidator.sol";
import {MarginReader} from "../src/MarginReader.sol";
import {SlopeParams} from "../src/Slope.sol";
import {Slopes} from "../src/Slopes.sol";
import {Rows} from "./Rows.t.sol";

/// @notice What the reader tells of slopes, losses, insurance, buckets and options, beside the rows of accounts.
contract WorldTest is Rows {
    function world()
        private
        view
        returns (
            MarginReader.Globals memory all,
            MarginReader.FeedRow[] memory feeds,
            MarginReader.OptionRow[] memory options
        )
    {
        bytes32[] memory ids = new bytes32[](2);
        (ids[0], ids[1]) = (BTC, ETH);
        uint16[] memory markets = new uint16[](2);
        (markets[0], markets[1]) = (ETH_CALL, ETH_PUT);
        return reader.world(ids, markets);
    }

    function globals() private view returns (MarginReader.Globals memory all) {
        (all,,) = world();
    }

    function test_a_row_tells_the_chosen_slope_and_the_episodes() public {
        Slopes registry = liquidator.registry();
        SlopeParams memory p = slopeParams();
        vm.startPrank(admin);
        uint16 id = registry.addSlope(p);
        registry.offerSlope(id, true);
        vm.stopPrank();
        vm.prank(ownerOf_(alice));
        registry.chooseSlope(alice, id);
        openAndConfirm(188e18);
        setPrice(ETH, 175e18);
        liquidator.poke(alice);
        Row memory row = rowOf(alice);
        assertEq(row.slopeChoice, id);
        assertEq(row.flag.slope, id);
        assertEq(row.flag.insolventTau, row.flag.tau + 1);
    }

    function test_the_world_is_what_all_accounts_share() public {
        openAlice();
        MarginReader.Globals memory all = globals();
        assertEq(all.version, instruments.version() + liquidator.registry().version());
        assertEq(all.breakerLevel, 0);
        assertEq(all.insurance, 10_000e18);
        assertEq(all.badDebt, 0);
        assertEq(all.gated, 0);
        assertEq(all.drawableInEpoch, 5000e18);
        assertEq(all.epochEndsAt, backstop.epochEndsAt());
        assertEq(all.defaultSlope, 0);
        vm.prank(guardian);
        breaker.raise(2);
        all = globals();
        assertEq(all.breakerLevel, 2);
        assertEq(all.breakerRaisedAt, nowS());
    }

    function test_the_world_tells_a_debt_that_holds_back_withdrawals() public {
        openAlice();
        vm.startPrank(address(liquidator));
        clearing.payFromInsurance(alice, bob, 2500e18);
        vm.stopPrank();
        uint16[] memory markets = new uint16[](1);
        uint256[] memory notionals = new uint256[](1);
        (markets[0], notionals[0]) = (ETH_PERP, 1);
        vm.prank(address(clearing));
        backstop.absorb(alice, 20_000e18, markets, notionals);
        MarginReader.Globals memory all = globals();
        assertEq(all.gated, 1);
        // 1% of 40,000 was borne at once.
        assertEq(all.badDebt, 20_000e18 - 400e18);
        assertEq(all.insurance, 7500e18);
        assertEq(all.drawableInEpoch, 2500e18);
    }

    function test_every_change_of_a_slope_raises_the_version_of_the_world() public {
        uint256 version = globals().version;
        Slopes registry = liquidator.registry();
        vm.prank(admin);
        registry.offerSlope(0, true);
        assertEq(globals().version, version + 1);
    }

    function test_the_world_holds_both_prices_and_the_bucket_of_each_feed_in_order() public {
        vm.prank(admin);
        instruments.setBucketCap(ETH, 5000e18);
        openAndConfirm(188e18);
        sliceATwentieth();
        (, MarginReader.FeedRow[] memory feeds,) = world();
        assertEq(keccak256(abi.encode(feeds[0].price)), keccak256(abi.encode(router.price(BTC))));
        assertEq(keccak256(abi.encode(feeds[1].price)), keccak256(abi.encode(router.price(ETH))));
        assertEq(feeds[1].price.fast, 188e18);
        assertEq(feeds[1].bucketUsed, 940e18);
        assertEq(feeds[1].bucketAt, nowS());
        assertEq(feeds[1].bucketCap, 5000e18);
        assertEq(feeds[0].bucketUsed, 0);
        assertEq(feeds[0].bucketCap, 1e30);
    }

    function test_a_feed_without_an_underlying_has_no_bucket() public {
        newFeed("XAU", 2000e18, 60);
        bytes32[] memory ids = new bytes32[](1);
        ids[0] = "XAU";
        (, MarginReader.FeedRow[] memory feeds,) = reader.world(ids, new uint16[](0));
        assertEq(feeds[0].price.fast, 2000e18);
        assertEq(feeds[0].bucketCap, 0);
    }

    function test_the_world_holds_each_options_array_settlement_and_open_interest() public {
        deposit(alice, address(usd), 3000e18);
        deposit(bob, address(usd), 100_000e18);
        postArrays();
        trade(alice, bob, ETH_PUT, 7e18, 4e18);
        (,, MarginReader.OptionRow[] memory options) = world();
        assertEq(options[1].array.mark, 4e18);
        assertEq(options[1].array.refPrice, 200e18);
        assertEq(options[1].array.delta, -0.5e18);
        assertEq(options[1].array.pnl[15], 30e18);
        assertEq(options[1].settlement, 0);
        assertEq(options[1].openInterest, 14e18);
        assertEq(options[0].openInterest, 0);
        expireAt(190e18);
        (,, options) = world();
        assertEq(options[0].settlement, 190e18);
        assertEq(options[1].settlement, 190e18);
    }

    function test_the_world_is_static_words() public view {
        bytes32[] memory ids = new bytes32[](2);
        (ids[0], ids[1]) = (BTC, ETH);
        uint16[] memory markets = new uint16[](1);
        markets[0] = ETH_CALL;
        (, bytes memory data) = address(reader).staticcall(abi.encodeCall(MarginReader.world, (ids, markets)));
        // Nine words, two offsets, and each list with its length.
        assertEq(data.length, 32 * (9 + 2 + 1 + 2 * 13 + 1 + 22));
    }

    function sliceATwentieth() private {
        Liquidator.SliceTerms memory t = terms(alice, taker);
        t.fMax = 0.05e18;
        liquidateOn(alice, t);
    }
}
