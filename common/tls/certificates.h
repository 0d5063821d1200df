#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

// Makes certificates, for a first try (`sdp certs`) and for tests: an authority of one's own and
// what it signs. Keys are of elliptic curve P-256. Threads: any; pure but for random numbers.
// Errors: InvalidArgument - a name that a certificate cannot have; Internal - OpenSSL's.
namespace sdp {

// PEM, both.
struct CertifiedKey {
  std::string certificate;
  std::string key;  // secret
};

struct CertificateOptions {
  std::string name;                // the subject's common name: 1 to 64 characters
  std::vector<std::string> hosts;  // for which it is good: DNS names and IP addresses
  absl::Time not_before;
  absl::Time not_after;
};

// An authority that signs itself. `hosts` is not used.
absl::StatusOr<CertifiedKey> MakeAuthority(const CertificateOptions& options);

// A certificate for a process that listens and dials, signed by `authority`.
absl::StatusOr<CertifiedKey> MakeCertificate(const CertifiedKey& authority,
                                             const CertificateOptions& options);

}  // namespace sdp
