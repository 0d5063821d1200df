// Servers and clients with certificates and tokens of the same cluster, and of others.
#include "common/rpc/identity.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/mutex.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "common/rpc/status_code.h"
#include "proto/shard.grpc.pb.h"
#include "tests/tls/cluster_files.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class FakeShard final : public proto::Shard::CallbackService {
 public:
  grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context,
                                   const proto::FinishRequest*, proto::ControlResponse*) override {
    leaked = leaked || context->client_metadata().count("authorization") > 0;
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status(grpc::StatusCode::ABORTED, "served"));
    return reactor;
  }
  bool leaked = false;  // the token came with the call
};

const absl::Status kServed = absl::AbortedError("served");

absl::Status AskOn(const std::shared_ptr<grpc::Channel>& channel) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  proto::ControlResponse response;
  return FromGrpc(proto::Shard::NewStub(channel)->Finish(&context, {}, &response));
}

// On a connection of its own, so that there is a handshake each time.
absl::Status Ask(const std::string& address, const SecurityOptions& security) {
  const auto channel = MakeChannel(address, security, Sockets::kOwn);
  return channel.ok() ? AskOn(*channel) : channel.status();
}

// A socket; negative: none.
int ConnectTo(const std::string& address) {
  int port = 0;
  if (!absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port)) return -1;
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int connected = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(connected, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0) return connected;
  close(connected);
  return -1;
}

// The lines that one side logs.
class Lines {
 public:
  Identity::Log Log() {
    return [this](const std::string& line) {
      MutexLock lock(&mutex_);
      lines_.push_back(line);
    };
  }
  std::vector<std::string> All() const ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    return lines_;
  }
  // In TLS 1.3 a client may know how its call ended before the server has looked at it.
  std::vector<std::string> AwaitSome() const ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(&mutex_);
    const auto some = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !lines_.empty(); };
    mutex_.AwaitWithDeadline(absl::Condition(&some), absl::Now() + absl::Seconds(20));
    return lines_;
  }

 private:
  mutable Mutex mutex_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);
};

class IdentityTest : public testing::Test {
 protected:
  IdentityTest() {
    ours_.Certify(ForLoopback("server"));
    ours_.Certify(ForLoopback("worker-0"));
  }
  ~IdentityTest() override {
    server_ = nullptr;
    fs::remove_all(folder_);
  }

  static SecurityOptions Load(const RunConfig::Security& files, Lines* lines) {
    return LoadSecurity(files, {}, lines->Log()).value();
  }
  std::string Serve(const SecurityOptions& security, const std::string& listen = "127.0.0.1:0") {
    server_ = RpcServer::Start(listen, security, {&shard_}).value();
    return server_->address();
  }
  std::string ServeOurs() { return Serve(Load(ours_.For("server"), &server_lines_)); }
  SecurityOptions Client() { return Load(ours_.For("worker-0"), &client_lines_); }

  // Asks until the answer is another one than `old`: files are looked at once a second.
  absl::Status AskUntilNot(const absl::StatusCode old, const std::string& address,
                           const SecurityOptions& security) {
    const absl::Time deadline = absl::Now() + absl::Seconds(30);
    absl::Status status;
    do {
      status = Ask(address, security);
      absl::SleepFor(absl::Milliseconds(20));
    } while (status.code() == old && absl::Now() < deadline);
    return status;
  }

  static fs::path NewFolder() {
    std::string name = (fs::temp_directory_path() / "sdp-identity-XXXXXX").string();
    return ::mkdtemp(name.data());
  }

  const fs::path folder_ = NewFolder();
  ClusterFiles ours_{folder_ / "ours", "ours"}, theirs_{folder_ / "theirs", "theirs"};
  Lines server_lines_, client_lines_;
  FakeShard shard_;
  std::unique_ptr<RpcServer> server_;
};

