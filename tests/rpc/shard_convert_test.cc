#include "common/rpc/shard_convert.h"

#include <gtest/gtest.h>

#include <limits>

namespace sdp {
namespace {

ShardBinding Binding() {
  auto holders = std::make_shared<HolderSets>();
  holders->members = {Incarnation(7), Incarnation(3), Incarnation(9)};
  holders->instances = {70, 30, 90};
  holders->sets = {{Incarnation(7), Incarnation(3), Incarnation(9)}, {Incarnation(3)}, {}};
  holders->set_of_unit = {0, 1, 2, 1};
  ShardBinding binding;
  binding.generation = Generation(1);
  binding.view = ViewId(2);
  binding.step = 3;
  binding.plan = 4;
  binding.holders = holders;
  binding.evaluate = true;
  return binding;
}

TEST(ShardConvertTest, BadBindings_Invalid) {
  const proto::BindRequest good = ToProto(Binding());
  EXPECT_TRUE(absl::IsInvalidArgument(FromProto(good, 5).status()));  // another model
  const auto changes = std::vector<void (*)(proto::BindRequest&)>{
      [](proto::BindRequest& r) { r.set_step(-1); },
      [](proto::BindRequest& r) { r.set_plan(-1); },
      [](proto::BindRequest& r) { r.mutable_holders()->mutable_instances()->RemoveLast(); },
      [](proto::BindRequest& r) { r.mutable_holders()->mutable_sets(0)->set_ranks(1, 3); },
      [](proto::BindRequest& r) { r.mutable_holders()->mutable_sets(0)->set_ranks(0, -1); },
      [](proto::BindRequest& r) {
        r.mutable_holders()->mutable_sets(0)->set_ranks(1, 0);
      },  // twice, not ascending
      [](proto::BindRequest& r) { r.mutable_holders()->set_set_of_unit(2, 3); },
      [](proto::BindRequest& r) { r.mutable_holders()->set_set_of_unit(2, -1); },
  };
  for (const auto change : changes) {
    proto::BindRequest bad = good;
    change(bad);
    EXPECT_TRUE(absl::IsInvalidArgument(FromProto(bad, 4).status())) << bad.DebugString();
  }
}

TEST(ShardConvertTest, BadScale_Invalid) {
  for (const double scale : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN(),
                             std::numeric_limits<double>::infinity()}) {
    EXPECT_TRUE(
        absl::IsInvalidArgument(FromProto(ToProto(ClipScale{Generation(1), 2, scale})).status()))
        << scale;
  }
}

TEST(ShardConvertTest, RoundTrip) {
  const ShardBinding binding = Binding();
  const auto back = FromProto(ToProto(binding), 4);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->generation, binding.generation);
  EXPECT_EQ(back->view, binding.view);
  EXPECT_EQ(back->step, 3);
  EXPECT_EQ(back->plan, 4);
  EXPECT_TRUE(back->evaluate);
  EXPECT_FALSE(back->closing);
  EXPECT_FALSE(back->diagnose);
  EXPECT_EQ(back->holders->members, binding.holders->members);
  EXPECT_EQ(back->holders->sets, binding.holders->sets);
  EXPECT_EQ(back->holders->set_of_unit, binding.holders->set_of_unit);

  ShardBinding same_plan = binding;
  same_plan.holders = nullptr;
  same_plan.diagnose = true;
  EXPECT_TRUE(FromProto(ToProto(same_plan), 4)->diagnose);
  EXPECT_EQ(FromProto(ToProto(same_plan), 4)->holders, nullptr);

  const auto scale = FromProto(ToProto(ClipScale{Generation(1), 2, 0.1}));
  EXPECT_EQ(scale->generation, Generation(1));
  EXPECT_EQ(scale->step, 2);
  EXPECT_EQ(scale->scale, 0.1);
}

}  // namespace
}  // namespace sdp
