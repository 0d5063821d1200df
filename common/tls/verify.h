#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

// Whether a certificate is good, and if not, why, in words that name it. Certificates and keys are
// PEM; a file of several begins with the one meant. Threads: any; pure functions.
namespace sdp {

// What a peer shows in a handshake, which has proved that it has the key.
struct ShownCertificate {
  std::string certificate;
  std::string chain;  // between it and the authority; may be empty
};

enum class PeerSide { kServer, kClient };

struct CertificateDemand {
  PeerSide side;
  std::string host;  // of a server: the name or IP address that was dialled
  absl::Time now;
};

// OpenSSL's verification of the chain up to one of `authorities`, of purpose, time and host.
// Unauthenticated - "its certificate, of "worker-0", expired at ..."; what the peer wrote is
// escaped and cut. FailedPrecondition - `authorities` has no certificate.
absl::Status VerifyCertificate(const std::string& authorities, const ShownCertificate& shown,
                               const CertificateDemand& demand);

// Whether certificates can be asked for this DNS name. InvalidArgument - it is none, or a wildcard,
// which only certificates have; OpenSSL would take a leading dot for one.
absl::Status CheckServerName(const std::string& name);

// Whether a process can show `chain` (its certificate first) with `key`, to servers and to clients.
// FailedPrecondition - they cannot be read, do not belong together, or peers with the same
// `authorities` would refuse them.
absl::Status CheckOwnCertificate(const std::string& authorities, const std::string& chain,
                                 const std::string& key, absl::Time now);

}  // namespace sdp
