#include "common/http/request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace sdp {
namespace {

using ::testing::HasSubstr;

const char kToken[] = "0123456789abcdef";

int Status(const HttpRequest& request, const HttpAccess& access) {
  const auto refusal = Refusal(request, access);
  return refusal.has_value() ? refusal->status : 200;
}

HttpRequest With(absl::string_view authorization) {
  return {.method = "GET", .path = "/", .host = "localhost:1", .authorization = authorization};
}

std::string Basic(absl::string_view text) {
  return absl::StrCat("Basic ", absl::Base64Escape(text));
}

TEST(RequestTest, AnythingButGet_IsRefused) {
  for (const char* const method : {"HEAD", "POST", "PUT", "OPTIONS", "get", ""})
    EXPECT_EQ(Status({.method = method, .path = "/"}, {}), 405) << method;
  EXPECT_EQ(Status({.method = "GET", .path = "/"}, {}), 200);
}

TEST(RequestTest, Token_MissingOrWrong_IsRefused) {
  const HttpAccess access{.token = kToken};
  const std::string token = kToken;
  for (const std::string& wrong : std::initializer_list<std::string>{
           std::string(), std::string("Bearer"), std::string("Bearer "), "Bearer " + token + "0",
           "Bearer " + token.substr(1), "Bearer 0123456789abcdeF", token, "Digest " + token,
           std::string("Basic !!!"), Basic(token), Basic("user:"), Basic("user:" + token + "0"),
           Basic("user:x:" + token)})
    EXPECT_EQ(Status(With(wrong), access), 401) << wrong;
}

TEST(RequestTest, Token_AsBearerOrAsPasswordOfAnyUser_IsTaken) {
  const HttpAccess access{.token = kToken};
  const std::string token = kToken;
  for (const std::string& right :
       {"Bearer " + token, "bearer  " + token, Basic(":" + token), Basic("me:" + token),
        "BASIC " + absl::Base64Escape("a:" + token)})
    EXPECT_EQ(Status(With(right), access), 200) << right;
}

// A name that its owner lets point to 127.0.0.1 must not open the page to his scripts.
TEST(RequestTest, LoopbackOnly_OtherHostNames_AreRefused) {
  const HttpAccess access{.hosts = HttpAccess::Hosts::kLoopback};
  const auto host = [&](const char* name) {
    return Status({.method = "GET", .path = "/", .host = name}, access);
  };
  for (const char* const good : {"localhost", "localhost:80", "127.0.0.1:8080", "[::1]:80", ""})
    EXPECT_EQ(host(good), 200) << good;
  for (const char* const bad : {"evil.example", "evil.example:80", "127.0.0.1.evil.example",
                                "localhost.evil.example:80", "10.0.0.1"})
    EXPECT_EQ(host(bad), 421) << bad;
  EXPECT_EQ(Status({.method = "GET", .path = "/", .host = "evil.example"}, {}), 200);
}

TEST(RequestTest, EveryAnswer_RunsNoScriptsOfOthers_AndIsNotKept) {
  const auto headers = HeadersOf({.status = 401});
  const auto value = [&](const std::string& key) {
    const auto found = std::find_if(headers.begin(), headers.end(),
                                    [&](const auto& header) { return header.first == key; });
    return found == headers.end() ? "" : found->second;
  };
  EXPECT_EQ(value("Cache-Control"), "no-store");
  EXPECT_THAT(value("Content-Security-Policy"), HasSubstr("default-src 'none'; script-src 'self'"));
  EXPECT_EQ(value("Content-Security-Policy").find("unsafe"), std::string::npos);
  EXPECT_THAT(value("WWW-Authenticate"), HasSubstr("Basic"));
}

}  // namespace
}  // namespace sdp
