#include "common/control/check_request.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace sdp {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr size_t kMostText = 1000;

absl::Status Bad(const FieldDescriptor& field, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(field.full_name(), ": ", what));
}

absl::Status CheckNumber(const FieldDescriptor& field, double value) {
  return std::isfinite(value) ? absl::OkStatus() : Bad(field, "not a finite number");
}

absl::Status CheckCount(const FieldDescriptor& field, int64_t value) {
  return value >= -1 ? absl::OkStatus()
                     : Bad(field, absl::StrCat(value, ", allowed is from -1 on"));
}

absl::Status CheckText(const FieldDescriptor& field, const std::string& value) {
  if (value.size() <= kMostText) return absl::OkStatus();
  return Bad(field, absl::StrCat(value.size(), " bytes, allowed are ", kMostText));
}

// Value `i` of a repeated field, or the only one.
absl::Status CheckValue(const Message& message, const FieldDescriptor* field, int i) {
  const Reflection& get = *message.GetReflection();
  const bool many = field->is_repeated();
  std::string scratch;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return CheckCount(
          *field, many ? get.GetRepeatedInt32(message, field, i) : get.GetInt32(message, field));
    case FieldDescriptor::CPPTYPE_INT64:
      return CheckCount(
          *field, many ? get.GetRepeatedInt64(message, field, i) : get.GetInt64(message, field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return CheckNumber(
          *field, many ? get.GetRepeatedDouble(message, field, i) : get.GetDouble(message, field));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return CheckNumber(
          *field, many ? get.GetRepeatedFloat(message, field, i) : get.GetFloat(message, field));
    case FieldDescriptor::CPPTYPE_STRING:
      return CheckText(*field, many ? get.GetRepeatedStringReference(message, field, i, &scratch)
                                    : get.GetStringReference(message, field, &scratch));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return CheckRequest(many ? get.GetRepeatedMessage(message, field, i)
                               : get.GetMessage(message, field));
    default:
      return absl::OkStatus();  // unsigned numbers are hashes and instances
  }
}

}  // namespace

absl::Status CheckRequest(const Message& request) {
  std::vector<const FieldDescriptor*> fields;
  request.GetReflection()->ListFields(request, &fields);
  for (const FieldDescriptor* field : fields) {
    const int count = field->is_repeated() ? request.GetReflection()->FieldSize(request, field) : 1;
    for (int i = 0; i < count; ++i) SDP_RETURN_IF_ERROR(CheckValue(request, field, i));
  }
  return absl::OkStatus();
}

}  // namespace sdp
