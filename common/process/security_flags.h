#pragma once

#include <functional>
#include <string>

namespace CLI {
class App;
}

namespace sdp {

// --ca, --cert, --key, --token and --server-name, which come before what [security] says; the
// environment variables SDP_CA_FILE, SDP_CERT_FILE, SDP_KEY_FILE, SDP_TOKEN_FILE and
// SDP_SERVER_NAME stand in for flags that are not given, as processes of one configuration have
// certificates of their own. `take` gets what is given, as ("ca", "certs/ca.crt").
void AddSecurityFlags(CLI::App& app,
                      std::function<void(const std::string& key, const std::string& value)> take);

}  // namespace sdp
