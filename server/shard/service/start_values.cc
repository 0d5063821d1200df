#include "server/shard/service/start_values.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/data/init_file.h"
#include "common/export/exported_model.h"
#include "common/model/initial_values.h"

namespace sdp {

absl::Status StartValues::ReadFrom(const StartState& start) {
  if (!start.checkpoint.empty()) {
    SDP_ASSIGN_OR_RETURN(checkpoint_, CheckpointReader::Open(start.checkpoint));
    return absl::OkStatus();
  }
  if (start.init_path.empty()) return absl::OkStatus();
  std::error_code ignored;
  if (std::filesystem::is_directory(start.init_path, ignored)) {
    SDP_RETURN_IF_ERROR(OpenFolder(start));
  } else {
    SDP_ASSIGN_OR_RETURN(files_, TensorFiles::Open(start.init_path, {start.init_path}));
  }
  return CheckAgainst(*files_, *catalog_);
}

absl::Status StartValues::OpenFolder(const StartState& start) {
  if (start.factors.size() != catalog_->units.size()) {
    return absl::InternalError(absl::StrCat("start from ", start.init_path, ": factors of ",
                                            start.factors.size(), " units, the model has ",
                                            catalog_->units.size()));
  }
  divisors_.assign(start.factors.begin(), start.factors.end());
  SDP_ASSIGN_OR_RETURN(const ExportedFolder folder, ReadExportedFolder(start.init_path));
  files_ = folder.weights;
  return absl::OkStatus();
}

// The inverse of what export does (common/export/tensor_stream.cc).
void StartValues::DivideBranches(FragmentId fragment, absl::Span<float> values) const {
  if (divisors_.empty()) return;
  const float divisor = divisors_[static_cast<size_t>(layout_->fragment(fragment).unit.value())];
  for (const Piece& piece : layout_->pieces(fragment)) {
    if (!catalog_->tensors[static_cast<size_t>(piece.tensor)].ends_branch) continue;
    for (float& value : values.subspan(static_cast<size_t>(piece.fragment_offset),
                                       static_cast<size_t>(piece.size))) {
      value /= divisor;
    }
  }
}

void StartValues::Fill(FragmentId fragment, absl::Span<float> values, OptimizerState& state) {
  const std::string what = absl::StrCat("start values of fragment ", fragment.value());
  if (checkpoint_ != nullptr) {
    status_.Update(Context(Restore(fragment, values, state), what));
  } else if (files_ != nullptr) {
    status_.Update(Context(ReadFragment(*files_, *catalog_, *layout_, fragment, values), what));
    DivideBranches(fragment, values);
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
