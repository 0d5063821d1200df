#include "tests/places/places.h"

#include <cstdlib>

namespace sdp {

std::filesystem::path SourceFolder() { return SDP_SOURCE_DIR; }

std::filesystem::path BinFolder() { return SDP_BINARY_DIR "/bin"; }

std::filesystem::path TestBinFolder() { return SDP_BINARY_DIR "/tests"; }

std::filesystem::path TestDataFolder() {
  const char* given = std::getenv("SDP_TEST_DATA");
  return given != nullptr ? std::filesystem::path(given)
                          : SourceFolder().parent_path() / "shared" / "data";
}

std::filesystem::path NetworkLabTool() {
  const char* given = std::getenv("SDP_NETLAB");
  return given != nullptr ? std::filesystem::path(given)
                          : SourceFolder().parent_path() / "shared" / "netlab" / "netlab";
}

}  // namespace sdp
