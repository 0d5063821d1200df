// HttpServer against clients that are wrong, slow or hostile.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/http/server.h"
#include "tests/http/http_client.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

const char kToken[] = "0123456789abcdef0123";

// Says which path it was asked for.
std::unique_ptr<HttpServer> Serve(const std::string& token = "", size_t padding = 0) {
  auto server = HttpServer::Start(
      {.address = "127.0.0.1:0", .token = token, .patience = absl::Seconds(2)},
      [padding](const HttpRequest& request) {
        return HttpResponse{.body = absl::StrCat("path ", request.path, std::string(padding, '.'))};
      });
  EXPECT_TRUE(server.ok()) << server.status();
  return *std::move(server);
}

std::string AnswerTo(const HttpServer& server, const std::string& bytes) {
  const HttpClient client(server.address());
  client.Send(bytes);
  return client.Read();
}

TEST(HttpServerTest, Address_ThatIsNone_IsRefusedByName) {
  for (const char* const bad :
       {"8080", ":8080", "127.0.0.1:x", "127.0.0.1:70000", "not.a.number.example:80"}) {
    const auto server =
        HttpServer::Start({.address = bad, .security = {.insecure = true}}, nullptr);
    EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(server.status().message()), HasSubstr(bad));
  }
}

TEST(HttpServerTest, BeyondLoopback_WantsPlainHttp) {
  const auto refused = HttpServer::Start({.address = "0.0.0.0:0"}, nullptr);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("--plain-http"));
  for (const SecurityOptions& allowed :
       {SecurityOptions{.plain_http = true}, SecurityOptions{.insecure = true}}) {
    const auto taken =
        HttpServer::Start({.address = "0.0.0.0:0", .security = allowed},
                          [](const HttpRequest&) { return HttpResponse{.body = "here"}; });
    ASSERT_TRUE(taken.ok()) << taken.status();
    EXPECT_EQ(HttpBody(HttpGet((*taken)->address(), "/", "Host: some.name\r\n")), "here");
  }
}

TEST(HttpServerTest, PortInUse_IsUnavailable) {
  const auto first = Serve();
  const auto second = HttpServer::Start({.address = first->address()}, nullptr);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable) << second.status();
}

TEST(HttpServerTest, Get_IsAnsweredWithTheHeadersOfAll) {
  const auto server = Serve();
  const std::string answer = HttpGet(server->address(), "/a?b=c");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(answer, HasSubstr("Content-Security-Policy: default-src 'none'"));
  EXPECT_EQ(HttpBody(answer), "path /a");
  EXPECT_THAT(HttpGet(server->address(), "/", "Host: evil.example\r\n"),
              StartsWith("HTTP/1.1 421"));
}

TEST(HttpServerTest, Token_MissingWrongRight) {
  const auto server = Serve(kToken);
  const auto get = [&](const std::string& headers) {
    return HttpGet(server->address(), "/", headers);
  };
  const std::string missing = get("");
  EXPECT_THAT(missing, StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(missing, HasSubstr("WWW-Authenticate: Basic"));
  EXPECT_THAT(get("Authorization: Bearer 0123456789abcdef0124\r\n"), StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(get(absl::StrCat("Authorization: Bearer ", kToken, "\r\n")),
              StartsWith("HTTP/1.1 200"));
}

// The body that a POST announces never comes, and nobody waits for it.
TEST(HttpServerTest, HeadAndPost_AreRefusedAtOnce) {
  const auto server = Serve();
  EXPECT_THAT(AnswerTo(*server, "HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
              StartsWith("HTTP/1.1 405"));
  const absl::Time begin = absl::Now();
  const std::string post = AnswerTo(
      *server, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\nx");
  EXPECT_THAT(post, StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(post, HasSubstr("Allow: GET"));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(20));
}

TEST(HttpServerTest, PathsThatClimb_AreOnlyNames) {
  const auto server = Serve();
  for (const char* const path :
       {"/../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd"}) {
    EXPECT_EQ(HttpGet(server->address(), path).find("root:"), std::string::npos) << path;
  }
}

// Whatever came before: it still answers.
void ExpectAlive(const HttpServer& server) {
  EXPECT_THAT(HttpGet(server.address(), "/alive"), HasSubstr("path /alive"));
}

TEST(HttpServerTest, GarbageAndHugeHeaders_EndTheirConnectionAlone) {
  const auto server = Serve();
  std::string binary(5000, '\0');
  for (size_t i = 0; i < binary.size(); ++i) binary[i] = static_cast<char>(i * 131);
  for (const std::string& bytes :
       {binary, std::string("\r\n\r\n\r\n"), std::string("GET\r\n\r\n"),
        std::string("GET / HTTP/9.9\r\n\r\n"), std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc"),
        absl::StrCat("GET /", std::string(100000, 'a'), " HTTP/1.1\r\n\r\n"),
        absl::StrCat("GET / HTTP/1.1\r\nHost: localhost\r\nX: ", std::string(100000, 'x'),
                     "\r\n\r\n")}) {
    const std::string answer = AnswerTo(*server, bytes);
    EXPECT_EQ(answer.find("HTTP/1.1 200"), std::string::npos) << bytes.substr(0, 40);
    ExpectAlive(*server);
  }
}

// Who sends nothing, a letter now and then, or takes nothing of what he asked for, keeps nobody
// waiting; and silence ends.
TEST(HttpServerTest, SlowClients_KeepNobodyWaiting_AndAreLetGoOf) {
  const auto server = Serve("", /*padding=*/4 << 20);
  std::vector<std::unique_ptr<HttpClient>> slow;
  for (int i = 0; i < 40; ++i) {
    slow.push_back(std::make_unique<HttpClient>(server->address()));
    const char* const kinds[] = {"", "GE", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"};
    EXPECT_TRUE(slow.back()->Send(kinds[i % 3]));
  }
  const absl::Time begin = absl::Now();
  ExpectAlive(*server);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
  slow.front()->Send("G");
  EXPECT_EQ(slow.front()->Read().find("200 OK"), std::string::npos);  // until it is let go of
  EXPECT_LT(absl::Now() - begin, absl::Seconds(29));
}

// Beyond the most connections somebody is turned away; when they are gone, all is as before.
TEST(HttpServerTest, FloodOfConnections_IsTurnedAway) {
  const auto server = Serve();
  {
    std::vector<std::unique_ptr<HttpClient>> flood;
    for (int i = 0; i < 300; ++i) {
      flood.push_back(std::make_unique<HttpClient>(server->address()));
      flood.back()->Send("GET");
    }
  }
  ExpectAlive(*server);
}

TEST(HttpServerTest, End_IsAtOnce) {
  auto server = Serve();
  const HttpClient idle(server->address());
  ExpectAlive(*server);
  const absl::Time begin = absl::Now();
  server = nullptr;
  EXPECT_LT(absl::Now() - begin, absl::Seconds(1));
}

}  // namespace
}  // namespace sdp
