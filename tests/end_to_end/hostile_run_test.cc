// A real run whose processes are attacked over their sockets while they train: it ends in time,
// with the bits of a run that was left alone, and nobody's memory has grown.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/random.h"
#include "proto/coordinator.grpc.pb.h"
#include "tests/end_to_end/train_fixture.h"
#include "tests/shard_service/raw_stream.h"

namespace sdp {
namespace {

class HostileRunTest : public TrainFixture {
 protected:
  static constexpr char kRun[] = "--set train.steps=600 --set train.eval_every=0 ";

  // Of the coordinator first, then of the shards. Empty: the run is not up yet.
  std::vector<std::string> Addresses(const std::string& run) const {
    const Outcome status = Shell(
        absl::StrCat(Program("sdp"), " status ", RunDir(run).string(), " --json 2>/dev/null"));
    const Json json = Json::parse(status.output, nullptr, /*allow_exceptions=*/false);
    std::vector<std::string> addresses;
    if (!json.is_object() || json.value("committed", -1) < 0) return addresses;
    std::ifstream file(RunDir(run) / "coordinator.address");
    std::getline(file, addresses.emplace_back());
    for (const Json& member : json["members"]) {
      if (member["role"] == "shard") addresses.push_back(member["address"]);
    }
    return addresses;
  }

  // A connection that says what is no HTTP/2, or nothing, and stays.
  static int Connect(const std::string& address, const std::string& says) {
    const size_t colon = address.rfind(':');
    int port = 0;
    EXPECT_TRUE(absl::SimpleAtoi(address.substr(colon + 1), &port)) << address;
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0 && !says.empty()) {
      (void)!send(fd, says.data(), says.size(), MSG_NOSIGNAL);
    }
    return fd;
  }
};

TEST_F(HostileRunTest, Strangers_ChangeNothing) {
  ASSERT_EQ(Train("alone", kRun).exit_status, 0);
  Outcome attacked;
  std::thread run([&] { attacked = Train("attacked", kRun); });
  std::vector<std::string> addresses;
  for (int i = 0; i < 100 && addresses.empty(); ++i) addresses = Addresses("attacked");
  EXPECT_EQ(addresses.size(), 3u);

  RandomStream random(1, 0);
  std::vector<int> sockets;
  std::vector<std::unique_ptr<RawStream>> streams;
  int refused = 0;
  for (const std::string& address : addresses) {
    for (int i = 0; i < 50; ++i) {
      std::string noise(static_cast<size_t>(random.Below(4096)), '\0');
      for (char& byte : noise) byte = static_cast<char>(random.Below(256));
      sockets.push_back(Connect(address, i % 2 == 0 ? noise : ""));
    }
  }
  // Streams in the names of strangers, and of members without their number. (The coordinator has no
  // such method at all.)
  for (const std::string& address : addresses) {
    for (int i = 0; i < 40; ++i) {
      RawStream stream(address, i % 2 == 0 ? "Push" : "Pull",
                       StreamName{Generation(1), Incarnation(1 + i % 8), random.Below(1 << 30)});
      stream.SendBytes(std::string(1000, 'x'));
      refused += stream.AwaitClosed().ok() ? 0 : 1;
    }
  }
  EXPECT_EQ(refused, 120);
  // Calls that no member would make.
  if (!addresses.empty()) {
    const auto stub = proto::Coordinator::NewStub(MakeChannel(addresses[0], {}).value());
    const auto call = [&](auto method, const auto& request) {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
      proto::Ack ack;
      return (stub.get()->*method)(&context, request, &ack).error_code();
    };
    proto::NotFinite lie;
    lie.set_generation(1);
    lie.set_worker(99);
    lie.set_what("everything");
    EXPECT_NE(call(&proto::Coordinator::Stub::ReportNotFinite, lie), grpc::StatusCode::OK);
    proto::StepDoneReport done;
    done.set_generation(1);
    done.set_shard(77);
    done.set_step(1 << 30);
    EXPECT_NE(call(&proto::Coordinator::Stub::ReportStepDone, done), grpc::StatusCode::OK);
    proto::ReadyRequest ready;
    ready.set_generation(1);
    ready.set_worker(1 << 20);
    EXPECT_NE(call(&proto::Coordinator::Stub::Ready, ready), grpc::StatusCode::OK);
  }
  run.join();
  for (const int fd : sockets) close(fd);
  EXPECT_EQ(attacked.exit_status, 0) << attacked.output;
  EXPECT_EQ(StateHash("attacked"), StateHash("alone"));
}

}  // namespace
}  // namespace sdp
