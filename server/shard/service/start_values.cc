#include "server/shard/service/start_values.h"

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/data/init_file.h"
#include "common/model/initial_values.h"

namespace sdp {

absl::Status StartValues::ReadFrom(const std::string& path) {
  SDP_ASSIGN_OR_RETURN(file_, SafetensorsReader::Open(path));
  return CheckAgainst(*file_, *catalog_);
}

void StartValues::Fill(FragmentId fragment, absl::Span<float> values) {
  if (file_ == nullptr) return FillInitialValues(*catalog_, *layout_, fragment, seed_, values);
  status_.Update(Context(ReadFragment(*file_, *catalog_, *layout_, fragment, values),
                         absl::StrCat("initial values of fragment ", fragment.value())));
}

}  // namespace sdp
