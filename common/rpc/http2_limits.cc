#include "common/rpc/http2_limits.h"

#include <dlfcn.h>
#include <grpc/slice.h>
#include <grpc/support/log.h>

#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "common/base/mutex.h"

// What gRPC 1.51 has, as far as it is needed (src/core/ext/transport/chttp2/transport). A parser is
// that of a connection, and called by one thread at a time.
struct grpc_chttp2_transport;
struct grpc_chttp2_stream;
struct grpc_chttp2_stream_map;
struct FrameInfo {
  uint32_t stream;
  uint8_t type;
  bool is_client;
};

#define SDP_HPACK_BEGIN_FRAME                                                            \
  "_ZN9grpc_core11HPackParser10BeginFrameEP19grpc_metadata_batchjNS0_8BoundaryENS0_8Pri" \
  "orityENS0_7LogInfoE"
#define SDP_HPACK_PARSE                                                                    \
  "_Z31grpc_chttp2_header_parser_parsePvP21grpc_chttp2_transportP18grpc_chttp2_streamRK10" \
  "grpc_slicei"
#define SDP_RESET_PARSE                                                                      \
  "_Z35grpc_chttp2_rst_stream_parser_parsePvP21grpc_chttp2_transportP18grpc_chttp2_streamRK" \
  "10grpc_slicei"
#define SDP_STREAM_MAP_SIZE "_Z27grpc_chttp2_stream_map_sizeP22grpc_chttp2_stream_map"

// Ours, which take the place of those.
#define SDP_INSTEAD_OF(name) __asm__(name) __attribute__((visibility("default")))
void BeginFrame(void* parser, void* metadata, uint32_t limit, uint8_t boundary, uint8_t priority,
                FrameInfo info) SDP_INSTEAD_OF(SDP_HPACK_BEGIN_FRAME);
absl::Status Parse(void* parser, grpc_chttp2_transport* transport, grpc_chttp2_stream* stream,
                   const grpc_slice& slice, int is_last) SDP_INSTEAD_OF(SDP_HPACK_PARSE);
absl::Status ParseReset(void* parser, grpc_chttp2_transport* transport, grpc_chttp2_stream* stream,
                        const grpc_slice& slice, int is_last) SDP_INSTEAD_OF(SDP_RESET_PARSE);
size_t StreamMapSize(grpc_chttp2_stream_map* map) SDP_INSTEAD_OF(SDP_STREAM_MAP_SIZE);

