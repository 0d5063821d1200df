#include "common/config/fields.h"

#include <cstdint>
#include <string>
#include <utility>
#include <variant>

#include "absl/algorithm/container.h"
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
  if (std::holds_alternative<std::string>(value.is)) return 0;  // Rule::zero
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

void Set(const FieldDescriptor& field, const Value& value, Message* message);

void SetTable(const FieldDescriptor& field, const Table& table, Message* message) {
  for (const Entry& item : table) {
    Message* const entry = message->GetReflection()->AddMessage(message, &field);
    entry->GetReflection()->SetString(entry, field.message_type()->map_key(), item.name);
    SetOne(*field.message_type()->map_value(), item.value, entry);
  }
}

void SetList(const FieldDescriptor& field, const List& list, Message* message) {
  const Reflection& reflection = *message->GetReflection();
  for (const Value& item : list) {
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
      reflection.AddDouble(message, &field, AsDouble(item));
    } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT64) {
      reflection.AddInt64(message, &field, std::get<int64_t>(item.is));
    } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      reflection.AddString(message, &field, std::get<std::string>(item.is));
    } else {
      Message* const part = reflection.AddMessage(message, &field);
      for (const Entry& entry : std::get<Table>(item.is)) {
        Set(*field.message_type()->FindFieldByName(entry.name), entry.value, part);
      }
    }
  }
}

void Set(const FieldDescriptor& field, const Value& value, Message* message) {
  if (!field.is_repeated()) return SetOne(field, value, message);
  message->GetReflection()->ClearField(message, &field);
  if (field.is_map()) {
    SetTable(field, std::get<Table>(value.is), message);
  } else {
    SetList(field, std::get<List>(value.is), message);
  }
}

Value Get(const FieldDescriptor& field, const Message& message);

Value GetTable(const FieldDescriptor& field, const Message& message) {
  const Reflection& reflection = *message.GetReflection();
  Table table;
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    const Message& entry = reflection.GetRepeatedMessage(message, &field, i);
    const Reflection& values = *entry.GetReflection();
    table.push_back({values.GetString(entry, field.message_type()->map_key()),
                     {values.GetDouble(entry, field.message_type()->map_value())}});
  }
  // A map has no order of its own.
  absl::c_sort(table, [](const Entry& a, const Entry& b) { return a.name < b.name; });
  return {std::move(table)};
}

// What is given of a message, in the order of its fields. Zeros count where they cannot be told
// from nothing; empty lists do not.
Table GetFields(const Message& message) {
  Table table;
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    const Reflection& reflection = *message.GetReflection();
    const bool given = field.is_repeated()
                           ? reflection.FieldSize(message, &field) > 0
                           : !field.has_presence() || reflection.HasField(message, &field);
    if (given) table.push_back({field.name(), Get(field, message)});
  }
  return table;
}

Value GetList(const FieldDescriptor& field, const Message& message) {
  const Reflection& reflection = *message.GetReflection();
  List list;
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    Value& item =
        list.emplace_back();  // Not push_back of a temporary: gcc 12 warns in the variant.
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
      item.is = reflection.GetRepeatedDouble(message, &field, i);
    } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT64) {
      item.is = reflection.GetRepeatedInt64(message, &field, i);
    } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      item.is = reflection.GetRepeatedString(message, &field, i);
    } else {
      item.is = GetFields(reflection.GetRepeatedMessage(message, &field, i));
    }
  }
  return {std::move(list)};
}

Value Get(const FieldDescriptor& field, const Message& message) {
  const Reflection& reflection = *message.GetReflection();
  if (field.is_map()) return GetTable(field, message);
  if (field.is_repeated()) return GetList(field, message);
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return {reflection.GetBool(message, &field)};
    case FieldDescriptor::CPPTYPE_INT64:
      return {reflection.GetInt64(message, &field)};
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return {reflection.GetDouble(message, &field)};
    default:
      return {reflection.GetString(message, &field)};
  }
}

}  // namespace

void SetField(RunConfig* config, absl::string_view key, const Value& value) {
  const FieldDescriptor& field = *FieldOf(key);
  Set(field, value, config->GetReflection()->MutableMessage(config, SectionOf(field)));
}

absl::optional<Value> GetField(const RunConfig& config, absl::string_view key) {
  const FieldDescriptor& field = *FieldOf(key);
  const Message& section = config.GetReflection()->GetMessage(config, SectionOf(field));
  const Reflection& reflection = *section.GetReflection();
  const bool none = field.is_repeated()
                        ? reflection.FieldSize(section, &field) == 0 && FindRule(key)->min_items > 0
                        : field.has_presence() && !reflection.HasField(section, &field);
  if (none) return absl::nullopt;
  Value value = Get(field, section);
  const auto* const number = std::get_if<double>(&value.is);
  const absl::string_view zero = FindRule(key)->zero;
  if (number != nullptr && *number == 0 && !zero.empty()) value.is = std::string(zero);
  return value;
}

}  // namespace sdp::config
