#include "common/checkpoint/manifest.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/hash.h"
#include "common/base/status.h"

namespace sdp {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kNamePrefix[] = "step-";

// Reads typed fields of JSON that nobody has checked. The first problem is kept; after it every
// read returns a default.
class Fields {
 public:
  const absl::Status& status() const { return status_; }

  int64_t Count(const Json& object, const char* name) {
    const Json* const value = Find(object, name);
    if (value == nullptr) return 0;
    if (!value->is_number_unsigned() ||
        value->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Fail(name, "a count"), 0;
    }
    return value->get<int64_t>();
  }
  uint64_t Hash(const Json& object, const char* name) {
    const Json* const value = Find(object, name);
    return value == nullptr ? 0 : HashOf(*value, name);
  }
  uint64_t HashOf(const Json& value, const char* name) {
    uint64_t hash = 0;
    if (!value.is_string() || value.get_ref<const std::string&>().size() != 16 ||
        !absl::SimpleHexAtoi(value.get_ref<const std::string&>(), &hash)) {
      return Fail(name, "a string of 16 hexadecimal digits"), 0;
    }
    return hash;
  }
  std::string Text(const Json& object, const char* name) {
    const Json* const value = Find(object, name);
    if (value == nullptr) return "";
    if (!value->is_string()) return Fail(name, "a string"), "";
    return value->get<std::string>();
  }
  const Json& Array(const Json& object, const char* name) {
    static const Json* const empty = new Json(Json::array());
    const Json* const value = Find(object, name);
    if (value == nullptr) return *empty;
    if (!value->is_array()) return Fail(name, "an array"), *empty;
    return *value;
  }
  const Json& Object(const Json& object, const char* name) {
    static const Json* const empty = new Json(Json::object());
    const Json* const value = Find(object, name);
    return value == nullptr ? *empty : *value;
  }
  void Fail(const char* name, const char* wanted) {
    status_.Update(absl::InvalidArgumentError(
        absl::StrCat("checkpoint manifest: \"", name, "\" must be ", wanted)));
  }

 private:
  const Json* Find(const Json& object, const char* name) {
    if (!status_.ok()) return nullptr;
    const auto found = object.is_object() ? object.find(name) : object.end();
    if (!object.is_object() || found == object.end()) return Fail(name, "there"), nullptr;
    return &*found;
  }

  absl::Status status_;
};

Json ToJson(const CheckpointManifest::Entry& entry) {
  Json moments = Json::array();
  for (const uint64_t moment : entry.moments) moments.push_back(HashText(moment));
  return {{"fragment", entry.fragment.value()},
          {"size", entry.size},
          {"updates", entry.updates},
          {"value", HashText(entry.value)},
          {"moments", std::move(moments)}};
}

CheckpointManifest::Entry ReadEntry(const Json& json, Fields& fields) {
  CheckpointManifest::Entry entry;
  const int64_t fragment = fields.Count(json, "fragment");
  if (fragment > std::numeric_limits<int32_t>::max()) fields.Fail("fragment", "below 2^31");
  entry.fragment = FragmentId(static_cast<int32_t>(fragment));
  entry.size = fields.Count(json, "size");
  entry.updates = fields.Count(json, "updates");
  entry.value = fields.Hash(json, "value");
  for (const Json& moment : fields.Array(json, "moments")) {
    entry.moments.push_back(fields.HashOf(moment, "moments"));
  }
  return entry;
}

// A file's name must not lead out of the checkpoint's folder.
bool IsPlainName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && !absl::StrContains(name, '/') &&
         name.find('\0') == std::string::npos;
}

CheckpointManifest::File ReadFile(const Json& json, Fields& fields) {
  CheckpointManifest::File file;
  file.name = fields.Text(json, "name");
  if (fields.status().ok() && !IsPlainName(file.name)) fields.Fail("name", "a file's plain name");
  file.bytes = fields.Count(json, "bytes");
  for (const Json& entry : fields.Array(json, "fragments")) {
    file.fragments.push_back(ReadEntry(entry, fields));
    if (!fields.status().ok()) break;
  }
  return file;
}

SampleCursor ReadCursor(const Json& json, int64_t format, Fields& fields) {
  const int64_t next = fields.Count(json, "cursor");
  std::vector<PositionRange> returned;
  if (format < 2) return SampleCursor(next);
  for (const Json& range : fields.Array(json, "returned")) {
    const bool pair = range.is_array() && range.size() == 2 && range[0].is_number_unsigned() &&
                      range[1].is_number_unsigned();
    const uint64_t first = pair ? range[0].get<uint64_t>() : 1;
    const uint64_t count = pair ? range[1].get<uint64_t>() : 0;
    const auto below = static_cast<uint64_t>(next);  // all of them were taken before
    if (count == 0 || first >= below || count > below - first) {
      fields.Fail("returned", "pairs of a position and a count > 0, below the cursor");
      break;
    }
    returned.push_back({static_cast<int64_t>(first), static_cast<int64_t>(count)});
  }
  return SampleCursor(next, std::move(returned));
}

