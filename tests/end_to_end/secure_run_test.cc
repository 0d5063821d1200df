// Runs with [security]: TLS and a join token on every connection.
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/end_to_end/disturbed_run.h"
#include "tests/tls/cluster_files.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// A run that is stopped once it has gone on after what happened to it.
constexpr char kUntilStopped[] =
    "--set train.steps=1000000 --set train.eval_every=0 --set checkpoint.every=0";
constexpr char kPlaintext[] =
    " --set \"security.ca=''\" --set \"security.cert=''\" --set \"security.key=''\" "
    "--set \"security.token=''\"";
constexpr char kGoOnAndStop[] = "lines $(($(wc -l < $run/metrics.jsonl) + 5)); kill -INT $top; ";

class SecureRunTest : public DisturbedRun {
 protected:
  // Each step once, and the state that an undisturbed run of as many has in plaintext.
  void ExpectNoStepLost(const Outcome& outcome) const {
    const std::vector<Json> lines = Metrics("run");
    ASSERT_GT(lines.size(), 5u) << outcome.output;
    for (size_t step = 0; step < lines.size(); ++step) {
      EXPECT_EQ(lines[step]["step"], step);
      EXPECT_EQ(lines[step]["generation"], 1);
    }
    const Outcome undisturbed = Train(
        "undisturbed",
        absl::StrCat("--set train.eval_every=0 --set train.steps=", lines.size() - 1, kPlaintext));
    ASSERT_EQ(undisturbed.exit_status, 0) << undisturbed.output;
    EXPECT_EQ(StateHash("run"), StateHash("undisturbed")) << outcome.output;
  }
  // `sdp certs --out FOLDER`, and what it prints put into the configuration.
  void Secure(const std::string& folder) {
    const Outcome made = Certs(folder);
    ASSERT_EQ(made.exit_status, 0) << made.output;
    std::ofstream(Config(), std::ios::app) << made.output.substr(made.output.find("[security]"));
  }
  Outcome Certs(const std::string& folder) const {
    return Shell(absl::StrCat(Program("sdp"), " certs --out ", (folder_ / folder).string()));
  }
  // Environment of a process with the files of another folder.
  std::string With(const std::string& folder) const {
    const std::string base = (folder_ / folder).string();
    return absl::StrCat("SDP_CA_FILE=", base, "/ca.crt SDP_CERT_FILE=", base,
                        "/sdp.crt SDP_KEY_FILE=", base, "/sdp.key SDP_TOKEN_FILE=", base,
                        "/token ");
  }
  // A worker that tries to join the run, for at most some seconds.
  std::string Stranger(const std::string& name) const {
    return absl::StrCat("timeout 4 ", Program("sdp-worker"), " --config ", Config(), " --name ",
                        name, " --coordinator $(cat $run/coordinator.address); ");
  }
  std::string Log(const std::string& member) const {
    std::ifstream file(RunDir("run") / "logs" / (member + ".log"));
    return {std::istreambuf_iterator<char>(file), {}};
  }
};

TEST_F(SecureRunTest, TrainsToTheSameBits_AndCommandsFindTheirFiles) {
  Secure("certs");
  const Outcome drained =
      During(absl::StrCat("lines 2; ", Program("sdp"),
                          " drain $run worker-3; echo drained=$?; workers 3; ", kGoOnAndStop),
             kUntilStopped);
  EXPECT_THAT(drained.output, AllOf(HasSubstr("drained=0"), HasSubstr("exit=130")));
  fs::remove_all(RunDir("run"));

  const Outcome outcome =
      During(absl::StrCat("lines 2; ", Program("sdp"), " status $run --json; echo status=$?; ",
                          Program("sdp"), " probe $run --ready; echo probed=$?; ", Program("sdp"),
                          " checkpoint $run; echo asked=$?; ", kGoOnAndStop),
             kUntilStopped);
  EXPECT_THAT(outcome.output,
              AllOf(HasSubstr("exit=130"), HasSubstr("status=0"), HasSubstr("\"worker-3\""),
                    HasSubstr("probed=0"), HasSubstr("asked=0")));
  ExpectNoStepLost(outcome);
  ASSERT_EQ(Train("tcp").exit_status, 0);
  ASSERT_EQ(Train("sockets", "--unix-sockets").exit_status, 0);
  EXPECT_EQ(StateHash("sockets"), StateHash("tcp"));
  // A run that is over has nobody to speak to, and needs no certificates.
  fs::remove_all(folder_ / "certs");
  EXPECT_EQ(Shell(absl::StrCat(Program("sdp"), " status ", RunDir("run").string())).exit_status, 0);
}