namespace sdp {

namespace {

constexpr size_t kMostPeers = 1 << 16;

absl::Status TooMuch(int64_t most, absl::string_view what) {
  return absl::ResourceExhaustedError(absl::StrCat("a peer sent more than ", most, " ", what));
}

}  // namespace

void Http2Limits::Second::Add(absl::Time now) {
  const int64_t second = absl::ToUnixSeconds(now);
  if (number != second) count = 0;
  number = second;
  ++count;
}

void Http2Limits::BeginFrame(const void* parser, const Frame& frame, absl::Time now) {
  if (peers_.size() >= kMostPeers) peers_.clear();
  Peer& peer = peers_[parser];
  const bool begins = frame.of_known_call && !peer.open;
  if (begins) peer.bytes = 0;
  peer.open = frame.of_known_call && !frame.ends_headers;
  peer.late = !frame.of_known_call;
  peer.on_server = frame.on_server;
  if (begins && frame.on_server) peer.calls.Add(now);
}

absl::Status Http2Limits::Count(const Connection& connection, size_t bytes) {
  Peer& peer = peers_[connection.parser];
  peer.bytes += bytes;
  if (resets_.size() >= kMostPeers) resets_.clear();
  if (peer.on_server) {
    resets_.try_emplace(connection.transport);
  } else {
    resets_.erase(connection.transport);
  }
  const size_t most = peer.late ? kMostLateBytes : kMostHeaderBytes;
  absl::Status status;
  if (peer.bytes > most) status = TooMuch(static_cast<int64_t>(most), "bytes of headers");
  if (peer.calls.count > kMostCalls) status = TooMuch(kMostCalls, "calls in a second");
  if (!status.ok()) peers_.erase(connection.parser);
  return status;
}

absl::Status Http2Limits::Reset(const void* transport, absl::Time now) {
  const auto found = resets_.find(transport);
  if (found == resets_.end()) return absl::OkStatus();
  Second& second = found->second;
  second.Add(now);
  all_resets_.Add(now);
  const bool too_many_of_all = all_resets_.count > kMostResetsOfAll && second.count > kFewResets;
  if (second.count <= kMostResets && !too_many_of_all) return absl::OkStatus();
  resets_.erase(found);
  return TooMuch(too_many_of_all ? kMostResetsOfAll : kMostResets, "resets of calls in a second");
}

namespace {

struct All {
  Mutex mutex;
  Http2Limits limits ABSL_GUARDED_BY(mutex);
};
All& Connections() {
  static auto* const all = new All;  // Never destroyed: threads of gRPC outlive main.
  return *all;
}

template <typename Function>
Function* GrpcsOwn(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

struct Own {
  decltype(BeginFrame)* begin_frame = GrpcsOwn<decltype(BeginFrame)>(SDP_HPACK_BEGIN_FRAME);
  decltype(Parse)* parse = GrpcsOwn<decltype(Parse)>(SDP_HPACK_PARSE);
  decltype(ParseReset)* parse_reset = GrpcsOwn<decltype(ParseReset)>(SDP_RESET_PARSE);
  decltype(StreamMapSize)* map_size = GrpcsOwn<decltype(StreamMapSize)>(SDP_STREAM_MAP_SIZE);
};
const Own& Grpc() {
  static const Own own;
  return own;
}

}  // namespace

void LimitHttp2() {
  if (Grpc().begin_frame && Grpc().parse && Grpc().parse_reset && Grpc().map_size) return;
  gpr_log(GPR_ERROR, "this libgrpc is not 1.51: what peers may send is bounded by its own limits");
}

}  // namespace sdp

void BeginFrame(void* parser, void* metadata, uint32_t limit, uint8_t boundary, uint8_t priority,
                FrameInfo info) {
  {
    sdp::MutexLock lock(&sdp::Connections().mutex);
    sdp::Connections().limits.BeginFrame(parser,
                                         {.ends_headers = boundary != 0,
                                          .of_known_call = metadata != nullptr,
                                          .on_server = !info.is_client},
                                         absl::Now());
  }
  sdp::Grpc().begin_frame(parser, metadata, limit, boundary, priority, info);
}

absl::Status Parse(void* parser, grpc_chttp2_transport* transport, grpc_chttp2_stream* stream,
                   const grpc_slice& slice, int is_last) {
  {
    sdp::MutexLock lock(&sdp::Connections().mutex);
    const absl::Status status = sdp::Connections().limits.Count(
        {.parser = parser, .transport = transport}, GRPC_SLICE_LENGTH(slice));
    if (!status.ok()) return status;
  }
  return sdp::Grpc().parse(parser, transport, stream, slice, is_last);
}

// Called only for calls under way; those over are skipped.
absl::Status ParseReset(void* parser, grpc_chttp2_transport* transport, grpc_chttp2_stream* stream,
                        const grpc_slice& slice, int is_last) {
  if (is_last) {
    sdp::MutexLock lock(&sdp::Connections().mutex);
    const absl::Status status = sdp::Connections().limits.Reset(transport, absl::Now());
    if (!status.ok()) return status;
  }
  return sdp::Grpc().parse_reset(parser, transport, stream, slice, is_last);
}

// Of calls under way on a connection, which gRPC compares with what the peer has acknowledged: no
// limit at all if he never does.
size_t StreamMapSize(grpc_chttp2_stream_map* map) {
  const size_t size = sdp::Grpc().map_size(map);
  return size < sdp::kMaxCallsPerConnection ? size : std::numeric_limits<size_t>::max();
}
