// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Bundle, RiskArray} from "../../src/HybridTypes.sol";
import {Measured} from "./Measured.sol";

/// @notice What reporters pay for a fast price and for options' risk arrays.
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
}
