#include "server/coordinator/service/step_line.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/hash.h"
#include "common/base/natural_order.h"

namespace sdp {
namespace {

constexpr size_t kRecent =
    50;  // steps: follows a change within a minute or so, and an evaluation does not dominate

constexpr std::array<const char*, 5> kByteUnits = {"B", "KiB", "MiB", "GiB", "TiB"};

// The largest unit in which `bytes` is at least 1; rounded values must not reach "1024 KiB".
size_t ByteUnit(double bytes) {
  size_t unit = 0;
  for (; bytes >= 1023.5 && unit + 1 < kByteUnits.size(); bytes /= 1024) ++unit;
  return unit;
}

std::string InUnit(double bytes, size_t unit) {
  const double value = bytes / std::pow(1024, static_cast<double>(unit));
  return absl::StrFormat("%.*f", value < 9.95 && unit > 0 ? 1 : 0, value);
}

std::string RateText(double per_sec) {
  if (per_sec < 999.5) return absl::StrFormat("%.0f", per_sec);
  if (per_sec < 999.5e3) return absl::StrFormat("%.*fk", per_sec < 99.95e3 ? 1 : 0, per_sec / 1e3);
  return absl::StrFormat("%.1fM", per_sec / 1e6);
}

// Of text in tokens, of images in images; "" if there is nothing to say.
std::string SpeedText(int64_t tokens, int64_t samples, absl::Duration elapsed) {
  const int64_t count = tokens > 0 ? tokens : samples;
  if (count == 0 || elapsed <= absl::ZeroDuration()) return "";
  return absl::StrCat(RateText(static_cast<double>(count) / absl::ToDoubleSeconds(elapsed)),
                      tokens > 0 ? " tok/s" : " img/s");
}

// "full 3.377", of classes "full 1.488 45.6%".
std::string FullText(const StepMetrics& m) {
  std::string text = absl::StrFormat("full %.3f", *m.full_loss);
  if (m.full_accuracy.has_value()) absl::StrAppendFormat(&text, " %.1f%%", 100 * *m.full_accuracy);
  return text;
}

std::string NormText(double norm) {
  if (norm >= 0.1 && norm < 100) return absl::StrFormat("%.2f", norm);
  if (norm >= 100 && norm < 1e6) return absl::StrFormat("%.0f", norm);
  return absl::StrFormat("%.2g", norm);
}

// Two rates share the larger one's unit, so that they compare at a glance.
std::string TrafficText(double pulled_bytes, double pushed_bytes) {
  const size_t unit = ByteUnit(std::max(pulled_bytes, pushed_bytes));
  return absl::StrCat("pull ", InUnit(pulled_bytes, unit), " push ", InUnit(pushed_bytes, unit),
                      " ", kByteUnits[unit]);
}

// "1.2/1.9 GiB": in the larger one's unit. "1.2 GiB" without a prediction.
std::string PeakText(int64_t peak_bytes, int64_t predicted_bytes) {
  if (predicted_bytes == 0) return BytesText(peak_bytes);
  const size_t unit = ByteUnit(static_cast<double>(std::max(peak_bytes, predicted_bytes)));
  return absl::StrCat(InUnit(static_cast<double>(peak_bytes), unit), "/",
                      InUnit(static_cast<double>(predicted_bytes), unit), " ", kByteUnits[unit]);
}

int64_t SumOf(const BytesByKind& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
}

std::string MemoryLines(const std::map<std::string, MemoryUse>& uses) {
  std::vector<std::pair<std::string, MemoryUse>> sorted(uses.begin(), uses.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return NaturalLess(a.first, b.first); });
  std::vector<std::string> processes, allocated, on_gpus;
  for (const auto& [name, use] : sorted) {
    processes.push_back(absl::StrCat(name, " ", BytesText(use.process_bytes)));
    if (use.allocated_bytes == 0) continue;
    std::vector<std::string>& peaks = use.place == MemoryPlace::kGpu ? on_gpus : allocated;
    peaks.push_back(absl::StrCat(name, " ", PeakText(use.allocated_bytes, use.predicted_bytes)));
  }
  std::string text;
  if (!processes.empty())
    absl::StrAppend(&text, "  memory   peak of ", absl::StrJoin(processes, ", "), "\n");
  if (!allocated.empty()) {
    absl::StrAppend(&text, "  of this  tensors and buffers, peak/predicted: ",
                    absl::StrJoin(allocated, ", "), "\n");
  }
  if (!on_gpus.empty()) {
    absl::StrAppend(&text, "  on GPUs  tensors, peak/predicted: ", absl::StrJoin(on_gpus, ", "),
                    "\n");
  }
  const auto largest =
      std::max_element(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
        return SumOf(a.second.by_kind) < SumOf(b.second.by_kind);
      });
  if (largest != sorted.end() && SumOf(largest->second.by_kind) > 0) {
    std::vector<std::string> kinds;
    for (size_t kind = 0; kind < kMemoryKinds; ++kind) {
      kinds.push_back(
          absl::StrCat(kMemoryKindNames[kind], " ", BytesText(largest->second.by_kind[kind])));
    }
    absl::StrAppend(&text, "  of that  ", largest->first,
                    " at its peak: ", absl::StrJoin(kinds, ", "), "\n");
  }
  return text;
}

