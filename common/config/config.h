// Reads a run's configuration: TOML and `--set` overrides -> one RunConfig with every value
// resolved and checked, so that the code behind it needs no defaults and no checks of its own.
// Order: defaults < preset < file < --set. Keys, defaults and what is allowed: the rule table in
// rules.cc. Threads: pure functions, but for LoadConfig and WriteResolved, which use the file
// system. Errors: InvalidArgument for everything a user can write wrong, never a crash. A message
// has one line per mistake: where (file:line or --set), key, value, what is allowed or the nearest
// valid key.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/config.pb.h"

namespace sdp {

// In the config hash, so that processes that would misread each other's frames or messages never
// meet. Raise it with every change of proto/*.proto or of the frame header that an older process
// would misunderstand.
inline constexpr int kWireFormatVersion = 3;

struct LoadedConfig {
  RunConfig config;
  // Key ("train.lr") -> "default", "preset llama-tiny", "run.toml:12" or "--set". Absent: the key
  // has no value (sdp.coverage beside sdp.holders or sdp.depth).
  std::map<std::string, std::string> origins;
};

// Reads `path`, then applies `sets`, each "section.key=value"; a later one wins.
// NotFound - no such file. InvalidArgument - see above; or it is a folder, or larger than 1 MiB.
absl::StatusOr<LoadedConfig> LoadConfig(const std::string& path,
                                        absl::Span<const std::string> sets);

// The same for text that is no file; `name` stands for it in origins and errors.
absl::StatusOr<LoadedConfig> LoadConfigText(absl::string_view text, absl::string_view name,
                                            absl::Span<const std::string> sets);

// The keys that the file and `sets` give, as "train.lr", whatever their values. Errors: as
// LoadConfig, of what cannot be read as settings.
absl::StatusOr<std::set<std::string>> GivenKeys(const std::string& path,
                                                absl::Span<const std::string> sets);

// Every value and, as a comment, where it came from (`--print-config`). It is TOML that loads as
// the same RunConfig.
std::string PrintConfig(const LoadedConfig& loaded);

// Writes PrintConfig's text to `path` (the run folder's copy, which its processes read).
// Unavailable, ... - the file system's.
absl::Status WriteResolved(const LoadedConfig& loaded, const std::string& path);

// Every key with its default, what it allows and what it means, as text for people.
std::string DescribeKeys();

// 16 hexadecimal digits over what must agree between the processes of a run and between a run and
// its resumption (protocol.md section 7): model, sdp, data.kind, seq_len, shuffle, train without
// steps and eval_*, kWireFormatVersion. A preset and the same sizes written out have one hash.
std::string ConfigHash(const RunConfig& config);

// "6GiB", "1.5 MiB", "200MB", "512B": the number of bytes, rounded down. The unit is required, so
// that memory = "6" is not taken for six bytes. InvalidArgument - anything else, or 2^63 bytes and
// more.
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);

}  // namespace sdp