TEST_F(IdentityTest, OfOneCluster_IsServed_WhateverTheAddress) {
  const SecurityOptions security = Load(ours_.For("server"), &server_lines_);
  const SecurityOptions client = Client();
  EXPECT_EQ(Ask(Serve(security, "[::1]:0"), client), kServed);
  EXPECT_EQ(Ask(Serve(security, absl::StrCat("unix:", folder_.string(), "/s")), client), kServed);
  std::string address = Serve(security, "0.0.0.0:0");  // no --insecure
  address.replace(0, address.rfind(':'), "localhost");
  EXPECT_EQ(Ask(address, client), kServed);
  EXPECT_FALSE(shard_.leaked);
  EXPECT_THAT(server_lines_.All(), IsEmpty());
  EXPECT_THAT(client_lines_.All(), IsEmpty());
}

TEST_F(IdentityTest, ServerOfAnotherCluster_IsRefused_AndBothSay) {
  theirs_.Certify(ForLoopback("worker-0"));
  const SecurityOptions client = Load(theirs_.For("worker-0"), &client_lines_);
  const absl::Status status = Ask(ServeOurs(), client);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  const std::string why =
      "refused the server 127.0.0.1: its certificate, of \"server\", is signed by \"ours\", which "
      "is not the authority in security.ca";
  EXPECT_THAT(status.message(), HasSubstr(why));
  EXPECT_THAT(status.message(), Not(HasSubstr("Custom verification")));
  EXPECT_THAT(client_lines_.All(), Contains(why));
  EXPECT_THAT(
      server_lines_.AwaitSome(),
      Contains(
          "refused a client: its certificate, of \"worker-0\" for localhost, "
          "127.0.0.1, ::1, is signed by \"theirs\", which is not the authority in security.ca"));
}

TEST_F(IdentityTest, ClientOfAnotherCluster_ThatTrustsOurs_IsRefusedToo) {
  theirs_.Certify(ForLoopback("worker-0"));
  Replace(theirs_.folder() / "ca.crt",
          theirs_.authority().certificate + ours_.authority().certificate);
  const SecurityOptions client = Load(theirs_.For("worker-0"), &client_lines_);
  const absl::Status status = Ask(ServeOurs(), client);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("refused this side's certificate"));
  EXPECT_THAT(server_lines_.AwaitSome(), Contains(HasSubstr("signed by \"theirs\"")));
  EXPECT_FALSE(Ask(server_->address(), client).ok());
  EXPECT_EQ(server_lines_.All().size(), 1u);  // said once a minute
}

TEST_F(IdentityTest, Expired_RefusesToStart_AndIsRefusedByOthers) {
  const SecurityOptions client = Client();
  const std::string address = ServeOurs();
  ASSERT_EQ(Ask(address, client), kServed);
  CertificateOptions expired = ForLoopback("worker-0");
  expired.not_after = absl::Now() - absl::Minutes(1);
  ours_.Certify(expired);
  const auto again = LoadSecurity(ours_.For("worker-0"), {}, nullptr);
  EXPECT_TRUE(absl::IsFailedPrecondition(again.status()));
  EXPECT_THAT(again.status().message(), AllOf(HasSubstr("worker-0.crt"), HasSubstr("expired at ")));
  // The process that runs takes it up, which shows that it looks.
  const absl::Status status = AskUntilNot(kServed.code(), address, client);
  EXPECT_THAT(status.message(), HasSubstr("refused this side's certificate"));
  EXPECT_THAT(
      server_lines_.AwaitSome(),
      Contains(HasSubstr("refused a client: its certificate, of \"worker-0\" for localhost, "
                         "127.0.0.1, ::1, expired at")));
}

TEST_F(IdentityTest, ServerThatIsNotYetValid_OrForAnotherHost_IsRefused) {
  const SecurityOptions client = Client();
  const std::string address = ServeOurs();
  CertificateOptions early = ForLoopback("server");
  early.not_before = absl::Now() + absl::Minutes(30);
  ours_.Certify(early);
  absl::Status status = AskUntilNot(kServed.code(), address, client);
  EXPECT_THAT(status.message(), HasSubstr("\"server\", is not valid before "));
  CertificateOptions elsewhere = ForLoopback("elsewhere");
  elsewhere.hosts = {"shard-0.example.org"};
  ours_.Certify(elsewhere);
  status = Ask(Serve(Load(ours_.For("elsewhere"), &server_lines_)), client);
  EXPECT_THAT(status.message(), HasSubstr("is for shard-0.example.org, not for 127.0.0.1"));
  EXPECT_THAT(client_lines_.All(), Contains(HasSubstr("not for 127.0.0.1")));
}

