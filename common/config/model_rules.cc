#include "common/config/model_rules.h"

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/data/image_kinds.h"

namespace sdp::config {
namespace {

void CheckLlama(const RunConfig& config, Checks* checks) {
  const RunConfig::Model& model = config.model();
  if (model.dim() % model.heads() != 0) {
    checks->Fail({"model.dim", "model.heads"}, "heads must divide dim");
  } else if (model.dim() / model.heads() % 2 != 0) {
    checks->Fail({"model.dim", "model.heads"},
                 absl::StrCat("the width of a head, dim / heads = ", model.dim() / model.heads(),
                              ", must be even for rotary embeddings"));
  }
  if (model.heads() % model.kv_heads() != 0) {
    checks->Fail({"model.heads", "model.kv_heads"}, "kv_heads must divide heads");
  }
  if (config.data().kind() == "text" && model.vocab() < 256) {
    checks->Fail({"model.vocab", "data.kind"},
                 "text has 256 different bytes, so vocab must be at least 256");
  }
}

// BatchNorm needs batches: of one image alone, some activations have no variance.
void CheckBatches(const RunConfig& config, Checks* checks) {
  const int64_t workers = config.cluster().workers(), micro = config.train().micro_batch();
  const int64_t fixed = config.train().worker_batch();
  const int64_t batch = fixed > 0 ? fixed * workers : config.train().global_batch();
  const int64_t least = batch / workers;
  for (const int64_t portion : {least, least + 1}) {
    if (portion == 0 || (portion > least && batch % workers == 0)) continue;
    const int64_t rest = micro > 0 ? portion % micro : portion;
    if ((rest == 0 ? micro : rest) > 1) continue;
    checks->Fail({"model.norm", "train.global_batch", "train.micro_batch", "cluster.workers"},
                 "a worker would compute one image alone; BatchNorm needs batches of at least 2");
    return;
  }
}

void CheckResnet(const RunConfig& config, Checks* checks) {
  const RunConfig::Model& model = config.model();
  if (model.widths_size() != model.depths_size()) {
    checks->Fail({"model.widths", "model.depths"}, "both must have one number for each level");
  }
  if (model.norm() == "batch") return CheckBatches(config, checks);
  for (const int64_t width : model.widths()) {
    if (width % model.norm_groups() == 0) continue;
    checks->Fail({"model.widths", "model.norm_groups"},
                 absl::StrCat("norm_groups must divide every width, also ", width));
    break;
  }
}

void CheckImageFolders(const RunConfig::Data& data, Checks* checks) {
  const char* const one = "give one folder of images, with a sub-folder per class";
  if (data.train_size() > 1) checks->Fail({"data.train", "data.kind"}, one);
  if (data.validation_size() > 1) checks->Fail({"data.validation", "data.kind"}, one);
}

void CheckCifar(const RunConfig::Model& model, const ImageKind& images, Checks* checks) {
  if (model.classes() < images.classes) {
    checks->Fail({"model.classes", "data.kind"},
                 absl::StrCat("there are ", images.classes, " classes in the data"));
  }
  if (model.image_size() != images.image_size) {
    checks->Fail(
        {"model.image_size", "data.kind"},
        absl::StrCat("its images have ", images.image_size, " x ", images.image_size, " pixels"));
  }
}

void CheckSwin(const RunConfig& config, Checks* checks) {
  const RunConfig::Model& model = config.model();
  if (model.level_heads_size() != model.depths_size()) {
    checks->Fail({"model.level_heads", "model.depths"}, "both must have one number for each level");
    return;
  }
  if (model.image_size() % model.patch() != 0) {
    checks->Fail({"model.patch", "model.image_size"}, "patches must divide an image's pixels");
    return;
  }
  int64_t size = model.image_size() / model.patch(), width = model.dim();
  for (int level = 0; level < model.depths_size(); ++level) {
    const std::string which = absl::StrCat("level ", level + 1);
    if (level > 0) {
      if (size % 2 != 0) {
        checks->Fail({"model.patch", "model.depths"},
                     absl::StrCat(which, " would merge 2 x 2 of ", size, " x ", size, " tokens"));
        return;
      }
      size /= 2;
      width *= 2;
    }
    if (size % model.window() != 0) {
      checks->Fail(
          {"model.window", "model.patch", "model.depths"},
          absl::StrCat(which, " has ", size, " x ", size, " tokens, which windows must divide"));
      return;
    }
    if (width % model.level_heads(level) != 0) {
      checks->Fail({"model.level_heads", "model.dim"},
                   absl::StrCat("the heads of ", which, " must divide its width, ", width));
      return;
    }
  }
}

// What image models take, and what is not built for them yet.
void CheckImages(const RunConfig& config, Checks* checks) {
  const ImageKind* const images = FindImageKind(config.data().kind());
  if (images == nullptr) {
    checks->Fail({"model.arch", "data.kind"},
                 "the model learns from images: data.kind must be \"cifar10\", \"cifar100\" or "
                 "\"images\"");
    return;
  }
  if (images->IsFolder()) {
    CheckImageFolders(config.data(), checks);
  } else {
    CheckCifar(config.model(), *images, checks);
  }
  const auto only = [&](const std::string& key, const std::string& value, const char* built) {
    if (value == built) return;
    checks->Fail({key, "model.arch"},
                 absl::StrCat("not built yet for image models; allowed now: \"", built, "\""));
  };
  only("train.precision", config.train().precision(), "f32");
}

}  // namespace

bool TakesImages(const RunConfig& config) { return config.model().arch() != "llama"; }

void CheckModel(const RunConfig& config, Checks* checks) {
  if (TakesImages(config)) {
    CheckImages(config, checks);
    if (config.model().arch() == "resnet") CheckResnet(config, checks);
    if (config.model().arch() == "swin") CheckSwin(config, checks);
    return;
  }
  if (config.data().kind() != "text" && config.data().kind() != "tokens") {
    checks->Fail({"model.arch", "data.kind"},
                 "the model learns from text: data.kind must be \"text\" or \"tokens\"");
    return;
  }
  CheckLlama(config, checks);
}

}  // namespace sdp::config
