#include "tests/tls/cluster_files.h"

#include <fstream>
#include <utility>

#include "common/tls/token.h"

namespace sdp {

CertificateOptions ForLoopback(const std::string& name) {
  return {.name = name,
          .hosts = {"localhost", "127.0.0.1", "::1"},
          .not_before = absl::Now() - absl::Hours(1),
          .not_after = absl::Now() + absl::Hours(1)};
}

void Replace(const std::filesystem::path& path, const std::string& text) {
  const std::string beside = path.string() + ".new";
  std::ofstream(beside) << text;
  std::filesystem::rename(beside, path);
}

ClusterFiles::ClusterFiles(std::filesystem::path folder, const std::string& authority)
    : folder_(std::move(folder)), authority_(MakeAuthority(ForLoopback(authority)).value()) {
  std::filesystem::create_directories(folder_);
  Replace(folder_ / "ca.crt", authority_.certificate);
  Replace(folder_ / "token", NewToken().value() + "\n");
}

void ClusterFiles::Certify(const CertificateOptions& options) {
  const CertifiedKey made = MakeCertificate(authority_, options).value();
  Replace(folder_ / (options.name + ".key"), made.key);
  Replace(folder_ / (options.name + ".crt"), made.certificate);
}

RunConfig::Security ClusterFiles::For(const std::string& name) const {
  RunConfig::Security files;
  files.set_ca((folder_ / "ca.crt").string());
  files.set_cert((folder_ / (name + ".crt")).string());
  files.set_key((folder_ / (name + ".key")).string());
  files.set_token((folder_ / "token").string());
  return files;
}

}  // namespace sdp
