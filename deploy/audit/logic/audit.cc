#include "deploy/audit/logic/audit.h"

#include <limits>
#include <utility>
#include <variant>

namespace sdp::audit {

absl::Status Audit(const std::function<absl::StatusOr<std::optional<Record>>()>& next_record,
                   const std::function<absl::StatusOr<std::optional<StepRecord>>()>& next_line,
                   SampleAudit* audit) {
  absl::StatusOr<std::optional<StepRecord>> line = next_line();
  const auto add_lines_until = [&](Generation generation, Step step) {
    while (line.ok() && line->has_value() &&
           std::pair((*line)->generation, (*line)->step) <= std::pair(generation, step)) {
      audit->Add(**line);
      line = next_line();
    }
    return line.status();
  };
  constexpr Step kLast = std::numeric_limits<Step>::max();
  for (;;) {
    const absl::StatusOr<std::optional<Record>> record = next_record();
    if (!record.ok()) return record.status();
    if (!record->has_value()) break;
    absl::Status status;
    if (const auto* start = std::get_if<StartRecord>(&**record))
      status = add_lines_until(Generation(start->generation.value() - 1), kLast);
    audit->Add(**record);
    if (const auto* binding = std::get_if<BindingRecord>(&**record))
      status.Update(add_lines_until(binding->generation, binding->step));
    if (!status.ok()) return status;
  }
  return add_lines_until(Generation(std::numeric_limits<int64_t>::max()), kLast);
}

}  // namespace sdp::audit
