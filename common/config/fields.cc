#include "common/config/fields.h"

#include <cstdint>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "common/config/rules.h"
#include "common/config/value.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "proto/config.pb.h"

namespace sdp::config {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

const FieldDescriptor* SectionOf(const FieldDescriptor& field) {
  const auto* const config = RunConfig::descriptor();
  for (int i = 0; i < config->field_count(); ++i) {
    if (config->field(i)->message_type() == field.containing_type()) return config->field(i);
  }
  return nullptr;
}

double AsDouble(const Value& value) {
  const auto* const whole = std::get_if<int64_t>(&value.is);
  const double number = whole != nullptr ? static_cast<double>(*whole) : std::get<double>(value.is);
  return number + 0.0;  // -0.0 becomes 0.0: one value, one text, one hash.
}

void SetOne(const FieldDescriptor& field, const Value& value, Message* section) {
  const Reflection& reflection = *section->GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.SetBool(section, &field, std::get<bool>(value.is));
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection.SetInt64(section, &field, std::get<int64_t>(value.is));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection.SetDouble(section, &field, AsDouble(value));
    default:
      return reflection.SetString(section, &field, std::get<std::string>(value.is));
  }
}

void SetList(const FieldDescriptor& field, const List& list, Message* section) {
  const Reflection& reflection = *section->GetReflection();
  reflection.ClearField(section, &field);
  for (const Value& item : list) {
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
      reflection.AddDouble(section, &field, AsDouble(item));
    } else {
      reflection.AddString(section, &field, std::get<std::string>(item.is));
    }
  }
}

Value GetList(const FieldDescriptor& field, const Message& section) {
  const Reflection& reflection = *section.GetReflection();
  List list;
  for (int i = 0; i < reflection.FieldSize(section, &field); ++i) {
    Value& item =
        list.emplace_back();  // Not push_back of a temporary: gcc 12 warns in the variant.
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
      item.is = reflection.GetRepeatedDouble(section, &field, i);
    } else {
      item.is = reflection.GetRepeatedString(section, &field, i);
    }
  }
  return {std::move(list)};
}

}  // namespace

void SetField(RunConfig* config, absl::string_view key, const Value& value) {
  const FieldDescriptor& field = *FieldOf(key);
  Message* const section = config->GetReflection()->MutableMessage(config, SectionOf(field));
  if (field.is_repeated()) {
    SetList(field, std::get<List>(value.is), section);
  } else {
    SetOne(field, value, section);
  }
}

absl::optional<Value> GetField(const RunConfig& config, absl::string_view key) {
  const FieldDescriptor& field = *FieldOf(key);
  const Message& section = config.GetReflection()->GetMessage(config, SectionOf(field));
  const Reflection& reflection = *section.GetReflection();
  if (field.is_repeated()) return GetList(field, section);
  if (field.has_presence() && !reflection.HasField(section, &field)) return absl::nullopt;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return Value{reflection.GetBool(section, &field)};
    case FieldDescriptor::CPPTYPE_INT64:
      return Value{reflection.GetInt64(section, &field)};
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return Value{reflection.GetDouble(section, &field)};
    default:
      return Value{reflection.GetString(section, &field)};
  }
}

}  // namespace sdp::config