TEST_F(SecureRunTest, Strangers_AreRefused_AndTheRunGoesOn) {
  Secure("certs");
  ASSERT_EQ(Certs("theirs").exit_status, 0);
  // Of our authority, but expired.
  const auto text = [&](const char* name) {
    std::ifstream file(folder_ / "certs" / name);
    return std::string{std::istreambuf_iterator<char>(file), {}};
  };
  CertificateOptions old = ForLoopback("old");
  old.not_after = absl::Now() - absl::Minutes(1);
  const CertifiedKey expired = MakeCertificate({text("ca.crt"), text("ca.key")}, old).value();
  Replace(folder_ / "old.crt", expired.certificate);
  Replace(folder_ / "old.key", expired.key);

  const std::string old_files = absl::StrCat("SDP_CERT_FILE=", (folder_ / "old.crt").string(),
                                             " SDP_KEY_FILE=", (folder_ / "old.key").string(), " ");
  const std::string their_token =
      absl::StrCat("SDP_TOKEN_FILE=", (folder_ / "theirs/token").string(), " ");
  const std::string plain = absl::StrCat(Program("sdp"), " status $(cat $run/coordinator.address)");
  const Outcome outcome = During(
      absl::StrCat("lines 2; ", With("theirs"), Stranger("foreign"), old_files, Stranger("old"),
                   their_token, Stranger("tokenless"), plain, "; echo plain=$?; ", With("theirs"),
                   plain, "; ", With("certs"), plain, " --json; ", kGoOnAndStop),
      kUntilStopped);
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("exit=130"), HasSubstr("\"worker-3\"")));
  ExpectNoStepLost(outcome);
  // Each stranger reads what is wrong with it, and so does who looks into the coordinator's log.
  EXPECT_THAT(outcome.output,
              HasSubstr("foreign warning: refused the server 127.0.0.1: its certificate, of "
                        "\"sdp\", is signed by \"sdp authority\", which is not the authority"));
  EXPECT_THAT(Log("coordinator"), HasSubstr("refused a client: its certificate, of \"sdp\" for "
                                            "localhost, 127.0.0.1, ::1, is signed by \"sdp "
                                            "authority\", which is not"));
  EXPECT_THAT(outcome.output, HasSubstr(absl::StrCat("(TLS with security.ca = ",
                                                     (folder_ / "theirs/ca.crt").string())));
  EXPECT_THAT(outcome.output, HasSubstr("old.crt"));
  EXPECT_THAT(outcome.output,
              HasSubstr("peers would refuse this process: its certificate, of \"old\", expired"));
  EXPECT_THAT(outcome.output, HasSubstr("tokenless: register: "));
  EXPECT_THAT(outcome.output, HasSubstr("compare the files that security.token names"));
  EXPECT_THAT(Log("coordinator"),
              HasSubstr("refused a call of \"sdp\" (/sdp.proto.Coordinator/RegisterWorker): "
                        "another join token than ours"));
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("wants TLS where this side has no [security]"),
                                    Not(HasSubstr("plain=0"))));
}

// As on Kubernetes, where no certificate knows a Pod's address.
TEST_F(SecureRunTest, ServersOfAName_TrainWhateverTheirAddresses) {
  Secure("certs");
  const auto text = [&](const char* name) {
    std::ifstream file(folder_ / "certs" / name);
    return std::string{std::istreambuf_iterator<char>(file), {}};
  };
  CertificateOptions pod = ForLoopback("pod");
  pod.hosts = {"sdp"};
  const CertifiedKey made = MakeCertificate({text("ca.crt"), text("ca.key")}, pod).value();
  Replace(folder_ / "certs/sdp.crt", made.certificate);
  Replace(folder_ / "certs/sdp.key", made.key);
  std::ofstream(Config(), std::ios::app) << "server_name = \"sdp\"\n";
  const std::string status =
      absl::StrCat(Program("sdp"), " status $(cat $run/coordinator.address) > /dev/null; ");
  const Outcome outcome =
      During(absl::StrCat("lines 2; ", Program("sdp"), " probe $run --ready; echo probed=$?; ",
                          With("certs"), "SDP_SERVER_NAME=sdp ", status, "echo named=$?; ",
                          With("certs"), status, "echo nameless=$?; ", kGoOnAndStop),
             kUntilStopped);
  EXPECT_THAT(outcome.output,
              AllOf(HasSubstr("exit=130"), HasSubstr("probed=0"), HasSubstr("named=0"),
                    HasSubstr("nameless=1"), HasSubstr("is for sdp, not for 127.0.0.1")));
}

// Another authority takes over while the run trains, and then everybody connects anew.
TEST_F(SecureRunTest, RotatedCertificates_LoseNoStep) {
  Secure("live");
  ASSERT_EQ(Certs("next").exit_status, 0);
  fs::copy_file(folder_ / "live/token", folder_ / "next/token",
                fs::copy_options::overwrite_existing);
  const std::string live = (folder_ / "live").string(), next = (folder_ / "next").string();
  const Outcome outcome = During(
      absl::StrCat(
          "lines 5; cat ", live, "/ca.crt ", next, "/ca.crt > ", live, "/both; ",  //
          "mv ", live, "/both ", live, "/ca.crt; ",                                //
          "for end in key crt; do cp ", next, "/sdp.$end ", live, "/new; mv ", live, "/new ", live,
          "/sdp.$end; done; ",
          // Until the coordinator shows the new one; who trusts that alone may then ask it.
          "for i in $(seq 200); do ", With("next"), Program("sdp"),
          " status $(cat $run/coordinator.address) > /dev/null 2>&1 && break; sleep 0.05; done; ",
          With("next"), Program("sdp"), " status $(cat $run/coordinator.address) > /dev/null; ",
          "echo rotated=$?; cp ", next, "/ca.crt ", live, "/new; mv ", live, "/new ", live,
          "/ca.crt; ", Kill("KILL", "coordinator"), kGoOnAndStop),
      kUntilStopped);
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("rotated=0"), HasSubstr("exit=130"),
                                    HasSubstr("coordinator ended: signal 9")));
  ExpectNoStepLost(outcome);
}

}  // namespace
}  // namespace sdp
