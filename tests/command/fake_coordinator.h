#pragma once

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/coordinator.grpc.pb.h"
#include "proto/shard.grpc.pb.h"

namespace sdp {

// A coordinator and a shard behind one loopback port, which answer GetStatus with what the test
// gives them, and Stop.
class FakeRun {
 public:
  FakeRun() {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&coordinator_);
    builder.RegisterService(&shard_);
    server_ = builder.BuildAndStart();
    EXPECT_NE(server_, nullptr);
    address_ = absl::StrCat("127.0.0.1:", port);
  }

  const std::string& address() const { return address_; }
  proto::RunStatus& run() { return coordinator_.status; }
  proto::ShardStatus& shard() { return shard_.status; }
  // Called with the reason, on a thread of the server's.
  void OnStop(std::function<void(const std::string&)> stop) { coordinator_.stop = std::move(stop); }

 private:
  struct Coordinator : proto::Coordinator::Service {
    grpc::Status GetStatus(grpc::ServerContext*, const proto::GetStatusRequest*,
                           proto::RunStatus* answer) override {
      *answer = status;
      return grpc::Status::OK;
    }
    // The status three times, the last of a run that is over.
    grpc::Status WatchStatus(grpc::ServerContext*, const proto::WatchStatusRequest*,
                             grpc::ServerWriter<proto::RunStatus>* writer) override {
      for (int i = 0; i < 3; ++i) {
        proto::RunStatus next = status;
        next.set_committed(status.committed() + i);
        if (i == 2) next.set_phase("over");
        writer->Write(next);
      }
      return grpc::Status::OK;
    }
    grpc::Status Stop(grpc::ServerContext*, const proto::StopRequest* request,
                      proto::Ack*) override {
      stop(request->reason());
      return grpc::Status::OK;
    }
    proto::RunStatus status;
    std::function<void(const std::string&)> stop;
  };
  struct Shard : proto::Shard::Service {
    grpc::Status GetStatus(grpc::ServerContext*, const proto::GetShardStatusRequest*,
                           proto::ShardStatus* answer) override {
      *answer = status;
      return grpc::Status::OK;
    }
    proto::ShardStatus status;
  };

  Coordinator coordinator_;
  Shard shard_;
  std::unique_ptr<grpc::Server> server_;  // Ends before the services.
  std::string address_;
};

}  // namespace sdp