// A server whose addresses no certificate knows.
TEST_F(IdentityTest, ServerName_IsAskedFor_WhateverTheAddress) {
  CertificateOptions pod = ForLoopback("pod");
  pod.hosts = {"sdp"};
  ours_.Certify(pod);
  RunConfig::Security files = ours_.For("pod");
  EXPECT_THAT(Ask(Serve(Load(files, &server_lines_)), Client()).message(),
              HasSubstr("is for sdp, not for 127.0.0.1"));
  files.set_server_name("sdp");
  const SecurityOptions named = Load(files, &client_lines_);
  std::string address = Serve(named, "0.0.0.0:0");
  address.replace(0, address.rfind(':'), "127.0.0.1");
  EXPECT_EQ(Ask(address, named), kServed);
  address.replace(0, address.rfind(':'), "localhost");
  EXPECT_EQ(Ask(address, named), kServed);
  // A client's own certificate needs no name.
  RunConfig::Security of_client = ours_.For("worker-0");
  of_client.set_server_name("sdp");
  EXPECT_EQ(Ask(address, Load(of_client, &client_lines_)), kServed);
}

TEST_F(IdentityTest, ServerOfAnotherName_IsRefused_EvenIfForItsAddress) {
  RunConfig::Security files = ours_.For("worker-0");
  files.set_server_name("sdp");
  const absl::Status status = Ask(ServeOurs(), Load(files, &client_lines_));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  const std::string why =
      "refused the server 127.0.0.1 (security.server_name): its certificate, of \"server\", is for "
      "localhost, 127.0.0.1, ::1, not for sdp";
  EXPECT_THAT(status.message(), HasSubstr(why));
  EXPECT_THAT(client_lines_.All(), Contains(why));
  // A stranger's certificate has whatever name he likes.
  CertificateOptions same_name = ForLoopback("worker-0");
  same_name.hosts = {"sdp"};
  theirs_.Certify(same_name);
  const absl::Status strange =
      Ask(Serve(Load(theirs_.For("worker-0"), &server_lines_)), Load(files, &client_lines_));
  EXPECT_THAT(strange.message(), HasSubstr("signed by \"theirs\""));
}

TEST_F(IdentityTest, ServerName_ThatItsOwnCertificateLacks_DoesNotListen) {
  RunConfig::Security files = ours_.For("server");
  files.set_server_name("sdp");
  const absl::Status status =
      RpcServer::Start("127.0.0.1:0", Load(files, &server_lines_), {&shard_}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("clients would refuse this server"), HasSubstr("server_name = sdp"),
                    HasSubstr("is for localhost, 127.0.0.1, ::1, not for sdp")));
}

TEST_F(IdentityTest, ServerName_ThatIsNone_OrWithoutTls_IsRefused) {
  RunConfig::Security files = ours_.For("server");
  files.set_server_name("*.example.org");
  const absl::Status status = LoadSecurity(files, {}, nullptr).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("security.server_name = \"*.example.org\""));
  RunConfig::Security alone;
  alone.set_server_name("sdp");
  EXPECT_THAT(LoadSecurity(alone, {}, nullptr).status().message(),
              HasSubstr("security.ca is missing"));
}

TEST_F(IdentityTest, AnotherToken_IsUnauthenticated_AndNobodySaysIt) {
  const std::string before = "another-token-of-a-cluster";
  Replace(folder_ / "token", before);
  RunConfig::Security files = ours_.For("worker-0");
  files.set_token((folder_ / "token").string());
  const absl::Status status = Ask(ServeOurs(), Load(files, &client_lines_));
  EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr("security.token"), Not(HasSubstr(before))));
  EXPECT_THAT(server_lines_.All(), Contains("refused a call of \"worker-0\" (/sdp.proto.Shard/"
                                            "Finish): another join token than ours"));
}

