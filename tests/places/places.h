#pragma once
// Where the tests find files. Functions instead of macros on every command line: a test's object is
// then the same in every clone, and the compiler cache has it.
#include <filesystem>

namespace sdp {

// The repository's root.
std::filesystem::path SourceFolder();

// The programs of the build that a test belongs to.
std::filesystem::path BinFolder();

// Programs and lists that only tests use.
std::filesystem::path TestBinFolder();

// Real data that is not in the repository: $SDP_TEST_DATA, else ../shared/data beside the clone.
// May not exist: then a test skips.
std::filesystem::path TestDataFolder();

// The tool that makes hosts and bad links on one machine: $SDP_NETLAB, else ../shared/netlab beside
// the clone. May not exist: then a test skips.
std::filesystem::path NetworkLabTool();

}  // namespace sdp
