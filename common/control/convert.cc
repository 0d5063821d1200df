#include "common/control/convert.h"

#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/status.h"

namespace sdp {
namespace {

absl::Status CheckName(absl::string_view name) {
  constexpr size_t kLongest = 100;
  bool good = !name.empty() && name.size() <= kLongest;
  for (const char c : name)
    good = good && (absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.');
  if (good) return absl::OkStatus();
  // Not quoted when long: an error text is no place for a peer's megabyte.
  return absl::InvalidArgumentError(
      absl::StrCat("a member's name has 1 to ", kLongest, " letters, digits, '-', '_' or '.'; got ",
                   name.size() <= kLongest ? absl::StrCat("\"", name, "\"")
                                           : absl::StrCat(name.size(), " bytes")));
}

absl::Status CheckAddress(absl::string_view address) {
  bool good = !address.empty();
  for (const char c : address) good = good && absl::ascii_isgraph(c);
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("\"", address, "\" is no address"));
}

}  // namespace

proto::RegisterShardRequest ToProto(const ShardRegistration& registration) {
  proto::RegisterShardRequest message;
  message.set_name(registration.name);
  message.set_address(registration.address);
  message.set_config_hash(registration.config_hash);
  message.set_instance(registration.instance);
  message.set_before(registration.before);
  return message;
}

absl::StatusOr<ShardRegistration> FromProto(const proto::RegisterShardRequest& message) {
  SDP_RETURN_IF_ERROR(CheckName(message.name()));
  SDP_RETURN_IF_ERROR(Context(CheckAddress(message.address()), message.name()));
  return ShardRegistration{.name = message.name(),
                           .address = message.address(),
                           .config_hash = message.config_hash(),
                           .instance = message.instance(),
                           .before = message.before()};
}

proto::RegisterShardResponse::Admission ToProto(const ShardAdmission& admission) {
  proto::RegisterShardResponse::Admission message;
  message.set_shard(admission.shard.value());
  message.set_shards(admission.shards);
  message.set_generation(admission.generation.value());
  message.set_term(admission.term.value());
  message.set_first_step(admission.start.step);
  message.set_checkpoint(admission.start.checkpoint);
  message.set_init_path(admission.start.init_path);
  message.mutable_factors()->Assign(admission.start.factors.begin(), admission.start.factors.end());
  message.set_checkpoints(admission.checkpoints);
  message.set_steps(admission.steps);
  return message;
}

ShardAdmission FromProto(const proto::RegisterShardResponse::Admission& message) {
  return {.shard = ShardId(message.shard()),
          .shards = message.shards(),
          .generation = Generation(message.generation()),
          .term = Term(message.term()),
          .start = {.step = message.first_step(),
                    .checkpoint = message.checkpoint(),
                    .init_path = message.init_path(),
                    .factors = {message.factors().begin(), message.factors().end()}},
          .checkpoints = message.checkpoints(),
          .steps = message.steps()};
}

proto::RegisterWorkerRequest ToProto(const WorkerRegistration& registration) {
  proto::RegisterWorkerRequest message;
  message.set_name(registration.name);
  message.set_config_hash(registration.config_hash);
  message.set_instance(registration.instance);
  message.set_before(registration.before);
  message.set_memory_bytes(registration.memory_bytes);
  return message;
}

absl::StatusOr<WorkerRegistration> FromProto(const proto::RegisterWorkerRequest& message) {
  SDP_RETURN_IF_ERROR(CheckName(message.name()));
  if (message.memory_bytes() < 0) {
    return absl::InvalidArgumentError(absl::StrCat(message.name(), " says that it has ",
                                                   message.memory_bytes(), " bytes of memory"));
  }
  return WorkerRegistration{.name = message.name(),
                            .config_hash = message.config_hash(),
                            .instance = message.instance(),
                            .before = message.before(),
                            .memory_bytes = message.memory_bytes()};
}

proto::RegisterWorkerResponse::Admission ToProto(const WorkerAdmission& admission) {
  proto::RegisterWorkerResponse::Admission message;
  message.set_incarnation(admission.incarnation.value());
  message.set_generation(admission.generation.value());
  message.set_term(admission.term.value());
  message.mutable_shards()->Assign(admission.shards.begin(), admission.shards.end());
  message.mutable_coverage()->Assign(admission.coverage.begin(), admission.coverage.end());
  message.mutable_reshuffles()->Assign(admission.reshuffles.begin(), admission.reshuffles.end());
  return message;
}

WorkerAdmission FromProto(const proto::RegisterWorkerResponse::Admission& message) {
  return {.incarnation = Incarnation(message.incarnation()),
          .generation = Generation(message.generation()),
          .term = Term(message.term()),
          .shards = {message.shards().begin(), message.shards().end()},
          .coverage = {message.coverage().begin(), message.coverage().end()},
          .reshuffles = {message.reshuffles().begin(), message.reshuffles().end()}};
}

proto::ReadyRequest ToProto(Incarnation worker, const DataSummary& data) {
  proto::ReadyRequest message;
  message.set_worker(worker.value());
  message.set_train_samples(data.train_samples);
  message.set_train_checksum(data.train_checksum);
  message.set_validation_samples(data.validation_samples);
  message.set_validation_checksum(data.validation_checksum);
  return message;
}

DataSummary FromProto(const proto::ReadyRequest& message) {
  return {.train_samples = message.train_samples(),
          .train_checksum = message.train_checksum(),
          .validation_samples = message.validation_samples(),
          .validation_checksum = message.validation_checksum()};
}

proto::BeginStepResponse::Binding ToProto(const WorkerBinding& binding) {
  proto::BeginStepResponse::Binding message;
  message.set_generation(binding.generation.value());
  message.set_view(binding.view.value());
  message.set_term(binding.term.value());
  message.set_step(binding.step);
  message.set_plan(binding.plan);
  if (binding.units != nullptr) {
    auto* units = message.mutable_units();
    for (const UnitFactor& held : *binding.units) {
      auto* unit = units->add_units();
      unit->set_unit(held.unit.value());
      unit->set_factor(held.factor);
    }
  }
  for (const PositionRange& range : binding.portion) {
    auto* positions = message.add_portion();
    positions->set_first(range.first);
    positions->set_count(range.count);
  }
  message.set_micro_batch(binding.micro_batch);
  for (const EvaluationPart& part : binding.evaluations) {
    auto* evaluation = message.add_evaluations();
    evaluation->set_version(part.version);
    evaluation->set_view(part.view.value());
    evaluation->set_first(part.first);
    evaluation->set_samples(part.samples);
  }
  message.set_diagnose(binding.diagnose);
  message.set_closing(binding.closing);
  message.set_finished(binding.finished);
  return message;
}

WorkerBinding FromProto(const proto::BeginStepResponse::Binding& message) {
  WorkerBinding binding{.generation = Generation(message.generation()),
                        .view = ViewId(message.view()),
                        .term = Term(message.term()),
                        .step = message.step(),
                        .plan = message.plan(),
                        .units = nullptr,
                        .portion = {},
                        .micro_batch = message.micro_batch(),
                        .evaluations = {},
                        .diagnose = message.diagnose(),
                        .closing = message.closing(),
                        .finished = message.finished()};
  for (const auto& positions : message.portion())
    binding.portion.push_back({positions.first(), positions.count()});
  for (const auto& part : message.evaluations()) {
    binding.evaluations.push_back(
        {part.version(), ViewId(part.view()), part.first(), part.samples()});
  }
  if (message.has_units()) {
    auto units = std::make_shared<std::vector<UnitFactor>>();
    units->reserve(static_cast<size_t>(message.units().units_size()));
    for (const auto& unit : message.units().units())
      units->push_back({UnitId(unit.unit()), unit.factor()});
    binding.units = std::move(units);
  }
  return binding;
}

proto::ReducedReport ToProto(const Reduced& report) {
  proto::ReducedReport message;
  message.set_shard(report.shard.value());
  message.set_step(report.step);
  message.mutable_squares()->Assign(report.squares.begin(), report.squares.end());
  message.mutable_holder_squares()->Assign(report.holder_squares.begin(),
                                           report.holder_squares.end());
  if (report.not_finite.has_value()) *message.mutable_not_finite() = ToProto(*report.not_finite);
  return message;
}

Reduced FromProto(const proto::ReducedReport& message) {
  Reduced report{
      .shard = ShardId(message.shard()),
      .step = message.step(),
      .squares = {message.squares().begin(), message.squares().end()},
      .holder_squares = {message.holder_squares().begin(), message.holder_squares().end()}};
  if (message.has_not_finite()) report.not_finite = FromProto(message.not_finite());
  return report;
}

proto::DiagnosedReport ToProto(const Diagnosed& report) {
  proto::DiagnosedReport message;
  message.set_shard(report.shard.value());
  message.set_step(report.step);
  for (const GradientComparison& fragment : report.fragments) {
    auto* compared = message.add_fragments();
    compared->set_terms(fragment.terms);
    compared->set_dot(fragment.dot);
    compared->set_square(fragment.square);
  }
  return message;
}

Diagnosed FromProto(const proto::DiagnosedReport& message) {
  Diagnosed report{ShardId(message.shard()), message.step(), {}};
  for (const auto& fragment : message.fragments())
    report.fragments.push_back({fragment.terms(), fragment.dot(), fragment.square()});
  return report;
}

proto::StepDoneReport ToProto(const StepDone& report) {
  proto::StepDoneReport message;
  message.set_shard(report.shard.value());
  message.set_step(report.step);
  message.set_uncovered(report.uncovered);
  message.set_peak_memory_bytes(report.peak_memory_bytes);
  message.set_allocated_peak_bytes(report.allocated_peak_bytes);
  return message;
}

StepDone FromProto(const proto::StepDoneReport& message) {
  return {.shard = ShardId(message.shard()),
          .step = message.step(),
          .uncovered = message.uncovered(),
          .peak_memory_bytes = message.peak_memory_bytes(),
          .allocated_peak_bytes = message.allocated_peak_bytes()};
}

proto::StateHashesReport ToProto(const StateHashes& report) {
  proto::StateHashesReport message;
  message.set_shard(report.shard.value());
  message.set_step(report.step);
  message.mutable_hashes()->Assign(report.hashes.begin(), report.hashes.end());
  return message;
}

StateHashes FromProto(const proto::StateHashesReport& message) {
  return {.shard = ShardId(message.shard()),
          .step = message.step(),
          .hashes = {message.hashes().begin(), message.hashes().end()}};
}

proto::CheckpointReport ToProto(const CheckpointPart& report) {
  proto::CheckpointReport message;
  message.set_shard(report.shard.value());
  message.set_step(report.step);
  message.set_error(report.error);
  message.set_file(report.file.name);
  message.set_bytes(report.file.bytes);
  for (const CheckpointFile::Entry& entry : report.file.fragments) {
    auto* out = message.add_fragments();
    out->set_fragment(entry.fragment.value());
    out->set_size(entry.size);
    out->set_updates(entry.updates);
    out->set_value(entry.value);
    out->mutable_moments()->Assign(entry.moments.begin(), entry.moments.end());
  }
  return message;
}

CheckpointPart FromProto(const proto::CheckpointReport& message) {
  CheckpointPart report{
      .shard = ShardId(message.shard()),
      .step = message.step(),
      .error = message.error(),
      .file = {.name = message.file(), .bytes = message.bytes(), .fragments = {}}};
  for (const auto& entry : message.fragments()) {
    report.file.fragments.push_back({.fragment = FragmentId(entry.fragment()),
                                     .size = entry.size(),
                                     .updates = entry.updates(),
                                     .value = entry.value(),
                                     .moments = {entry.moments().begin(), entry.moments().end()}});
  }
  return report;
}

proto::MemoryLedger ToProto(const MemoryLedger& ledger) {
  proto::MemoryLedger message;
  const auto fill = [](const BytesByKind& bytes, proto::MemoryLedger::Kinds* kinds) {
    const auto of = [&](MemoryKind kind) { return bytes[static_cast<size_t>(kind)]; };
    kinds->set_parameters(of(MemoryKind::kParameters));
    kinds->set_gradients(of(MemoryKind::kGradients));
    kinds->set_activations(of(MemoryKind::kActivations));
    kinds->set_communication(of(MemoryKind::kCommunication));
    kinds->set_other(of(MemoryKind::kOther));
  };
  fill(ledger.now, message.mutable_now());
  fill(ledger.peak, message.mutable_peak());
  return message;
}

MemoryLedger FromProto(const proto::MemoryLedger& message) {
  const auto bytes = [](const proto::MemoryLedger::Kinds& kinds) {
    BytesByKind of = {};
    of[static_cast<size_t>(MemoryKind::kParameters)] = kinds.parameters();
    of[static_cast<size_t>(MemoryKind::kGradients)] = kinds.gradients();
    of[static_cast<size_t>(MemoryKind::kActivations)] = kinds.activations();
    of[static_cast<size_t>(MemoryKind::kCommunication)] = kinds.communication();
    of[static_cast<size_t>(MemoryKind::kOther)] = kinds.other();
    return of;
  };
  return {bytes(message.now()), bytes(message.peak())};
}

proto::WorkerStepReport ToProto(const StepReport& report) {
  proto::WorkerStepReport message;
  message.set_worker(report.worker.value());
  message.set_step(report.step);
  message.set_loss_sum(report.loss_sum);
  message.set_terms(report.terms);
  message.set_pull_nanos(absl::ToInt64Nanoseconds(report.pull));
  message.set_forward_nanos(absl::ToInt64Nanoseconds(report.forward));
  message.set_backward_nanos(absl::ToInt64Nanoseconds(report.backward));
  message.set_push_nanos(absl::ToInt64Nanoseconds(report.push));
  message.set_pulled_bytes(report.pulled_bytes);
  message.set_pushed_bytes(report.pushed_bytes);
  message.set_peak_memory_bytes(report.peak_memory_bytes);
  message.set_allocated_peak_bytes(report.allocated_peak_bytes);
  *message.mutable_ledger() = ToProto(report.ledger);
  return message;
}

StepReport FromProto(const proto::WorkerStepReport& message) {
  return {.worker = Incarnation(message.worker()),
          .step = message.step(),
          .loss_sum = message.loss_sum(),
          .terms = message.terms(),
          .pull = absl::Nanoseconds(message.pull_nanos()),
          .forward = absl::Nanoseconds(message.forward_nanos()),
          .backward = absl::Nanoseconds(message.backward_nanos()),
          .push = absl::Nanoseconds(message.push_nanos()),
          .pulled_bytes = message.pulled_bytes(),
          .pushed_bytes = message.pushed_bytes(),
          .peak_memory_bytes = message.peak_memory_bytes(),
          .allocated_peak_bytes = message.allocated_peak_bytes(),
          .ledger = FromProto(message.ledger())};
}

proto::WorkerEvaluationReport ToProto(const EvaluationReport& report) {
  proto::WorkerEvaluationReport message;
  message.set_worker(report.worker.value());
  message.set_step(report.step);
  message.set_loss_sum(report.loss_sum);
  message.set_terms(report.terms);
  if (report.correct.has_value()) message.set_correct(*report.correct);
  message.set_first(report.first);
  return message;
}

EvaluationReport FromProto(const proto::WorkerEvaluationReport& message) {
  EvaluationReport report = {.worker = Incarnation(message.worker()),
                             .step = message.step(),
                             .loss_sum = message.loss_sum(),
                             .terms = message.terms()};
  if (message.has_correct()) report.correct = message.correct();
  report.first = message.first();
  return report;
}

proto::NotFinite ToProto(const NotFiniteReport& report) {
  proto::NotFinite message;
  message.set_member(report.member);
  message.set_step(report.step);
  message.set_what(report.what);
  message.set_worker(report.worker.value());
  return message;
}

NotFiniteReport FromProto(const proto::NotFinite& message) {
  return {.member = message.member(),
          .step = message.step(),
          .what = message.what(),
          .worker = Incarnation(message.worker())};
}

}  // namespace sdp
