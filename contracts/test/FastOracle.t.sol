// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {FastOracle} from "../src/FastOracle.sol";
import {Bundle, Report} from "../src/HybridTypes.sol";
import {Oracles} from "./Oracles.sol";

contract FastOracleTest is Oracles {
    bytes32 internal constant FEED = "a feed nobody posted to";

    function accept(Bundle memory b) private {
        fastOracle.post(b);
    }

    function refuse(Bundle memory b, bytes4 why) private {
        vm.expectPartialRevert(why);
        fastOracle.post(b);
        (uint256 price,,) = fastOracle.read(FEED);
        assertEq(price, 0);
    }

    /// @dev Three reports that differ from a good one in a single field.
    function reports(uint256 price, uint256 confBps, uint256 observedAt, uint256 validUntil)
        private
        view
        returns (Bundle memory b)
    {
        b = Bundle(FEED, new Report[](3));
        for (uint256 i; i < 3; ++i) {
            b.reports[i] = report(signerKeys[i], FEED, price, confBps, observedAt, validUntil);
        }
    }

    function good(uint256 price) private view returns (Bundle memory) {
        return reports(price, 10, nowS(), nowS() + 60);
    }

    function priced(uint256 a, uint256 b, uint256 c) private view returns (Bundle memory all) {
        all = good(a);
        all.reports[1] = report(signerKeys[1], FEED, b, 10, nowS(), nowS() + 60);
        all.reports[2] = report(signerKeys[2], FEED, c, 10, nowS(), nowS() + 60);
    }

    function test_a_good_bundle_is_stored_with_its_oldest_observation() public {
        Bundle memory b = good(100e18);
        b.reports[1] = report(signerKeys[1], FEED, 100e18, 10, nowS() - 7, nowS() + 60);
        vm.expectEmit(address(fastOracle));
        emit FastOracle.FastPrice(FEED, 100e18, nowS() - 7);
        accept(b);
        (uint256 price, uint256 observedAt, bool fresh) = fastOracle.read(FEED);
        assertEq(price, 100e18);
        assertEq(observedAt, nowS() - 7);
        assertTrue(fresh);
    }

    function test_a_price_is_fresh_for_fifteen_seconds() public {
        accept(good(100e18));
        vm.warp(nowS() + 15);
        (,, bool fresh) = fastOracle.read(FEED);
        assertTrue(fresh);
        vm.warp(nowS() + 1);
        (,, fresh) = fastOracle.read(FEED);
        assertFalse(fresh);
    }

    function test_a_replayed_bundle_is_not_newer() public {
        Bundle memory b = good(100e18);
        accept(b);
        vm.expectRevert(abi.encodeWithSelector(FastOracle.NotNewer.selector, nowS(), nowS()));
        fastOracle.post(b);
    }

    function test_an_older_bundle_cannot_replace_a_newer_one() public {
        Bundle memory old = good(100e18);
        vm.warp(nowS() + 5);
        accept(good(101e18));
        vm.expectPartialRevert(FastOracle.NotNewer.selector);
        fastOracle.post(old);
    }

    function test_posting_what_is_already_stored_before_an_act_is_passed_over() public {
        Bundle memory b = good(100e18);
        accept(b);
        Bundle[] memory all = new Bundle[](1);
        all[0] = b;
        fastOracle.postNewer(all);
        (uint256 price,,) = fastOracle.read(FEED);
        assertEq(price, 100e18);
    }

    function test_post_newer_still_refuses_a_bad_bundle() public {
        Bundle[] memory all = new Bundle[](1);
        all[0] = good(0);
        vm.expectPartialRevert(FastOracle.BadPrice.selector);
        fastOracle.postNewer(all);
    }

    function test_a_report_past_its_validity_is_refused() public {
        refuse(reports(100e18, 10, nowS() - 2, nowS() - 1), FastOracle.PastValidity.selector);
    }

    function test_a_report_is_valid_until_its_last_second() public {
        accept(reports(100e18, 10, nowS() - 2, nowS()));
    }

    function test_reports_in_any_order_give_the_same_median() public {
        accept(priced(101e18, 99e18, 100e18));
        (uint256 price,,) = fastOracle.read(FEED);
        assertEq(price, 100e18);
        vm.warp(nowS() + 1);
        accept(priced(100e18, 101e18, 99e18));
        (price,,) = fastOracle.read(FEED);
        assertEq(price, 100e18);
    }

    function test_a_signer_counts_once() public {
        Bundle memory b = good(100e18);
        b.reports[2] = report(signerKeys[0], FEED, 100e18, 20, nowS(), nowS() + 60);
        refuse(b, FastOracle.DuplicateSigner.selector);
    }

    function test_a_stranger_does_not_count() public {
        Bundle memory b = good(100e18);
        b.reports[2] = report(99, FEED, 100e18, 10, nowS(), nowS() + 60);
        refuse(b, FastOracle.BadSigner.selector);
    }

    function test_a_removed_signer_does_not_count() public {
        address[] memory next = new address[](3);
        for (uint256 i; i < 3; ++i) {
            next[i] = vm.addr(signerKeys[i + 1]);
        }
        vm.prank(admin);
        fastOracle.setSigners(next, 3);
        refuse(good(100e18), FastOracle.BadSigner.selector);
    }

    function test_a_high_s_signature_is_refused() public {
        Bundle memory b = good(100e18);
        Report memory r = b.reports[0];
        bytes32 digest = fastOracle.reportDigest(FEED, r.price, r.confBps, r.observedAt, r.validUntil);
        (uint8 v, bytes32 rr, bytes32 s) = vm.sign(signerKeys[0], digest);
        uint256 order_ = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        b.reports[0].signature = abi.encodePacked(rr, order_ - uint256(s), v == 27 ? uint8(28) : uint8(27));
        refuse(b, ECDSA.ECDSAInvalidSignatureS.selector);
    }

    function test_a_signature_that_recovers_to_nobody_is_refused() public {
        Bundle memory b = good(100e18);
        b.reports[0].signature = abi.encodePacked(bytes32(0), bytes32(0), uint8(27));
        refuse(b, ECDSA.ECDSAInvalidSignature.selector);
    }

    function test_a_signature_for_another_contract_is_refused() public {
        FastOracle other = new FastOracle(admin);
        Bundle memory b = good(100e18);
        Report memory r = b.reports[0];
        r.signature =
            signature(signerKeys[0], other.reportDigest(FEED, r.price, r.confBps, r.observedAt, r.validUntil));
        refuse(b, FastOracle.BadSigner.selector);
    }

    function test_a_signature_for_another_chain_is_refused() public {
        Bundle memory b = good(100e18);
        vm.chainId(5);
        refuse(b, FastOracle.BadSigner.selector);
    }

    function test_a_signature_for_another_feed_is_refused() public {
        Bundle memory b = good(100e18);
        b.feedId = "another feed";
        vm.expectPartialRevert(FastOracle.BadSigner.selector);
        fastOracle.post(b);
    }

    function test_each_signed_field_binds() public {
        for (uint256 i; i < 4; ++i) {
            Bundle memory b = good(100e18);
            if (i == 0) b.reports[0].price += 1;
            if (i == 1) b.reports[0].confBps += 1;
            if (i == 2) b.reports[0].observedAt -= 1;
            if (i == 3) b.reports[0].validUntil += 1;
            refuse(b, FastOracle.BadSigner.selector);
        }
    }

    function test_a_zero_price_is_refused() public {
        refuse(good(0), FastOracle.BadPrice.selector);
    }

    function test_an_observation_in_the_future_is_refused() public {
        Bundle memory b = good(100e18);
        b.reports[1] = report(signerKeys[1], FEED, 100e18, 10, nowS() + 1, nowS() + 60);
        refuse(b, FastOracle.FromFuture.selector);
    }

    function test_an_observation_older_than_fifteen_seconds_is_refused() public {
        refuse(reports(100e18, 10, nowS() - 16, nowS() + 60), FastOracle.TooOld.selector);
        accept(reports(100e18, 10, nowS() - 15, nowS() + 60));
    }

    function test_observations_more_than_ten_seconds_apart_are_refused() public {
        Bundle memory b = good(100e18);
        b.reports[1] = report(signerKeys[1], FEED, 100e18, 10, nowS() - 11, nowS() + 60);
        refuse(b, FastOracle.TooSpread.selector);
        b.reports[1] = report(signerKeys[1], FEED, 100e18, 10, nowS() - 10, nowS() + 60);
        accept(b);
    }

    function test_an_unconfident_report_is_refused() public {
        refuse(reports(100e18, 101, nowS(), nowS() + 60), FastOracle.Unconfident.selector);
        accept(reports(100e18, 100, nowS(), nowS() + 60));
    }

    function test_a_dispersed_bundle_is_refused() public {
        refuse(priced(100e18, 100e18, 103.01e18), FastOracle.TooDispersed.selector);
        accept(priced(100e18, 100e18, 103e18));
    }

    function test_one_liar_cannot_move_the_median_out_of_the_honest_range(uint256 lie, bool low) public {
        (uint256 honestLow, uint256 honestHigh) = (99.5e18, 100e18);
        lie = low ? bound(lie, 97.5e18, honestLow) : bound(lie, honestHigh, 102e18);
        accept(priced(lie, honestHigh, honestLow));
        (uint256 price,,) = fastOracle.read(FEED);
        assertGe(price, honestLow);
        assertLe(price, honestHigh);
    }

    function test_fewer_than_the_quorum_change_nothing() public {
        Bundle memory b = Bundle(FEED, new Report[](2));
        b.reports[0] = report(signerKeys[0], FEED, 100e18, 10, nowS(), nowS() + 60);
        b.reports[1] = report(signerKeys[1], FEED, 100e18, 10, nowS(), nowS() + 60);
        refuse(b, FastOracle.WrongCount.selector);
        refuse(Bundle(FEED, new Report[](0)), FastOracle.WrongCount.selector);
    }

    function test_more_than_the_quorum_is_refused_for_a_bundle_is_exactly_a_quorum() public {
        Bundle memory b = Bundle(FEED, new Report[](4));
        for (uint256 i; i < 4; ++i) {
            b.reports[i] = report(signerKeys[i], FEED, 100e18, 10, nowS(), nowS() + 60);
        }
        refuse(b, FastOracle.WrongCount.selector);
    }

    function test_nothing_is_accepted_before_there_are_signers() public {
        FastOracle empty = new FastOracle(admin);
        vm.expectPartialRevert(FastOracle.WrongCount.selector);
        empty.post(Bundle(FEED, new Report[](0)));
    }

    function refuseQuorum(uint256 count, uint256 quorum) private {
        address[] memory next = new address[](count);
        for (uint256 i; i < count; ++i) {
            next[i] = address(uint160(i + 1));
        }
        vm.expectRevert(abi.encodeWithSelector(FastOracle.BadQuorum.selector, quorum, count));
        vm.prank(admin);
        fastOracle.setSigners(next, quorum);
    }

    function test_a_quorum_is_odd_more_than_half_and_no_more_than_all() public {
        refuseQuorum(5, 4);
        refuseQuorum(6, 3);
        refuseQuorum(5, 7);
        refuseQuorum(0, 0);
        refuseQuorum(256, 255);
    }

    function test_signers_are_distinct_and_not_zero() public {
        address[] memory next = new address[](1);
        vm.startPrank(admin);
        vm.expectRevert(abi.encodeWithSelector(FastOracle.BadSigner.selector, address(0)));
        fastOracle.setSigners(next, 1);
        next = new address[](3);
        (next[0], next[1], next[2]) = (address(1), address(2), address(1));
        vm.expectRevert(abi.encodeWithSelector(FastOracle.DuplicateSigner.selector, address(1)));
        fastOracle.setSigners(next, 3);
    }

    function test_only_the_admin_sets_signers() public {
        vm.expectRevert();
        fastOracle.setSigners(new address[](0), 1);
    }
}
