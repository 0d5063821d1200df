#pragma once

#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "common/protocol/messages.h"
#include "proto/shard.pb.h"

// The structs of a shard's control calls <-> the messages of proto/shard.proto.
namespace sdp {

proto::BindRequest ToProto(const ShardBinding& binding);
// `units`: of the catalog. InvalidArgument - a rank, set or number of units that cannot be.
absl::StatusOr<ShardBinding> FromProto(const proto::BindRequest& request, size_t units);

proto::ExcludeRequest ToProto(const Exclusion& exclusion);
Exclusion FromProto(const proto::ExcludeRequest& request);
proto::SetScaleRequest ToProto(const ClipScale& scale);
// InvalidArgument - a scale that is not in [0, 1].
absl::StatusOr<ClipScale> FromProto(const proto::SetScaleRequest& request);

}  // namespace sdp
