// Real processes train while one member, which this test plays, attacks their shards in every step
// and does its duty only then: the run ends with the bits of a run whose members were all honest,
// and the shards' memory has not grown.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/config/config.h"
#include "common/control/heartbeats.h"
#include "common/run/run_setup.h"
#include "proto/coordinator.grpc.pb.h"
#include "tests/end_to_end/train_fixture.h"
#include "tests/shard_service/raw_stream.h"
#include "worker/data/dataset.h"

namespace sdp {
namespace {

using Binding = proto::BeginStepResponse::Binding;

constexpr uint64_t kInstance = 4711;

// A worker without samples: of each fragment it holds it owes one header with n = 0, and nothing
// else. Blocking calls.
class Member {
 public:
  Member(const RunSetup& setup, const std::string& coordinator)
      : setup_(setup),
        coordinator_(coordinator),
        stub_(proto::Coordinator::NewStub(MakeChannel(coordinator, {}).value())) {}

  bool Join(const std::string& name, const Dataset& data) {
    proto::RegisterWorkerRequest request;
    request.set_name(name);
    request.set_config_hash(setup_.config_hash);
    request.set_instance(kInstance);
    proto::RegisterWorkerResponse response;
    do {
      if (!Call(&proto::Coordinator::Stub::RegisterWorker, request, &response)) return false;
    } while (!response.has_admission());
    admission_ = response.admission();
    Heartbeats::Options heartbeats;
    heartbeats.address = coordinator_;
    heartbeats.generation = Generation(admission_.generation());
    heartbeats_ = std::make_unique<Heartbeats>(
        MakeChannel(coordinator_, {}, Sockets::kOwn).value(), me(),
        [] { return Heartbeats::State{"plotting"}; }, [](const absl::Status&) {}, heartbeats);
    proto::ReadyRequest ready;
    ready.set_generation(admission_.generation());
    ready.set_worker(admission_.incarnation());
    ready.set_train_samples(data.samples());
    ready.set_train_checksum(data.checksum());
    proto::Ack ack;
    return Call(&proto::Coordinator::Stub::Ready, ready, &ack);
  }

  bool Begin(Step step, Binding* binding) {
    proto::BeginStepRequest request;
    request.set_generation(admission_.generation());
    request.set_worker(admission_.incarnation());
    request.set_step(step);
    request.set_known_plan(-1);
    proto::BeginStepResponse response;
    do {
      if (!Call(&proto::Coordinator::Stub::BeginStep, request, &response)) return false;
    } while (!response.has_binding());
    *binding = response.binding();
    return true;
  }

  // Headers of all it holds, each answered `received`; then its report.
  void DoDuty(const Binding& binding) {
    const std::vector<FragmentId> held = Held(binding);
    for (int shard = 0; shard < admission_.shards_size(); ++shard) {
      const std::unique_ptr<RawStream> push = Open(shard, "Push");
      for (const FragmentId fragment : held) {
        if (OwnerOf(fragment) != shard) continue;
        push->SendFragment(Key(binding, fragment, 0), {});
        const FrameHeader answer = push->AwaitFrame().first;
        EXPECT_EQ(answer.answer, Answer::kReceived) << AnswerName(answer.answer);
      }
    }
    proto::WorkerStepReport report;
    report.set_generation(admission_.generation());
    report.set_worker(admission_.incarnation());
    report.set_step(binding.step());
    proto::Ack ack;
    EXPECT_TRUE(Call(&proto::Coordinator::Stub::ReportStep, report, &ack));
  }

  // A newer stream takes the place of an older one of the same kind.
  std::unique_ptr<RawStream> Open(int shard, const std::string& method,
                                  absl::Duration life = kTestDeadline) {
    return std::make_unique<RawStream>(
        admission_.shards(shard), method,
        StreamName{Generation(admission_.generation()), me(), kInstance}, life);
  }
  PushKey Key(const Binding& binding, FragmentId fragment, int64_t terms) const {
    PushKey key;
    key.generation = Generation(binding.generation());
    key.view = ViewId(binding.view());
    key.term = Term(binding.term());
    key.step = binding.step();
    key.worker = me();
    key.fragment = fragment;
    key.terms = terms;
    return key;
  }
  std::vector<FragmentId> Held(const Binding& binding) const {
    std::vector<FragmentId> held;
    for (const auto& unit : binding.units().units()) {
      const auto& block = setup_.layout.block(UnitId(unit.unit()));
      held.insert(held.end(), block.begin(), block.end());
    }
    return held;
  }
  int OwnerOf(FragmentId fragment) const {
    return setup_.layout.Place(admission_.shards_size())[static_cast<size_t>(fragment.value())]
        .value();
  }

  // The most memory that a shard has said it held.
  int64_t ShardsPeak() {
    proto::RunStatus status;
    EXPECT_TRUE(Call(&proto::Coordinator::Stub::GetStatus, proto::GetStatusRequest(), &status));
    int64_t peak = 0;
    for (const auto& member : status.members()) {
      if (member.role() == "shard") peak = std::max(peak, member.peak_memory_bytes());
    }
    return peak;
  }

