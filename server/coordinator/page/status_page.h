#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "common/http/request.h"
#include "proto/coordinator.pb.h"
#include "server/coordinator/service/curve_history.h"

namespace sdp {

// A run's page for people, to read only. Its files ask for status.json once a second:
//   "status"  as `sdp status --json` has it; with ?units=1 also the units and who holds them
//   "curves"  "from", "points", "next": what is new since ?since=NEXT (CurveHistory). A point is
//             [last step, loss, full loss, samples/s, tokens/s, seconds a step: from commit to
//             commit, pull, forward, backward, push], null: not known
// Threads: Answer on one. It waits for the coordinator's loop; nothing of the loop waits for it,
// and it asks at most every kFreshFor, however many look on.
class StatusPage {
 public:
  struct Snapshot {
    proto::RunStatus status;
    CurveHistory curves;
  };
  // From the loop; nothing: it is busy for longer than somebody waits.
  using Take = std::function<std::optional<Snapshot>(const proto::GetStatusRequest&)>;

  static constexpr absl::Duration kFreshFor = absl::Milliseconds(500);

  explicit StatusPage(Take take) : take_(std::move(take)) {}

  HttpResponse Answer(const HttpRequest& request);

 private:
  HttpResponse Data(const HttpRequest& request);

  const Take take_;
  std::optional<Snapshot> newest_;
  absl::Time taken_ = absl::InfinitePast();
};

}  // namespace sdp
