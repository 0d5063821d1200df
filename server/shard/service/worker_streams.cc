#include "server/shard/service/worker_streams.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/wire/frame.h"

namespace sdp {
namespace {

constexpr char kNewerStream[] = "a newer stream of this worker takes its place";

absl::Status OtherGeneration(Generation ours) {
  return absl::AbortedError(
      absl::StrCat("the shard is of generation ", ours.value(), ", the stream of another"));
}

}  // namespace

void WorkerStreams::Begin(Generation generation) {
  std::vector<std::shared_ptr<FrameStream>> others;
  {
    MutexLock lock(&mutex_);
    generation_ = generation;
    for (const Waiting& waiting : waiting_) {
      if (waiting.name.generation != generation) others.push_back(waiting.stream);
    }
  }
  for (const auto& stream : others) stream->Close(OtherGeneration(generation));
}

absl::StatusOr<bool> WorkerStreams::CheckMember(const StreamName& name) const {
  const auto member = members_.find(name.worker);
  if (member != members_.end() && member->second == name.instance) return true;
  if (member == members_.end() && name.worker > newest_) return false;
  return absl::FailedPreconditionError(
      absl::StrCat("worker incarnation ", name.worker.value(),
                   member == members_.end() ? " is no member of the run"
                                            : " is a member of the run, but another process"));
}

absl::StatusOr<bool> WorkerStreams::Open(Kind kind, const StreamName& name,
                                         const std::shared_ptr<FrameStream>& stream,
                                         std::function<void()> admitted) {
  std::shared_ptr<FrameStream> older;
  absl::Status why = absl::AbortedError(kNewerStream);
  bool member = false;
  {
    MutexLock lock(&mutex_);
    if (generation_ != Generation() && name.generation != generation_)
      return OtherGeneration(generation_);
    SDP_ASSIGN_OR_RETURN(member, CheckMember(name));
    if (member) {
      older = std::exchange(Of(kind, workers_[name.worker]), stream);
    } else {
      waiting_.push_back({kind, name, stream, std::move(admitted)});
      if (waiting_.size() > max_waiting_) {
        older = std::move(waiting_.front().stream);
        why = absl::ResourceExhaustedError(
            absl::StrCat("more than ", max_waiting_, " streams wait to be members'"));
        waiting_.pop_front();
      }
    }
  }
  if (older != nullptr) older->Close(why);
  return member;
}

void WorkerStreams::AddMembers(const HolderSets& holders) {
  std::vector<std::function<void()>> admitted;
  std::vector<std::pair<std::shared_ptr<FrameStream>, absl::Status>> ended;
  {
    MutexLock lock(&mutex_);
    for (size_t i = 0; i < holders.members.size(); ++i) {
      members_[holders.members[i]] = holders.instances[i];
      newest_ = std::max(newest_, holders.members[i]);
    }
    for (auto it = waiting_.begin(); it != waiting_.end();) {
      const absl::StatusOr<bool> member = CheckMember(it->name);
      if (member.ok() && !*member) {
        ++it;
        continue;
      }
      if (member.ok()) {
        std::swap(Of(it->kind, workers_[it->name.worker]), it->stream);
        admitted.push_back(std::move(it->admitted));
      }
      if (it->stream != nullptr) {
        ended.emplace_back(std::move(it->stream),
                           member.ok() ? absl::AbortedError(kNewerStream) : member.status());
      }
      it = waiting_.erase(it);
    }
  }
  for (const auto& admit : admitted) admit();
  for (const auto& [stream, why] : ended) stream->Close(why);
}

void WorkerStreams::Exclude(Incarnation worker) {
  Streams streams;
  {
    MutexLock lock(&mutex_);
    members_.erase(worker);
    const auto open = workers_.find(worker);
    if (open == workers_.end()) return;
    streams = std::move(open->second);
    workers_.erase(open);
  }
  const absl::Status why = absl::FailedPreconditionError("the worker is out of the run");
  for (const auto& stream : {streams.push, streams.pull}) {
    if (stream != nullptr) stream->Close(why);
  }
}

void WorkerStreams::Remove(Kind kind, Incarnation worker, const FrameStream& stream) {
  std::shared_ptr<FrameStream> removed;  // dropped without the lock, as is what waited
  std::list<Waiting> waited;
  MutexLock lock(&mutex_);
  for (auto it = waiting_.begin(); it != waiting_.end(); ++it) {
    if (it->stream.get() != &stream) continue;
    waited.splice(waited.begin(), waiting_, it);
    return;
  }
  const auto streams = workers_.find(worker);
  if (streams == workers_.end() || Of(kind, streams->second).get() != &stream) return;
  removed = std::move(Of(kind, streams->second));
  if (streams->second.push == nullptr && streams->second.pull == nullptr) workers_.erase(streams);
}

void WorkerStreams::SetWireType(Incarnation worker, WireType type) {
  MutexLock lock(&mutex_);
  if (const auto streams = workers_.find(worker); streams != workers_.end())
    streams->second.pull_type = type;
}

void WorkerStreams::Answer(const PushAnswer& answer) {
  std::shared_ptr<FrameStream> stream;
  {
    MutexLock lock(&mutex_);
    if (const auto streams = workers_.find(answer.worker); streams != workers_.end())
      stream = streams->second.push;
  }
  if (stream == nullptr) return;
  Outgoing outgoing;
  outgoing.header = AnswerHeader(answer);
  outgoing.text = answer.detail;
  stream->Send(std::move(outgoing));
}

void WorkerStreams::Deliver(Generation generation, const Delivery& delivery) {
  std::shared_ptr<FrameStream> stream;
  WireType type = WireType::kF32;
  {
    MutexLock lock(&mutex_);
    if (const auto streams = workers_.find(delivery.worker); streams != workers_.end()) {
      stream = streams->second.pull;
      type = streams->second.pull_type;
    }
  }
  if (stream == nullptr) return;
  Outgoing outgoing;
  if (delivery.value == nullptr) {
    outgoing.header = RefusalHeader(delivery);
    outgoing.text = delivery.detail;
  } else {
    RequestKey key;
    key.generation = generation;
    key.step = delivery.step;
    key.worker = delivery.worker;
    outgoing.header = ValueHeader(key, delivery.fragment, delivery.value->size(), type);
    outgoing.numbers = delivery.value;
  }
  stream->Send(std::move(outgoing));
}

int WorkerStreams::count(Kind kind) const {
  MutexLock lock(&mutex_);
  int count = 0;
  for (const auto& [worker, streams] : workers_) {
    count += (kind == Kind::kPush ? streams.push : streams.pull) != nullptr ? 1 : 0;
  }
  return count;
}

int WorkerStreams::waiting() const {
  MutexLock lock(&mutex_);
  return static_cast<int>(waiting_.size());
}

}  // namespace sdp
