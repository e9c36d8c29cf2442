// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Balance, MAX_HOLDINGS, MAX_LEGS, Position, State, WAD} from "../src/HybridTypes.sol";
import {Liquidator} from "../src/Liquidator.sol";
import {MarginReader} from "../src/MarginReader.sol";
import {Rows} from "./Rows.t.sol";

contract MarginReaderTest is Rows {
    function test_what_an_account_does_not_have_takes_no_room() public {
        openAlice();
        bytes32[] memory accts = new bytes32[](3);
        (accts[0], accts[1], accts[2]) = (alice, bytes32(uint256(1)), bob);
        (uint256[] memory heads, uint256[] memory legs, uint256[] memory amounts, uint256[] memory episodes) =
            reader.rows(accts);
        assertEq(heads.length, 3 * HEAD_WORDS);
        assertEq(legs.length, 2);
        assertEq(amounts.length, 0);
        assertEq(episodes.length, 0);
        assertEq(heads[0], uint256(alice));
        assertEq(heads[3], 1);
        assertEq(heads[4] | heads[5], 0);
        assertEq(heads[6], uint256(bob));
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
        (
            MarginReader.Globals memory all,
            MarginReader.FeedRow[] memory feedRows,
            MarginReader.OptionRow[] memory rows
        ) = reader.world(feeds, options);
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
        uint256 riskAt = nowS();
        tick(12);
        setPrice(ETH, 150e18);
        flag(alice);
        deposit(alice, address(usd), 5e18);

        Row memory row = rowOf(alice);
        assertEq(row.acct, alice);
        assertEq(uint256(row.state), uint256(State.Flagged));
        assertEq(row.cash, 2105e18);
        assertEq(row.lastRiskAt, riskAt);
        assertEq(row.aid, 5e18);
        assertFalse(row.reduced);
        assertEq(row.debtSince, 0);
        assertEq(abi.encode(row.flag), abi.encode(liquidator.flagOf(alice)));
        assertEq(row.flag.flagger, flagger);
        assertEq(row.flag.bond, 50e18);
        assertEq(row.markets[0], ETH_PERP);
        assertEq(row.sizes[0], 100e18);
        assertEq(row.quoteLegs[0], -20_000e18);
        assertEq(row.markets[1], BTC_PERP);
        assertEq(row.sizes[1], -1e18);
        assertEq(row.quoteLegs[1], 1000e18);
        assertEq(row.markets[2], 0);
        assertEq(row.sizes.length, 2);
        assertEq(row.collaterals[0], WBTC);
        assertEq(row.amounts[0], 2e18);
        assertEq(row.collaterals[1], 0);
        assertEq(row.amounts.length, 1);

        row = rowOf(bytes32(uint256(1)));
        assertEq(uint256(row.state), uint256(State.Healthy));
        assertEq(row.cash, 0);
        assertEq(row.markets[0], 0);
        assertFalse(row.episode);
    }

    function test_each_word_of_an_episode_alone_makes_it_told() public {
        for (uint256 i; i < EPISODE_WORDS; ++i) {
            uint256[] memory words = new uint256[](EPISODE_WORDS);
            words[i] = 1;
            tellOnly(words);
            Row memory row = rowOf(alice);
            assertTrue(row.episode);
            assertEq(abi.encode(row.flag, row.aid, row.reduced), abi.encodePacked(words));
        }
        tellOnly(new uint256[](EPISODE_WORDS));
        assertFalse(rowOf(alice).episode);
    }

    function tellOnly(uint256[] memory words) private {
        bytes memory status = abi.encode(State.Healthy, 0, 0, 0, words[17], words[18]);
        vm.mockCall(address(clearing), abi.encodeCall(clearing.status, (alice)), status);
        Liquidator.Flag memory none = abi.decode(abi.encodePacked(words), (Liquidator.Flag));
        vm.mockCall(address(liquidator), abi.encodeCall(liquidator.flagOf, (alice)), abi.encode(none));
    }

    function test_eight_legs_and_four_holdings_are_told_in_order() public {
        Position[] memory positions = new Position[](MAX_LEGS);
        for (uint16 i; i < MAX_LEGS; ++i) {
            positions[i] = Position(0xFFF0 + i, type(int128).min + int16(i), type(int128).max - int16(i));
        }
        Balance[] memory balances = new Balance[](MAX_HOLDINGS);
        for (uint8 j; j < MAX_HOLDINGS; ++j) {
            balances[j] = Balance(0xF0 + j, type(uint128).max - j);
        }
        bytes memory told = abi.encode(type(int128).min, positions, balances);
        vm.mockCall(address(clearing), abi.encodeCall(clearing.account, (alice)), told);
        Row memory row = rowOf(alice);
        assertEq(row.cash, type(int128).min);
        for (uint256 i; i < MAX_LEGS; ++i) {
            Position memory each = Position(uint16(row.markets[i]), row.sizes[i], row.quoteLegs[i]);
            assertEq(abi.encode(each), abi.encode(positions[i]));
        }
        for (uint256 j; j < MAX_HOLDINGS; ++j) {
            Balance memory each = Balance(uint8(row.collaterals[j]), row.amounts[j]);
            assertEq(abi.encode(each), abi.encode(balances[j]));
        }
        positions[3].quoteLeg = int256(type(int128).max) + 1;
        told = abi.encode(0, positions, balances);
        vm.mockCall(address(clearing), abi.encodeCall(clearing.account, (alice)), told);
        vm.expectRevert(abi.encodeWithSelector(SafeCast.SafeCastOverflowedIntDowncast.selector, 128, int256(2) ** 127));
        this.rowOfExternally(alice);
    }

    function rowOfExternally(bytes32 acct) external view {
        rowOf(acct);
    }
}
