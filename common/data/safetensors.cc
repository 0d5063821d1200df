#include "common/data/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"

namespace sdp {
namespace {

using Json = nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr int64_t kMaxHeader = 100 << 20;  // The reference implementation's limit.

struct Type {
  absl::string_view name;
  int64_t bytes;
};
constexpr Type kTypes[] = {{"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F64", 8},     {"I64", 8},
                           {"I32", 4}, {"I16", 2}, {"I8", 1},   {"U64", 8},     {"U32", 4},
                           {"U16", 2}, {"U8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};

float FromHalf(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1F, mantissa = half & 0x3FF;
  if (exponent == 0) {  // Zero and subnormals: mantissa * 2^-24, exact in f32.
    return std::bit_cast<float>(std::bit_cast<uint32_t>(static_cast<float>(mantissa) * 0x1p-24f) |
                                sign);
  }
  const uint32_t wide = exponent == 31 ? 255 : exponent + 127 - 15;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

float FromBfloat16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// A name out of a file, fit for a terminal.
std::string Quoted(absl::string_view name) {
  return absl::StrCat("\"", absl::Utf8SafeCEscape(name.substr(0, 200)), "\"");
}

// A number that an int64 holds; nlohmann keeps 64 bits of sign or none, and reads larger ones as
// floating point.
bool IsCount(const Json& value) {
  return value.is_number_unsigned() &&
         value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
}

// One entry of the header. `end` becomes the end of its data; offsets count from the begin of the
// data.
absl::StatusOr<SafetensorsReader::Tensor> ParseTensor(const std::string& name, const Json& entry,
                                                      int64_t data_bytes, int64_t* end) {
  SafetensorsReader::Tensor tensor;
  tensor.name = name;
  const auto bad = [&](const auto&... what) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(name), ": ", what...));
  };
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") ||
      !entry.contains("data_offsets")) {
    return bad("its entry must be an object with dtype, shape and data_offsets");
  }
  const Json &dtype = entry["dtype"], &shape = entry["shape"], &offsets = entry["data_offsets"];
  if (!dtype.is_string() || SafetensorsTypeBytes(dtype.get_ref<const std::string&>()) == 0) {
    return bad("dtype is none of the format's");
  }
  tensor.dtype = dtype.get<std::string>();
  if (!shape.is_array() || !std::all_of(shape.begin(), shape.end(), IsCount)) {
    return bad("shape must be an array of sizes");
  }
  int64_t bytes = SafetensorsTypeBytes(tensor.dtype);
  tensor.elements = 1;
  bool overflow = false;
  for (const Json& size : shape) {
    tensor.shape.push_back(size.get<int64_t>());
    overflow |= __builtin_mul_overflow(bytes, tensor.shape.back(), &bytes);
    overflow |= __builtin_mul_overflow(tensor.elements, tensor.shape.back(), &tensor.elements);
  }
  if (overflow) return bad("shape [", absl::StrJoin(tensor.shape, ", "), "] is too large");
  if (!offsets.is_array() || offsets.size() != 2 || !IsCount(offsets[0]) || !IsCount(offsets[1])) {
    return bad("data_offsets must be [begin, end]");
  }
  tensor.offset_bytes = offsets[0].get<int64_t>();
  *end = offsets[1].get<int64_t>();
  if (*end < tensor.offset_bytes || *end - tensor.offset_bytes != bytes) {
    return bad("data_offsets [", tensor.offset_bytes, ", ", *end, "] do not span the ", bytes,
               " bytes of shape [", absl::StrJoin(tensor.shape, ", "), "] ", tensor.dtype);
  }
  if (*end > data_bytes) {
    return absl::DataLossError(absl::StrCat("tensor ", Quoted(name), " ends at byte ", *end,
                                            " of the data, of which there are ", data_bytes));
  }
  return tensor;
}

// The header as an object. A name that comes twice is an error here; JSON readers would silently
// take one of them.
absl::StatusOr<Json> ParseHeader(absl::string_view text) {
  absl::flat_hash_set<std::string> names;
  std::string twice;
  const auto note_names = [&](int depth, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::key && depth == 1 &&
        !names.insert(value.get<std::string>()).second) {
      twice = value.get<std::string>();
    }
    return true;
  };
  Json header = Json::parse(text.begin(), text.end(), note_names, /*allow_exceptions=*/false);
  if (header.is_discarded() || !header.is_object()) {
    return absl::InvalidArgumentError("not a safetensors file: its header is no JSON object");
  }
  if (!twice.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(twice), " comes twice"));
  }
  return header;
}

}  // namespace

int64_t SafetensorsTypeBytes(absl::string_view dtype) {
  for (const Type& type : kTypes) {
    if (type.name == dtype) return type.bytes;
  }
  return 0;
}

absl::StatusOr<std::unique_ptr<SafetensorsReader>> SafetensorsReader::Open(
    const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return absl::ErrnoToStatus(errno, path);
  std::unique_ptr<SafetensorsReader> reader(new SafetensorsReader(path, file));
  if (absl::Status status = reader->ReadHeader(); !status.ok()) return Context(status, path);
  return reader;
}

