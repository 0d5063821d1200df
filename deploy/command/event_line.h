#pragma once

#include <string>

namespace sdp {

// A line of events.jsonl, for people.
struct EventLine {
  std::string kind;
  std::string time;  // "2026-01-02T03:04:05.678Z"
  std::string text;
};

// What a line of another version lacks is "-". Pure.
EventLine ReadEventLine(const std::string& line);

}  // namespace sdp
