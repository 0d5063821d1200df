#include "server/coordinator/service/resume.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>
#include <variant>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/hash.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint_reader.h"
#include "common/checkpoint/checkpoint_writer.h"
#include "common/config/changes.h"
#include "common/data/init_file.h"
#include "common/data/tensor_files.h"
#include "common/export/pretrained.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;

// What earlier generations have left in the store.
struct History {
  std::optional<GenerationRecord> last;
  bool reshuffle = false;  // it ended with a spike of the loss
  Incarnation last_incarnation;
  ViewId last_view;
};

History Summarize(const std::vector<Record>& records) {
  History history;
  for (const Record& record : records) {
    if (const auto* generation = std::get_if<GenerationRecord>(&record)) {
      history.last = *generation;
      history.reshuffle = false;
    } else if (const auto* end = std::get_if<GenerationEndRecord>(&record)) {
      history.reshuffle = end->reshuffle;
    } else if (const auto* member = std::get_if<MemberRecord>(&record)) {
      history.last_incarnation = std::max(history.last_incarnation, member->incarnation);
    } else if (const auto* view = std::get_if<ViewRecord>(&record)) {
      history.last_view = std::max(history.last_view, view->view);
    }
  }
  return history;
}

absl::Status CheckChanges(const std::vector<ConfigChange>& changes, bool force,
                          std::vector<std::string>* notes) {
  std::vector<std::string> other;
  for (const ConfigChange& change : changes) {
    notes->push_back(absl::StrCat("changed since the run's last start: ", ChangeText(change)));
    if (change.hashed) other.push_back(ChangeText(change));
  }
  if (other.empty() || force) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("this would train something else than the run began with (",
                   absl::StrJoin(other, ", "), "); with --force it is done all the same"));
}

// Opened and checked to the last byte.
absl::StatusOr<CheckpointManifest> ReadWhole(const RunSetup& setup, const std::string& folder,
                                             Step step) {
  SDP_ASSIGN_OR_RETURN(const std::unique_ptr<CheckpointReader> reader,
                       CheckpointReader::Open(absl::StrCat(folder, "/", CheckpointName(step))));
  const CheckpointManifest& manifest = reader->manifest();
  if (manifest.step != step) {
    return absl::DataLossError(
        absl::StrCat(reader->path(), ": its manifest is that of step ", manifest.step));
  }
  if (const absl::Status fits = CheckComplete(manifest, setup.layout); !fits.ok()) {
    // A whole checkpoint of another model is the user's mistake, not damage.
    return manifest.config_hash == setup.config_hash
               ? Context(fits, reader->path())
               : absl::FailedPreconditionError(
                     absl::StrCat(reader->path(), " is of another model: ", fits.message()));
  }
  SDP_RETURN_IF_ERROR(reader->Verify());
  return manifest;
}

// The newest whole one, or the one that is asked for; none: begin from the initial values.
absl::StatusOr<std::optional<CheckpointManifest>> Choose(const RunSetup& setup,
                                                         const ResumeRequest& request,
                                                         std::vector<std::string>* notes) {
  if (request.step == 0) return std::nullopt;
  if (request.step.has_value()) {
    SDP_ASSIGN_OR_RETURN(CheckpointManifest manifest,
                         ReadWhole(setup, request.checkpoints, *request.step));
    return std::optional<CheckpointManifest>(std::move(manifest));
  }
  SDP_ASSIGN_OR_RETURN(std::vector<Step> steps, ListCheckpoints(request.checkpoints));
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    absl::StatusOr<CheckpointManifest> manifest = ReadWhole(setup, request.checkpoints, *step);
    if (manifest.ok()) return std::optional<CheckpointManifest>(*std::move(manifest));
    if (absl::IsFailedPrecondition(manifest.status())) return manifest.status();
    notes->push_back(absl::StrCat("checkpoint ", *step,
                                  " is damaged and not used: ", manifest.status().message()));
  }
  return std::nullopt;
}

absl::Status CheckUnchanged(const GenerationStart& start) {
  const std::string& path = start.state.init_path;
  if (path.empty()) return absl::OkStatus();
  SDP_ASSIGN_OR_RETURN(const uint64_t checksum, StartChecksum(path));
  if (checksum == start.init_checksum) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the run's initial values, ", path, ", have changed: checksum ",
                   HashText(checksum), ", at its start ", HashText(start.init_checksum)));
}

// The checkpoint, or without one the initial values, which must be what they were.
absl::Status ReadStart(const std::optional<CheckpointManifest>& manifest,
                       const std::string& checkpoints, Beginning* beginning) {
  GenerationStart& start = beginning->start;
  if (!manifest.has_value()) {
    SDP_RETURN_IF_ERROR(CheckUnchanged(start));
    beginning->notes.push_back(absl::StrCat("beginning again from the initial values, generation ",
                                            start.generation.value()));
    return absl::OkStatus();
  }
  start.state.step = manifest->step;
  start.state.checkpoint =
      fs::absolute(absl::StrCat(checkpoints, "/", CheckpointName(manifest->step)))
          .lexically_normal()
          .string();
  start.cursor = manifest->cursor;
  start.data = manifest->data;
  beginning->coverage = manifest->coverage;
  beginning->notes.push_back(absl::StrCat("going on from checkpoint ", manifest->step,
                                          ", generation ", start.generation.value()));
  return absl::OkStatus();
}

