// sdp-shard: owns some of the model's parameters and their optimizer state.
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/config/config.h"
#include "common/process/lives.h"
#include "common/process/role.h"
#include "common/process/role_security.h"
#include "common/run/run_setup.h"
#include "server/shard/service/shard_member.h"

namespace sdp {
namespace {

struct Flags : RoleFlags {
  std::string listen = "127.0.0.1:0";
  std::string advertise;  // "": where it listens
  double grace_sec = 0;
};

absl::Status Main(const Flags& flags) {
  SDP_ASSIGN_OR_RETURN(const LoadedConfig loaded, LoadConfig(flags.config, flags.sets));
  SDP_ASSIGN_OR_RETURN(const RunSetup setup, MakeRunSetup(loaded.config));
  SDP_ASSIGN_OR_RETURN(const SecurityOptions security,
                       RoleSecurity(flags, loaded.config.security()));
  SDP_RETURN_IF_ERROR(Context(CheckAddress(flags.listen, security), "--listen"));
  SDP_RETURN_IF_ERROR(Context(CheckAddress(flags.coordinator, security), "--coordinator"));
  if (!flags.advertise.empty()) {
    SDP_RETURN_IF_ERROR(Context(CheckAddress(flags.advertise, security), "--advertise"));
  }
  ShardMember::Options options;
  options.name = flags.name;
  options.listen = flags.listen;
  options.advertise = flags.advertise;
  options.metrics = flags.metrics;
  options.coordinator = flags.coordinator;
  options.security = security;
  options.outlives_run = flags.supervised;
  using ShardLives = Lives<ShardMember>;
  ShardLives lives([&] {
    options.before = std::exchange(options.instance, RandomInstance());
    return std::make_unique<ShardMember>(options, &setup);
  });
  StopOnSignal signals([&](const std::string& signal) {
    const std::string why = absl::StrCat("ended by ", signal);
    lives.Leave(why,
                [&](ShardMember& member) { member.Leave(absl::Seconds(flags.grace_sec), why); });
  });
  return lives.Run([](const absl::Status& why) {
    spdlog::warn("{}; the parameters here are given up, registering again",
                 std::string(why.message()));
  });
}

}  // namespace
}  // namespace sdp

int main(int argc, char** argv) {
  sdp::Flags flags;
  CLI::App app("Owns a part of a run's parameters and their optimizer state.", "sdp-shard");
  sdp::AddRoleFlags(app, &flags);
  app.add_option("--coordinator", flags.coordinator, "address of the coordinator")->required();
  app.add_option("--name", flags.name, "name of this shard: shard-0, shard-1, ...")->required();
  app.add_option("--listen", flags.listen,
                 "address to listen on: HOST:PORT (port 0: any free one) or unix:PATH")
      ->capture_default_str();
  app.add_option("--advertise", flags.advertise,
                 "address at which others reach it, if not the one it listens on");
  app.add_option("--grace", flags.grace_sec,
                 "seconds, after SIGTERM, until a checkpoint is complete with which others go on, "
                 "and this shard may leave the run in order; 0: none")
      ->check(CLI::Range(0.0, 1e6));
  CLI11_PARSE(app, argc, argv);
  sdp::BeginRole(flags);
  sdp::KeepFreedMemory();
  sdp::Leave(flags.name, sdp::Main(flags));
}
