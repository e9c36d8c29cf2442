// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {FeedPrice} from "../src/HybridTypes.sol";
import {OracleRouter} from "../src/OracleRouter.sol";
import {ISlowOracle} from "../src/interfaces/ISlowOracle.sol";
import {Base} from "./Base.t.sol";

contract OracleRouterTest is Base {
    function check(OracleRouter.Mode wanted) private view {
        assertEq(uint256(router.mode(ETH)), uint256(wanted));
    }

    function test_the_mode_follows_the_two_clocks() public {
        refresh();
        check(OracleRouter.Mode.NORMAL);
        pass(16);
        check(OracleRouter.Mode.SLOW_ONLY);
        pass(2 hours);
        check(OracleRouter.Mode.FROZEN);
        setFast(ETH, 200e18);
        check(OracleRouter.Mode.FAST_ONLY);
    }

    function test_a_stale_price_keeps_its_last_value_and_says_so() public {
        pass(3 hours);
        FeedPrice memory p = router.price(ETH);
        assertEq(p.fast, 200e18);
        assertEq(p.slow, 200e18);
        assertFalse(p.fastFresh);
        assertFalse(p.slowFresh);
    }

    function test_prices_come_in_the_order_asked_for() public view {
        bytes32[] memory ids = new bytes32[](3);
        (ids[0], ids[1], ids[2]) = (SOL, ETH, SOL);
        FeedPrice[] memory all = router.prices(ids);
        assertEq(all[0].slow, 10e18);
        assertEq(all[1].slow, 200e18);
        assertEq(all[2].slow, 10e18);
        assertEq(all[0].minDelay, 60);
        assertEq(all[1].minDelay, 12);
        assertEq(all[1].deviation, 0.01e18);
        assertEq(all[1].heartbeat, 1 hours);
    }

    function test_an_unknown_feed_reverts() public {
        vm.expectRevert(abi.encodeWithSelector(OracleRouter.UnknownFeed.selector, bytes32("x")));
        router.price("x");
    }

    function refuse(string memory what, ISlowOracle slow, uint64 deviation, uint32 heartbeat, uint32 delay) private {
        vm.expectRevert(abi.encodeWithSelector(OracleRouter.BadFeed.selector, what));
        vm.prank(admin);
        router.setFeed("new", slow, deviation, heartbeat, delay);
    }

    function test_a_feed_is_set_inside_hard_bounds() public {
        refuse("slow", ISlowOracle(address(1)), 0, 1, 12);
        refuse("deviation", adapter, 0.1e18 + 1, 1, 12);
        refuse("heartbeat", adapter, 0, 0, 12);
        refuse("minDelay", adapter, 0, 1, 4);
        refuse("minDelay", adapter, 0, 1, 601);
    }

    function test_only_the_admin_sets_a_feed() public {
        vm.expectRevert();
        router.setFeed("new", adapter, 0, 1, 12);
    }
}
