#include "common/process/security_flags.h"

#include <CLI/CLI.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace sdp {

void AddSecurityFlags(CLI::App& app,
                      std::function<void(const std::string&, const std::string&)> take) {
  for (const std::string key : {"ca", "cert", "key", "token"}) {
    app.add_option_function<std::string>(
           absl::StrCat("--", key), [key, take](const std::string& file) { take(key, file); },
           absl::StrCat("instead of security.", key))
        ->type_name("FILE")
        ->envname(absl::StrCat("SDP_", absl::AsciiStrToUpper(key), "_FILE"));
  }
  app.add_option_function<std::string>(
         "--server-name", [take](const std::string& name) { take("server_name", name); },
         "instead of security.server_name")
      ->type_name("NAME")
      ->envname("SDP_SERVER_NAME");
}

}  // namespace sdp
