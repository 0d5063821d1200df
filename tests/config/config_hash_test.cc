// The config hash covers exactly what protocol.md section 7 says. The keys are walked by
// reflection, so a new key fails here until someone decides whether two processes may differ in it.
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "common/config/config.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "gtest/gtest.h"
#include "proto/config.pb.h"

namespace sdp {
namespace {

using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::Message;
using ::google::protobuf::Reflection;

constexpr char kMinimal[] = "[model]\npreset = 'llama-tiny'\n[data]\ntrain = ['a.txt']\n";

RunConfig Load(const std::vector<std::string>& sets = {}) {
  const auto loaded = LoadConfigText(kMinimal, "run.toml", sets);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return loaded.ok() ? loaded->config : RunConfig();
}

// protocol.md: "train.steps, train.eval_*, [checkpoint], [cluster], [worker], [run] may change"; of
// data kind, seq_len and shuffle count. A preset is only another way to write the sizes, and
// recomputation changes no bit of what is trained.
bool MustCount(const std::string& section, const std::string& key) {
  if (section == "model") return key != "preset";
  if (section == "sdp") return true;
  if (section == "data") return key == "kind" || key == "seq_len" || key == "shuffle";
  if (section == "train") return key != "steps" && key != "recompute" && key.rfind("eval_", 0) != 0;
  static const std::set<std::string> kFree = {"cluster",    "worker",      "run",
                                              "checkpoint", "diagnostics", "security"};
  EXPECT_TRUE(kFree.contains(section))
      << "decide whether the config hash covers [" << section << "]";
  return false;
}

// Any other value: the hash does not look at what is allowed.
void Change(const FieldDescriptor& field, Message* section) {
  const Reflection& reflection = *section->GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.SetBool(section, &field, !reflection.GetBool(*section, &field));
    case FieldDescriptor::CPPTYPE_INT64:
      if (field.is_repeated()) return reflection.AddInt64(section, &field, 1);
      return reflection.SetInt64(section, &field, reflection.GetInt64(*section, &field) + 1);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      if (field.is_repeated()) return reflection.AddDouble(section, &field, 0.5);
      // The next double: values that only differ in the last bit differ.
      return reflection.SetDouble(section, &field,
                                  std::nextafter(reflection.GetDouble(*section, &field), 2.0));
    case FieldDescriptor::CPPTYPE_STRING:
      if (field.is_repeated()) return reflection.AddString(section, &field, "x");
      return reflection.SetString(section, &field, reflection.GetString(*section, &field) + "x");
    case FieldDescriptor::CPPTYPE_MESSAGE: {  // a table of numbers, or a list of tables
      Message* const entry = reflection.AddMessage(section, &field);
      if (!field.is_map()) return;
      entry->GetReflection()->SetString(entry, field.message_type()->map_key(), "x");
      entry->GetReflection()->SetDouble(entry, field.message_type()->map_value(), 0.5);
      return;
    }
    default:
      FAIL() << field.full_name() << " has a type that this test does not know";
  }
}

TEST(ConfigHashTest, EveryKey_CountsExactlyIfTheProtocolSaysSo) {
  const RunConfig base = Load();
  const std::string hash = ConfigHash(base);
  const auto* const config = RunConfig::descriptor();
  for (int i = 0; i < config->field_count(); ++i) {
    const FieldDescriptor* const section = config->field(i);
    for (int j = 0; j < section->message_type()->field_count(); ++j) {
      const FieldDescriptor& field = *section->message_type()->field(j);
      RunConfig changed = base;
      Change(field, changed.GetReflection()->MutableMessage(&changed, section));
      EXPECT_EQ(ConfigHash(changed) != hash, MustCount(section->name(), field.name()))
          << section->name() << "." << field.name();
    }
  }
}

TEST(ConfigHashTest, Form_Is16HexadecimalDigits) {
  const std::string hash = ConfigHash(Load());
  EXPECT_EQ(hash.size(), 16U);
  EXPECT_EQ(hash.find_first_not_of("0123456789abcdef"), std::string::npos);
}

// A change of this value means that running clusters and (later) checkpoints no longer match new
// binaries: raise kWireFormatVersion or say so in CHANGELOG.md when it is meant.
TEST(ConfigHashTest, Value_IsTheSameInEveryBuild) {
  EXPECT_EQ(ConfigHash(Load()), "d2766932fc2446f4");
}

TEST(ConfigHashTest, Notation_DoesNotCount) {
  const std::string hash = ConfigHash(Load());
  EXPECT_EQ(ConfigHash(Load({"train.lr=0.0003"})), hash);
  EXPECT_EQ(ConfigHash(Load({"train.clip_norm=0"})), hash);
  EXPECT_EQ(ConfigHash(Load({"train.clip_norm=-0.0"})), hash);
  EXPECT_EQ(ConfigHash(Load({"sdp.coverage=0.5"})), hash);
}

TEST(ConfigHashTest, PresetWrittenOut_HasTheSameHash) {
  const auto loaded = LoadConfigText(
      "[model]\narch = 'llama'\ndim = 128\nlayers = 4\nheads = 4\nkv_heads = 2\nffn_dim = 344\n"
      "[data]\ntrain = ['b.txt']\n",
      "run.toml", {});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(ConfigHash(loaded->config), ConfigHash(Load()));
}

TEST(ConfigHashTest, CoverageAndHolders_Differ) {
  EXPECT_NE(ConfigHash(Load({"sdp.depth=[0.5]"})), ConfigHash(Load({"sdp.coverage=0.5"})));
  EXPECT_NE(ConfigHash(Load({"sdp.coverage_by={mlp=0.5}"})),
            ConfigHash(Load({"sdp.coverage_by={mlp=0.75}"})));
  EXPECT_NE(ConfigHash(Load({"sdp.holders=2"})), ConfigHash(Load({"sdp.coverage=0.5"})));
  EXPECT_NE(ConfigHash(Load({"sdp.holders=1"})), ConfigHash(Load({"sdp.coverage=1"})));
}

}  // namespace
}  // namespace sdp
