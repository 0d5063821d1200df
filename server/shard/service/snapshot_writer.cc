#include "server/shard/service/snapshot_writer.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint_writer.h"

namespace sdp {

SnapshotWriter::SnapshotWriter(Options options, EventLoop* owner)
    : options_(std::move(options)), owner_(owner) {}

SnapshotWriter::~SnapshotWriter() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  disk_.Stop();
}

void SnapshotWriter::Write(Snapshot snapshot, std::function<void(FragmentId)> written,
                           std::function<void(const CheckpointPart&)> done) {
  auto kept = std::make_shared<Snapshot>(std::move(snapshot));
  disk_.Post([this, kept, written = std::move(written), done = std::move(done)] {
    CheckpointPart part{.shard = options_.shard, .step = kept->step, .error = "", .file = {}};
    absl::StatusOr<CheckpointFile> file = WriteFile(*kept, written);
    if (file.ok()) {
      part.file = *std::move(file);
    } else {
      part.error = std::string(file.status().message());
    }
    SetPhase("");
    kept->parts.clear();  // before `done`, also of what was given up
    owner_->Post([done, part = std::move(part)] { done(part); });
  });
}

absl::StatusOr<CheckpointFile> SnapshotWriter::WriteFile(
    Snapshot& snapshot, const std::function<void(FragmentId)>& written) {
  std::vector<CheckpointFileWriter::Fragment> fragments;
  for (const Snapshot::Part& part : snapshot.parts) {
    fragments.push_back({part.fragment, part.value->size()});
  }
  const size_t moments = snapshot.parts.front().state->moments.size();
  SDP_ASSIGN_OR_RETURN(const std::unique_ptr<CheckpointFileWriter> writer,
                       CheckpointFileWriter::Create(
                           absl::StrCat(options_.folder, "/", CheckpointName(snapshot.step)),
                           CheckpointFileName(options_.shard, options_.shards, options_.generation),
                           std::move(fragments), static_cast<int>(moments)));
  size_t number = 0;
  for (Snapshot::Part& part : snapshot.parts) {
    {
      MutexLock lock(&mutex_);
      if (stopping_) return absl::CancelledError("the shard is ending");
      phase_ = absl::StrCat("writing checkpoint ", snapshot.step, ": fragment ", ++number, " of ",
                            snapshot.parts.size());
    }
    std::vector<absl::Span<const float>> state;
    for (const FloatBuffer& moment : part.state->moments) state.push_back(moment.span());
    SDP_RETURN_IF_ERROR(writer->Add(part.value->span(), state, part.state->updates));
    const FragmentId fragment = part.fragment;
    part = Snapshot::Part();  // before it is said: what nobody else holds is updated in place
    owner_->Post([written, fragment] { written(fragment); });
  }
  SetPhase(absl::StrCat("writing checkpoint ", snapshot.step, ": waiting for the disk"));
  return writer->Finish();
}

std::string SnapshotWriter::phase() const {
  MutexLock lock(&mutex_);
  return phase_;
}

void SnapshotWriter::SetPhase(std::string phase) {
  MutexLock lock(&mutex_);
  phase_ = std::move(phase);
}

}  // namespace sdp