// A spike that comes again and again from one checkpoint is not the samples' order's fault.
constexpr int64_t kReshufflesAtOnePlace = 3;

absl::Status BeginFrom(const std::optional<CheckpointManifest>& manifest,
                       const std::string& checkpoints, Beginning* beginning) {
  SDP_RETURN_IF_ERROR(ReadStart(manifest, checkpoints, beginning));
  GenerationStart& start = beginning->start;
  if (!std::exchange(start.reshuffle, false)) return absl::OkStatus();
  const int64_t place = start.cursor.next();
  if (std::count(start.reshuffles.begin(), start.reshuffles.end(), place) ==
      kReshufflesAtOnePlace) {
    return absl::OutOfRangeError(absl::StrCat("from version ", start.state.step,
                                              " on the loss has had a spike ",
                                              kReshufflesAtOnePlace + 1,
                                              " times, each with the samples in another order; a "
                                              "lower train.lr or a train.clip_norm may help"));
  }
  start.reshuffles.push_back(place);
  return absl::OkStatus();
}

bool ChangesCoverage(const ConfigChange& change) {
  return change.hashed &&
         (absl::StartsWith(change.key, "sdp.") || absl::StartsWith(change.key, "model."));
}

// What bound steps follow from though their records do not say it.
absl::Status CheckTakenUp(const RunConfig& before, const RunConfig& now) {
  const auto check = [](const char* key, int64_t was, int64_t is) -> absl::Status {
    if (was == is) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(
        "the run that is to be taken up has ", key, " = ", was, ", and this one asks for ", is,
        "; another number needs a resume from a checkpoint (sdp train --resume)"));
  };
  SDP_RETURN_IF_ERROR(check("cluster.shards", before.cluster().shards(), now.cluster().shards()));
  return check("diagnostics.every", before.diagnostics().every(), now.diagnostics().every());
}

}  // namespace

absl::StatusOr<Beginning> BeginRun(const RunSetup& setup, const StartFrom& from) {
  Beginning beginning;
  beginning.coverage = setup.coverage;
  const std::string& given = from.pretrained.empty() ? from.init_file : from.pretrained;
  if (given.empty()) return beginning;
  std::error_code error;
  const std::string path = fs::absolute(given, error).lexically_normal().string();
  if (from.pretrained.empty()) {
    SDP_ASSIGN_OR_RETURN(const auto files, TensorFiles::Open(path, {path}));
    SDP_RETURN_IF_ERROR(CheckAgainst(*files, setup.catalog));
  } else {
    SDP_RETURN_IF_ERROR(CheckPretrained(path, setup));
    beginning.notes.push_back(absl::StrCat("starting from the dense model in ", path));
  }
  beginning.start.state.init_path = path;
  SDP_ASSIGN_OR_RETURN(beginning.start.init_checksum, StartChecksum(path));
  return beginning;
}

absl::StatusOr<Beginning> ResumeRun(const RunSetup& setup, const ResumeRequest& request) {
  Beginning beginning;
  const std::vector<ConfigChange> changes = ConfigChanges(request.before, setup.config);
  SDP_RETURN_IF_ERROR(CheckChanges(changes, request.force, &beginning.notes));
  const History history = Summarize(request.records);
  if (!history.last.has_value()) {
    return absl::FailedPreconditionError(
        "the run never began, there is nothing to go on with: remove its folder and start it "
        "again");
  }
  SDP_ASSIGN_OR_RETURN(const std::optional<CheckpointManifest> manifest,
                       Choose(setup, request, &beginning.notes));
  GenerationStart& start = beginning.start;
  start.generation = Generation(history.last->generation.value() + 1);
  start.last_incarnation = history.last_incarnation;
  start.last_view = history.last_view;
  start.state.init_path = history.last->init_path;
  start.init_checksum = history.last->init_checksum;
  start.reshuffles = history.last->reshuffles;
  start.reshuffle = history.reshuffle;
  beginning.coverage = history.last->coverage;
  SDP_RETURN_IF_ERROR(BeginFrom(manifest, request.checkpoints, &beginning));
  if (request.force) start.data.reset();
  // c_j is resolved once, unless the user has just forced another one.
  if (std::any_of(changes.begin(), changes.end(), ChangesCoverage) ||
      beginning.coverage.size() != setup.coverage.size()) {
    beginning.coverage = setup.coverage;
  }
  return beginning;
}

