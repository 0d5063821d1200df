#include "deploy/command/export_command.h"

#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/config/config.h"
#include "common/export/run_model.h"

namespace sdp {

absl::Status RunExportCommand(const ExportCommand& command, std::ostream& out,
                              std::ostream& messages) {
  ExportOptions options = command.options;
  if (!command.part_size.empty()) {
    const absl::StatusOr<int64_t> bytes = ParseBytes(command.part_size);
    if (!bytes.ok()) return Context(bytes.status(), "--part-size");
    options.part_bytes = *bytes;
  }
  SDP_ASSIGN_OR_RETURN(const StoredModel model, OpenRun(command.run_dir, command.step));
  SDP_ASSIGN_OR_RETURN(const ExportResult result, ExportModel(model, options));
  out << absl::StrFormat(
      "exported step %d to %s: %.2fM parameters, %.1f MB in %d file%s\n", model.step.value_or(0),
      command.options.out, static_cast<double>(result.params) / 1e6,
      static_cast<double>(result.bytes) / 1e6, result.parts, result.parts == 1 ? "" : "s");
  if (!result.tokenizer) {
    messages << "sdp: no tokenizer was written: data.tokenizer of the run names none" << std::endl;
  }
  return absl::OkStatus();
}

}  // namespace sdp
