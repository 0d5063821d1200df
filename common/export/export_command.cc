#include "common/export/export_command.h"

#include <map>

#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/config/config.h"
#include "common/export/run_model.h"

namespace sdp {

CLI::App* AddExportCommand(CLI::App& app, ExportCommand& command) {
  CLI::App* exporting = app.add_subcommand(
      "export", "Write a run's full model as a folder that transformers or torchvision can load");
  exporting->footer("Example: sdp export runs/first --out first-model");
  exporting->add_option("RUN", command.run_dir, "The run's folder; its processes may run or not")
      ->required();
  exporting
      ->add_option("--step", command.step, "The checkpoint of this step instead of the newest one")
      ->type_name("T");
  exporting->add_option("--out", command.options.out, "A folder that is not there yet, or is empty")
      ->required()
      ->type_name("DIR");
  const std::map<std::string, ExportType> types = {{"f32", ExportType::kF32},
                                                   {"bf16", ExportType::kBf16}};
  exporting->add_option("--dtype", command.options.type, "f32 (default) or bf16")
      ->transform(CLI::Transformer(types))
      ->type_name("TYPE");
  exporting
      ->add_option("--part-size", command.part_size, "Of a file of weights, at most; default 5GB")
      ->type_name("SIZE");
  return exporting;
}

absl::Status RunExportCommand(const ExportCommand& command,
                              const std::function<absl::Status(StoredModel& model)>& learn_norms,
                              std::ostream& out, std::ostream& messages) {
  ExportOptions options = command.options;
  if (!command.part_size.empty()) {
    const absl::StatusOr<int64_t> bytes = ParseBytes(command.part_size);
    if (!bytes.ok()) return Context(bytes.status(), "--part-size");
    options.part_bytes = *bytes;
  }
  SDP_ASSIGN_OR_RETURN(StoredModel model, OpenRun(command.run_dir, command.step));
  if (HasBatchNorm(model.model)) SDP_RETURN_IF_ERROR(learn_norms(model));
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
