// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Test} from "forge-std/Test.sol";
import {Handler} from "./Handler.sol";

contract HybridInvariants is Test {
    Handler internal handler;

    function setUp() public {
        handler = new Handler();
        handler.setUp();
        // An act that matters more stands more than once.
        bytes4[] memory acts = new bytes4[](33);
        acts[0] = acts[1] = acts[2] = acts[3] = Handler.move.selector;
        acts[4] = Handler.rest.selector;
        acts[5] = Handler.stall.selector;
        acts[6] = Handler.outage.selector;
        acts[7] = acts[8] = Handler.open.selector;
        acts[9] = Handler.reduce.selector;
        acts[10] = Handler.putIn.selector;
        acts[11] = Handler.takeOut.selector;
        acts[12] = acts[13] = Handler.raise.selector;
        acts[14] = Handler.wick.selector;
        acts[15] = Handler.clear.selector;
        acts[16] = Handler.expire.selector;
        acts[17] = Handler.poke.selector;
        acts[18] = Handler.confirm.selector;
        acts[19] = Handler.cure.selector;
        acts[20] = acts[21] = Handler.slice.selector;
        acts[22] = Handler.rescue.selector;
        acts[23] = Handler.buy.selector;
        acts[24] = Handler.writeOff.selector;
        acts[25] = acts[26] = Handler.openOption.selector;
        acts[27] = Handler.choose.selector;
        acts[28] = Handler.settle.selector;
        acts[29] = Handler.brake.selector;
        acts[30] = Handler.ramp.selector;
        acts[31] = Handler.socialise.selector;
        acts[32] = Handler.hush.selector;
        targetContract(address(handler));
        targetSelector(FuzzSelector(address(handler), acts));
    }

    /// @notice Sum of cash and quote legs, insurance and bonds less bad debt: the quote paid in and not taken out.
    function invariant_the_quote_balances() public {
        handler.checkQuote();
    }

    function invariant_sizes_of_a_market_sum_to_zero() public {
        handler.checkMarkets();
    }

    function invariant_collateral_credits_are_what_was_paid_in() public {
        handler.checkTokens();
    }

    /// @notice Time, clocks and prices only go forward; no slice leaves its bounds; no act succeeds that must not.
    function invariant_no_act_breaks_a_rule() public view {
        handler.checkRules();
    }

    function invariant_a_bond_is_held_while_flagged_and_not_longer() public {
        handler.checkAccounts();
    }

    function invariant_users_without_positions_never_lose() public {
        handler.checkIdle();
    }
}

/// @notice A long walk through the same acts, the same every time, that must reach every end of an episode.
contract StoryTest is Test {
    Handler internal handler;
    uint256 internal constant STEPS = 5000;

    function setUp() public {
        handler = new Handler();
        handler.setUp();
    }

    function test_a_long_story_reaches_every_end_of_an_episode_and_breaks_no_rule() public {
        vm.pauseGasMetering();
        for (uint256 i; i < STEPS; ++i) {
            uint256 seed = uint256(keccak256(abi.encode("story", i)));
            act(seed % 34, seed >> 8);
            if (i % 20 == 0) handler.check();
        }
        handler.check();
        string[31] memory acts = [
            "move", "rest", "stall", "outage", "open", "reduce", "putIn", "takeOut", "flag", "clear",
            "expire", "poke", "confirm", "cure", "slice", "rescue", "insolvent", "selfCure", "grind", "buy",
            "openOption", "choose", "settle", "renew", "brake", "ramp", "socialise", "loss", "cover",
            "hush", "sliceInSilence"
        ];
        for (uint256 i; i < acts.length; ++i) {
            emit log_named_uint(acts[i], handler.count(acts[i]));
        }
        for (uint256 i; i < acts.length; ++i) {
            assertGt(handler.count(acts[i]), 0, acts[i]);
        }
    }

    function actOfTheWorld(uint256 which, uint256 seed) private {
        if (which < 28) handler.openOption(seed);
        else if (which == 28) handler.choose(seed);
        else if (which == 29) handler.settle(seed);
        else if (which == 30) handler.brake(seed);
        else if (which == 31) handler.ramp(seed);
        else if (which == 32) handler.hush(seed);
        else handler.socialise(seed);
    }

    function act(uint256 which, uint256 seed) private {
        if (which < 5) handler.move(seed);
        else if (which == 5) handler.rest(seed);
        else if (which == 6) handler.stall(seed);
        else if (which == 7) handler.outage(seed);
        else if (which < 10) handler.open(seed);
        else if (which == 10) handler.reduce(seed);
        else if (which == 11) handler.putIn(seed);
        else if (which == 12) handler.takeOut(seed);
        else if (which == 13) handler.raise(seed);
        else if (which == 14) handler.wick(seed);
        else if (which == 15) handler.clear(seed);
        else if (which == 16) handler.expire(seed);
        else if (which == 17) handler.poke(seed);
        else if (which == 18) handler.confirm(seed);
        else if (which == 19) handler.cure(seed);
        else if (which < 22) handler.slice(seed);
        else if (which == 22) handler.rescue(seed);
        else if (which == 23) handler.buy(seed);
        else if (which == 24) handler.writeOff(seed);
        else if (which == 25) handler.grind(seed);
        else actOfTheWorld(which, seed);
    }
}
