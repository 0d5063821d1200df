#include "common/rpc/shard_convert.h"

#include <memory>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sdp {
namespace {

absl::Status Invalid(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("binding: ", what));
}

absl::StatusOr<std::shared_ptr<const HolderSets>> ReadHolders(
    const proto::BindRequest::Holders& message, size_t units) {
  auto holders = std::make_shared<HolderSets>();
  for (const int64_t member : message.members()) holders->members.emplace_back(member);
  if (message.instances_size() != message.members_size()) {
    return Invalid(absl::StrCat(message.instances_size(), " instances of ", message.members_size(),
                                " members"));
  }
  holders->instances.assign(message.instances().begin(), message.instances().end());
  for (const auto& set : message.sets()) {
    std::vector<Incarnation>& workers = holders->sets.emplace_back();
    int last = -1;
    for (const int32_t rank : set.ranks()) {
      if (rank <= last || rank >= message.members_size()) {
        return Invalid(
            absl::StrCat("rank ", rank, " after ", last, " in a view of ", message.members_size()));
      }
      last = rank;
      workers.push_back(holders->members[static_cast<size_t>(rank)]);
    }
  }
  if (static_cast<size_t>(message.set_of_unit_size()) != units) {
    return Invalid(absl::StrCat(message.set_of_unit_size(), " units, the model has ", units));
  }
  for (const int32_t set : message.set_of_unit()) {
    if (set < 0 || set >= message.sets_size()) {
      return Invalid(absl::StrCat("set ", set, " of ", message.sets_size()));
    }
    holders->set_of_unit.push_back(set);
  }
  return holders;
}

}  // namespace

proto::BindRequest ToProto(const ShardBinding& binding) {
  proto::BindRequest request;
  request.set_generation(binding.generation.value());
  request.set_view(binding.view.value());
  request.set_step(binding.step);
  request.set_plan(binding.plan);
  request.set_evaluate(binding.evaluate);
  request.set_closing(binding.closing);
  request.set_checkpoint(binding.checkpoint);
  request.set_diagnose(binding.diagnose);
  if (binding.holders == nullptr) return request;

  auto* holders = request.mutable_holders();
  absl::flat_hash_map<Incarnation, int32_t> ranks;
  for (const Incarnation member : binding.holders->members) {
    ranks.emplace(member, holders->members_size());
    holders->add_members(member.value());
  }
  for (const uint64_t instance : binding.holders->instances) holders->add_instances(instance);
  for (const auto& set : binding.holders->sets) {
    auto* message = holders->add_sets();
    for (const Incarnation worker : set) message->add_ranks(ranks.at(worker));
  }
  for (const int32_t set : binding.holders->set_of_unit) holders->add_set_of_unit(set);
  return request;
}

absl::StatusOr<ShardBinding> FromProto(const proto::BindRequest& request, size_t units) {
  ShardBinding binding;
  binding.generation = Generation(request.generation());
  binding.view = ViewId(request.view());
  binding.step = request.step();
  binding.plan = request.plan();
  binding.evaluate = request.evaluate();
  binding.closing = request.closing();
  binding.checkpoint = request.checkpoint();
  binding.diagnose = request.diagnose();
  if (binding.step < 0 || binding.plan < 0) return Invalid("a negative number");
  if (request.has_holders()) {
    auto holders = ReadHolders(request.holders(), units);
    if (!holders.ok()) return holders.status();
    binding.holders = *std::move(holders);
  }
  return binding;
}

proto::ExcludeRequest ToProto(const Exclusion& exclusion) {
  proto::ExcludeRequest request;
  request.set_generation(exclusion.generation.value());
  request.set_number(exclusion.number);
  request.set_worker(exclusion.worker.value());
  return request;
}

Exclusion FromProto(const proto::ExcludeRequest& request) {
  return {Generation(request.generation()), request.number(), Incarnation(request.worker())};
}

proto::SetScaleRequest ToProto(const ClipScale& scale) {
  proto::SetScaleRequest request;
  request.set_generation(scale.generation.value());
  request.set_step(scale.step);
  request.set_scale(scale.scale);
  return request;
}

absl::StatusOr<ClipScale> FromProto(const proto::SetScaleRequest& request) {
  ClipScale scale;
  scale.generation = Generation(request.generation());
  scale.step = request.step();
  scale.scale = request.scale();
  if (!(scale.scale >= 0 && scale.scale <= 1)) {  // not a NaN either
    return absl::InvalidArgumentError(
        absl::StrCat("clipping scale ", scale.scale, " is not in [0, 1]"));
  }
  return scale;
}

}  // namespace sdp
