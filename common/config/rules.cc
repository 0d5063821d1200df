#include "common/config/rules.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "google/protobuf/descriptor.h"
#include "proto/config.pb.h"

namespace sdp::config {
namespace {

// Upper bounds are far above any use; they keep products (tokens x vocabulary, samples x length)
// inside 64 bits.
constexpr Range kPositive{.low = 1, .high = 1e9};
constexpr Range kCount{.low = 0, .high = 1e9};
constexpr Range kSteps{.low = 0, .high = 1e12};
constexpr Range kShare{.low = 0, .high = 1, .low_open = true};      // (0, 1]
constexpr Range kBelowOne{.low = 0, .high = 1, .high_open = true};  // [0, 1)
constexpr Range kFactor{.low = 0, .high = 1e6};
constexpr Range kPositiveFactor{.low = 0, .high = 1e6, .low_open = true};

// In or out of the config hash.
constexpr Hashed kIn = Hashed::kYes;
constexpr Hashed kOut = Hashed::kNo;

using Words = std::vector<absl::string_view>;
using View = absl::string_view;

// One function per kind of row, so that the table below reads as one.
Rule Flag(View key, View fallback, Hashed hashed, View help) {
  return {.key = key, .fallback = fallback, .hashed = hashed, .help = help};
}

Rule Number(View key, View fallback, Hashed hashed, Range range, View help) {
  Rule rule = Flag(key, fallback, hashed, help);
  rule.range = range;
  return rule;
}

Rule NumberOr(View zero, View key, View fallback, Hashed hashed, Range range, View help) {
  Rule rule = Number(key, fallback, hashed, range, help);
  rule.zero = zero;
  return rule;
}

Rule Numbers(View key, View fallback, Hashed hashed, int count, Range each, View help) {
  Rule rule = Number(key, fallback, hashed, each, help);
  rule.min_items = rule.max_items = count;
  return rule;
}

// A list of numbers or phases, or numbers by name; at least one.
Rule Some(View key, Hashed hashed, Range each, View help) {
  Rule rule = Number(key, "", hashed, each, help);
  rule.min_items = 1;
  return rule;
}

Rule Choice(View key, View fallback, Hashed hashed, Words choices, Words not_built, View help) {
  Rule rule = Flag(key, fallback, hashed, help);
  rule.choices = std::move(choices);
  rule.not_built = std::move(not_built);
  return rule;
}

Rule String(View key, View fallback, Hashed hashed, Text text, View help) {
  Rule rule = Flag(key, fallback, hashed, help);
  rule.text = text;
  return rule;
}

Rule Files(View key, View fallback, Hashed hashed, int min_items, View help) {
  Rule rule = String(key, fallback, hashed, Text::kNotEmpty, help);
  rule.min_items = min_items;
  return rule;
}

// A key that only some architectures have.
Rule Of(Words archs, Rule rule) {
  rule.archs = std::move(archs);
  return rule;
}

// Columns: key, default, config hash, what is allowed (, what will be), help.
// clang-format off
std::vector<Rule> MakeRules() {
  return {
      Choice("model.preset", "", kOut,
             {"llama-tiny", "llama-134m", "llama-500m", "llama-1b", "resnet18", "resnet-cifar", "swin-t",
              "swin-cifar"}, {},
             "all sizes of a known model"),
      Choice("model.arch", "", kIn, {"llama", "resnet", "mlp", "swin"}, {}, "instead of a preset; then the sizes below"),
      Of({"llama", "mlp", "swin"}, Number("model.dim", "", kIn, {2, 65536}, "width; of swin: the first level's, which each next one doubles")),
      Of({"llama", "mlp"}, Number("model.layers", "", kIn, {1, 65536}, "transformer layers; of mlp: residual layers")),
      Of({"llama"}, Number("model.heads", "", kIn, {1, 65536}, "attention heads; divides dim")),
      Of({"llama"}, Number("model.kv_heads", "", kIn, {1, 65536}, "divides heads; default: heads")),
      Of({"llama", "mlp"}, Number("model.ffn_dim", "", kIn, {1, 1e6}, "hidden neurons of the MLP")),
      Of({"llama"}, Number("model.vocab", "", kIn, {1, 1e7}, "token ids; default with arch and text: 256")),
      Of({"llama"}, Number("model.rope_theta", "1e4", kIn, {1, 1e12}, "base of the rotary embedding")),
      Of({"llama", "resnet", "swin"}, Number("model.norm_eps", "1e-5", kIn, kShare, "added under the root of norms")),
      Of({"llama"}, Flag("model.tied", "false", kIn, "the head uses the embedding's tensor")),
      Of({"resnet"}, Some("model.widths", kIn, {1, 65536}, "resnet: channels of each level, such as [64, 128, 256, 512]")),
      Of({"resnet", "swin"}, Some("model.depths", kIn, {1, 65536}, "resnet, swin: blocks of each level")),
      Of({"resnet"}, Choice("model.stem", "'cifar'", kIn, {"cifar", "imagenet"}, {}, "resnet: 3x3; 7x7 and a maximum, the default for a folder of images")),
      Of({"resnet"}, Choice("model.activation", "'post'", kIn, {"post", "pre"}, {}, "resnet: ReLU after a block's sum, or before its convolutions")),
      Of({"resnet"}, Choice("model.norm", "'group'", kIn, {"group", "batch"}, {}, "resnet: GroupNorm or BatchNorm at each convolution")),
      Of({"resnet"}, Number("model.norm_groups", "8", kIn, {1, 65536}, "resnet: of channels; divides every width")),
      Of({"resnet", "mlp", "swin"}, Number("model.classes", "", kIn, {1, 1e6}, "of images; default: as many as data.kind has; required for a folder")),
      Of({"resnet", "mlp", "swin"}, Number("model.image_size", "", kIn, {1, 8192}, "height and width of images; default: 32 of CIFAR's, 224 of a folder's")),
      Of({"swin"}, Some("model.level_heads", kIn, {1, 65536}, "swin: attention heads of each level, such as [3, 6, 12, 24]; divide its width")),
      Of({"swin"}, Number("model.window", "", kIn, {1, 65536}, "swin: height and width of a window of tokens; divides those of every level")),
      Of({"swin"}, Number("model.patch", "", kIn, {1, 65536}, "swin: height and width of the pixels that become a token")),
      Of({"swin"}, Number("model.mlp_ratio", "4", kIn, {1, 1024}, "swin: hidden neurons of a block / its width")),

      Choice("sdp.masking", "'forward'", kIn, {"forward", "backward"}, {},
             "what a worker leaves out of what it does not hold: all, or its weights' gradients"),
      Choice("sdp.granularity", "'block'", kIn, {"block", "neuron"}, {}, "units are whole branches, or parts of them"),
      Choice("sdp.unit", "'sublayer'", kIn, {"sublayer", "layer"}, {}, "block: units of transformers"),
      Of({"llama", "swin"}, Choice("sdp.attention", "", kIn, {"split", "shared"}, {}, "neuron: heads are units, or attention is whole on every worker; default: split")),
      Number("sdp.groups", "", kIn, {1, 1e6}, "neuron: parts of each MLP, or of a block's inner channels; default: 24, resnet: norm_groups"),
      NumberOr("auto", "sdp.coverage", "0.5", kIn, kShare, "share of workers that hold a unit; auto: the largest that fits worker.memory"),
      Number("sdp.holders", "", kIn, kPositive, "workers that hold a unit, instead of coverage"),
      Some("sdp.coverage_by", kIn, kShare, "of units of the kinds it names, before coverage, holders, depth"),
      Some("sdp.depth", kIn, kShare, "coverage from the first layer to the last, lines between; instead of coverage"),
      Choice("sdp.assignment", "'resolvable'", kIn, {"resolvable", "cyclic", "random"}, {}, "who holds which unit"),
      Choice("sdp.rescale", "'eval'", kIn, {"eval", "none", "inverted", "sqrt"}, {},
             "factor of units at coverage c: eval: c in evaluation, inverted: 1/c in training, sqrt: sqrt(c) in evaluation"),
      Number("sdp.rotate_every", "0", kIn, kSteps, "steps; 0: the same subnetworks for the whole run"),
      Some("sdp.phases", kIn, kSteps, "other coverages from a step on, until the next phase"),

      Choice("data.kind", "'text'", kIn, {"text", "tokens", "cifar10", "cifar100", "images"}, {},
             "bytes of text, GPT-2 token shards, CIFAR's binary files, a folder with JPEG files in a sub-folder per class"),
      Files("data.train", "", kOut, 1, "read in this order; of images: one folder"),
      Files("data.validation", "[]", kOut, 0, "[]: no evaluation"),
      Of({"llama"}, Number("data.seq_len", "256", kIn, {1, 1e7}, "tokens of a sample")),
      Flag("data.shuffle", "true", kIn, "a new order in every epoch"),
      Of({"llama"}, String("data.tokenizer", "''", kOut, Text::kAny, "of the ids: folder or file that sdp export copies; empty: none")),

      Number("train.steps", "1000", kOut, {1, 1e12}, "when training ends"),
      Number("train.global_batch", "32", kIn, kPositive, "samples per step over all workers"),
      Number("train.worker_batch", "0", kIn, {0, 1e9}, "samples of every worker in a step, whatever their number; lr, meant for global_batch, is multiplied by (samples of the step / global_batch), with adamw by its square root; 0: global_batch is divided among the workers"),
      Number("train.micro_batch", "0", kIn, kCount, "samples a worker computes at once; 0: its whole portion"),
      Flag("train.recompute", "false", kOut, "activation checkpointing: stages keep their input alone and are computed again in the backward pass"),
      Choice("train.precision", "'f32'", kIn, {"f32", "bf16"}, {}, "of weights, gradients and activations on workers"),
      Choice("train.optimizer", "'adamw'", kIn, {"adamw", "sgd"}, {}, "as in torch.optim"),
      Number("train.lr", "3e-4", kIn, kPositiveFactor, "learning rate after warm-up"),
      Number("train.weight_decay", "0.1", kIn, kFactor, "not on norms and biases"),
      Numbers("train.betas", "[0.9, 0.95]", kIn, 2, kBelowOne, "adamw"),
      Number("train.eps", "1e-8", kIn, kShare, "adamw"),
      Number("train.momentum", "0.9", kIn, kBelowOne, "sgd"),
      Flag("train.nesterov", "false", kIn, "sgd: the momentum looks a step ahead"),
      Choice("train.schedule", "'constant'", kIn, {"constant", "cosine", "wsd"}, {},
             "of lr after warm-up; wsd: constant, then linear to 0"),
      Number("train.warmup_steps", "0", kIn, kSteps, "lr rises linearly over these steps"),
      Number("train.decay_fraction", "0.2", kIn, kShare, "wsd: of the steps, those over which lr falls"),
      Number("train.clip_norm", "0.0", kIn, kFactor, "norm of all gradients; 0: off"),
      Choice("train.on_nonfinite", "'stop'", kIn, {"stop", "skip"}, {},
             "what a loss or gradient that is not finite does; skip: its step changes nothing, and 50 such steps in a row end the run"),
      Number("train.spike_factor", "0.0", kIn, kFactor, "a step whose loss is above so many times the median of the last 100 sends the run back to its last checkpoint, and on with the samples in a new order; 0: off"),
      Number("train.eval_every", "100", kOut, kSteps, "steps, and at the end; 0: only then"),
      Number("train.eval_samples", "0", kOut, kSteps, "the first k; 0: all"),
      Number("train.seed", "0", kIn, {0}, "of initial values, order and plan"),

      Number("checkpoint.every", "500", kOut, kSteps, "steps, and at the end; 0: only then"),
      Number("checkpoint.every_minutes", "0.0", kOut, {0, 1e6}, "another one after so long without; 0: by steps alone"),
      Number("checkpoint.keep_last", "2", kOut, {1, 1e6}, "older ones are removed"),
      String("checkpoint.buffer", "'1GiB'", kOut, Text::kByteSize, "of a shard: older versions that it keeps while it writes one, so that training goes on; empty: none, updates wait"),
      String("checkpoint.dir", "''", kOut, Text::kAny, "folder that coordinator and shards see; empty: in the run folder"),

      Number("diagnostics.every", "0", kOut, kSteps,
             "steps that also evaluate and compare gradients, of holders and with the dense, in metrics.jsonl; 0: none"),

      Number("cluster.workers", "4", kOut, {1, 1e5}, "worker processes that a run begins with"),
      Number("cluster.shards", "2", kOut, {1, 1e5}, "shard processes"),
      Number("cluster.min_workers", "1", kOut, {1, 1e5}, "with fewer the run pauses"),
      Number("cluster.max_workers", "0", kOut, {0, 1e5}, "more are refused; 0: no limit"),
      Choice("cluster.portions", "'equal'", kOut, {"equal", "measured"}, {}, "of a step's samples; measured: so that all workers compute about as long"),

      Choice("worker.device", "'cpu'", kOut, {"cpu", "cuda"}, {}, "where a worker computes; cuda: the first GPU it sees"),
      Number("worker.threads", "0", kOut, {0, 4096}, "0: cores / workers on this host"),
      String("worker.memory", "''", kOut, Text::kByteSize, "for training, of a worker; empty: what its cgroup or GPU has"),

      String("run.dir", "'runs/first'", kOut, Text::kNotEmpty, "the run folder"),

      String("security.ca", "''", kOut, Text::kAny, "TLS on every connection: file with the certificates of the authorities; empty: plaintext"),
      String("security.cert", "''", kOut, Text::kAny, "file with the certificate of this process, for the host that others dial"),
      String("security.key", "''", kOut, Text::kAny, "file with the key of security.cert"),
      String("security.token", "''", kOut, Text::kAny, "file with the join token, a secret that the processes of a cluster share"),
      String("security.server_name", "''", kOut, Text::kAny, "name that every server's certificate must have, for servers whose addresses no certificate knows; empty: the host that was dialled"),
  };
}
// clang-format on

}  // namespace

bool Rule::IsOf(absl::string_view arch) const {
  return archs.empty() || absl::c_linear_search(archs, arch);
}

absl::Span<const Rule> Rules() {
  static const auto* const rules = new std::vector<Rule>(MakeRules());
  return *rules;
}

const Rule* FindRule(absl::string_view key) {
  for (const Rule& rule : Rules()) {
    if (rule.key == key) return &rule;
  }
  return nullptr;
}

const Rule* FindPhaseRule(absl::string_view name) {
  static const auto* const from =
      new Rule(Number("from", "", kIn, kSteps, "the first step of the phase"));
  return name == from->key ? from : FindRule(absl::StrCat("sdp.", name));
}

const google::protobuf::FieldDescriptor* FieldOf(absl::string_view key) {
  const std::pair<std::string, std::string> names = absl::StrSplit(key, absl::MaxSplits('.', 1));
  const auto* const section = RunConfig::descriptor()->FindFieldByName(names.first);
  return section == nullptr ? nullptr : section->message_type()->FindFieldByName(names.second);
}

}  // namespace sdp::config
