#include "tests/cluster/sim_audit.h"

#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "deploy/audit/logic/audit.h"
#include "gtest/gtest.h"

namespace sdp {
namespace {

audit::FreePositions Free(const SampleCursor& cursor) {
  std::vector<audit::Range> returned;
  for (const PositionRange& range : cursor.returned())
    returned.push_back({range.first, range.first + range.count});
  return audit::FreePositions(cursor.next(), returned);
}

// None: the audit has no use for records of this kind.
std::optional<audit::Record> Converted(const Record& record) {
  if (const auto* start = std::get_if<GenerationRecord>(&record))
    return audit::StartRecord{start->generation, start->step};
  if (const auto* view = std::get_if<ViewRecord>(&record))
    return audit::ViewRecord{view->view, view->members, view->portions};
  if (const auto* binding = std::get_if<BindingRecord>(&record)) {
    return audit::BindingRecord{binding->generation,   binding->step,    binding->view,
                                Free(binding->cursor), binding->samples, binding->closing};
  }
  if (const auto* out = std::get_if<ExclusionRecord>(&record)) {
    return audit::ExclusionRecord{out->generation, out->number,    out->worker,
                                  out->reason,     out->committed, out->returned};
  }
  return std::nullopt;
}

template <typename T>
auto Source(std::vector<T> all) {
  return [all = std::move(all), next = size_t{0}]() mutable -> absl::StatusOr<std::optional<T>> {
    if (next == all.size()) return std::nullopt;
    return std::optional<T>(all[next++]);
  };
}

}  // namespace

audit::Report AuditOf(const SimDisk& disk) {
  std::vector<audit::StartRecord> starts;
  std::vector<audit::Record> records;
  for (const Record& record : disk.records) {
    const std::optional<audit::Record> converted = Converted(record);
    if (!converted.has_value()) continue;
    if (const auto* start = std::get_if<audit::StartRecord>(&*converted)) starts.push_back(*start);
    records.push_back(*converted);
  }
  std::vector<audit::StepRecord> lines;
  for (const StepMetrics& line : disk.metrics)
    lines.push_back({line.generation, line.step, line.lost});
  std::vector<audit::CheckpointRecord> checkpoints;
  for (const auto& [step, manifest] : disk.manifests) {
    checkpoints.push_back(
        {absl::StrCat("step-", step), manifest.generation, step, Free(manifest.cursor)});
  }
  audit::SampleAudit samples(std::move(starts), std::move(checkpoints));
  EXPECT_EQ(audit::Audit(Source(std::move(records)), Source(std::move(lines)), &samples),
            absl::OkStatus());
  audit::Report report = samples.Finish();
  for (const audit::Finding& finding : report.first_findings) {
    ADD_FAILURE() << "step " << finding.step << " of generation " << finding.generation
                  << ", incarnation " << finding.worker << ", positions "
                  << audit::RangesText(finding.positions) << ": " << finding.what;
  }
  return report;
}

}  // namespace sdp
