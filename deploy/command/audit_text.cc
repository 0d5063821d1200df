#include "deploy/command/audit_text.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sdp {
namespace {

using Json = nlohmann::ordered_json;

std::string Line(const char* what, int64_t count, const std::string& remark = "") {
  return absl::StrFormat("  %-14s %12d%s%s\n", what, count, remark.empty() ? "" : "  ", remark);
}

// Positions are dealt without end; one epoch has them all once.
std::string EpochsText(const audit::Report& report, const audit::Checkpoints& checkpoints) {
  if (checkpoints.train_samples == 0) return "";
  return absl::StrFormat(
      "%.2f epochs of %d samples",
      static_cast<double>(report.dealt) / static_cast<double>(checkpoints.train_samples),
      checkpoints.train_samples);
}

Json PositionsJson(const std::vector<audit::Range>& ranges) {
  Json json = Json::array();
  for (const audit::Range& range : ranges) json.push_back({range.begin, range.end - range.begin});
  return json;
}

}  // namespace

std::string FindingText(const audit::Finding& finding, const WorkerNames& names) {
  std::string text = absl::StrCat("generation ", finding.generation.value());
  if (finding.step >= 0) text = absl::StrCat("step ", finding.step, " of ", text);
  if (finding.worker != Incarnation()) absl::StrAppend(&text, ", ", names(finding.worker));
  if (!finding.positions.empty())
    absl::StrAppend(&text, ", positions ", audit::RangesText(finding.positions));
  return absl::StrCat(text, ": ", finding.what);
}

std::string AuditText(const std::string& run_dir, const audit::Report& report,
                      const audit::Checkpoints& checkpoints, const WorkerNames& names) {
  std::string text = absl::StrCat("run ", run_dir, ", ", report.generations, " generation",
                                  report.generations == 1 ? "" : "s", "\n");
  absl::StrAppend(
      &text, Line("steps", report.steps),
      report.undone > 0 ? Line("undone", report.undone, "by going back to a checkpoint") : "",
      report.open > 0 ? Line("open", report.open, "not finished where the records end") : "",
      Line("samples dealt", report.dealt, EpochsText(report, checkpoints)),
      Line("used once", report.used_once),
      Line("dealt again", report.used_again, "at least once: a worker that was lost had them"));
  if (report.waiting > 0)
    absl::StrAppend(&text, Line("waiting", report.waiting, "came back, and no step has them yet"));
  if (report.in_open_steps > 0) absl::StrAppend(&text, Line("in open steps", report.in_open_steps));
  absl::StrAppend(&text, Line("lost", report.lost), Line("doubled", report.doubled),
                  "compared: ", report.bindings, " bindings, ", report.views, " views, ",
                  report.exclusions, " exclusions, ", report.checkpoints, " checkpoints\n");
  for (const audit::Return& back : report.first_returns) {
    absl::StrAppend(&text, "came back: ", audit::RangesText(back.positions), " of step ", back.step,
                    ", ", names(back.worker), ": ", back.reason, "\n");
  }
  if (report.returns > static_cast<int64_t>(report.first_returns.size()))
    absl::StrAppend(&text, "came back: ", report.returns, " portions in all\n");
  for (const std::string& note : checkpoints.notes) absl::StrAppend(&text, note, "\n");
  for (const audit::Finding& finding : report.first_findings)
    absl::StrAppend(&text, "VIOLATED: ", FindingText(finding, names), "\n");
  if (report.violations == 0) return absl::StrCat(text, "all samples were used as promised\n");
  return absl::StrCat(text, report.violations, " violations\n");
}

std::string AuditJson(const std::string& run_dir, const audit::Report& report,
                      const audit::Checkpoints& checkpoints, const WorkerNames& names) {
  Json json = {{"run_dir", run_dir},
               {"ok", report.violations == 0},
               {"generations", report.generations},
               {"views", report.views},
               {"bindings", report.bindings},
               {"exclusions", report.exclusions},
               {"checkpoints", report.checkpoints},
               {"steps", report.steps},
               {"undone", report.undone},
               {"open", report.open},
               {"dealt", report.dealt},
               {"used_once", report.used_once},
               {"used_again", report.used_again},
               {"waiting", report.waiting},
               {"in_open_steps", report.in_open_steps},
               {"lost", report.lost},
               {"doubled", report.doubled}};
  if (checkpoints.train_samples > 0) {
    json["epochs"] =
        static_cast<double>(report.dealt) / static_cast<double>(checkpoints.train_samples);
  }
  json["returns"] = report.returns;
  json["first_returns"] = Json::array();
  for (const audit::Return& back : report.first_returns) {
    json["first_returns"].push_back({{"generation", back.generation.value()},
                                     {"step", back.step},
                                     {"worker", names(back.worker)},
                                     {"reason", back.reason},
                                     {"positions", PositionsJson(back.positions)}});
  }
  json["violations"] = report.violations;
  json["first_findings"] = Json::array();
  for (const audit::Finding& finding : report.first_findings) {
    Json one = {{"generation", finding.generation.value()}};
    if (finding.step >= 0) one["step"] = finding.step;
    if (finding.worker != Incarnation()) one["worker"] = names(finding.worker);
    if (!finding.positions.empty()) one["positions"] = PositionsJson(finding.positions);
    one["what"] = finding.what;
    json["first_findings"].push_back(std::move(one));
  }
  json["notes"] = checkpoints.notes;
  return json.dump(2) + "\n";
}

}  // namespace sdp