absl::StatusOr<std::optional<Beginning>> TakeUpRun(const RunSetup& setup,
                                                   const ResumeRequest& request) {
  Beginning beginning;
  SDP_RETURN_IF_ERROR(
      CheckChanges(ConfigChanges(request.before, setup.config), /*force=*/false, &beginning.notes));
  SDP_RETURN_IF_ERROR(CheckTakenUp(request.before, setup.config));
  const History history = Summarize(request.records);
  if (!history.last.has_value()) return std::nullopt;
  const GenerationRecord& record = *history.last;
  GenerationStart& start = beginning.start;
  start.goes_on = history.last_view > ViewId();
  start.generation = record.generation;
  start.last_incarnation = history.last_incarnation;
  start.last_view = history.last_view;
  start.state.step = record.step;
  start.state.init_path = record.init_path;
  start.init_checksum = record.init_checksum;
  start.reshuffles = record.reshuffles;
  beginning.coverage = record.coverage;
  if (record.step == 0) return beginning;
  start.state.checkpoint =
      fs::absolute(absl::StrCat(request.checkpoints, "/", CheckpointName(record.step)))
          .lexically_normal()
          .string();
  const bool bound =
      std::any_of(request.records.begin(), request.records.end(), [&](const Record& one) {
        const auto* binding = std::get_if<BindingRecord>(&one);
        return binding != nullptr && binding->generation == record.generation;
      });
  if (bound) return beginning;  // it says where the samples go on
  SDP_ASSIGN_OR_RETURN(const CheckpointManifest manifest,
                       ReadWhole(setup, request.checkpoints, record.step));
  start.cursor = manifest.cursor;
  return beginning;
}

absl::StatusOr<Beginning> GoBack(const RunSetup& setup, const std::string& checkpoints,
                                 std::vector<double> coverage, GenerationStart next) {
  Beginning beginning;
  beginning.start = std::move(next);
  beginning.coverage = std::move(coverage);
  ResumeRequest newest;
  newest.checkpoints = checkpoints;
  SDP_ASSIGN_OR_RETURN(const std::optional<CheckpointManifest> manifest,
                       Choose(setup, newest, &beginning.notes));
  SDP_RETURN_IF_ERROR(BeginFrom(manifest, checkpoints, &beginning));
  SDP_ASSIGN_OR_RETURN(std::vector<std::string> notes, ClearTheWay(checkpoints, beginning.start));
  for (std::string& note : notes) beginning.notes.push_back(std::move(note));
  return beginning;
}

absl::StatusOr<std::vector<std::string>> ClearTheWay(const std::string& checkpoints,
                                                     const GenerationStart& start) {
  std::vector<std::string> notes;
  // First, so that what was never completed is not kept for anyone.
  SDP_ASSIGN_OR_RETURN(const int removed, RemoveIncompleteCheckpoints(checkpoints));
  SDP_ASSIGN_OR_RETURN(const std::vector<std::string> aside,
                       SetAsideCheckpoints(checkpoints, start.state.step, start.generation));
  for (const std::string& name : aside) {
    notes.push_back(absl::StrCat("set aside: ", checkpoints, "/", name));
  }
  if (removed > 0) notes.push_back(absl::StrCat("removed ", removed, " incomplete checkpoint(s)"));
  return notes;
}

int64_t CheckpointBytes(const RunSetup& setup) {
  const int64_t moments = OptimizerMomentsFrom(setup.config.train());
  // Headers and the manifest take less than 600 bytes a fragment.
  return setup.layout.elements() * 4 * (1 + moments) + setup.layout.fragments() * int64_t{600};
}

absl::Status CheckRoom(const RunSetup& setup, Step start, const std::string& folder,
                       int64_t free_bytes) {
  const RunConfig::Checkpoint& checkpoint = setup.config.checkpoint();
  const int64_t left = std::max<int64_t>(setup.config.train().steps() - start, 0);
  const int64_t every = checkpoint.every();
  const int64_t written = every > 0 ? (left + every - 1) / every : std::min<int64_t>(left, 1);
  const int64_t kept = std::min(written, checkpoint.keep_last() + 1);
  const int64_t needed = kept * CheckpointBytes(setup);
  if (free_bytes < 0 || needed <= free_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("no room for checkpoints: ", kept, " of ", CheckpointBytes(setup),
                   " bytes will be in ", folder, ", where ", free_bytes,
                   " are free; checkpoint.dir may name another folder, checkpoint.keep_last = ",
                   checkpoint.keep_last(), " may be lower"));
}

int64_t FreeBytes(const std::string& folder) {
  std::error_code error;
  fs::path path = fs::absolute(folder, error).lexically_normal();
  while (!fs::exists(path, error) && path.has_relative_path()) path = path.parent_path();
  const fs::space_info space = fs::space(path, error);
  return error ? -1 : static_cast<int64_t>(space.available);
}

}  // namespace sdp