 private:
  Incarnation me() const { return Incarnation(admission_.incarnation()); }

  template <typename Request, typename Response>
  bool Call(grpc::Status (proto::Coordinator::Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
            const Request& request, Response* response) {
    for (const absl::Time deadline = absl::Now() + kTestDeadline; absl::Now() < deadline;) {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
      const grpc::Status status = (stub_.get()->*method)(&context, request, response);
      if (status.ok()) return true;
      if (status.error_code() == grpc::StatusCode::UNAVAILABLE) continue;
      ADD_FAILURE() << status.error_message();
      return false;
    }
    ADD_FAILURE() << "the coordinator does not answer";
    return false;
  }

  const RunSetup& setup_;
  const std::string coordinator_;
  const std::unique_ptr<proto::Coordinator::Stub> stub_;
  proto::RegisterWorkerResponse::Admission admission_;
  std::unique_ptr<Heartbeats> heartbeats_;
};

// One step's attacks, all on the shard that owns `target`, which this member holds.
class Attacker {
 public:
  Attacker(Member* member, const Binding& binding, FragmentId target, int64_t elements,
           int fragments)
      : member_(*member),
        binding_(binding),
        target_(target),
        elements_(elements),
        fragments_(fragments),
        shard_(member->OwnerOf(target)) {}

  void FramesThatCannotBe() {
    Ends("fewer bytes than the header says", absl::StatusCode::kInvalidArgument,
         [&](RawStream& push) {
           FrameHeader header = Part(Key(), elements_);
           header.payload_bytes = 40;
           push.SendAsIs(header, std::string(36, '\0'));
         });
    Ends("a damaged header", absl::StatusCode::kDataLoss, [&](RawStream& push) {
      FrameHeaderBytes bytes = EncodeHeader(Part(Key(), elements_));
      bytes[33] ^= 1;
      push.SendBytes(std::string(bytes.data(), bytes.size()));
    });
    Ends("no frame at all", absl::StatusCode::kInvalidArgument,
         [&](RawStream& push) { push.SendBytes(std::string(300, 'x')); });
    Ends("a frame of another worker", absl::StatusCode::kInvalidArgument, [&](RawStream& push) {
      PushKey key = Key();
      key.worker = Incarnation(key.worker.value() == 1 ? 2 : 1);
      push.Send(Part(key, elements_), Numbers(10));
    });
  }

  void ContributionsThatCannotBe() {
    Refused("an unknown fragment", Answer::kInvalid, [&](RawStream& push) {
      PushKey key = Key();
      key.fragment = FragmentId(fragments_ + 5);
      push.Send(Part(key, 10), Numbers(10));
    });
    Refused("another size", Answer::kInvalid,
            [&](RawStream& push) { push.Send(Part(Key(), elements_ + 1), Numbers(10)); });
    Refused("parts that overlap", Answer::kInvalid, [&](RawStream& push) {
      FrameHeader part = Part(Key(), elements_);
      push.Send(part, Numbers(10));
      part.offset = 4 * 5;
      push.Send(part, Numbers(10));
    });
    Refused("a wrong checksum", Answer::kBadChecksum, [&](RawStream& push) {
      FrameHeader whole = Part(Key(), elements_);
      whole.payload_bytes = 4 * elements_;
      whole.checksum = 1;
      push.SendAsIs(whole, Numbers(elements_));
    });
    Refused("another view", Answer::kInvalid, [&](RawStream& push) {
      PushKey key = Key();
      key.view = ViewId(key.view.value() + 1);
      push.SendFragment(key, std::vector<float>(static_cast<size_t>(elements_)));
    });
    Refused("another generation", Answer::kStaleGeneration, [&](RawStream& push) {
      PushKey key = Key();
      key.generation = Generation(key.generation.value() + 1);
      push.SendFragment(key, std::vector<float>(static_cast<size_t>(elements_)));
    });
  }

  void Floods() {
    // Stops half-way.
    member_.Open(shard_, "Push")->Send(Part(Key(), elements_), Numbers(elements_ / 2));
    std::vector<std::unique_ptr<RawStream>> silent;  // each takes the place of the one before
    for (int i = 0; i < 50; ++i)
      silent.push_back(member_.Open(shard_, i % 2 == 0 ? "Push" : "Pull"));
    silent.clear();
    const std::vector<FragmentId> many(5000, target_);
    // A writer that reads nothing may not hear of its end before its own deadline.
    const auto asking = member_.Open(shard_, "Pull", absl::Seconds(5));
    while (asking->SendWant(Key(), many)) continue;
    EXPECT_FALSE(asking->AwaitClosed().ok());
    const auto beginning = member_.Open(shard_, "Push", absl::Seconds(5));
    for (Step step = binding_.step() + 4; beginning->Send(Part(Key(step), elements_), Numbers(1));
         ++step)
      continue;
    EXPECT_FALSE(beginning->AwaitClosed().ok());
  }

