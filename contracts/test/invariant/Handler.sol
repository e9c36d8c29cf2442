// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Clearing} from "../../src/Clearing.sol";
import {Book, Margin, State, WAD} from "../../src/HybridTypes.sol";
import {Liquidator} from "../../src/Liquidator.sol";
import {Slope} from "../../src/Slope.sol";
import {Base} from "../Base.t.sol";

/// @notice Owners, takers, flaggers, oracles and time, each act taking one random word; and the rules that must
/// hold after any of them. What a rule needs to see around an act is looked at in the act and kept in `broken`.
contract Handler is Base {
    uint256 internal constant OWNERS = 4;
    uint256 internal constant SLACK = 1e6;

    /// @dev The accounts now in use, and every account ever used.
    bytes32[] internal live;
    bytes32[] public all;
    bytes32 internal maker;
    bytes32 internal idle;
    /// @dev Time is kept here: a run may forget a warp between two acts.
    uint256 internal clock;
    uint256 internal height;

    mapping(string act => uint256) public count;
    string public broken;

    struct Seen {
        uint256 flaggedAt;
        uint256 tau;
    }

    mapping(bytes32 acct => Seen) internal seen;
    mapping(bytes32 feedId => uint256) internal observedAt;

    modifier act() {
        vm.warp(clock);
        vm.roll(height);
        _;
        (clock, height) = (nowS(), vm.getBlockNumber());
        watch();
    }

    function setUp() public override {
        super.setUp();
        (maker, idle) = (newAccount("maker"), newAccount("idle"));
        for (uint256 i; i < OWNERS; ++i) {
            live.push(newAccount(string.concat("owner", vm.toString(i))));
            all.push(live[i]);
            deposit(live[i], address(usd), 2000e18);
            deposit(live[i], address(weth), 5e18);
        }
        deposit(maker, address(usd), 1e25);
        deposit(taker, address(usd), 1e24);
        deposit(taker2, address(usd), 50_000e18);
        deposit(taker2, address(weth), 500e18);
        deposit(idle, address(usd), 777e18);
        deposit(idle, address(weth), 7e18);
        fundCredit(flagger, address(usd), 1e25);
        all.push(maker);
        all.push(taker);
        all.push(taker2);
        all.push(idle);
        (clock, height) = (nowS(), vm.getBlockNumber());
    }

    /// @dev Mostly an actor brings fresh prices.
    function freshen(uint256 seed) private {
        if (seed % 4 != 0) tick(1 + seed % 13);
    }

    /// @dev The slow oracle comes to within a per cent of the fast one.
    function align(uint256 apart) private {
        slowPrice[ETH] = fastPrice[ETH] * (1000 - apart) / 1000;
        slowPrice[BTC] = fastPrice[BTC] * (1000 + apart) / 1000;
        slowPrice[SOL] = fastPrice[SOL];
        tick(12);
    }

    // --- oracles and time ---

    /// @dev A joint walk: every feed by the same factor and a little of its own; sometimes a crash, sometimes the
    /// slow oracle lags.
    function move(uint256 seed) public act {
        pass(1 + seed % 14);
        bool crash = (seed >> 16) % 6 == 0;
        int256 common = int256((seed >> 24) % 401) - 200;
        if (crash) common = (seed >> 40) % 3 == 0 ? int256(700) : -int256(500 + (seed >> 48) % 900);
        step(ETH, 200e18, common + int256((seed >> 64) % 101) - 50, (seed >> 80) % 4 != 0);
        step(BTC, 1000e18, common + int256((seed >> 96) % 101) - 50, (seed >> 112) % 4 != 0);
        step(SOL, 10e18, common + int256((seed >> 128) % 101) - 50, (seed >> 144) % 4 != 0);
        count["move"]++;
    }

    function step(bytes32 feedId, uint256 start, int256 bps, bool slowToo) private {
        uint256 price = fastPrice[feedId] * uint256(10_000 + bps) / 10_000;
        // The walk turns back at a quarter and at four times where it began.
        if (price < start / 4) price = price * 115 / 100;
        if (price > start * 4) price = price * 85 / 100;
        setFast(feedId, price);
        setSlow(feedId, slowToo ? price : slowPrice[feedId]);
    }

    function rest(uint256 seed) public act {
        tick(1 + seed % 40);
        count["rest"]++;
    }

    /// @dev No oracle says a word.
    function stall(uint256 seed) public act {
        pass(1 + seed % 60);
        count["stall"]++;
    }

    function outage(uint256 seed) public act {
        if (seed % 12 == 0) pass(6 hours);
        count["outage"]++;
    }

    // --- owners ---

    function pick(uint256 seed) private returns (bytes32 acct) {
        uint256 i = seed % OWNERS;
        if (stateOf(live[i]) == State.Closed) {
            // A closed account stays closed: its owner begins another.
            live[i] = bytes32(uint256(live[i]) + 1);
            all.push(live[i]);
            deposit(live[i], address(usd), 1000e18 + seed % 1000e18);
            deposit(live[i], address(weth), 1e18 + seed % 9e18);
        }
        return live[i];
    }

    function open(uint256 seed) public act {
        bytes32 acct = 0;
        for (uint256 i; i < OWNERS; ++i) {
            acct = pick(seed % OWNERS + i);
            if (stateOf(acct) == State.Healthy && clearing.book(acct).legs.length < 2) break;
        }
        if (stateOf(acct) != State.Healthy) return;
        align(1);
        int256 cash = clearing.book(acct).cash;
        if (cash < 1000e18) deposit(acct, address(usd), uint256(1500e18 - (cash < 0 ? cash : int256(0))));
        // Near full leverage, so that something happens.
        uint256 notional = uint256(clearing.book(acct).cash) * (3 + (seed >> 32) % 7);
        tradeWithMaker(acct, uint16(1 + (seed >> 8) % 3), notional, (seed >> 16) % 3 != 0, "open");
    }

    function reduce(uint256 seed) public act {
        bytes32 acct = pick(seed);
        Book memory b = clearing.book(acct);
        if (b.legs.length == 0) return;
        uint256 i = (seed >> 8) % b.legs.length;
        uint256 price = fastPrice[b.legs[i].feedId];
        uint256 size = uint256(b.legs[i].size > 0 ? b.legs[i].size : -b.legs[i].size);
        uint256 part = (seed >> 16) % 4 == 0 ? size : size * ((seed >> 32) % 1000) / 1000;
        tradeWithMaker(acct, b.legs[i].market, part * price / WAD, b.legs[i].size < 0, "reduce");
    }

    function tradeWithMaker(bytes32 acct, uint16 market, uint256 notional, bool buys, string memory what) private {
        uint256 price = fastPrice[clearing.perps(market).feedId];
        int256 size = int256(notional * WAD / price);
        if (!buys) size = -size;
        Clearing.Order memory a = order(acct, market, size, price);
        Clearing.Order memory b = order(maker, market, -size, price);
        (bytes memory signedA, bytes memory signedB) = (signed(a), signed(b));
        try clearing.trade(a, signedA, b, signedB, uint128(price), none()) {
            count[what]++;
        } catch {}
    }

    function putIn(uint256 seed) public act {
        bytes32 acct = pick(seed);
        uint256 kind = (seed >> 8) % 6;
        uint256 amount = (seed >> 16) % 4 == 0 ? 1 : (seed >> 32) % 400e18 + 1;
        if (kind == 0 && takes(acct, WBTC)) deposit(acct, address(wbtc), amount / 1000 + 1);
        else if (kind == 1 && takes(acct, WETH)) deposit(acct, address(weth), amount / 200 + 1);
        else deposit(acct, address(usd), amount);
        count["putIn"]++;
    }

    /// @dev In an episode an account takes only the collateral that it holds.
    function takes(bytes32 acct, uint8 id) private view returns (bool) {
        if (stateOf(acct) == State.Healthy || stateOf(acct) == State.Closed) return true;
        Book memory b = clearing.book(acct);
        for (uint256 j; j < b.holdings.length; ++j) {
            if (b.holdings[j].collateral == id) return true;
        }
        return false;
    }

    function takeOut(uint256 seed) public act {
        bytes32 acct = pick(seed);
        Book memory b = clearing.book(acct);
        vm.startPrank(ownerOf_(acct));
        if (seed % 2 == 0 && b.holdings.length > 0) {
            address token = clearing.collaterals(b.holdings[0].collateral).token;
            uint256 amount = (seed >> 8) % 3 == 0 ? b.holdings[0].amount : b.holdings[0].amount / 3;
            try clearing.withdraw(acct, token, amount) {
                count["takeOut"]++;
            } catch {}
        } else if (b.cash > 0) {
            try clearing.withdraw(acct, address(usd), uint256(b.cash) / (1 + (seed >> 8) % 5)) {
                count["takeOut"]++;
            } catch {}
        }
        vm.stopPrank();
    }

    // --- the life of a breach ---

    function find(State state, uint256 seed) private view returns (bytes32 acct) {
        for (uint256 i; i < OWNERS + 1; ++i) {
            uint256 at = (seed % (OWNERS + 1) + i) % (OWNERS + 1);
            acct = at == OWNERS ? taker2 : live[at];
            if (stateOf(acct) == state) {
                if (state != State.Healthy) return acct;
                (Margin memory m,,) = margins(acct);
                if (below(m)) return acct;
            }
        }
        return 0;
    }

    function below(Margin memory m) private pure returns (bool) {
        return m.equity < int256(m.requirement);
    }

    function raise(uint256 seed) public act {
        freshen(seed >> 40);
        bytes32 acct = find(State.Healthy, seed);
        if (acct == 0) return;
        vm.prank(flagger);
        try liquidator.flag(acct, none()) {
            count["flag"]++;
        } catch {}
    }

    /// @dev A wick on the fast price alone, somebody flags in it, and it is over.
    function wick(uint256 seed) public act {
        tick(12);
        uint256 price = fastPrice[ETH];
        bool down = seed % 2 == 0;
        setFast(ETH, down ? price * 85 / 100 : price * 115 / 100);
        bytes32 acct = find(State.Healthy, seed >> 8);
        if (acct != 0) {
            vm.prank(flagger);
            try liquidator.flag(acct, none()) {
                count["flag"]++;
            } catch {}
        }
        setFast(ETH, price);
        tick(2);
    }

    function clear(uint256 seed) public act {
        bytes32 acct = find(State.Flagged, seed);
        if (acct == 0) return;
        try liquidator.clear(acct, none()) {
            count["clear"]++;
        } catch {}
    }

    function expire(uint256 seed) public act {
        bytes32 acct = find(State.Flagged, seed);
        if (acct == 0) return;
        if ((seed >> 40) % 2 == 0) pass(6 hours);
        try liquidator.expire(acct) {
            count["expire"]++;
        } catch {}
    }

    function poke(uint256 seed) public act {
        bytes32 acct = find(seed % 2 == 0 ? State.Flagged : State.Confirmed, seed >> 8);
        if (acct == 0) return;
        liquidator.poke(acct);
        count["poke"]++;
    }

    function confirm(uint256 seed) public act {
        freshen(seed >> 40);
        bytes32 acct = find(State.Flagged, seed);
        if (acct == 0) return;
        try liquidator.confirm(acct, none()) {
            count["confirm"]++;
        } catch {}
    }

    function cure(uint256 seed) public act {
        freshen(seed >> 40);
        bytes32 acct = find(seed % 3 == 0 ? State.Flagged : State.Confirmed, seed >> 8);
        if (acct == 0) return;
        (Margin memory f, Margin memory s,) = margins(acct);
        bool safe = f.equity * 1e18 >= 1.1e18 * int256(f.requirement)
            && s.equity * 1e18 >= 1.1e18 * int256(s.requirement) && clearing.book(acct).legs.length > 0;
        bool fresh = router.price(ETH).fastFresh && router.price(BTC).fastFresh && router.price(SOL).fastFresh
            && router.price(ETH).slowFresh && router.price(BTC).slowFresh && router.price(SOL).slowFresh;
        try liquidator.cure(acct, none()) {
            count["cure"]++;
        } catch {
            if (safe && fresh) broken = "an account that is safe at both oracles could not be cured";
        }
    }

    /// @dev Somebody sends a wei first, as a front-runner would.
    function slice(uint256 seed) public act {
        freshen(seed >> 40);
        bytes32 acct = find(State.Confirmed, seed);
        if (acct == 0) return;
        bytes32 by = (seed >> 8) % 3 == 0 && acct != taker2 ? taker2 : taker;
        Liquidator.SliceTerms memory t = terms(acct, by);
        if ((seed >> 16) % 4 == 0) t.fMax = uint64((seed >> 32) % WAD);
        if ((seed >> 24) % 4 == 0) deposit(acct, address(usd), 1);
        cut(acct, t);
    }

    function cut(bytes32 acct, Liquidator.SliceTerms memory t) private returns (bool) {
        liquidator.poke(acct);
        uint256 q = Slope.decay(slopeParams(), liquidator.flagOf(acct).tau);
        (Margin memory f, Margin memory s, Margin memory before) = margins(acct);
        bool breached = Slope.scaled(f.equity, q) < int256(f.requirement)
            && Slope.scaled(s.equity, q) < int256(s.requirement)
            && Slope.scaled(before.equity, q) < int256(before.requirement);
        vm.prank(ownerOf_(t.taker));
        try liquidator.liquidate(acct, t, none()) {}
        catch {
            return false;
        }
        count["slice"]++;
        if (!breached) broken = "a slice without a breach at all three prices";
        State state = stateOf(acct);
        if (state == State.Closed) count["insolvent"]++;
        if (state == State.Healthy) count["selfCure"]++;
        (,, Margin memory later) = margins(acct);
        if (before.equity > 0 && (later.equity + int256(SLACK)) * int256(before.requirement)
                < before.equity * (int256(later.requirement) - int256(SLACK))) {
            broken = "a slice lowered health";
        }
        // A slice raised to the smallest one, or a book closed as dust, may end above.
        bool small = later.notional == 0 || before.notional - later.notional <= 101e18;
        if (before.equity > 0 && !small
                && later.equity * 1e18 > (int256(later.requirement) + int256(SLACK)) * 1.1500000001e18) {
            broken = "a slice overshot the target of the slope";
        }
        return true;
    }

    /// @dev An account below its requirement at all three prices, whose feeds stay fresh for T_min, is always
    /// confirmed, and then sliced by a taker with funds.
    function rescue(uint256 seed) public act {
        align(5);
        bytes32 acct = find(State.Healthy, seed);
        if (acct == 0 || !breachedAtAll(acct)) return;
        flag(acct);
        for (uint256 i; i < 5; ++i) {
            tick(12);
        }
        confirmAndSlice(acct);
    }

    function breachedAtAll(bytes32 acct) private view returns (bool) {
        (Margin memory f, Margin memory s, Margin memory l) = margins(acct);
        return below(f) && below(s) && below(l);
    }

    function confirmAndSlice(bytes32 acct) private {
        try liquidator.confirm(acct, none()) {
            count["confirm"]++;
        } catch {
            broken = "a breached account could not be confirmed";
            return;
        }
        deposit(taker, address(usd), 1e24);
        count["rescue"]++;
        if (!cut(acct, terms(acct, taker))) broken = "a confirmed account could not be sliced by a taker with funds";
    }

    /// @dev At constant prices a confirmed account ends: cured, closed, or without a position.
    function grind(uint256 seed) public act {
        bytes32 acct = find(State.Confirmed, seed);
        if (acct == 0) return;
        align(0);
        deposit(taker, address(usd), 1e24);
        for (uint256 i; i < 60 && stateOf(acct) == State.Confirmed; ++i) {
            tick(30);
            if (cut(acct, terms(acct, taker))) continue;
            try liquidator.cure(acct, none()) {
                count["cure"]++;
            } catch {}
        }
        count["grind"]++;
        if (stateOf(acct) == State.Confirmed && clearing.book(acct).legs.length > 0) {
            broken = "a confirmed account at constant prices did not end";
        }
    }

    function buy(uint256 seed) public act {
        freshen(seed >> 40);
        bytes32 acct = pick(seed);
        Book memory b = clearing.book(acct);
        if (b.holdings.length == 0) return;
        vm.prank(flagger);
        try liquidator.buyCollateral(acct, b.holdings[0].collateral, 1e30 >> (seed % 60), 0) {
            count["buy"]++;
        } catch {}
    }

    function writeOff(uint256 seed) public act {
        bytes32 acct = live[seed % OWNERS];
        try liquidator.writeOff(acct) {
            count["writeOff"]++;
        } catch {}
    }

    // --- the rules ---

    /// @dev What must not go backwards, after every act.
    function watch() private {
        for (uint256 i; i < all.length; ++i) {
            Liquidator.Flag memory f = liquidator.flagOf(all[i]);
            Seen storage was = seen[all[i]];
            if (f.flaggedAt == was.flaggedAt && f.tau < was.tau) broken = "tau fell within an episode";
            (was.flaggedAt, was.tau) = (f.flaggedAt, f.tau);
        }
        for (uint256 i; i < 3; ++i) {
            bytes32 feedId = i == 0 ? ETH : i == 1 ? BTC : SOL;
            (, uint256 at,) = fastOracle.read(feedId);
            if (at < observedAt[feedId]) broken = "the fast oracle went back in time";
            observedAt[feedId] = at;
        }
    }

    /// @notice Reverts with the rule that does not hold.
    function check() external {
        vm.warp(clock);
        vm.roll(height);
        assertEq(broken, "");
        int256 quote;
        int256[4] memory sizes;
        uint256[3] memory holdings;
        uint256 bonds;
        for (uint256 i; i < all.length; ++i) {
            Book memory b = clearing.book(all[i]);
            quote += b.cash;
            for (uint256 j; j < b.legs.length; ++j) {
                quote += b.legs[j].quoteLeg;
                sizes[b.legs[j].market] += b.legs[j].size;
                assertTrue(b.legs[j].size != 0, "an empty leg stays in the list");
            }
            for (uint256 j; j < b.holdings.length; ++j) {
                holdings[b.holdings[j].collateral] += b.holdings[j].amount;
                assertGt(b.holdings[j].amount, 0, "an empty holding stays in the list");
            }
            (State state,,, uint256 debtSince,,) = clearing.status(all[i]);
            assertEq(debtSince != 0, b.cash < 0 && b.legs.length == 0, "the debt clock runs while only debt is left");
            uint256 bond = liquidator.flagOf(all[i]).bond;
            bonds += bond;
            assertEq(bond != 0, state == State.Flagged, "a bond is held while flagged and not longer");
        }
        assertEq(
            quote + int256(clearing.insurance()) - int256(clearing.badDebt()),
            int256(quoteCredit(address(clearing))),
            "cash, quote legs, insurance and bad debt equal the quote held"
        );
        assertEq(quoteCredit(address(liquidator)), bonds, "the liquidator holds the bonds and nothing else");
        for (uint256 m = 1; m <= 3; ++m) {
            assertEq(sizes[m], 0, "sizes of a market sum to zero");
        }
        assertEq(clearing.collateralTotal(WETH), holdings[WETH], "WETH held");
        assertEq(clearing.collateralTotal(WBTC), holdings[WBTC], "WBTC held");
        assertEq(vault.credit(address(weth), address(clearing)), holdings[WETH], "WETH credit");
        assertEq(vault.credit(address(wbtc), address(clearing)), holdings[WBTC], "WBTC credit");
        assertEq(usd.balanceOf(address(vault)) * 1e12, vault.totalCredit(address(usd)), "USD in the vault");
        assertEq(weth.balanceOf(address(vault)), vault.totalCredit(address(weth)), "WETH in the vault");
        assertEq(wbtc.balanceOf(address(vault)) * 1e10, vault.totalCredit(address(wbtc)), "WBTC in the vault");
        Book memory untouched = clearing.book(idle);
        assertEq(untouched.cash, 777e18, "a user without positions loses nothing");
        assertEq(untouched.holdings[0].amount, 7e18, "a user without positions loses nothing");
    }
}
