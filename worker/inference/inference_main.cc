#include "worker/inference/inference_main.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <string>

#include "common/export/export_command.h"
#include "common/process/exit_status.h"
#include "worker/inference/evaluate.h"
#include "worker/inference/generate.h"
#include "worker/inference/stored_norms.h"

namespace sdp {
namespace {

// Without destroying statics: LibTorch's threads may still use them.
[[noreturn]] void Leave(int status) {
  std::cout << std::flush;
  std::fflush(nullptr);
  _exit(status);
}

void AddModel(CLI::App* app, std::string* model, int* threads) {
  app->add_option("DIR|RUN", *model, "An exported folder, or a run (its newest checkpoint)")
      ->required();
  app->add_option("--threads", *threads, "Threads to compute with; 0: as many as cores")
      ->check(CLI::Range(0, 4096))
      ->type_name("N");
}

CLI::App* AddEvaluate(CLI::App& app, EvaluateRequest* request, bool* json) {
  CLI::App* eval = app.add_subcommand("eval", "Show the loss of a full model on data");
  eval->footer("Example: sdp eval runs/first --data validation.txt");
  AddModel(eval, &request->model, &request->threads);
  eval->add_option(
          "--data", request->data,
          "Text, GPT-2 token shards, CIFAR's binary files (may be repeated) or a folder of images, "
          "as the model's")
      ->required()
      ->type_name("PATH")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false);
  eval->add_option("--seq-len", request->seq_len,
                   "Tokens of a sample; 0: as many as the model has positions")
      ->check(CLI::NonNegativeNumber)
      ->type_name("L");
  eval->add_option("--samples", request->samples, "Only the first of them; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->type_name("K");
  eval->add_option("--logits", request->logits,
                   "Write tokens and logits to a safetensors file: samples x L x vocab x 4 bytes")
      ->type_name("FILE");
  eval->add_flag("--json", *json, "For programs");
  return eval;
}

CLI::App* AddGenerate(CLI::App& app, GenerateRequest* request) {
  CLI::App* generate = app.add_subcommand("generate", "Let a full model go on from a prompt");
  generate->footer(
      "Example: sdp generate runs/first --prompt \"Once upon a time\" --tokens 100 --temperature "
      "0.8");
  AddModel(generate, &request->model, &request->threads);
  CLI::Option* const text =
      generate->add_option("--prompt", request->prompt, "Text, for a model of bytes")
          ->type_name("TEXT");
  CLI::Option* const ids = generate
                               ->add_option("--prompt-ids", request->prompt_ids,
                                            "Token ids, for any model; ids are written then")
                               ->delimiter(',')
                               ->type_name("I,J,...");
  text->excludes(ids);
  generate->add_option("--tokens", request->tokens, "To add, at most (default 200)")
      ->check(CLI::NonNegativeNumber)
      ->type_name("K");
  generate
      ->add_option("--temperature", request->sampling.temperature,
                   "Of sampling (default 1); 0: always the most likely token")
      ->check(CLI::Range(0.0, 1e6))
      ->type_name("T");
  generate
      ->add_option("--top-k", request->sampling.top_k,
                   "Sample among the K most likely; 0: among all")
      ->check(CLI::NonNegativeNumber)
      ->type_name("K");
  generate->add_option("--seed", request->sampling.seed, "The same seed, the same text")
      ->type_name("N");
  return generate;
}

}  // namespace

bool IsInferenceCommand(absl::string_view argument) {
  return argument == "eval" || argument == "export" || argument == "generate";
}

void InferenceMain(int argc, char** argv) {
  // Its users called `sdp`.
  CLI::App app("Evaluates, exports and samples from full models.", "sdp");
  app.require_subcommand(1);
  EvaluateRequest evaluate;
  GenerateRequest generate;
  ExportCommand exporting;
  bool json = false;
  const CLI::App* const eval = AddEvaluate(app, &evaluate, &json);
  const CLI::App* const exported = AddExportCommand(app, exporting);
  AddGenerate(app, &generate);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help
    Leave(app.exit(success));
  } catch (const CLI::ParseError& error) {
    std::cerr << "sdp: " << error.what() << "\nHelp: sdp " << argv[1] << " --help" << std::endl;
    Leave(2);
  }
  if (json) evaluate.format = EvaluateRequest::Format::kJson;
  const auto learn_norms = [](StoredModel& model) {
    return LearnStoredNorms(model, /*threads=*/0);
  };
  const absl::Status status = eval->parsed() ? Evaluate(evaluate, std::cout)
                              : exported->parsed()
                                  ? RunExportCommand(exporting, learn_norms, std::cout, std::cerr)
                                  : Generate(generate, std::cout, std::cerr);
  if (!status.ok()) {
    std::cout << std::flush;
    std::cerr << "sdp: " << status.message() << std::endl;
  }
  Leave(ExitStatusOf(status));
}

}  // namespace sdp