double Share(absl::Duration part, absl::Duration all) {
  return all > absl::ZeroDuration() ? 100 * absl::FDivDuration(part, all) : 0;
}

}  // namespace

std::string BytesText(int64_t bytes) {
  const size_t unit = ByteUnit(static_cast<double>(bytes));
  return absl::StrCat(InUnit(static_cast<double>(bytes), unit), " ", kByteUnits[unit]);
}

std::string DurationText(absl::Duration duration) {
  const int64_t seconds =
      std::max<int64_t>(0, absl::ToInt64Seconds(duration + absl::Milliseconds(500)));
  if (seconds < 60) return absl::StrCat(seconds, "s");
  if (seconds < 600) return absl::StrCat(seconds / 60, "m ", seconds % 60, "s");
  if (seconds < 3600) return absl::StrCat(seconds / 60, "m");
  if (seconds < 86400) return absl::StrCat(seconds / 3600, "h ", seconds % 3600 / 60, "m");
  return absl::StrCat(seconds / 86400, "d ", seconds % 86400 / 3600, "h");
}

void RunProgress::Add(const StepMetrics& metrics) {
  newest_ = metrics;
  run_time_ = metrics.run_time;
  if (metrics.state_hash.has_value()) state_hash_ = metrics.state_hash;
  if (metrics.full_loss.has_value()) {
    full_loss_ = metrics.full_loss;
    full_accuracy_ = metrics.full_accuracy;
    full_loss_step_ = metrics.step;
  }
  if (!metrics.trains()) return;
  if (metrics.loss.has_value()) loss_ = metrics.loss;
  ++totals_.steps;
  totals_.tokens += metrics.tokens;
  totals_.samples += metrics.samples;
  totals_.pulled_bytes += metrics.pulled_bytes;
  totals_.pushed_bytes += metrics.pushed_bytes;
  totals_.elapsed += metrics.elapsed;
  totals_.pull += metrics.pull;
  totals_.forward += metrics.forward;
  totals_.backward += metrics.backward;
  totals_.push += metrics.push;
  if (std::exchange(first_seen_, true)) recent_.push_back(metrics);
  if (recent_.size() > kRecent) recent_.pop_front();
}

std::optional<absl::Duration> RunProgress::Eta() const {
  if (recent_.empty()) return std::nullopt;
  absl::Duration sum;
  for (const StepMetrics& step : recent_) sum += step.elapsed;
  const int64_t left = std::max<int64_t>(0, newest_.steps - newest_.step - 1);
  return sum / static_cast<double>(recent_.size()) * static_cast<double>(left);
}

