#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "common/base/byte_budget.h"
#include "common/base/ids.h"
#include "common/base/wire_buffer.h"
#include "common/model/layout.h"
#include "common/protocol/messages.h"
#include "common/wire/frame.h"

namespace sdp {

// Assembler puts the parts of a stream's fragments together: push parts at a shard, value parts at
// a worker. It trusts nothing in them: each part's checksum, place and identity is checked, and a
// bad one costs only its own fragment. Memory is taken from `budget`. Shapes: what comes out is a
// whole fragment, [n] in the type in which it was sent.  Threads: confined to one.
class Assembler {
 public:
  struct Result {
    enum class Kind {
      kBegun,     // the first of several parts is in
      kMore,      // a later part is in; others are missing
      kComplete,  // `value` is the fragment; empty for a push of n = 0
      kRefused,   // `answer` and `detail` say why; the fragment's later parts are ignored
      kIgnored,   // a later part of a refused fragment
    };
    Kind kind = Kind::kIgnored;
    WireBuffer value;
    ByteBudget::Hold hold;   // kComplete: on value's bytes; to be kept as long as they wait
    int64_t wire_bytes = 0;  // kComplete: headers and payloads of all parts
    Answer answer = Answer::kReceived;
    std::string detail;
  };

  // `layout` knows the size of each fragment and outlives the assembler.
  Assembler(const Layout* layout, std::shared_ptr<ByteBudget> budget)
      : layout_(layout), budget_(std::move(budget)) {}

  // Takes one part. Precondition: `header` was decoded, and `payload` has its payload_bytes.
  // Refusals: BAD_CHECKSUM; RETRY_AFTER - over budget; INVALID - a fragment that is not there or
  // has another size; a part that does not begin where the last one ended, or differs from the
  // first one in what names the contribution. ResourceExhausted - the peer broke off so many
  // fragments that its stream must end.
  absl::StatusOr<Result> Add(const FrameHeader& header, Chunks payload);

  // The rest of a fragment begun is not wanted any more; what has come is freed.
  void Refuse(const PushKey& key);

 private:
  using Key = std::tuple<Step, Purpose, FragmentId>;
  struct Part {
    FrameHeader first;  // of the first part
    WireBuffer value;
    ByteBudget::Hold hold;
    int64_t received = 0;  // payload bytes
    int64_t wire_bytes = 0;
  };

  absl::StatusOr<Result> Refusal(const FrameHeader& header, Answer answer, std::string detail);
  Result Begin(const FrameHeader& header);
  static bool Copy(const FrameHeader& header, Chunks payload, WireBuffer* value);

  const Layout* const layout_;
  const std::shared_ptr<ByteBudget> budget_;
  absl::flat_hash_map<Key, Part> open_;
  absl::flat_hash_map<Key, int64_t> refused_;  // -> where the next part would begin
};

}  // namespace sdp
