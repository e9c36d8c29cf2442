// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {State, WAD} from "../src/HybridTypes.sol";
import {MarginReader} from "../src/MarginReader.sol";
import {Base} from "./Base.t.sol";

contract MarginReaderTest is Base {
    MarginReader private reader;

    function setUp() public override {
        super.setUp();
        reader = new MarginReader(clearing, liquidator);
    }

    function rowOf(bytes32 acct) private view returns (MarginReader.Row memory) {
        bytes32[] memory accts = new bytes32[](1);
        accts[0] = acct;
        return reader.rows(accts)[0];
    }

    function test_a_row_is_58_words() public view {
        assertEq(abi.encode(rowOf(alice)).length, 58 * 32);
    }

    function test_quote_legs_are_net_of_socialised_losses() public {
        openAlice();
        vm.prank(address(backstop));
        clearing.chargeOpenInterest(ETH_PERP, 200e18);
        assertEq(rowOf(alice).quoteLegs[0], -20_100e18);
        assertEq(rowOf(bob).quoteLegs[0], 19_900e18);
    }

    function test_the_world_holds_what_accounts_share_in_the_order_asked_for() public {
        openAlice();
        postArrays();
        trade(bob, taker, ETH_CALL, 3e18, 4e18);
        expireAt(210e18);
        setFast(BTC, 990e18);
        vm.prank(guardian);
        breaker.raise(2);
        bytes32[] memory feeds = new bytes32[](2);
        (feeds[0], feeds[1]) = (BTC, ETH);
        uint16[] memory options = new uint16[](2);
        (options[0], options[1]) = (ETH_PUT, ETH_CALL);
        (MarginReader.Globals memory all, MarginReader.FeedRow[] memory feedRows, MarginReader.OptionRow[] memory rows)
        = reader.world(feeds, options);
        assertEq(all.breakerLevel, 2);
        assertEq(all.breakerRaisedAt, nowS());
        assertEq(all.insurance, 10_000e18);
        assertEq(all.badDebt, 0);
        assertEq(all.gated, 0);
        assertEq(all.defaultSlope, 0);
        assertEq(feedRows[0].price.fast, 990e18);
        assertEq(feedRows[1].price.slow, 210e18);
        assertEq(feedRows[1].bucketCap, 1e30);
        assertEq(rows[0].array.delta, -0.5e18);
        assertEq(rows[1].array.mark, 4e18);
        assertEq(rows[1].array.pnl[10], int256(11 * WAD));
        assertEq(rows[1].settlement, 210e18);
        assertEq(rows[1].openInterest, 6e18);
        assertEq(rows[0].openInterest, 0);
    }

    function test_the_version_rises_with_every_change_of_terms() public {
        uint256 before = versionNow();
        vm.prank(admin);
        instruments.setBucketCap(ETH, 1e24);
        assertEq(versionNow(), before + 1);
        listOption(ETH, 210e18, EXPIRY, true);
        assertEq(versionNow(), before + 2);
    }

    function versionNow() private view returns (uint256) {
        (MarginReader.Globals memory all,,) = reader.world(new bytes32[](0), new uint16[](0));
        return all.version;
    }

    function test_a_row_holds_all_that_margin_depends_on_and_zeros_elsewhere() public {
        openAlice();
        deposit(alice, address(wbtc), 2e18);
        trade(bob, alice, BTC_PERP, 1e18, 1000e18);
        tick(12);
        setPrice(ETH, 150e18);
        flag(alice);
        deposit(alice, address(usd), 5e18);

        bytes32[] memory accts = new bytes32[](2);
        (accts[0], accts[1]) = (alice, bytes32(uint256(1)));
        MarginReader.Row[] memory rows = reader.rows(accts);
        MarginReader.Row memory row = rows[0];
        assertEq(row.acct, alice);
        assertEq(uint256(row.state), uint256(State.Flagged));
        assertEq(row.cash, 2105e18);
        assertEq(row.aid, 5e18);
        assertFalse(row.reduced);
        assertEq(row.debtSince, 0);
        assertEq(row.flag.flagger, flagger);
        assertEq(row.flag.bond, 50e18);
        assertEq(row.markets[0], ETH_PERP);
        assertEq(row.sizes[0], 100e18);
        assertEq(row.quoteLegs[0], -20_000e18);
        assertEq(row.markets[1], BTC_PERP);
        assertEq(row.sizes[1], -1e18);
        assertEq(row.quoteLegs[1], 1000e18);
        assertEq(row.markets[2], 0);
        assertEq(row.collaterals[0], WBTC);
        assertEq(row.amounts[0], 2e18);
        assertEq(row.collaterals[1], 0);

        row = rows[1];
        assertEq(uint256(row.state), uint256(State.Healthy));
        assertEq(row.cash, 0);
        assertEq(row.markets[0], 0);
    }
}