double RunProgress::tokens_per_sec() const {
  absl::Duration elapsed;
  int64_t tokens = 0;
  for (const StepMetrics& step : recent_) {
    elapsed += step.elapsed;
    tokens += step.tokens;
  }
  return elapsed > absl::ZeroDuration()
             ? static_cast<double>(tokens) / absl::ToDoubleSeconds(elapsed)
             : 0;
}

std::string RunProgress::StepLine() const {
  const StepMetrics& m = newest_;
  std::vector<std::string> parts = {absl::StrCat("step ", m.step, "/", m.steps)};
  if (m.loss.has_value()) {
    parts.push_back(absl::StrFormat("loss %.3f", *m.loss));
    if (m.full_loss.has_value()) absl::StrAppend(&parts.back(), " (", FullText(m), ")");
  } else if (m.full_loss.has_value()) {
    parts.push_back(FullText(m));
  }
  if (m.trains()) {
    parts.push_back(m.skipped.empty() ? "grad " + NormText(m.gradient_norm)
                                      : "skipped: " + m.skipped);
    parts.push_back(absl::StrCat("workers ", m.workers, "/", workers_));
    parts.push_back(absl::StrCat("cover ", m.min_holders, "-", m.max_holders));
    parts.push_back(absl::StrCat(
        "mem ", PeakText(m.max_worker_allocated_bytes, m.predicted_worker_allocated_bytes)));
    const std::string speed = SpeedText(m.tokens, m.samples, m.elapsed);
    if (!speed.empty()) parts.push_back(speed);
    parts.push_back(
        TrafficText(static_cast<double>(m.pulled_bytes), static_cast<double>(m.pushed_bytes)));
    parts.push_back(absl::StrFormat(
        "wait %.0f%%", Share(m.pull + m.push, m.pull + m.forward + m.backward + m.push)));
    if (const auto eta = Eta()) parts.push_back("eta " + DurationText(*eta));
  }
  return absl::StrJoin(parts, "  ");
}

std::string RunProgress::Summary(const std::map<std::string, MemoryUse>& peak_memory) const {
  if (totals_.steps == 0) return "";
  std::string text =
      absl::StrCat("trained ", totals_.steps, " steps in ", DurationText(run_time_), "\n");
  std::vector<std::string> losses;
  if (loss_.has_value()) losses.push_back(absl::StrFormat("last step %.4f", *loss_));
  if (full_loss_.has_value()) {
    losses.push_back(absl::StrFormat("full model on validation data %.4f", *full_loss_));
    if (full_accuracy_.has_value()) {
      absl::StrAppendFormat(&losses.back(), ", %.1f%% right", 100 * *full_accuracy_);
    }
    absl::StrAppendFormat(&losses.back(), " (version %d)", full_loss_step_);
  }
  if (!losses.empty()) absl::StrAppend(&text, "  loss     ", absl::StrJoin(losses, ", "), "\n");
  const absl::Duration all = totals_.pull + totals_.forward + totals_.backward + totals_.push;
  absl::StrAppendFormat(
      &text, "  time     pull-wait %.0f%%, forward %.0f%%, backward %.0f%%, push %.0f%%\n",
      Share(totals_.pull, all), Share(totals_.forward, all), Share(totals_.backward, all),
      Share(totals_.push, all));
  const double steps = static_cast<double>(totals_.steps);
  absl::StrAppend(&text, "  bytes    ",
                  TrafficText(static_cast<double>(totals_.pulled_bytes) / steps,
                              static_cast<double>(totals_.pushed_bytes) / steps),
                  " per step, all workers\n");
  const std::string speed = SpeedText(totals_.tokens, totals_.samples, totals_.elapsed);
  if (!speed.empty()) absl::StrAppend(&text, "  speed    ", speed, "\n");
  absl::StrAppend(&text, MemoryLines(peak_memory));
  if (state_hash_.has_value())
    absl::StrAppend(&text, "  weights  state hash ", HashText(*state_hash_), "\n");
  return text;
}

}  // namespace sdp
