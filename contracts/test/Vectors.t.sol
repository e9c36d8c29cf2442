// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Test} from "forge-std/Test.sol";
import {Formulas} from "../demo/Formulas.sol";
import {Holding, Kind, Leg, Risk, WAD} from "../src/HybridTypes.sol";
import {Portfolio} from "../src/Portfolio.sol";
import {SlopeParams} from "../src/Slope.sol";

/// @notice States of every formula with what the contracts make of them, for the keeper's tests to read without a
/// chain. Each state is the row of words that `Formulas` takes for it. The file is written, and not compared, by
///
///     VECTORS=write ../tools/bin/forge test --match-contract VectorsTest
contract VectorsTest is Test {
    string private constant FILE = "vectors/formulas.json";
    uint256 private constant STATES = 200;
    /// @dev Of one set of slope parameters, and of one set of markets.
    uint256 private constant BATCH = 50;
    uint256 private constant NOW = 1_700_000_000;
    uint256 private constant MOST_PRICE = 1e36;
    uint256 private constant MOST_SIZE = 2 ** 124;
    uint256 private constant MOST_MONEY = 2 ** 187;
    uint256 private constant PRICE_UNIT = 1e10;

    Formulas private formulas;
    bool private writing;

    function setUp() public {
        formulas = new Formulas();
        writing = keccak256(bytes(vm.envOr("VECTORS", string("")))) == keccak256("write");
    }

    function test_the_vectors_are_what_the_contracts_give_now() public {
        if (writing) vm.writeFile(FILE, "");
        line("{");
        formula("expWad", Formulas.expWad.selector, exponent, 1);
        formula("scaled", Formulas.scaled.selector, equity, 1);
        formula("closeable", Formulas.closeable.selector, breach, 1);
        formula("below", Formulas.below.selector, level, 1);
        formula("valueAt", Formulas.valueAt.selector, moment, 1);
        formula("options", Formulas.options.selector, option, 3);
        formulaOfASlope("decay", Formulas.decay.selector, time);
        formulaOfASlope("feeCap", Formulas.feeCap.selector, margin);
        formulaOfASlope("fee", Formulas.fee.selector, charge);
        formulaOfASlope("executionPrice", Formulas.executionPrice.selector, pair);
        groups();
        books();
        line("}");
        if (!writing) assertEq(vm.readLine(FILE), "", "the file goes on");
    }

    // What is written: one line for each state, so that a difference shows where it is.

    function line(string memory text) private {
        if (writing) vm.writeLine(FILE, text);
        else assertEq(vm.readLine(FILE), text);
    }

    function formula(
        string memory name,
        bytes4 selector,
        function(uint256) internal pure returns (int256[] memory) state,
        uint256 gives
    ) private {
        line(string.concat('"', name, '": [{"states": ['));
        int256[][] memory states = new int256[][](STATES);
        for (uint256 i; i < STATES; ++i) {
            states[i] = state(seedOf(name, i));
        }
        answered(states, asked(selector, "", states), gives);
        line("]}],");
    }

    function formulaOfASlope(
        string memory name,
        bytes4 selector,
        function(uint256, SlopeParams memory) internal pure returns (int256[] memory) state
    ) private {
        line(string.concat('"', name, '": ['));
        int256[][] memory states = new int256[][](BATCH);
        for (uint256 batch; batch < STATES / BATCH; ++batch) {
            SlopeParams memory p = slope(batch);
            for (uint256 i; i < BATCH; ++i) {
                states[i] = state(seedOf(name, batch * BATCH + i), p);
            }
            line(string.concat('{"slope": ', list(abi.encode(p)), ', "states": ['));
            answered(states, asked(selector, abi.encode(p), states), 1);
            line(batch + 1 < STATES / BATCH ? "]}," : "]}");
        }
        line("],");
    }

    function groups() private {
        line('"groups": [');
        for (uint256 batch; batch < STATES / BATCH; ++batch) {
            Leg[] memory markets = listed(seedOf("groups", batch), 8, 1, false);
            int256[][] memory rows = new int256[][](BATCH);
            for (uint256 i; i < BATCH; ++i) {
                rows[i] = groupRow(seedOf("group", batch * BATCH + i), markets);
            }
            Formulas.GroupFound[] memory found = formulas.groups(markets, joined(rows), BATCH);
            line("{");
            writeMarkets(markets);
            for (uint256 i; i < BATCH; ++i) {
                row(rows[i], abi.encode(found[i]), i + 1 < BATCH);
            }
            line(batch + 1 < STATES / BATCH ? "]}," : "]}");
        }
        line("],");
    }

    function books() private {
        line('"books": [');
        for (uint256 batch; batch < STATES / BATCH; ++batch) {
            Leg[] memory markets = listed(seedOf("books", batch), 12, 3, true);
            Holding[] memory collaterals = pledged(seedOf("pledged", batch));
            int256[][] memory rows = new int256[][](BATCH);
            for (uint256 i; i < BATCH; ++i) {
                rows[i] = bookRow(seedOf("book", batch * BATCH + i), markets, collaterals);
            }
            Formulas.BookFound[] memory found = formulas.books(markets, collaterals, joined(rows), BATCH);
            writeCollaterals(collaterals);
            writeMarkets(markets);
            for (uint256 i; i < BATCH; ++i) {
                row(rows[i], abi.encode(found[i]), i + 1 < BATCH);
            }
            line(batch + 1 < STATES / BATCH ? "]}," : "]}");
        }
        line("]");
    }

    function writeMarkets(Leg[] memory markets) private {
        line('"markets": [');
        for (uint256 i; i < markets.length; ++i) {
            (markets[i].size, markets[i].quoteLeg) = (0, 0);
            line(string.concat(list(abi.encode(markets[i])), i + 1 < markets.length ? "," : ""));
        }
        line('], "states": [');
    }

    function writeCollaterals(Holding[] memory collaterals) private {
        line("{");
        line('"collaterals": [');
        for (uint256 i; i < collaterals.length; ++i) {
            collaterals[i].amount = 0;
            line(string.concat(list(abi.encode(collaterals[i])), i + 1 < collaterals.length ? "," : ""));
        }
        line("],");
    }

    function answered(int256[][] memory states, bytes memory found, uint256 gives) private {
        for (uint256 i; i < states.length; ++i) {
            bytes memory words = new bytes(32 * gives);
            for (uint256 at; at < words.length; ++at) {
                words[at] = found[64 + words.length * i + at];
            }
            row(states[i], words, i + 1 < states.length);
        }
    }

    function row(int256[] memory state, bytes memory found, bool more) private {
        line(string.concat("[", list(abi.encodePacked(state)), ", ", list(found), more ? "]," : "]"));
    }

    function list(bytes memory words) private pure returns (string memory text) {
        for (uint256 at; at < words.length; at += 32) {
            int256 value;
            assembly ("memory-safe") {
                value := mload(add(add(words, 32), at))
            }
            text = string.concat(text, at == 0 ? "" : ", ", vm.toString(value));
        }
        return string.concat("[", text, "]");
    }

    /// @dev An array of static structs is its length and their words.
    function asked(bytes4 selector, bytes memory common, int256[][] memory states)
        private
        view
        returns (bytes memory found)
    {
        bytes memory words = abi.encodePacked(joined(states));
        bytes memory head = abi.encodePacked(selector, common, common.length + 32, states.length);
        bool done;
        (done, found) = address(formulas).staticcall(bytes.concat(head, words));
        assertTrue(done);
    }

    function joined(int256[][] memory rows) private pure returns (int256[] memory all) {
        uint256 length;
        for (uint256 i; i < rows.length; ++i) {
            length += rows[i].length;
        }
        all = new int256[](length);
        uint256 at;
        for (uint256 i; i < rows.length; ++i) {
            for (uint256 k; k < rows[i].length; ++k) {
                all[at++] = rows[i][k];
            }
        }
    }

    // Where the states come from: every number from one seed.

    function seedOf(string memory name, uint256 i) private pure returns (uint256) {
        return uint256(keccak256(abi.encode(name, i)));
    }

    function word(uint256 seed, uint256 i) private pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed, i)));
    }

    /// @dev Any order of magnitude alike; now and then an end.
    function wide(uint256 random, uint256 most) private pure returns (uint256 value) {
        uint256 which = random % 16;
        if (which < 2) return which == 0 ? 0 : most;
        value = uint256(keccak256(abi.encode(random))) >> (random / 16 % 256);
        return value > most ? value % most : value;
    }

    function signed(uint256 random, uint256 most) private pure returns (int256) {
        int256 value = int256(wide(random, most));
        return random >> 255 == 0 ? value : -value;
    }

    /// @dev One wei less, equal, or one more; nothing below nothing.
    function nudged(uint256 value, uint256 random) private pure returns (int256) {
        int256 near = int256(value) + int256(random % 3) - 1;
        return near < 0 ? int256(0) : near;
    }

    function words1(int256 a) private pure returns (int256[] memory state) {
        state = new int256[](1);
        state[0] = a;
    }

    function words2(int256 a, int256 b) private pure returns (int256[] memory state) {
        state = new int256[](2);
        (state[0], state[1]) = (a, b);
    }

    function words3(int256 a, int256 b, int256 c) private pure returns (int256[] memory state) {
        state = new int256[](3);
        (state[0], state[1], state[2]) = (a, b, c);
    }

    // States of one formula: any, and such that they lie on a threshold or a wei beside it.

    function exponent(uint256 s) private pure returns (int256[] memory) {
        if (s % 2 == 0) return words1(int256(wide(word(s, 1), 135305999368893231588)));
        return words1(-int256(wide(word(s, 1), 42e18)));
    }

    function equity(uint256 s) private pure returns (int256[] memory) {
        return words2(signed(word(s, 1), MOST_MONEY), int256(wide(word(s, 2), WAD)));
    }

    /// @dev Equity, requirement, notional, kappa and q; the requirement around q E.
    function breach(uint256 s) private pure returns (int256[] memory state) {
        state = new int256[](5);
        (state[0], state[4]) = (signed(word(s, 1), MOST_MONEY), int256(bound(word(s, 5), WAD / 3, WAD)));
        (state[2], state[3]) = (int256(wide(word(s, 3), MOST_MONEY)), int256(bound(word(s, 4), 0, 0.1e18)));
        uint256 counted = state[0] > 0 ? (uint256(state[0]) * uint256(state[4]) + WAD - 1) / WAD : 0;
        state[1] = nudged(counted, word(s, 2));
        if (s % 4 < 2) {
            state[1] = int256(counted * bound(word(s, 2), 1, 2e18) / WAD);
            state[2] = int256(uint256(state[1]) * bound(word(s, 3), 1, 50));
        }
    }

    function level(uint256 s) private pure returns (int256[] memory state) {
        state = new int256[](4);
        (state[1], state[3]) = (int256(wide(word(s, 1), MOST_MONEY)), int256(bound(word(s, 2), WAD, 2.5e18)));
        state[0] = nudged(uint256(state[1]) * uint256(state[3]) / WAD, word(s, 3));
        if (s % 4 == 0) state[0] = signed(word(s, 4), MOST_MONEY);
    }

    /// @dev From, to, start, end and now; in half of the states near one of the ends.
    function moment(uint256 s) private pure returns (int256[] memory state) {
        state = new int256[](5);
        for (uint256 i; i < 2; ++i) {
            state[i] = int256(wide(word(s, i), type(uint64).max));
        }
        (uint256 start, uint256 span) = (wide(word(s, 2), 2 ** 39 - 1), wide(word(s, 3), 2 ** 39 - 1));
        (state[2], state[3]) = (int256(start), int256(start + span));
        state[4] = nudged(s % 4 == 0 ? start : start + span, word(s, 4));
        if (s % 4 > 1) state[4] = int256(start + bound(word(s, 4), 0, span));
    }

    /// @dev Kind, strike, settlement, reference price, mark, delta, observedAt, price and now.
    function option(uint256 s) private pure returns (int256[] memory state) {
        state = new int256[](9);
        (uint256 ref, uint256 kind) = (wide(word(s, 1), 2 ** 60) * PRICE_UNIT, s % 8 == 0 ? 0 : 1 + s % 2);
        uint256 price = priceNear(word(s, 2), ref);
        state[0] = int256(kind);
        state[1] = s % 5 == 0 ? nudged(price, word(s, 3)) : int256(price * bound(word(s, 3), 30, 300) / 100);
        if (word(s, 4) % 8 == 0) state[2] = int256(1 + wide(word(s, 5), type(uint128).max - 1));
        if (word(s, 4) % 8 != 1) {
            state[3] = int256(ref);
            state[4] = int256(bound(word(s, 6), 0, ref / PRICE_UNIT) * PRICE_UNIT);
            state[5] = signed(word(s, 7), type(uint32).max >> 1) * 1e9;
            state[6] = int256(NOW);
        }
        (state[7], state[8]) = (int256(price), int256(NOW + age(word(s, 8))));
    }

    function time(uint256 s, SlopeParams memory p) private pure returns (int256[] memory) {
        return words1(s % 4 == 0 ? nudged(p.tSlope, word(s, 1)) : int256(wide(word(s, 1), 2 * p.tSlope)));
    }

    function margin(uint256 s, SlopeParams memory p) private pure returns (int256[] memory) {
        int256 e = signed(word(s, 1), MOST_MONEY);
        uint256 n = wide(word(s, 2), MOST_MONEY);
        if (s % 2 == 0 && e > 0) {
            n = s % 4 == 0 ? uint256(e) * (2 + s % 50) : uint256(nudged(uint256(e) * p.theta >> 64, word(s, 3)));
        }
        return words3(e, int256(wide(word(s, 4), MOST_MONEY)), int256(n));
    }

    function charge(uint256 s, SlopeParams memory p) private pure returns (int256[] memory) {
        uint256 cap = s % 4 == 0 ? type(uint64).max : bound(word(s, 2), 0, p.k1 + p.k1 / 10);
        return words2(int256(wide(word(s, 1), 20 * p.tK)), int256(cap));
    }

    function pair(uint256 s, SlopeParams memory p) private pure returns (int256[] memory) {
        (uint256 slow, uint256 t) = (wide(word(s, 1), type(uint128).max), wide(word(s, 2), 3600));
        uint256 width = p.bandBase + uint256(p.bandRate) * t / 60;
        if (width > p.bandMax) width = p.bandMax;
        int256 fast = nudged(slow * (s % 4 == 0 ? WAD - width : WAD + width) / WAD, word(s, 3));
        if (s % 4 > 1) fast = int256(slow * bound(word(s, 3), 70, 130) / 100);
        return words3(fast, int256(slow), int256(t));
    }

    /// @dev The default slope, and steeper ones up to the bounds.
    function slope(uint256 batch) private pure returns (SlopeParams memory p) {
        p.beta = [0.15e18, 0.6e18, 1.5e18, 0.02e18][batch];
        p.tSlope = uint32([uint256(1200), 300, 7200, 300][batch]);
        p.lambda = [116468285312632, 1566678764152451, 127262601649188, 66008757653932][batch];
        p.qMin = uint64((WAD * WAD + WAD + p.beta - 1) / (WAD + p.beta));
        (p.betaCure, p.k0, p.k1) = (p.beta / 2, 0.005e18, 0.03e18);
        (p.tK, p.theta) = (uint32([uint256(300), 77, 1, 3600][batch]), uint64(0.8e18 / (batch + 1)));
        (p.bandBase, p.bandRate, p.bandMax) = (0.01e18, uint64(0.01e18 * (batch + 1) / 3), 0.25e18);
        (p.stepCap, p.stepWindow, p.minSlice, p.dust) = (0.2e18, 30, 100e18, 1000e18);
    }

    // Markets, collaterals and books.

    /// @dev Of an array's price: near it, at 2% from it or a wei beside that, or anywhere.
    function priceNear(uint256 random, uint256 ref) private pure returns (uint256) {
        uint256 which = random % 16;
        if (which == 0) return wide(random / 16, MOST_PRICE);
        if (which < 3) return uint256(nudged(ref + ref / 50, random / 16));
        if (which < 5) return uint256(nudged(ref - ref / 50, random / 16));
        return ref * bound(random / 16, 9850, 10150) / 10000;
    }

    /// @dev Mostly young; and at the seconds where an array falls silent and where it is lost.
    function age(uint256 random) private pure returns (uint256) {
        if (random % 4 > 0) return random / 4 % 640;
        return [uint256(600), 601, 2000, 4199, 4200, 1e6][random / 4 % 6];
    }

    function refOf(uint256 feed) private pure returns (uint256) {
        return [uint256(20_000e18), 0.0123e18, 1_500e18, 7e18][feed];
    }

    /// @dev Two perps and options of the first feed, then one perp and options of each other one.
    function listed(uint256 seed, uint256 count, uint256 feeds, bool settles)
        private
        pure
        returns (Leg[] memory markets)
    {
        markets = new Leg[](count);
        for (uint256 i; i < count; ++i) {
            (uint256 s, uint256 feed) = (word(seed, i), i % feeds);
            Leg memory leg = markets[i];
            (leg.market, leg.feedId, leg.risk) = (uint16(i + 1), bytes32(feed + 1), riskOf(word(seed, 100 + feed)));
            if (i < feeds || i == count - 1) continue;
            leg.kind = s % 2 == 0 ? Kind.Call : Kind.Put;
            leg.expiry = uint40(NOW + word(s, 1) % 2 + 1);
            leg.strike = refOf(feed) * bound(word(s, 2), 60, 170) / 100;
            if (settles && word(s, 3) % 8 == 0) leg.settlement = refOf(feed) * bound(word(s, 4), 60, 170) / 100;
            if (word(s, 5) % 8 != 0) fillArray(leg, refOf(feed) * bound(word(s, 6), 999, 1001) / 1000, s);
        }
    }

    function riskOf(uint256 s) private pure returns (Risk memory risk) {
        risk.mmr = bound(word(s, 1), 0.005e18, 0.5e18);
        risk.imr = bound(word(s, 2), risk.mmr + 1, WAD);
        risk.shortMin = bound(word(s, 3), 0, risk.mmr);
    }

    /// @dev As RiskArrays admits one: between payoff and ceiling, here and in every scenario.
    function fillArray(Leg memory leg, uint256 near, uint256 s) private pure {
        uint256 ref = near / PRICE_UNIT * PRICE_UNIT;
        (leg.array.refPrice, leg.array.observedAt) = (ref, NOW - word(s, 20) % 50);
        leg.array.mark = anyValue(leg, ref, word(s, 21));
        leg.array.delta = int256(bound(word(s, 22), 0, 1e9)) * (leg.kind == Kind.Call ? int256(1e9) : -1e9);
        int256 third = int256(ref * leg.risk.mmr / (3 * WAD));
        for (uint256 i; i < 16; ++i) {
            int256 end = int256(ref) + third * Portfolio.move(i);
            uint256 value = anyValue(leg, end < 0 ? 0 : uint256(end), word(s, 30 + i));
            leg.array.pnl[i] = int256(value) - int256(leg.array.mark);
        }
    }

    function anyValue(Leg memory leg, uint256 price, uint256 random) private pure returns (uint256) {
        uint256 low = Portfolio.payoff(leg.kind, leg.strike, price);
        uint256 high = Portfolio.ceiling(leg.kind, leg.strike, price);
        return bound(random, low, high) / PRICE_UNIT * PRICE_UNIT;
    }

    /// @dev The second one is an underlying too.
    function pledged(uint256 s) private pure returns (Holding[] memory collaterals) {
        collaterals = new Holding[](3);
        for (uint256 i; i < 3; ++i) {
            Holding memory holding = collaterals[i];
            (holding.collateral, holding.feedId) = (uint8(i + 1), bytes32(i == 1 ? 2 : 10 + i));
            holding.hMM = bound(word(s, i), 0, WAD);
            holding.hIM = bound(word(s, 10 + i), 0, holding.hMM);
        }
    }

    /// @dev In a third of the rows of any magnitudes, else all of one.
    function sizeOf(uint256 s, uint256 i) private pure returns (int256 size) {
        size = s % 3 == 0
            ? signed(word(s, 50 + i), MOST_SIZE)
            : signed(word(s, 49), MOST_SIZE) * int256(bound(word(s, 50 + i), 0, 200)) / 100 - 1;
        if (size == 0) size = 1;
    }

    /// @dev Rate, now, price, and legs that follow each other in the list of markets.
    function groupRow(uint256 s, Leg[] memory markets) private pure returns (int256[] memory state) {
        uint256 legs = 1 + word(s, 1) % (s % 8 == 0 ? 8 : 3);
        state = new int256[](4 + 2 * legs);
        Risk memory risk = markets[0].risk;
        state[0] = int256(s % 2 == 0 ? risk.mmr : risk.imr);
        (state[1], state[2]) = (int256(NOW + age(word(s, 2))), int256(priceNear(word(s, 3), refOf(0))));
        state[3] = int256(legs);
        for (uint256 i; i < legs; ++i) {
            (state[4 + 2 * i], state[5 + 2 * i]) = (int256((word(s, 4) + i) % markets.length), sizeOf(s, i));
        }
    }

    function bookRow(uint256 s, Leg[] memory markets, Holding[] memory collaterals)
        private
        pure
        returns (int256[] memory state)
    {
        (uint256 legs, uint256 holdings) = (word(s, 1) % (s % 8 == 0 ? 9 : 5), word(s, 2) % 4);
        state = new int256[](5 + 4 * legs + 3 * holdings);
        (state[0], state[1]) = (signed(word(s, 3), type(uint128).max >> 1), int256(NOW + age(word(s, 4))));
        (state[2], state[3]) = (int256(bound(word(s, 5), 0.02e18, 1.5e18)), int256(legs));
        for (uint256 i; i < legs; ++i) {
            uint256 number = (word(s, 6) + i) % markets.length;
            (state[4 + 4 * i], state[5 + 4 * i]) = (int256(number), sizeOf(s, i));
            state[6 + 4 * i] = signed(word(s, 60 + i), type(uint128).max >> 1);
            state[7 + 4 * i] = priceIn(s, markets[number].feedId);
        }
        state[4 + 4 * legs] = int256(holdings);
        for (uint256 i; i < holdings; ++i) {
            uint256 at = 5 + 4 * legs + 3 * i;
            (state[at], state[at + 1]) = (int256(i), int256(wide(word(s, 70 + i), type(uint128).max)));
            state[at + 2] = priceIn(s, collaterals[i].feedId);
        }
    }

    function priceIn(uint256 s, bytes32 feedId) private pure returns (int256) {
        uint256 feed = uint256(feedId);
        return int256(priceNear(word(s, 80 + feed), refOf(feed > 3 ? 3 : feed - 1)));
    }
}