DataSummary ReadData(const Json& json, Fields& fields) {
  DataSummary data;
  data.train_samples = fields.Count(json, "train_samples");
  data.train_checksum = fields.Hash(json, "train_checksum");
  data.validation_samples = fields.Count(json, "validation_samples");
  data.validation_checksum = fields.Hash(json, "validation_checksum");
  return data;
}

}  // namespace

std::string ManifestJson(const CheckpointManifest& manifest) {
  Json json;
  json["format"] = kCheckpointFormat;
  json["step"] = manifest.step;
  json["generation"] = manifest.generation.value();
  json["cursor"] = manifest.cursor.next();
  Json returned = Json::array();
  for (const PositionRange& range : manifest.cursor.returned())
    returned.push_back({range.first, range.count});
  json["returned"] = std::move(returned);
  json["config_hash"] = manifest.config_hash;
  json["config"] = manifest.config;
  json["coverage"] = manifest.coverage;
  json["data"] = {{"train_samples", manifest.data.train_samples},
                  {"train_checksum", HashText(manifest.data.train_checksum)},
                  {"validation_samples", manifest.data.validation_samples},
                  {"validation_checksum", HashText(manifest.data.validation_checksum)}};
  json["plan_hash"] = HashText(manifest.plan_hash);
  Json files = Json::array();
  for (const CheckpointManifest::File& file : manifest.files) {
    Json fragments = Json::array();
    for (const auto& entry : file.fragments) fragments.push_back(ToJson(entry));
    files.push_back(
        {{"name", file.name}, {"bytes", file.bytes}, {"fragments", std::move(fragments)}});
  }
  json["files"] = std::move(files);
  // What is no UTF-8 (a path, say) is replaced: the text is for people and for the same
  // configuration.
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<CheckpointManifest> ParseManifest(absl::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object()) {
    return absl::InvalidArgumentError("checkpoint manifest: not a JSON object (cut off?)");
  }
  Fields fields;
  const int64_t format = fields.Count(json, "format");
  if (fields.status().ok() && (format < 1 || format > kCheckpointFormat)) {
    return absl::InvalidArgumentError(absl::StrCat("checkpoint manifest of format ", format,
                                                   ": this program reads formats 1 to ",
                                                   kCheckpointFormat));
  }
  CheckpointManifest manifest;
  manifest.step = fields.Count(json, "step");
  manifest.generation = Generation(fields.Count(json, "generation"));
  manifest.cursor = ReadCursor(json, format, fields);
  manifest.config_hash = fields.Text(json, "config_hash");
  manifest.config = fields.Text(json, "config");
  for (const Json& coverage : fields.Array(json, "coverage")) {
    const double value = coverage.is_number() ? coverage.get<double>() : 0;
    if (!(value > 0 && value <= 1)) fields.Fail("coverage", "shares in (0, 1]");
    manifest.coverage.push_back(value);
  }
  manifest.data = ReadData(fields.Object(json, "data"), fields);
  manifest.plan_hash = fields.Hash(json, "plan_hash");
  for (const Json& file : fields.Array(json, "files")) {
    manifest.files.push_back(ReadFile(file, fields));
    if (!fields.status().ok()) break;
  }
  if (!fields.status().ok()) return fields.status();
  return manifest;
}

absl::Status CheckComplete(const CheckpointManifest& manifest, const Layout& layout) {
  std::vector<int64_t> sizes(static_cast<size_t>(layout.fragments()), -1);
  for (const auto& file : manifest.files) {
    for (const auto& entry : file.fragments) {
      const auto index = static_cast<size_t>(entry.fragment.value());
      if (index >= sizes.size() || sizes[index] >= 0) {
        return absl::DataLossError(
            absl::StrCat(file.name, ": fragment ", index,
                         index < sizes.size() ? " is there twice" : " is not one of the model's"));
      }
      sizes[index] = entry.size;
    }
  }
  for (size_t f = 0; f < sizes.size(); ++f) {
    const int64_t wanted = layout.fragment(FragmentId(static_cast<int32_t>(f))).size;
    if (sizes[f] == wanted) continue;
    return absl::DataLossError(absl::StrCat(
        "fragment ", f,
        sizes[f] < 0 ? std::string(" is missing")
                     : absl::StrCat(" has ", sizes[f], " elements, the model's has ", wanted)));
  }
  return absl::OkStatus();
}

std::string CheckpointName(Step step) { return absl::StrCat(kNamePrefix, step); }

Step StepOfCheckpoint(absl::string_view name) {
  Step step = -1;
  // The way back decides: "step-07" and "step-+7" are no names of ours.
  if (!absl::ConsumePrefix(&name, kNamePrefix) || !absl::SimpleAtoi(name, &step) || step < 0 ||
      absl::StrCat(step) != name) {
    return -1;
  }
  return step;
}

std::string CheckpointFileName(ShardId shard, int shards, Generation generation) {
  return absl::StrCat("shard-", shard.value(), "-of-", shards, ".gen-", generation.value(),
                      ".safetensors");
}

std::string ValueTensor(FragmentId fragment) { return absl::StrCat(fragment.value(), ".value"); }

std::string MomentTensor(FragmentId fragment, size_t moment) {
  return absl::StrCat(fragment.value(), ".moment.", moment);
}

}  // namespace sdp
