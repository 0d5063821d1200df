#include "tests/structure/include_rules.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace sdp {
namespace {

// One row per folder, or per file that needs a rule of its own: the row with the longest matching
// name counts.
struct Rule {
  absl::string_view name;    // Folder or start of a file's path.
  absl::string_view ours;    // What it may include of the repository, beside its own folder.
  absl::string_view others;  // Which kinds of third parties (Kind below) it may include.
};

// Data and decisions: no proto, gRPC, torch, files or threads, so a simulation can run all of it.
#define SDP_PURE                                                                     \
  "common/base common/model common/plan common/protocol common/data/sample_order.h " \
  "common/checkpoint/manifest.h"

constexpr Rule kRules[] = {
    {"common/base/", "", ""},
    {"common/model/", "common/base", ""},
    {"common/plan/", "common/base common/model", ""},
    {"common/protocol/", "common/base common/model common/plan", ""},
    {"common/wire/", "common/base common/model common/protocol", ""},
    {"common/data/", "common/base common/model", "files"},
    {"common/data/sample_order", "common/base", ""},
    {"common/checkpoint/", "common/base common/model common/data common/protocol", "files"},
    {"common/export/", "common proto", "proto files"},
    {"common/config/", "common proto", "proto files"},
    {"common/tls/", "common/base", "openssl"},
    {"common/rpc/", "common proto", "proto grpc threads files"},
    {"common/control/", "common proto", "proto grpc threads files"},
    {"common/http/", "common/base common/rpc common/tls", "http threads"},
    {"common/metrics/", "common proto", "proto files prometheus"},
    {"common/run/", "common proto", "proto files"},
    {"common/process/", "common proto", "proto threads files"},

    // Logic <- service <- main, for each role.
    {"server/shard/logic/", SDP_PURE, ""},
    {"server/shard/", "common proto", "proto grpc threads files prometheus"},
    {"server/coordinator/logic/", SDP_PURE, ""},
    {"server/coordinator/", "common proto", "proto grpc threads files prometheus"},
    {"server/coordinator/page/", "common proto server/coordinator/service", "proto"},
    {"worker/logic/", SDP_PURE, ""},
    {"worker/data/", "common", "files jpeg"},
    {"worker/model/", "common worker/logic worker/data", "torch threads"},
    {"worker/inference/", "common worker/data worker/logic worker/model", "files"},
    {"worker/", "common proto", "proto grpc threads files prometheus"},

    // Shares nothing with the logic that it audits.
    {"deploy/audit/logic/", "common/base", ""},
    {"deploy/audit/", "common", "files"},
    {"deploy/", "common proto", "proto grpc threads files"},
};

// Paths of third parties, by kind. What is in no kind (the standard library, abseil, ...) is free
// for all.
struct Kind {
  absl::string_view name;
  absl::string_view starts;
};
constexpr Kind kKinds[] = {
    {"proto", "proto/ google/protobuf/"},
    {"grpc", "grpc/ grpc++/ grpcpp/"},
    {"torch", "torch/ ATen/ c10/ caffe2/"},
    {"jpeg", "jpeglib.h jerror.h"},
    {"prometheus", "prometheus/"},
    {"openssl", "openssl/"},
    {"http", "microhttpd.h"},
    {"files", "fstream filesystem fcntl.h unistd.h sys/stat.h sys/mman.h sqlite3.h"},
    {"threads",
     "thread mutex shared_mutex condition_variable future pthread.h sys/socket.h netinet/ netdb.h"},
};

bool IsProduct(absl::string_view path) {
  for (absl::string_view top : {"proto/", "common/", "server/", "worker/", "deploy/"}) {
    if (absl::StartsWith(path, top)) return true;
  }
  return false;
}

const Rule* FindRule(absl::string_view file) {
  const Rule* best = nullptr;
  for (const Rule& rule : kRules) {
    if (absl::StartsWith(file, rule.name) &&
        (best == nullptr || rule.name.size() > best->name.size()))
      best = &rule;
  }
  return best;
}

std::vector<absl::string_view> Words(absl::string_view text) {
  return absl::StrSplit(text, ' ', absl::SkipEmpty());
}

// "common/base" matches "common/base/ids.h"; "thread" matches "thread" alone.
bool IsOrIsUnder(absl::string_view path, absl::string_view word) {
  if (!absl::ConsumePrefix(&path, word)) return false;
  return path.empty() || absl::EndsWith(word, "/") || absl::StartsWith(path, "/");
}

}  // namespace

std::optional<std::string> IncludedPath(absl::string_view line) {
  line = absl::StripLeadingAsciiWhitespace(line);
  if (!absl::ConsumePrefix(&line, "#")) return std::nullopt;
  line = absl::StripLeadingAsciiWhitespace(line);
  if (!absl::ConsumePrefix(&line, "include")) return std::nullopt;
  line = absl::StripLeadingAsciiWhitespace(line);
  if (line.empty() || (line[0] != '"' && line[0] != '<')) return std::nullopt;
  const char end = line[0] == '<' ? '>' : '"';
  line.remove_prefix(1);
  return std::string(line.substr(0, line.find(end)));
}

std::optional<std::string> WhyForbidden(absl::string_view file, absl::string_view included) {
  if (!IsProduct(file)) return std::nullopt;
  const Rule* rule = FindRule(file);
  if (rule == nullptr)
    return absl::StrCat(
        file, " is in a folder without a rule: add one to tests/structure/include_rules.cc");
  const std::string who = absl::StrCat("files of ", rule->name);

  for (const Kind& kind : kKinds) {
    for (absl::string_view start : Words(kind.starts)) {
      if (!IsOrIsUnder(included, start)) continue;
      for (absl::string_view allowed : Words(rule->others)) {
        if (allowed == kind.name) return std::nullopt;
      }
      return absl::StrCat(who, " may not include ", included, " (", kind.name, ")");
    }
  }
  if (absl::StartsWith(included, "tests/"))
    return absl::StrCat(included, " belongs to the tests, ", file, " to the product");
  if (!IsProduct(included) || absl::StartsWith(included, rule->name)) return std::nullopt;
  // A row for a single file: the rest of its folder has a row of its own and is not included for
  // free.
  if (!absl::EndsWith(rule->name, "/") && included == absl::StrCat(rule->name, ".h"))
    return std::nullopt;
  for (absl::string_view allowed : Words(rule->ours)) {
    if (IsOrIsUnder(included, allowed)) return std::nullopt;
  }
  return absl::StrCat(who, " may not include ", included,
                      "; only: ", rule->ours.empty() ? "their own folder" : rule->ours);
}

std::vector<std::string> FoldersWithRules() {
  std::vector<std::string> folders;
  for (const Rule& rule : kRules) {
    if (absl::EndsWith(rule.name, "/")) folders.emplace_back(rule.name);
  }
  return folders;
}

}  // namespace sdp
