#include "deploy/command/top_text.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/natural_order.h"
#include "deploy/command/text_table.h"

namespace sdp {
namespace {

constexpr int kBarWidth = 24;
constexpr double kSilentSec = 5;  // five heartbeats

std::string Bar(double share) {
  const int filled = static_cast<int>(std::clamp(share, 0.0, 1.0) * kBarWidth + 0.5);
  return absl::StrCat("[", std::string(static_cast<size_t>(filled), '#'),
                      std::string(static_cast<size_t>(kBarWidth - filled), '.'), "]");
}

std::string States(const proto::RunStatus::RoleCount& count) {
  std::vector<std::string> states;
  for (const auto& [state, members] : count.states())
    states.push_back(absl::StrCat(members, " ", state));
  std::sort(states.begin(), states.end());
  return states.empty() ? "none" : absl::StrJoin(states, ", ");
}

// Where the newest step's time went, as a share of it.
std::string Split(const proto::RunStatus::StepTimes& times) {
  if (times.elapsed_sec() <= 0) return "";
  const auto percent = [&times](double seconds) {
    return absl::StrFormat("%.0f%%", 100 * seconds / times.elapsed_sec());
  };
  return absl::StrFormat("step    %.3f s: pull-wait %s  forward %s  backward %s  push %s\n",
                         times.elapsed_sec(), percent(times.pull_sec()),
                         percent(times.forward_sec()), percent(times.backward_sec()),
                         percent(times.push_sec()));
}

std::string Head(const proto::RunStatus& run) {
  const double done = static_cast<double>(run.committed() + 1);
  std::string text =
      absl::StrFormat("%s  %s  %s %d/%d steps", run.run_dir(), run.phase(),
                      Bar(run.steps() > 0 ? done / static_cast<double>(run.steps()) : 0),
                      run.committed() + 1, run.steps());
  if (run.has_eta_sec()) absl::StrAppend(&text, "  eta ", SecondsText(run.eta_sec()));
  absl::StrAppend(&text, "\n");
  std::string curves;
  if (run.has_loss()) absl::StrAppendFormat(&curves, "  loss %.4f", run.loss());
  if (run.has_full_loss())
    absl::StrAppendFormat(&curves, "  full %.4f (step %d)", run.full_loss(), run.full_loss_step());
  if (run.tokens_per_sec() > 0)
    absl::StrAppendFormat(&curves, "  %.0f tok/s", run.tokens_per_sec());
  if (!curves.empty()) absl::StrAppend(&text, "now   ", curves, "\n");
  absl::StrAppend(&text, Split(run.step_times()));
  absl::StrAppend(&text, "workers ", States(run.all_workers()), "   shards ",
                  States(run.all_shards()), "   view ", run.view(),
                  run.view_reason().empty() ? "" : absl::StrCat(" (", run.view_reason(), ")"),
                  "\n");
  if (run.has_checkpoint()) {
    absl::StrAppend(&text, "saved   step ", run.checkpoint(), ", ",
                    SecondsText(run.checkpoint_age_sec()), " ago\n");
  }
  for (const std::string& error :
       {run.checkpoint_error(), run.events_error(), run.curves_error()}) {
    if (!error.empty()) absl::StrAppend(&text, "ERROR   ", error, "\n");
  }
  if (run.waits_size() > 0 && run.waits(0).who() == "the run" && run.waits(0).since_sec() >= 2) {
    absl::StrAppend(&text, "waits   ", SecondsText(run.waits(0).since_sec()), ": ",
                    run.waits(0).for_what(), "\n");
  }
  return text;
}

std::string Members(const proto::RunStatus& run) {
  std::vector<const proto::RunStatus::Member*> members;
  for (const proto::RunStatus::Member& member : run.members()) members.push_back(&member);
  const auto rank = [](const proto::RunStatus::Member& member) {
    return member.silence_sec() > kSilentSec ? 0 : member.waits() && member.phase_sec() > 2 ? 1 : 2;
  };
  std::stable_sort(members.begin(), members.end(), [&](const auto* a, const auto* b) {
    const auto key = [&](const auto& member) {
      return std::make_tuple(rank(member), member.role());
    };
    if (key(*a) != key(*b)) return key(*a) < key(*b);
    return NaturalLess(a->name(), b->name());
  });
  std::vector<Row> rows = {
      {"member", "state", "step", "units", "samples/s", "memory/predicted", "silent", "doing"}};
  for (const auto* member : members) {
    const bool worker = member->role() == "worker";
    rows.push_back(
        {member->name(), OrDash(member->state()), StepText(member->step()),
         worker ? absl::StrCat(member->units()) : "-",
         member->samples_per_sec() > 0 ? absl::StrFormat("%.1f", member->samples_per_sec()) : "-",
         absl::StrCat(MemoryText(member->allocated_bytes()), " / ",
                      MemoryText(member->predicted_bytes())),
         SecondsText(member->silence_sec()),
         absl::StrCat(OrDash(member->phase()),
                      member->phase_sec() >= 2
                          ? absl::StrCat(", ", SecondsText(member->phase_sec()))
                          : "")});
  }
  return absl::StrCat("\n", TableText(rows));
}

}  // namespace

std::string TopText(const proto::RunStatus& run, int width, int height) {
  std::vector<std::string> lines = absl::StrSplit(absl::StrCat(Head(run), Members(run)), '\n');
  lines.pop_back();  // behind the last newline
  const auto most = static_cast<size_t>(std::max(height, 1));
  const size_t hidden = static_cast<size_t>(run.members_left_out()) +
                        (lines.size() > most ? lines.size() - most + 1 : 0);
  if (lines.size() > most) lines.resize(most - 1);
  if (hidden > 0 && most > 1) lines.push_back(absl::StrCat("and ", hidden, " more"));
  std::string text;
  for (std::string& line : lines) {
    if (line.size() > static_cast<size_t>(width)) line.resize(static_cast<size_t>(width));
    absl::StrAppend(&text, line, "\n");
  }
  return text;
}

}  // namespace sdp
