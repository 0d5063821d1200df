#include "deploy/command/certs_command.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <ostream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/config/value.h"
#include "common/data/small_file.h"
#include "common/tls/certificates.h"
#include "common/tls/token.h"

namespace sdp {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLargestFile = 1 << 20;
constexpr mode_t kForAll = 0644, kForOwner = 0600;
// Machines whose clocks are a little behind accept it too.
constexpr absl::Duration kBackdated = absl::Minutes(5);
constexpr absl::Duration kAuthorityLives = absl::Hours(24 * 3650);

// A file that is not there yet.
absl::Status Create(const std::string& path, const std::string& text, mode_t mode) {
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
  if (file < 0 && errno == EEXIST)
    return absl::AlreadyExistsError(absl::StrCat(path, " is there already, and stays as it is"));
  if (file < 0) return absl::ErrnoToStatus(errno, absl::StrCat("write ", path));
  const ssize_t written = write(file, text.data(), text.size());
  const int error = written < 0 ? errno : ENOSPC;
  const bool whole = written == static_cast<ssize_t>(text.size());
  if (close(file) == 0 && whole) return absl::OkStatus();
  unlink(path.c_str());
  return absl::ErrnoToStatus(error, absl::StrCat("write ", path));
}

bool IsThere(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

absl::Status CheckName(absl::string_view name) {
  const bool good =
      !name.empty() && name != "ca" && std::all_of(name.begin(), name.end(), [](char c) {
        return absl::ascii_isalnum(c) || c == '-' || c == '_';
      });
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--name \"", name, "\": letters, digits, - and _ are allowed, and not \"ca\""));
}

// The folder's, or a new one.
absl::StatusOr<CertifiedKey> Authority(const std::string& folder, absl::Time now,
                                       std::ostream& out) {
  const std::string certificate = folder + "/ca.crt", key = folder + "/ca.key";
  if (IsThere(certificate) != IsThere(key)) {
    return absl::FailedPreconditionError(absl::StrCat(
        folder, " has one of ca.crt and ca.key: to make certificates of an authority takes both"));
  }
  CertifiedKey authority;
  if (IsThere(certificate)) {
    SDP_ASSIGN_OR_RETURN(authority.certificate, ReadSmallFile(certificate, kLargestFile));
    SDP_ASSIGN_OR_RETURN(authority.key, ReadSmallFile(key, kLargestFile));
    return authority;
  }
  SDP_ASSIGN_OR_RETURN(authority, MakeAuthority({.name = "sdp authority",
                                                 .hosts = {},
                                                 .not_before = now - kBackdated,
                                                 .not_after = now + kAuthorityLives}));
  SDP_RETURN_IF_ERROR(Create(key, authority.key, kForOwner));
  SDP_RETURN_IF_ERROR(Create(certificate, authority.certificate, kForAll));
  out << "made " << certificate << ", and " << key
      << ": who has this one can make certificates, so keep it away from the cluster\n";
  return authority;
}

}  // namespace

absl::Status RunCertsCommand(const CertsCommand& command, std::ostream& out) {
  SDP_RETURN_IF_ERROR(CheckName(command.name));
  std::error_code error;
  fs::create_directories(command.out, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("make ", command.out));
  const std::string base = absl::StrCat(command.out, "/", command.name);
  for (const char* const end : {".crt", ".key"}) {
    if (!IsThere(base + end)) continue;
    return absl::AlreadyExistsError(absl::StrCat(
        base, end, " is there already, and stays as it is; give another --name or --out"));
  }
  const absl::Time now = absl::Now();
  SDP_ASSIGN_OR_RETURN(const CertifiedKey authority, Authority(command.out, now, out));
  CertificateOptions options;
  options.name = command.name;
  options.hosts = {"localhost", "127.0.0.1", "::1"};
  options.hosts.insert(options.hosts.end(), command.hosts.begin(), command.hosts.end());
  options.not_before = now - kBackdated;
  options.not_after = now + absl::Hours(24) * command.days;
  SDP_ASSIGN_OR_RETURN(const CertifiedKey made, MakeCertificate(authority, options));
  SDP_RETURN_IF_ERROR(Create(base + ".key", made.key, kForOwner));
  SDP_RETURN_IF_ERROR(Create(base + ".crt", made.certificate, kForAll));
  const std::string token_path = command.out + "/token";
  if (!IsThere(token_path)) {
    SDP_ASSIGN_OR_RETURN(const std::string token, NewToken());
    SDP_RETURN_IF_ERROR(Create(token_path, token + "\n", kForOwner));
  }
  const auto path = [&](const std::string& name) {
    return config::Quoted(absl::StrCat(command.out, "/", name));
  };
  out << "made " << base << ".crt, for " << command.days << " days, and its key; use them with:\n"
      << "[security]\nca = " << path("ca.crt") << "\ncert = " << path(command.name + ".crt")
      << "\nkey = " << path(command.name + ".key") << "\ntoken = " << path("token") << std::endl;
  return absl::OkStatus();
}

}  // namespace sdp
