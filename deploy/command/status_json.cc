// A run's status for programs: status_text.h.
#include "common/control/status_json.h"

#include <nlohmann/json.hpp>
#include <string>

#include "deploy/command/status_text.h"

namespace sdp {
namespace {

using Json = nlohmann::ordered_json;

Json BlockJson(const proto::ShardStatus::Block& block) {
  Json json = {{"name", block.name()},
               {"fragments", block.fragments()},
               {"value_bytes", block.value_bytes()},
               {"oldest_version", block.oldest_version()},
               {"newest_version", block.newest_version()},
               {"open_rounds", block.open_rounds()},
               {"contributions", block.contributions()},
               {"holders", block.holders()}};
  for (const int64_t worker : block.missing()) json["missing"].push_back(worker);
  return json;
}

Json ShardJson(const ShardAnswer& shard) {
  if (!shard.status.ok()) {
    return {{"name", shard.name}, {"error", std::string(shard.status.status().message())}};
  }
  const proto::ShardStatus& status = *shard.status;
  Json json = {{"name", shard.name},
               {"address", status.address()},
               {"shard", status.shard()},
               {"generation", status.generation()},
               {"term", status.term()},
               {"fragments", status.fragments()},
               {"parameters", status.parameters()},
               {"oldest_version", status.oldest_version()},
               {"newest_version", status.newest_version()},
               {"value_bytes", status.value_bytes()},
               {"optimizer_bytes", status.optimizer_bytes()},
               {"retained_bytes", status.retained_bytes()},
               {"round_bytes", status.round_bytes()},
               {"open_rounds", status.open_rounds()},
               {"pending_pulls", status.pending_pulls()},
               {"uncovered_fragment_steps", status.uncovered_fragment_steps()},
               {"peak_memory_bytes", status.peak_memory_bytes()},
               {"allocated_peak_bytes", status.allocated_peak_bytes()},
               {"push_streams", status.push_streams()},
               {"pull_streams", status.pull_streams()},
               {"memory_bytes", status.memory().resident_bytes()},
               {"allocated_bytes", status.memory().allocated_bytes()},
               {"logic_cpu_sec", status.logic_cpu_sec()},
               {"since_step_sec", status.step_sec()},
               {"waits", Json::array()}};
  for (const proto::Wait& wait : status.waits()) json["waits"].push_back(WaitJson(wait));
  for (const auto& block : status.blocks()) json["blocks"].push_back(BlockJson(block));
  if (!status.metrics_address().empty()) json["metrics_address"] = status.metrics_address();
  return json;
}

}  // namespace

std::string RunningJson(const proto::RunStatus& run, const std::vector<ShardAnswer>& shards) {
  Json json = RunStatusJson(run);
  json["running"] = true;
  json["shards"] = Json::array();
  for (const ShardAnswer& shard : shards) json["shards"].push_back(ShardJson(shard));
  return json.dump(2) + "\n";
}

std::string EndedJson(const std::string& run_dir, RunEnd end, const RunMetrics& metrics) {
  const char* how = end == RunEnd::kFinished  ? "finished"
                    : end == RunEnd::kStopped ? "stopped"
                                              : "broken off";
  Json json = {{"running", false}, {"run_dir", run_dir}, {"end", how}};
  if (!metrics.last_line.empty()) json["last"] = Json::parse(metrics.last_line);
  return json.dump(2) + "\n";
}

}  // namespace sdp