 private:
  PushKey Key() const { return Key(binding_.step()); }
  PushKey Key(Step step) const {
    PushKey key = member_.Key(binding_, target_, /*terms=*/15);
    key.step = step;
    return key;
  }
  static FrameHeader Part(const PushKey& key, int64_t elements) {
    return PushHeader(key, elements, WireType::kF32);
  }
  static std::string Numbers(int64_t count) {
    return std::string(static_cast<size_t>(4 * count), '\0');
  }

  void Ends(const char* what, absl::StatusCode code, const std::function<void(RawStream&)>& send) {
    const auto push = member_.Open(shard_, "Push");
    send(*push);
    const absl::Status end = push->AwaitClosed();
    EXPECT_EQ(end.code(), code) << what << ": " << end;
  }
  void Refused(const char* what, Answer answer, const std::function<void(RawStream&)>& send) {
    const auto push = member_.Open(shard_, "Push");
    send(*push);
    const auto frame = push->NextFrame();
    ASSERT_TRUE(frame.ok()) << what << ": " << frame.status();
    EXPECT_EQ(frame->first.answer, answer)
        << what << ": " << AnswerName(frame->first.answer) << ", " << frame->second;
  }

  Member& member_;
  const Binding& binding_;
  const FragmentId target_;
  const int64_t elements_;
  const int fragments_;
  const int shard_;
};

class HostileMemberTest : public TrainFixture {
 protected:
  // Three samples a step for four workers: worker-3 has none.
  static constexpr char kRun[] =
      "--set train.steps=4 --set train.global_batch=3 --set data.validation=[] --set "
      "train.clip_norm=0";
};

TEST_F(HostileMemberTest, EachStepAttacked_SameBits_BoundedMemory) {
  ASSERT_EQ(Train("honest", kRun).exit_status, 0);

  const auto loaded = LoadConfig((RunDir("honest") / "config.toml").string(), {});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const auto setup = MakeRunSetup(loaded->config);
  ASSERT_TRUE(setup.ok()) << setup.status();
  const auto data = OpenText({(folder_ / "train.txt").string()}, 15);
  ASSERT_TRUE(data.ok()) << data.status();
  const std::string common = absl::StrCat(
      " --config ", Config(), " --set run.dir=", RunDir("attacked").string(), " ", kRun);
  std::string script = absl::StrCat(
      "bash -c '", Program("sdp-coordinator"), common, " --address-file address & top=$!; ",
      "for i in $(seq 300); do test -s address && break; sleep 0.1; done; ");
  for (const char* shard : {"shard-0", "shard-1"})
    absl::StrAppend(&script, Program("sdp-shard"), common, " --coordinator $(cat address) --name ",
                    shard, " & ");
  for (const char* worker : {"worker-0", "worker-1", "worker-2"})
    absl::StrAppend(&script, Program("sdp-worker"), common, " --coordinator $(cat address) --name ",
                    worker, " & ");
  Outcome outcome;
  std::thread run([&] { outcome = Shell(script + "wait $top; echo exit=$?; wait'"); });
  std::string address;
  for (const absl::Time deadline = absl::Now() + kTestDeadline;
       address.empty() && absl::Now() < deadline;) {
    std::ifstream file(folder_ / "address");
    std::getline(file, address);
  }
  int64_t peak = 0;
  Step steps = 0;
  {
    Member member(*setup, address);
    Binding binding;
    if (member.Join("worker-3", **data)) {
      for (Step step = 0; member.Begin(step, &binding) && !binding.closing(); ++step) {
        EXPECT_EQ(binding.portion_size(), 0);
        const std::vector<FragmentId> held = member.Held(binding);
        const FragmentId target = held[static_cast<size_t>(step) % held.size()];
        Attacker attacker(&member, binding, target, setup->layout.fragment(target).size,
                          setup->layout.fragments());
        attacker.FramesThatCannotBe();
        attacker.ContributionsThatCannotBe();
        if (step == 1) attacker.Floods();  // takes the writers' own deadlines
        peak = std::max(peak, member.ShardsPeak());
        member.DoDuty(binding);
        ++steps;
      }
      EXPECT_TRUE(binding.closing());
    }
    // The closing binding asks nothing of it; it hears that the run is complete as everybody does.
    if (!HasFailure()) {
      EXPECT_TRUE(member.Begin(steps + 1, &binding) && binding.finished());
    }
  }
  run.join();
  EXPECT_EQ(steps, 4);
  EXPECT_THAT(outcome.output, ::testing::HasSubstr("exit=0"));
  EXPECT_EQ(StateHash("attacked"), StateHash("honest"));
  EXPECT_NE(StateHash("attacked"), "");
  // A shard of this model has 20 to 40 MiB; what was asked for and begun without limits would be
  // gigabytes.
  EXPECT_LT(peak, 150 << 20);
}

}  // namespace
}  // namespace sdp
