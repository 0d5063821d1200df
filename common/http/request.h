#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

// What a request may be, and who may ask. Pure functions of what a stranger has sent.
namespace sdp {

struct HttpRequest {
  absl::string_view method;              // "GET"
  absl::string_view path;                // "/status.json", decoded
  absl::string_view host = "";           // of the header: "localhost:8080"; "": it was not sent
  absl::string_view authorization = "";  // of the header; "": it was not sent
  std::map<std::string, std::string> arguments = {};  // "?since=3.20": decoded
};

struct HttpResponse {
  int status = 200;
  std::string type = "text/plain; charset=utf-8";
  std::string body = "";
};

struct HttpAccess {
  // Who asks shows it: as a bearer token, or as the password (of any user) that a browser asks for.
  // "": nobody needs to.
  std::string token = "";
  // Only under a name of this machine's loopback. Of a server that listens there, so that a page
  // from elsewhere cannot read it through a name that its owner lets point here.
  enum class Hosts { kAny, kLoopback } hosts = Hosts::kAny;
};

// Why the request is not answered; nothing: it may be.
std::optional<HttpResponse> Refusal(const HttpRequest& request, const HttpAccess& access);

// Headers of every answer: it is kept by nobody, is shown in no other page, and runs no script but
// this server's own files.
std::vector<std::pair<const char*, std::string>> HeadersOf(const HttpResponse& response);

}  // namespace sdp
