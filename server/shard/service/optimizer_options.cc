#include "server/shard/service/optimizer_options.h"

namespace sdp {

OptimizerOptions OptimizerOptionsOf(const RunConfig::Train& train) {
  OptimizerOptions options;
  options.kind =
      train.optimizer() == "sgd" ? OptimizerOptions::Kind::kSgd : OptimizerOptions::Kind::kAdamW;
  options.lr = train.lr();
  options.weight_decay = train.weight_decay();
  if (train.betas_size() == 2) {
    options.beta1 = train.betas(0);
    options.beta2 = train.betas(1);
  }
  options.eps = train.eps();
  options.momentum = train.momentum();
  options.nesterov = train.nesterov();
  options.schedule = train.schedule() == "cosine" ? OptimizerOptions::Schedule::kCosine
                     : train.schedule() == "wsd"  ? OptimizerOptions::Schedule::kWarmupStableDecay
                                                  : OptimizerOptions::Schedule::kConstant;
  options.decay_fraction = train.decay_fraction();
  options.worker_batch = train.worker_batch();
  options.global_batch = train.global_batch();
  options.warmup_steps = train.warmup_steps();
  options.steps = train.steps();
  return options;
}

}  // namespace sdp
