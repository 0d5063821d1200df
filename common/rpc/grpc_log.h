#pragma once

namespace sdp {

// gRPC logs an error for each connection whose handshake fails, so whoever reaches a port could
// fill the disk with them. From now on stderr gets those of one place in gRPC's code at most once a
// second, with the number of those before it that it did not get. Process-wide.
void LimitGrpcLog();

}  // namespace sdp
