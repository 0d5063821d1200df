#include "deploy/command/top_text.h"

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/natural_order.h"
#include "deploy/command/event_line.h"
#include "deploy/command/text_table.h"

namespace sdp {
namespace {

using Lines = std::vector<std::string>;

constexpr int kWidestBar = 60;
constexpr double kSilentSec = 5;  // five heartbeats
constexpr size_t kMostEvents = 6;
constexpr size_t kLow = 16;  // a screen of fewer lines is for members rather than for what they do

// Items beside each other, as many as fit into a line; those that follow begin further right.
void AddWrapped(const std::vector<std::string>& items, const char* between, size_t width,
                Lines* lines) {
  std::string line;
  for (const std::string& item : items) {
    if (item.empty()) continue;
    if (line.empty()) {
      line = item;
    } else if (line.size() + std::string(between).size() + item.size() <= width) {
      absl::StrAppend(&line, between, item);
    } else {
      lines->push_back(line);
      line = absl::StrCat("  ", item);
    }
  }
  if (!line.empty()) lines->push_back(line);
}

void AddText(const std::string& text, size_t width, Lines* lines) {
  AddWrapped(absl::StrSplit(text, ' '), " ", width, lines);
}

std::string Bar(double share, size_t width) {
  const size_t cells = std::min(size_t{kWidestBar}, width) - 2;
  const auto filled =
      static_cast<size_t>(std::clamp(share, 0.0, 1.0) * static_cast<double>(cells) + 0.5);
  return absl::StrCat("[", std::string(filled, '#'), std::string(cells - filled, '.'), "]");
}

// "workers: 1 joining, 3 training".
std::string States(const char* what, const proto::RunStatus::RoleCount& count) {
  std::vector<std::string> states;
  for (const auto& [state, members] : count.states())
    states.push_back(absl::StrCat(members, " ", state));
  std::sort(states.begin(), states.end());
  return absl::StrCat(what, ": ", states.empty() ? "none" : absl::StrJoin(states, ", "));
}

// Where workers spent the newest step, which they may have begun before the one before it ended.
std::vector<std::string> Split(const proto::RunStatus::StepTimes& times) {
  const double all =
      times.pull_sec() + times.forward_sec() + times.backward_sec() + times.push_sec();
  if (times.elapsed_sec() <= 0) return {};
  std::vector<std::string> items = {absl::StrFormat("a step takes %.3f s", times.elapsed_sec())};
  if (all <= 0) return items;
  for (const auto& [what, seconds] :
       {std::pair("waiting for values", times.pull_sec()),
        std::pair("forward", times.forward_sec()), std::pair("backward", times.backward_sec()),
        std::pair("pushing", times.push_sec())}) {
    items.push_back(absl::StrFormat("%s %.0f%%", what, 100 * seconds / all));
  }
  return items;
}

// What the run waits for, if there is a reason to say it.
std::string Waiting(const proto::RunStatus& run) {
  const bool timed = run.waits_size() > 0 && run.waits(0).who() == "the run";
  const double since = timed ? run.waits(0).since_sec() : 0;
  if (run.waiting_for().empty() || (run.phase() == "training" && since < 2)) return "";
  return since >= 2 ? absl::StrCat(run.waiting_for(), ", for ", SecondsText(since))
                    : run.waiting_for();
}

void AddHead(const proto::RunStatus& run, size_t width, bool low, Lines* lines) {
  const double done = static_cast<double>(run.committed() + 1);
  const double share = run.steps() > 0 ? done / static_cast<double>(run.steps()) : 0;
  AddWrapped(
      {run.run_dir(), run.phase(), absl::StrFormat("%d/%d steps", run.committed() + 1, run.steps()),
       absl::StrFormat("%.0f%%", 100 * share),
       run.has_eta_sec() && run.phase() != "paused"
           ? absl::StrCat("eta ", SecondsText(run.eta_sec()))
           : ""},
      "  ", width, lines);
  if (!low) lines->push_back(Bar(share, width));
  AddText(Waiting(run), width, lines);
  for (const std::string& error :
       {run.checkpoint_error(), run.events_error(), run.curves_error()}) {
    if (!error.empty()) AddText(absl::StrCat("ERROR: ", error), width, lines);
  }
  AddWrapped(
      {run.has_loss() ? absl::StrFormat("loss %.4f", run.loss()) : "",
       run.has_full_loss()
           ? absl::StrFormat("full model %.4f at step %d", run.full_loss(), run.full_loss_step())
           : "",
       run.tokens_per_sec() > 0 && !low ? absl::StrFormat("%.0f tok/s", run.tokens_per_sec()) : ""},
      "  ", width, lines);
  if (!low) AddWrapped(Split(run.step_times()), "  ", width, lines);
  AddWrapped({States("workers", run.all_workers()), States("shards", run.all_shards()),
              run.has_checkpoint() ? absl::StrCat("checkpoint of step ", run.checkpoint(), ", ",
                                                  SecondsText(run.checkpoint_age_sec()), " ago")
                                   : ""},
             "  ", width, lines);
}

using Member = proto::RunStatus::Member;

std::vector<const Member*> WorstFirst(const proto::RunStatus& run) {
  std::vector<const Member*> members;
  for (const Member& member : run.members()) members.push_back(&member);
  const auto rank = [](const Member& member) {
    return member.silence_sec() > kSilentSec ? 0 : member.waits() && member.phase_sec() > 2 ? 1 : 2;
  };
  std::stable_sort(members.begin(), members.end(), [&](const auto* a, const auto* b) {
    const auto key = [&](const auto& member) {
      return std::make_tuple(rank(member), member.role());
    };
    if (key(*a) != key(*b)) return key(*a) < key(*b);
    return NaturalLess(a->name(), b->name());
  });
  return members;
}

struct Column {
  std::string title;
  std::string (*cell)(const Member& member);
  int keep;  // the columns of the least are left out first where the screen is narrow
};

const std::vector<Column>& Columns() {
  static const auto* const columns = new std::vector<Column>{
      {"member", [](const Member& m) { return m.name(); }, 9},
      {"state", [](const Member& m) { return OrDash(m.state()); }, 8},
      {"step", [](const Member& m) { return StepText(m.step()); }, 7},
      {"units",
       [](const Member& m) { return m.role() == "worker" ? absl::StrCat(m.units()) : "-"; }, 1},
      {"samples/s",
       [](const Member& m) {
         return m.samples_per_sec() > 0 ? absl::StrFormat("%.1f", m.samples_per_sec()) : "-";
       },
       2},
      {"memory peak/predicted",
       [](const Member& m) {
         return absl::StrCat(MemoryText(m.allocated_peak_bytes()), " / ",
                             MemoryText(m.predicted_bytes()));
       },
       3},
      {"silent", [](const Member& m) { return SecondsText(m.silence_sec()); }, 6},
      {"doing",
       [](const Member& m) {
         return absl::StrCat(OrDash(m.phase()), m.phase_sec() >= 2
                                                    ? absl::StrCat(", ", SecondsText(m.phase_sec()))
                                                    : "");
       },
       5}};
  return *columns;
}

void AddMembers(const proto::RunStatus& run, size_t width, Lines* lines) {
  if (run.members_size() == 0) return;
  const std::vector<const Member*> members = WorstFirst(run);
  // The last one is text, of which the begin says most.
  constexpr size_t kLeastText = 20;
  for (int least = 1;; ++least) {
    std::vector<Row> rows(members.size() + 1);
    bool has_text = false;
    for (const Column& column : Columns()) {
      if (column.keep < least) continue;
      has_text = column.title == "doing";
      rows[0].push_back(column.title);
      for (size_t i = 0; i < members.size(); ++i) rows[i + 1].push_back(column.cell(*members[i]));
      if (!has_text) continue;
      for (Row& row : rows) row.back().resize(std::min(row.back().size(), size_t{200}));
    }
    std::vector<Row> measured = rows;
    if (has_text) {
      for (Row& row : measured) row.back().resize(std::min(row.back().size(), kLeastText));
    }
    const Lines fits = absl::StrSplit(TableText(measured), '\n');
    const bool narrow = std::all_of(fits.begin(), fits.end(), [width](const std::string& line) {
      return line.size() <= width;
    });
    if (!narrow && rows[0].size() > 1) continue;
    lines->push_back("");
    for (const auto& line : absl::StrSplit(TableText(rows), '\n', absl::SkipEmpty()))
      lines->emplace_back(line);
    return;
  }
}

// Who came, left or was lost, and why: the newest, without the checkpoints between them.
Lines EventLines(const proto::RunStatus& run) {
  Lines lines;
  for (int i = run.events_size() - 1; i >= 0 && lines.size() < kMostEvents; --i) {
    const EventLine event = ReadEventLine(run.events(i));
    if (event.kind == "checkpoint") continue;
    // Of the time the clock's.
    const std::string time = event.time.size() < 19 ? event.time : event.time.substr(11, 8);
    lines.push_back(absl::StrCat(time, "  ", event.text));
  }
  std::reverse(lines.begin(), lines.end());
  return lines;
}

}  // namespace

std::string TopText(const proto::RunStatus& run, int width, int height) {
  const auto wide = static_cast<size_t>(std::max(width, 12));
  const auto high = static_cast<size_t>(std::max(height, 1));
  Lines lines;
  AddHead(run, wide, high < kLow, &lines);
  AddMembers(run, wide, &lines);
  const size_t hidden = static_cast<size_t>(run.members_left_out()) +
                        (lines.size() > high ? lines.size() - high + 1 : 0);
  if (lines.size() > high) lines.resize(high - 1);
  if (hidden > 0 && high > 1) lines.push_back(absl::StrCat("and ", hidden, " more"));
  Lines events = EventLines(run);
  const size_t room = high > lines.size() + 2 ? high - lines.size() - 2 : 0;
  if (events.size() > room) events.erase(events.begin(), events.end() - static_cast<int>(room));
  if (!events.empty()) {
    lines.insert(lines.end(), {"", "newest events (UTC)"});
    lines.insert(lines.end(), events.begin(), events.end());
  }
  std::string text;
  for (std::string& line : lines) {
    line.resize(std::min(line.size(), static_cast<size_t>(std::max(width, 0))));
    absl::StrAppend(&text, line, "\n");
  }
  return text;
}

}  // namespace sdp
