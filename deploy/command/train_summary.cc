#include "deploy/command/train_summary.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "common/base/status.h"
#include "common/data/text_stats.h"
#include "deploy/command/run_files.h"

namespace sdp {
namespace {

// The bytes of the samples that are evaluated: the first eval_samples, or all; what is behind the
// last whole one never is.
absl::StatusOr<std::string> EvaluatedText(const RunConfig& config) {
  std::string text;
  for (const std::string& path : config.data().validation()) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
    const size_t before = text.size();
    const size_t size = static_cast<size_t>(file.tellg());
    text.resize(before + size);
    file.seekg(0);
    if (!file.read(text.data() + before, static_cast<std::streamsize>(size))) {
      return absl::UnavailableError(absl::StrCat("cannot read ", path));
    }
  }
  const int64_t seq_len = config.data().seq_len();
  int64_t samples = (static_cast<int64_t>(text.size()) - 1) / seq_len;
  if (config.train().eval_samples() > 0) samples = std::min(samples, config.train().eval_samples());
  text.resize(static_cast<size_t>(samples * seq_len + 1));
  return text;
}

// As a word for a shell.
std::string Word(const std::string& text) {
  const bool plain = !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) || absl::StrContains("_-./=:,+@%", std::string(1, static_cast<char>(c)));
  });
  return plain ? text : absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

// What to try next: another share of the model for each worker, full unless it is; where that is no
// one number, or with one worker, twice as many workers.
std::string Change(const RunConfig& config, std::string* name) {
  const int64_t workers = config.cluster().workers();
  if (workers == 1 || config.sdp().depth_size() > 0 || config.sdp().coverage_by_size() > 0) {
    *name = absl::StrCat(2 * workers, "-workers");
    return absl::StrCat("cluster.workers=", 2 * workers);
  }
  if (config.sdp().has_holders()) {
    const int64_t holders =
        config.sdp().holders() < workers ? workers : std::max<int64_t>(1, workers / 2);
    *name = absl::StrCat("holders-", holders);
    return absl::StrCat("sdp.holders=", holders);
  }
  const bool full = config.sdp().coverage() >= 1;
  *name = full ? "half" : "full";
  return full ? "sdp.coverage=0.5" : "sdp.coverage=1";
}

// What to do with the model, as a line; "" if there are no data for it.
std::string UseLine(const RunConfig& config, const std::string& sdp, const std::string& run) {
  std::string use;
  if (config.data().kind() == "text") {
    use = absl::StrCat(" generate ", Word(run), " --prompt 'The '");
  } else if (!config.data().validation().empty()) {
    use = absl::StrCat(" eval ", Word(run), " --data ", Word(config.data().validation(0)));
  } else if (config.data().kind() == "tokens") {
    use = absl::StrCat(" generate ", Word(run), " --prompt-ids 0");
  } else {
    return "";
  }
  return absl::StrCat("  ", sdp, use, "\n");
}

}  // namespace

absl::StatusOr<std::string> ValidationLine(const RunConfig& config) {
  if (config.data().kind() != "text" || config.data().validation().empty()) return "";
  SDP_ASSIGN_OR_RETURN(const RunMetrics metrics, ReadRunMetrics(config.run().dir()));
  if (!metrics.full_loss) {
    return absl::NotFoundError(
        absl::StrCat("no full_loss in ", config.run().dir(), "/metrics.jsonl"));
  }
  SDP_ASSIGN_OR_RETURN(const std::string text, EvaluatedText(config));
  return absl::StrFormat("validation: unigram %.4f  bigram %.4f  model %.4f nats/byte",
                         UnigramEntropy(text), BigramEntropy(text), *metrics.full_loss);
}

std::string ResumeCommand(const RunConfig& config, const std::string& command_name) {
  const std::string run = (std::filesystem::path(config.run().dir()) / "").parent_path().string();
  return absl::StrCat(Word(command_name), " train ", Word(run + "/config.toml"), " --resume");
}

std::string NextCommands(const RunConfig& config, const std::string& command_name) {
  const std::string sdp = Word(command_name);
  const std::string run = (std::filesystem::path(config.run().dir()) / "").parent_path().string();
  const std::string resolved = Word(run + "/config.toml");
  std::string name;
  const std::string change = Change(config, &name);
  return absl::StrCat(UseLine(config, sdp, run), "  ", sdp, " export ", Word(run), " --out ",
                      Word(run + "-model"), "\n  ", sdp, " plan ", resolved, " --workers ",
                      2 * config.cluster().workers(), "\n  ", sdp, " train ", resolved, " --set ",
                      change, " --set ", Word(absl::StrCat("run.dir=", run, "-", name)), "\n");
}

}  // namespace sdp