TEST_F(IdentityTest, NoToken_IsUnauthenticated) {
  const std::string address = ServeOurs();
  const RunConfig::Security files = ours_.For("worker-0");
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(
      std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
          files.key(), files.cert(), files.ca(), 1));
  options.watch_identity_key_cert_pairs();
  options.watch_root_certs();
  const absl::Status status =
      AskOn(grpc::CreateChannel(address, grpc::experimental::TlsCredentials(options)));
  EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("without a join token: set security.token"));
  EXPECT_THAT(server_lines_.All(), Contains(HasSubstr("): no join token")));
}

TEST_F(IdentityTest, NoCertificate_IsRefused) {
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = ours_.authority().certificate;
  const absl::Status status =
      AskOn(grpc::CreateChannel(ServeOurs(), grpc::SslCredentials(options)));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
}

// Who connects and does not come to the end of the handshake is let go, and meanwhile keeps nobody
// waiting.
TEST_F(IdentityTest, HandshakesThatDoNotEnd_AreEnded) {
  const std::string address = ServeOurs();
  // The begin of a ClientHello that claims 512 bytes.
  const std::string half_hello("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11);
  std::vector<pollfd> strangers;
  for (int i = 0; i < 100; ++i) {
    const int socket = ConnectTo(address);
    ASSERT_GE(socket, 0);
    if (i % 2 == 0) {
      ASSERT_EQ(send(socket, half_hello.data(), half_hello.size(), 0), 11);
    }
    strangers.push_back({socket, POLLIN, 0});
  }
  const absl::Time begin = absl::Now();
  testing::internal::CaptureStderr();
  EXPECT_EQ(Ask(address, Client()), kServed);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
  for (pollfd& stranger : strangers) {
    const absl::Duration left = begin + absl::Seconds(25) - absl::Now();
    ASSERT_EQ(poll(&stranger, 1, static_cast<int>(absl::ToInt64Milliseconds(left))), 1);
    char byte = 0;
    EXPECT_LE(recv(stranger.fd, &byte, 1, 0), 0);  // the end, not a word
    close(stranger.fd);
  }
  // gRPC says it, but not a hundred times.
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, HasSubstr("Handshake timed out"));
  EXPECT_LT(std::count(said.begin(), said.end(), '\n'), 20) << said;
}

TEST_F(IdentityTest, PlaintextOnOneSide_IsNamed) {
  const absl::Status plain_client = Ask(ServeOurs(), {});
  EXPECT_TRUE(absl::IsUnavailable(plain_client)) << plain_client;
  EXPECT_THAT(plain_client.message(), HasSubstr("wants TLS where this side has no [security]"));
  const absl::Status plain_server = Ask(Serve({}), Client());
  EXPECT_TRUE(absl::IsUnavailable(plain_server)) << plain_server;
  EXPECT_THAT(plain_server.message(), HasSubstr("the server has no [security]"));
}

TEST_F(IdentityTest, NewFiles_CountFromTheNextConnectionOn) {
  const SecurityOptions server = Load(ours_.For("server"), &server_lines_);
  const std::string address = Serve(server);
  ASSERT_EQ(Ask(address, server), kServed);  // as roles do, it dials too
  const auto channel = MakeChannel(address, Client()).value();
  ASSERT_EQ(AskOn(channel), kServed);
  // The server moves to another authority, and trusts both meanwhile.
  Replace(ours_.folder() / "ca.crt",
          ours_.authority().certificate + theirs_.authority().certificate);
  theirs_.Certify(ForLoopback("server"));
  theirs_.Certify(ForLoopback("worker-1"));
  fs::rename(theirs_.folder() / "server.key", ours_.folder() / "server.key");
  fs::rename(theirs_.folder() / "server.crt", ours_.folder() / "server.crt");
  fs::copy_file(ours_.folder() / "token", theirs_.folder() / "token",
                fs::copy_options::overwrite_existing);
  Lines lines;
  const SecurityOptions trusts_the_new_one = Load(theirs_.For("worker-1"), &lines);
  EXPECT_EQ(AskUntilNot(absl::StatusCode::kUnavailable, address, trusts_the_new_one), kServed);
  EXPECT_EQ(AskOn(channel), kServed);  // on the connection from before
}

