#include "server/shard/service/worker_streams.h"

#include <utility>

#include "common/wire/frame.h"

namespace sdp {

void WorkerStreams::Add(Kind kind, Incarnation worker, const std::shared_ptr<FrameStream>& stream) {
  std::shared_ptr<FrameStream> older;
  {
    MutexLock lock(&mutex_);
    older = std::exchange(Of(kind, workers_[worker]), stream);
  }
  if (older != nullptr)
    older->Close(absl::AbortedError("a newer stream of this worker takes its place"));
}

void WorkerStreams::Remove(Kind kind, Incarnation worker, const FrameStream& stream) {
  std::shared_ptr<FrameStream> removed;
  MutexLock lock(&mutex_);
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

}  // namespace sdp
