#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "common/tls/certificates.h"
#include "proto/config.pb.h"

// What [security] names of one cluster, made by the product's code, in a folder.
namespace sdp {

// For loopback, from an hour ago until in an hour.
CertificateOptions ForLoopback(const std::string& name);

// Another file takes the place of `path`, whole at each moment.
void Replace(const std::filesystem::path& path, const std::string& text);

class ClusterFiles {
 public:
  // Makes `folder` with ca.crt and token; `authority` is the name of the authority.
  ClusterFiles(std::filesystem::path folder, const std::string& authority);

  // Writes, or replaces, NAME.crt and NAME.key.
  void Certify(const CertificateOptions& options);

  RunConfig::Security For(const std::string& name) const;
  const CertifiedKey& authority() const { return authority_; }
  const std::filesystem::path& folder() const { return folder_; }

 private:
  const std::filesystem::path folder_;
  CertifiedKey authority_;
};

}  // namespace sdp
