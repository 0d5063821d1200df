#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "tests/end_to_end/train_fixture.h"

namespace sdp {

// Runs to which something happens while they train.
class DisturbedRun : public TrainFixture {
 protected:
  // A run in the background of a shell script, which ends with its exit status.
  Outcome During(const std::string& script, const std::string& more = "") const {
    return Shell(
        absl::StrCat("bash -c 'set -m; run=", RunDir("run").string(), "; ", Program("sdp"),
                     " train ", Config(), " --set run.dir=$run ", more,
                     // Who is late is ended by Shell: then the run too, which would hold its pipe.
                     " & top=$!; trap \"kill -KILL $top\" TERM; "
                     "lines() { for i in $(seq 600); do [ $(cat $run/metrics.jsonl 2>/dev/null | "
                     "wc -l) -ge $1 ] "
                     "&& break; kill -0 $top 2>/dev/null || break; sleep 0.05; done; }; "
                     // Until as many workers train.
                     "workers() { for i in $(seq 600); do tail -1 $run/metrics.jsonl | grep -q "
                     "\"\\\"workers\\\":$1,\" && break; sleep 0.05; done; }; ",
                     script, " wait $top; echo exit=$?'"));
  }
  static std::string Kill(const std::string& signal, const std::string& member) {
    return absl::StrCat("pkill -", signal, " -P $top -f -- \"--name ", member, "\"; ");
  }
};

}  // namespace sdp