// As Kubernetes updates a Secret's volume: the files are links through `..data`, a link to a
// folder, and another link takes its place.
TEST_F(IdentityTest, NewFilesBehindLinks_CountFromTheNextConnectionOn) {
  const fs::path volume = folder_ / "volume";
  fs::create_directories(volume);
  const auto publish = [&](const std::string& version, ClusterFiles& of, const std::string& ca) {
    const fs::path data = volume / version;
    fs::create_directories(data);
    fs::copy_file(of.folder() / "server.key", data / "sdp.key");
    fs::copy_file(of.folder() / "server.crt", data / "sdp.crt");
    fs::copy_file(ours_.folder() / "token", data / "token");
    std::ofstream(data / "ca.crt") << ca;
    fs::create_directory_symlink(version, volume / "..data_tmp");
    fs::rename(volume / "..data_tmp", volume / "..data");
  };
  publish("..1", ours_, ours_.authority().certificate);
  RunConfig::Security files;
  const auto link = [&](const char* name) {
    fs::create_symlink(fs::path("..data") / name, volume / name);
    return (volume / name).string();
  };
  files.set_ca(link("ca.crt"));
  files.set_cert(link("sdp.crt"));
  files.set_key(link("sdp.key"));
  files.set_token(link("token"));
  const SecurityOptions pod = Load(files, &server_lines_);
  const std::string address = Serve(pod);
  const auto channel = MakeChannel(address, pod).value();
  ASSERT_EQ(AskOn(channel), kServed);

  theirs_.Certify(ForLoopback("server"));
  theirs_.Certify(ForLoopback("worker-1"));
  fs::copy_file(ours_.folder() / "token", theirs_.folder() / "token",
                fs::copy_options::overwrite_existing);
  publish("..2", theirs_, theirs_.authority().certificate);
  fs::remove_all(volume / "..1");
  Lines lines;
  const SecurityOptions trusts_the_new_one = Load(theirs_.For("worker-1"), &lines);
  EXPECT_EQ(AskUntilNot(absl::StatusCode::kUnavailable, address, trusts_the_new_one), kServed);
  EXPECT_EQ(AskUntilNot(absl::StatusCode::kUnavailable, address, pod), kServed);  // as a client
  EXPECT_EQ(AskOn(channel), kServed);  // on the connection from before
}

TEST_F(IdentityTest, FilesThatAreNone_AreNamed) {
  RunConfig::Security files = ours_.For("worker-0");
  files.set_ca((folder_ / "nowhere").string());
  absl::Status status = LoadSecurity(files, {}, nullptr).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr("security.ca"), HasSubstr("nowhere")));
  files = ours_.For("worker-0");
  files.set_key(ours_.For("server").key());
  status = LoadSecurity(files, {}, nullptr).status();
  EXPECT_THAT(status.message(), AllOf(HasSubstr("security.key is not the key of security.cert"),
                                      HasSubstr("server.key"), HasSubstr("worker-0.crt")));
  files = ours_.For("worker-0");
  files.clear_token();
  EXPECT_THAT(LoadSecurity(files, {}, nullptr).status().message(), HasSubstr("security.token"));
  Replace(folder_ / "token", "short");
  files.set_token((folder_ / "token").string());
  status = LoadSecurity(files, {}, nullptr).status();
  EXPECT_THAT(status.message(), AllOf(HasSubstr("16 to 1024"), Not(HasSubstr("short"))));
}

}  // namespace
}  // namespace sdp
