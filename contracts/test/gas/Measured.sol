// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Bundle, Report} from "../../src/HybridTypes.sol";
import {Base} from "../Base.t.sol";

/// @notice Gas of whole transactions, as their senders pay it: with `--isolate`, forge runs each call of a test as a
/// transaction of its own, so that storage is cold, and calldata, the 21,000 and refunds count.
///
/// More is listed than the other tests need: eight underlyings with a perp each, and seven options of one expiry.
abstract contract Measured is Base {
    uint256 internal constant FEEDS = 8;
    /// @dev Of every account, at the price it was opened at.
    uint256 internal constant NOTIONAL = 20_000e18;

    bytes32[FEEDS] internal feeds;
    uint16[FEEDS] internal perps;
    /// @dev A hedged book of one underlying: the perp, then options, those bought before those sold.
    uint16[8] internal book8;
    int256[8] internal sizes8;

    function setUp() public virtual override {
        super.setUp();
        (feeds[0], feeds[1]) = (ETH, BTC);
        (perps[0], perps[1]) = (ETH_PERP, BTC_PERP);
        for (uint256 i = 2; i < FEEDS; ++i) {
            feeds[i] = bytes32(abi.encodePacked("F", uint8(48 + i)));
            newFeed(feeds[i], 100e18, 12);
            vm.startPrank(admin);
            instruments.listUnderlying(feeds[i], 0.05e18, 0.1e18, 0.01e18, 1e30);
            perps[i] = instruments.listPerp(feeds[i]);
            vm.stopPrank();
        }
        (book8[0], sizes8[0]) = (ETH_PERP, 100e18);
        (book8[1], sizes8[1]) = (ETH_PUT, 50e18);
        (book8[2], sizes8[2]) = (newOption(190e18, false), -50e18);
        (book8[3], sizes8[3]) = (newOption(210e18, true), -50e18);
        (book8[4], sizes8[4]) = (newOption(195e18, false), 30e18);
        (book8[5], sizes8[5]) = (newOption(215e18, true), 30e18);
        (book8[6], sizes8[6]) = (newOption(185e18, false), -30e18);
        (book8[7], sizes8[7]) = (newOption(220e18, true), -30e18);
        tickAll(12);
        deposit(bob, address(usd), 1_000_000e18);
        fundTaker(taker);
    }

    function newOption(uint128 strike, bool isCall) private returns (uint16) {
        return listOption(ETH, strike, EXPIRY, isCall);
    }

    // --- prices ---

    function tickAll(uint256 age) internal {
        pass(age);
        moveAll(100);
    }

    /// @dev Every price becomes that many hundredths of itself.
    function moveAll(uint256 percent) internal {
        for (uint256 i; i < FEEDS; ++i) {
            setPrice(feeds[i], fastPrice[feeds[i]] * percent / 100);
        }
    }

    /// @dev New arrays of the book's first `n` instruments.
    function postBook(uint256 n) internal {
        uint16[] memory markets = new uint16[](n - 1);
        for (uint256 i = 1; i < n; ++i) {
            markets[i - 1] = book8[i];
        }
        postArrays(markets);
    }

    // --- books ---

    /// @dev The same notional in `n` perps of as many underlyings, breached when all prices fall by 6%.
    function openPerps(bytes32 acct, uint256 n) internal {
        deposit(acct, address(usd), 2100e18);
        for (uint256 i; i < n; ++i) {
            uint256 price = fastPrice[feeds[i]];
            trade(acct, bob, perps[i], NOTIONAL * 1e18 / price / n, price);
        }
    }

    /// @dev The first `n` of the hedged book at an ETH of 200, where each option costs its time value.
    function openHedged(bytes32 acct, uint256 n) internal {
        deposit(acct, address(usd), 2400e18);
        postBook(n);
        for (uint256 i; i < n; ++i) {
            uint256 price = i == 0 ? 200e18 : uint256(TIME_VALUE) * 1e10;
            bool buys = sizes8[i] > 0;
            uint256 size = uint256(buys ? sizes8[i] : -sizes8[i]);
            trade(buys ? acct : bob, buys ? bob : acct, book8[i], size, price);
        }
    }

    function perpsOf(uint256 n) internal pure returns (string memory) {
        return n == 1 ? "1 perp" : string.concat(vm.toString(n), " perps");
    }

    // --- reporters ---

    /// @dev `k` reporters make a quorum, of two more.
    function setQuorum(uint256 k) internal {
        address[] memory signers = new address[](k + 2);
        for (uint256 i; i < signers.length; ++i) {
            signers[i] = vm.addr(11 + i);
        }
        vm.prank(admin);
        fastOracle.setSigners(signers, k);
    }

    /// @dev The first `k` reporters agree on a price of 200, now.
    function bundleOf(bytes32 feedId, uint256 k) internal view returns (Bundle memory b) {
        b = Bundle(feedId, new Report[](k));
        for (uint256 i; i < k; ++i) {
            b.reports[i] = report(11 + i, feedId, 200e18, 10, nowS(), nowS() + 60);
        }
    }

    // --- gas ---

    /// @dev Of the last call, which is a whole transaction.
    function gasOfLast() internal view returns (uint256) {
        return vm.lastCallGas().gasTotalUsed;
    }
}
