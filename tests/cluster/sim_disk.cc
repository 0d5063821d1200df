// SimCluster: what processes leave behind, and how it is written.
#include <algorithm>
#include <utility>
#include <variant>

#include "tests/cluster/sim_cluster.h"
#include "tests/cluster/sim_compute.h"

namespace sdp {

Generation SimDisk::NextGeneration() const {
  int64_t last = 0;
  for (const Record& record : records) {
    if (const auto* generation = std::get_if<GenerationRecord>(&record))
      last = std::max(last, generation->generation.value());
  }
  return Generation(last + 1);
}

GenerationStart SimDisk::Newest(Generation generation) const {
  GenerationStart start;
  start.generation = generation;
  start.last_incarnation = Incarnation(100 * generation.value());
  start.last_view = ViewId(10 * generation.value());
  for (const Record& record : records) {
    if (const auto* member = std::get_if<MemberRecord>(&record)) {
      start.last_incarnation = std::max(start.last_incarnation, member->incarnation);
    } else if (const auto* view = std::get_if<ViewRecord>(&record)) {
      start.last_view = std::max(start.last_view, view->view);
    }
  }
  if (manifests.empty()) return start;
  const CheckpointManifest& manifest = manifests.rbegin()->second;
  start.state.step = manifest.step;
  start.state.checkpoint = "simulated";
  start.cursor = manifest.cursor;
  start.data = manifest.data;
  return start;
}

// The disk takes its time, and reads each of the snapshot's values at the end of it.
void SimCluster::Write(ShardLife& life, std::shared_ptr<Snapshot> snapshot) {
  absl::Duration at;
  for (size_t i = 0; i < snapshot->parts.size(); ++i) {
    at += 4 * Delay() / static_cast<double>(snapshot->parts.size());
    At(at, [=, this, &life] {
      if (!life.alive) return;
      Snapshot::Part& part = snapshot->parts[i];
      // A file of an earlier generation has another name, and no manifest will have it.
      if (life.generation == generation_ && !disk_.full.contains(snapshot->step)) {
        SimDisk::Part& saved = disk_.fragments[snapshot->step][part.fragment];
        saved.value = part.value->Clone();
        saved.state = part.state->Clone();
      }
      const FragmentId fragment = part.fragment;
      part.value = nullptr;
      part.state = nullptr;
      Do(life, life.shard->Written(snapshot->step, fragment));
    });
  }
  At(at, [=, this, &life] {
    if (!life.alive) return;
    CheckpointPart part;
    part.shard = ShardId(static_cast<int32_t>(life.name));
    part.step = snapshot->step;
    if (disk_.full.contains(snapshot->step)) part.error = "no space";
    for (const Snapshot::Part& one : snapshot->parts) {
      const int64_t size = options_.run.layout->fragment(one.fragment).size;
      part.file.fragments.push_back({one.fragment, size, 0, 0, {}});
    }
    life.parts.push_back(part);
    if (life.parts.size() > 2) life.parts.pop_front();
    Tell(life, [=, this] { Do(coordinator_->OnCheckpointPart(part, now_)); });
    Do(life, life.shard->Written(part.step));
  });
}

}  // namespace sdp
