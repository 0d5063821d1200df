#include "common/protocol/messages.h"

namespace sdp {

const char* AnswerName(Answer answer) {
  switch (answer) {
    case Answer::kReceived:
      return "RECEIVED";
    case Answer::kStepClosed:
      return "STEP_CLOSED";
    case Answer::kUnknownBinding:
      return "UNKNOWN_BINDING";
    case Answer::kRetryAfter:
      return "RETRY_AFTER";
    case Answer::kBadChecksum:
      return "BAD_CHECKSUM";
    case Answer::kStaleGeneration:
      return "STALE_GENERATION";
    case Answer::kStaleTerm:
      return "STALE_TERM";
    case Answer::kExcluded:
      return "EXCLUDED";
    case Answer::kNotFinite:
      return "NOT_FINITE";
    case Answer::kInvalid:
      return "INVALID";
  }
  return "?";
}

}  // namespace sdp
