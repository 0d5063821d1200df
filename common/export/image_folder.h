#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/data/tensor_files.h"
#include "common/export/stored_model.h"
#include "proto/config.pb.h"

// Exported image models. The weights have torchvision's names, BatchNorm's statistics included, so
// torchvision's ResNet and Swin Transformer of the same sizes load them as they are. What the model
// is says config.json in words of our own, as nobody else has a format for it:
//   model_type             "sdp-image"
//   model                  the keys of [model] with all sizes
//   data                   "cifar10", "cifar100", "images": those that it was made for
//   image_mean, image_std  of red, green, blue, a pixel being byte / 255: what goes into the model
//                          is (pixel - mean) / std
namespace sdp {

// Of a run of an image model.
std::string ImageConfigJson(const RunConfig& config);

bool IsImageConfig(absl::string_view config_json);

// The model of a folder with these files. Whatever they are: InvalidArgument, NotFound - names what
// is not as sdp writes it, or a tensor that is missing, of another shape or none of the model's.
absl::StatusOr<StoredModel> OpenImageFolder(const std::string& folder,
                                            absl::string_view config_json,
                                            std::shared_ptr<const TensorFiles> weights);

}  // namespace sdp
