// SPDX-License-Identifier: MIT
pragma solidity 0.8.28;

import {Test, Vm} from "forge-std/Test.sol";

/// @notice What the chain will take: contracts of at most 24,576 bytes (EIP-170).
contract SizesTest is Test {
    uint256 private constant LIMIT = 24_576;

    /// @dev Every contract that a file of ours declares, from the build.
    function test_every_contract_of_ours_is_small_enough_to_deploy() public view {
        Vm.DirEntry[] memory sources = vm.readDir("src", 8);
        uint256 checked;
        for (uint256 i; i < sources.length; ++i) {
            if (sources[i].isDir || !declares(sources[i].path)) continue;
            string[] memory parts = vm.split(sources[i].path, "/");
            checkFolder(string.concat("out/", parts[parts.length - 1]));
            ++checked;
        }
        assertGt(checked, 0);
    }

    function declares(string memory source) private view returns (bool) {
        return vm.indexOf(vm.readFile(source), "\ncontract ") != type(uint256).max;
    }

    function checkFolder(string memory folder) private view {
        Vm.DirEntry[] memory artifacts = vm.readDir(folder);
        for (uint256 i; i < artifacts.length; ++i) {
            uint256 size = vm.getDeployedCode(artifacts[i].path).length;
            assertLe(size, LIMIT, artifacts[i].path);
        }
    }
}
