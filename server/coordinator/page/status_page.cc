#include "server/coordinator/page/status_page.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/control/status_json.h"
#include "server/coordinator/page/assets.h"
#include "server/coordinator/page/cursor.h"

namespace sdp {
namespace {

using Json = nlohmann::ordered_json;

std::string TypeOf(absl::string_view path) {
  if (absl::EndsWith(path, ".js")) return "text/javascript; charset=utf-8";
  if (absl::EndsWith(path, ".css")) return "text/css; charset=utf-8";
  return "text/html; charset=utf-8";
}

// In six digits: what a chart can show.
Json Short(double value) {
  double rounded = 0;
  if (!absl::SimpleAtod(absl::StrCat(value), &rounded)) return nullptr;
  return rounded;
}

Json PointJson(const CurveHistory::Point& point) {
  const double steps = static_cast<double>(point.steps);
  const double elapsed = absl::ToDoubleSeconds(point.elapsed);
  const auto mean = [](double sum, double count) {
    return count > 0 ? Short(sum / count) : Json();
  };
  const auto per_step = [&](absl::Duration sum) { return mean(absl::ToDoubleSeconds(sum), steps); };
  return {point.last,
          mean(point.loss_sum, static_cast<double>(point.losses)),
          point.full_loss.has_value() ? Short(*point.full_loss) : Json(),
          mean(static_cast<double>(point.samples), elapsed),
          mean(static_cast<double>(point.tokens), elapsed),
          per_step(point.elapsed),
          per_step(point.pull),
          per_step(point.forward),
          per_step(point.backward),
          per_step(point.push)};
}

Json CurvesJson(const CurveHistory::News& news) {
  Json points = Json::array();
  for (const CurveHistory::Point& point : news.points) points.push_back(PointJson(point));
  return {{"from", news.from}, {"points", std::move(points)}, {"next", CursorText(news.next)}};
}

}  // namespace

HttpResponse StatusPage::Answer(const HttpRequest& request) {
  if (request.path == "/status.json") return Data(request);
  const absl::string_view path = request.path == "/" ? "/index.html" : request.path;
  for (const Asset& asset : PageAssets()) {
    if (asset.path == path) return {.type = TypeOf(path), .body = std::string(asset.bytes)};
  }
  return {.status = 404, .body = "no such page; the status page is at /\n"};
}

HttpResponse StatusPage::Data(const HttpRequest& request) {
  CurveHistory::Cursor cursor;
  if (const auto since = request.arguments.find("since"); since != request.arguments.end()) {
    const std::optional<CurveHistory::Cursor> given = CursorFrom(since->second);
    if (!given.has_value())
      return {.status = 400, .body = "since: allowed is what \"next\" of an answer before was\n"};
    cursor = *given;
  }
  proto::GetStatusRequest wanted;
  wanted.set_units(request.arguments.contains("units"));
  const absl::Time now = absl::Now();
  const bool fresh = newest_.has_value() && now - taken_ < kFreshFor &&
                     (!wanted.units() || newest_->status.units_size() > 0);
  if (!fresh) {
    std::optional<Snapshot> taken = take_(wanted);
    if (!taken.has_value())
      return {.status = 503, .body = "the coordinator is busy, or about to end: ask again\n"};
    newest_ = *std::move(taken);
    taken_ = now;
  }
  const Json json = {{"status", RunStatusJson(newest_->status)},
                     {"curves", CurvesJson(newest_->curves.Since(cursor))}};
  return {.type = "application/json",
          .body = json.dump(-1, ' ', false, Json::error_handler_t::replace)};
}

}  // namespace sdp
