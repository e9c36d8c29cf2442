// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Bundle, RiskArray} from "../../src/HybridTypes.sol";
import {RiskSteward} from "../../src/RiskSteward.sol";
import {Measured} from "./Measured.sol";

/// @notice What reporters pay for a fast price, for options' risk arrays and for a change of margins.
contract OracleGasTest is Measured {
    function measureQuorum(uint256 k) private {
        setQuorum(k);
        string memory signers = string.concat(vm.toString(k), " signers");
        fastOracle.post(bundleOf("NEW", k));
        vm.snapshotGasLastCall("reports", string.concat("first price, ", signers));
        pass(12);
        Bundle memory b = bundleOf("NEW", k);
        fastOracle.post(b);
        vm.snapshotGasLastCall("reports", string.concat("next price, ", signers));
    }

    function test_a_price_of_three_signers() public {
        measureQuorum(3);
    }

    function test_a_price_of_five_signers() public {
        measureQuorum(5);
    }

    function test_a_price_of_seven_signers() public {
        measureQuorum(7);
    }

    function measureArrays(uint16[] memory markets, string memory what) private {
        submit(markets);
        vm.snapshotGasLastCall("arrays", string.concat("first post, ", what));
        tickAll(12);
        submit(markets);
        vm.snapshotGasLastCall("arrays", string.concat("next post, ", what));
    }

    function submit(uint16[] memory markets) private {
        RiskArray[] memory arrays = new RiskArray[](markets.length);
        for (uint256 i; i < markets.length; ++i) {
            arrays[i] = riskArray(markets[i], fastPrice[ETH]);
        }
        submitArrays(arrays);
    }

    function test_one_risk_array() public {
        uint16[] memory markets = new uint16[](1);
        markets[0] = ETH_CALL;
        measureArrays(markets, "1 array");
    }

    function test_eight_risk_arrays() public {
        uint16[] memory markets = new uint16[](8);
        markets[0] = ETH_CALL;
        for (uint256 i = 1; i < 8; ++i) {
            markets[i] = book8[i];
        }
        measureArrays(markets, "8 arrays");
    }

    function test_a_change_of_margins() public {
        RiskSteward steward = new RiskSteward(fastOracle, instruments, admin);
        vm.startPrank(admin);
        instruments.setSteward(address(steward));
        steward.setBounds(ETH, RiskSteward.Bounds(0.02e18, 0.2e18, 0.04e18, 0.4e18, 0.25e18, 0.1e18, 1 days));
        vm.stopPrank();
        submitMargins(steward, 0.055e18, 0.11e18);
        vm.snapshotGasLastCall("margins", "first change, 3 signers");
        pass(1 days);
        submitMargins(steward, 0.06e18, 0.12e18);
        vm.snapshotGasLastCall("margins", "next change, 3 signers");
    }

    function submitMargins(RiskSteward steward, uint64 mmr, uint64 imr) private {
        uint40 at = uint40(nowS());
        RiskSteward.MarginChange memory c = RiskSteward.MarginChange(ETH, mmr, imr, 1 days, at, at + 60);
        bytes[] memory signatures = new bytes[](3);
        for (uint256 i; i < 3; ++i) {
            signatures[i] = signature(signerKeys[i], steward.digest(c));
        }
        steward.change(c, signatures);
    }
}
