#include "deploy/command/event_line.h"

#include <nlohmann/json.hpp>

namespace sdp {

EventLine ReadEventLine(const std::string& line) {
  const auto json = nlohmann::json::parse(line, /*cb=*/nullptr, /*allow_exceptions=*/false);
  const auto text = [&json](const char* key) {
    const bool there = json.is_object() && json.contains(key) && json[key].is_string();
    return there ? json[key].get<std::string>() : "-";
  };
  return {text("event"), text("time"), text("text")};
}

}  // namespace sdp
