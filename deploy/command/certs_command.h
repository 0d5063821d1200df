#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace sdp {

// `sdp certs --out DIR [--name NAME] [--host HOST ...] [--days N]`: what [security] names, for a
// first try: an authority (ca.crt, ca.key), a certificate of it (NAME.crt, NAME.key) for this
// machine's loopback and the hosts, and a join token. Called again for the same folder it makes
// another certificate of the same authority. Keys and token are for their owner alone (0600).
// Errors: AlreadyExists - a file is there: none is ever overwritten; InvalidArgument - a name;
// FailedPrecondition - the folder has half an authority; others - the file system's.
struct CertsCommand {
  std::string out;
  std::string name = "sdp";
  std::vector<std::string> hosts;
  int days = 365;
};

absl::Status RunCertsCommand(const CertsCommand& command, std::ostream& out);

}  // namespace sdp