SafetensorsReader::~SafetensorsReader() { close(file_); }

absl::Status SafetensorsReader::ReadHeader() {
  struct stat info;
  if (fstat(file_, &info) != 0) return absl::ErrnoToStatus(errno, "fstat");
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError("not a regular file");
  const int64_t file_bytes = info.st_size;
  uint64_t length = 0;
  if (file_bytes < static_cast<int64_t>(sizeof(length))) {
    return absl::InvalidArgumentError(
        absl::StrCat("not a safetensors file: it has ", file_bytes, " bytes"));
  }
  SDP_RETURN_IF_ERROR(ReadBytes(0, {reinterpret_cast<char*>(&length), sizeof(length)}));
  if (length > static_cast<uint64_t>(kMaxHeader)) {
    return absl::InvalidArgumentError(
        absl::StrCat("not a safetensors file: header length ", length, " is above ", kMaxHeader));
  }
  const int64_t data_begin = static_cast<int64_t>(sizeof(length) + length);
  if (data_begin > file_bytes) {
    return absl::DataLossError(
        absl::StrCat("cut off inside its header: ", file_bytes, " bytes of at least ", data_begin));
  }
  std::string text(length, '\0');
  SDP_RETURN_IF_ERROR(ReadBytes(sizeof(length), absl::MakeSpan(text)));
  SDP_ASSIGN_OR_RETURN(const Json header, ParseHeader(text));

  const int64_t data_bytes = file_bytes - data_begin;
  std::vector<std::pair<int64_t, Tensor>> ends;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    int64_t end = 0;
    SDP_ASSIGN_OR_RETURN(Tensor tensor, ParseTensor(name, entry, data_bytes, &end));
    ends.emplace_back(end, std::move(tensor));
  }
  std::stable_sort(ends.begin(), ends.end(), [](const auto& a, const auto& b) {
    return std::make_pair(a.second.offset_bytes, a.first) <
           std::make_pair(b.second.offset_bytes, b.first);
  });
  int64_t covered = 0;
  for (auto& [end, tensor] : ends) {
    if (tensor.offset_bytes != covered) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Quoted(tensor.name), " begins at byte ", tensor.offset_bytes,
                       " of the data; the one before it ends at ", covered));
    }
    covered = end;
    tensor.offset_bytes += data_begin;
    index_[tensor.name] = tensors_.size();
    tensors_.push_back(std::move(tensor));
  }
  if (covered != data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensors end at byte ", covered, " of ", data_bytes, " bytes of data"));
  }
  return absl::OkStatus();
}

const SafetensorsReader::Tensor* SafetensorsReader::Find(absl::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

absl::Status SafetensorsReader::Read(absl::string_view name, int64_t element_offset,
                                     absl::Span<float> out) const {
  const auto error = [&](const auto&... what) {
    return absl::StrCat(path_, ": tensor ", Quoted(name), ": ", what...);
  };
  const Tensor* tensor = Find(name);
  if (tensor == nullptr) return absl::NotFoundError(error("not in the file"));
  const int64_t size = static_cast<int64_t>(out.size());
  if (element_offset < 0 || element_offset > tensor->elements ||
      size > tensor->elements - element_offset) {
    return absl::InvalidArgumentError(error("elements ", element_offset, " + ", size,
                                            " were asked for, it has ", tensor->elements));
  }
  const bool half = tensor->dtype == "F16";
  if (tensor->dtype == "F32") {
    return Context(ReadBytes(tensor->offset_bytes + 4 * element_offset,
                             {reinterpret_cast<char*>(out.data()), out.size() * sizeof(float)}),
                   error("read"));
  }
  if (!half && tensor->dtype != "BF16") {
    return absl::InvalidArgumentError(
        error("dtype is ", tensor->dtype, "; readable are F32, F16 and BF16"));
  }
  std::vector<uint16_t> chunk(std::min<size_t>(out.size(), 1 << 16));
  for (size_t done = 0; done < out.size();) {
    const size_t count = std::min(chunk.size(), out.size() - done);
    const int64_t begin = element_offset + static_cast<int64_t>(done);
    SDP_RETURN_IF_ERROR(Context(ReadBytes(tensor->offset_bytes + 2 * begin,
                                          {reinterpret_cast<char*>(chunk.data()), 2 * count}),
                                error("read")));
    for (size_t i = 0; i < count; ++i) {
      out[done + i] = half ? FromHalf(chunk[i]) : FromBfloat16(chunk[i]);
    }
    done += count;
  }
  return absl::OkStatus();
}

absl::Status SafetensorsReader::ReadBytes(int64_t offset, absl::Span<char> out) const {
  while (!out.empty()) {
    const ssize_t count = pread(file_, out.data(), out.size(), offset);
    if (count < 0) {
      if (errno == EINTR) continue;
      return absl::ErrnoToStatus(errno, absl::StrCat("pread at byte ", offset));
    }
    if (count == 0) return absl::DataLossError(absl::StrCat("the file ends at byte ", offset));
    offset += count;
    out.remove_prefix(static_cast<size_t>(count));
  }
  return absl::OkStatus();
}

}  // namespace sdp
