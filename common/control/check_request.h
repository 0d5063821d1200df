#pragma once

#include "absl/status/status.h"

namespace google::protobuf {
class Message;
}

namespace sdp {

// What holds for every request of a member, whatever it is: no text of more than 1,000 bytes (they
// end up in logs, lines and answers), no floating-point number that is not finite, no count below
// -1
// ("none"). InvalidArgument - names the field. What else a field allows is its handler's matter.
absl::Status CheckRequest(const google::protobuf::Message& request);

}  // namespace sdp
