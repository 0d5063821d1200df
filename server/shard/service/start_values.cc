#include "server/shard/service/start_values.h"

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/data/init_file.h"
#include "common/model/initial_values.h"

namespace sdp {

absl::Status StartValues::ReadFrom(const StartState& start) {
  if (!start.checkpoint.empty()) {
    SDP_ASSIGN_OR_RETURN(checkpoint_, CheckpointReader::Open(start.checkpoint));
    return absl::OkStatus();
  }
  if (start.init_file.empty()) return absl::OkStatus();
  SDP_ASSIGN_OR_RETURN(file_, SafetensorsReader::Open(start.init_file));
  return CheckAgainst(*file_, *catalog_);
}

void StartValues::Fill(FragmentId fragment, absl::Span<float> values, OptimizerState& state) {
  const std::string what = absl::StrCat("start values of fragment ", fragment.value());
  if (checkpoint_ != nullptr) {
    status_.Update(Context(Restore(fragment, values, state), what));
  } else if (file_ != nullptr) {
    status_.Update(Context(ReadFragment(*file_, *catalog_, *layout_, fragment, values), what));
  } else {
    FillInitialValues(*catalog_, *layout_, fragment, seed_, values);
  }
}

absl::Status StartValues::Restore(FragmentId fragment, absl::Span<float> values,
                                  OptimizerState& state) const {
  const int moments = checkpoint_->moments(fragment);
  if (moments != static_cast<int>(state.moments.size())) {
    return absl::FailedPreconditionError(
        absl::StrCat("checkpoint ", checkpoint_->path(), " has ", moments,
                     " moments a fragment, this optimizer keeps ", state.moments.size()));
  }
  SDP_RETURN_IF_ERROR(checkpoint_->ReadValue(fragment, values));
  for (int m = 0; m < moments; ++m) {
    FloatBuffer& moment = state.moments[static_cast<size_t>(m)];
    SDP_RETURN_IF_ERROR(checkpoint_->ReadMoment(fragment, m, moment.span()));
  }
  state.updates = checkpoint_->updates(fragment);
  return absl::OkStatus();
}

}  // namespace sdp
